"""Compares two training steps with the same backbone, weights, images, boxes and settings.

``--compare torchvision`` (the default) is our Faster R-CNN FPN beside torchvision's, or another detector that
torchvision has too (``--detector retinanet``, ``fcos`` or ``ssd``); ``--compare ohem`` is one of our detectors with
OHEM beside itself with random sampling. Both arms take turns of a step each in one process, so that other load on the
machine affects both alike. The result is the median ratio of neighbouring steps.

    python benchmarks/train_step.py                                              # CPU, fp32
    python benchmarks/train_step.py --batch 16 --size 512 512 --device cuda --precision bf16
    python benchmarks/train_step.py --batch 16 --size 512 512 --device cuda --precision bf16 --compile step
    python benchmarks/train_step.py --detector retinanet
    python benchmarks/train_step.py --detector ssd
    python benchmarks/train_step.py --detector ssd --batch 32 --device cuda --precision bf16
    python benchmarks/train_step.py --compare ohem --detector rfcn --size 608 1008 --batch 1

A step is forward, backward and an SGD update, from uint8 images on the device. torchvision gets float images of the
same pixels (its API takes no others), made outside the measured time. SSD's losses are equal on equal weights, unless
more than a fourth of an image's priors are positive: torchvision counts some of those twice. Memory is the growth
during the step up to its peak: on a GPU memory that torch allocated, on the CPU resident memory of a process that
takes steps of this arm alone.
"""

import argparse
import gc
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date

import torch
import torchvision
from published import SIDE, dense, ssd300, two_stage
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn, ssd300_vgg16
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.rpn import AnchorGenerator

from lightning_det.backbones import torchvision_backbone
from lightning_det.detectors.torchvision_weights import load_torchvision, load_torchvision_ssd
from lightning_det.modules.step import CompiledStep
from lightning_det.protocols.structures import Batch, State
from lightning_det.selection import HardSelector, RandomSelector

CLASSES = 80
ANCHOR_SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
DENSE = {"retinanet": retinanet_resnet50_fpn, "fcos": fcos_resnet50_fpn}
NO_WEIGHTS = {"weights": None, "weights_backbone": None, "trainable_backbone_layers": 5}


def make_batch(count: int, height: int, width: int, boxes: int, device: str, classes: int = CLASSES) -> Batch:
    """Random views with ``boxes`` objects each."""
    rng = torch.Generator().manual_seed(0)
    extent = torch.tensor([width, height])
    corner = torch.rand(count, boxes, 2, generator=rng) * extent * 0.7
    side = 16 + torch.rand(count, boxes, 2, generator=rng) * (extent * 0.3 - 16)
    return Batch(
        images=torch.randint(0, 256, (count, 3, height, width), generator=rng, dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * count),
        boxes=torch.cat([corner, corner + side], dim=-1),
        labels=torch.randint(0, classes, (count, boxes), generator=rng),
        states=torch.full((count, boxes), State.VALID),
        windows=torch.tensor([[0.0, 0.0, width, height]] * count),
        ranges=torch.tensor([[0.0, float("inf")]] * count),
        flips=torch.zeros(count, dtype=torch.bool),
        index=torch.arange(count),
    ).to(device)


def make_torchvision(backbone: str, height: int, width: int) -> torch.nn.Module:
    """Faster R-CNN FPN of torchvision with trainable BatchNorm; its own resizing leaves these images unchanged."""
    body = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    anchors = AnchorGenerator(tuple((s,) for s in ANCHOR_SIZES), (RATIOS,) * len(ANCHOR_SIZES))
    return torchvision.models.detection.FasterRCNN(
        body,
        num_classes=CLASSES + 1,
        min_size=min(height, width),
        max_size=max(height, width),
        rpn_anchor_generator=anchors,
    )


def make_detector(options: argparse.Namespace, select) -> torch.nn.Module:
    """One of our detectors with freshly drawn weights, the same for every selector."""
    torch.manual_seed(0)
    numbers = {"before_nms": (6000, 6000), "after_nms": (options.proposals,) * 2}
    backbone = torchvision_backbone(options.backbone, "pyramid" if options.detector == "fpn" else "c4")
    return two_stage(options.detector, backbone, CLASSES, ANCHOR_SIZES, RandomSelector(256, 0.5), select, **numbers)


def make_pair(options: argparse.Namespace) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Makes the reference, and our detector with its weights."""
    torch.manual_seed(0)
    if options.detector == "ssd":
        reference, ours = ssd300_vgg16(num_classes=CLASSES + 1, **NO_WEIGHTS), ssd300(CLASSES)
        load_torchvision_ssd(ours, reference.state_dict(), CLASSES, ours.priors.per_cell[0])
        return reference, ours
    backbone = torchvision_backbone(options.backbone, "pyramid", norm="batch")
    if options.detector in DENSE:
        sides = {"min_size": min(options.size), "max_size": max(options.size)}
        reference = DENSE[options.detector](num_classes=CLASSES, **NO_WEIGHTS, **sides)
        ours = dense(options.detector, backbone, CLASSES, ANCHOR_SIZES)
        ours.load_torchvision(reference.state_dict(), [f"class {number}" for number in range(CLASSES)])
        return reference, ours
    reference = make_torchvision(options.backbone, *options.size)
    selectors = RandomSelector(256, 0.5), RandomSelector(512, 0.25)
    ours = two_stage("fpn", backbone, CLASSES, ANCHOR_SIZES, *selectors)
    load_torchvision(ours, reference.state_dict(), CLASSES)
    return reference, ours


class Count(TorchDispatchMode):
    """Counts dispatched operators, and those that wait for the device."""

    def __init__(self):
        super().__init__()
        self.all = 0
        self.waiting = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Counts and runs an operator."""
        self.all += 1
        self.waiting += any(s in str(func) for s in ("nonzero", "_local_scalar_dense", "index.Tensor_mask"))
        return func(*args, **(kwargs or {}))


NAMES = {"torchvision": ("torchvision", "lightning-det"), "ohem": ("random sampling", "OHEM")}
"""The arms of each comparison, the reference first."""


DETECTORS = {"torchvision": ("fpn", *DENSE, "ssd"), "ohem": ("c4", "fpn", "rfcn")}
"""With what each can be done, the default first."""


def steps_of(model: torch.nn.Module, losses: Callable[[], dict], device: str, precision: str) -> Callable:
    """Returns a function that takes a training step and returns its loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def run() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            total = sum(losses().values())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return run


def arms(options: argparse.Namespace, names: Sequence[str]) -> dict:
    """Returns a function per arm that takes one step and returns its loss."""
    batch = make_batch(options.batch, *options.size, options.boxes, options.device)
    how = options.device, options.precision

    def ours(model):
        model = model.to(options.device, memory_format=torch.channels_last).train()
        if options.compile == "parts":
            model.compile_parts()
            torch._dynamo.config.cache_size_limit = 64
        losses = CompiledStep(model) if options.compile == "step" else model.losses
        return steps_of(model, lambda: losses(batch), *how)

    if options.compare == "ohem":
        select = {"random sampling": RandomSelector(options.rois, 0.25), "OHEM": HardSelector(options.rois)}
        return {name: ours(make_detector(options, select[name])) for name in names}
    reference, model = make_pair(options)
    made = {}
    if "lightning-det" in names:
        made["lightning-det"] = ours(model)
    if "torchvision" in names:
        images = list(batch.images.float() / 255)
        first = 0 if options.detector in DENSE else 1
        targets = [{"boxes": b, "labels": labels + first} for b, labels in zip(batch.boxes, batch.labels, strict=True)]
        reference = reference.to(options.device).train()
        made["torchvision"] = steps_of(reference, lambda: reference(images, targets), *how)
    return {name: made[name] for name in names}


def measure(run, device: str) -> tuple[float, float]:
    """Seconds of one step, and its growth of memory up to the peak in GiB (0 without a GPU)."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    loss = run()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if not torch.isfinite(loss):
        raise RuntimeError("the loss is not finite: the measurement of this step would be meaningless")
    return seconds, (torch.cuda.max_memory_allocated() - before) / 2**30 if device == "cuda" else 0.0


def resident_peak(options: argparse.Namespace, name: str, arms: Callable = arms) -> float:
    """Peak resident memory in GiB of two steps of an arm, above that of its model; in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_resident_peak, options, name, arms).result()


def _resident_peak(options: argparse.Namespace, name: str, arms: Callable) -> float:
    torch.set_num_threads(options.threads)
    run = arms(options, [name])[name]
    gc.collect()
    before = _resident("VmRSS")
    for _ in range(2):
        run()
    return (_resident("VmHWM") - before) / 2**20


def _resident(field: str) -> int:
    """A field of ``/proc/self/status`` in KiB; getrusage's peak would include that of the parent process."""
    with open("/proc/self/status") as file:
        return int(next(line.split()[1] for line in file if line.startswith(field)))


def compare(options: argparse.Namespace) -> dict:
    """Runs both arms in turn."""
    names = NAMES[options.compare]
    steps = arms(options, names)
    counts = {}
    for name, run in steps.items():
        for _ in range(options.warmup):
            run()
        if options.compile:
            continue  # operators inside compiled graphs do not pass the dispatcher
        with Count() as counted:
            run()
        counts[name] = {"operators": counted.all, "waiting": counted.waiting}
    found = {name: [] for name in steps}
    for number in range(options.steps):
        order = list(steps) if number % 2 else list(steps)[::-1]
        for name in order:
            found[name].append(measure(steps[name], options.device))
    seconds = {name: [s for s, _ in rows] for name, rows in found.items()}
    ratios = [b / a for a, b in zip(*(seconds[name] for name in names), strict=True)]
    peaks = {name: max(m for _, m in rows) for name, rows in found.items()}
    if options.device == "cpu" and options.memory:
        del steps  # free their memory for the next processes
        peaks = {name: resident_peak(options, name) for name in names}
    return {
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2,
        "arms": {
            name: {
                "seconds": statistics.median(seconds[name]),
                "images_per_second": options.batch / statistics.median(seconds[name]),
                "peak_gib": peaks[name],
                **counts.get(name, {}),
            }
            for name in names
        },
    }


def hardware(device: str, threads: int) -> str:
    """Describes the hardware that the figures were measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {threads} threads"


def parse() -> argparse.Namespace:
    """Parses the command line, and fills in defaults that depend on other options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compare", default="torchvision", choices=list(NAMES))
    parser.add_argument(
        "--detector",
        choices=list(dict.fromkeys(name for names in DETECTORS.values() for name in names)),
        help="default: fpn, with --compare ohem c4",
    )
    parser.add_argument("--rois", type=int, default=128, help="per image that carry loss, of --compare ohem")
    parser.add_argument("--proposals", type=int, default=300, help="per image, of --compare ohem")
    parser.add_argument("--memory", action="store_true", help="measure memory on the CPU too (Linux)")
    parser.add_argument("--backbone", default="resnet50", choices=["resnet18", "resnet34", "resnet50", "resnet101"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: 320 320; SSD has 300 300"
    )
    parser.add_argument("--boxes", type=int, default=8, help="objects per image")
    parser.add_argument("--steps", type=int, default=15, help="measured pairs of steps")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument(
        "--compile", choices=["parts", "step"], help="compile our backbone, neck and heads, or our step"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    options.detector = options.detector or DETECTORS[options.compare][0]
    if options.detector not in DETECTORS[options.compare]:
        parser.error(f"--compare {options.compare} is with one of {', '.join(DETECTORS[options.compare])}")
    is_ssd = options.detector == "ssd"
    options.size = options.size or [SIDE if is_ssd else 320] * 2
    if is_ssd and list(options.size) != [SIDE] * 2:
        parser.error(f"torchvision's SSD resizes everything to {SIDE} x {SIDE}: no other size compares")
    if options.detector in DENSE and options.backbone != "resnet50":
        parser.error(f"torchvision's {options.detector} has a resnet50: no other backbone compares")
    return options


def main() -> None:
    """Measures and prints a table."""
    options = parse()
    torch.set_num_threads(options.threads)
    result = compare(options)
    print(
        f"{'vgg16' if options.detector == 'ssd' else options.backbone} {options.detector}, batch {options.batch}, "
        f"{' x '.join(map(str, options.size))}, {options.precision}"
        f"{f', {options.compile} compiled' if options.compile else ''}; "
        f"{hardware(options.device, options.threads)}; "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}; {date.today()}\n"
    )
    print("| arm | s / step | images / s | peak GiB | operators | that wait for the data |\n|---|---|---|---|---|---|")
    for name, arm in result["arms"].items():
        memory = f"{arm['peak_gib']:.2f}" if arm["peak_gib"] else "-"
        print(
            f"| {name} | {arm['seconds']:.3f} | {arm['images_per_second']:.2f} | {memory} "
            f"| {arm.get('operators', '-')} | {arm.get('waiting', '-')} |"
        )
    low, high = result["ratio_quartiles"]
    yardstick, arm = NAMES[options.compare]
    quartiles = f"quartiles {low:.3f}-{high:.3f}, {options.steps} pairs"
    print(f"\n{arm} / {yardstick}: {result['ratio']:.3f} ({quartiles})")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
