"""Compares the cost of RoIs in the heads of Faster R-CNN C4 and R-FCN, on the same feature map and RoIs.

    python benchmarks/roi_stage.py

Both predictors get the map of stride 16 of one image and 300 RoIs. C4 runs the backbone's last stage on every RoI;
R-FCN runs it once on the image (``shared``), and its RoIs average (``per RoI``). Arms take turns in one process;
ratios are medians over neighbouring runs, for forward alone and for forward with backward.
"""

import argparse
import json
import statistics
import time

import torch
from published import two_stage
from train_step import ANCHOR_SIZES, hardware

from lightning_det.backbones import torchvision_backbone
from lightning_det.selection import RandomSelector


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet101", choices=["resnet18", "resnet50", "resnet101"])
    parser.add_argument("--size", type=int, nargs=2, default=(608, 1008), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rois", type=int, default=300)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--steps", type=int, default=5, help="measured pairs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = compare(options)
    height, width = options.size
    print(f"{options.backbone}, {options.rois} RoIs, {height} x {width}; {hardware('cpu', options.threads)}\n")
    print("| | Faster R-CNN C4, s | R-FCN, s | of that per RoI, s | C4 / R-FCN |\n|---|---|---|---|---|")
    for name, row in result.items():
        print(f"| {name} | {row['c4']:.3f} | {row['rfcn']:.3f} | {row['per_roi']:.3f} | {row['ratio']:.1f} |")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


def compare(options: argparse.Namespace) -> dict:
    """Measures seconds and ratios, forward and with the gradient."""
    torch.manual_seed(0)
    select = (RandomSelector(), RandomSelector())
    predictors = {
        name: two_stage(name, torchvision_backbone(options.backbone, "c4"), options.classes, ANCHOR_SIZES, *select)
        .to(memory_format=torch.channels_last)
        .roi_head.predictor.train()
        for name in ("c4", "rfcn")
    }
    height, width = options.size
    channels = 256 if options.backbone == "resnet18" else 1024
    features = torch.randn(1, channels, height // 16, width // 16).to(memory_format=torch.channels_last)
    corner = torch.rand(1, options.rois, 2) * torch.tensor([width, height]) * 0.7
    rois = torch.cat([corner, corner + 16 + torch.rand(1, options.rois, 2) * 0.25 * min(height, width)], dim=-1)
    result = {}
    for name, learning in (("forward", False), ("forward and backward", True)):
        rows = []
        for number in range(options.steps + 1):  # the first warms up
            order = ("c4", "rfcn") if number % 2 else ("rfcn", "c4")
            rows.append({arm: run(predictors[arm], features, rois, learning) for arm in order})
        rows = rows[1:]
        result[name] = {
            "c4": statistics.median(r["c4"][0] for r in rows),
            "rfcn": statistics.median(r["rfcn"][0] for r in rows),
            "per_roi": statistics.median(r["rfcn"][1] for r in rows),
            "ratio": statistics.median(r["c4"][0] / r["rfcn"][0] for r in rows),
        }
    return result


def run(predictor: torch.nn.Module, features: torch.Tensor, rois: torch.Tensor, learning: bool) -> tuple[float, float]:
    """Seconds of a predictor on an image, and of the part that runs after `shared`; the latter forward only."""
    features = features.clone().requires_grad_(learning)
    start = time.perf_counter()
    with torch.set_grad_enabled(learning):
        shared = predictor.shared([features])
        middle = time.perf_counter()
        logits, deltas = predictor(shared, rois)
        end = time.perf_counter()
        if learning:
            (logits.square().mean() + deltas.square().mean()).backward()
            predictor.zero_grad()
    return time.perf_counter() - start, end - middle


if __name__ == "__main__":
    main()
