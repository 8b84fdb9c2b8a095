"""YOLO txt annotations, as Ultralytics and Roboflow write them."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lightning_det.annotations.problems import IMAGE_LEFT_OUT, MENTION_LEFT_OUT, DatasetError, Problem
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.images import SUFFIXES, check_all, image_size, progress
from lightning_det.data.text import is_file_name, lines_of, splits_of
from lightning_det.data.yolo_description import Description, describe
from lightning_det.data.yolo_labels import Label, LabelFiles, read_labels
from lightning_det.system.files import files_below

log = logging.getLogger("lightning_det")

ALL_BACKGROUND = "split taken as background"


class Yolo:
    """A folder with ``data.yaml``, ``images`` and ``labels``.

    ``data.yaml`` names the classes and, per split, a folder of images, a text file that lists them, or a list of such.
    The labels of ``.../images/x.jpg`` stand in ``.../labels/x.txt`` or beside the image, one object per line: class
    number, then centre and size, or the corners of a polygon, all as shares of the image's width and height. With
    ``kpt_shape`` they are labels of poses: keypoints follow the box. An image without such a file has no objects.

    Args:
        root: the folder, or its description, which may have another name than ``data.yaml``.
    """

    def __init__(self, root: str):
        place = Path(os.path.abspath(root))
        self.description = place
        self.root = place.parent if place.is_file() else place

    def read(self, split: str | Sequence[str]) -> tuple[AnnotationStore, list[Problem]]:
        """Annotations of a split, and what is wrong with them.

        Args:
            split: a key of ``data.yaml``: ``train``, ``val`` or ``test``; or several, read as one.

        Raises:
            DatasetError: ``data.yaml`` or the split's folder is missing or not of this form.
        """
        description = describe(self.description)
        problems: list[Problem] = []
        files = LabelFiles(self.root)
        paths = self._images(description, splits_of(split), files, problems)
        sizes, unreadable = check_all(paths, image_size, "reading image headers")
        problems.extend(unreadable.values())
        images = [(path, size) for path, size in zip(paths, sizes, strict=True) if size is not None]
        labels = [files.chosen(path, problems) for path, _ in images]
        rows: list[tuple[int, Path, Label]] = []
        for number, file in enumerate(progress(labels, "reading annotations", len(labels))):
            if file is not None:
                found = read_labels(file, len(description.labels), description.keypoints, problems)
                rows += [(number, file, label) for label in found]
        _refuse_keypoints(description, rows)
        unlabelled = labels.count(None)
        if unlabelled < len(images):  # else a problem of the split says so
            without = [path for (path, _), file in zip(images, labels, strict=True) if file is None]
            problems += files.elsewhere(without, (problem.file for problem in problems))
        if images and unlabelled == len(images):
            problem = _without_labels(self.root, images[0][0], len(images), files)
            log.warning("%s", problem)
            # Where there is a folder of labels, perhaps nothing is to be seen on these images.
            if not any(place.is_dir() for path, _ in images for place in files.places(path.parent)[:-1]):
                problems.append(problem)
        polygons = sum(label.polygon for *_, label in rows)
        for count, kind in ((unlabelled, "images without a label file, as background"), (polygons, "polygons' boxes")):
            if count:
                log.info("%s: %d %s", split, count, kind)
        shares = np.array([r[2].corners for r in rows], np.float64).reshape(-1, 4)
        pixels = np.array([images[r[0]][1] * 2 for r in rows], np.float64).reshape(-1, 4)
        with np.errstate(over="ignore"):
            boxes = shares * pixels
        raw = RawAnnotations(
            root=self.root,
            files=[str(path.relative_to(self.root)) for path, _ in images],
            ids=[str(path.relative_to(self.root).with_suffix("")) for path, _ in images],
            widths=np.array([size[0] for _, size in images], np.int64),
            heights=np.array([size[1] for _, size in images], np.int64),
            image_of_box=np.array([r[0] for r in rows], np.int64),
            boxes=boxes,
            labels=np.array([r[2].label for r in rows], np.int32),
            ignored=np.zeros(len(rows), bool),
            areas=np.full(len(rows), np.nan),
            label_map=description.labels,
            problems=problems,
        )
        return raw.check(lambda row: (str(rows[row][1]), f"line {rows[row][2].line}"))

    def _images(
        self, description: Description, splits: Sequence[str], files: LabelFiles, problems: list[Problem]
    ) -> list[Path]:
        """Files of some splits, sorted, each with an id of its own."""
        folders, listed = [], []
        for split, text in [(name, text) for name in splits for text in description.places(name)]:
            place = self._place(description, split, text)
            if place.is_dir():
                folders.append(place)
                listed += [(path, "", path) for path in files_below(place) if path.suffix.lower() in SUFFIXES]
            elif place.suffix.lower() in SUFFIXES:
                listed.append((place, "", place))
            else:
                listed += [(place, f"line {n}", self._listed(place, line, description)) for n, line in lines_of(place)]
        paths: dict[Path, Path] = {}
        for file, record, path in listed:
            reason, action = None, IMAGE_LEFT_OUT
            before = paths.get(path.with_suffix("")) if path.name else None
            if not path.is_relative_to(self.root) or path == self.root:
                reason = f"{path} is not below {self.root}"
            elif not all(is_file_name(part) for part in path.parts):
                reason = f"{path.name!a} is too long for a file name, or not UTF-8"
            elif before == path:
                reason, action = f"{path} is named twice", MENTION_LEFT_OUT
            elif before is not None:
                reason = f"{path} has the same labels as {before.name}"
            if reason is None:
                paths[path.with_suffix("")] = path
            else:
                problems.append(Problem(str(file), record, reason, action))
        found = sorted(paths.values())
        problems += dict.fromkeys(p for folder in folders for p in files.without_image(folder, found))
        return found

    def _place(self, description: Description, split: str, text: str) -> Path:
        """Where images of a split are.

        Descriptions move between machines and tools write them relative to different folders, so the folder of
        ``data.yaml`` is tried with and without its ``path``, and without ``..``. Nothing outside the folder is ever
        read.
        """
        for named in _readings(text):
            inside = Path(*[part for part in named.parts if part != ".."])
            for candidate in (description.base / named, named, inside, *_without_base(named, description.base)):
                place = Path(os.path.normpath(self.root / candidate))
                if place.is_relative_to(self.root) and (os.path.isdir(place) or os.path.isfile(place)):
                    return place
        raise DatasetError(f"{description.file}: {split}: {text!a} is neither a folder nor a file below {self.root}")

    def _listed(self, place: Path, line: str, description: Description) -> Path:
        """The image that a line of a list means: relative to the list, to the dataset or to its ``path``."""
        candidates = []
        for named in _readings(line):
            bases = (place.parent, self.root, self.root / description.base)
            tried = [base / named for base in bases]
            tried += [self.root / rest for rest in _without_base(named, description.base)]
            candidates += [Path(os.path.normpath(path)) for path in tried]
        inside = [path for path in candidates if path.is_relative_to(self.root)]
        with_file = (path for path in inside if all(map(is_file_name, path.parts)) and path.is_file())
        return next(with_file, candidates[0])


def _readings(text: str) -> Iterator[Path]:
    """A path as it stands, without quotes, and with the separators of Windows."""
    yield Path(text)
    bare = text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text
    if bare != text:
        yield Path(bare)
    if "\\" in bare:
        yield Path(bare.replace("\\", "/"))


def _without_base(named: Path, base: str) -> list[Path]:
    """A path of another machine, relative to the dataset's folder there."""
    folder = Path(base.replace("\\", "/"))
    return [named.relative_to(folder)] if base and named.is_relative_to(folder) else []


def _without_labels(root: Path, image: Path, count: int, files: LabelFiles) -> Problem:
    """Says where labels were looked for when no image has any."""
    looked = " and ".join(str(place / f"{image.stem}.txt") for place in files.places(image.parent))
    images = f"none of the {count} images has" if count > 1 else "the image has not"
    return Problem(str(root), "", f"{images} a label file; looked for {looked}", ALL_BACKGROUND)


def _refuse_keypoints(description: Description, rows: Sequence[tuple[int, Path, Label]]) -> None:
    """Refuses labels of poses without ``kpt_shape``: they would be read as polygons, whose boxes are elsewhere.

    Raises:
        DatasetError: all polygons would be a box and equally many keypoints with their visibility.
    """
    counts = {label.visibilities for *_, label in rows if label.polygon}
    if len(counts) == 1 and 0 not in counts:
        _, file, label = next(row for row in rows if row[2].polygon)
        raise DatasetError(
            f"{file}, line {label.line}: reads like a box and {label.visibilities} keypoints with their visibility, as "
            f"all lines of this kind do, but {description.file} has no kpt_shape; add kpt_shape: "
            f"[{label.visibilities}, 3]"
        )
