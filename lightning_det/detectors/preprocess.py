"""Normalisation of stored pixels to network input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_det.backbones.contract import IMAGENET


class Normalize(nn.Module):
    """uint8 RGB images to float images of zero mean and unit variance, exactly zero outside the views.

    Args:
        mean: per channel, of pixels scaled to [0, 1]. None: ImageNet's. In a configuration, null is the backbone's.
        std: see ``mean``.

    Raises:
        ValueError: not three numbers each, or a std that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        super().__init__()
        mean, std = list(IMAGENET.mean if mean is None else mean), list(IMAGENET.std if std is None else std)
        if not len(mean) == len(std) == 3 or not min(std) > 0:
            raise ValueError(f"mean and std are three numbers each, and std is positive, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 and (B, 2) (height, width) of the views to (B, 3, H, W) float32, channels last."""
        x = (images.to(memory_format=torch.channels_last).float() / 255 - self.mean) / self.std
        rows = torch.arange(images.shape[2], device=images.device) < sizes[:, :1]
        columns = torch.arange(images.shape[3], device=images.device) < sizes[:, 1:]
        return x * (rows[:, None, :, None] & columns[:, None, None, :])
