"""The chain of steps that makes the views of an image."""

from collections.abc import Callable

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.view import View

Step = Callable[[ImageRecord, list[View], np.random.Generator | None], list[View]]

LARGEST_VIEW = 2**28
"""Most pixels of a view, 16,384 x 16,384: as a float image it takes 3 GB, and its first features several times that."""


class Planner:
    """Plans the views of an image.

    Args:
        scales: makes views of the whole image; the list of views that it is given is empty.
        windows: cuts views into smaller ones, or None.
        flip: mirrors views, or None.
        distort: changes their colours, or None.

    Raises:
        ValueError: ``windows`` needs every resolution, and ``scales`` draws one of them; or it needs a scale, and
            ``scales`` warps; or all views fill a canvas larger than `LARGEST_VIEW`.
    """

    def __init__(
        self, scales: Step, windows: Step | None = None, flip: Step | None = None, distort: Step | None = None
    ):
        if getattr(windows, "needs_all_resolutions", False) and getattr(scales, "draw", "all") != "all":
            raise ValueError(f"{type(windows).__name__} need every resolution of the pyramid, draw=all")
        if windows is not None and hasattr(scales, "canvas") and not getattr(windows, "keeps_shape", False):
            raise ValueError(
                f"{type(windows).__name__} cut views at their scale, and {type(scales).__name__} has none; "
                "take single_scale instead of warp"
            )
        self.scales = scales
        self.windows = windows
        self.flip = flip
        self.distort = distort
        self.canvas: int | tuple[int, int] | None = getattr(windows, "canvas", getattr(scales, "canvas", None))
        """Side of the square that every view fits in, or (height, width) that every view has, where there is one:
        batches then have a constant shape."""
        height, width = (self.canvas, self.canvas) if isinstance(self.canvas, int) else self.canvas or (0, 0)
        if height * width > LARGEST_VIEW:
            raise ValueError(
                f"every view would be {width} x {height} pixels, more than the {LARGEST_VIEW} that fit into memory; "
                "lower the size of chips, tiles or warped images"
            )

    @property
    def steps(self) -> list[Step]:
        """The steps that there are, in order."""
        return [step for step in (self.scales, self.windows, self.flip, self.distort) if step is not None]

    def __call__(self, image: ImageRecord, rng: np.random.Generator | None = None) -> list[View]:
        """Views of ``image``; ``rng`` draws what is random in training, and is None at inference."""
        views: list[View] = []
        for step in self.steps:
            views = step(image, views, rng)
        return views

    def at(self, epoch: int) -> "Planner":
        """The planner of an epoch of training: some scales change as it proceeds."""
        if not hasattr(self.scales, "at"):
            return self
        return Planner(self.scales.at(epoch), self.windows, self.flip, self.distort)
