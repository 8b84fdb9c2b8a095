"""Suggests scales, ranges and chips for a dataset, from the sizes of its images and objects.

The published numbers of SNIP and SNIPER fit COCO: images of 640 x 480 and objects from 10 to 500 pixels. A few rules
reproduce them and are applied here to other images. Sizes of objects are sqrt(width * height) in original pixels.
"""

import json
from collections.abc import Sequence
from math import ceil, floor, log, log10
from typing import Any

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.inspection import REFERENCE
from lightning_det.data.sampler import plan_epoch
from lightning_det.views import Chips, LargeViews, Planner, Pyramid, SubImages
from lightning_det.views.resolution import Resolution

CHIP = (96, 512)
"""Minimum and maximum side of a chip, pixels."""

CHIP_PER_IMAGE = 0.8
"""Side of a chip divided by the median long side of the images."""

SMALL = 10
"""Percentile of the sizes that counts as a small object."""

SMALL_PER_CHIP = 1 / 14
"""Size of a small object at the finest scale, divided by the side of a chip."""

ENLARGED = 4.0
"""Maximum factor: larger ones only blur."""

NEIGHBOURS = (1.5, 2.3)
"""Minimum and maximum ratio of neighbouring scales."""

LARGE_PER_CHIP = 0.47
"""Upper end of a scale's range, pixels of a chip, divided by its side: objects of up to 4:1 have room around them."""

OVERLAP = (0.4, 0.8)
"""Lower end of a range divided by the upper end of the finer one: at the finest scales, and at the coarsest."""

FEW = 0.005
"""A scale for a smaller share of the boxes is left out."""

TEST_WIDER = (0.75, 1.15)
"""Ends of the ranges of inference divided by those of training: sizes of detections are inexact."""

SNIP_COARSEST = 1.25
"""SNIP's coarsest resolution divided by SNIPER's, which has to fit into a chip."""

MIXED = (5, 95, 1.4)
"""Two percentiles of the images' long sides, and the ratio of the two from which images count as of mixed size (COCO's
images, 500 and 640, do not). With mixed sizes, a resolution in pixels would show objects of the same size sometimes
large and sometimes small, unlike the chips of training."""

SINGLE_SMALL = 21
"""Size of a small object at the resolution of single-scale training, pixels."""

SINGLE_LARGEST = 2.8e6
"""Maximum pixels of a large image (see `MIXED`) at that resolution, at which training sees it whole: COCO's finest."""

WINDOW = 1000
"""Maximum side of SNIP's windows at the finest resolution, pixels."""

SAMPLE = (2000, 50_000)
"""Maximum number of images, and of boxes, on which a suggestion is tried."""


def suggest(sizes: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> dict[str, Any] | None:
    """Suggests ``dataset.resolution``, ``dataset.pyramid``, ``dataset.snip`` and ``dataset.sniper``.

    Args:
        sizes: (n,) float, sizes of the boxes.
        widths: (m,) of the images, pixels.
        heights: (m,) of the images, pixels.

    Returns:
        The nodes as plain data, with the keys of ``conf/dataset/coco.yaml``; None if there are no boxes. For images of
        mixed size, resolutions of pyramids are factors too: objects are detected at the factor of their chips.
    """
    if not len(sizes):
        return None
    long = float(np.median(np.maximum(widths, heights)))
    short = float(np.median(np.minimum(widths, heights)))
    size = int(np.clip(32 * round(CHIP_PER_IMAGE * long / 32), *CHIP))
    factors = scale_factors(sizes, size, long)
    ranges = valid_ranges([LARGE_PER_CHIP * size / factor for factor in factors[:-1]])
    anchors = [[0, high] for _, high in ranges[:-1]] + ranges[-1:]
    test = [
        [round_pleasantly(low * TEST_WIDER[0]), -1 if high == -1 else round_pleasantly(high * TEST_WIDER[1])]
        for low, high in ranges
    ]
    smallest, largest = np.percentile(np.maximum(widths, heights), MIXED[:2])
    mixed = largest >= MIXED[2] * smallest
    wanted = SINGLE_SMALL / max(1e-3, float(np.percentile(sizes, SMALL)))
    area = np.percentile(np.asarray(widths, float) * heights, MIXED[1])
    single = min(ENLARGED, wanted, float(np.sqrt(SINGLE_LARGEST / area)))
    fine = list(factors[:-1]) if mixed else [_resolution(factor, short, long) for factor in factors[:-1]]
    coarsest = _resolution(SNIP_COARSEST * factors[-1], short, long)
    pyramid = [*fine, coarsest]
    # A single resolution shows objects of all sizes; windows would cut the large ones.
    window = max(size, min(WINDOW, 32 * round(factors[0] * long / 64))) if fine else coarsest[1]
    return {
        "resolution": _two_digits(single) if mixed else _resolution(single, short, long),
        "pyramid": pyramid,
        "snip": {"valid_ranges": ranges, "anchor_ranges": anchors, "test_ranges": test, "sub_image": window},
        "sniper": {
            "size": size,
            "scales": [*factors[:-1], [-1, size]],
            "valid_ranges": ranges,
            "anchor_ranges": anchors,
            "stride": size // 16,
            "min_side": float(max(4, round(size / 50))),
            "pyramid": [*fine, [-1, size] if mixed else [min(coarsest[0], size), size]],
            "test_ranges": test,
        },
    }


def scale_factors(sizes: np.ndarray, size: int, long: float) -> list[float]:
    """Computes the scale factors of an image of median size, finest first.

    The coarsest factor shows the whole image in one chip; the finest makes small objects large enough. The factors in
    between are a geometric progression, which ends early if hardly any box is left for the next scale.

    Args:
        sizes: (n,) float, sizes of the boxes.
        size: side of a chip.
        long: long side of the image.
    """
    coarsest = size / long
    finest = min(ENLARGED, SMALL_PER_CHIP * size / float(np.percentile(sizes, SMALL)))
    if finest < NEIGHBOURS[0] * coarsest:
        return [coarsest]
    steps = ceil(log(finest / coarsest) / log(NEIGHBOURS[1]))
    factors = [finest]
    for step in range(1, steps):
        if (sizes >= LARGE_PER_CHIP * size / factors[-1]).mean() < FEW:
            break
        factors.append(finest * (coarsest / finest) ** (step / steps))
    return [*map(_two_digits, factors), coarsest]


def valid_ranges(uppers: Sequence[float]) -> list[list[int]]:
    """Makes overlapping ranges that together contain all sizes; the bound -1 is infinite.

    Args:
        uppers: ascending upper ends of all ranges except the last.
    """
    ends = [round_pleasantly(upper) for upper in uppers]
    shares = np.linspace(*OVERLAP, len(ends)) if len(ends) > 1 else [np.mean(OVERLAP)]
    lows = [round_pleasantly(share * end) for share, end in zip(shares, ends, strict=False)]
    return [list(pair) for pair in zip([0, *lows], [*ends, -1], strict=True)]


def round_pleasantly(value: float) -> int:
    """Rounds to two digits followed by zeros; from 50 (500, ...) on, the second digit is 0 or 5."""
    if value < 1:
        return round(value)
    unit = 10 ** (floor(log10(value)) - 1)
    step = max(1, unit * (5 if value >= 50 * unit else 1))
    return int(step * round(value / step))


def _two_digits(factor: float) -> float:
    return round(factor, 1 - floor(log10(factor)))


def _resolution(factor: float, short: float, long: float) -> list[int]:
    """Returns (short side, cap of the long side); the cap has room for images a little longer than the median."""
    return [max(1, round_pleasantly(factor * short)), max(1, round_pleasantly(1.1 * factor * long))]


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
    looks = plan_epoch(store, Planner(scales, Chips(sniper["size"], sniper["stride"])), seed, rendered=False)
    inside = _inside(store, scales, Chips(sniper["size"], sniper["stride"], orphans="drop"))
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


def as_yaml(suggestion: dict[str, Any]) -> str:
    """Formats a suggestion as lines of a dataset's yaml."""
    lines = []
    for key, node in suggestion.items():
        if isinstance(node, dict):
            lines += [f"{key}:", *(f"  {name}: {json.dumps(value)}" for name, value in node.items())]
        else:
            lines.append(f"{key}: {json.dumps(node)}")
    return "\n".join(lines)
