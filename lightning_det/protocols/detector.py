"""What a detector is to the rest of the package: training, inference, mining, export and pictures ask nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from torch import Tensor, nn

from lightning_det.protocols.structures import Batch, Detections
from lightning_det.system.errors import CapabilityError


class Selected(NamedTuple):
    """The regions that carried loss in a training step; no gradient. ``S`` per view, of ``R`` candidates."""

    boxes: Tensor
    """(B, S, 4) float32 ``xyxy``, pixels of the view."""
    labels: Tensor
    """(B, S) int64, 1 + class, or 0 for background."""
    objects: Tensor
    """(B, S) int64, position of the matched box among those of the batch; means nothing for background."""
    chosen: Tensor
    """(B, S) bool, False for padding."""
    losses: Tensor
    """(B, S) float32, classification plus box loss."""
    candidates: Tensor | None
    """(B, R) float32, current loss of every candidate, NaN where one may not carry loss; None if nothing was ranked."""
    kind: Literal["roi", "prior"]
    """What the regions are; part of the names of logged figures."""


class AnchorShapes(NamedTuple):
    """Anchors of all feature maps, ``A`` per place."""

    sides: np.ndarray
    """(A, 2) width and height, pixels of the view."""
    strides: np.ndarray
    """(A,) distance of their centres."""
    start: float
    """Where the first centre is, in strides."""


class Detector(nn.Module):
    """Turns batches of views into losses or detections; knows nothing of scale strategies, Lightning or Hydra.

    A detector overrides `losses` and `forward`. Everything below them is optional: the defaults say "this detector does
    not do that", and what needs it raises a `CapabilityError` that names the detector and the remedy.
    """

    class_layers: tuple[str, ...] = ()
    """Prefixes of the parameters whose shape depends on the classes: they start fresh where weights come from a
    training on other classes."""

    refines: bool = False
    """Whether `forward` can regress boxes more than once (``passes``)."""

    selected: Selected | None = None
    """The regions that carried loss in the last call of `losses`, for `SelectionLog`; None: nothing is selected."""

    anchor_sizes: int = 0
    """How many of ``dataset.anchor_sizes`` the detector takes, see `anchor_shapes`; 0: it has no anchors."""

    spreads_anchors: bool = False
    """Whether anchors are spread between the first and the last of ``dataset.anchor_sizes``, whatever is between."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a training batch, to be summed.

        They are divided by a count of the batch. Where several processes train, `lightning_det.ops.ranks` makes that
        count the mean over the processes.

        Args:
            batch: views with their boxes. ``batch.states`` says what may be learned from each box: only ``VALID`` boxes
                are objects, and nothing is learned from regions that lie on ``INVALID`` or ``IGNORED`` ones.
        """
        raise NotImplementedError

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        score_threshold: float,
        nms_iou: float,
        max_detections: int,
        ranges: Tensor | None = None,
        passes: int = 1,
    ) -> Detections:
        """Detects objects in views.

        Args:
            images: (B, 3, H, W) uint8, RGB, zero outside the views.
            sizes: (B, 2) int64, (height, width) of the views without padding.
            score_threshold: detections need a greater score.
            nms_iou: NMS threshold per class; 1 keeps all.
            max_detections: most detections per view.
            ranges: (B, 2) lowest and highest sqrt(width * height) of detections, pixels of the view; None: all. What is
                outside them is removed before anything is cut off or suppressed (SNIP, section 6.1).
            passes: how many times boxes are regressed; above 1 only for detectors with ``refines``.
        """
        raise NotImplementedError

    def compiled_parts(self) -> Sequence[nn.Module]:
        """Parts that `torch.compile` takes as one graph each; the rest depends on the data."""
        return ()

    def compile_parts(self, **options: Any) -> None:
        """Compiles the parts in place."""
        for part in self.compiled_parts():
            part.compile(fullgraph=True, **options)

    def proposer(self) -> "Detector":
        """A detector of the one class "object" that shares this one's layers; it mines proposals for negative chips.

        Raises:
            CapabilityError: the detector has no proposal network.
        """
        self.lacks(
            "a proposal network, which proposals=auto needs",
            "let another detector make proposals (python -m lightning_det.mine detector=faster_rcnn) and give "
            "proposals=FILE, or take strategy=sniper_no_negatives",
        )

    def export_part(self) -> nn.Module:
        """The part of inference whose shapes do not depend on the data.

        A module that takes ``images`` and ``sizes`` of `forward` and gives boxes (B, P, 4), clipped to their views, and
        class scores (B, P, classes), float32: everything but NMS.

        Raises:
            CapabilityError: there is no such part.
        """
        self.lacks("a form that can be exported", "single-shot detectors (ssd, dsod, grp_dsod) have one")

    def anchor_shapes(self, sizes: Sequence[float] | None = None) -> AnchorShapes | None:
        """The shapes of the anchors; None for a detector without anchors.

        Args:
            sizes: ``dataset.anchor_sizes`` to use instead of the detector's own, ``anchor_sizes`` many.
        """
        return None

    def load_torchvision(self, weights: Mapping[str, Tensor], classes: Sequence[str]) -> str:
        """Loads a state_dict of the same detector in torchvision.

        Args:
            weights: torchvision's tensors by torchvision's names.
            classes: names of the detector's classes.

        Returns:
            The outcome for the layers that depend on the classes, in words.

        Raises:
            CapabilityError: torchvision has no such detector.
            ValueError: the weights are of another detector.
        """
        self.lacks("weights of other packages", "give one of our checkpoints")

    def lacks(self, what: str, remedy: str) -> NoReturn:
        """Refuses what the detector cannot do.

        Args:
            what: the capability, as the object of "has not".
            remedy: an imperative.

        Raises:
            CapabilityError: in any case.
        """
        raise CapabilityError(f"{type(self).__name__} does not have {what}; {remedy}")
