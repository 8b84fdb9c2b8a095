"""Detections as COCO results, with numbered images or with the ids of an annotation file."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from lightning_det.annotations import AnnotationStore, LabelMap
from lightning_det.annotations.strings import Strings
from lightning_det.evaluation.files import coco_results
from lightning_det.evaluation.results import Results
from lightning_det.runs.sources import Source
from lightning_det.system.errors import UserError, one_line
from lightning_det.system.files import write_json

log = logging.getLogger("lightning_det")

RESULTS = "coco_results.json"
"""Detections as COCO's servers and tools read them."""

IMAGES = "coco_images.json"
"""The images and categories that results with numbered images refer to, in the form of an annotation file."""


class Ids(NamedTuple):
    """The ids of an annotation file."""

    file: Path
    images: Mapping[str, int | str]
    """By file name."""
    categories: Mapping[str, int]
    """By class name."""

    @classmethod
    def read(cls, file: Path, labels: LabelMap) -> "Ids":
        """Reads an annotation file.

        Args:
            file: a JSON file.
            labels: the detector's classes.

        Raises:
            UserError: it is no annotation file, or has none of the classes; the message names it.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))  # Windows writes a byte order mark
            images = {str(image["file_name"]): image["id"] for image in content["images"]}
            categories = {str(category["name"]): int(category["id"]) for category in content["categories"]}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"coco={file}: not an annotation file of COCO ({type(error).__name__}: {error}); it needs images with "
                "id and file_name, and categories with id and name"
            ) from error
        if not categories.keys() & set(labels.names):
            few = ", ".join(labels.printable_names[:5])
            raise UserError(f"coco={file}: has none of the detector's classes, which are {few}")
        return cls(file, images, categories)

    def of(self, name: str) -> int | str | None:
        """Returns the id of an image by its path, or by its file name alone if that is the file's name for it."""
        return self.images.get(name, self.images.get(PurePath(name).name))


def write_coco(source: Source, results: Sequence[Results], labels: LabelMap, folder: Path, ids: Ids | None) -> None:
    """Writes `RESULTS`, and `IMAGES` if images are numbered.

    Args:
        source: the images and videos; a frame of a video is an image of its own.
        results: detections, one for each part of the source.
        labels: the classes; their ids are those of the dataset that the detector was trained on.
        folder: to write into.
        ids: ids of images and categories. Detections in other images and of other classes are left out and counted.
            None: images are numbered from 1.
    """
    rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for part, found in zip(source.parts, results, strict=True):
        if ids is not None:
            rows += _with_ids(part.store, found, labels, ids)
            continue
        numbers = [str(len(images) + number + 1) for number in range(len(part.store))]
        store = replace(part.store, ids=Strings.pack(numbers), integer_ids=True)
        rows += coco_results(store, found)
        sizes = zip(store.files, store.widths.tolist(), store.heights.tolist(), strict=True)
        first = len(images) + 1
        images += [{"id": first + n, "file_name": f, "width": w, "height": h} for n, (f, w, h) in enumerate(sizes)]
    write_json(folder / RESULTS, rows, indent=None)
    if ids is None:
        named = zip(labels.names, labels.source_ids, strict=True)
        categories = [{"id": number, "name": name} for name, number in named]
        write_json(folder / IMAGES, {"images": images, "annotations": [], "categories": categories})


def _with_ids(store: AnnotationStore, results: Results, labels: LabelMap, ids: Ids) -> list[dict[str, Any]]:
    """Converts detections to COCO results with the ids of an annotation file."""
    images = [ids.of(name) for name in store.files]
    unknown = [name for name, number in zip(store.files, images, strict=True) if number is None]
    if len(unknown) == len(store):
        raise UserError(f"coco={ids.file}: has none of the images, such as {one_line(unknown[0])}")
    known = [number for number in images if number is not None]
    if len(set(known)) < len(known):
        raise UserError(f"coco={ids.file}: several images have the same file name, which is all that it names them by")
    foreign = [name for name in labels.names if name not in ids.categories]
    kept = np.array([number is not None for number in images])[results.images]
    kept &= np.array([name in ids.categories for name in labels.names])[results.labels]
    if not kept.all() or unknown:
        log.warning(
            "%s: %d detections are left out, in %d images and of %d classes that %s does not have: %s",
            *(RESULTS, (~kept).sum(), len(unknown), len(foreign), ids.file),
            ", ".join(map(one_line, [*unknown[:5], *foreign[:5]])),
        )
    categories = [ids.categories.get(name) for name in labels.names]
    return [
        {"image_id": images[results.images[row]], "category_id": categories[results.labels[row]]}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(results.scores[row])}
        for row, (x1, y1, x2, y2) in enumerate(results.boxes.astype(float).tolist())
        if kept[row]
    ]
