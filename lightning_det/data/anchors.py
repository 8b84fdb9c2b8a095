"""Compares the anchors of a detector with the boxes in its training views."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.suggested_parts import round_pleasantly
from lightning_det.data.trial import sample
from lightning_det.detectors.reach import MET, best_ious, fit_sizes
from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import State
from lightning_det.system.errors import CapabilityError
from lightning_det.views import Chips, Planner, Pyramid, SubImages
from lightning_det.views.targets import targets

SAMPLE = (300, 5000)
"""Maximum number of images, and of boxes, on which anchors are measured."""

FITTED = 1000
"""Maximum number of boxes of each kind of views to which anchor sizes are fitted."""

FEW = 1 / 3
"""Acceptable share of boxes without an anchor; with published settings it is up to a quarter on COCO."""

RATIO_PERCENTILES = (10, 50, 90)
"""Percentiles of height / width that are tried as ratios of anchors."""

BETTER = 0.7
"""Share of the boxes without an anchor that may be left for other ratios to be worth it."""

MANY = 0.5
"""Share of boxes without an anchor that is worth a warning even if no other sizes would help."""


class Reach(NamedTuple):
    """How well anchors match the boxes of training views."""

    boxes: int
    """Number of boxes that are learned from."""
    median_size: float
    """Median of sqrt(width * height), pixels of the view."""
    mean_iou: float
    """Mean over the boxes of the IoU with the best anchor."""
    missed: float
    """Share of the boxes that no anchor matches with an IoU of at least `MET`."""


def boxes_in_views(
    store: AnnotationStore, looks: Sequence[Look], min_visible: float = 0.5, min_side: float = 1.0
) -> np.ndarray:
    """Collects the (n, 4) boxes to learn from, ``xyxy`` pixels of their views, for anchors or the detector proper."""
    parts = [np.zeros((0, 4), np.float32)]
    for look in looks:
        found = targets(store.record(look.image), look.view, min_visible, min_side)
        parts.append(found.boxes[(found.states == State.VALID) | (found.anchor_states == State.VALID)])
    return np.concatenate(parts).astype(float)


def reach(boxes: np.ndarray, detector: Detector, sizes: Sequence[float] | None = None) -> Reach | None:
    """Measures how well a detector's anchors, or other sizes, match (n, 4) boxes; None without boxes or anchors."""
    shapes = detector.anchor_shapes(sizes)
    if shapes is None or not len(boxes):
        return None
    ious = best_ious(boxes, shapes)
    size = np.median(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
    return Reach(len(boxes), float(size), float(ious.mean()), float((ious < MET).mean()))


def suggested_sizes(
    store: AnnotationStore, suggestion: Mapping[str, Any], detector: Detector, count: int, seed: int = 0
) -> list[int] | None:
    """Fits anchor sizes to the views of all suggested settings: single scale, SNIP and SNIPER.

    A detector without anchors gets those of the light proposal network that it mines negative chips with; None if it
    has none.

    Args:
        store: annotations.
        suggestion: result of `suggest` for them.
        detector: the detector that the sizes are for.
        count: see `misfit`.
        seed: of the sample and of the views.
    """
    boxes = _suggested_boxes(store, suggestion, seed)
    if not len(boxes) or not count:
        return None
    if detector.anchor_sizes:
        return _fit_sizes(detector, boxes, count)
    try:
        return _fit_sizes(detector.proposer([1.0] * count), boxes, count)
    except CapabilityError:
        return None


def suggested_ratios(
    store: AnnotationStore, suggestion: Mapping[str, Any], detector: Detector, sizes: Sequence[float], seed: int = 0
) -> list[float] | None:
    """Fits ratios of anchors to elongated objects: None if the detector's own serve, or if it has no ratios to set.

    Args:
        store: annotations.
        suggestion: result of `suggest` for them.
        detector: the detector that the ratios are for.
        sizes: suggested sizes of its anchors.
        seed: of the sample and of the views.
    """
    boxes = _suggested_boxes(store, suggestion, seed)
    own = reach(boxes, detector, sizes)
    if own is None or own.missed < FEW / 3:
        return None
    sides = boxes[:, 2:] - boxes[:, :2]
    ratios = [float(f"{ratio:.2g}") for ratio in np.percentile(sides[:, 1] / sides[:, 0], RATIO_PERCENTILES)]
    shapes = detector.anchor_shapes(sizes, ratios)
    if shapes is None or len(set(ratios)) < len(ratios):
        return None
    return ratios if (best_ious(boxes, shapes) < MET).mean() <= BETTER * own.missed else None


def _suggested_boxes(store: AnnotationStore, suggestion: Mapping[str, Any], seed: int) -> np.ndarray:
    """Collects some boxes of the views of all suggested settings: (n, 4) ``xyxy``, pixels of their views."""
    store = sample(store, seed, SAMPLE)
    snip, sniper = suggestion["snip"], suggestion["sniper"]
    chips = Planner(
        Pyramid(sniper["scales"], sniper["valid_ranges"], sniper["anchor_ranges"]),
        Chips(sniper["size"], sniper["stride"]),
    )
    whole = Planner(
        Pyramid(suggestion["pyramid"], snip["valid_ranges"], snip["anchor_ranges"]), SubImages(snip["sub_image"])
    )
    kinds: tuple[tuple[Planner, dict[str, float]], ...] = (
        (chips, {"min_visible": 1.0, "min_side": sniper["min_side"]}),
        (whole, {}),
        (Planner(Pyramid([suggestion["resolution"]])), {}),
    )
    planned = ((plan_epoch(store, planner, seed, rendered=False), visibility) for planner, visibility in kinds)
    return np.concatenate([_few(boxes_in_views(store, looks, **visible), seed) for looks, visible in planned])


def _few(boxes: np.ndarray, seed: int) -> np.ndarray:
    return boxes[np.random.default_rng(seed).permutation(len(boxes))[:FITTED]]


def _fit_sizes(detector: Detector, boxes: np.ndarray, count: int) -> list[int]:
    """Fits sizes: ascending integers for ``dataset.anchor_sizes``."""
    sizes = fit_sizes(detector, boxes)
    if detector.spreads_anchors:
        sizes = np.geomspace(sizes[0], sizes[-1], max(2, count)).tolist()
    whole: list[int] = []
    for size in sizes:
        whole.append(max(round_pleasantly(float(size)), 1 + (whole[-1] if whole else 0)))
    return whole


def misfit(boxes: np.ndarray, detector: Detector, count: int, seed: int = 0, besides: str = "") -> str:
    """Warns if anchors miss many of the boxes of training views; returns an empty text otherwise.

    Args:
        boxes: (n, 4), see `boxes_in_views`.
        detector: has the anchors.
        count: number of sizes in ``dataset.anchor_sizes``; a single-shot detector only uses the first and the last.
        seed: of the sample to which better sizes are fitted.
        besides: further options that better sizes need to take effect.
    """
    found = reach(boxes, detector)
    if found is None or found.missed < FEW:
        return ""
    sizes = _fit_sizes(detector, _few(boxes, seed), count)
    better = reach(boxes, detector, sizes) or found
    helps = better.missed <= found.missed / 2
    if not helps and found.missed < MANY:
        return ""
    said = (
        f"{100 * found.missed:.0f} % of the boxes are met by no anchor at IoU {MET:g}: in these views their median "
        f"size is {found.median_size:.0f} px, and the mean IoU with the best anchor {found.mean_iou:.2f}"
    )
    if helps:
        listed = ",".join(map(str, sizes))
        return f"{said}; with dataset.anchor_sizes=[{listed}]{besides} {100 * better.missed:.0f} % are met by none"
    return f"{said}; other anchor sizes do not help: raise the resolution of the views, or take finer feature maps"
