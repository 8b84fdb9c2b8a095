"""Datasets in COCO's layout: a json file of annotations and a folder of images per split."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_det.annotations.problems import IMAGE_LEFT_OUT, DatasetError, NoSplitError, Problem
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.cache import Annotations, read_cached
from lightning_det.data.coco_files import find_annotations, find_file, find_images, image_folders
from lightning_det.data.coco_records import CocoFile
from lightning_det.data.headers import sizes_of
from lightning_det.data.sizes import size_fault


class Coco:
    """A folder in COCO's layout, or a variant of it.

    Args:
        root: the folder.
        annotations: json file of a split, relative to ``root``; ``{split}`` is its name. None: the file is found, see
            `find_annotations`.
        images: folder of a split's images, relative to ``root``; ``{split}`` is its name. None: the folder is found
            that holds the annotated files, see `image_folders`.
    """

    def __init__(self, root: str, annotations: str | None = None, images: str | None = None):
        self.root = Path(root)
        self.annotations = annotations
        self.images = images
        for name, value in (("annotations", annotations), ("images", images)):
            try:
                (value or "").format(split="SPLIT")
            except (ValueError, LookupError, AttributeError) as error:
                raise ValueError(f"{name}={value}: the only placeholder is {{split}} ({error!r})") from error

    def read(self, split: str) -> tuple[AnnotationStore, list[Problem]]:
        """Reads the annotations of a split, and their problems.

        Crowd annotations become ignored regions; images without annotations are kept. An area that is missing or 0,
        as some tools write it, is that of the box.

        Raises:
            DatasetError: the annotation file is missing or not in COCO's format.
        """
        file = self._find_annotations(split)
        folders = self._image_folders(file, split)
        raw, records = read_cached(file, folders[0], lambda: CocoFile(file, folders[0]).read())
        raw = replace(raw, root=find_images(folders, raw.files))
        raw, records = _select_usable(file, raw, records)
        return raw.check(lambda row: (str(file), f"annotation {records[row]}"))

    def _find_annotations(self, split: str) -> Path:
        """The annotation file of a split."""
        if self.annotations is None:
            return find_annotations(self.root, split)
        file = self.root / self.annotations.format(split=split)
        if not file.is_file():
            raise NoSplitError(
                f"{file}: no such annotation file; dataset.source.annotations says that it is there, and the split "
                f"{split!r} must exist"
            )
        return file

    def _image_folders(self, file: Path, split: str) -> list[Path]:
        """Folders that may hold the images of a split; at least one."""
        if self.images is None:
            return image_folders(self.root, file, split)
        folder = self.root / self.images.format(split=split)
        if not folder.is_dir():
            raise DatasetError(
                f"{folder}: no such folder; dataset.source.images says that the images of {split!r} are there"
            )
        return [folder]


def _select_usable(file: Path, raw: RawAnnotations, records: Sequence[int | str]) -> Annotations:
    """Selects the images that exist, can be read and have the annotated size; the others become problems.

    Annotations of an image that is left out are removed with it, without problems of their own.
    """
    raw = replace(raw, files=[find_file(name, raw.root) for name in raw.files])
    sizes, unreadable = sizes_of(raw.root, raw.files)
    annotated = np.stack([raw.widths, raw.heights], axis=1)
    usable = (sizes == annotated).all(axis=1)
    problems = []
    for number in np.flatnonzero(~usable).tolist():
        name, path = raw.files[number], raw.root / raw.files[number]
        if number not in unreadable:
            (stated_width, stated_height), (width, height) = annotated[number].tolist(), sizes[number].tolist()
            reason = size_fault(path, (stated_width, stated_height), (width, height), name)
        elif not os.path.exists(path):
            reason = f"no file {name} in {raw.root}"
        else:
            problems.append(unreadable[number])
            continue
        problems.append(Problem(str(file), f"image {raw.ids[number]}", reason, IMAGE_LEFT_OUT))
    if usable.all():
        return raw, records
    images, rows = np.flatnonzero(usable).tolist(), np.flatnonzero(usable[raw.image_of_box]).tolist()
    selected = replace(
        raw,
        files=[raw.files[i] for i in images],
        ids=[raw.ids[i] for i in images],
        widths=raw.widths[images],
        heights=raw.heights[images],
        image_of_box=(np.cumsum(usable) - 1)[raw.image_of_box[rows]],
        boxes=raw.boxes[rows],
        labels=raw.labels[rows],
        ignored=raw.ignored[rows],
        areas=raw.areas[rows],
        problems=problems + raw.problems,
    )
    return selected, [records[row] for row in rows]
