"""An evaluation beyond COCO's figures: thresholds, confused classes, and the images with the most errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.best_scores import best_thresholds
from lightning_det.evaluation.figures import Evaluation
from lightning_det.evaluation.outcomes import Outcome, Outcomes, confusion_matrix, outcomes, rank_worst
from lightning_det.evaluation.results import Results
from lightning_det.evaluation.thresholds import Thresholds

BACKGROUND = "background"
"""Name of what is no object, and of what is not detected, in the confusion matrix."""

WITHOUT = 0.3
"""Score threshold of classes if no detection at all is right, so that none can be measured."""


@dataclass(frozen=True)
class Diagnosis:
    """Detections at the best thresholds of their classes, compared with the objects at IoU 0.5."""

    store: AnnotationStore
    results: Results
    evaluation: Evaluation
    thresholds: Thresholds
    limits: np.ndarray
    """(K,) float64, lowest score of every class."""
    found: Outcomes
    confusion: np.ndarray
    """See `confusion_matrix`."""
    counts: np.ndarray
    """(n, 4) int64 of every evaluated image, see `Outcomes.per_image`."""
    order: np.ndarray
    """(n,) int64, positions in ``results.seen`` from the worst image to the best, see `rank_worst`."""

    def per_class(self) -> list[dict[str, Any]]:
        """A row for every class with boxes or detections.

        Returns:
            ``class`` and what `Evaluation.per_class` says of it; ``threshold``, and ``precision``, ``recall`` and
            ``F1`` there; and ``measured``, False if the threshold is not the class's own because it has too few boxes.
        """
        right = np.diag(self.confusion)[:-1]
        objects, detected = self.confusion[:-1].sum(axis=1), self.confusion[:, :-1].sum(axis=0)
        rows = []
        for k, (name, figures) in enumerate(self.evaluation.per_class().items()):
            if objects[k] or detected[k]:
                rows.append(
                    {
                        "class": name,
                        **figures,
                        "threshold": float(self.limits[k]),
                        "precision": _share(right[k], detected[k]),
                        "recall": _share(right[k], objects[k]),
                        "F1": _share(2 * right[k], objects[k] + detected[k]),
                        "measured": name in self.thresholds.per_class,
                    }
                )
        return rows

    def confused(self, count: int) -> list[tuple[str, str, int, float]]:
        """The most frequent confusions: class of the object, of the detection, number, and share of the objects."""
        inner = self.confusion[:-1, :-1].copy()
        np.fill_diagonal(inner, 0)
        objects, names = self.confusion[:-1].sum(axis=1), self.evaluation.names
        most = np.argsort(-inner, axis=None, kind="stable")[:count]
        pairs = [divmod(int(cell), len(names)) for cell in most]
        counted = [(a, b, int(inner[a, b])) for a, b in pairs if inner[a, b]]
        return [(names[a], names[b], number, float(number / objects[a])) for a, b, number in counted]

    def worst(self, count: int) -> list[int]:
        """Positions in ``results.seen`` of the images with the most errors, without those that have none."""
        errors = self.counts[:, 1:].sum(axis=1)
        return [int(n) for n in self.order if errors[n]][:count]

    def best(self, count: int) -> list[int]:
        """Positions in ``results.seen`` of the images with the fewest errors and, of these, the most right detections.

        Images in which nothing was found are left out.
        """
        return [int(n) for n in self.order[::-1] if self.counts[n, 0]][:count]

    def totals(self) -> dict[str, int]:
        """Number of ``right`` detections, of those of the ``wrong class``, ``false`` ones and ``missed`` objects."""
        return dict(zip(("right", "wrong class", "false", "missed"), self.counts.sum(axis=0).tolist(), strict=True))

    def file(self, position: int) -> str:
        """Name of an image's file."""
        return self.store.files[int(self.results.seen[position])]

    def describe(self, position: int) -> str:
        """The numbers of an image in words, for captions."""
        right, wrong, false, missed = self.counts[position].tolist()
        parts = {"right": right, "wrong class": wrong, "false": false, "missed": missed}
        return ", ".join(f"{number} {name}" for name, number in parts.items() if number)

    def of_image(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the counted detections of an image, by descending kind and score, and of its missed boxes."""
        rows = self.results.of_image(image)
        rows = rows[self.found.kinds[rows] != Outcome.UNCOUNTED]
        start, end = self.store.offsets[image : image + 2]
        missed = self.found.missed[(self.found.missed >= start) & (self.found.missed < end)]
        return rows, missed


def diagnose(store: AnnotationStore, results: Results, evaluation: Evaluation, measured_on: str) -> Diagnosis:
    """Compares detections with objects at the best thresholds.

    Args:
        store: annotations.
        results: detections.
        evaluation: of both.
        measured_on: see `Thresholds`.
    """
    thresholds = best_thresholds(store, results, evaluation, measured_on)
    limits = thresholds.of(evaluation.names, WITHOUT)
    found = outcomes(store, results, evaluation.matches, limits)
    counts = found.per_image(store, results)
    return Diagnosis(
        store,
        results,
        evaluation,
        thresholds,
        limits,
        found,
        confusion_matrix(store, results, found),
        counts,
        rank_worst(counts),
    )


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
