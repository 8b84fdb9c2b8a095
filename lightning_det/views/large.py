"""Views too large for one pass, in tiles."""

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.tiles import Tiles
from lightning_det.views.view import View


class LargeViews(Step):
    """Cuts views above a bound into overlapping tiles of their scale, and leaves all others whole.

    A pyramid's finest view of a large image may have more pixels than a machine holds. A detector that has learned from
    chips or windows of a scale finds the same objects in tiles of that scale; each tile keeps the range of its view. An
    object no larger than the overlap lies entirely in at least one tile, and ranges leave larger ones to coarser views.

    Args:
        megapixels: views with more are cut; COCO's largest have 2.8.
        size: side of a tile, pixels of the view.
        overlap: share of a tile that it has in common with its neighbour, at least.
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
