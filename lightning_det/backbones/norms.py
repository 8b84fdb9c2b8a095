"""Normalisation layers as a switch."""

import math
from copy import deepcopy
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["frozen", "batch", "sync", "group"]
"""``frozen``: fixed statistics and affine (fine-tuning with few images per device); ``batch``: trained per device;
``sync``: statistics over all devices; ``group``: groups of channels, independent of the batch."""

STATE = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def set_norm(module: nn.Module, mode: Norm) -> nn.Module:
    """Replaces every BatchNorm below ``module``, keeping weights and statistics where the mode has them.

    Layers that a BatchNorm holds, such as the activation of timm's ``BatchNormAct2d``, stay, and so do the names of all
    tensors.

    Returns:
        The module, changed in place (a new one where it is a BatchNorm itself).

    Raises:
        ValueError: unknown mode, or a BatchNorm that it cannot replace by what computes the same.
    """
    if mode not in get_args(Norm):
        raise ValueError(f"norm must be frozen, batch, sync or group, got {mode!r}")
    if mode == "batch":
        return module
    replaced = {norm: _replacement(norm, mode) for norm in module.modules() if isinstance(norm, _BatchNorm)}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():  # named_children() leaves out a layer's second name
            if child in replaced:
                setattr(parent, name, replaced[child])
    return replaced.get(module, module)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether `set_norm` has anything to replace."""
    return any(isinstance(m, _BatchNorm) for m in module.modules())


class _Then:
    """A norm that goes on with the layers that it holds."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for layer in self.children():
            x = layer(x)
        return x


class FrozenThen(_Then, FrozenBatchNorm2d):
    """Fixed statistics and affine, and what follows."""


class SyncThen(_Then, nn.SyncBatchNorm):
    """Statistics over all devices, and what follows."""


class GroupThen(_Then, nn.GroupNorm):
    """Groups of channels, and what follows."""


def _replacement(norm: _BatchNorm, mode: Norm) -> nn.Module:
    _check(norm, mode)
    holds = bool(list(norm.children()))
    if mode == "frozen":
        new = _frozen(norm, FrozenThen if holds else FrozenBatchNorm2d)
    elif mode == "sync":
        new = _sync(norm, SyncThen if holds else nn.SyncBatchNorm)
    else:
        new = _group(norm, GroupThen if holds else nn.GroupNorm)
    for name, child in norm.named_children():
        new.add_module(name, child)
    return new.train(norm.training)


def _frozen(norm: _BatchNorm, kind: type) -> nn.Module:
    frozen = kind(norm.num_features, eps=norm.eps).to(norm.running_mean)
    own = {name: tensor for name, tensor in norm.state_dict().items() if name in STATE}
    frozen.load_state_dict(own, strict=False)  # without affine it keeps 1 and 0
    return frozen


def _sync(norm: _BatchNorm, kind: type) -> nn.Module:
    sync = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    sync.weight, sync.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(sync, name, buffer)
    return sync


def _group(norm: _BatchNorm, kind: type) -> nn.Module:
    group = kind(math.gcd(32, norm.num_features), norm.num_features, eps=norm.eps, affine=norm.affine)
    group.weight, group.bias = norm.weight, norm.bias
    return group


def _check(norm: _BatchNorm, mode: Norm) -> None:
    """Refuses what the replacement would not compute.

    Raises:
        ValueError: naming the class.
    """
    kind = f"{type(norm).__module__}.{type(norm).__qualname__}"
    if mode != "sync" and not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
        raise ValueError(f"norm={mode} replaces BatchNorm2d, and this network has {kind} too; take batch or sync")
    if mode == "frozen" and norm.running_mean is None:
        raise ValueError(f"norm=frozen needs statistics, and a {kind} of this network keeps none; take another norm")
    if not _is_norm_then_layers(norm):
        raise ValueError(f"norm={mode} cannot replace {kind}: it does more than normalise and call the layers it holds")


@torch.no_grad()
def _is_norm_then_layers(norm: _BatchNorm) -> bool:
    """Whether a BatchNorm is one, followed by the layers that it holds in their order, and nothing else."""
    own = {name for name, _ in [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]}
    if own - STATE or norm._forward_hooks or norm._forward_pre_hooks:
        return False
    plain = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    if plain:
        return not list(norm.children())
    # What the forward of a subclass does can be told by what comes out only. Not random: seeds stay where they are.
    norm = deepcopy(norm).eval()
    like = next(norm.parameters(recurse=False), norm.running_mean)
    x = torch.linspace(-3, 3, 32 * norm.num_features).to(like if like is not None else torch.float32)
    x = x.reshape(2, 4, 4, norm.num_features).permute(0, 3, 1, 2).contiguous()
    expected = F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.running_mean is None, 0.0, norm.eps
    )
    try:
        for layer in norm.children():
            expected = layer(expected)
        return torch.allclose(norm(x), expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return False
