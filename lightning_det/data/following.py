"""Batches of views that are planned from what a detector has seen in others."""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np

from lightning_det.data.dataset import Collate, Look, ViewDataset
from lightning_det.data.inference_batches import Limits, similar_together
from lightning_det.data.windows import Pixels
from lightning_det.protocols.structures import Batch
from lightning_det.views.planner import Planner
from lightning_det.views.view import View

Follow = Callable[[Batch, np.ndarray, int], Iterator[Batch]]
"""Maps a batch that a detector has seen, the probabilities (B, h, w) of its head `Focus` and their stride to batches of
further views of the same images."""


class Follower:
    """Makes the batches of `Planner.follow`, in this process: which they are is known only after the batch before.

    Images stay decoded until the next batch of views at the coarsest scale, since each may be looked at again at every
    finer one.

    Args:
        planner: of the views of inference.
        limits: of a batch.
        dataset: reads the images.
    """

    def __init__(self, planner: Planner, limits: Limits, dataset: ViewDataset):
        self.store = dataset.store
        self.planner = planner
        self.limits = limits
        self.collate = Collate(planner.canvas)
        self._read = dataset.pixels
        self._decoded: dict[int, Pixels] = {}
        self._dataset = ViewDataset(self.store, frames=self._pixels)

    def __call__(self, batch: Batch, probabilities: np.ndarray, stride: int) -> Iterator[Batch]:
        """Batches of the views that follow those of a batch, all of its images together; see `Follow`."""
        assert batch.levels is not None, "Collate sets it"
        if int(batch.levels.max()) == len(self.planner.scales.resolutions) - 1:
            self._decoded.clear()
        looks: list[Look] = []
        rows = zip(batch.index.tolist(), _views(batch), probabilities, strict=True)
        for image, view, found in rows:
            if not view.flip:  # its mirror image would lead to the same places
                later = self.planner.follow(self.store.record(image), view, found, stride)
                looks += [Look(image, v) for v in later]
        for group in similar_together(looks, self.limits):
            yield self.collate(self._dataset.__getitems__(group))

    def _pixels(self, image: int) -> Pixels:
        if image not in self._decoded:
            self._decoded[image] = self._read(image)
        return self._decoded[image]


def _views(batch: Batch) -> Iterator[View]:
    """The views of a batch, as far as `Step.follow` needs them."""
    assert batch.levels is not None, "Collate sets it"
    columns = (batch.windows.int().tolist(), batch.sizes.tolist(), batch.flips.tolist(), batch.levels.tolist())
    for scale, (window, size, flip, level) in zip(batch.scales.tolist(), zip(*columns, strict=True), strict=True):
        box = cast(tuple[int, int, int, int], tuple(window))
        yield View(scale, box, flip=flip, level=level, shape=(size[0], size[1]))
