"""Normalisation layers as a switch."""

import math
from typing import Literal

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["frozen", "batch", "sync", "group"]
"""``frozen``: fixed statistics and affine (fine-tuning with few images per device); ``batch``: trained per device;
``sync``: statistics over all devices; ``group``: groups of channels, independent of the batch."""


def set_norm(module: nn.Module, mode: Norm) -> nn.Module:
    """Replaces every BatchNorm2d below ``module``, keeping weights and statistics where the mode has them.

    Returns:
        The module, changed in place (a new one where it is a BatchNorm2d itself).

    Raises:
        ValueError: unknown mode.
    """
    if mode == "batch":
        return module
    if mode == "sync":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if mode not in ("frozen", "group"):
        raise ValueError(f"norm must be frozen, batch, sync or group, got {mode!r}")
    if isinstance(module, nn.BatchNorm2d):
        return _frozen(module) if mode == "frozen" else _group(module)
    for name, child in module.named_children():
        setattr(module, name, set_norm(child, mode))
    return module


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    frozen.load_state_dict(norm.state_dict())
    return frozen


def _group(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    group = nn.GroupNorm(math.gcd(32, norm.num_features), norm.num_features, eps=norm.eps)
    with torch.no_grad():
        group.weight.copy_(norm.weight)
        group.bias.copy_(norm.bias)
    return group
