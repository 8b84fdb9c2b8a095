"""The exported part of single-stage detectors: everything but NMS, whose number of outputs depends on the image."""

from typing import Protocol

from torch import Tensor, nn


class MakesCandidates(Protocol):
    """A detector that scores a fixed number of boxes."""

    def candidates(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4), clipped to their views, and class scores (B, P, classes), both float32."""
        ...


class Candidates(nn.Module):
    """A detector without NMS.

    Args:
        detector: a module, in evaluation mode.
    """

    def __init__(self, detector: MakesCandidates):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Calls the detector's ``candidates`` on (B, 3, H, W) uint8 images and (B, 2) sizes."""
        return self.detector.candidates(images, sizes)
