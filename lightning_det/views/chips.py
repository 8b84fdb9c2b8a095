"""SNIPER's chips: small windows around the objects of each scale, and around background that resembles objects."""

from collections.abc import Callable, Sequence
from itertools import chain, islice, pairwise
from typing import Literal

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.chip_choice import ScaledBoxes, fits, learnable, scaled
from lightning_det.views.chip_labels import adopt_orphans, assign_boxes, overlaps
from lightning_det.views.chip_windows import windows
from lightning_det.views.cover import Chip, cover
from lightning_det.views.step import Step
from lightning_det.views.view import View


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
        return self.many([image], [views], [rng])[0]

    def many(
        self, images: Sequence[ImageRecord], views: Sequence[list[View]], rngs: Sequence[np.random.Generator | None]
    ) -> list[list[View]]:
        """Chips of several images, whose boxes are chosen and whose windows are rounded together."""
        drawing = [rng for rng in rngs if rng is not None]
        if len(drawing) < len(rngs):
            raise ValueError("views: chips are for training; inference looks at the whole image")
        if any(own[-1].level != len(own) - 1 for own in views):
            raise ValueError("views: chips need every resolution of the pyramid, draw=all")
        if len({len(own) for own in views}) != 1:  # no images, or those of a step of one's own
            return super().many(images, views, rngs)
        low, high = self.stride
        strides = [low if low == high else int(rng.integers(low, high + 1)) for rng in drawing]
        learned = ~np.concatenate([image.ignored for image in images])
        owners = np.repeat(np.arange(len(images)), [len(image.boxes) for image in images])[learned]
        given = scaled(np.concatenate([image.boxes for image in images])[learned], owners, views, strides)
        drives, orphans = self._drivers(given)
        chips = self._positives(given, owners, drives, views, strides, drawing)
        adopted = orphans & (self.orphans == "coarsest")
        ends = [0, *np.cumsum(np.bincount(owners, minlength=len(images))).tolist()]
        own = [slice(*pair) for pair in pairwise(ends)]
        parts = zip(images, views, chips, own, strides, drawing, strict=True)
        return [
            self._complete(image, scales, found, given.boxes[rows], adopted[rows], stride, rng)
            for image, scales, found, rows, stride, rng in parts
        ]

    def drives(self, boxes: np.ndarray, views: Sequence[View], stride: int) -> np.ndarray:
        """Finds the boxes that get a positive chip in each of the V views: (V, n) bool; boxes in original pixels."""
        return self._drivers(_of_one(boxes, views, stride))[0]

    def _drivers(self, given: ScaledBoxes) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (V, n) bool of `drives`, and (n,) bool: which boxes are orphans."""
        large = learnable(given, self.size, self.min_side)
        drives = fits(given, self.size, 0) & large
        orphans = ~drives.any(axis=0)
        if self.orphans == "coarsest":
            drives[-1] |= orphans & large[-1]
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
        boxes = image.boxes[~image.ignored]
        strides = range(self.stride[0], self.stride[1] + 1)
        return int(np.any([missed(*self._drivers(_of_one(boxes, views, stride))) for stride in strides], axis=0).sum())

    def _positives(
        self,
        given: ScaledBoxes,
        owners: np.ndarray,
        drives: np.ndarray,
        views: Sequence[Sequence[View]],
        strides: Sequence[int],
        rngs: Sequence[np.random.Generator],
    ) -> list[list[list[View]]]:
        """Cuts the chips that enclose the boxes of ``drives`` (V, n), by image and view."""
        levels = []
        for drive, scale in zip(drives, given.scales, strict=True):
            driving = np.flatnonzero(drive)
            resized = given.boxes[driving] * scale[driving, None]
            ends = np.cumsum(np.bincount(owners[driving], minlength=len(views)))
            levels.append((driving.tolist(), resized.tolist(), [0, *ends.tolist()]))
        found: list[tuple[View, list[Chip]]] = []
        members: list[int] = []
        for image, (own, stride, rng) in enumerate(zip(views, strides, rngs, strict=True)):
            for view, (numbers, rows, bounds) in zip(own, levels, strict=True):
                first, end = bounds[image : image + 2]
                chosen = self._cover(rows[first:end], view, stride, rng)
                found.append((view, chosen))
                members += [numbers[first + i] for chip in chosen for i in chip.boxes]
        made = iter(windows(found, given.boxes[members], self.size))
        counts = iter([len(chips) for _, chips in found])
        return [[list(islice(made, count)) for count in islice(counts, len(own))] for own in views]

    def _cover(
        self, rows: list[list[float]], view: View, stride: int, rng: np.random.Generator, more_than: int = 0
    ) -> list[Chip]:
        """Chooses chips of a view that enclose boxes, given in pixels of the view."""
        if not rows:
            return []
        *_, width, height = view.window
        return cover(rows, width * view.scale, height * view.scale, self.size, stride, rng, more_than)

    def _complete(
        self,
        image: ImageRecord,
        views: list[View],
        chips: list[list[View]],
        boxes: np.ndarray,
        adopted: np.ndarray,
        stride: int,
        rng: np.random.Generator,
    ) -> list[View]:
        """Adds negative chips to the positive ones of an image, and lists what they learn from."""
        if not len(boxes) and not (self.backgrounds and len(image.proposals)):
            return []
        negatives: list[View] = []
        if self.uses_proposals and len(image.proposals):
            negatives = self._negatives(boxes, image.proposals, views, chips, stride, rng)
        positives = list(chain.from_iterable(chips))
        if self.labels == "enclosed" and not adopted.any():  # most images
            return positives + negatives
        known = np.flatnonzero(~image.ignored)
        if self.labels == "enclosed":
            return adopt_orphans(positives + negatives, boxes, known, views[-1], adopted)
        given = _of_one(boxes, views, stride)
        inside = [fits(given, self.size, kind) for kind in (0, 1)]
        for each in inside:
            each[-1] |= adopted
        return assign_boxes((positives, negatives), boxes, known, *inside)

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
        # Rounding lets proposals at the border reach beyond it, and a window around them would too.
        given = _of_one(np.concatenate([boxes, proposals]), views, stride)
        pool: list[View] = []
        for view, chips, fit in zip(views, positives, fits(given, self.size, 1), strict=True):
            if chips:
                shown, shares = overlaps(given.boxes, chips)
                fit = fit & ~(shown if self.covered == "touched" else shares > 1 - 1e-9).any(axis=0)
            regions = given.boxes[fit]
            dense = self.dense[min(view.level, 1)]
            chosen = self._cover((regions * view.scale).tolist(), view, stride, rng, dense)
            members = [i for chip in chosen for i in chip.boxes]
            pool += windows([(view, chosen)], regions[members], self.size)
        return [pool[i] for i in sorted(rng.permutation(len(pool))[: self.negatives].tolist())]


def _of_one(boxes: np.ndarray, views: Sequence[View], stride: int) -> ScaledBoxes:
    """See `scaled`; for the boxes of one image."""
    return scaled(boxes, np.zeros(len(boxes), int), [views], [stride])
