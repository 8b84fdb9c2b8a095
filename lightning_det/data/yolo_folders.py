"""YOLO datasets without a ``data.yaml``: the names of their classes, and the folders of their splits."""

from pathlib import Path

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import DatasetError
from lightning_det.data.kinds import KINDS
from lightning_det.data.opening import SUFFIXES
from lightning_det.data.text import lines_of

NAMES = ("classes.txt", "obj.names", "_darknet.labels")
"""Files with a class name a line, as LabelImg, Darknet and Roboflow write them."""

PLACES = ("", "labels", "labels/*", "*", "*/labels")
"""Where they lie below the dataset's folder; LabelImg puts them among the labels."""

IMAGES, LABELS = ("images", "Images"), ("labels", "Labels")

SAMPLE = 100
"""Number of label files that are searched for class numbers where nothing names the classes."""


def names_file(root: Path) -> Path | None:
    """Finds the file with the names of the classes; None if there is none.

    Raises:
        DatasetError: two of them differ.
    """
    folders = [folder for place in PLACES for folder in (sorted(root.glob(place)) if place else [root])]
    found = [folder / name for folder in folders for name in NAMES if (folder / name).is_file()]
    for other in found[1:]:
        if read_names(other) != read_names(found[0]):
            raise DatasetError(f"{found[0]} and {other} name other classes; keep one of them, or write data.yaml")
    return found[0] if found else None


def read_names(file: Path) -> LabelMap:
    """Reads a file with a class name a line.

    Raises:
        DatasetError: it is empty, or a name occurs twice, or a line before a name is empty: class numbers count lines.
    """
    lines = list(lines_of(file))
    if gap := next((n for n, (number, _) in enumerate(lines, start=1) if number != n), None):
        raise DatasetError(f"{file}: line {gap} is empty, so class {gap - 1} has no name; name it, or remove the line")
    try:
        return LabelMap([line for _, line in lines])
    except ValueError as error:
        raise DatasetError(f"{file}: {error}") from error


def folders_of_splits(root: Path) -> dict[str, str]:
    """Folders of images by split, relative to ``root``.

    They are ``images/train``, ``train/images`` or ``train``, or the like for other splits. Without folders of splits,
    ``images`` or the folder itself is ``train``.
    """
    found = {}
    for kind, names in KINDS.items():
        places = [path for name in names for path in (*(f"{i}/{name}" for i in IMAGES), f"{name}/images", name)]
        if held := [place for place in places if holds_images(root / place)]:
            found[kind] = held[0]
    if found:
        return found
    held = [place for place in (*IMAGES, "obj_train_data", ".") if holds_images(root / place)]
    return {"train": held[0]} if held else {}


def holds_images(folder: Path) -> bool:
    """Whether there is an image below a folder."""
    return any(file.suffix.lower() in SUFFIXES for file in folder.rglob("*"))


def label_files(root: Path) -> list[Path]:
    """Some of the label files of a dataset, where its splits have them."""
    images = [Path(place).parts for place in folders_of_splits(root).values()]
    labels = [[label if part in IMAGES else part for part in place] for place in images for label in LABELS]
    places = dict.fromkeys(root.joinpath(*parts) for parts in (*labels, *images))
    folders = [place for place in places if place.is_dir()]
    files = [file for folder in folders for file in sorted(folder.glob("*.txt"))[:SAMPLE] if file.name not in NAMES]
    return [file for file in files if _class_numbers(file)]


def missing_names(root: Path) -> str:
    """Says what to write if only the names of the classes are missing; empty if there are no labels."""
    numbers = {number for file in label_files(root) for number in _class_numbers(file)}
    if not numbers:
        return ""
    return (
        f", or classes.txt with a class name a line: there are images and labels, with class numbers up to "
        f"{max(numbers)}, but nothing names the classes"
    )


def _class_numbers(file: Path) -> set[int]:
    """Class numbers of the lines of a label file; empty if it holds something else."""
    try:
        fields = [line.split() for _, line in lines_of(file)]
        [float(value) for line in fields for value in line]
    except (DatasetError, ValueError):
        return set()
    return {int(line[0]) for line in fields if len(line) >= 5 and line[0].isdigit()}
