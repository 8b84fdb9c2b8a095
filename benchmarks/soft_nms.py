"""Compares our Soft-NMS of many groups at once with loops over groups and boxes.

    python benchmarks/soft_nms.py
    python benchmarks/soft_nms.py --large 8 --small 2000  # a quick look

Two workloads of random detections, fixed seed: few large groups (80 classes of a crowded image, or of several scales),
and many small ones (a validation set, one group per image and class).

- ``torch loop``: a typical implementation in torch, a Python loop over groups and over boxes within a group: take the
  best box, compute its IoU with the others in one call, lower their scores, remove those below the floor;
- ``numpy loop``: the same in numpy, whose calls cost less;
- ``hard NMS``: torchvision's ``batched_nms``, compiled, for orientation only: it removes boxes;
- ``lightning-det``: `lightning_det.merging.SoftNMS`.

All in one thread. Seconds are processor time, so that other load on the machine counts little: the minimum of
``--repeats`` runs of ours, one run of the others.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from lightning_det.merging.soft_nms import SoftNMS

SIGMA, FLOOR = 0.55, 0.001
LOOPS = ("torch loop", "numpy loop")


def detections(rng: np.random.Generator, counts: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and groups of the given sizes: about four detections around every object of a 640 x 480 image."""
    groups = np.repeat(np.arange(len(counts)), counts)
    objects = [rng.integers(max(1, n // 4), size=n) for n in counts]
    _, number = np.unique(np.concatenate(objects) + counts.max() * groups, return_inverse=True)
    centre = rng.random((number.max() + 1, 2)) * [640, 480]
    side = 8 * np.exp(rng.random((number.max() + 1, 2)) * np.log(25))
    side, centre = side[number], centre[number]
    centre = centre + 0.1 * side * rng.standard_normal(side.shape)
    side = side * np.exp(0.1 * rng.standard_normal(side.shape))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1).astype(np.float32)
    scores = (0.001 + 0.999 * rng.random(len(groups)) ** 3).astype(np.float32)
    order = rng.permutation(len(groups))
    return tuple(torch.from_numpy(array[order]) for array in (boxes, scores, groups))


def members(groups: Tensor) -> list[Tensor]:
    """Row indices of every group."""
    order = torch.argsort(groups, stable=True)
    return list(order.split(torch.unique_consecutive(groups[order], return_counts=True)[1].tolist()))


def torch_loop(boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian Soft-NMS, group by group and box by box."""
    keep, kept = [], []
    for index in members(groups):
        box, score = boxes[index], scores[index]
        area = (box[:, 2:] - box[:, :2]).prod(1)
        while len(index):
            best = score.argmax()
            keep.append(index[best])
            kept.append(score[best])
            corner = torch.maximum(box[:, :2], box[best, :2])
            common = (torch.minimum(box[:, 2:], box[best, 2:]) - corner).clamp(min=0).prod(1)
            iou = common / (area + area[best] - common)
            lowered = score * torch.exp(-(iou**2) / SIGMA)
            left = (lowered >= FLOOR) | (lowered == score)
            left[best] = False
            index, box, score, area = index[left], box[left], lowered[left], area[left]
    return torch.stack(keep), torch.stack(kept)


def numpy_loop(boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The same in numpy, coordinate by coordinate."""
    keep, kept = [], []
    for rows in members(groups):
        index, score = rows.numpy(), scores[rows].numpy()
        x1, y1, x2, y2 = boxes[rows].numpy().T.copy()
        area = (x2 - x1) * (y2 - y1)
        while len(index):
            best = score.argmax()
            keep.append(index[best])
            kept.append(score[best])
            width = np.maximum(np.minimum(x2, x2[best]) - np.maximum(x1, x1[best]), 0)
            common = width * np.maximum(np.minimum(y2, y2[best]) - np.maximum(y1, y1[best]), 0)
            iou = common / (area + area[best] - common)
            lowered = score * np.exp(iou * iou * (-1 / SIGMA))
            left = (lowered >= FLOOR) | (lowered == score)
            left[best] = False
            index, x1, y1, x2, y2 = index[left], x1[left], y1[left], x2[left], y2[left]
            score, area = lowered[left], area[left]
    return torch.from_numpy(np.array(keep)), torch.from_numpy(np.array(kept))


def hard_nms(boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Torchvision's NMS of all groups in one call."""
    keep = torchvision.ops.batched_nms(boxes, scores, groups, 0.5)
    return keep, scores[keep]


ARMS: dict[str, Callable] = {
    "torch loop": torch_loop,
    "numpy loop": numpy_loop,
    "hard NMS": hard_nms,
    "lightning-det": SoftNMS("gaussian", SIGMA, floor=FLOOR),
}


def measure(counts: np.ndarray, repeats: int) -> dict[str, Any]:
    """Measures the seconds of every arm on one workload, and their ratio to ours."""
    data = detections(np.random.default_rng(0), counts)
    seconds, results = {}, {}
    for name, run in ARMS.items():
        took = []
        for _ in range(repeats if name == "lightning-det" else 1):
            start = time.process_time()
            results[name] = run(*data)
            took.append(time.process_time() - start)
        seconds[name] = min(took)
    check(data[1], {name: results[name] for name in (*LOOPS, "lightning-det")})
    return {
        "groups": len(counts),
        "boxes": int(counts.sum()),
        "kept": len(results["lightning-det"][0]),
        "seconds": seconds,
        "ratios": {name: seconds[name] / seconds["lightning-det"] for name in ARMS if name != "lightning-det"},
    }


def check(scores: Tensor, results: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Raises unless all arms found the same scores; a comparison of different results would be meaningless."""
    found = []
    for keep, kept in results.values():
        final = torch.zeros_like(scores)
        final[keep] = kept
        found.append(final)
    for name, other in zip(results, found, strict=True):
        # If two scores differ only by rounding, their order is arbitrary, and so is the result.
        differing = int(((other - found[-1]).abs() > 1e-5).sum())
        if differing > 1e-3 * len(scores):
            raise RuntimeError(f"{name} has other scores than lightning-det for {differing} of {len(scores)} boxes")


def table(result: dict[str, Any]) -> str:
    """Formats the result as Markdown."""
    lines = []
    for name, work in result["workloads"].items():
        lines += [
            f"{name}: {work['groups']:,} groups, {work['boxes']:,} boxes, {work['kept']:,} kept",
            "",
            "| | seconds | / lightning-det |",
            "|---|---:|---:|",
        ]
        lines += [
            f"| {arm} | {seconds:.3f} | {work['ratios'].get(arm, 1):.1f} |" for arm, seconds in work["seconds"].items()
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints a table per workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=80, help="large groups")
    parser.add_argument("--boxes", type=int, default=1000, help="boxes in each of them")
    parser.add_argument("--small", type=int, default=20_000, help="small groups, of 1 to 20 boxes")
    parser.add_argument("--repeats", type=int, default=5, help="runs of ours")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = np.random.default_rng(1).integers(1, 21, options.small)
    result = {
        "workloads": {
            "large": measure(np.full(options.large, options.boxes), options.repeats),
            "small": measure(small, options.repeats),
        },
        "versions": {package: version(package) for package in ("lightning-det", "numpy", "torch", "torchvision")},
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    print(table(result))


if __name__ == "__main__":
    main()
