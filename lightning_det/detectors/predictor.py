"""The interface of the network in a RoI head: from feature maps and RoIs to class logits and box deltas."""

from typing import Any

from torch import Tensor, nn


class Predictor(nn.Module):
    """Predicts class logits and box deltas of RoIs; two-stage detectors differ mainly in this part."""

    per_roi: bool = False
    """Whether all layers run on every RoI, so that memory grows with the number of RoIs, and `shared` has no layers."""

    cpu_chunk: int | None = None
    """RoIs of a batch that best go through the layers at a time on a CPU without gradient: their maps fit into its
    cache. None: the more, the better."""

    class_agnostic: bool = False
    """Whether one regression of a RoI's box serves all classes."""

    class_layers: tuple[str, ...] = ()
    """Prefixes of the names of parameters whose shape depends on the classes."""

    backbone_layers: tuple[str, ...] = ()
    """Prefixes of the names of parameters that are a stage of the backbone."""

    num_classes: int
    """Object classes, background not counted."""

    trunk: nn.Module
    """The layers below classification and regression, which compile as one graph."""

    def shared(self, maps: list[Tensor]) -> Any:
        """Computes what all RoIs of a batch share, once per batch.

        Args:
            maps: (B, C, h, w) feature maps of the detector's neck.
        """
        raise NotImplementedError

    def forward(self, shared: Any, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions for (B, R, 4) RoIs.

        Args:
            shared: output of `shared`.
            rois: ``xyxy``, pixels of the view.

        Returns:
            Class logits (B, R, 1 + classes) and box deltas, float32: (B, R, 1 + classes, 4), or (B, R, 1, 4) if
            they are class-agnostic.
        """
        raise NotImplementedError
