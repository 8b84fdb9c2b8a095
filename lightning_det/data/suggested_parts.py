"""Suggests AutoFocus's limits, tiles, borders between sizes, and numbers of proposals, from the sizes of objects."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any

import numpy as np

TILE_OVERLAP = (0.1, 0.5)
"""Minimum and maximum overlap of tiles, a share of their side."""

LARGE = 95
"""Percentile of the sizes that should lie within the overlap of two tiles."""

LONGER = 1.4
"""Long side of an object divided by its size: of a box of 2:1."""

FOCUS = (5, 64, 90)
"""AutoFocus's ``limits`` for COCO, of which the second is the size from which a coarse view suffices."""

FOCUS_THRESHOLDS = (0.2, 0.02)
"""AutoFocus's thresholds for COCO: at the finest scale, and at others."""

CUTS = (32, 96)
"""COCO's borders of small, medium and large objects, pixels."""

CUT_SHARE = 0.05
"""Share of the boxes that small, medium and large objects should have at least; otherwise thirds are taken."""

PROPOSALS = (20, 100, 1000)
"""Proposals per object of a crowded view, and the minimum and maximum per megapixel."""


def suggest_tiles(sizes: np.ndarray, side: int, factor: float) -> dict[str, Any]:
    """Suggests ``dataset.tiles``: tiles whose overlap holds all but the largest objects.

    Args:
        sizes: (n,) float, sizes of the boxes.
        side: smallest side of a tile, pixels of the view.
        factor: scale at which small objects are seen well, by which tiles are cut.
    """
    large = LONGER * factor * float(np.percentile(sizes, LARGE))
    side = max(side, min(2 * side, 32 * ceil(large / TILE_OVERLAP[1] / 32)))
    overlap = np.clip(ceil(20 * large / side) / 20, *TILE_OVERLAP)
    return {"size": side, "overlap": float(overlap)}


def suggest_focus(factors: Sequence[float], size: int, lowest: Sequence[float]) -> dict[str, Any]:
    """Suggests ``dataset.focus``, with AutoFocus's proportions.

    Args:
        factors: scales, finest first.
        size: side of the chips of training, pixels of the view.
        lowest: lower ends of the ranges of inference, original pixels, in the order of the scales.
    """
    pairs = list(pairwise(factors))
    small = max([coarse * low for (_, coarse), low in zip(pairs, lowest[1:], strict=True)], default=FOCUS[1])
    limits: list[int] = []
    for limit in FOCUS:
        limits.append(max(1 + (limits[-1] if limits else 0), round(small * limit / FOCUS[1])))
    return {
        "limits": limits,
        "thresholds": [FOCUS_THRESHOLDS[min(n, 1)] for n in range(len(pairs))],
        "least": [16 * ceil(size * coarse / fine / 16) for fine, coarse in pairs],
        "border": round_pleasantly(size / 32 / factors[-2]) if pairs else 0,
    }


def suggest_cuts(sizes: np.ndarray) -> list[int]:
    """Suggests ``dataset.size_cuts``: COCO's, unless hardly any of (n,) boxes is small, medium or large by them."""
    shares = np.histogram(sizes, [0, *CUTS, np.inf])[0] / len(sizes)
    if shares.min() >= CUT_SHARE:
        return list(CUTS)
    low, high = (round_pleasantly(float(cut)) for cut in np.percentile(sizes, (100 / 3, 200 / 3)))
    return [max(1, low), max(2, low + 1, high)]


def suggest_proposals(counts: np.ndarray, megapixels: np.ndarray) -> int:
    """Suggests ``dataset.proposals_per_megapixel``: several for each object of a crowded view.

    Args:
        counts: (m,) boxes of each image.
        megapixels: (m,) pixels of each image at the finest scale of inference, in millions.
    """
    per_object, low, high = PROPOSALS
    return int(np.clip(round_pleasantly(per_object * float(np.percentile(counts / megapixels, LARGE))), low, high))


def round_pleasantly(value: float) -> int:
    """Rounds to two digits followed by zeros; from 50 (500, ...) on, the second digit is 0 or 5."""
    if value < 1:
        return round(value)
    unit = 10 ** (floor(log10(value)) - 1)
    step = max(1, unit * (5 if value >= 50 * unit else 1))
    return int(step * round(value / step))
