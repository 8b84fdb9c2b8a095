"""The interface of selectors, which decide which labelled regions carry loss."""

from typing import Literal, NamedTuple

from torch import Tensor


class Regions(NamedTuple):
    """``R`` labelled regions per view: anchors, RoIs or priors."""

    boxes: Tensor
    """(B, R, 4) float32 ``xyxy``, pixels of the view: the regions themselves, not the boxes regressed from them."""
    labels: Tensor
    """(B, R) int64: above 0 for objects, 0 for background, below 0 for regions that must not be selected."""
    ious: Tensor
    """(B, R) float32, highest IoU of each region with an object; 0 without objects."""
    losses: Tensor | None
    """(B, R) float32, current loss of each region, without gradient; None if the selector does not rank."""


class Selection(NamedTuple):
    """The regions that carry loss. ``S`` depends on the selector and on ``R`` only, never on the data."""

    places: Tensor
    """(B, S) int64, indices of regions."""
    chosen: Tensor
    """(B, S) bool, False for padding, which carries no loss."""


class Ranking(NamedTuple):
    """How to compute the losses by which a selector ranks regions."""

    mode: Literal["eval", "train"]
    """Mode of BatchNorm and dropout while the losses are computed. Running statistics stay unchanged in both."""
    keeps: int | None
    """Most regions per view that the selector keeps. Losses are computed for that many regions at a time, so that
    ranking needs no more memory than training. None: it may keep all, and all losses are computed at once."""


class Selector:
    """Decides which labelled regions carry loss: a learning strategy such as random sampling or OHEM.

    A selector that needs losses sets ``ranking``, and the detector computes them first. Selectors without it cost
    nothing extra. Detectors that cannot rank their regions refuse such a selector when they are built.
    """

    ranking: Ranking | None = None
    """How to rank regions by loss; None: they are not ranked, and `Regions.losses` may be None."""
    background_alone: bool = True
    """Whether it may select background in an image without objects; losses per object would then have no limit."""

    def __call__(self, regions: Regions) -> Selection:
        """Selects the regions that carry loss."""
        raise NotImplementedError
