"""Writes docs/cost.md: what the published recipes cost on GPUs, from operations counted here.

    python benchmarks/cost.py                                       # TINY_COCO_ROOT, or the checkout's photographs
    python benchmarks/cost.py --price 2.5 --utilization 0.06 0.3    # other assumptions

One training step of every recipe runs on the CPU, on two canvases of one view each, and torch counts the operations of
its convolutions and matrix products. The recipe's own planner plans an epoch of a sample of COCO. Operations per view
are taken to be a part that every view has and a part per pixel of its canvas.
"""

import argparse
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
from cost_page import Assumptions, Recipe, page
from torch.utils.flop_counter import FlopCounterMode
from train_step import make_batch

from lightning_det.annotations import AnnotationStore, LabelMap
from lightning_det.api.settings import composed
from lightning_det.config.data import build_planner, usable_split
from lightning_det.config.module import build_module
from lightning_det.data.sampler import plan_epoch
from lightning_det.protocols.structures import STRIDE
from lightning_det.runs.composition import validate_run
from lightning_det.views import Planner

ROOT = Path(__file__).resolve().parents[1]

COCO, VOC = 117_266, 16_551
"""Images with objects: of train2017, and of both trainval splits of VOC 2007 and 2012."""

NEGATIVE_CHIPS = 2
"""SNIPER adds at most so many negative chips per image; they need proposals, which a sample has not."""


class Published(NamedTuple):
    """A recipe to count."""

    name: str
    overrides: tuple[str, ...]
    images: int
    classes: int
    batch: int
    """Views per GPU and step, for the exchange of gradients."""
    extra: int = 0
    """Views of an epoch that the planner does not plan without proposals, per image."""


RECIPES = (
    Published(
        "Faster R-CNN, R50-FPN, 12 epochs",
        (
            "dataset=coco",
            "detector=faster_rcnn_fpn",
            "backbone=resnet50",
            "backbone.weights=IMAGENET1K_V1",
            "backbone.norm=frozen",
            "backbone.frozen_stages=1",
            "strategy=[single_scale,flip]",
            "trainer.max_epochs=12",
        ),
        COCO,
        80,
        16,
    ),
    Published("R-FCN with OHEM, R101", ("experiment=rfcn_r101_coco_ohem",), COCO, 80, 2),
    Published("SNIP, R50-C4", ("experiment=snip_r50_coco",), COCO, 80, 2),
    Published("SNIPER, R101-C4", ("experiment=sniper_r101_coco",), COCO, 80, 16, NEGATIVE_CHIPS),
    Published("SSD300", ("experiment=ssd300_voc0712",), VOC, 20, 32),
    Published("DSOD300, VOC", ("experiment=dsod300_voc0712",), VOC, 20, 32),
    Published("DSOD300, COCO", ("experiment=dsod300_coco",), COCO, 80, 32),
)


def count(module: torch.nn.Module, height: int, width: int, classes: int) -> int:
    """Operations (two per multiplication with addition) of a training step of one view."""
    batch = make_batch(1, height, width, boxes=7, device="cpu", classes=classes)
    with FlopCounterMode(display=False) as counter:
        sum(module.detector.losses(batch).values()).backward()
    module.zero_grad()
    return counter.get_total_flops()


def canvases(store: AnnotationStore, planner: Planner, epochs: int) -> list[tuple[int, int]]:
    """Canvases (height, width) of the views of some epochs, in batches of one view."""
    looks = [look for epoch in range(epochs) for look in plan_epoch(store, planner, 0, epoch, rendered=False)]
    if planner.canvas is not None:
        return [(planner.canvas,) * 2 if isinstance(planner.canvas, int) else planner.canvas] * len(looks)
    sides = [look.view.size for look in looks]
    return [(-(-h // STRIDE) * STRIDE, -(-w // STRIDE) * STRIDE) for h, w in sides]


def measure(published: Published, sample: Path) -> Recipe:
    """Counts and plans one recipe."""
    print(published.name, flush=True)
    with composed("train", [f"dataset.root={sample}", *published.overrides], ".") as cfg:
        cfg = validate_run(cfg)
        epochs = cfg.trainer.max_epochs
        planner = build_planner(cfg, "train")
        module = build_module(cfg, LabelMap([f"class {n}" for n in range(published.classes)]), learning=False).train()
    with composed("train", ["dataset=coco", f"dataset.root={sample}", "dataset.on_bad=skip"], ".") as of_sample:
        store = usable_split(of_sample, "train")
    planned = canvases(store, planner, 2)
    pixels = [h * w for h, w in planned] + [planned[0][0] * planned[0][1]] * (published.extra * 2 * len(store))
    if len(set(pixels)) == 1:
        fixed, per_pixel = count(module, *planned[0], published.classes), 0.0
    else:
        small, large = (count(module, side, side, published.classes) for side in (256, 512))
        per_pixel = (large - small) / (512**2 - 256**2)
        fixed = small - per_pixel * 256**2
    return Recipe(
        published.name,
        images=published.images,
        epochs=epochs,
        views=len(pixels) / (2 * len(store)),
        pixels=sum(pixels) / len(pixels),
        operations=fixed + per_pixel * sum(pixels) / len(pixels),
        parameters=sum(p.numel() for p in module.parameters() if p.requires_grad),
        batch=published.batch,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Counts all recipes, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = os.environ.get("TINY_COCO_ROOT") or ROOT / "tests/data/tiny_coco"
    parser.add_argument("--sample", type=Path, default=default, help="images of COCO whose views are counted")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/cost.md")
    parser.add_argument("--price", type=float, default=Assumptions.price, help="of an hour of a GPU, dollars")
    parser.add_argument("--utilization", type=float, nargs=2, default=Assumptions.utilization)
    options = parser.parse_args(arguments)
    assumptions = Assumptions(price=options.price, utilization=tuple(options.utilization))
    recipes = [measure(published, options.sample) for published in RECIPES]
    images = len(list((options.sample / "train2017").iterdir()))
    origin = f"{date.today()}, torch {torch.__version__}, a sample of {images} images"
    options.page.write_text(page(recipes, assumptions, origin), encoding="utf-8")


if __name__ == "__main__":
    main()
