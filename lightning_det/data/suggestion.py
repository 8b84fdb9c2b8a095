"""Suggests scales, ranges and chips for a dataset, from the sizes of its images and objects.

The published numbers of SNIP and SNIPER fit COCO: images of 640 x 480 and objects from 10 to 500 pixels. A few rules
reproduce them and are applied here to other images. Sizes of objects are sqrt(width * height) in original pixels.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, inf, log, log10
from typing import Any

import numpy as np

from lightning_det.data.suggested_parts import round_pleasantly, suggest_focus, suggest_tiles

SEEN = (2.25, 24.0, 36.0)
"""Size from which an object is seen well: cells of the finest feature map, and the limits of the result in pixels of
the view. SNIPER's finest scale shows a small object of COCO on 2.25 cells of stride 16. With the small backbone, cars
of 22 pixels shown at 20 pixels were found better than at 18: AP50 0.77 and 0.65 after 200 steps."""

CHIP = (96, 14)
"""Minimum side of a chip in pixels, and maximum side in sizes of an object that is seen well: COCO's 512."""

CHIP_PER_IMAGE = 0.8
"""Side of a chip divided by the median long side of the images."""

SMALL = 10
"""Percentile of the sizes that counts as a small object."""

ENLARGED = 4.0
"""Maximum factor: larger ones only blur."""

NEIGHBOURS = (1.5, 2.3)
"""Minimum and maximum ratio of neighbouring scales."""

LARGE_PER_CHIP = 0.47
"""Upper end of a scale's range, pixels of a chip, divided by its side: objects of up to 4:1 have room around them."""

OVERLAP = (0.4, 0.8)
"""Lower end of a range divided by the upper end of the finer one: at the finest scales, and at the coarsest."""

FEW = 0.02
"""A scale for a smaller share of the boxes is left out; of SNIPER's chips also the coarsest."""

TAUGHT = 10
"""Boxes of a class from which a detector may learn it: a class of large objects then keeps the coarsest scale."""

TEST_WIDER = (0.75, 1.15)
"""Ends of the ranges of inference divided by those of training: sizes of detections are inexact."""

SNIP_COARSEST = 1.25
"""SNIP's coarsest resolution divided by SNIPER's, which has to fit into a chip."""

MIXED = (5, 95, 1.4)
"""Two percentiles of the images' long sides, and the ratio of the two from which images count as of mixed size (COCO's
images, 500 and 640, do not). With mixed sizes, a resolution in pixels would show objects of the same size sometimes
large and sometimes small, unlike the chips of training."""

SINGLE_SMALL = 21.0
"""Maximum size of a small object at the resolution of single-scale training, pixels: COCO's."""

THINNEST = 4.0
"""Short side of a thin object at the resolution of single-scale training, pixels."""

SINGLE_LEAST = 40
"""Minimum long side of that resolution, in cells of the finest feature map, if images are that large."""

SINGLE_LARGEST = 2.8e6
"""Maximum pixels of a large image (see `MIXED`) at that resolution, at which training sees it whole: COCO's finest."""

WINDOW = 1000
"""Maximum side of SNIP's windows at the finest resolution, pixels."""


def suggest(
    sizes: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    stride: float = 16.0,
    thin: float = inf,
    labels: np.ndarray | None = None,
    without: Sequence[int] = (),
) -> dict[str, Any] | None:
    """Suggests ``dataset.resolution``, ``pyramid``, ``snip``, ``sniper``, ``focus`` and ``tiles``.

    Args:
        sizes: (n,) float, sizes of the boxes.
        widths: (m,) of the images, pixels.
        heights: (m,) of the images, pixels.
        stride: pixels of the view per cell of the detector's finest feature map.
        thin: 10th percentile of the short sides of the boxes, pixels: thin objects must not vanish.
        labels: (n,) int, classes of the boxes; a class of large objects keeps its scale. None: there is one class.
        without: numbers of the scales that SNIPER leaves out; the finest is 0.

    Returns:
        The nodes as plain data, with the keys of ``conf/dataset/coco.yaml``; None if there are no boxes. For images of
        mixed size, resolutions of pyramids are factors too: objects are detected at the factor of their chips.
    """
    if not len(sizes):
        return None
    long = float(np.median(np.maximum(widths, heights)))
    short = float(np.median(np.minimum(widths, heights)))
    seen = size_seen(stride)
    size = int(np.clip(32 * round(CHIP_PER_IMAGE * long / 32), CHIP[0], 32 * round(CHIP[1] * seen / 32)))
    small = max(1e-3, float(np.percentile(sizes, SMALL)))
    least = max(4, round(size / 50))
    factors = scale_factors(sizes, size, long, max(seen / small, least / thin))
    ranges = valid_ranges([LARGE_PER_CHIP * size / factor for factor in factors[:-1]])
    smallest, largest = np.percentile(np.maximum(widths, heights), MIXED[:2])
    mixed = largest >= MIXED[2] * smallest
    wanted = single_factor(sizes, long, stride, thin)
    area = np.percentile(np.asarray(widths, float) * heights, MIXED[1])
    single = min(wanted, float(np.sqrt(SINGLE_LARGEST / area)))
    fine = list(factors[:-1]) if mixed else [_resolution(factor, short, long) for factor in factors[:-1]]
    coarsest = _resolution(SNIP_COARSEST * factors[-1], short, long)
    pyramid = [*fine, coarsest]
    # A scale without chips learns nothing, not even what background is: tested there, a detector finds large objects
    # everywhere. SNIP's whole images show it background.
    kept = [number for number in range(len(factors)) if number not in without]
    if len(kept) > 1 and kept[-1] == len(factors) - 1 and not _needs_coarsest(sizes, ranges[-1][0], labels):
        kept = kept[:-1]
    of_chips = _joined([ranges[number] for number in kept])
    scales = [*factors[:-1], [-1, size]]
    tested = [*fine, [-1, size] if mixed else [min(coarsest[0], size), size]]
    # A single resolution shows objects of all sizes; windows would cut the large ones.
    window = max(size, min(WINDOW, 32 * round(factors[0] * long / 64))) if fine else coarsest[1]
    return {
        "resolution": _two_digits(single) if mixed else _resolution(single, short, long),
        "pyramid": pyramid,
        "snip": _all_ranges(ranges) | {"sub_image": window},
        "sniper": {
            "size": size,
            "scales": [scales[number] for number in kept],
            "stride": size // 16,
            "min_side": float(least),
            "pyramid": [tested[number] for number in kept],
            **_all_ranges(of_chips),
        },
        "focus": suggest_focus(
            [factors[number] for number in kept], size, [low for low, _ in inference_ranges(of_chips)]
        ),
        "tiles": suggest_tiles(sizes, 32 * round(CHIP[1] * seen / 32), wanted),
    }


def size_seen(stride: float) -> float:
    """Returns the size from which a detector sees objects well, pixels of the view (see `SEEN`)."""
    return float(np.clip(SEEN[0] * stride, *SEEN[1:]))


def _needs_coarsest(sizes: np.ndarray, low: float, labels: np.ndarray | None) -> bool:
    """Whether boxes from a size on, those of the coarsest scale, are more than `FEW`, or most of a class's boxes."""
    large = sizes >= low
    if large.mean() >= FEW:
        return True
    if labels is None:
        return False
    counts, of_class = np.bincount(labels), np.bincount(labels[large], minlength=int(labels.max()) + 1)
    return bool(((counts >= TAUGHT) & (of_class > counts / 2)).any())


def _joined(ranges: Sequence[Sequence[int]]) -> list[list[int]]:
    """Widens ranges so that together they contain all sizes again, where one of them was left out."""
    joined = [[0, ranges[0][1]], *(list(pair) for pair in ranges[1:])]
    for finer, coarser in pairwise(joined):
        if coarser[0] > finer[1]:
            coarser[0] = round_pleasantly(float(np.mean(OVERLAP)) * finer[1])
    joined[-1][1] = -1
    return joined


def single_factor(sizes: np.ndarray, long: float, stride: float, thin: float = inf) -> float:
    """Computes the factor at which single-scale training sees small objects, whatever it costs.

    Args:
        sizes: (n,) float, sizes of the boxes.
        long: long side of the images.
        stride: see `suggest`.
        thin: see `suggest`.
    """
    small = max(1e-3, float(np.percentile(sizes, SMALL)))
    wanted = max(min(SINGLE_SMALL, size_seen(stride)) / small, THINNEST / thin)
    return min(ENLARGED, max(wanted, min(1.0, SINGLE_LEAST * stride / long)))


def scale_factors(sizes: np.ndarray, size: int, long: float, wanted: float) -> list[float]:
    """Computes the scale factors of an image of median size, finest first.

    The coarsest factor shows the whole image in one chip; the finest makes small objects large enough. The factors in
    between are a geometric progression, which ends early if hardly any box is left for the next scale.

    Args:
        sizes: (n,) float, sizes of the boxes.
        size: side of a chip.
        long: long side of the image.
        wanted: factor at which small objects are seen well.
    """
    coarsest = size / long
    finest = min(ENLARGED, wanted)
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


def inference_ranges(ranges: Sequence[Sequence[int]]) -> list[list[int]]:
    """Makes the ranges of inference, which are wider than those of training."""
    return [
        [round_pleasantly(low * TEST_WIDER[0]), -1 if high == -1 else round_pleasantly(high * TEST_WIDER[1])]
        for low, high in ranges
    ]


def _all_ranges(ranges: list[list[int]]) -> dict[str, Any]:
    anchors = [[0, high] for _, high in ranges[:-1]] + ranges[-1:]
    return {"valid_ranges": ranges, "anchor_ranges": anchors, "test_ranges": inference_ranges(ranges)}


def _two_digits(factor: float) -> float:
    return round(factor, 1 - floor(log10(factor)))


def _resolution(factor: float, short: float, long: float) -> list[int]:
    """Returns (short side, cap of the long side); the cap has room for images a little longer than the median."""
    return [max(1, round_pleasantly(factor * short)), max(1, round_pleasantly(1.1 * factor * long))]
