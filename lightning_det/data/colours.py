"""Changed colours of rendered views."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from lightning_det.views.view import Distortion


def distorted(pixels: Tensor, change: Distortion) -> Tensor:
    """Pixels (3, h, w) uint8 with other colours, the same shape and type.

    SSD's Caffe code, which works in OpenCV: brightness is added, contrast multiplies, saturation multiplies S of HSV
    and hue is turned. `torchvision.transforms.v2.RandomPhotometricDistort` multiplies brightness, changes contrast
    around the mean grey and saturation towards grey, and may swap channels; only its hue is the same, and used here.
    """
    x = pixels / 255.0
    if change.brightness:
        x = (x + change.brightness).clamp(0, 1)
    if change.contrast_first:
        x = _multiplied(x, change.contrast)
    if change.saturation != 1:
        x = _saturated(x, change.saturation)
    if change.hue:
        x = tvf.adjust_hue(x, change.hue)
    if not change.contrast_first:
        x = _multiplied(x, change.contrast)
    return (x * 255).round_().to(torch.uint8)


def _multiplied(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else (x * factor).clamp(0, 1)


def _saturated(x: Tensor, factor: float) -> Tensor:
    """Multiplies S of HSV, at most to 1: channels move away from the largest one, or towards it."""
    high = x.amax(dim=0)
    room = high / (high - x.amin(dim=0)).clamp(min=1e-6)
    return high - room.clamp(max=factor) * (high - x)
