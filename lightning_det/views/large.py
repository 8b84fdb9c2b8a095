"""Cuts views that are too large for one pass into tiles."""

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.tiles import Tiles
from lightning_det.views.view import View


class LargeViews(Step):
    """Cuts views with too many pixels into overlapping tiles of the same scale; all other views stay whole.

    A pyramid's finest view of a large image may not fit into memory. A detector that has learned from
    chips or windows of a scale finds the same objects in tiles of that scale; each tile keeps the range of its view. An
    object no larger than the overlap lies entirely in at least one tile; ranges assign larger objects to coarser views.

    Args:
        megapixels: views with more megapixels are cut, unless a tile shows all of them; COCO's largest views have 2.8.
        size: side of a tile, pixels of the view.
        overlap: minimum share of a tile that its neighbour shows too.
    """

    keeps_shape = True

    def __init__(self, megapixels: float = 6.0, size: int = 2048, overlap: float = 0.25):
        if megapixels < 0:
            raise ValueError(f"views: LargeViews need megapixels >= 0, got {megapixels}")
        self.megapixels = megapixels
        self.tiles = Tiles(size, overlap)

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """The views, large ones replaced by their tiles."""
        return [part for view in views for part in (self.tiles(image, [view], rng) if self._large(view) else [view])]

    def _large(self, view: View) -> bool:
        return view.shape is None and view.size[0] * view.size[1] > self.megapixels * 1e6
