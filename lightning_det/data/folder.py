"""Images without annotations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import DatasetError, Problem
from lightning_det.annotations.store import AnnotationStore, Strings
from lightning_det.data.images import SUFFIXES, check_all, image_size


def read_folder(source: Path, labels: LabelMap) -> tuple[AnnotationStore, list[Problem]]:
    """One image, or all images of a folder and its subfolders, as a store without boxes.

    Args:
        source: image file or folder.
        labels: classes that will be looked for.

    Returns:
        The store, and the files that are no readable images.

    Raises:
        DatasetError: no such file or folder, or a folder without images.
    """
    if source.is_dir():
        root = source
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise DatasetError(f"{source}: no image ({', '.join(SUFFIXES)}) in this folder")
    elif source.is_file():
        root, paths = source.parent, [source]
    else:
        raise DatasetError(f"{source}: no such image or folder")
    sizes, problems = check_all(paths, image_size, "reading image headers")
    files = [str(p.relative_to(root)) for p, size in zip(paths, sizes, strict=True) if size is not None]
    widths, heights = np.array([s for s in sizes if s is not None], np.int32).reshape(-1, 2).T
    return without_boxes(root, files, widths, heights, labels), list(problems.values())


def without_boxes(
    root: Path, files: Sequence[str], widths: np.ndarray, heights: np.ndarray, labels: LabelMap
) -> AnnotationStore:
    """A store of images of which nothing but the size is known.

    Args:
        root: folder that ``files`` are relative to.
        files: names, also the ids.
        widths: (n,) int32, pixels.
        heights: (n,) int32, pixels.
        labels: classes that will be looked for.
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
