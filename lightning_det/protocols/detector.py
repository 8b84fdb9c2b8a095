"""The interface of detectors: all that training, inference, mining, export and pictures use of a detector."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from torch import Tensor, nn

from lightning_det.protocols.structures import Batch, Detections
from lightning_det.system.errors import CapabilityError


class Selected(NamedTuple):
    """The regions that carried loss in a training step: ``S`` per view out of ``R`` candidates, without gradient."""

    boxes: Tensor
    """(B, S, 4) float32 ``xyxy``, pixels of the view."""
    labels: Tensor
    """(B, S) int64, 1 + class, or 0 for background."""
    objects: Tensor
    """(B, S) int64, index of the matched box among those of the view; meaningless for background."""
    chosen: Tensor
    """(B, S) bool, False for padding."""
    losses: Tensor
    """(B, S) float32, classification plus box loss."""
    candidates: Tensor | None
    """(B, R) float32, current loss of every candidate, NaN if it may not carry loss; None if nothing was ranked."""
    kind: Literal["roi", "prior"]
    """Type of the regions; part of the names of logged figures."""


class AnchorShapes(NamedTuple):
    """Shapes and grids of the anchors of all feature maps; ``A`` is the anchors per cell, summed over maps."""

    sides: np.ndarray
    """(A, 2) width and height, pixels of the view."""
    strides: np.ndarray
    """(A,) distance between the centres of neighbouring cells, pixels of the view."""
    start: float
    """Position of the first centre along both axes, in strides."""


class Focus(nn.Module):
    """Type of the head that predicts where a closer look is worth its cost, see `Detector.focus`."""

    stride: int
    """Pixels of the view per cell."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone to logits (B, C, h, w)."""
        raise NotImplementedError

    def losses(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a training batch, as in `Detector.losses`."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, h, w) probability that a cell is worth a closer look."""
        raise NotImplementedError


class Detector(nn.Module):
    """Turns batches of views into losses or detections; knows nothing of scale strategies, Lightning or Hydra.

    A detector overrides `losses` and `forward`. The other methods are optional capabilities. Their defaults mean that
    the detector lacks the capability; a command that needs it raises a `CapabilityError`, which names the detector and
    the remedy.
    """

    class_layers: tuple[str, ...] = ()
    """Prefixes of the names of parameters whose shape depends on the classes. They keep their fresh values when weights
    are loaded from a training on other classes."""

    backbone_layers: tuple[str, ...] = ("backbone.",)
    """Prefixes of the names of parameters of the backbone, whose learning rate and weight decay may differ."""

    refines: bool = False
    """Whether `forward` can regress boxes more than once (``passes``)."""

    selected: Selected | None = None
    """The regions that carried loss in the last call of `losses`, for `SelectionLog`; None without a selection."""

    anchor_sizes: int = 0
    """Number of ``dataset.anchor_sizes`` that the detector takes, see `anchor_shapes`; 0: none."""

    point_strides: Sequence[float] = ()
    """Strides of the maps of a detector that has points instead of anchors; empty for others."""

    spreads_anchors: bool = False
    """Whether only the first and the last of ``dataset.anchor_sizes`` are used, and sizes are spread between them."""

    granularity: int = 1
    """Number of pixels whose multiples are the sides of images of an exported graph."""

    nms_free: bool = False
    """Whether the detector reports every object once, so that detections need no NMS."""

    not_one_graph: str = ""
    """Why `losses` cannot be compiled as one graph, as a sentence without a full stop; empty if it can."""

    def __init__(self) -> None:
        super().__init__()
        self.focus: Focus | None = None
        """A head that looks at the backbone's maps beside the detector, see `observe`."""
        self._focus_logits: Tensor | None = None

    def observe(self, maps: list[Tensor]) -> list[Tensor]:
        """Lets the head `focus` read the backbone's maps, and returns them unchanged.

        A detector calls it once per batch. Nothing else in a detector depends on the head.
        """
        if self.focus is not None:
            self._focus_logits = self.focus(maps)
        return maps

    def observed(self) -> Tensor | None:
        """Logits of `focus` for the last batch, once; None without such a head."""
        logits, self._focus_logits = self._focus_logits, None
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a training batch, to be summed.

        Each is divided by a count, such as the selected regions of the batch. If several processes train, the count
        must be the mean over the processes, see `lightning_det.ops.ranks`.

        Args:
            batch: views with their boxes. ``batch.states`` says what may be learned from each box: only ``VALID`` boxes
                are objects, and regions on ``INVALID`` or ``IGNORED`` boxes carry no loss.
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
            nms_iou: threshold of NMS per class; 1 keeps all.
            max_detections: most detections per view.
            ranges: (B, 2) lowest and highest sqrt(width * height) of detections, pixels of the view; None: no limit.
                Detections outside are removed before the best are picked and before NMS (SNIP, section 6.1).
            passes: number of times boxes are regressed; above 1 only for detectors with ``refines``.
        """
        raise NotImplementedError

    def compiled_parts(self) -> Sequence[nn.Module]:
        """Parts that `torch.compile` turns into one graph each; shapes or control flow elsewhere depend on the data."""
        return ()

    def compile_parts(self, **options: Any) -> None:
        """Compiles the parts in place."""
        for part in self.compiled_parts():
            part.compile(fullgraph=True, **options)

    def proposer(self, anchor_sizes: Sequence[float]) -> "Detector":
        """A detector of the single class "object" that shares layers with this one, to mine negative chips.

        Args:
            anchor_sizes: ``dataset.anchor_sizes``, for a detector without a proposal network of its own.

        Raises:
            CapabilityError: the detector has no layers for a proposal network.
        """
        self.lacks(
            "layers for a proposal network, which proposals=auto needs",
            "let another detector make proposals (lightning-det mine detector=faster_rcnn) and give "
            "proposals=FILE, or take strategy=sniper_no_negatives",
        )

    def candidates(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The part of inference that is exported: everything but the last NMS.

        Args:
            images: as in `forward`.
            sizes: as in `forward`.

        Returns:
            Boxes (B, P, 4) of ``P`` candidates, or (B, P, classes, 4) if every class has its own, clipped to their
            views, and class scores (B, P, classes), both float32.

        Raises:
            CapabilityError: there is no such part.
        """
        self.lacks("candidates to export before NMS", "export its detections instead, with with_nms=true")

    def for_canvas(self, canvas: tuple[int, int]) -> "Detector":
        """The detector to export: shapes within it do not depend on the size of the images.

        Args:
            canvas: (height, width) of images with padding, for whose size the exported detector is made.
        """
        return self

    def anchor_shapes(
        self, sizes: Sequence[float] | None = None, ratios: Sequence[float] | None = None
    ) -> AnchorShapes | None:
        """Shapes and grids of the anchors; None for a detector without anchors.

        Args:
            sizes: ``dataset.anchor_sizes`` to use instead of the detector's own, ``anchor_sizes`` many.
            ratios: ``dataset.anchor_ratios`` to use with these sizes; the result is None if the detector takes none.
        """
        return None

    def load_torchvision(self, weights: Mapping[str, Tensor], classes: Sequence[str]) -> str:
        """Loads a state_dict of torchvision's version of the detector.

        Args:
            weights: tensors by torchvision's names.
            classes: names of the detector's classes.

        Returns:
            How the layers that depend on the classes were initialised, in words.

        Raises:
            CapabilityError: torchvision has no such detector.
            ValueError: the weights are of another detector.
        """
        self.lacks("weights of other packages", "give one of our checkpoints")

    def load_pretrained(self, folder: Path, classes: Sequence[str]) -> str:
        """Loads a model that ``save_pretrained`` of ``transformers`` has written.

        Args:
            folder: holds ``config.json`` and the weights.
            classes: names of the detector's classes.

        Returns:
            How the layers that depend on the classes were initialised, in words.

        Raises:
            CapabilityError: the detector is none of ``transformers``.
            ValueError: the weights are of another detector.
        """
        self.lacks("weights of transformers", "give one of our checkpoints")

    def lacks(self, what: str, remedy: str) -> NoReturn:
        """Raises the error for a capability that the detector does not have.

        Args:
            what: the capability, as the object of "does not have".
            remedy: what to do instead, as an imperative.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError(f"{type(self).__name__} does not have {what}; {remedy}")
