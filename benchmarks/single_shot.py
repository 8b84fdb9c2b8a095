"""Compares speed and memory of DSOD300, DSOD300 that recomputes dense layers, and SSD300.

    python benchmarks/single_shot.py --memory                                            # CPU, fp32
    python benchmarks/single_shot.py --batch 32 --device cuda --precision bf16

The networks are the published ones for VOC's 20 classes: DS/64-192-48-1 and VGG16, 300 x 300. They take turns in one
process; speeds are medians, ratios are those of neighbouring turns. A training step is forward, backward and an SGD
update. Inference is ``detector(images, sizes)``, NMS included; the weights are random, so that every prior scores
above the threshold and the load of NMS is the highest possible.

Memory of a training step is given twice. *Kept* counts the tensors that autograd holds for the backward pass when the
forward pass ends, each storage once, without parameters (but with their bf16 copies): exact and repeatable. *Peak* is
the growth of memory during a step: on a GPU memory that torch allocated, on the CPU (``--memory``, Linux) resident
memory of a process that takes steps of this network alone, gradients and the optimizer's momentum included.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from datetime import date

import torch
import torchvision
from published import SIDE, dsod300, ssd300
from torch import Tensor, nn
from train_step import hardware, make_batch, measure, resident_peak, steps_of

from lightning_det.protocols.structures import Batch

NETWORKS = {
    "DSOD300": dsod300,
    "DSOD300, checkpointed": lambda classes: dsod300(classes, checkpointed=True),
    "SSD300": ssd300,
}
"""The yardstick first."""


def make_model(name: str, options: argparse.Namespace) -> nn.Module:
    """A network with freshly drawn weights."""
    torch.manual_seed(0)
    return NETWORKS[name](options.classes).to(options.device, memory_format=torch.channels_last)


def views(options: argparse.Namespace) -> Batch:
    """Random images and boxes, the same for every network."""
    return make_batch(options.batch, *options.size, options.boxes, options.device, options.classes)


def training(options: argparse.Namespace, names: Sequence[str]) -> dict:
    """Returns a function per network that takes one training step; `resident_peak` measures it."""
    batch = views(options)
    models = {name: make_model(name, options).train() for name in names}
    return {n: steps_of(m, lambda m=m: m.losses(batch), options.device, options.precision) for n, m in models.items()}


def count_saved_bytes(model: nn.Module, batch: Batch, options: argparse.Namespace) -> int:
    """Counts the bytes that autograd holds for the backward pass."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        total = sum(model.losses(batch).values())
    del total
    return sum(found.values())


def compare(options: argparse.Namespace) -> dict:
    """Runs all networks in turn."""
    batch = views(options)
    models = {name: make_model(name, options) for name in NETWORKS}
    steps = {n: steps_of(m, lambda m=m: m.losses(batch), options.device, options.precision) for n, m in models.items()}

    def infer(model: nn.Module) -> Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"),
        ):
            return model(batch.images, batch.sizes).scores.sum()

    weights = {name: count_saved_bytes(model.train(), batch, options) for name, model in models.items()}
    rows = {name: [] for name in models}
    for number in range(options.warmup + options.steps):
        for name in list(models)[:: 1 if number % 2 else -1]:
            model = models[name].eval()
            seen, _ = measure(lambda model=model: infer(model), options.device)
            model.train()
            trained, peak = measure(steps[name], options.device)
            rows[name].append((trained, seen, peak))
    del steps, models  # free their memory for the next processes
    rows = {name: found[options.warmup :] for name, found in rows.items()}
    figures = {}
    for name, found in rows.items():
        train, inference, peaks = zip(*found, strict=True)
        peak = max(peaks)
        if options.device == "cpu" and options.memory:
            peak = resident_peak(options, name, training)
        figures[name] = {
            "train_images_per_second": options.batch / statistics.median(train),
            "inference_images_per_second": options.batch / statistics.median(inference),
            "train_ratio": statistics.median(a / b[0] for (a, *_), b in zip(found, rows["DSOD300"], strict=True)),
            "kept_gib": weights[name] / 2**30,
            "peak_gib": peak,
        }
    plain, checkpointed = (figures[name] for name in list(NETWORKS)[:2])
    saved = {
        key: 1 - checkpointed[f"{key}_gib"] / plain[f"{key}_gib"] for key in ("kept", "peak") if plain[f"{key}_gib"]
    }
    return {"networks": figures, "saved": saved}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--memory", action="store_true", help="measure peak memory on the CPU too (Linux)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(SIDE, SIDE), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--boxes", type=int, default=8, help="objects per image")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each network")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = compare(options)
    print(
        f"batch {options.batch}, {' x '.join(map(str, options.size))}, {options.classes} classes, {options.precision}; "
        f"{hardware(options.device, options.threads)}; "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}; {date.today()}\n"
    )
    print("| network | training, images / s | its time, DSOD300 = 1 | inference, images / s | kept, GiB | peak, GiB |")
    print("|---|---|---|---|---|---|")
    for name, row in result["networks"].items():
        print(
            f"| {name} | {row['train_images_per_second']:.2f} | {row['train_ratio']:.2f} "
            f"| {row['inference_images_per_second']:.2f} | {row['kept_gib']:.3f} "
            f"| {format(row['peak_gib'], '.2f') if row['peak_gib'] else '-'} |"
        )
    saved = ", ".join(f"{share:.0%} of what is {key}" for key, share in result["saved"].items())
    print(f"\ncheckpointing saves {saved}".replace("what is peak", "the peak"))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
