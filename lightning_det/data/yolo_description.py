"""Describes a YOLO dataset: its classes, its splits, and whether its labels have keypoints."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import DatasetError, NoSplitError
from lightning_det.data.kinds import KINDS
from lightning_det.data.text import is_text, read_text
from lightning_det.data.yolo_folders import folders_of_splits, missing_names, names_file, read_names

NOTHING = ("", "~", "null", "Null", "NULL")
"""Texts for a missing value in YAML."""


class Description(NamedTuple):
    """Content of a ``data.yaml``, or what stands for it."""

    file: Path
    """The ``data.yaml``, or the file with the names of the classes."""
    labels: LabelMap
    keypoints: int
    """Count of numbers after the box in every line of pose labels; 0 for other labels."""
    base: str
    """Folder that the paths of splits are relative to, on the machine where the file was written."""
    content: dict[str, Any]

    def split_paths(self, split: str) -> list[str]:
        """Folders of images, image files and text files that list images, which make up a split.

        Raises:
            DatasetError: there is no such split.
        """
        names = [split, *KINDS["val"]] if split in KINDS["val"] else [split]
        found = next((self.content[n] for n in names if self.content.get(n) not in (None, *NOTHING)), None)
        places = [found] if isinstance(found, str) else found
        if not isinstance(places, list) or not places or not all(isinstance(p, str) and is_text(p) for p in places):
            raise NoSplitError(
                f"{self.file}: no split {split!r}; it needs a folder of images, a list of them as text, or several"
            )
        return places


class _TextLoader(yaml.BaseLoader):
    """Loads every value as text; YAML would convert classes called no or 012 to other types."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        texts = [key for key in keys if isinstance(key, Hashable)]
        twice = next((key for key in texts if texts.count(key) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"the key {twice!r} occurs twice")
        if "<<" in texts:
            raise yaml.YAMLError("merged keys (<<) are not read; write the keys out")
        return super().construct_mapping(node, deep)


def read_description(root: Path) -> Description:
    """Reads the description of a dataset, ``data.yaml`` or the only YAML file.

    Without one, ``classes.txt`` or another file with a class name a line is read, and splits are the folders of images
    that there are.

    Args:
        root: the folder that holds it, or the file itself.

    Raises:
        DatasetError: there is no description, or it is not YAML or contradicts itself.
    """
    file = find_description(root)
    if file is None and (names := names_file(root)) is not None:
        return Description(names, read_names(names), 0, "", folders_of_splits(root))
    if file is None:
        raise DatasetError(
            f"{root / 'data.yaml'}: No such file or directory; dataset.root must hold data.yaml{missing_names(root)}"
        )
    text = read_text(file)
    try:
        content = yaml.load(text, Loader=_TextLoader)  # builds texts, lists and mappings only
    except Exception as error:  # damaged files raise other errors than YAMLError too
        raise DatasetError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file}: not a YOLO dataset description: no keys")
    try:
        labels = LabelMap(_names(content.get("names")))
    except ValueError as error:
        raise DatasetError(f"{file}: names: {error}") from error
    count = content.get("nc")
    if count not in (None, *NOTHING) and _integer(count) != len(labels):
        raise DatasetError(f"{file}: nc is {_quote(count)}, but names has {len(labels)} classes; one of them is wrong")
    base = content.get("path")
    if not content.keys() & {name for names in KINDS.values() for name in names}:
        content |= folders_of_splits(file.parent)
    return Description(file, labels, _keypoints(file, content), base if isinstance(base, str) else "", content)


def find_description(root: Path) -> Path | None:
    """Finds the description in a folder: ``data.yaml``, or the only YAML file; None if there is none.

    Raises:
        DatasetError: there are several YAML files.
    """
    if root.is_file():
        return root
    file = root / "data.yaml"
    if file.exists():
        return file
    others = sorted(f for kind in ("*.yaml", "*.yml") for f in root.glob(kind))
    if len(others) > 1:
        raise DatasetError(
            f"{file}: No such file or directory; dataset.root must hold data.yaml (there are "
            f"{', '.join(f.name for f in others)}: name one of them as dataset.root)"
        )
    return others[0] if others else None


def _names(names: Any) -> list[str]:
    """Returns the class names, in order, from a list or from a mapping of class numbers.

    Raises:
        ValueError: it is neither, or a name is not a text.
    """
    if isinstance(names, dict):
        by_number = {_integer(key): name for key, name in names.items()}
        if by_number.keys() != set(range(len(names))):
            raise ValueError(f"class numbers must run from 0 without gaps, got {_quote(', '.join(map(str, names)))}")
        names = [by_number[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise ValueError("it must be a list, or a mapping from class numbers")
    for number, name in enumerate(names):
        if not is_text(name):
            got = _quote(name) if isinstance(name, str) else f"a {type(name).__name__}"
            raise ValueError(f"class names must be texts, got {got}")
        if not name.strip():
            raise ValueError(f"class {number} has an empty name")
    return names


def _keypoints(file: Path, content: dict[str, Any]) -> int:
    """Computes from ``kpt_shape`` how many numbers the keypoints of an object have; 0 without it.

    Raises:
        DatasetError: ``kpt_shape`` is invalid, or is missing although there is ``flip_idx``.
    """
    shape = content.get("kpt_shape")
    if shape in (None, *NOTHING):
        if content.get("flip_idx") not in (None, *NOTHING, []):
            raise DatasetError(f"{file}: flip_idx says that the labels have keypoints, but kpt_shape is missing")
        return 0
    count, values = map(_integer, shape) if isinstance(shape, list) and len(shape) == 2 else (None, None)
    if count is None or values is None or not 1 <= count < 10_000 or values not in (2, 3):
        raise DatasetError(f"{file}: kpt_shape must be [number of keypoints, 2 or 3], got {_quote(shape)}")
    return count * values


def _integer(value: Any) -> int | None:
    """Converts a text of at most nine digits to a number; None for anything else."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else None


def _quote(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
