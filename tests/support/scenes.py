"""Annotations and detections of small scenes."""

import numpy as np

from lightning_det.annotations import LabelMap
from lightning_det.annotations.store import AnnotationStore
from lightning_det.annotations.strings import Strings
from lightning_det.evaluation.results import Results


def make_store(tmp_path, images, classes=2):
    """A store of 640 x 480 images; each is a list of (x, y, width, height, class, ignored) without files behind."""
    rows = [row for image in images for row in image]
    table = np.array(rows, np.float64).reshape(-1, 6)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    return AnnotationStore(
        root=tmp_path,
        files=Strings.pack([f"{i}.jpg" for i in range(len(images))]),
        ids=Strings.pack([str(7 * i + 3) for i in range(len(images))]),
        widths=np.full(len(images), 640, np.int32),
        heights=np.full(len(images), 480, np.int32),
        offsets=np.cumsum([0, *map(len, images)]).astype(np.int64),
        boxes=boxes,
        labels=table[:, 4].astype(np.int32),
        ignored=table[:, 5].astype(bool),
        areas=table[:, 2:4].prod(axis=1),
        label_map=LabelMap([f"c{k}" for k in range(classes)], [10 * k + 1 for k in range(classes)]),
        integer_ids=True,
    )


def make_results(rows, seen):
    """Rows of (image, x, y, width, height, class, score)."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    boxes = np.concatenate([table[:, 1:3], table[:, 1:3] + table[:, 3:5]], axis=1)
    return Results(
        table[:, 0].astype(np.int64),
        boxes.astype(np.float32),
        table[:, 6].astype(np.float32),
        table[:, 5].astype(np.int64),
        np.array(seen, np.int64),
    )


def scene(folder):
    """Objects of all sizes in 5 classes, crowds, images without boxes, and a mediocre detector's 100 per image."""
    rng = np.random.default_rng(0)
    images, found = [], []
    for i in range(24):
        count = 0 if i % 6 == 0 else int(rng.integers(1, 14))
        size = np.exp(rng.uniform(np.log(6), np.log(250), (count, 1))) * rng.uniform(0.7, 1.4, (count, 2))
        corner = rng.uniform(0, [300, 200], (count, 2))
        labels = rng.integers(0, 5, count)
        images.append([(*c, *s, k, rng.random() < 0.12) for c, s, k in zip(corner, size, labels, strict=True)])
        for _ in range(100):
            label, score = int(rng.integers(0, 5)), rng.random()
            x, y, w, h = *rng.uniform(0, 300, 2), *rng.uniform(5, 200, 2)
            if count and rng.random() < 0.5:
                k = int(rng.integers(count))
                near = 0.12 * size[k].mean()
                (x, y), (w, h) = corner[k] + rng.normal(0, near, 2), size[k] * rng.uniform(0.8, 1.2, 2)
                label = labels[k] if rng.random() < 0.9 else label
                score = 0.3 + 0.7 * score
            found.append((i, x, y, w, h, label, score))
    store = make_store(folder, images, classes=5)
    # Class 3 is never found.
    results = make_results([row for row in found if row[5] != 3], range(24))
    return store, results
