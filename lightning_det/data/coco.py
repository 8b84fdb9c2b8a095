"""COCO json annotations."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import BOX_LEFT_OUT, IMAGE_LEFT_OUT, DatasetError, Problem
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.cache import Annotations, cached
from lightning_det.data.headers import sizes_of
from lightning_det.data.images import size_fault
from lightning_det.data.text import is_text


class Coco:
    """A folder in COCO's layout.

    Args:
        root: the folder.
        annotations: json file of a split, relative to ``root``; ``{split}`` is its name.
        images: folder of a split's images, relative to ``root``; ``{split}`` is its name.
    """

    def __init__(self, root: str, annotations: str = "annotations/instances_{split}.json", images: str = "{split}"):
        self.root = Path(root)
        self.annotations = annotations
        self.images = images
        for name, value in (("annotations", annotations), ("images", images)):
            try:
                value.format(split="SPLIT")
            except (ValueError, LookupError, AttributeError) as error:
                raise ValueError(f"{name}={value}: the only placeholder is {{split}} ({error!r})") from error

    def read(self, split: str) -> tuple[AnnotationStore, list[Problem]]:
        """Annotations of a split, and what is wrong with them.

        Crowd annotations become ignored regions; images without annotations stay.

        Raises:
            DatasetError: the annotation file is missing or not of COCO's form.
        """
        file = self.root / self.annotations.format(split=split)
        folder = self.root / self.images.format(split=split)
        if not file.is_file():
            raise DatasetError(
                f"{file}: no such annotation file; dataset.root must hold {self.annotations.format(split='SPLIT')} "
                f"and {self.images.format(split='SPLIT')}/, and the split {split!r} must exist"
            )
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; dataset.images says that the images of {split!r} are there")
        raw, records = _with_usable_images(file, *cached(file, folder, lambda: _Parser(file, folder).annotations()))
        return raw.check(lambda row: (str(file), f"annotation {records[row]}"))


def _with_usable_images(file: Path, raw: RawAnnotations, records: Sequence[int | str]) -> Annotations:
    """Annotations of the images that are there, can be read and have the annotated size; the others become problems.

    Annotations of an image that is left out go with it: the image is named, they are not.
    """
    raw = replace(raw, files=[_file_of(name, raw.root) for name in raw.files])
    sizes, unreadable = sizes_of(raw.root, raw.files)
    annotated = np.stack([raw.widths, raw.heights], axis=1)
    usable = (sizes == annotated).all(axis=1)
    problems = []
    for number in np.flatnonzero(~usable):
        name, path = raw.files[number], raw.root / raw.files[number]
        if number not in unreadable:
            reason = size_fault(path, tuple(annotated[number].tolist()), tuple(sizes[number].tolist()), name)
        elif not os.path.exists(path):
            reason = f"no file {name} in {raw.root}"
        else:
            problems.append(unreadable[number])
            continue
        problems.append(Problem(str(file), f"image {raw.ids[number]}", reason, IMAGE_LEFT_OUT))
    if usable.all():
        return raw, records
    images = np.flatnonzero(usable)
    rows = np.flatnonzero(usable[raw.image_of_box])
    kept = replace(
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
    return kept, [records[row] for row in rows]


class _Parser:
    """Reads one json file, record by record."""

    def __init__(self, file: Path, folder: Path):
        self.file = file
        self.folder = folder
        self.problems: list[Problem] = []
        self.left_out: set[int | str] = set()

    def annotations(self) -> Annotations:
        """What the file says. Its images are not looked at."""
        content = self._load()
        label_map = self._label_map(content["categories"])
        images = self._images(content["images"])
        rows = self._annotations(content["annotations"], images, label_map.contiguous)
        raw = RawAnnotations(
            root=self.folder,
            files=[i["file_name"] for i in images.values()],
            ids=list(images),
            widths=np.array([i["width"] for i in images.values()], np.int64),
            heights=np.array([i["height"] for i in images.values()], np.int64),
            image_of_box=np.array([r[1] for r in rows], np.int64),
            boxes=np.array([r[2] for r in rows], np.float64).reshape(-1, 4),
            labels=np.array([r[3] for r in rows], np.int32),
            ignored=np.array([r[4] for r in rows], bool),
            areas=np.array([r[5] for r in rows], np.float64),
            label_map=label_map,
            problems=self.problems,
        )
        return raw, [row[0] for row in rows]

    def _load(self) -> Mapping[str, Any]:
        try:
            content = json.loads(self.file.read_bytes(), object_pairs_hook=_unique)
        except OSError as error:
            raise DatasetError(f"{self.file}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{self.file}: not valid JSON ({error}); copy or export it anew") from error
        if not isinstance(content, dict):
            raise DatasetError(f"{self.file}: not a COCO annotation file: the json is no object")
        for key in ("images", "annotations", "categories"):
            if not isinstance(content.get(key), list):
                raise DatasetError(f'{self.file}: not a COCO annotation file: "{key}" is missing or no list')
        return content

    def _label_map(self, categories: list) -> LabelMap:
        needed = f'{self.file}: "categories" needs objects with a unique integer "id" and a unique "name"'
        for number, entry in enumerate(categories):
            if not (isinstance(entry, dict) and _is_integer(entry.get("id")) and is_text(entry.get("name"))):
                raise DatasetError(f"{needed}, but categories[{number}] is {_shown(entry)}")
        ordered = sorted(categories, key=lambda c: c["id"])
        try:
            return LabelMap([c["name"] for c in ordered], [c["id"] for c in ordered])
        except ValueError as error:
            raise DatasetError(f"{needed}: {error}") from error

    def _bad(self, record: str, reason: str, action: str) -> None:
        self.problems.append(Problem(str(self.file), record, reason, action))

    def _images(self, entries: list) -> dict[int | str, dict]:
        """Usable entries by image id, in the file's order."""
        images: dict[int | str, dict] = {}
        written: set[str] = set()
        for number, entry in enumerate(entries):
            reason = _image_fault(entry, self.folder)
            # Ids are kept as text: 1 and "1" are the same.
            if reason is None and str(entry["id"]) in written:
                reason = "image id occurs twice"
            if reason is None:
                written.add(str(entry["id"]))
                images[entry["id"]] = entry | {k: int(entry[k]) for k in ("width", "height")}
            else:
                key = entry.get("id") if isinstance(entry, dict) else None
                named = _is_integer(key) or is_text(key)
                if named:
                    self.left_out.add(key)
                self._bad(f"image {key}" if named else f"images[{number}]", reason, IMAGE_LEFT_OUT)
        return images

    def _annotations(self, entries: list, images: dict, contiguous: dict[int, int]) -> list[tuple]:
        """Usable rows (id, image position, box, label, crowd, area).

        Annotations of an image that is left out go with it: the image is named, they are not.
        """
        position = {key: number for number, key in enumerate(images)}
        seen: set = set()
        rows = []
        for number, entry in enumerate(entries):
            key = entry.get("id") if isinstance(entry, dict) else None
            if key is None:
                key = f"[{number}]"
            reason = None
            if not (_is_integer(key) or is_text(key)):
                key, reason = f"[{number}]", f"id {_shown(key)} is neither a number nor a string"
            reason = reason or _annotation_fault(entry, contiguous)
            if reason is None and key in seen:
                reason = "annotation id occurs twice"
            if reason is None and entry["image_id"] not in position:
                if entry["image_id"] in self.left_out:
                    continue
                reason = f"image_id {_shown(entry['image_id'])} is no image of the file"
            if reason is not None:
                self._bad(f"annotation {key}", reason, BOX_LEFT_OUT)
                continue
            seen.add(key)
            x, y, width, height = entry["bbox"]
            area = entry.get("area")
            rows.append(
                (
                    key,
                    position[entry["image_id"]],
                    (x, y, x + width, y + height),
                    contiguous[entry["category_id"]],
                    bool(entry.get("iscrowd")),
                    np.nan if area is None else area,
                )
            )
        return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of json; of a key that occurs twice nobody knows which value is meant."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_shown(twice)} occurs twice in one object")
    return content


def _file_of(name: str, folder: Path) -> str:
    """The file of a folder that a name means, or the name where there is none.

    Some tools write the separators of Windows, or the names of the folder and of those that it lies in.
    """
    if "/" not in name and "\\" not in name:
        return name
    for path in (Path(name), Path(name.replace("\\", "/"))):
        parts = path.parts
        ways = [0, *(n for n in range(1, len(parts)) if parts[:n] == folder.parts[-n:])]
        found = next((Path(*parts[n:]) for n in ways if os.path.isfile(folder.joinpath(*parts[n:]))), None)
        if found is not None and not found.is_absolute() and ".." not in parts:
            return found.as_posix()
    return name


def _is_integer(value: Any) -> bool:
    """An integer that every part of the evaluation can hold; ``true`` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_integer(value)


def _shown(value: Any, longest: int = 80) -> str:
    """A value for a message; `ascii` because the terminal may not show it, cut off because it may be anything."""
    text = ascii(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _image_fault(entry: Any, folder: Path) -> str | None:
    if not isinstance(entry, dict):
        return "entry is no object"
    for key in ("id", "file_name", "width", "height"):
        if key not in entry:
            return f'"{key}" is missing'
    if not (_is_integer(entry["id"]) or is_text(entry["id"])):
        return '"id" is neither a number nor a string'
    sides = [entry["width"], entry["height"]]
    if not all(_is_number(side) and 1 <= side < 2**31 and side == int(side) for side in sides):
        return f"width {_shown(sides[0])} and height {_shown(sides[1])} must be positive integers"
    name = entry["file_name"]
    if not is_text(name) or not Path(name).name or Path(name).is_absolute() or ".." in Path(name).parts:
        return f"file_name {_shown(name)} must be a path below {folder}"
    return None


def _annotation_fault(entry: Any, contiguous: dict[int, int]) -> str | None:
    if not isinstance(entry, dict):
        return "entry is no object"
    for key in ("image_id", "category_id", "bbox"):
        if key not in entry:
            return f'"{key}" is missing'
    if not (_is_integer(entry["image_id"]) or is_text(entry["image_id"])):
        return f"image_id {_shown(entry['image_id'])} is neither a number nor a string"
    category = entry["category_id"]
    if not _is_integer(category) or category not in contiguous:
        return f"category_id {_shown(category)} is none of the file's categories"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        return f"bbox {_shown(box)} must be four numbers (x, y, width, height)"
    if entry.get("iscrowd") not in (0, 1, None):
        return f"iscrowd {_shown(entry['iscrowd'])} must be 0 or 1"
    area = entry.get("area")
    if area is not None and not (_is_number(area) and 0 <= area < np.inf):
        return f"area {_shown(area)} must be a number of square pixels, or missing"
    return None
