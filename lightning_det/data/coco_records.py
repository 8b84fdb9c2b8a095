"""Images, categories and annotations of a COCO json file, record by record."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import BOX_LEFT_OUT, IMAGE_LEFT_OUT, DatasetError, Problem
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.data.cache import Annotations
from lightning_det.data.text import is_text


class _Row(NamedTuple):
    """A usable annotation."""

    record: int | str
    """Id of the annotation, or its position in brackets if it has no id."""
    image: int
    """Position of the image."""
    box: tuple[float, float, float, float]
    """``xyxy``, pixels."""
    label: int
    crowd: bool
    area: float
    """Square pixels; NaN where it is not given."""


class CocoFile:
    """Parses one json file and collects its problems. Image files are not read.

    Args:
        file: the json file.
        folder: of its images.
    """

    def __init__(self, file: Path, folder: Path):
        self.file = file
        self.folder = folder
        self.problems: list[Problem] = []
        self.left_out: set[int | str] = set()

    def read(self) -> Annotations:
        """Annotations of the file, in its order.

        Raises:
            DatasetError: it is not a COCO annotation file.
        """
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
            image_of_box=np.array([r.image for r in rows], np.int64),
            boxes=np.array([r.box for r in rows], np.float64).reshape(-1, 4),
            labels=np.array([r.label for r in rows], np.int32),
            ignored=np.array([r.crowd for r in rows], bool),
            areas=np.array([r.area for r in rows], np.float64),
            label_map=label_map,
            problems=self.problems,
        )
        return raw, [row.record for row in rows]

    def _load(self) -> Mapping[str, Any]:
        try:
            content = json.loads(self.file.read_bytes(), object_pairs_hook=_object_of)
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

    def _label_map(self, categories: list[Any]) -> LabelMap:
        needed = f'{self.file}: "categories" needs objects with a unique integer "id" and a unique "name"'
        for number, entry in enumerate(categories):
            if not (isinstance(entry, dict) and _is_integer(entry.get("id")) and is_text(entry.get("name"))):
                raise DatasetError(f"{needed}, but categories[{number}] is {_quote(entry)}")
        ordered = sorted(categories, key=lambda c: c["id"])
        try:
            return LabelMap([c["name"] for c in ordered], [c["id"] for c in ordered])
        except ValueError as error:
            raise DatasetError(f"{needed}: {error}") from error

    def _report(self, record: str, reason: str, action: str) -> None:
        self.problems.append(Problem(str(self.file), record, reason, action))

    def _images(self, entries: list[Any]) -> dict[int | str, dict[str, Any]]:
        """Usable entries by image id, in the file's order."""
        images: dict[int | str, dict[str, Any]] = {}
        written: set[str] = set()
        for number, entry in enumerate(entries):
            reason = image_fault(entry, self.folder)
            # Ids are kept as text: 1 and "1" are the same.
            if reason is None and str(entry["id"]) in written:
                reason = "image id occurs twice"
            if reason is None:
                written.add(str(entry["id"]))
                images[entry["id"]] = entry | {k: int(entry[k]) for k in ("width", "height")}
            else:
                key = _id_of(entry)
                if key is not None:
                    self.left_out.add(key)
                self._report(f"images[{number}]" if key is None else f"image {key}", reason, IMAGE_LEFT_OUT)
        return images

    def _annotations(
        self, entries: list[Any], images: Mapping[int | str, Any], contiguous: dict[int, int]
    ) -> list[_Row]:
        """Usable annotations, in the file's order.

        Annotations of an image that is left out are removed with it, without problems of their own.
        """
        position = {key: number for number, key in enumerate(images)}
        seen: set[int | str] = set()
        rows = []
        for number, entry in enumerate(entries):
            key = entry.get("id") if isinstance(entry, dict) else None
            if key is None:
                key = f"[{number}]"
            reason = None
            if not (_is_integer(key) or is_text(key)):
                key, reason = f"[{number}]", f"id {_quote(key)} is neither an integer nor a text"
            reason = reason or _annotation_fault(entry, contiguous)
            if reason is None and key in seen:
                reason = "annotation id occurs twice"
            if reason is None and entry["image_id"] not in position:
                if entry["image_id"] in self.left_out:
                    continue
                reason = f"image_id {_quote(entry['image_id'])} is no image of the file"
            if reason is not None:
                self._report(f"annotation {key}", reason, BOX_LEFT_OUT)
                continue
            seen.add(key)
            x, y, width, height = entry["bbox"]
            area = entry.get("area")
            rows.append(
                _Row(
                    key,
                    position[entry["image_id"]],
                    (x, y, x + width, y + height),
                    contiguous[entry["category_id"]],
                    bool(entry.get("iscrowd")),
                    np.nan if area is None else area,
                )
            )
        return rows


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of json from its keys and values.

    Raises:
        ValueError: a key occurs twice, so its value is ambiguous.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_quote(twice)} occurs twice in one object")
    return content


def _is_integer(value: Any) -> bool:
    """Whether a value is an integer that every part of the evaluation can hold; ``true`` is not one."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_integer(value)


def _quote(value: Any, longest: int = 80) -> str:
    """Formats a value for a message: in ASCII, because terminals cannot show every character, and truncated."""
    text = ascii(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _id_of(entry: Any) -> int | str | None:
    """Returns the id of an entry; None if it has no valid id."""
    key = entry.get("id") if isinstance(entry, dict) else None
    return key if _is_integer(key) or is_text(key) else None


def image_fault(entry: Any, folder: Path) -> str | None:
    """Says why an entry of ``images`` cannot be used; None if it can."""
    if not isinstance(entry, dict):
        return "entry is no object"
    for key in ("id", "file_name", "width", "height"):
        if key not in entry:
            return f'"{key}" is missing'
    if not (_is_integer(entry["id"]) or is_text(entry["id"])):
        return '"id" is neither an integer nor a text'
    sides = [entry["width"], entry["height"]]
    if not all(_is_number(side) and 1 <= side < 2**31 and side == int(side) for side in sides):
        return f"width {_quote(sides[0])} and height {_quote(sides[1])} must be positive integers"
    name = entry["file_name"]
    if not is_text(name) or not Path(name).name or Path(name).is_absolute() or ".." in Path(name).parts:
        return f"file_name {_quote(name)} must be a path below {folder}"
    return None


def _annotation_fault(entry: Any, contiguous: dict[int, int]) -> str | None:
    """Says why an entry of ``annotations`` cannot be used; None if it can."""
    if not isinstance(entry, dict):
        return "entry is no object"
    for key in ("image_id", "category_id", "bbox"):
        if key not in entry:
            return f'"{key}" is missing'
    if not (_is_integer(entry["image_id"]) or is_text(entry["image_id"])):
        return f"image_id {_quote(entry['image_id'])} is neither an integer nor a text"
    category = entry["category_id"]
    if not _is_integer(category) or category not in contiguous:
        return f"category_id {_quote(category)} is none of the file's categories"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        return f"bbox {_quote(box)} must be four numbers (x, y, width, height)"
    if entry.get("iscrowd") not in (0, 1, None):
        return f"iscrowd {_quote(entry['iscrowd'])} must be 0 or 1"
    area = entry.get("area")
    if area is not None and not (_is_number(area) and 0 <= area < np.inf):
        return f"area {_quote(area)} must be a number of square pixels, or missing"
    return None
