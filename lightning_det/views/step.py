"""The type of a planner's steps: everything that the planner, the data modules and the reports use of a step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.resolution import Resolution
from lightning_det.views.view import View

IntSequence = Sequence[int] | np.ndarray


class Step(ABC):
    """Makes views of an image, or changes those of the steps before it.

    A subclass defines ``__call__``, and overrides the other members if their defaults do not fit. Members are read when
    the planner is made, so ``__init__`` must set them.
    """

    canvas: int | tuple[int, int] | None = None
    """Side of a square that every view fits in, or (height, width) of every view, pixels: all batches
    have the same shape. None: views of any size; views that an earlier step has fitted into a canvas stay inside it."""

    resolutions: Sequence[Resolution] = ()
    """Resolutions of the views of the whole image, finest first; empty if there is no fixed list."""

    draws_one: bool = False
    """Whether it draws one of its resolutions at random instead of showing all of them."""

    needs_all_resolutions: bool = False
    """Whether it needs the image at all resolutions: it is refused after a step that `draws_one`."""

    keeps_shape: bool = False
    """Whether warped views keep their shape. As the ``windows`` of a planner, a step with False is refused after scales
    with a `canvas`: it would cut windows by a scale that warped views do not have."""

    uses_proposals: bool = False
    """Whether it makes additional views if an image has ``proposals``."""

    whole: bool = False
    """Whether it adds a view of the whole image, which shows the boxes of `count_larger`, to the views that cut it."""

    follows: bool = False
    """Whether views lead to further ones at inference, once a detector has seen them, see `follow`."""

    loses_boxes: bool = False
    """Whether some boxes may have no view that learns from them or shows them whole. If so, the methods below count
    them over the dataset once before a training, for the ``windows`` of a planner."""

    def __init_subclass__(cls) -> None:
        """Keeps a ``many`` that a class inherits from ignoring the class's own ``__call__``."""
        super().__init_subclass__()
        if "__call__" in vars(cls) and "many" not in vars(cls):
            cls.many = Step.many  # type: ignore[method-assign]

    @abstractmethod
    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """Views of the image.

        Args:
            image: size, boxes and proposals; no pixels.
            views: views of the earlier steps; empty for the first step. Views are immutable.
            rng: generator of this image and epoch, from which everything random is drawn; None at inference.

        Raises:
            ValueError: the step draws at random and ``rng`` is None.
        """

    def many(
        self, images: Sequence[ImageRecord], views: Sequence[list[View]], rngs: Sequence[np.random.Generator | None]
    ) -> list[list[View]]:
        """Views of several images, as if called for each; arguments as there, of every image.

        The default calls the step for each. A class overrides both, or ``__call__`` alone.
        """
        return [self(*each) for each in zip(images, views, rngs, strict=True)]

    def follow(self, image: ImageRecord, view: View, probabilities: np.ndarray, stride: int) -> list[View]:
        """Plans further views of an image from the findings of a detector in one; for the ``scales`` of a planner.

        Args:
            image: size of the image.
            view: what was seen, not mirrored.
            probabilities: (h, w) of the cells of a map, see `Focus`; cells in the padding are included.
            stride: pixels of the view per cell.
        """
        return []

    def at(self, epoch: int) -> "Step":
        """Returns the step for an epoch of training, counted from 0. A different step is a new object."""
        return self

    def out_of_order(self, widths: IntSequence, heights: IntSequence) -> list[bool]:
        """Finds images, given by their sizes in pixels, in which a later resolution is finer than an earlier one."""
        return [False] * len(widths)

    def count_orphans(self, image: ImageRecord, views: list[View]) -> int:
        """Counts the boxes of an image that are valid at no scale, without ignored ones.

        Args:
            image: the image.
            views: views of the whole image, from the earlier step.
        """
        return 0

    def count_unlearned(self, image: ImageRecord, views: list[View]) -> int:
        """Counts the orphans that no view learns from at another scale either; arguments as in `count_orphans`."""
        return 0

    def count_larger(self, image: ImageRecord, views: list[View]) -> int:
        """Counts the boxes of an image that are wider or higher than the `canvas` in every view, without ignored ones.

        Arguments as in `count_orphans`. `whole` says whether a view of the whole image still shows them.
        """
        return 0
