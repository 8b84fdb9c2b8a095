"""Colour distortion of rendered views."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from lightning_det.views.view import Distortion


def distort(pixels: Tensor, change: Distortion) -> Tensor:
    """Changes brightness, contrast, saturation and hue as SSD's Caffe code does with OpenCV.

    Brightness is added, contrast multiplies the pixels, saturation multiplies S of HSV, and hue is rotated.
    `torchvision.transforms.v2.RandomPhotometricDistort` multiplies brightness, changes contrast around the mean grey
    and saturation towards grey, and may swap channels. Only its hue is the same, and is used here.

    Args:
        pixels: (3, h, w) uint8 RGB.
        change: drawn by the planner of views.

    Returns:
        (3, h, w) uint8 RGB.
    """
    x = pixels / 255.0
    if change.brightness:
        x = (x + change.brightness).clamp(0, 1)
    if change.contrast_first:
        x = _multiply(x, change.contrast)
    if change.saturation != 1:
        x = _saturate(x, change.saturation)
    if change.hue:
        x = tvf.adjust_hue(x, change.hue)
    if not change.contrast_first:
        x = _multiply(x, change.contrast)
    return (x * 255).round_().to(torch.uint8)


def _multiply(x: Tensor, factor: float) -> Tensor:
    """Multiplies pixels of 0 to 1, at most to 1."""
    return x if factor == 1 else (x * factor).clamp(0, 1)


def _saturate(x: Tensor, factor: float) -> Tensor:
    """Multiplies S of HSV, at most to 1: channels move away from the largest channel, or towards it."""
    high = x.amax(dim=0)
    room = high / (high - x.amin(dim=0)).clamp(min=1e-6)
    return high - room.clamp(max=factor) * (high - x)
