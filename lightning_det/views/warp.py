"""Views of the whole image, warped to one size."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.view import View


class Warp(Step):
    """Warps every image to one size, as SSD does: batches have a constant shape without padding.

    Args:
        size: (height, width), pixels.
    """

    def __init__(self, size: Sequence[int] = (300, 300)):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"views: Warp needs a (height, width) of at least one pixel, got {size}")
        self.canvas = self.shape = size[0], size[1]

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """One view."""
        height, width = self.shape
        scale = sqrt(height * width / (image.height * image.width))
        return [View(scale, (0, 0, image.width, image.height), shape=self.shape)]
