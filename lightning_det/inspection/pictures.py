"""Draws views of a strategy on a page of pictures."""

from collections.abc import Sequence

import numpy as np

from lightning_det.data.dataset import Look, ViewDataset
from lightning_det.data.opening import ImageError
from lightning_det.plotting.boxes import page
from lightning_det.plotting.key import with_key
from lightning_det.plotting.objects import class_key
from lightning_det.plotting.views import draw_view
from lightning_det.protocols.structures import State

CELL = (400, 1000)
"""Minimum and maximum of the longer side of a picture on the page, pixels: large views would hide small objects."""


def draw_page(dataset: ViewDataset, looks: Sequence[Look], count: int) -> np.ndarray | None:
    """Draws ``count`` views, spread over images and pyramid levels, above a key of their classes.

    Returns:
        (h, w, 3) uint8 RGB; None if no image can be read.
    """
    tiles, titles, shown = [], [], []
    names = dataset.store.label_map.names
    selected = _select_looks(looks, count)
    side = cell_side(selected)
    for look in selected:
        try:
            sample = dataset.__getitems__([look])[0]
        except ImageError:
            continue  # already listed among the problems
        pixels = sample.pixels.permute(1, 2, 0).numpy()
        tiles.append(draw_view(pixels, sample.targets, names, side))
        shown.append(sample.targets.labels)
        states = sample.targets.states
        titles.append(
            f"image {dataset.store.ids[look.image]}, x {look.view.scale:.2f}; boxes learned: "
            f"{(states == State.VALID).sum()}, not: {(states == State.INVALID).sum()}"
        )
    return with_key(page(tiles, titles), class_key(np.concatenate(shown), names)) if tiles else None


def cell_side(looks: Sequence[Look]) -> int:
    """Chooses the longer side of pictures, pixels: that of the largest view, within `CELL`."""
    return int(np.clip(max((max(look.view.size) for look in looks), default=0), *CELL))


def _select_looks(looks: Sequence[Look], count: int) -> list[Look]:
    """Selects at most ``count`` views, the same number of every level, sorted by image and level."""
    by_level: dict[int, list[Look]] = {}
    for look in looks:
        by_level.setdefault(look.view.level, []).append(look)
    selected = []
    for group in by_level.values():
        positions = np.linspace(0, len(group) - 1, -(-count // len(by_level))).round().astype(int)
        selected += [group[p] for p in np.unique(positions)]
    return sorted(selected[:count], key=lambda look: (look.image, look.view.level))
