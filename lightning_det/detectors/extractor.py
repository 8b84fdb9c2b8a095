"""Feature extraction for proposal networks and RoI heads: preprocessing, backbone and neck."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import STRIDE


class Features(NamedTuple):
    """Feature maps of a batch."""

    maps: list[Tensor]
    """(B, C, h, w) each, finest first."""
    canvas: tuple[int, int]
    """(height, width) of the padded images, in pixels of the view; the grid of anchors depends on it."""


class Extractor(Detector):
    """Base of detectors that read feature maps; it has no losses or detections of its own.

    Args:
        backbone: normalised images to feature maps.
        neck: maps of the backbone to the maps that are read.
        preprocess: uint8 images to normalised float images, zero outside the views.
    """

    granularity = STRIDE

    def __init__(self, backbone: nn.Module, neck: nn.Module, preprocess: nn.Module):
        super().__init__()
        self.preprocess = preprocess
        self.backbone = backbone
        self.neck = neck

    def features(self, images: Tensor, sizes: Tensor) -> Features:
        """Feature maps of (B, 3, H, W) uint8 images whose views measure ``sizes`` (B, 2) without padding."""
        images = pad(images)
        height, width = images.shape[-2:]
        maps = self.observe(self.backbone(self.preprocess(images, sizes)))
        return Features(self.neck(maps), (height, width))

    def compiled_parts(self) -> list[nn.Module]:
        """Backbone and neck."""
        return [self.backbone, self.neck]


def pad(images: Tensor) -> Tensor:
    """Pads images until their sides are multiples of `STRIDE`.

    Otherwise some feature maps would not halve evenly, and anchors would be off their cells.

    Args:
        images: (B, 3, H, W); only batches of views of one shape need padding.
    """
    down, right = (-side % STRIDE for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, down)) if down or right else images
