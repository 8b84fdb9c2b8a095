"""Replaces the BatchNorm layers of a network by another kind of normalisation."""

import math
from copy import deepcopy
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The only common base class of torch's BatchNorms; checked on torch 2.11 to 2.14, tests/backbones/test_norms.py.
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["frozen", "batch", "sync", "group"]
"""``frozen``: fixed statistics, weight and bias, for fine-tuning with few images per device; ``batch``: statistics per
device; ``sync``: statistics over all devices; ``group``: statistics of groups of channels, independent of the batch."""

STATE = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
"""Parameters and buffers of a BatchNorm."""


def set_norm(module: nn.Module, mode: Norm) -> nn.Module:
    """Replaces every BatchNorm of a network, keeping weights and statistics if the mode has them.

    Layers inside a BatchNorm, such as the activation of timm's ``BatchNormAct2d``, stay, and so do the names of all
    tensors.

    Args:
        module: the network; changed in place unless it is a BatchNorm itself.
        mode: see `Norm`.

    Returns:
        The network, which is a new module if it was a BatchNorm itself.

    Raises:
        ValueError: the mode is unknown, or a BatchNorm has no equivalent of that mode.
    """
    if mode not in get_args(Norm):
        raise ValueError(f"norm must be frozen, batch, sync or group, got {mode!r}")
    if mode == "batch":
        return module
    replaced: dict[nn.Module, nn.Module] = {}
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            replaced[norm] = _replace(norm, mode)
    # Every name of a layer that has several.
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if name and layer in replaced:
            module.set_submodule(name, replaced[layer])
    return replaced.get(module, module)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a network has a BatchNorm, which `set_norm` can replace."""
    return any(isinstance(m, _BatchNorm) for m in module.modules())


class _WithLayers(nn.Module):
    """Mixin of a norm that applies its child layers after normalising."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, unless a layer changes it."""
        x = super().forward(x)
        for layer in self.children():
            x = layer(x)
        return x


class FrozenWithLayers(_WithLayers, FrozenBatchNorm2d):
    """Fixed statistics, weight and bias, then layers."""


class SyncWithLayers(_WithLayers, nn.SyncBatchNorm):
    """Statistics over all devices, then layers."""


class GroupWithLayers(_WithLayers, nn.GroupNorm):
    """Statistics of groups of channels, then layers."""


def _replace(norm: _BatchNorm, mode: Norm) -> nn.Module:
    """A new norm of another kind, with the weights, statistics and layers of a BatchNorm.

    Raises:
        ValueError: there is no equivalent.
    """
    _check(norm, mode)
    has_layers = bool(list(norm.children()))
    new: nn.Module
    if mode == "frozen":
        new = _frozen(norm, FrozenWithLayers if has_layers else FrozenBatchNorm2d)
    elif mode == "sync":
        new = _sync(norm, SyncWithLayers if has_layers else nn.SyncBatchNorm)
    else:
        new = _group(norm, GroupWithLayers if has_layers else nn.GroupNorm)
    for name, child in norm.named_children():
        new.add_module(name, child)
    return new.train(norm.training)


def _frozen(norm: _BatchNorm, kind: type[nn.Module]) -> nn.Module:
    frozen = kind(norm.num_features, eps=norm.eps).to(norm.running_mean)
    own = {name: tensor for name, tensor in norm.state_dict().items() if name in STATE}
    frozen.load_state_dict(own, strict=False)  # weight and bias stay 1 and 0 if the BatchNorm has none
    return frozen


def _sync(norm: _BatchNorm, kind: type[nn.SyncBatchNorm]) -> nn.SyncBatchNorm:
    sync = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    sync.weight, sync.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(sync, name, buffer)
    return sync


def _group(norm: _BatchNorm, kind: type[nn.GroupNorm]) -> nn.GroupNorm:
    group = kind(math.gcd(32, norm.num_features), norm.num_features, eps=norm.eps, affine=norm.affine)
    group.weight, group.bias = norm.weight, norm.bias
    return group


def _check(norm: _BatchNorm, mode: Norm) -> None:
    """Refuses a BatchNorm that another norm cannot replace.

    Raises:
        ValueError: names the class.
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
    """Whether a BatchNorm normalises, applies its child layers in order, and does nothing else."""
    own = {name for name, _ in [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]}
    # torch has no public way to ask for hooks; checked on torch 2.11 to 2.14, tests/backbones/test_norms.py.
    if own - STATE or norm._forward_hooks or norm._forward_pre_hooks:
        return False
    plain = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    if plain:
        return not list(norm.children())
    # The forward of a subclass is known by its output only. The input is not random, to leave generators alone.
    norm = deepcopy(norm).eval()
    like = next(norm.parameters(recurse=False), norm.running_mean)
    if like is not None and like.is_meta:  # without memory there is no output: any values serve
        norm = norm.to_empty(device="cpu")
        norm.reset_parameters()
        like = next(norm.parameters(recurse=False), norm.running_mean)
    x = torch.linspace(-3, 3, 32 * norm.num_features, device="cpu").to(like if like is not None else torch.float32)
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
