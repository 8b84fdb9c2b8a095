"""The one place that knows how a dataset numbers its classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_det.system.errors import one_line

LONGEST = 60
"""Characters of a class name that are shown to people."""

STORED = 200
"""Characters of a class name that checkpoints hold."""


def check_names(names: Sequence[str]) -> None:
    """Refuses class names that no checkpoint of ours holds.

    Raises:
        ValueError: naming the first.
    """
    wrong = next((name for name in names if not (name.isprintable() and 0 < len(name) <= STORED)), None)
    if wrong is not None:
        raise ValueError(
            f"class names must be printable texts of at most {STORED} characters, not '{one_line(wrong, LONGEST)}'"
        )


@dataclass(frozen=True)
class LabelMap:
    """Classes of a dataset: contiguous id (position, from 0) to name and to the id that the source uses.

    Background is no class: detectors count it as their label 0 and shift the others by 1 inside.
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
    def shown(self) -> tuple[str, ...]:
        """Names for people: what a terminal or a picture cannot show is escaped."""
        return tuple(one_line(name, LONGEST) for name in self.names)

    @property
    def contiguous(self) -> dict[int, int]:
        """Source id to contiguous id."""
        return {source: number for number, source in enumerate(self.source_ids)}

    def to_dict(self) -> dict:
        """Plain data for a checkpoint."""
        return {"names": list(self.names), "source_ids": list(self.source_ids)}

    @classmethod
    def from_dict(cls, data: dict) -> "LabelMap":
        """Undoes `to_dict`."""
        return cls(data["names"], data["source_ids"])

    def difference(self, other: "LabelMap") -> str:
        """How the classes of ``other`` differ, by name, in words; empty where they are the same in the same order."""
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
