"""Layers that are computed again in the backward pass instead of kept: less memory, more time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

# The only common base class of torch's BatchNorms; checked on torch 2.11 to 2.14, tests/backbones/test_norms.py.
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(layers: nn.Module, *maps: Tensor) -> Tensor:
    """Applies layers to concatenated maps and keeps nothing but the maps for the backward pass.

    The backward pass also concatenates the maps again. Running statistics of BatchNorm are updated once. A convolution
    at the end costs nothing: recomputation stops once the inputs of the gradient are known.

    Args:
        layers: must not draw random numbers.
        *maps: (B, C_i, H, W), concatenated along the channels.

    Returns:
        The output of ``layers``.
    """
    if not torch.is_grad_enabled():
        return _apply(layers, *maps)
    if torch.compiler.is_compiling():  # compiled graphs update statistics once by themselves
        return checkpoint(_apply, layers, *maps, use_reentrant=False, preserve_rng_state=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _freeze_statistics(layers)

    return checkpoint(_apply, layers, *maps, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _apply(layers: nn.Module, *maps: Tensor) -> Tensor:
    return layers(torch.cat(maps, dim=1) if len(maps) > 1 else maps[0])


@contextmanager
def _freeze_statistics(layers: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by its batch without updating the running statistics."""
    norms = [m for m in layers.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        # SyncBatchNorm must have a count.
        norm.num_batches_tracked = torch.zeros(()) if isinstance(norm, nn.SyncBatchNorm) else None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
