"""YOLO txt annotations, as Ultralytics and Roboflow write them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import BOX_LEFT_OUT, IMAGE_LEFT_OUT, DatasetError, Problem
from lightning_det.annotations.store import AnnotationStore, RawAnnotations
from lightning_det.data.images import SUFFIXES, check_all, image_size, progress
from lightning_det.data.text import is_file_name, is_text, lines_of
from lightning_det.files import files_below


class Yolo:
    """A folder with ``data.yaml``, ``images`` and ``labels``.

    ``data.yaml`` names the classes and, per split, a folder of images or a text file that lists them. The labels of
    ``.../images/x.jpg`` stand in ``.../labels/x.txt``, one object per line: class number, then centre and size, or
    the corners of a polygon, all as shares of the image's width and height. An image without such a file has no
    objects.

    Args:
        root: the folder.
    """

    def __init__(self, root: str):
        self.root = Path(os.path.abspath(root))

    def read(self, split: str) -> tuple[AnnotationStore, list[Problem]]:
        """Annotations of a split, and what is wrong with them.

        Args:
            split: a key of ``data.yaml``: ``train``, ``val`` or ``test``.

        Raises:
            DatasetError: ``data.yaml`` or the split's folder is missing or not of this form.
        """
        file, content = self._content()
        label_map = _label_map(file, content)
        problems: list[Problem] = []
        paths = self._images(file, content, split, problems)
        sizes, unreadable = check_all(paths, image_size, "reading image headers")
        problems.extend(unreadable.values())
        images = [(path, size) for path, size in zip(paths, sizes, strict=True) if size is not None]
        rows: list[tuple] = []
        for number, (path, size) in enumerate(progress(images, "reading annotations", len(images))):
            labels = _labels_of(path)
            for line, label, corners in _parse(labels, len(label_map), problems):
                with np.errstate(over="ignore"):
                    rows.append((number, labels, line, label, corners * np.tile(size, 2)))
        raw = RawAnnotations(
            root=self.root,
            files=[str(path.relative_to(self.root)) for path, _ in images],
            ids=[str(path.relative_to(self.root).with_suffix("")) for path, _ in images],
            widths=np.array([size[0] for _, size in images], np.int64),
            heights=np.array([size[1] for _, size in images], np.int64),
            image_of_box=np.array([r[0] for r in rows], np.int64),
            boxes=np.array([r[4] for r in rows], np.float64).reshape(-1, 4),
            labels=np.array([r[3] for r in rows], np.int32),
            ignored=np.zeros(len(rows), bool),
            areas=np.full(len(rows), np.nan),
            label_map=label_map,
            problems=problems,
        )
        return raw.judged(lambda row: (str(rows[row][1]), f"line {rows[row][2]}"))

    def _content(self) -> tuple[Path, dict]:
        file = self.root / "data.yaml"
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise DatasetError(f"{file}: {error.strerror}; dataset.root must hold data.yaml") from error
        except Exception as error:  # values that are not what their tags say raise many more than YAMLError
            raise DatasetError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
        if not isinstance(content, dict):
            raise DatasetError(f"{file}: not a YOLO dataset description: no keys")
        return file, content

    def _images(self, file: Path, content: dict, split: str, problems: list[Problem]) -> list[Path]:
        """Files of a split, sorted, each with an id of its own."""
        if not isinstance(content.get(split), str):
            raise DatasetError(f"{file}: no split {split!r}; it needs a folder of images or a list of them as text")
        place = self._place(file, content, split)
        if place.is_dir():
            listed = [("", p) for p in files_below(place) if p.suffix.lower() in SUFFIXES]
            problems += _without_image(place, [path for _, path in listed])
        else:
            listed = [(f"line {n}", Path(os.path.normpath(place.parent / line))) for n, line in lines_of(place)]
        paths: dict[Path, Path] = {}
        for record, path in listed:
            reason = None
            if not path.is_relative_to(self.root) or path == self.root:
                reason = f"{path} is not below {self.root}"
            elif not all(is_file_name(part) for part in path.parts):
                reason = f"{path.name!a} is too long for a file name, or not UTF-8"
            elif path.with_suffix("") in paths:
                reason = f"{path} has the same labels as {paths[path.with_suffix('')].name}, or is named twice"
            if reason is None:
                paths[path.with_suffix("")] = path
            else:
                problems.append(Problem(str(place if record else path), record, reason, IMAGE_LEFT_OUT))
        return sorted(paths.values())

    def _place(self, file: Path, content: dict, split: str) -> Path:
        """Where the images of a split are.

        Descriptions move between machines and tools write them relative to different folders, so the folder of
        ``data.yaml`` is tried with and without its ``path``, and without leading ``..``. Nothing outside the
        folder is ever read.
        """
        named = Path(content[split])
        inside = Path(*[part for part in named.parts if part != ".."])
        base = content.get("path")
        for candidate in (Path(base if isinstance(base, str) else "") / named, named, inside):
            place = Path(os.path.normpath(self.root / candidate))
            if place.is_relative_to(self.root) and (os.path.isdir(place) or os.path.isfile(place)):
                return place
        raise DatasetError(f"{file}: {split}: {content[split]!a} is neither a folder nor a file below {self.root}")


def _label_map(file: Path, content: dict) -> LabelMap:
    names = content.get("names")
    try:
        if isinstance(names, dict):
            ordered = sorted(names.items(), key=lambda item: int(item[0]))
            if [int(key) for key, _ in ordered] != list(range(len(ordered))):
                raise ValueError("class numbers must run from 0 without gaps")
            names = [name for _, name in ordered]
        if not isinstance(names, list):
            raise ValueError("it must be a list, or a mapping from class numbers")
        strange = [n for n in names if not (is_text(n) or isinstance(n, int | float))]
        if strange:
            raise ValueError(f"class names must be texts, got a {type(strange[0]).__name__}")
        return LabelMap(names)
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{file}: names: {error}") from error


def _labels_of(image: Path) -> Path:
    """Label file of an image: the last folder ``images`` of its path becomes ``labels``."""
    parts = list(image.parts)
    folders = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _without_image(folder: Path, images: list[Path]) -> list[Problem]:
    """Label files with objects for which a folder has no image; none where they do not have a folder of their own."""
    place = _labels_of(folder / "any").parent
    if place == folder or not place.is_dir():
        return []
    labels = set(map(_labels_of, images))
    alone = [f for f in files_below(place) if f.suffix == ".txt" and f.name != "classes.txt" and f not in labels]
    reason = f"no image of this name ({', '.join(SUFFIXES)}) in {folder}"
    return [Problem(str(file), "", reason, BOX_LEFT_OUT) for file in alone if file.is_file() and file.stat().st_size]


def _parse(file: Path, classes: int, problems: list[Problem]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (line, class, corners as shares (4,)) of every usable line."""
    if not file.exists():
        return
    try:
        if not file.is_file():
            raise DatasetError(f"{file}: not a regular file")
        lines = list(lines_of(file))
    except DatasetError as error:
        problems.append(Problem(str(file), "", str(error).removeprefix(f"{file}: "), BOX_LEFT_OUT))
        return
    for number, line in lines:
        fields = line.split()
        reason = None
        try:
            values = np.array([float(f) for f in fields[1:]])
            label = int(fields[0])
        except ValueError:
            reason = f"{line[:80]!r} is not a class number and shares of the image"
        else:
            if not 0 <= label < classes:
                reason = f"class {label} is not one of the {classes} classes"
            elif len(values) != 4 and (len(values) < 6 or len(values) % 2):
                reason = f"{len(values)} values behind the class: 4 make a box, pairs of 3 or more corners a polygon"
            elif len(values) == 4 and values.max() > 2:
                reason = f"{line[:80]!r} holds pixels: YOLO's values are shares of width and height"
        if reason is not None:
            problems.append(Problem(str(file), f"line {number}", reason, BOX_LEFT_OUT))
        elif len(values) == 4:
            with np.errstate(over="ignore", invalid="ignore"):
                corners = np.concatenate([values[:2] - values[2:] / 2, values[:2] + values[2:] / 2])
            yield number, label, corners
        else:
            points = values.reshape(-1, 2)
            yield number, label, np.concatenate([points.min(axis=0), points.max(axis=0)])
