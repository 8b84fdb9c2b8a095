"""The chain of steps that makes the views of an image."""

from collections.abc import Sequence

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.view import View

LARGEST_VIEW = 2**28
"""Maximum pixels of a view, 16,384 x 16,384: a float image of 3 GB, whose first features take several times that."""


class Planner:
    """Plans the views of an image.

    Args:
        scales: makes views of the whole image; its input is an empty list of views.
        windows: cuts views into smaller ones, or None.
        flip: mirrors views, or None.
        distort: changes their colours, or None.

    Attributes:
        canvas: side of a square in which every view fits, or (height, width) of every view, pixels; all batches then
            have the same shape. None: there is no such size.

    Raises:
        ValueError: a step is not a `Step`; ``windows`` needs every resolution, but ``scales`` draws one of them;
            ``windows`` needs a scale, but ``scales`` warps; or all views fill a canvas larger than `LARGEST_VIEW`.
    """

    def __init__(
        self, scales: Step, windows: Step | None = None, flip: Step | None = None, distort: Step | None = None
    ):
        self.scales = scales
        self.windows = windows
        self.flip = flip
        self.distort = distort
        for step in self.steps:
            # Steps come from configurations too, which no type checker sees.
            if not isinstance(step, Step):
                raise ValueError(f"{type(step).__name__} is no planner step; derive it from lightning_det.views.Step")
        if windows is not None:
            _check_pair(scales, windows)
        self.canvas = scales.canvas if windows is None or windows.canvas is None else windows.canvas
        height, width = (self.canvas, self.canvas) if isinstance(self.canvas, int) else self.canvas or (0, 0)
        if height * width > LARGEST_VIEW:
            raise ValueError(
                f"every view would be {width} x {height} pixels, more than the {LARGEST_VIEW} that fit into memory; "
                "lower the size of chips, tiles or warped images"
            )

    @property
    def steps(self) -> list[Step]:
        """The steps that are set, in order."""
        return [step for step in (self.scales, self.windows, self.flip, self.distort) if step is not None]

    @property
    def uses_proposals(self) -> bool:
        """Whether a step makes views of mined proposals."""
        return any(step.uses_proposals for step in self.steps)

    def __call__(self, image: ImageRecord, rng: np.random.Generator | None = None) -> list[View]:
        """Plans the views of ``image``. Random choices of training are drawn from ``rng``; None at inference."""
        return self.many([image], [rng])[0]

    def many(self, images: Sequence[ImageRecord], rngs: Sequence[np.random.Generator | None]) -> list[list[View]]:
        """Plans the views of several images, as if called for each, but faster. Every image has its own generator."""
        views: list[list[View]] = [[] for _ in images]
        for step in self.steps:
            views = step.many(images, views, rngs)
        return views

    @property
    def follows(self) -> bool:
        """Whether views lead to further ones at inference, see `follow`."""
        return self.scales.follows

    def follow(self, image: ImageRecord, view: View, probabilities: np.ndarray, stride: int) -> list[View]:
        """Plans further views of an image from what a detector has seen in one, see `Step.follow`."""
        views = self.scales.follow(image, view, probabilities, stride)
        for step in self.steps[1:]:
            views = step(image, views, None)
        return views

    def at(self, epoch: int) -> "Planner":
        """Returns the planner for an epoch of training, counted from 0: steps may depend on the epoch."""
        steps = (self.scales, self.windows, self.flip, self.distort)
        return Planner(self.scales.at(epoch), *(step and step.at(epoch) for step in steps[1:]))


def _check_pair(scales: Step, windows: Step) -> None:
    """Refuses windows that cannot follow these scales."""
    if windows.needs_all_resolutions and scales.draws_one:
        raise ValueError(f"{type(windows).__name__} need every resolution of the pyramid, draw=all")
    if scales.follows and windows.whole:
        raise ValueError(
            f"{type(windows).__name__} add a view of the whole image, which {type(scales).__name__} has already; "
            "set windows.whole=false"
        )
    if scales.canvas is not None and not windows.keeps_shape:
        raise ValueError(
            f"{type(windows).__name__} cut views at their scale, and {type(scales).__name__} has none; "
            "take single_scale instead of warp"
        )
