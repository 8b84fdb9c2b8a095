"""Measures training steps on one GPU, in ten minutes, beside torchvision's.

    python benchmarks/gpu.py                                     # all cases, as far as ten minutes go
    python benchmarks/gpu.py --cases retinanet ssd --minutes 5   # some of them
    python benchmarks/gpu.py --device cpu --cases smoke          # tries the script without a GPU

`tests/test_cuda.py` runs first; nothing is measured if it fails. Then the arms of a case take turns of a step each, on
the same random images and boxes, in bfloat16, with the same fused SGD: torchvision as it is and with `torch.compile`,
ours operator by operator, with ``module.compiled=parts`` and ``=step``. A row of the table is written when its case is
done, so an interrupted run leaves rows; an arm that fails leaves its error. `torch.compile` breaks torchvision's
detectors into many graphs and takes minutes, so only the first case has that arm. The last line is of a loader of
JPEG files: the share of time in which the device waits for data.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from published import dsod300
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from train_step import CLASSES, DENSE, hardware, make_batch, make_detector, make_pair, measure

from lightning_det.api.training import compose
from lightning_det.modules.step import CompiledStep, keep_gradients, step_losses
from lightning_det.protocols.structures import Batch
from lightning_det.selection import RandomSelector

ROOT = Path(__file__).resolve().parents[1]

ARMS = ("torchvision", "torchvision compiled", "eager", "parts", "step")

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
    "fpn64": Case("Faster R-CNN R50-FPN", "fpn", "resnet50", 64, (512, 512)),
    "fpn800": Case("Faster R-CNN R50-FPN", "fpn", "resnet50", 8, (800, 1344)),
    "retinanet": Case("RetinaNet R50-FPN", "retinanet", "resnet50", 16, (512, 512)),
    "chips": Case("Faster R-CNN R101-C4, chips", "c4", "resnet101", 16, (512, 512)),
    "ssd": Case("SSD300", "ssd", "vgg16", 32, (300, 300)),
    "dsod": Case("DSOD300", "dsod", "dsod", 32, (300, 300)),
    "smoke": Case("Faster R-CNN R18-FPN", "fpn", "resnet18", 1, (64, 64)),
}


class Arm(NamedTuple):
    """One way to take training steps."""

    step: Callable[[], torch.Tensor]
    """Takes one and returns its loss."""
    compiled_in: float
    """Seconds that the first step took longer than the second."""


def take_steps(model: nn.Module, losses: Callable[[], dict[str, torch.Tensor]], device: str) -> Callable:
    """Returns a function that takes a training step and returns its loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, fused=True)

    def step() -> torch.Tensor:
        keep_gradients(parameters)
        with torch.autocast(device, torch.bfloat16):
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
    """Makes an arm and takes its first two steps."""
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
        first_step, second_step = (measure(step, device)[0] for _ in range(2))
    return Arm(step, max(0.0, first_step - second_step))


def count_operations(case: Case, batch: Batch, device: str) -> int:
    """Operations of our step: two per multiplication with addition in convolutions and matrix products."""
    model = models(case)[1].to(device).train()
    with FlopCounterMode(display=False) as counter:
        sum(step_losses(model, batch).values()).backward()
    return counter.get_total_flops()


def profile(step: Callable) -> dict[str, int]:
    """Counts what a step asks of the driver, and the kernels that run."""
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile() as profiler:
        step()
    events = list(profiler.events())
    return {
        "launches": sum(event.name in LAUNCHES for event in events),
        "kernels": sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events),
        # The profiler waits once itself, when it ends.
        "waits": max(0, sum(event.name in WAITS for event in events) - 1),
    }


def run_case(case: Case, arms: Sequence[str], device: str, pairs: int) -> dict[str, dict]:
    """Figures of a case by arm; of an arm that fails, its error."""
    batch = make_batch(case.batch, *case.size, boxes=8, device=device)
    operations = count_operations(case, batch, device)
    started: dict[str, Arm] = {}
    found: dict[str, dict] = {}
    for name in case.without_absent(arms):
        try:
            started[name] = start(case, name, batch, device)
        except Exception as error:  # out of memory, or nothing that torch compiles: the other arms go on
            found[name] = {"error": (str(error).splitlines() or [type(error).__name__])[0][:200]}
        if device == "cuda":
            torch.cuda.empty_cache()
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in started}
    for number in range(pairs):
        for name in list(started)[:: 1 if number % 2 else -1]:
            rows[name].append(measure(started[name].step, device))
    peak = next((value for part, value in PEAKS.items() if device == "cuda" and part in hardware(device, 1)), None)
    base = [seconds for seconds, _ in rows.get("torchvision", [])]
    for name, arm in started.items():
        times = [seconds for seconds, _ in rows[name]]
        seconds = statistics.median(times)
        found[name] = {
            "seconds": seconds,
            "images_per_second": case.batch / seconds,
            "megapixels_per_second": case.batch * case.size[0] * case.size[1] / seconds / 1e6,
            "share_of_peak": None if peak is None else operations / seconds / peak,
            "ratio": statistics.median(b / a for a, b in zip(base, times, strict=True)) if base else None,
            "peak_gib": max(memory for _, memory in rows[name]),
            "compiled_in": arm.compiled_in,
            **(profile(arm.step) if device == "cuda" else {}),
        }
    return found


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
            f"{figures['compiled_in']:.0f}",
        ]
        lines.append(f"| {title} | {name} | " + " | ".join(cells) + " |")
    return lines


@contextmanager
def photographs(count: int, size: tuple[int, int]) -> Iterator[Path]:
    """A folder in COCO's layout with smooth random JPEG files of (width, height), eight boxes each."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for split in ("train2017", "val2017", "annotations"):
            (root / split).mkdir()
        images, boxes = [], []
        for number in range(count):
            noise = Image.fromarray(rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8))
            noise.resize(size, Image.Resampling.BICUBIC).save(root / "train2017" / f"{number}.jpg", quality=90)
            images.append({"id": number, "file_name": f"{number}.jpg", "width": size[0], "height": size[1]})
            for x, y, side in zip(
                *rng.uniform(0, 0.8, (2, 8)) * np.array([size]).T, rng.uniform(16, 160, 8), strict=True
            ):
                box = [float(x), float(y), float(min(side, size[0] - x)), float(min(side, size[1] - y))]
                boxes.append({"id": len(boxes), "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0})
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "object"}]}
        for split in ("train2017", "val2017"):
            (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for file in (root / "train2017").iterdir():
            (root / "val2017" / file.name).symlink_to(file)
        yield root


def data_wait(case: Case, device: str, images: int, steps: int) -> dict[str, float]:
    """Trains Faster R-CNN on SNIPER's chips of JPEG files, with the backbone and the batch of a case.

    Returns the share of the time that steps wait for their batch, and the chips per second.
    """
    backbone = case.backbone if case.backbone.startswith("resnet") else "resnet50"
    with photographs(images, (1280, 960)) as root:
        parts = compose(
            [
                *("dataset=coco", f"dataset.root={root}", "detector=faster_rcnn_fpn", f"backbone={backbone}"),
                *("backbone.weights=null", "backbone.norm=batch", "strategy=[sniper_no_negatives,flip]"),
                *(f"data.batch_size={case.batch}", f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}"),
            ]
        )
        detector = parts.module.detector.to(device, memory_format=torch.channels_last).train()
        current: list[Batch] = []
        step = take_steps(detector, lambda: step_losses(detector, current[0]), device)
        waiting, total, done, epoch = 0.0, 0.0, -3, 0  # the first three steps are not counted
        while done < steps:
            batches = iter(parts.datamodule.epoch_loader(epoch))
            epoch += 1
            while done < steps:
                start = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                waited = time.perf_counter() - start
                current[:] = [batch.to(device, non_blocking=True)]
                step()
                if device == "cuda":
                    torch.cuda.synchronize()
                done += 1
                if done > 0:
                    waiting, total = waiting + waited, total + time.perf_counter() - start
    return {"wait_share": waiting / total, "images_per_second": case.batch * steps / total}


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=[name for name in CASES if name != "smoke"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--pairs", type=int, default=10, help="measured steps per arm, in turns")
    parser.add_argument("--minutes", type=float, default=10.0, help="no case begins later")
    parser.add_argument("--images", type=int, default=256, help="JPEG files of the loader's table; 0 leaves it out")
    parser.add_argument("--steps", type=int, default=40, help="of the loader's table")
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks/results/gpu.md")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --cases smoke tries the script without one")
    return options


def main() -> None:
    """Tests, measures and writes the table."""
    options, begin = parse(), time.monotonic()
    if options.device == "cuda":
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", str(ROOT / "tests/test_cuda.py")], check=True)
    place = f"{hardware(options.device, torch.get_num_threads())}; torch {torch.__version__}"
    intro = f"{place}, torchvision {torchvision.__version__}; {date.today()}; `python benchmarks/gpu.py`, bfloat16"
    found: dict[str, dict] = {"cases": {}}

    def say(*lines: str) -> None:
        print(*lines, sep="\n", flush=True)
        with options.table.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    say("# Training steps on a GPU", "", intro, "", *HEADER.split("\n"))
    late = []
    for name in options.cases:
        if time.monotonic() - begin > 60 * options.minutes:
            late.append(name)
            continue
        found["cases"][name] = run_case(CASES[name], options.arms, options.device, options.pairs)
        say(*lines_of(CASES[name], found["cases"][name]))
    if late:
        say("", f"Not measured within {options.minutes:g} minutes: {', '.join(late)} (`--cases` measures them alone).")
    if options.images:
        found["loader"] = data_wait(CASES[options.cases[0]], options.device, options.images, options.steps)
        share, rate = 100 * found["loader"]["wait_share"], found["loader"]["images_per_second"]
        trained = f"Faster R-CNN FPN with the first case's backbone and batch, eager: {rate:.0f} chips / s"
        say("", f"Chips of JPEG files of 1280 x 960. {trained}; {share:.1f} % of the time waits for data.")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
