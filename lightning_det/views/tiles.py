"""Fixed-size windows on a regular grid."""

from itertools import product
from math import inf
from operator import or_
from typing import cast

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.view import View, sqrt_areas

SMALLEST = 8
"""Minimum side of an object in the view of the whole image, pixels: smaller objects are not detected there."""


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Computes evenly spaced positions of the fewest tiles that cover ``length`` pixels with the given overlap."""
    tile = min(tile, length)
    step = max(1.0, tile * (1 - overlap))
    count = 1 + int(np.ceil((length - tile) / step))
    return [round(x) for x in np.linspace(0, length - tile, count)]


class Tiles(Step):
    """Cuts every view into overlapping square tiles; a view that fits in one tile stays whole.

    An object no larger than the overlap lies entirely in at least one tile. For larger objects, a view of the whole
    image, shrunk into one tile, can be added; inference detects in it the objects that no tile shows whole.

    Args:
        size: side of a tile, pixels of the view.
        overlap: minimum share of a tile that its neighbour shows too.
        background: probability that a tile without a box is used, in training; inference uses all tiles.
        whole: whether a view of the whole image is added if no view fits in one tile.
    """

    loses_boxes = True

    def __init__(self, size: int = 512, overlap: float = 0.25, background: float = 1.0, whole: bool = False):
        if size < 1 or not 0 <= overlap < 1 or not 0 <= background <= 1:
            raise ValueError(
                "views: tiles need size >= 1, 0 <= overlap < 1 and 0 <= background <= 1, "
                f"got {size}, {overlap} and {background}"
            )
        self.canvas = size
        self.size = size
        self.overlap = overlap
        self.background = background
        self.whole = whole

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """The tiles of all views."""
        tiles = [tile for view in views for tile in self._cut(view)]
        if self.whole and all(tile.window != view.window for view in views for tile in tiles):
            tiles.append(self._whole(views[-1], image, learning=rng is not None))
        if rng is None or self.background == 1:
            return tiles
        windows = np.array([t.window for t in tiles])[:, None]
        boxes = image.boxes[None]
        common = np.minimum(windows[..., 2:], boxes[..., 2:]) - np.maximum(windows[..., :2], boxes[..., :2])
        has_box = (common > 0).all(axis=2).any(axis=1)
        lucky = rng.random(len(tiles)) < self.background
        return [t for t, keep in zip(tiles, has_box | lucky, strict=True) if keep]

    def count_larger(self, image: ImageRecord, views: list[View]) -> int:
        """Counts the boxes of an image that are wider or higher than a tile of every view, without ignored ones."""
        if any(max(view.size) <= self.size for view in views):
            return 0
        sides = (image.boxes[~image.ignored, 2:] - image.boxes[~image.ignored, :2]).max(axis=1, initial=0)
        return int((sides > self.size / min(view.scale for view in views)).sum())

    def _whole(self, view: View, image: ImageRecord, learning: bool) -> View:
        """Shrinks the coarsest view into one tile.

        It learns objects that are larger than the overlap, and from the size of the smallest one on that no tile can
        show whole: a long and thin one has little area. At inference, `View.tiles` leaves to the tiles what they show.
        """
        x1, y1, x2, y2 = view.window
        low, high = view.valid_range
        scale, side = self.size / max(x2 - x1, y2 - y1), self._side(view)
        least = smallest = max(low, SMALLEST / scale)
        if learning:
            boxes = image.boxes[~image.ignored]
            long = boxes[(boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) > side]
            least = max(smallest, min(self.size * self.overlap / view.scale, sqrt_areas(long).min(initial=inf)))
        tiles = len(starts(x2 - x1, side, self.overlap)), len(starts(y2 - y1, side, self.overlap)), side
        return view._replace(scale=scale, valid_range=(min(least, high), high), level=view.level + 1, tiles=tiles)

    def _side(self, view: View) -> int:
        """Side of a tile in original pixels, rounded down, so that a tile never exceeds its canvas."""
        return max(1, int(self.size / view.scale + 1e-6))  # a view of just this size has it in spite of rounding

    def _cut(self, view: View) -> list[View]:
        x1, y1, x2, y2 = view.window
        side = self._side(view)
        width, height = min(side, x2 - x1), min(side, y2 - y1)
        columns = starts(x2 - x1, side, self.overlap)
        rows = starts(y2 - y1, side, self.overlap)
        tiles = []
        for y, x in product(rows, columns):
            cuts = (x > 0, y > 0, x1 + x + width < x2, y1 + y + height < y2)
            inner = cast(tuple[bool, bool, bool, bool], tuple(map(or_, cuts, view.inner)))
            tiles.append(view._replace(window=(x1 + x, y1 + y, x1 + x + width, y1 + y + height), inner=inner))
        return tiles
