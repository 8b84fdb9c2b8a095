"""Finds and reads the label files of YOLO datasets."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_det.annotations.problems import BOX_LEFT_OUT, DatasetError, Problem
from lightning_det.data.opening import SUFFIXES
from lightning_det.data.text import lines_of
from lightning_det.system.files import files_below

FILE_LEFT_OUT = "label file left out"


class Label(NamedTuple):
    """A line of a label file."""

    line: int
    """Number of the line, counted from 1."""
    label: int
    """Class, counted from 0."""
    corners: np.ndarray
    """(4,) shares of the image's width and height, x1, y1, x2, y2."""
    polygon: bool
    """Whether the line is a polygon; the corners are then those of its bounding box."""
    visibilities: int
    """Number of keypoints if the line is read as a pose instead of a polygon; 0 if it cannot be a pose."""


class LabelFiles:
    """Finds the label files of images.

    The labels of ``.../images/x.jpg`` are in ``.../labels/x.txt`` or beside the image. The last folder called
    ``images`` counts, as in Ultralytics' code.

    Args:
        root: the dataset's folder; nothing above it is read.
    """

    def __init__(self, root: Path):
        self.root = root
        self._folders: dict[Path, list[Path]] = {}
        self._files: dict[Path, dict[str, Path]] = {}
        self._images: dict[Path, list[Path]] = {}

    def folders(self, folder: Path) -> list[Path]:
        """Folders in which the labels of a folder of images may be, the folder itself last."""
        if folder not in self._folders:
            parts = list(folder.relative_to(self.root).parts)
            last = max((n for n, part in enumerate(parts) if part.lower() == "images"), default=None)
            found = []
            if last is not None:
                above = self.root.joinpath(*parts[:last])
                # Some tools write Images and Labels.
                below = above.iterdir() if above.is_dir() else ()
                names = sorted(f.name for f in below if f.name.lower() == "labels" and f.is_dir())
                found = [above.joinpath(name, *parts[last + 1 :]) for name in reversed(names or ["labels"])]
            self._folders[folder] = [*found, folder]
        return self._folders[folder]

    def of(self, image: Path) -> list[Path]:
        """Existing label files of an image, the one in ``labels`` first."""
        found = (self._in(folder).get(image.stem) for folder in self.folders(image.parent))
        return [file for file in found if file is not None]

    def _in(self, folder: Path) -> dict[str, Path]:
        """Label files in a folder, by their names without suffix."""
        if folder not in self._files:
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            # In this order, x.txt overrides x.TXT.
            self._files[folder] = {f.stem: f for f in files if f.suffix.lower() == ".txt"}
        return self._files[folder]

    def choose(self, image: Path, problems: list[Problem]) -> Path | None:
        """The label file of an image; None if it has none. A second one with other content is added to the problems."""
        files = self.of(image)
        for other in files[1:]:
            if not _equal(files[0], other):
                reason = f"{image.name} has other labels in {files[0]}, which are used; keep one of the files"
                problems.append(Problem(str(other), "", reason, FILE_LEFT_OUT))
        return files[0] if files else None

    def find_orphans(self, folder: Path, images: Iterable[Path]) -> list[Problem]:
        """Finds label files that belong to a folder of images, but to none of its images."""
        used = {file for image in images for file in self.of(image)}
        below = {file for found in self.folders(folder) if found.is_dir() for file in files_below(found)}
        alone = sorted(f for f in below if f.suffix.lower() == ".txt" and f not in used and _holds_labels(f))
        reason = f"no image of this name ({', '.join(SUFFIXES)}) in {folder}"
        return [Problem(str(file), "", reason, BOX_LEFT_OUT) for file in alone]

    def find_misplaced(self, unlabelled: Iterable[Path], known: Iterable[str]) -> list[Problem]:
        """Finds label files elsewhere that have the name of an unlabelled image and belong to no other image.

        Args:
            unlabelled: images without a label file.
            known: files that are already reported as problems.
        """
        images: dict[str, list[Path]] = {}
        for image in unlabelled:
            images.setdefault(image.stem, []).append(image)
        reported = set(known)
        below = files_below(self.root) if images else ()
        found = sorted(f for f in below if f.suffix.lower() == ".txt" and f.stem in images and str(f) not in reported)
        alone = [file for file in found if not self._belongs(file) and _holds_labels(file)]
        reason = "{} has no label file, and this one is neither beside it nor in {}"
        return [
            Problem(str(file), "", reason.format(image, self.folders(image.parent)[0]), FILE_LEFT_OUT)
            for file in alone
            for image in images[file.stem]
        ]

    def _belongs(self, file: Path) -> bool:
        """Whether there is an image whose label file this is."""
        parts = list(file.parent.relative_to(self.root).parts)
        last = max((n for n, part in enumerate(parts) if part.lower() == "labels"), default=None)
        folders = [file.parent]
        if last is not None:
            above = self.root.joinpath(*parts[:last])
            folders += [f.joinpath(*parts[last + 1 :]) for f in above.iterdir() if f.name.lower() == "images"]
        return any(image.stem == file.stem for folder in folders for image in self._images_in(folder))

    def _images_in(self, folder: Path) -> list[Path]:
        if folder not in self._images:
            files = folder.iterdir() if folder.is_dir() else ()
            self._images[folder] = [f for f in files if f.suffix.lower() in SUFFIXES]
        return self._images[folder]


def _equal(file: Path, other: Path) -> bool:
    """Whether two files can be read and have the same content."""
    try:
        return file.is_file() and other.is_file() and file.read_bytes() == other.read_bytes()
    except OSError:
        return False


def _holds_labels(file: Path) -> bool:
    """Whether a file may hold labels: its first line has four numbers or more, or it cannot be read."""
    if not file.is_file():
        return False
    try:
        first = next(lines_of(file), (0, ""))[1]
    except DatasetError:
        return True
    numbers = 0
    for field in first.split():
        try:
            float(field)
            numbers += 1
        except ValueError:
            continue
    return numbers >= 4


def read_labels(file: Path, classes: int, keypoints: int, problems: list[Problem]) -> Iterator[Label]:
    """Yields every usable line of a label file.

    Args:
        file: one object per line: class number, then centre and size of its box, or the corners of a polygon.
        classes: number of classes.
        keypoints: count of numbers after the box in lines of pose labels; 0 for other labels.
        problems: a problem is added for each of the other lines.
    """
    try:
        lines = list(lines_of(file))
    except DatasetError as error:
        problems.append(Problem(str(file), "", str(error).removeprefix(f"{file}: "), BOX_LEFT_OUT))
        return
    for number, line in lines:
        try:
            label, values = _numbers(line, classes)
            box = values[:4] if len(values) == 4 or keypoints else None
            reason = _fault(line, values, keypoints)
            if reason:
                raise ValueError(reason)
        except ValueError as error:
            problems.append(Problem(str(file), f"line {number}", str(error), BOX_LEFT_OUT))
            continue
        if box is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                corners = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
            yield Label(number, label, corners, False, 0)
        else:
            points = values.reshape(-1, 2)
            corners = np.concatenate([points.min(axis=0), points.max(axis=0)])
            yield Label(number, label, corners, True, _visibilities(values))


def _numbers(line: str, classes: int) -> tuple[int, np.ndarray]:
    """Parses the class of a line, and the (n,) float64 values after it.

    Raises:
        ValueError: they are not numbers, or there is no such class.
    """
    fields = line.split()
    try:
        values = np.array([float(f) for f in fields])
        label = int(values[0])
        if label != values[0]:
            raise ValueError
    except (ValueError, OverflowError) as error:
        reason = f"{line[:80]!r} is not a class number and shares of the image, with spaces between them"
        raise ValueError(reason) from error
    if not 0 <= label < classes:
        raise ValueError(f"class {line.split()[0][:20]} is not one of the {classes} classes, which are counted from 0")
    return label, values[1:]


def _fault(line: str, values: np.ndarray, keypoints: int) -> str | None:
    """Says why values are neither a box nor a polygon; None if they are."""
    count = len(values)
    if keypoints:
        if count not in (4, 4 + keypoints):
            return f"{count} values after the class: 4 make a box, and kpt_shape asks for {keypoints} of keypoints"
        values = values[:4]
    elif count != 4 and (count < 6 or count % 2):
        more = "; a fifth may be the confidence or the track of a prediction" if count == 5 else ""
        return f"{count} values after the class: 4 make a box, pairs of 3 or more corners a polygon{more}"
    elif count == 6 and line.split()[-1].isdigit() and not all(field.isdigit() for field in line.split()):
        return "6 values after the class, the last a whole number: box, confidence and track of a prediction?"
    elif count > 4 and _origins(values) > 1:
        return f"{_origins(values)} corners at (0, 0): keypoints? data.yaml has no kpt_shape"
    # NaN is not larger than 2; it is reported with the box.
    if (values > 2).any():
        return f"{line[:80]!r} holds pixels: YOLO's values are shares of width and height"
    return None


def _origins(values: np.ndarray) -> int:
    """Counts a polygon's corners at (0, 0), without a last corner that repeats the first."""
    points = values.reshape(-1, 2)
    closed = (points[0] == points[-1]).all()
    return int((points[: len(points) - closed] == 0).all(axis=1).sum())


def _visibilities(values: np.ndarray) -> int:
    """Counts keypoints after the box, if every third number is a visibility of 0, 1 or 2; otherwise 0."""
    count, rest = divmod(len(values) - 4, 3)
    return count if rest == 0 and count > 1 and bool(np.isin(values[6::3], (0, 1, 2)).all()) else 0
