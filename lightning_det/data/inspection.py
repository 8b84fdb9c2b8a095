"""Statistics of a dataset, and of the views that a strategy makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from lightning_det.annotations.problems import Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.opening import ImageError
from lightning_det.data.sizes import check_all, decoded_size, size_fault
from lightning_det.protocols.structures import ImageRecord, State
from lightning_det.system.workload import progress
from lightning_det.views import Planner, Pyramid, Step, View
from lightning_det.views.targets import targets
from lightning_det.views.view import Range, in_learning_range, sqrt_areas

REFERENCE = 800 * 1333
"""Pixels per image of single-scale training in the literature, the reference for the cost of views."""

SHARED = 0.5
"""Share of the boxes that may be valid at several scales."""

VISIBLE = 6.0
"""Median size of the objects, pixels, below which AutoFocus's head does not see them well enough to look for them."""

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def damaged_images(store: AnnotationStore) -> list[Problem]:
    """Decodes every image; returns the problems of images that are damaged or do not have the annotated size."""
    paths = [store.path(i) for i in range(len(store))]
    sizes = dict(zip(paths, zip(store.widths, store.heights, strict=True), strict=True))

    def check(path: Path) -> bool:
        size = decoded_size(path)
        if size != sizes[path]:
            raise ImageError(f"{path}: {size_fault(path, sizes[path], size)}")
        return True

    _, problems = check_all(paths, check, "decoding images")
    return list(problems.values())


def statistics(store: AnnotationStore) -> dict[str, Any]:
    """Computes counts, and percentiles of sizes in pixels; ignored regions are counted separately."""
    learnable = ~store.ignored
    sides = store.boxes[learnable, 2:] - store.boxes[learnable, :2]
    long = np.maximum(store.widths, store.heights)
    image = np.repeat(np.arange(len(store)), np.diff(store.offsets))[learnable]
    relative = np.sqrt(sides.prod(axis=1)) / long[image]
    per_class = np.bincount(store.labels[learnable], minlength=len(store.label_map))
    counts = np.bincount(image, minlength=len(store))
    return {
        "images": len(store),
        "boxes": int(learnable.sum()),
        "ignored_regions": int(store.ignored.sum()),
        "images_without_boxes": int((counts == 0).sum()),
        "classes": dict(zip(store.label_map.names, per_class.tolist(), strict=True)),
        "boxes_of_other_classes": dict(store.other_classes),
        "percentiles": list(PERCENTILES),
        "image_width": _percentiles(store.widths),
        "image_height": _percentiles(store.heights),
        "box_width": _percentiles(sides[:, 0]),
        "box_height": _percentiles(sides[:, 1]),
        "box_size": _percentiles(np.sqrt(sides.prod(axis=1))),
        "box_size_by_long_side": _percentiles(relative),
        "box_aspect": _percentiles(sides[:, 1] / sides[:, 0]),
        "boxes_per_image": _percentiles(counts),
    }


def count_orphans(store: AnnotationStore, planner: Planner) -> int:
    """Counts the boxes that are valid at no scale of a planner, see `Step.count_orphans`."""
    return _count(store, planner, lambda step, image, views: step.count_orphans(image, views))


def count_unlearned(store: AnnotationStore, planner: Planner) -> int:
    """Counts the orphans that no view of a planner learns from, see `Step.count_unlearned`."""
    return _count(store, planner, lambda step, image, views: step.count_unlearned(image, views))


def larger_than_tiles(store: AnnotationStore, planner: Planner) -> str:
    """Warns about boxes that are larger than a tile, see `Step.count_larger`; empty if there are none."""
    larger = _count(store, planner, lambda step, image, views: step.count_larger(image, views))
    if planner.windows is None or not larger:
        return ""
    boxes = int((~store.ignored).sum())
    share = f"{100 * larger / boxes:.0f} %" if 200 * larger >= boxes else f"{larger} of {boxes}"
    warning = f"{share} of the boxes are larger than a tile of {planner.windows.canvas} px"
    if planner.windows.whole:
        return f"{warning}: only the whole image, shrunk into one tile, shows them whole"
    return f"{warning}: no view shows them whole; set views.train.windows.whole=true, or take larger tiles"


def in_several_ranges(store: AnnotationStore, planner: Planner) -> str:
    """Warns if most boxes are valid at several scales, because ranges of sizes overlap there; empty if few are.

    On blood cells, 81 % are with the ranges of ``experiment=bccd``, and 6 % with others: SNIPER then has 4 AP more
    (``docs/claims.md``, one seed).
    """
    share = share_in_several_ranges(store, planner)
    if share <= SHARED:
        return ""
    return (
        f"{100 * share:.0f} % of the boxes are valid at several scales, because views.train.scales.valid_ranges "
        "overlap at their sizes: each scale learns and finds them. On blood cells this cost SNIPER 4 AP (one seed); "
        "move the borders to sizes that few boxes have (sizes.png of inspect), see docs/choosing.md"
    )


def hidden_from_focus(store: AnnotationStore, planner: Planner) -> str:
    """Warns if most objects are hardly visible at the scale at which AutoFocus decides where to look at the finest one.

    On cars from the air, whose coarse scale shows them at 3 to 5 pixels, AutoFocus costs 8 AP (``docs/claims.md``, one
    seed).

    Args:
        store: images to learn from.
        planner: makes the views of a training with AutoFocus's head, the finest scale first.
    """
    sizes = []
    for image in store.records():
        views = planner.scales(image, [], np.random.default_rng(0))
        if len(views) > 1:
            sizes.append(views[1].scale * sqrt_areas(image.boxes[~image.ignored]))
    median = float(np.median(np.concatenate(sizes))) if sum(map(len, sizes)) else inf
    if median >= VISIBLE:
        return ""
    return (
        "AutoFocus decides where to look at the finest scale from the next one, which shows half of the objects at "
        f"{median:.1f} pixels or less. On cars from the air, this cost 8 AP (one seed); add a scale between them to "
        "dataset.sniper, see docs/strategies/autofocus.md"
    )


def share_in_several_ranges(store: AnnotationStore, planner: Planner) -> float:
    """Computes the share of the boxes that are valid at several scales; 0 if every scale has the same range."""
    ranges = planner.scales.valid_ranges if isinstance(planner.scales, Pyramid) else []
    boxes = store.boxes[~store.ignored]
    if not len(boxes) or all(valid == ranges[0] for valid in ranges):
        return 0.0
    return float((np.sum([in_learning_range(boxes, valid) for valid in ranges], axis=0) > 1).mean())


def _count(store: AnnotationStore, planner: Planner, count: Callable[[Step, ImageRecord, list[View]], int]) -> int:
    """Sums a count of the planner's windows over a dataset."""
    step = planner.windows
    if step is None or not step.loses_boxes:
        return 0
    # The planner may draw one of several scales.
    rng = np.random.default_rng(0)
    return sum(count(step, image, planner.scales(image, [], rng)) for image in store.records() if len(image.boxes))


@dataclass
class _Level:
    """Sums over the views of one pyramid level."""

    valid_range: Range
    learned: np.ndarray
    """(n,) bool, which boxes of the dataset are learned from."""
    views: int = 0
    backgrounds: int = 0
    """Number of views without a valid box."""
    pixels: int = 0


def coverage(store: AnnotationStore, looks: Sequence[Look], min_visible: float, min_side: float) -> dict[str, Any]:
    """Counts the boxes that the detector proper learns from in an epoch of views, and the pixels of the epoch.

    Args:
        store: annotations.
        looks: the views of one epoch.
        min_visible: see `targets`.
        min_side: see `targets`.

    Returns:
        ``views_per_image``, ``boxes_learned`` and ``boxes_unlearned`` (ignored regions count as neither),
        ``classes_unlearned`` (names of the classes of which no box is learned from), ``pixels_vs_800x1333``, and
        ``levels``: the same per pyramid level.
    """
    by_level: dict[int, _Level] = {}
    for look in progress(looks, "counting boxes", len(looks), threshold=5000):
        if look.view.level not in by_level:
            by_level[look.view.level] = _Level(look.view.valid_range, np.zeros(store.num_boxes, bool))
        level = by_level[look.view.level]
        found = targets(store.record(look.image), look.view, min_visible, min_side)
        rows = store.offsets[look.image] + found.source[found.states == State.VALID]
        level.views += 1
        level.backgrounds += not len(rows)
        level.pixels += look.view.size[0] * look.view.size[1]
        level.learned[rows] = True
    reference = max(1, REFERENCE * len(store))
    learnable = ~store.ignored
    learned = np.any([np.zeros(store.num_boxes, bool), *(level.learned for level in by_level.values())], axis=0)
    return {
        "views_per_image": len(looks) / max(1, len(store)),
        "boxes_learned": int((learned & learnable).sum()),
        "boxes_unlearned": int((~learned & learnable).sum()),
        "classes_unlearned": [
            store.label_map.names[label]
            for label in np.setdiff1d(store.labels[learnable], store.labels[learned & learnable])
        ],
        "pixels_vs_800x1333": sum(level.pixels for level in by_level.values()) / reference,
        "levels": [
            {
                "level": number,
                "valid_range": [None if bound == np.inf else bound for bound in level.valid_range],
                "views": level.views,
                "views_without_valid_boxes": level.backgrounds,
                "boxes_learned": int((level.learned & learnable).sum()),
                "pixels_vs_800x1333": level.pixels / reference,
            }
            for number, level in sorted(by_level.items())
        ],
    }


def _percentiles(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in np.percentile(values, PERCENTILES)] if len(values) else []
