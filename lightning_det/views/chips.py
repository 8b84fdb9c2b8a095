"""SNIPER's chips: small windows around the objects of each scale, and around background that resembles objects."""

from collections.abc import Callable, Sequence
from math import ceil, floor, inf
from typing import Literal

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.chip_labels import adopt_orphans, assign_boxes, overlaps
from lightning_det.views.cover import Chip, cover, is_enclosable
from lightning_det.views.step import Step
from lightning_det.views.view import Range, View

MIN_SIDE = 2.0
"""At the finest scale, thinner boxes get no chip of their own, original pixels."""


class Chips(Step):
    """Cuts every view of a pyramid into the fewest chips that enclose the boxes of its valid range (SNIPER, section 3).

    A box gets a chip at every scale whose valid range contains its size, if a chip there can enclose it and show it
    large enough to learn from. A box without such a scale is an orphan.

    If an image has proposals, negative chips are cut around those that no positive chip of their scale covers. Every
    epoch shows a few of them at random.

    Args:
        size: side of a chip, pixels of the view.
        stride: distance of candidate positions, pixels of the view; a pair (lower, upper): drawn for every image.
        labels: boxes are valid in every chip that encloses them (``enclosed``), or in the one chip of a scale that
            shows most of them (``one_chip``, the reference code).
        orphans: are learned at the ``coarsest`` scale, if one of its chips shows them large enough, or not at all
            (``drop``, the reference code).
        negatives: maximum number of negative chips per image and epoch.
        dense: a negative chip must contain more proposals than this: (finest scale, other scales).
        covered: a proposal is covered by a positive chip that encloses it (``enclosed``), or that shows a pixel of it
            (``touched``, the reference code).
        backgrounds: whether images without boxes contribute negative chips.
        min_side: minimum side of the visible part of a box to learn from, pixels of the chip (see `targets`).
    """

    needs_all_resolutions = True
    loses_boxes = True

    def __init__(
        self,
        size: int = 512,
        stride: int | Sequence[int] = 32,
        labels: Literal["enclosed", "one_chip"] = "enclosed",
        orphans: Literal["coarsest", "drop"] = "coarsest",
        negatives: int = 2,
        dense: Sequence[int] = (25, 10),
        covered: Literal["enclosed", "touched"] = "enclosed",
        backgrounds: bool = False,
        min_side: float = 0.0,
    ):
        low, high = (stride, stride) if isinstance(stride, int) else stride
        if not 1 <= low <= high < size:
            raise ValueError(f"views: chips need 1 <= stride < size, got stride {stride} and size {size}")
        if negatives < 0 or len(dense) != 2 or min(dense) < 0:
            raise ValueError(f"views: chips need negatives >= 0 and dense >= 0 twice, got {negatives} and {dense}")
        if min_side < 0:
            raise ValueError(f"views: chips need min_side >= 0, got {min_side}")
        for name, value, known in (
            ("labels", labels, ("enclosed", "one_chip")),
            ("orphans", orphans, ("coarsest", "drop")),
            ("covered", covered, ("enclosed", "touched")),
        ):
            if value not in known:
                raise ValueError(f"views: {name} must be {' or '.join(known)}, got {value!r}")
        self.canvas = size
        self.size = size
        self.stride = (low, high)
        self.labels = labels
        self.orphans = orphans
        self.negatives = negatives
        self.uses_proposals = negatives > 0
        self.dense = tuple(dense)
        self.covered = covered
        self.backgrounds = backgrounds
        self.min_side = min_side

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """Chips of all views, which are the whole image at every scale, finest first."""
        if rng is None:
            raise ValueError("views: chips are for training; inference looks at the whole image")
        if views[-1].level != len(views) - 1:
            raise ValueError("views: chips need every resolution of the pyramid, draw=all")
        known = np.flatnonzero(~image.ignored)
        if not len(known) and not (self.backgrounds and len(image.proposals)):
            return []
        boxes = _inside(image.boxes[known], image)
        stride = int(rng.integers(self.stride[0], self.stride[1] + 1))
        drives, orphans = self._drivers(boxes, views, stride)
        adopted = orphans & (self.orphans == "coarsest")
        chips = [self._chips(boxes[d], view, stride, rng) for view, d in zip(views, drives, strict=True)]
        negatives: list[View] = []
        if self.uses_proposals and len(image.proposals):
            # Rounding lets proposals at the border reach beyond it, and a window around them would too.
            negatives = self._negatives(boxes, _inside(image.proposals, image), views, chips, stride, rng)
        positives = [chip for part in chips for chip in part]
        if self.labels == "enclosed":
            return adopt_orphans(positives + negatives, boxes, known, views[-1], adopted)
        both = zip(*(view.ranges for view in views), strict=True)
        fits, anchor_fits = (self._fits(boxes, views, stride, ranges) for ranges in both)
        fits[-1] |= adopted
        anchor_fits[-1] |= adopted
        return assign_boxes((positives, negatives), boxes, known, fits, anchor_fits)

    def drives(self, boxes: np.ndarray, views: Sequence[View], stride: int) -> np.ndarray:
        """Finds the boxes that get a positive chip in each of the V views: (V, n) bool; boxes in original pixels."""
        return self._drivers(boxes, views, stride)[0]

    def _drivers(self, boxes: np.ndarray, views: Sequence[View], stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (V, n) bool of `drives`, and (n,) bool: which boxes are orphans."""
        learnable = self._learnable(boxes, views, stride)
        drives = self._fits(boxes, views, stride, [view.valid_range for view in views]) & learnable
        orphans = ~drives.any(axis=0)
        if self.orphans == "coarsest":
            drives[-1] |= orphans & learnable[-1]
        return drives, orphans

    def count_orphans(self, image: ImageRecord, views: list[View]) -> int:
        """Counts the boxes of an image that are valid at no scale, with at least one of the strides."""
        return self._count(image, views, lambda drives, orphans: orphans)

    def count_unlearned(self, image: ImageRecord, views: list[View]) -> int:
        """Counts the boxes of an image that get no chip, with at least one of the strides."""
        return self._count(image, views, lambda drives, orphans: ~np.any(drives, axis=0))

    def _count(
        self, image: ImageRecord, views: list[View], missed: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> int:
        """Counts the boxes that ``missed`` marks for at least one of the strides; it gets the result of `_drivers`."""
        boxes = _inside(image.boxes[~image.ignored], image)
        strides = range(self.stride[0], self.stride[1] + 1)
        return int(np.any([missed(*self._drivers(boxes, views, stride)) for stride in strides], axis=0).sum())

    def _learnable(self, boxes: np.ndarray, views: Sequence[View], stride: int) -> np.ndarray:
        """Finds the boxes that a chip of each view can enclose and show large enough to learn from: (V, n) bool.

        Whether a chip can enclose them is checked for the coarsest view only: in the other views `_fits` excludes boxes
        that are too long.
        """
        *_, width, height = views[-1].window
        least = np.array([[_least_scale(self.size, view)] for view in views])
        learnable = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) * least >= self.min_side
        for axis, length in enumerate((width * views[-1].scale, height * views[-1].scale)):
            if length > self.size:  # else the only chip shows the whole axis
                low, high = boxes[:, axis] * views[-1].scale, boxes[:, axis + 2] * views[-1].scale
                learnable[-1] &= is_enclosable(low, high, length, self.size, stride)
        return learnable

    def _fits(self, boxes: np.ndarray, views: Sequence[View], stride: int, ranges: Sequence[Range]) -> np.ndarray:
        """Finds the boxes inside each view's range that are short enough for its chips: (V, n) bool."""
        sides = boxes[:, 2:] - boxes[:, :2]
        sizes = np.sqrt(sides[:, 0] * sides[:, 1])
        lengths = [(self.size - stride - 1) / view.scale for view in views[:-1]] + [inf]
        low, high, longest = np.array([*zip(*ranges, strict=True), lengths])[:, :, None]
        fits = (sizes >= low) & (sizes < high) & (sides.max(axis=1) < longest)
        if len(views) > 1:
            fits[0] &= sides.min(axis=1) >= MIN_SIDE
        return fits

    def _chips(
        self, boxes: np.ndarray, view: View, stride: int, rng: np.random.Generator, more_than: int = 0
    ) -> list[View]:
        """Cuts chips of one view that enclose (n, 4) boxes in original pixels."""
        if not len(boxes):
            return []
        _, _, width, height = view.window
        resized = (boxes * view.scale).tolist()
        chosen = cover(resized, width * view.scale, height * view.scale, self.size, stride, rng, more_than)
        rows = boxes.tolist()
        return [self._window(view, chip, [rows[i] for i in chip.boxes]) for chip in chosen]

    def _window(self, view: View, chip: Chip, boxes: Sequence[Sequence[float]]) -> View:
        """Rounds a chip to a window of whole original pixels that encloses the same boxes."""
        x1, y1, x2, y2 = zip(*boxes, strict=True)
        side = self.size / view.scale
        left, right = interval(chip.x / view.scale, min(x1), max(x2), side, view.window[2])
        top, bottom = interval(chip.y / view.scale, min(y1), max(y2), side, view.window[3])
        # Around boxes as long as the chip, rounding may add two pixels, which are shrunk into it.
        scale = min(view.scale, self.size / (right - left), self.size / (bottom - top))
        return View(scale, (left, top, right, bottom), *view[2:])

    def _negatives(
        self,
        boxes: np.ndarray,
        proposals: np.ndarray,
        views: Sequence[View],
        positives: Sequence[Sequence[View]],
        stride: int,
        rng: np.random.Generator,
    ) -> list[View]:
        """Draws a few of the chips with many proposals that no positive chip covers (SNIPER, section 3.3)."""
        regions = np.concatenate([boxes, proposals])
        fits = self._fits(regions, views, stride, [view.ranges[1] for view in views])
        pool: list[View] = []
        for view, chips, fit in zip(views, positives, fits, strict=True):
            if chips:
                shown, shares = overlaps(regions, chips)
                fit = fit & ~(shown if self.covered == "touched" else shares > 1 - 1e-9).any(axis=0)
            pool += self._chips(regions[fit], view, stride, rng, self.dense[min(view.level, 1)])
        return [pool[i] for i in sorted(rng.permutation(len(pool))[: self.negatives].tolist())]


def _inside(boxes: np.ndarray, image: ImageRecord) -> np.ndarray:
    """(n, 4) boxes in original pixels, clipped to their image."""
    return np.minimum(np.maximum(boxes, 0), (image.width, image.height) * 2)


def _least_scale(size: int, view: View) -> float:
    """Minimum scale of a chip of a view of the whole image, after rounding its window and its size."""
    *_, width, height = view.window
    side = int(size / view.scale + 1e-6)
    longest, shortest = min(side + 2, max(width, height)), max(1, min(side, width, height))
    return max(0.0, min(view.scale, size / longest) - 0.5 / shortest)


def interval(start: float, low: float, high: float, size: float, length: int) -> tuple[int, int]:
    """Places a window along one axis in whole pixels: near ``start``, inside the image, around the enclosed boxes.

    Args:
        start: first pixel of the chip, not rounded.
        low: smallest coordinate of the boxes.
        high: largest coordinate of the boxes.
        size: side of the chip, not rounded; it is rounded down if the window still encloses the boxes.
        length: side of the image.
    """
    side = min(int(size + 1e-6), length)
    first, last = max(0, ceil(high - side)), min(length - side, floor(low))
    if first > last:
        return floor(low), ceil(high)
    begin = min(max(round(start), first), last)
    return begin, begin + side
