"""Collects figures of a dataset and of its views under a strategy, as json data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_det.annotations import AnnotationStore
from lightning_det.data.anchors import SAMPLE, boxes_in_views, misfit, reach
from lightning_det.data.datamodule import ViewData
from lightning_det.data.dataset import Look
from lightning_det.data.inspection import (
    count_orphans,
    count_unlearned,
    coverage,
    hidden_from_focus,
    in_several_ranges,
    larger_than_tiles,
)
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.trial import sample
from lightning_det.evaluation.rare_classes import rarely_learned
from lightning_det.inspection.proposal import Suggestion
from lightning_det.inspection.recommendation import unneeded_views
from lightning_det.inspection.splits import Splits
from lightning_det.protocols.detector import Detector


def make_report(
    splits: Splits,
    split: str,
    data: ViewData,
    looks: Sequence[Look],
    anchors: dict[str, Any],
    suggestion: Suggestion | None,
    sampled: AnnotationStore | None = None,
) -> dict[str, Any]:
    """Assembles the content of ``inspect.json``.

    Args:
        splits: all splits.
        split: name of the inspected split.
        data: makes views of this split.
        looks: its views in one epoch.
        anchors: see `measure_anchors`.
        suggestion: see `make_suggestion`.
        sampled: images whose objects AutoFocus's head has to see; None without such a head.
    """
    store = splits.stores[split]
    return {
        **splits.statistics[split],
        "split": split,
        "problems": [p.to_dict() for p in splits.problems],
        **coverage(store, looks, **data.visibility),
        "boxes_valid_at_no_scale": count_orphans(store, data.train_views),
        "boxes_without_chip": count_unlearned(store, data.train_views),
        "rare_classes": "" if data.balance is not None else rarely_learned(splits.statistics[split]["classes"]),
        "larger_than_tiles": larger_than_tiles(store, data.train_views),
        "in_several_ranges": in_several_ranges(store, data.train_views),
        "hidden_from_focus": "" if sampled is None else hidden_from_focus(sampled, data.train_views),
        "unneeded_views": "" if suggestion is None else unneeded_views(suggestion.figures, data.train_views),
        **anchors,
        "suggestion": None if suggestion is None else suggestion.to_dict(),
        "splits": splits.statistics,
    }


def sqrt_areas(store: AnnotationStore) -> np.ndarray:
    """Computes sqrt(width * height) of the boxes that are not ignored: (n,) float64, pixels."""
    sides = (store.boxes[:, 2:] - store.boxes[:, :2])[~store.ignored]
    return np.sqrt(sides.prod(axis=1))


def measure_anchors(
    store: AnnotationStore, data: ViewData, detector: Detector | None, count: int, seed: int, own: str
) -> dict[str, Any]:
    """Compares a detector's anchors with the boxes of training views.

    Args:
        store: annotations, of which a sample is taken.
        data: makes the views.
        detector: has the anchors; None if it cannot be built.
        count: number of anchor sizes.
        seed: seed of the sample and the views.
        own: ``besides`` of `misfit`.

    Returns:
        ``anchors``, a `Reach` as a dict or None without anchors, and ``anchors_misfit``, a warning or an empty text.
    """
    if detector is None:
        return {"anchors": None, "anchors_misfit": ""}
    sampled = sample(store, seed, SAMPLE) if len(store) else store
    boxes = boxes_in_views(sampled, plan_epoch(sampled, data.train_views, seed), **data.visibility)
    reached = reach(boxes, detector)
    if reached is None:
        return {"anchors": None, "anchors_misfit": ""}
    return {"anchors": reached._asdict(), "anchors_misfit": misfit(boxes, detector, count, seed, own)}
