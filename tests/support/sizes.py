"""Annotations with the sizes of known datasets."""

from pathlib import Path

import numpy as np

from lightning_det.annotations import LabelMap
from lightning_det.annotations.store import AnnotationStore, Strings
from lightning_det.data.suggestion import suggest


def make_store(sizes, boxes):
    """Images of (width, height) with one list of ``xyxy`` boxes each; no files behind."""
    counts = [len(part) for part in boxes]
    rows = np.array([box for part in boxes for box in part], np.float64).reshape(-1, 4)
    names = [str(i) for i in range(len(sizes))]
    return AnnotationStore(
        root=Path(),
        files=Strings.pack(names),
        ids=Strings.pack(names),
        widths=np.array([s[0] for s in sizes], np.int32),
        heights=np.array([s[1] for s in sizes], np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=rows,
        labels=np.zeros(len(rows), np.int32),
        ignored=np.zeros(len(rows), bool),
        areas=(rows[:, 2:] - rows[:, :2]).prod(axis=1),
        label_map=LabelMap(["object"]),
    )


def random_store(width, height, sizes, seed=0, per_image=7):
    """Images of one size with boxes of the given sizes at random places, of random aspect."""
    rng = np.random.default_rng(seed)
    aspect = np.exp(rng.normal(0, 0.35, len(sizes)))
    sides = np.minimum(np.stack([sizes * aspect, sizes / aspect], axis=1), [width, height])
    corners = rng.random((len(sizes), 2)) * ([width, height] - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    parts = [boxes[i : i + per_image] for i in range(0, len(boxes), per_image)]
    return make_store([(width, height)] * len(parts), parts)


def of_store(store):
    sizes = np.sqrt((store.boxes[:, 2:] - store.boxes[:, :2]).prod(axis=1))
    return suggest(sizes, store.widths, store.heights)


def coco_like(count=3000):
    """41 % of the boxes below 32 pixels, 24 % above 96; a tenth below 13, as in COCO."""
    rng = np.random.default_rng(0)
    cuts = np.log([10, 32, 96, 450])
    group = rng.choice(3, count, p=[0.41, 0.35, 0.24])
    return random_store(640, 480, np.exp(cuts[group] + rng.random(count) * (cuts[group + 1] - cuts[group])))


DRONE = [(684, 547), (1764, 430), (1920, 1080), (3376, 1899), (4000, 2250)]
"""Sizes of the photographs of a real data set."""


def drone_like():
    """Cars of about 27 pixels in photographs of mixed size."""
    rng = np.random.default_rng(0)
    parts = []
    for width, height in DRONE:
        size = np.exp(rng.normal(np.log(27), 0.4, 40))
        corners = rng.random((40, 2)) * ([width, height] - size[:, None])
        parts.append(np.concatenate([corners, corners + size[:, None]], axis=1))
    return make_store(DRONE, parts)
