"""Class ids: contiguous in this package, arbitrary in the files of a dataset."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_det.system.errors import one_line

LONGEST = 60
"""Maximum length of a class name in messages and pictures."""

STORED = 200
"""Maximum length of a class name in a checkpoint."""

ANY_CLASS = -1
"""Label of an ignored region in which nothing is known of any class."""

ANY_NAME = "other class"
"""Words for `ANY_CLASS` in pictures."""


def check_names(names: Sequence[str]) -> None:
    """Refuses class names that cannot be saved in a checkpoint.

    Raises:
        ValueError: a name is not printable or is too long; the message shows the first such name.
    """
    wrong = next((name for name in names if not (name.isprintable() and 0 < len(name) <= STORED)), None)
    if wrong is not None:
        raise ValueError(
            f"class names must be printable texts of at most {STORED} characters, not '{one_line(wrong, LONGEST)}'"
        )


def name_of(label: int, names: Sequence[str]) -> str:
    """Name of a contiguous id, or words for `ANY_CLASS`."""
    return ANY_NAME if label == ANY_CLASS else names[label]


@dataclass(frozen=True)
class LabelMap:
    """Names and source ids of a dataset's classes, by their contiguous id (position, from 0).

    Background is not a class: detectors use label 0 for it internally and shift the others by 1.

    Args:
        names: of the classes; unique.
        source_ids: ids in the dataset's files; unique. None: the same as the contiguous ids.

    Raises:
        ValueError: no class, different numbers of names and ids, or a name or id that occurs twice.
    """

    names: tuple[str, ...]
    source_ids: tuple[int, ...]

    def __init__(self, names: Sequence[str], source_ids: Sequence[int] | None = None):
        ids = range(len(names)) if source_ids is None else source_ids
        object.__setattr__(self, "names", tuple(str(n) for n in names))
        object.__setattr__(self, "source_ids", tuple(int(i) for i in ids))
        if not self.names:
            raise ValueError("a dataset needs at least one class")
        if len(self.source_ids) != len(self.names):
            raise ValueError(f"{len(self.names)} class names but {len(self.source_ids)} source ids")
        for what, values in (("name", self.names), ("id", self.source_ids)):
            twice = sorted(str(v) for v, times in Counter(values).items() if times > 1)
            if twice:
                raise ValueError(f"class {what}s must be unique, but {_few(twice)} occurs twice")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def printable_names(self) -> tuple[str, ...]:
        """Names for messages and pictures; characters that cannot be shown are escaped."""
        return tuple(one_line(name, LONGEST) for name in self.names)

    @property
    def contiguous(self) -> dict[int, int]:
        """Mapping from source ids to contiguous ids."""
        return {source: number for number, source in enumerate(self.source_ids)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"names": list(self.names), "source_ids": list(self.source_ids)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LabelMap":
        """Undoes `to_dict`."""
        return cls(data["names"], data["source_ids"])

    def difference(self, other: "LabelMap") -> str:
        """Says how the names of ``other`` differ; empty if they are the same in the same order."""
        if self.names == other.names:
            return ""
        missing = [n for n in self.names if n not in other.names]
        extra = [n for n in other.names if n not in self.names]
        if not missing and not extra:
            return "the same classes in another order"
        parts = [f"misses {_few(missing)}"] * bool(missing) + [f"has also {_few(extra)}"] * bool(extra)
        return " and ".join(parts)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, LONGEST) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
