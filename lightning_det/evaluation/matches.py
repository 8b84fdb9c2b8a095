"""Which detection has found which object, as COCO's evaluation decides it at IoU 0.5."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

IOU = 0.5
"""Overlap from which a detection is right."""


@dataclass(frozen=True)
class Matches:
    """Detections of one evaluation and the objects of their class that they match.

    COCO matches in the order of scores, so a detection's match does not depend on those with lower scores.
    """

    rows: np.ndarray
    """(N,) int64, the box in the annotation store that each detection matches; -1 if none."""
    counted: np.ndarray
    """(N,) bool, False for detections that are neither right nor wrong: they match an ignored region, or are beyond the
    limit of detections."""


def from_pycocotools(images: Iterable[Mapping[str, Any] | None], truth: np.ndarray, count: int) -> Matches:
    """Collects the matches that ``COCOeval.evaluate`` has left in ``evalImgs``.

    Args:
        images: entries of all images and classes, of one range of areas; the first IoU threshold is read.
        truth: (G,) int64 box in the store by number of COCO's annotation; these ids count from 1.
        count: number N of detections; ids are 1 + row.
    """
    parts = [part for part in images if part is not None and part["dtIds"]]
    rows, counted = np.full(count, -1, np.int64), np.zeros(count, bool)
    if parts:
        found = np.concatenate([part["dtIds"] for part in parts]).astype(np.int64) - 1
        matched = np.concatenate([part["dtMatches"][0] for part in parts]).astype(np.int64)
        ignored = np.concatenate([part["dtIgnore"][0] for part in parts])
        rows[found] = np.where(matched > 0, truth[matched - 1], -1) if len(truth) else -1
        counted[found] = ~ignored.astype(bool)
    return Matches(rows, counted)


def from_faster_coco_eval(pairs: Iterable[str], truth: np.ndarray, ignored: np.ndarray, count: int) -> Matches:
    """Collects the matches of an evaluation by faster-coco-eval at one IoU threshold and one range of areas.

    Args:
        pairs: its ``eval["matched"]``, texts ``DETECTION_ANNOTATION`` of ids.
        truth: see `from_pycocotools`.
        ignored: (M,) bool, of the boxes of the store.
        count: see `from_pycocotools`.
    """
    rows = np.full(count, -1, np.int64)
    ids = np.array([pair.split("_") for pair in pairs], np.int64).reshape(-1, 2) - 1
    rows[ids[:, 0]] = truth[ids[:, 1]]
    return Matches(rows, ~((rows >= 0) & ignored[rows]) if len(ignored) else np.ones(count, bool))
