"""Finds the score thresholds at which F1 is largest."""

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.figures import Evaluation
from lightning_det.evaluation.results import Results
from lightning_det.evaluation.thresholds import FEWEST, Thresholds


def best_thresholds(store: AnnotationStore, results: Results, evaluation: Evaluation, measured_on: str) -> Thresholds:
    """Finds the thresholds of the classes that have enough boxes to tell one.

    Args:
        store: annotations.
        results: detections.
        evaluation: of both.
        measured_on: see `Thresholds`.
    """
    names, boxes = evaluation.names, evaluation.counts[:, 0]
    counted = np.flatnonzero(evaluation.matches.counted)
    scores, labels = results.scores[counted].astype(np.float64), results.labels[counted]
    right = evaluation.matches.rows[counted] >= 0
    per_class, f1 = {}, {}
    for k in np.flatnonzero(boxes >= FEWEST).tolist():
        if (best := best_threshold(scores[labels == k], right[labels == k], int(boxes[k]))) is not None:
            per_class[names[k]], f1[names[k]] = best
    together = best_threshold(scores, right, int(boxes.sum()))
    return Thresholds(
        per_class,
        None if together is None else together[0],
        f1,
        dict(zip(names, boxes.tolist(), strict=True)),
        len(results.seen),
        measured_on,
    )


def best_threshold(scores: np.ndarray, right: np.ndarray, boxes: int) -> tuple[float, float] | None:
    """Finds the threshold with the largest F1, 2 * right / (detections + boxes); of equal ones, the highest.

    The threshold lies midway between the lowest score that is kept and the next one, so it also separates scores that
    differ by rounding. Below the lowest score of all there is nothing to separate from: it is that score.

    Args:
        scores: (n,) float64.
        right: (n,) bool.
        boxes: number of objects.

    Returns:
        Threshold and F1, or None if no detection is right.
    """
    if not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], right[order]
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(scores) + 1) + boxes)
    f1[:-1][scores[:-1] == scores[1:]] = -1  # a threshold keeps all detections of a score, or none
    best = int(np.argmax(f1))
    lowest = scores[min(best + 1, len(scores) - 1)]
    return float((scores[best] + lowest) / 2), float(f1[best])
