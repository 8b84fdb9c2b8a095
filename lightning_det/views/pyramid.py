"""Views of the whole image: at one scale, several, or one drawn from several."""

from collections.abc import Sequence
from copy import copy
from functools import cache
from itertools import combinations, pairwise
from math import inf
from typing import Literal

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.resolution import Resolution, check_resolution, is_finer, scale_factor
from lightning_det.views.step import IntSequence, Step
from lightning_det.views.view import View


class Pyramid(Step):
    """The whole image at each of several resolutions, finest first.

    One resolution is single-scale training, several are the image pyramid of SNIP (section 7.1) and of multi-scale
    testing.

    Args:
        resolutions: see `Resolution`.
        valid_ranges: (lower, upper) sizes in original pixels that each resolution learns from and detects; an upper
            bound of -1 is infinite. None: all sizes at every resolution.
        anchor_ranges: the ranges of the proposal network, if they differ from ``valid_ranges``.
        draw: ``all`` resolutions on every visit of the image, or ``one`` at random (training only).
        warm_epochs: number of epochs without ranges at the beginning of training, for anchors and for RoIs. SNIP
            fine-tunes a network that has learned from all sizes for 1 and 3 epochs (section 7.1).

    Raises:
        ValueError: no resolutions, an order that is wrong for every image, wrong number of ranges, empty ranges, or
            negative epochs, or epochs without ranges where there are none.
    """

    def __init__(
        self,
        resolutions: Sequence[Resolution],
        valid_ranges: Sequence[Sequence[float]] | None = None,
        anchor_ranges: Sequence[Sequence[float]] | None = None,
        draw: Literal["all", "one"] = "all",
        warm_epochs: Sequence[int] = (0, 0),
    ):
        if not isinstance(resolutions, Sequence) or isinstance(resolutions, str) or not resolutions:
            raise ValueError(f"views: resolutions are a list from the finest to the coarsest, got {resolutions!r}")
        for resolution in resolutions:
            try:
                check_resolution(resolution)
            except ValueError as error:
                raise ValueError(f"views: resolutions={list(resolutions)}: {error}") from error
        # Whether a factor or a size in pixels is finer depends on the image, see `out_of_order`.
        if any(is_finer(later, earlier) for earlier, later in combinations(resolutions, 2)):
            raise ValueError(f"views: resolutions must be given from the finest to the coarsest, got {resolutions}")
        for name, given in (("valid_ranges", valid_ranges), ("anchor_ranges", anchor_ranges)):
            if given is not None and len(given) != len(resolutions):
                raise ValueError(f"views: {len(resolutions)} resolutions need as many {name}, got {given}")
        if draw not in ("all", "one"):
            raise ValueError(f"views: draw must be all or one, got {draw!r}")
        self.resolutions = list(resolutions)
        count = len(self.resolutions)
        self.valid_ranges = [(0.0, inf)] * count if valid_ranges is None else [_range(r) for r in valid_ranges]
        self.anchor_ranges = [None] * count if anchor_ranges is None else [_range(r) for r in anchor_ranges]
        self.draws_one = draw == "one"
        if len(warm_epochs) != 2 or min(warm_epochs) < 0:
            raise ValueError(f"views: warm_epochs are epochs for anchors and for RoIs, got {warm_epochs}")
        if any(warm_epochs) and valid_ranges is None and anchor_ranges is None:
            raise ValueError(f"views: warm_epochs={list(warm_epochs)} are epochs without ranges, and there are none")
        self.warm_epochs = tuple(warm_epochs)

    def at(self, epoch: int) -> "Pyramid":
        """Returns the pyramid for an epoch of training, counted from 0: without ranges during the warm epochs."""
        pyramid = copy(self)
        cold_anchors, cold_rois = (epoch >= length for length in self.warm_epochs)
        everything = [(0.0, inf)] * len(self.resolutions)
        if not cold_rois:
            pyramid.valid_ranges = everything
        if not cold_anchors:
            pyramid.anchor_ranges = everything
        elif not cold_rois:
            pyramid.anchor_ranges = [a or v for a, v in zip(self.anchor_ranges, self.valid_ranges, strict=True)]
        return pyramid

    def out_of_order(self, widths: IntSequence, heights: IntSequence) -> list[bool]:
        """Finds images, given by their sizes in pixels, in which a later resolution is finer than an earlier one."""

        @cache
        def wrong(width: int, height: int) -> bool:
            factors = [scale_factor(width, height, r) for r in self.resolutions]
            return any(a < b for a, b in pairwise(factors))

        return [wrong(int(w), int(h)) for w, h in zip(widths, heights, strict=True)]

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """Views of the whole image, one per resolution drawn."""
        if not self.draws_one:
            return self._views(image.width, image.height, range(len(self.resolutions)))
        if rng is None:
            raise ValueError("views: draw=one is for training; inference needs every view, draw=all")
        return self._views(image.width, image.height, [int(rng.integers(len(self.resolutions)))])

    def many(
        self, images: Sequence[ImageRecord], views: Sequence[list[View]], rngs: Sequence[np.random.Generator | None]
    ) -> list[list[View]]:
        """Views of several images. Without draws, images of equal size have equal views."""
        if self.draws_one:
            return super().many(images, views, rngs)
        sizes = {(image.width, image.height) for image in images}
        equal = {size: self._views(*size, range(len(self.resolutions))) for size in sizes}
        return [list(equal[image.width, image.height]) for image in images]

    def _views(self, width: int, height: int, levels: Sequence[int]) -> list[View]:
        window = (0, 0, width, height)
        return [
            View(
                scale_factor(width, height, self.resolutions[level]),
                window,
                self.valid_ranges[level],
                self.anchor_ranges[level],
                level=level,
            )
            for level in levels
        ]


def _range(pair: Sequence[float]) -> tuple[float, float]:
    if len(pair) != 2:
        raise ValueError(f"views: a valid range is (lower, upper), got {list(pair)}")
    low, high = (float(value) for value in pair)
    high = inf if high == -1 else high
    if not 0 <= low < high:
        raise ValueError(f"views: a valid range is (lower, upper) with 0 <= lower < upper or -1, got {list(pair)}")
    return low, high
