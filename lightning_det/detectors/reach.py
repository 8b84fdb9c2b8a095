"""How well the anchors of a detector, or the priors of a single-shot one, can meet boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from lightning_det.detectors.anchors import Anchors
from lightning_det.detectors.priors import Priors, spread

MET = 0.5
"""IoU from which an anchor meets a box: hardly one below learns to find it."""

CANDIDATES = 20
"""Smallest sizes that are tried where anchors are fitted."""

RATIOS = np.linspace(1.25, 2.25, 9)
"""Ratios of neighbouring sizes that are tried."""


class Shapes(NamedTuple):
    """Anchors of all feature maps, ``A`` per place."""

    sides: np.ndarray
    """(A, 2) width and height, pixels of the view."""
    strides: np.ndarray
    """(A,) distance of their centres."""
    start: float
    """Where the first centre is, in strides."""


def shapes_of(detector: nn.Module, sizes: Sequence[float] | None = None) -> Shapes | None:
    """The anchors of a detector.

    Args:
        detector: of this package; others may have none that are known here.
        sizes: instead of the detector's own: one per map of a pyramid; of single-shot detectors the ends count.
    """
    strides = list(getattr(getattr(detector, "backbone", None), "strides", ()))
    rpn, priors = getattr(detector, "rpn", None), getattr(detector, "priors", None)
    if isinstance(getattr(rpn, "anchors", None), Anchors):
        anchors = rpn.anchors
        if sizes is not None:
            by_map = [list(sizes)] if len(anchors.sizes) == 1 else [[s] for s in sizes]
            anchors = Anchors(by_map, anchors.ratios)
        cells, start = anchors.cells, 0.0
        strides += [2 * strides[-1]] * (len(cells) == len(strides) + 1)  # a pyramid's pooled map
    elif isinstance(priors, Priors):
        if sizes is not None:
            sizes = spread(sizes[0], sizes[-1], len(priors.per_cell))
            priors = Priors(sizes, priors.ratios, priors.steps, priors.longest)
        cells, start = [getattr(priors, f"cell{number}") for number in range(len(priors.per_cell))], 0.5
        strides = priors.steps or strides
    else:
        return None
    if len(strides) != len(cells):
        return None
    corners = [cell.cpu().double().numpy() for cell in cells]
    repeated = np.repeat(np.array(strides, float), [len(c) for c in corners])
    return Shapes(np.concatenate([c[:, 2:] - c[:, :2] for c in corners]), repeated, start)


def best_ious(boxes: np.ndarray, shapes: Shapes) -> np.ndarray:
    """(n,) float, IoU of each box with the best of the anchors around it.

    The best of equal anchors is the one whose centre is nearest. Anchors beyond the view count as well.

    Args:
        boxes: (n, 4) ``xyxy``, pixels of the view.
        shapes: of the anchors.
    """
    sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
    places = ((boxes[:, 2:] + boxes[:, :2]) / 2)[:, None] / shapes.strides[:, None] - shapes.start
    apart = np.abs(places - np.round(places)) * shapes.strides[:, None]
    common = np.minimum(np.minimum(sides, shapes.sides), (sides + shapes.sides) / 2 - apart).clip(min=0).prod(axis=2)
    union = sides.prod(axis=2) + shapes.sides.prod(axis=1) - common
    return (common / union).max(axis=1, initial=0.0)


def fitted_sizes(detector: nn.Module, boxes: np.ndarray) -> list[float]:
    """Anchor sizes, in equal ratios, with which a detector's anchors meet boxes best: as many as it has.

    Args:
        detector: with anchors, see `shapes_of`.
        boxes: (n, 4) ``xyxy``, pixels of views, one at least.
    """
    anchors = getattr(getattr(detector, "rpn", None), "anchors", None)
    count = sum(map(len, anchors.sizes)) if isinstance(anchors, Anchors) else len(detector.priors.per_cell)
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    low, high = np.percentile(side, (1, 99))
    starts = np.geomspace(max(2.0, 0.7 * low), max(2.0, 1.4 * low, high / 2), CANDIDATES)
    best = (0.0, [])
    for smallest in starts:
        for ratio in RATIOS:
            sizes = [float(smallest * ratio**number) for number in range(count)]
            ious = best_ious(boxes, shapes_of(detector, sizes))
            best = max(best, (float((ious >= MET).mean() + ious.mean()), sizes))
    return best[1]
