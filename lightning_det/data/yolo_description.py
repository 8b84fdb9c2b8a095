"""``data.yaml`` of a YOLO dataset: its classes, its splits, and whether its labels have keypoints."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import DatasetError
from lightning_det.data.text import is_text, text_of

NOTHING = ("", "~", "null", "Null", "NULL")
"""How YAML writes that a key has no value."""

VALIDATION = ("val", "valid", "validation")
"""Names of one split."""


class Description(NamedTuple):
    """What a ``data.yaml`` says."""

    file: Path
    labels: LabelMap
    keypoints: int
    """Numbers behind the box in every line of pose labels; 0 for other labels."""
    base: str
    """Folder that the splits are relative to, on the machine where the file was written."""
    content: dict[str, Any]

    def places(self, split: str) -> list[str]:
        """Folders of images, or lists of them, that make up a split.

        Raises:
            DatasetError: there is no such split.
        """
        names = [split, *VALIDATION] if split in VALIDATION else [split]
        found = next((self.content[n] for n in names if self.content.get(n) not in (None, *NOTHING)), None)
        places = [found] if isinstance(found, str) else found
        if not isinstance(places, list) or not places or not all(isinstance(p, str) and is_text(p) for p in places):
            raise DatasetError(
                f"{self.file}: no split {split!r}; it needs a folder of images, a list of them as text, or several"
            )
        return places


class _Text(yaml.BaseLoader):
    """Takes every value for the text that is written there: as YAML has it, a class called no or 012 is no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        texts = [key for key in keys if isinstance(key, Hashable)]
        twice = next((key for key in texts if texts.count(key) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"the key {twice!r} occurs twice")
        if "<<" in texts:
            raise yaml.YAMLError("merged keys (<<) are not read; write the keys out")
        return super().construct_mapping(node, deep)


def describe(root: Path) -> Description:
    """Reads the description of a dataset.

    Args:
        root: the folder that holds it, or the file itself.

    Raises:
        DatasetError: there is none, or it contradicts itself.
    """
    file = _file_in(root)
    text = text_of(file)
    try:
        content = yaml.load(text, Loader=_Text)  # a loader of texts, lists and mappings; nothing else is made
    except Exception as error:  # damaged files raise more than YAMLError
        raise DatasetError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file}: not a YOLO dataset description: no keys")
    try:
        labels = LabelMap(_names(content.get("names")))
    except ValueError as error:
        raise DatasetError(f"{file}: names: {error}") from error
    count = content.get("nc")
    if count not in (None, *NOTHING) and _integer(count) != len(labels):
        raise DatasetError(f"{file}: nc is {_shown(count)}, but names has {len(labels)} classes; one of them is wrong")
    base = content.get("path")
    return Description(file, labels, _keypoints(file, content), base if isinstance(base, str) else "", content)


def _file_in(root: Path) -> Path:
    """The description in a folder: ``data.yaml``, or the only YAML file."""
    if root.is_file():
        return root
    file = root / "data.yaml"
    if file.exists():
        return file
    others = sorted(f for kind in ("*.yaml", "*.yml") for f in root.glob(kind))
    if len(others) == 1:
        return others[0]
    there = f" (there are {', '.join(f.name for f in others)}: name one of them as dataset.root)" if others else ""
    raise DatasetError(f"{file}: No such file or directory; dataset.root must hold data.yaml{there}")


def _names(names: Any) -> list[str]:
    if isinstance(names, dict):
        numbers = [_integer(key) for key in names]
        if sorted(n for n in numbers if n is not None) != list(range(len(names))):
            raise ValueError(f"class numbers must run from 0 without gaps, got {_shown(', '.join(map(str, names)))}")
        names = [name for _, name in sorted(zip(numbers, names.values(), strict=True), key=lambda pair: pair[0])]
    if not isinstance(names, list):
        raise ValueError("it must be a list, or a mapping from class numbers")
    for number, name in enumerate(names):
        if not is_text(name):
            got = _shown(name) if isinstance(name, str) else f"a {type(name).__name__}"
            raise ValueError(f"class names must be texts, got {got}")
        if not name.strip():
            raise ValueError(f"class {number} has an empty name")
    return names


def _keypoints(file: Path, content: dict) -> int:
    shape = content.get("kpt_shape")
    if shape in (None, *NOTHING):
        if content.get("flip_idx") not in (None, *NOTHING, []):
            raise DatasetError(f"{file}: flip_idx says that the labels have keypoints, but kpt_shape is missing")
        return 0
    numbers = [_integer(n) for n in shape] if isinstance(shape, list) and len(shape) == 2 else [None, None]
    if None in numbers or not 1 <= numbers[0] < 10_000 or numbers[1] not in (2, 3):
        raise DatasetError(f"{file}: kpt_shape must be [number of keypoints, 2 or 3], got {_shown(shape)}")
    return numbers[0] * numbers[1]


def _integer(value: Any) -> int | None:
    """A number written in digits; None for anything else."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else None


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
