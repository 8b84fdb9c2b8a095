"""Names of splits, such as ``train2017`` and ``valid``, and what their images are for."""

import re
from collections.abc import Iterable

from lightning_det.annotations.problems import DatasetError

KINDS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Words in the names of splits."""


def kind_of(name: str) -> str | None:
    """``train``, ``val`` or ``test``; None for a name without these words."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((kind for kind, known in KINDS.items() if any(word in known for word in words)), None)


def by_kind(names: Iterable[str], place: str) -> dict[str, str]:
    """Names of splits by what they are for. A dataset whose only split has another name is all training images.

    Args:
        names: of splits, as a reader takes them.
        place: where they are, for the message.

    Raises:
        DatasetError: two splits are for the same.
    """
    listed = list(dict.fromkeys(names))
    found: dict[str, str] = {}
    for name in listed:
        kind = kind_of(name)
        if kind is not None and kind in found:
            raise DatasetError(
                f"{place}: {found[kind]} and {name} may both be the {kind} split; say which with dataset.{kind}=NAME"
            )
        if kind is not None:
            found[kind] = name
    return found or ({"train": listed[0]} if len(listed) == 1 else {})
