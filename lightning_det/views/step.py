"""The type of a planner's steps: all that a planner, the data modules and the reports ask of one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.resolution import Resolution
from lightning_det.views.view import View

IntSequence = Sequence[int] | np.ndarray


class Step(ABC):
    """Makes views of an image, or changes those of the steps before it.

    A subclass defines ``__call__`` and overrides those of the other members whose defaults do not fit. Members are
    read when the planner is made, so they are set in ``__init__`` at the latest.
    """

    canvas: int | tuple[int, int] | None = None
    """Side of a square that every view fits in, or (height, width) of every view, pixels: batches have one shape.
    None: views of any size; those that a step before has fitted into a canvas stay inside it."""

    resolutions: Sequence[Resolution] = ()
    """Resolutions that the image as a whole is seen at, finest first; empty where they are no fixed list."""

    draws_one: bool = False
    """Whether it draws one of its resolutions at random instead of showing all of them."""

    needs_all_resolutions: bool = False
    """Whether it has to see the image at all resolutions: it is refused after a step that `draws_one`."""

    keeps_shape: bool = False
    """Whether views that are warped to one shape keep it. As the ``windows`` of a planner, a step that does not is
    refused after scales with a `canvas`: it would cut windows by a scale that warped views do not have."""

    uses_proposals: bool = False
    """Whether it makes further views where an image has ``proposals``."""

    whole: bool = False
    """Whether it adds a view of the whole image to those that cut it, which then shows the boxes of `count_larger`."""

    loses_boxes: bool = False
    """Whether some boxes may be in no view that learns from them or shows them whole. Only then are the counts below
    made: of the step in the ``windows`` of a planner, once over the dataset before a training."""

    @abstractmethod
    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """Views of the image.

        Args:
            image: size, boxes and proposals; no pixels.
            views: of the steps before; empty for the first one. Views are immutable.
            rng: generator of this image and epoch, from which everything random is drawn; None at inference.

        Raises:
            ValueError: the step draws at random and ``rng`` is None.
        """

    def at(self, epoch: int) -> "Step":
        """The step in an epoch of training, counted from 0. It does not change; one that differs is another object."""
        return self

    def out_of_order(self, widths: IntSequence, heights: IntSequence) -> list[bool]:
        """Which images of these sizes, pixels, see a later one of its `resolutions` finer than an earlier one."""
        return [False] * len(widths)

    def count_orphans(self, image: ImageRecord, views: list[View]) -> int:
        """Boxes of an image, ignored ones not counted, that are valid at no scale.

        Args:
            image: the image.
            views: of the whole image, from the step before.
        """
        return 0

    def count_unlearned(self, image: ImageRecord, views: list[View]) -> int:
        """Those of `count_orphans`, with the same arguments, that no view learns from at another scale either."""
        return 0

    def count_larger(self, image: ImageRecord, views: list[View]) -> int:
        """Boxes of an image, ignored ones not counted, that are wider or higher than the `canvas` in every view.

        Arguments as in `count_orphans`; `whole` says whether a view of the whole image shows them nevertheless.
        """
        return 0
