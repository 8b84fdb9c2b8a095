"""What a dataset holds, and what a strategy makes of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_det.annotations.problems import Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.images import check_all, decoded_size, size_fault
from lightning_det.data.opening import ImageError
from lightning_det.protocols.structures import State
from lightning_det.system.workload import progress
from lightning_det.views.planner import Planner
from lightning_det.views.targets import targets

REFERENCE = 800 * 1333
"""Pixels per image of the literature's single-scale pass, to which the cost of views is compared."""

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def damaged_images(store: AnnotationStore) -> list[Problem]:
    """Decodes every image and returns those that are damaged, or not of the size that they are known by."""
    paths = [store.path(i) for i in range(len(store))]
    sizes = dict(zip(paths, zip(store.widths, store.heights, strict=True), strict=True))

    def check(path) -> bool:
        size = decoded_size(path)
        if size != sizes[path]:
            raise ImageError(f"{path}: {size_fault(path, sizes[path], size)}")
        return True

    _, problems = check_all(paths, check, "decoding images")
    return list(problems.values())


def statistics(store: AnnotationStore) -> dict[str, Any]:
    """Counts, and percentiles of sizes in pixels; ignored regions are counted apart."""
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
    """Boxes that are valid at no scale of a planner of chips; 0 for other planners."""
    return _count(store, planner, "count_orphans")


def count_unlearned(store: AnnotationStore, planner: Planner) -> int:
    """Boxes that no chip of a planner of chips can teach, which are among its orphans; 0 for other planners."""
    return _count(store, planner, "count_unlearned")


def larger_than_tiles(store: AnnotationStore, planner: Planner) -> str:
    """What is to be said of boxes that are larger than a tile; empty where none is, or no tiles are cut."""
    larger, boxes = _count(store, planner, "count_larger"), int((~store.ignored).sum())
    if not larger:
        return ""
    share = f"{100 * larger / boxes:.0f} %" if 200 * larger >= boxes else f"{larger} of {boxes}"
    said = f"{share} of the boxes are larger than a tile of {planner.windows.size} px"
    if planner.windows.whole:
        return f"{said}: only the whole image, shrunk into one tile, shows them whole"
    return f"{said}: no view shows them whole; set views.train.windows.whole=true, or take larger tiles"


def _count(store: AnnotationStore, planner: Planner, which: str) -> int:
    count = getattr(planner.windows, which, None)
    if count is None:
        return 0
    # One of several scales may be drawn.
    rng = np.random.default_rng(0)
    return sum(count(record, planner.scales(record, [], rng)) for record in store.records() if len(record.boxes))


def coverage(store: AnnotationStore, looks: Sequence[Look], min_visible: float, min_side: float) -> dict[str, Any]:
    """What an epoch of views learns from, and how many pixels it costs.

    Args:
        store: annotations.
        looks: the views of one epoch.
        min_visible: see `targets`.
        min_side: see `targets`.

    Returns:
        ``views_per_image``, ``boxes_learned`` and ``boxes_unlearned`` (ignored regions count as neither),
        ``pixels_vs_800x1333``, and ``levels``: the same per pyramid level.
    """
    learned = np.zeros(store.num_boxes, bool)
    by_level: dict[int, dict[str, Any]] = {}
    for look in progress(looks, "counting boxes", len(looks), threshold=5000):
        level = by_level.setdefault(
            look.view.level,
            {
                "views": 0,
                "backgrounds": 0,
                "pixels": 0,
                "learned": np.zeros(store.num_boxes, bool),
                "range": look.view.valid_range,
            },
        )
        found = targets(store.record(look.image), look.view, min_visible, min_side)
        rows = store.offsets[look.image] + found.source[found.states == State.VALID]
        level["views"] += 1
        level["backgrounds"] += not len(rows)
        level["pixels"] += look.view.size[0] * look.view.size[1]
        level["learned"][rows] = True
        learned[rows] = True
    reference = max(1, REFERENCE * len(store))
    learnable = ~store.ignored
    return {
        "views_per_image": len(looks) / max(1, len(store)),
        "boxes_learned": int((learned & learnable).sum()),
        "boxes_unlearned": int((~learned & learnable).sum()),
        "pixels_vs_800x1333": sum(v["pixels"] for v in by_level.values()) / reference,
        "levels": [
            {
                "level": number,
                "valid_range": [None if bound == np.inf else bound for bound in v["range"]],
                "views": v["views"],
                "views_without_valid_boxes": v["backgrounds"],
                "boxes_learned": int((v["learned"] & learnable).sum()),
                "pixels_vs_800x1333": v["pixels"] / reference,
            }
            for number, v in sorted(by_level.items())
        ],
    }


def _percentiles(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in np.percentile(values, PERCENTILES)] if len(values) else []
