"""Measures training steps on one GPU, in ten minutes, beside torchvision's.

    python benchmarks/gpu.py                                     # all cases, as far as ten minutes go
    python benchmarks/gpu.py --cases retinanet ssd --minutes 5   # some of them
    python benchmarks/gpu.py --device cpu --cases smoke          # tries the script without a GPU

`tests/test_cuda.py` runs first; nothing is measured if it fails. Then all cases are compiled at the same time, in
processes of their own, and measured one after the other. The arms of a case take turns of a step each, on the same
random images and boxes, in bfloat16, with the same fused SGD: torchvision as it is and with `torch.compile`,
ours operator by operator, with ``module.compiled=parts`` and ``=step``. A row of the table is written when its case is
done, so an interrupted run leaves rows; an arm that fails leaves its error. `torch.compile` breaks torchvision's
detectors into many graphs and takes minutes, so only the first case has that arm. The last lines are of trainings by
the real command on chips of JPEG files: how long the device waits for data.
"""

import argparse
import json
import multiprocessing
import os
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from multiprocessing import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, NamedTuple

import torch
import torchvision
from gpu_training import data_wait
from published import dsod300
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from train_step import CLASSES, DENSE, hardware, make_batch, make_detector, make_pair, measure

from lightning_det.modules.step import CompiledStep, step_losses
from lightning_det.protocols.structures import Batch
from lightning_det.selection import RandomSelector
from lightning_det.system.workload import cores

ROOT = Path(__file__).resolve().parents[1]

ARMS = ("torchvision", "torchvision compiled", "eager", "parts", "step")
COMPILED = ("torchvision compiled", "parts", "step")

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense operations per second in bfloat16 by a part of the device's name (NVIDIA's data sheets)."""

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize")

HEADER = (
    "| case | arm | ms / step | images / s | Mpixel / s | of peak | ratio to torchvision | peak GiB | launches "
    "| kernels | host waits | compiled in s |\n|---|---|" + "---:|" * 10
)


class Case(NamedTuple):
    """A detector and its batch."""

    title: str
    detector: str
    backbone: str
    batch: int
    size: tuple[int, int]
    compiles_torchvision: bool = False

    @property
    def has_torchvision(self) -> bool:
        """Whether torchvision has this detector."""
        return self.detector in ("fpn", "ssd", *DENSE)

    def without_absent(self, arms: Sequence[str]) -> list[str]:
        """Those of some arms that the case has."""
        absent = () if self.compiles_torchvision else ("torchvision compiled",)
        return [name for name in arms if name not in (absent if self.has_torchvision else ARMS[:2])]


CASES = {
    "fpn": Case("Faster R-CNN R50-FPN", "fpn", "resnet50", 16, (512, 512), True),
    "retinanet": Case("RetinaNet R50-FPN", "retinanet", "resnet50", 16, (512, 512)),
    "chips": Case("Faster R-CNN R101-C4, chips", "c4", "resnet101", 16, (512, 512)),
    "ssd": Case("SSD300", "ssd", "vgg16", 32, (300, 300)),
    "dsod": Case("DSOD300", "dsod", "dsod", 32, (300, 300)),
    "fpn800": Case("Faster R-CNN R50-FPN", "fpn", "resnet50", 8, (800, 1344)),
    "fpn64": Case("Faster R-CNN R50-FPN", "fpn", "resnet50", 64, (512, 512)),  # last: the memory of the others is free
    "smoke": Case("Faster R-CNN R18-FPN", "fpn", "resnet18", 1, (64, 64)),
}


class Arm(NamedTuple):
    """One way to take training steps."""

    step: Callable[[], torch.Tensor]
    """Takes one and returns its loss."""
    compiled_in: float
    """Seconds that the first step took longer than the fourth."""


def take_steps(model: nn.Module, losses: Callable[[], dict[str, torch.Tensor]], device: str) -> Callable:
    """Returns a function that takes a training step and returns its loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, fused=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):  # bfloat16 takes minutes on a CPU
            total = sum(losses().values())
        total.backward()
        optimizer.step()
        return total.detach()

    return step


def models(case: Case) -> tuple[nn.Module | None, nn.Module]:
    """Makes torchvision's model, if there is one, and ours, with equal weights."""
    options = argparse.Namespace(
        detector=case.detector, backbone=case.backbone, size=case.size, batch=case.batch, proposals=300
    )
    if case.has_torchvision:
        return make_pair(options)
    if case.detector == "dsod":
        return None, dsod300(CLASSES)
    return None, make_detector(options, RandomSelector(128, 0.25))


def start(case: Case, name: str, batch: Batch, device: str) -> Arm:
    """Makes an arm and takes its first steps."""
    reference, ours = models(case)
    if name.startswith("torchvision"):
        model = reference.to(device).train()
        images = list(batch.images.float() / 255)
        first = 0 if case.detector in DENSE else 1
        targets = [{"boxes": b, "labels": labels + first} for b, labels in zip(batch.boxes, batch.labels, strict=True)]
        call = torch.compile(model) if name.endswith("compiled") else model
        step = take_steps(model, lambda: call(images, targets), device)
    else:
        model = ours.to(device, memory_format=torch.channels_last).train()
        if name == "parts":
            model.compile_parts()
        call = CompiledStep(model) if name == "step" else lambda batch: step_losses(model, batch)
        step = take_steps(model, lambda: call(batch), device)
    with torch._dynamo.config.patch(recompile_limit=64):
        times = [measure(step, device)[0] for _ in range(4)]  # CUDA graphs are recorded in the second and third
    return Arm(step, max(0.0, times[0] - times[-1]))


def count_operations(case: Case, batch: Batch, device: str) -> int:
    """Operations of our step: two per multiplication with addition in convolutions and matrix products."""
    model = models(case)[1].to(device).train()
    with FlopCounterMode(display=False) as counter:
        sum(step_losses(model, batch).values()).backward()
    return counter.get_total_flops()


def profile(step: Callable) -> dict[str, Any]:
    """Counts what a step asks of the driver, and the kernels that run, whose time is in milliseconds."""
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile() as profiler:
        step()
    events = list(profiler.events())
    sums: dict[str, list[float]] = {}
    for event in events:
        if event.device_type == torch.autograd.DeviceType.CUDA:
            total = sums.setdefault(event.name[:120], [0.0, 0])
            total[0], total[1] = total[0] + event.time_range.elapsed_us() / 1e3, total[1] + 1
    longest = sorted(sums.items(), key=lambda item: -item[1][0])[:40]
    return {
        "busy": sum(total for total, _ in sums.values()),
        "longest": [[name, round(total, 3), number] for name, (total, number) in longest],
        "launches": sum(event.name in LAUNCHES for event in events),
        "kernels": sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events),
        # The profiler waits once itself, when it ends.
        "waits": max(0, sum(event.name in WAITS for event in events) - 1),
    }


def start_arms(case: Case, arms: Sequence[str], batch: Batch, device: str) -> tuple[dict[str, Arm], dict[str, dict]]:
    """Starts some arms of a case; returns them, and the errors of those that failed."""
    started: dict[str, Arm] = {}
    failed: dict[str, dict] = {}
    for name in arms:
        try:
            started[name] = start(case, name, batch, device)
        except Exception as error:  # out of memory, or nothing that torch compiles: the other arms go on
            failed[name] = {"error": (str(error).splitlines() or [type(error).__name__])[0][:200]}
        if device == "cuda":
            torch.cuda.empty_cache()
    return started, failed


def measure_arms(case: Case, arms: dict[str, Arm], batch: Batch, device: str, pairs: int) -> dict[str, dict]:
    """Figures of the arms of a case, which take turns."""
    operations = count_operations(case, batch, device)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for number in range(pairs):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            rows[name].append(measure(arms[name].step, device))
    peak = next((value for part, value in PEAKS.items() if device == "cuda" and part in hardware(device, 1)), None)
    base = [seconds for seconds, _ in rows.get("torchvision", [])]
    found = {}
    for name, arm in arms.items():
        times = [seconds for seconds, _ in rows[name]]
        seconds = statistics.median(times)
        found[name] = {
            "seconds": seconds,
            "images_per_second": case.batch / seconds,
            "megapixels_per_second": case.batch * case.size[0] * case.size[1] / seconds / 1e6,
            "share_of_peak": None if peak is None else operations / seconds / peak,
            "ratio": statistics.median(b / a for a, b in zip(base, times, strict=True)) if base else None,
            # CUDA graphs keep their memory between steps.
            "peak_gib": None if name == "step" else max(memory for _, memory in rows[name]),
            "compiled_in": arm.compiled_in,
            **(profile(arm.step) if device == "cuda" else {}),
        }
    return found


class Turns(NamedTuple):
    """When the processes of the cases may measure."""

    all_compiled: Barrier
    """Compilers slow down whoever measures beside them."""
    mine: Event
    """The case before this one is done."""
    next: Event


def run_case(
    name: str, arms: Sequence[str], device: str, pairs: int, turns: Turns, results: "Queue[tuple[str, dict]]"
) -> None:
    """Puts the name and the figures of a case by arm into ``results``; of an arm that fails, its error."""
    case = CASES[name]
    present = case.without_absent(arms)
    try:
        batch = make_batch(case.batch, *case.size, boxes=8, device=device)
        started, failed = start_arms(case, [n for n in present if n in COMPILED], batch, device)
        with suppress(BrokenBarrierError):  # a case has failed
            turns.all_compiled.wait()
        turns.mine.wait()
        others, broken = start_arms(case, [n for n in present if n not in COMPILED], batch, device)
        figures = failed | broken | measure_arms(case, others | started, batch, device, pairs)
        results.put((name, {n: figures[n] for n in arms if n in figures}))
    finally:
        turns.next.set()


def lines_of(case: Case, found: dict[str, dict]) -> list[str]:
    """Rows of the table."""
    title = f"{case.title}, {case.batch} x {case.size[0]} x {case.size[1]}"
    lines = []
    for name, figures in found.items():
        if "error" in figures:
            lines.append(f"| {title} | {name} | {figures['error'].replace('|', '/')} |" + " |" * 9)
            continue
        share, ratio = figures["share_of_peak"], figures["ratio"]
        cells = [
            f"{1e3 * figures['seconds']:.1f}",
            f"{figures['images_per_second']:.1f}",
            f"{figures['megapixels_per_second']:.1f}",
            "-" if share is None else f"{100 * share:.1f} %",
            "-" if ratio is None else f"{ratio:.2f}",
            f"{figures['peak_gib']:.1f}" if figures["peak_gib"] else "-",
            *(str(figures.get(key, "-")) for key in ("launches", "kernels", "waits")),
            f"{figures['compiled_in']:.0f}" if name in COMPILED else "-",
        ]
        lines.append(f"| {title} | {name} | " + " | ".join(cells) + " |")
    return lines


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=[name for name in CASES if name != "smoke"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--pairs", type=int, default=10, help="measured steps per arm, in turns")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all cases")
    parser.add_argument("--images", type=int, default=256, help="JPEG files of the trainings; 0 leaves them out")
    parser.add_argument("--steps", type=int, default=100, help="of the trainings")
    parser.add_argument("--untested", action="store_true", help="leave the tests out")
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks/results/gpu.md")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --cases smoke tries the script without one")
    return options


def all_cases(options: argparse.Namespace, end: float) -> Iterator[tuple[str, dict[str, dict]]]:
    """Runs each case in a process of its own, until a time; yields the names and figures of those that are done."""
    context = multiprocessing.get_context("spawn")
    compilers = max(1, cores() // len(options.cases))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(compilers))
    all_compiled, results = context.Barrier(len(options.cases)), context.Queue()
    events = [context.Event() for _ in range(len(options.cases) + 1)]
    events[0].set()
    cases = []
    for name, *mine in zip(options.cases, events, events[1:], strict=False):
        given = (name, options.arms, options.device, options.pairs, Turns(all_compiled, *mine), results)
        cases.append(context.Process(target=run_case, args=given, daemon=True))
        cases[-1].start()
    alive = True
    while alive and time.monotonic() < end:
        alive = any(case.is_alive() for case in cases)
        with suppress(queue.Empty):
            while True:
                yield results.get(timeout=1.0)
        for case, after in zip(cases, events[1:], strict=True):
            if case.exitcode:  # whoever waits for it would wait for ever
                all_compiled.abort()
                after.set()
    for case in cases:
        case.terminate()


def main() -> None:
    """Tests, measures and writes the table."""
    options, begin = parse(), time.monotonic()
    if options.device == "cuda" and not options.untested:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", str(ROOT / "tests/test_cuda.py")], check=True)
    place = f"{hardware(options.device, torch.get_num_threads())}; torch {torch.__version__}"
    intro = f"{place}, torchvision {torchvision.__version__}; {date.today()}; `python benchmarks/gpu.py`, bfloat16"
    found: dict[str, dict] = {"cases": {}}

    def say(*lines: str) -> None:
        print(*lines, sep="\n", flush=True)
        with options.table.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    say("# Training steps on a GPU", "", intro, "", *HEADER.split("\n"))
    for name, figures in all_cases(options, begin + 60 * options.minutes):
        found["cases"][name] = figures
        say(*lines_of(CASES[name], figures))
    late = [name for name in options.cases if name not in found["cases"]]
    if late:
        say("", f"Failed, or not measured in time: {', '.join(late)} (`--cases` measures them alone).")
    if options.images:
        say(
            "",
            "Trainings of Faster R-CNN FPN with the first case's backbone and batch, on chips of JPEG files:",
        )
        say("", "| module.compiled | chips / s | of the time waits for data |", "|---|---:|---:|")
    for compiled in ("null", "step") if options.images else ():
        case = CASES[options.cases[0]]
        backbone = case.backbone if case.backbone.startswith("resnet") else "resnet50"
        trained = data_wait(backbone, case.batch, compiled, options.device, options.images, options.steps)
        found.setdefault("trainings", {})[compiled] = trained
        share, rate = trained["wait_share"], trained["images_per_second"]
        say(f"| {compiled} | {rate:.0f} | {100 * share:.1f} % |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
