"""What a RoI head asks its network for."""

from typing import Any

from torch import Tensor, nn


class Predictor(nn.Module):
    """Gives RoIs class logits and box deltas: the one part in which two-stage detectors differ."""

    per_roi: bool = False
    """Whether RoIs have layers of their own, whose memory grows with the number of RoIs."""

    class_layers: tuple[str, ...] = ()
    """Prefixes of the parameters whose shape depends on the classes."""

    num_classes: int
    """Object classes, background not counted."""

    trunk: nn.Module
    """The layers below classification and regression, which compile as one graph."""

    def shared(self, maps: list[Tensor]) -> Any:
        """Everything that all RoIs of a batch share; it runs once per batch.

        Args:
            maps: (B, C, h, w) feature maps of the detector's neck.
        """
        raise NotImplementedError

    def forward(self, shared: Any, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions for (B, R, 4) RoIs.

        Args:
            shared: outcome of `shared`.
            rois: ``xyxy``, pixels of the view.

        Returns:
            Class logits (B, R, 1 + classes) and box deltas, float32: (B, R, 1 + classes, 4), or (B, R, 1, 4) for all
            classes alike.
        """
        raise NotImplementedError
