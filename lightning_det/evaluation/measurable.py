"""Finds the figures that are defined on a set of images: AP and AR need boxes of the class and size."""

from collections.abc import Sequence

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.figures import Metric, figure_names, size_ranges


def undefined_figures(
    store: AnnotationStore,
    size_cuts: Sequence[float],
    max_detections: int,
    seen: np.ndarray | None = None,
    metric: Metric | None = None,
) -> list[str]:
    """Lists the names of the figures that are undefined on a set of images.

    Args:
        store: annotations.
        size_cuts: bounds between small, medium and large objects, sqrt(area) in pixels.
        max_detections: most detections per image that count.
        seen: positions of the evaluated images; None: all images.
        metric: of VOC, whose figure is measured too.
    """
    seen = np.arange(len(store)) if seen is None else seen
    counts = count_boxes(store, seen, [(low**2, high**2) for low, high in size_ranges(size_cuts)]).sum(axis=0)
    empty = dict(zip(("", "_small", "_medium", "_large"), counts == 0, strict=True))
    names = figure_names(max_detections, metric)
    return [name for name in names if next((none for size, none in reversed(empty.items()) if name.endswith(size)))]


def explain_undefined(store: AnnotationStore, seen: np.ndarray | None = None) -> str:
    """Explains why all figures are undefined on a set of images; empty if some are defined.

    Args:
        store: annotations.
        seen: positions of the evaluated images; None: all images.
    """
    if seen is not None and len(seen) < len(store):
        found = count_boxes(store, seen, [(0.0, np.inf)]).any()
        return "" if found else f"no box is in the {len(seen)} of {len(store)} images that are looked at"
    others = sum(store.other_classes.values())
    if others and (~store.ignored).sum() == 0 and store.num_boxes in (0, others):
        return f"all {others} boxes are of classes that dataset.classes leaves out"
    if store.num_boxes == 0:
        return "there are no boxes"
    if store.ignored.all():
        return f"all {store.num_boxes} boxes are ignored ones (crowds, difficult objects)"
    return ""


def count_boxes(store: AnnotationStore, seen: np.ndarray, areas: Sequence[tuple[float, float]]) -> np.ndarray:
    """Counts boxes by class and area, without ignored ones.

    Args:
        store: annotations.
        seen: positions of the evaluated images.
        areas: ranges of area, square pixels, both ends included.

    Returns:
        (K, A) int64.
    """
    of_image = np.repeat(np.arange(len(store)), np.diff(store.offsets))
    counted = ~store.ignored & np.isin(of_image, seen)
    labels, sizes = store.labels[counted], store.areas[counted]
    inside = [(sizes >= low) & (sizes <= high) for low, high in areas]
    classes = len(store.label_map)
    return np.stack([np.bincount(labels[i], minlength=classes) for i in inside], axis=1)
