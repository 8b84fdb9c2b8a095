"""Detections of many images as flat arrays."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lightning_det.merging.nms import keep_best, remove_fragments

Merge = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps boxes (N, 4), scores (N,) and groups (N,) to the kept rows (k,) and their scores (k,)."""

Vote = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Maps kept rows (k,), boxes (N, 4), scores (N,) and groups (N,) to the moved boxes (k, 4)."""


@dataclass
class Results:
    """Detections in pixels of the original images; a row is one detection."""

    images: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) int64, position of the image in its store."""
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(N, 4) float32 ``xyxy``."""
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """(N,) float32."""
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) int64, classes counted from 0."""
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64, positions of the evaluated images, with or without detections, ascending."""
    cut: np.ndarray = None  # type: ignore[assignment]  # __post_init__ replaces None
    """(N,) bool, whether a detection touches a border where its view cuts the image; by default none does."""
    pixels: int = 0
    """Of the views that the detector has seen, padding included; 0 once views are merged or rows selected."""

    def __post_init__(self) -> None:
        if self.cut is None:
            self.cut = np.zeros(len(self.scores), bool)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def concatenate(cls, parts: Iterable["Results"]) -> "Results":
        """Concatenates several results: of views, batches or ranks."""
        parts = [cls(), *parts]
        return cls(
            np.concatenate([p.images for p in parts]),
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.unique(np.concatenate([p.seen for p in parts])),
            np.concatenate([p.cut for p in parts]),
            sum(p.pixels for p in parts),
        )

    def share(self, rank: int, ranks: int) -> "Results":
        """Detections of the images that belong to a rank, see `InferenceBatches`."""
        rows = self.images % ranks == rank
        seen = self.seen[self.seen % ranks == rank]
        return self._rows(rows, seen)

    def above(self, thresholds: np.ndarray) -> "Results":
        """Detections whose score is at least the threshold of their class.

        Args:
            thresholds: (K,) of the classes.
        """
        return self._rows(self.scores >= thresholds[self.labels], self.seen)

    def moved(self, first: int) -> "Results":
        """The same, as part of a larger store in which the first image has another position."""
        return replace(self, images=self.images + first, seen=self.seen + first)

    def _rows(self, rows: np.ndarray, seen: np.ndarray) -> "Results":
        """Detections of some rows, given as positions or as a mask."""
        return Results(self.images[rows], self.boxes[rows], self.scores[rows], self.labels[rows], seen, self.cut[rows])

    def merge_views(
        self,
        merge: Merge,
        max_detections: int | np.ndarray,
        vote: Vote | None = None,
        fragments: float | None = None,
    ) -> "Results":
        """Merges the detections of all views of an image into one list.

        Args:
            merge: suppresses duplicates within groups (image and class), see `lightning_det.merging.nms`.
            max_detections: maximum per image, or an integer array (M,) with the maximum of every image of the store.
            vote: moves kept boxes by suppressed ones, see `lightning_det.merging.voting`.
            fragments: a cut detection is removed first if an uncut one covers this share of it; None: none is removed.
        """
        if fragments is not None and self.cut.any():
            return self._without_fragments(fragments).merge_views(merge, max_detections, vote)
        boxes, scores = torch.from_numpy(self.boxes), torch.from_numpy(self.scores)
        images, labels = torch.from_numpy(self.images), torch.from_numpy(self.labels)
        classes = int(labels.max()) + 1 if len(labels) else 1
        groups = images * classes + labels
        keep, final = merge(boxes, scores, groups)
        count = max_detections if isinstance(max_detections, int) else torch.as_tensor(max_detections)
        best = keep_best(final, images[keep], count)
        keep, final = keep[best], final[best]
        moved = boxes[keep] if vote is None else vote(keep, boxes, scores, groups)
        rows = keep.numpy()
        return Results(self.images[rows], moved.numpy(), final.numpy(), self.labels[rows], self.seen)

    def by_image(self) -> "Results":
        """Sorts the detections by image, stably."""
        return self._rows(np.argsort(self.images, kind="stable"), self.seen)

    def _without_fragments(self, share: float) -> "Results":
        """Removes cut detections that are covered by uncut ones of the same image and class."""
        groups = self.images * (int(self.labels.max()) + 1) + self.labels
        boxes, scores, cut = (torch.from_numpy(array) for array in (self.boxes, self.scores, self.cut))
        return self._rows(remove_fragments(boxes, scores, torch.from_numpy(groups), cut, share).numpy(), self.seen)

    def of_image(self, image: int) -> np.ndarray:
        """Rows (k,) int64 of an image."""
        return np.flatnonzero(self.images == image)
