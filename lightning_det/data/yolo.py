"""YOLO datasets with txt labels, as Ultralytics and Roboflow write them."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lightning_det.annotations.problems import IMAGE_LEFT_OUT, MENTION_LEFT_OUT, DatasetError, Problem
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.opening import SUFFIXES
from lightning_det.data.sizes import check_all, image_size
from lightning_det.data.text import is_file_name, lines_of, splits_of
from lightning_det.data.yolo_description import Description, read_description
from lightning_det.data.yolo_labels import Label, LabelFiles, read_labels
from lightning_det.system.files import files_below
from lightning_det.system.workload import progress

log = logging.getLogger("lightning_det")

ALL_BACKGROUND = "split taken as background"


class Yolo:
    """A folder with ``data.yaml``, ``images`` and ``labels``.

    ``data.yaml`` names the classes and, per split, a folder of images, a text file that lists them, or a list of such.
    The labels of ``.../images/x.jpg`` are in ``.../labels/x.txt`` or beside the image, one object per line: class
    number, then centre, width and height, or the corners of a polygon, all as shares of the image's width and height.
    With ``kpt_shape``, labels are poses: keypoints follow the box. An image without a label file has no objects.
    Without ``data.yaml``, ``classes.txt`` names the classes, and the folders tell the splits, see `read_description`.

    Args:
        root: the folder; or the description itself, which may then have another name than ``data.yaml``.
    """

    def __init__(self, root: str):
        path = Path(os.path.abspath(root))
        self.description = path
        self.root = path.parent if path.is_file() else path

    def read(self, split: str | Sequence[str]) -> tuple[AnnotationStore, list[Problem]]:
        """Reads the annotations of a split, and their problems.

        Args:
            split: a key of ``data.yaml``: ``train``, ``val`` or ``test``; or several, read as one.

        Raises:
            DatasetError: ``data.yaml`` or the split's folder is missing or invalid.
        """
        description = read_description(self.description)
        problems: list[Problem] = []
        files = LabelFiles(self.root)
        paths = self._list_images(description, splits_of(split), files, problems)
        sizes, unreadable = check_all(paths, image_size, "reading image headers")
        problems.extend(unreadable.values())
        images = [(path, size) for path, size in zip(paths, sizes, strict=True) if size is not None]
        labels = [files.choose(path, problems) for path, _ in images]
        rows: list[tuple[int, Path, Label]] = []
        for number, file in enumerate(progress(labels, "reading annotations", len(labels))):
            if file is not None:
                found = read_labels(file, len(description.labels), description.keypoints, problems)
                rows += [(number, file, label) for label in found]
        _refuse_keypoints(description, rows)
        unlabelled = labels.count(None)
        if unlabelled < len(images):  # otherwise a problem of the split reports it
            without = [path for (path, _), file in zip(images, labels, strict=True) if file is None]
            problems += files.find_misplaced(without, (problem.file for problem in problems))
        if images and unlabelled == len(images):
            problem = _background_problem(self.root, images[0][0], len(images), files)
            log.warning("%s", problem)
            # If there is a folder of labels, these images may really show no objects.
            if not any(folder.is_dir() for path, _ in images for folder in files.folders(path.parent)[:-1]):
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

    def _list_images(
        self, description: Description, splits: Sequence[str], files: LabelFiles, problems: list[Problem]
    ) -> list[Path]:
        """Lists the image files of some splits, sorted; no two of them have the same labels."""
        folders: list[Path] = []
        listed: list[tuple[Path, str, Path]] = []
        for split, text in [(name, text) for name in splits for text in description.split_paths(name)]:
            for found in self.find(description, split, text):
                if found.is_dir():
                    folders.append(found)
                    listed += [(path, "", path) for path in files_below(found) if path.suffix.lower() in SUFFIXES]
                elif found.suffix.lower() in SUFFIXES:
                    listed.append((found, "", found))
                else:
                    lines = lines_of(found)
                    listed += [(found, f"line {n}", self._find_listed(found, line, description)) for n, line in lines]
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
        images = sorted(paths.values())
        problems += dict.fromkeys(p for folder in folders for p in files.find_orphans(folder, images))
        return images

    def find(self, description: Description, split: str, text: str) -> list[Path]:
        """Finds the folder or file that a description gives for a split, or those that a pattern matches.

        Descriptions move between machines, and tools write paths relative to different folders. So the path is tried
        in the folder of ``data.yaml``, with and without its ``path``, and without ``..``. Nothing outside the folder
        is ever read.

        Raises:
            DatasetError: there is no such folder or file.
        """
        for named in _spellings(text):
            inside = Path(*[part for part in named.parts if part != ".."])
            for candidate in (description.base / named, named, inside, *_relative_to_base(named, description.base)):
                path = Path(os.path.normpath(self.root / candidate))
                if path.is_relative_to(self.root) and (os.path.isdir(path) or os.path.isfile(path)):
                    return [path]
                if path.is_relative_to(self.root) and (matching := _matching(self.root, path)):
                    return matching
        raise DatasetError(f"{description.file}: {split}: {text!a} is neither a folder nor a file below {self.root}")

    def _find_listed(self, file: Path, line: str, description: Description) -> Path:
        """Finds the image of a line of a list: relative to the list, to the dataset or to its ``path``."""
        candidates: list[Path] = []
        for named in _spellings(line):
            bases = (file.parent, self.root, self.root / description.base)
            tried = [base / named for base in bases]
            tried += [self.root / rest for rest in _relative_to_base(named, description.base)]
            candidates += [Path(os.path.normpath(path)) for path in tried]
        inside = [path for path in candidates if path.is_relative_to(self.root)]
        with_file = (path for path in inside if all(map(is_file_name, path.parts)) and path.is_file())
        return next(with_file, candidates[0])


def _matching(root: Path, pattern: Path) -> list[Path]:
    """Folders, images and lists below a folder that match a pattern such as ``images/*/*.jpg``; not a lone ``**``."""
    parts = pattern.relative_to(root).as_posix()
    if not any(character in parts for character in "*?["):
        return []
    kinds = (".txt", *SUFFIXES)
    return sorted(path for path in root.glob(parts) if path.is_dir() or path.suffix.lower() in kinds)


def _spellings(text: str) -> Iterator[Path]:
    """Yields a path as written, then without quotes, then with Windows separators replaced."""
    yield Path(text)
    bare = text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text
    if bare != text:
        yield Path(bare)
    if "\\" in bare:
        yield Path(bare.replace("\\", "/"))


def _relative_to_base(named: Path, base: str) -> list[Path]:
    """Makes a path of another machine relative to the dataset's folder there; empty if it lies elsewhere."""
    folder = Path(base.replace("\\", "/"))
    return [named.relative_to(folder)] if base and named.is_relative_to(folder) else []


def _background_problem(root: Path, image: Path, count: int, files: LabelFiles) -> Problem:
    """Makes the problem of a split in which no image has labels; it says where labels were searched."""
    looked = " and ".join(str(folder / f"{image.stem}.txt") for folder in files.folders(image.parent))
    images = f"none of the {count} images has" if count > 1 else "the image has not"
    return Problem(str(root), "", f"{images} a label file; looked for {looked}", ALL_BACKGROUND)


def _refuse_keypoints(description: Description, rows: Sequence[tuple[int, Path, Label]]) -> None:
    """Refuses labels of poses without ``kpt_shape``, which would be read as polygons with wrong boxes.

    Raises:
        DatasetError: every polygon could be a box and the same number of keypoints with visibility.
    """
    counts = {label.visibilities for *_, label in rows if label.polygon}
    if len(counts) == 1 and 0 not in counts:
        _, file, label = next(row for row in rows if row[2].polygon)
        raise DatasetError(
            f"{file}, line {label.line}: reads like a box and {label.visibilities} keypoints with their visibility, as "
            f"all lines of this kind do, but {description.file} has no kpt_shape; add kpt_shape: "
            f"[{label.visibilities}, 3]"
        )
