"""Annotations without files."""

import numpy as np

from lightning_det.annotations import LabelMap
from lightning_det.annotations.store import AnnotationStore, Strings


def make_store(tmp_path, sizes, boxes=()):
    """Images of (width, height) with rows of (image, x1, y1, x2, y2, ignored) in ascending order; no files behind."""
    rows = np.array(boxes, np.float64).reshape(-1, 6)
    counts = np.bincount(rows[:, 0].astype(int), minlength=len(sizes))
    return AnnotationStore(
        root=tmp_path,
        files=Strings.pack([f"{i}.png" for i in range(len(sizes))]),
        ids=Strings.pack([str(i) for i in range(len(sizes))]),
        widths=np.array([s[0] for s in sizes], np.int32),
        heights=np.array([s[1] for s in sizes], np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=rows[:, 1:5],
        labels=(np.arange(len(rows)) % 2).astype(np.int32),
        ignored=rows[:, 5].astype(bool),
        areas=(rows[:, 3:5] - rows[:, 1:3]).prod(axis=1),
        label_map=LabelMap(["cat", "dog"]),
        integer_ids=True,
    )
