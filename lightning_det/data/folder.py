"""Images without annotations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.annotations.strings import Strings
from lightning_det.data.sizes import check_all, decoded_size
from lightning_det.data.sources import Found


def read_images(found: Found, labels: LabelMap) -> tuple[AnnotationStore, list[Problem]]:
    """Reads the images among some files as a store without boxes.

    Args:
        found: the files.
        labels: classes to detect.

    Returns:
        The store, and a problem for each image that cannot be read.
    """
    # Images are decoded completely: one that is damaged after its header would stop the inference later.
    sizes, damaged = check_all(found.images, decoded_size, "decoding images")
    names = [found.name(file) for file, size in zip(found.images, sizes, strict=True) if size is not None]
    widths, heights = np.array([size for size in sizes if size is not None], np.int32).reshape(-1, 2).T
    return without_boxes(found.root, names, widths, heights, labels), list(damaged.values())


def without_boxes(
    root: Path, files: Sequence[str], widths: np.ndarray, heights: np.ndarray, labels: LabelMap
) -> AnnotationStore:
    """Makes a store of images without annotations.

    Args:
        root: folder that ``files`` are relative to.
        files: names, also the ids.
        widths: (n,) int32, pixels.
        heights: (n,) int32, pixels.
        labels: classes to detect.
    """
    return AnnotationStore(
        root=root,
        files=Strings.pack(files),
        ids=Strings.pack(files),
        widths=widths,
        heights=heights,
        offsets=np.zeros(len(files) + 1, np.int64),
        boxes=np.zeros((0, 4)),
        labels=np.zeros(0, np.int32),
        ignored=np.zeros(0, bool),
        areas=np.zeros(0),
        label_map=labels,
    )
