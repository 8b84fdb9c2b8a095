"""Names of splits, such as ``train2017`` and ``valid``, and what their images are for."""

import re
from collections.abc import Iterable

KINDS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Words in the names of splits."""


def kind_of(name: str) -> str | None:
    """``train``, ``val`` or ``test``; None for a name without these words."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((kind for kind, known in KINDS.items() if any(word in known for word in words)), None)


def by_kind(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of splits by what they are for. If no name says it, a single split is all training images."""
    listed = list(dict.fromkeys(names))
    found = {kind: [name for name in listed if kind_of(name) == kind] for kind in KINDS}
    found = {kind: own for kind, own in found.items() if own}
    return found or ({"train": listed} if len(listed) == 1 else {})
