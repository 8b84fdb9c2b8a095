"""Tries suggested settings on a sample of the dataset: counts the boxes, views and pixels of an epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.inspection import REFERENCE
from lightning_det.data.sampler import plan_epoch
from lightning_det.views import Chips, LargeViews, Planner, Pyramid, SubImages
from lightning_det.views.resolution import Resolution

SAMPLE = (2000, 50_000)
"""Maximum number of images, and of boxes, on which a suggestion is tried."""


def try_out(
    store: AnnotationStore, suggestion: dict[str, Any], resolution: Resolution, seed: int = 0
) -> dict[str, Any]:
    """Estimates, from a sample, the boxes and pixels of an epoch of the suggested views.

    Args:
        store: annotations of at least one image.
        suggestion: result of `suggest` for them.
        resolution: resolution of the single-scale pass to compare with.
        seed: of the sample and of the views.

    Returns:
        ``images`` in the sample, and for ``sniper`` and ``snip`` the results of `_cost` and `_inference`. For SNIPER
        also ``levels``: the scale, its range, the share of the boxes inside it, and its chips per image; and the share
        of the boxes that are in no range.
    """
    store = sample(store, seed, SAMPLE)
    sniper, snip = suggestion["sniper"], suggestion["snip"]
    scales = Pyramid(sniper["scales"], sniper["valid_ranges"], sniper["anchor_ranges"])
    chip = {"size": sniper["size"], "stride": sniper["stride"], "min_side": sniper["min_side"]}
    looks = plan_epoch(store, Planner(scales, Chips(**chip)), seed, rendered=False)
    inside = _inside(store, scales, Chips(**chip, orphans="drop"))
    chips = np.bincount([look.view.level for look in looks], minlength=len(inside)) / len(store)
    levels = zip(sniper["scales"], sniper["valid_ranges"], inside.mean(axis=1).tolist(), chips.tolist(), strict=True)
    keys = ("scale", "valid_range", "boxes_share", "chips_per_image")
    whole = Pyramid(suggestion["pyramid"], snip["valid_ranges"], snip["anchor_ranges"])
    windows = plan_epoch(store, Planner(whole, SubImages(snip["sub_image"])), seed, rendered=False)
    return {
        "images": len(store),
        "sniper": _cost(store, looks, resolution)
        | {"levels": [dict(zip(keys, level, strict=True)) for level in levels]}
        | {"boxes_share_of_none": float((~inside.any(axis=0)).mean())}
        | {"inference": _inference(store, Pyramid(sniper["pyramid"], sniper["test_ranges"]))},
        "snip": _cost(store, windows, resolution)
        | {"inference": _inference(store, Pyramid(suggestion["pyramid"], snip["test_ranges"]))},
    }


def sample(store: AnnotationStore, seed: int, most: tuple[int, int]) -> AnnotationStore:
    """Draws images of a store, at least one.

    Args:
        store: annotations.
        seed: seed of the random choice.
        most: maximum number of images, and of boxes in them.
    """
    images = np.random.default_rng(seed).permutation(len(store))[: most[0]]
    boxes = np.cumsum(np.diff(store.offsets)[images])
    return store.select(np.sort(images[: max(1, int((boxes <= most[1]).sum()))]))


def _inside(store: AnnotationStore, scales: Pyramid, chips: Chips) -> np.ndarray:
    """Finds the boxes that each scale learns from: (V, n) bool; one column of False if there are no boxes."""
    parts = [
        chips.drives(record.boxes[~record.ignored], scales(record, [], None), chips.stride[1])
        for record in store.records()
    ]
    inside = np.concatenate(parts, axis=1)
    return inside if inside.size else np.zeros((len(inside), 1), bool)


def _cost(store: AnnotationStore, looks: Sequence[Look], resolution: Resolution) -> dict[str, float]:
    """Computes views per image, and their pixels without padding, divided by those of single-scale passes."""
    once = plan_epoch(store, Planner(Pyramid([resolution])), None, rendered=False)
    pixels, single = (sum(look.view.size[0] * look.view.size[1] for look in each) for each in (looks, once))
    return {
        "views_per_image": len(looks) / len(store),
        "pixels_vs_resolution": pixels / single,
        "pixels_vs_800x1333": pixels / (REFERENCE * len(store)),
    }


def _inference(store: AnnotationStore, scales: Pyramid) -> dict[str, Any]:
    """Computes views per image at inference, the size of the largest, and the share of the images that need tiles."""
    views = [look.view for look in plan_epoch(store, Planner(scales, LargeViews()), None, rendered=False)]
    whole = [look.view for look in plan_epoch(store, Planner(scales), None, rendered=False)]
    areas = np.array([view.size[0] * view.size[1] for view in whole]).reshape(len(store), -1)
    large = areas.max(axis=1) > 1e6 * LargeViews().megapixels
    return {
        "views_per_image": len(views) / len(store),
        "largest_view": list(max(views, key=lambda view: view.size[0] * view.size[1]).size),
        "images_share_in_tiles": float(large.mean()),
    }
