"""Images without annotations."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import IMAGE_LEFT_OUT, DatasetError, Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.annotations.strings import Strings
from lightning_det.data.images import check_all, decoded_size
from lightning_det.data.opening import SUFFIXES
from lightning_det.data.text import is_file_name
from lightning_det.system.files import files_below

log = logging.getLogger("lightning_det")

PREDICTIONS = "predictions.json"
"""Name of the file of detections that `predict` writes next to its pictures."""


def read_folder(source: Path, labels: LabelMap) -> tuple[AnnotationStore, list[Problem]]:
    """Reads one image, or all images of a folder and its subfolders, as a store without boxes.

    Args:
        source: image file or folder.
        labels: classes to detect.

    Returns:
        The store, and problems: unreadable images, and folders of predictions, which are left out.

    Raises:
        DatasetError: the file or folder does not exist, or has no images.
    """
    problems: list[Problem] = []
    if source.is_dir():
        root, paths = source, _images_of(source, problems)
    elif source.is_file():
        root, paths = source.parent, [source]
    else:
        raise DatasetError(f"{source}: no such image or folder")
    # Images are decoded completely: one that is damaged after its header would stop the inference later.
    sizes, damaged = check_all(paths, decoded_size, "decoding images")
    files = [str(p.relative_to(root)) for p, size in zip(paths, sizes, strict=True) if size is not None]
    widths, heights = np.array([s for s in sizes if s is not None], np.int32).reshape(-1, 2).T
    return without_boxes(root, files, widths, heights, labels), problems + list(damaged.values())


def _images_of(folder: Path, problems: list[Problem]) -> list[Path]:
    """Finds the images below a folder, without those that `predict` has drawn."""
    files = files_below(folder)
    drawn = {file.parent for file in files if file.name == PREDICTIONS} - {folder}
    problems += [
        Problem(str(place), "", f"predicted, for it holds {PREDICTIONS}", IMAGE_LEFT_OUT) for place in sorted(drawn)
    ]
    files = [file for file in files if not drawn.intersection(file.parents)]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not images:
        raise DatasetError(f"{folder}: no image ({', '.join(SUFFIXES)}) in this folder")
    others = Counter(file.suffix.lower() or "no suffix" for file in files if file.suffix.lower() not in SUFFIXES)
    if others:
        log.info("no images by their names: %s", ", ".join(f"{count} x {kind}" for kind, count in others.most_common()))
    named = [file for file in images if all(map(is_file_name, file.relative_to(folder).parts))]
    for file in sorted(set(images) - set(named)):
        reason = f"{file.name!a} is too long for a file name with a suffix more, or not UTF-8"
        problems.append(Problem(ascii(str(file)).strip("'"), "", reason, IMAGE_LEFT_OUT))
    return named


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
