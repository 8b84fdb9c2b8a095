"""How well a detector's anchors or priors can overlap boxes, and the ``dataset.anchor_sizes`` that suit boxes best."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lightning_det.protocols.detector import AnchorShapes, Detector

MET = 0.5
"""IoU from which an anchor meets a box; with less, anchors hardly learn to find it."""

CANDIDATES = 20
"""Number of smallest sizes that `fit_sizes` tries."""

RATIOS = np.linspace(1.25, 1 / MET, 7)
"""Ratios of neighbouring sizes that `fit_sizes` tries; above ``1 / MET``, neither would meet a square between them."""


def stack_shapes(cells: Sequence[Tensor], strides: Sequence[float], start: float) -> AnchorShapes:
    """Collects the anchors of all maps.

    Args:
        cells: per map, boxes (n, 4) of a cell, around its centre.
        strides: pixels of the view per cell of each map.
        start: position of the first centre, in strides.
    """
    corners = [cell.cpu().double().numpy() for cell in cells]
    repeated = np.repeat(np.array(strides, float), [len(c) for c in corners])
    return AnchorShapes(np.concatenate([c[:, 2:] - c[:, :2] for c in corners]), repeated, start)


def best_ious(boxes: np.ndarray, shapes: AnchorShapes) -> np.ndarray:
    """(n,) float, IoU of each box with the best of the anchors around it.

    Of the anchors of one shape, the one with the nearest centre counts, even if it lies outside the view.

    Args:
        boxes: (n, 4) ``xyxy``, pixels of the view.
        shapes: shapes and grids of the anchors.
    """
    sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
    places = ((boxes[:, 2:] + boxes[:, :2]) / 2)[:, None] / shapes.strides[:, None] - shapes.start
    apart = np.abs(places - np.round(places)) * shapes.strides[:, None]
    common = np.minimum(np.minimum(sides, shapes.sides), (sides + shapes.sides) / 2 - apart).clip(min=0).prod(axis=2)
    union = sides.prod(axis=2) + shapes.sides.prod(axis=1) - common
    return (common / union).max(axis=1, initial=0.0)


def fit_sizes(detector: Detector, boxes: np.ndarray) -> list[float]:
    """Fits ``dataset.anchor_sizes`` to boxes: as many as a detector takes.

    The sizes are in equal ratios, and such that the anchors overlap the boxes best.

    Args:
        detector: a detector with anchors.
        boxes: (n, 4) ``xyxy``, pixels of views, n >= 1.
    """
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    low, high = np.percentile(side, (1, 99))
    starts = np.geomspace(max(2.0, 0.7 * low), max(2.0, 1.4 * low, high / 2), CANDIDATES)
    best: tuple[float, list[float]] = (0.0, [])
    for smallest in starts:
        for ratio in RATIOS:
            sizes = [float(smallest * ratio**number) for number in range(detector.anchor_sizes)]
            shapes = detector.anchor_shapes(sizes)
            ious = np.zeros(len(boxes)) if shapes is None else best_ious(boxes, shapes)
            best = max(best, (float((ious >= MET).mean() + ious.mean()), sizes))
    return best[1]


def finest_stride(detector: Detector) -> float | None:
    """Distance between neighbouring anchors or points of the finest map, pixels of the view; None without either."""
    shapes = detector.anchor_shapes()
    return min(detector.point_strides, default=None) if shapes is None else float(shapes.strides.min())
