"""The outcome of every detection and every object of an evaluation: right, of the wrong class, false or missed."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from lightning_det.annotations.store import AnnotationStore, gather
from lightning_det.evaluation.matches import IOU, Matches
from lightning_det.evaluation.results import Results

PAIRS = 1_000_000
"""Pairs of a detection and an object that are compared at once: bounds the memory."""


class Outcome(IntEnum):
    """Whether a detection is right, and how it is wrong."""

    UNCOUNTED = 0
    """Below its threshold, on an ignored region, or beyond the limit of detections."""
    RIGHT = 1
    """Matches an object of its class, as COCO's evaluation decides it."""
    WRONG_CLASS = 2
    """Overlaps an object of another class that no detection has found otherwise."""
    FALSE = 3
    """On no object, or the second one on the same object."""


@dataclass(frozen=True)
class Outcomes:
    """Outcome of every detection and object, with detections from a score threshold on, at IoU 0.5."""

    kinds: np.ndarray
    """(N,) int64 `Outcome` of each detection."""
    rows: np.ndarray
    """(N,) int64, the box in the annotation store that a right detection, or one of the wrong class, is on; else -1."""
    missed: np.ndarray
    """(m,) int64, boxes in the store that are objects of evaluated images and on which no detection is."""

    def per_image(self, store: AnnotationStore, results: Results) -> np.ndarray:
        """Counts, by position in ``results.seen``: (n, 4) int64 of right, wrong class, false and missed."""
        position = np.zeros(len(store) + 1, np.int64)
        position[results.seen] = np.arange(len(results.seen))
        missed = np.searchsorted(store.offsets, self.missed, side="right") - 1
        images = [results.images[self.kinds == kind] for kind in (Outcome.RIGHT, Outcome.WRONG_CLASS, Outcome.FALSE)]
        counts = [np.bincount(position[i], minlength=len(results.seen)) for i in (*images, missed)]
        return np.stack(counts, axis=1).astype(np.int64)


def outcomes(store: AnnotationStore, results: Results, matches: Matches, thresholds: np.ndarray) -> Outcomes:
    """Decides what became of every detection and object.

    Detections of the right class come first, so their number is the one behind precision and recall. The rest take
    objects of other classes that are still free, in the order of their scores, each the one that it overlaps most.

    Args:
        store: annotations.
        results: detections.
        matches: of the detections with objects of their class.
        thresholds: (K,) lowest score of every class.
    """
    shown = matches.counted & (results.scores >= thresholds[results.labels])
    kinds = np.where(shown, np.where(matches.rows >= 0, Outcome.RIGHT, Outcome.FALSE), Outcome.UNCOUNTED)
    rows = np.where(kinds == Outcome.RIGHT, matches.rows, -1)
    free = np.zeros(store.num_boxes, bool)
    free[gather(store.offsets, results.seen)[1]] = True
    free &= ~store.ignored
    free[rows[rows >= 0]] = False
    for detection, row in _overlapping(store, results, np.flatnonzero(kinds == Outcome.FALSE), free):
        if free[row] and kinds[detection] == Outcome.FALSE:
            kinds[detection], rows[detection], free[row] = Outcome.WRONG_CLASS, row, False
    return Outcomes(kinds, rows, np.flatnonzero(free))


def _overlapping(
    store: AnnotationStore, results: Results, detections: np.ndarray, free: np.ndarray
) -> list[tuple[int, int]]:
    """Pairs of a detection and a free object of another class that overlap, by descending score, then overlap."""
    free_rows = np.flatnonzero(free)
    of_image = np.searchsorted(store.offsets, free_rows, side="right") - 1
    offsets = np.searchsorted(of_image, np.arange(len(store) + 1))
    before = np.concatenate([[0], np.cumsum(np.diff(offsets)[results.images[detections]])])
    parts = np.searchsorted(before, np.arange(PAIRS, before[-1], PAIRS))
    found = []
    for some in np.split(detections, parts):
        pairs, objects = gather(offsets, results.images[some])
        some, objects = np.repeat(some, np.diff(pairs)), free_rows[objects]
        other = results.labels[some] != store.labels[objects]
        some, objects = some[other], objects[other]
        ious = _iou(results.boxes[some].astype(np.float64), store.boxes[objects])
        near = ious >= IOU
        found.append((some[near], objects[near], ious[near]))
    detections, objects, ious = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    order = np.lexsort((-ious, -results.scores[detections]))
    return list(zip(detections[order].tolist(), objects[order].tolist(), strict=True))


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (n,) of pairs of ``xyxy`` boxes (n, 4)."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    common = np.clip(sides, 0, None).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return common / np.maximum(areas[0] + areas[1] - common, np.finfo(np.float64).tiny)


def confusion_matrix(store: AnnotationStore, results: Results, found: Outcomes) -> np.ndarray:
    """Counts objects by their class and the class that they were detected as.

    Returns:
        (K + 1, K + 1) int64: rows are the classes of the objects, columns those of the detections. The last row are
        false detections, the last column missed objects; their common cell is 0.
    """
    background = len(store.label_map)
    counted = found.kinds != Outcome.UNCOUNTED
    labels = np.append(store.labels, background).astype(np.int64)  # the last one is that of row -1
    truth = labels[np.concatenate([found.rows[counted], found.missed])]
    detected = np.concatenate([results.labels[counted], np.full(len(found.missed), background)]).astype(np.int64)
    size = background + 1
    return np.bincount(truth * size + detected, minlength=size * size).reshape(size, size)


def rank_worst(counts: np.ndarray) -> np.ndarray:
    """Orders images from the worst to the best.

    The worst has the most errors: false detections, missed objects, and detections of the wrong class, one each. Of
    images with equally many, the one with fewer right detections is worse.

    Args:
        counts: (n, 4) of `Outcomes.per_image`.

    Returns:
        (n,) positions.
    """
    return np.lexsort((counts[:, 0], -counts[:, 1:].sum(axis=1)))
