"""Layers that are computed again in the backward pass instead of kept: less memory, more time."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def again(layers: nn.Module, *maps: Tensor) -> Tensor:
    """What ``layers`` make of the concatenated ``maps``, which are all that is kept for the backward pass.

    The concatenation is made again as well. Running statistics of BatchNorm move once. A convolution at the end costs
    nothing: computing stops as soon as the gradient's inputs are there. Layers must not draw random numbers.
    """
    if not torch.is_grad_enabled():
        return _through(layers, *maps)
    settings = {"use_reentrant": False, "preserve_rng_state": False}
    if not torch.compiler.is_compiling():  # compiled graphs move statistics once of their own accord
        settings["context_fn"] = lambda: (nullcontext(), _still(layers))
    return checkpoint(_through, layers, *maps, **settings)


def _through(layers: nn.Module, *maps: Tensor) -> Tensor:
    return layers(torch.cat(maps, dim=1) if len(maps) > 1 else maps[0])


@contextmanager
def _still(layers: nn.Module) -> Iterator[None]:
    """BatchNorm uses the statistics of its batch without adding them to the running ones."""
    norms = [m for m in layers.modules() if isinstance(m, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
