"""Sums over the processes that train together.

Gradients are averaged over the ranks. If each rank divided its loss by the count of its own batch, objects of a rank
with few objects would get a larger weight. If it divides by the mean count per rank, the averaged gradient is that of
the joint batch (DETR's ``num_boxes``).
"""

import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """Number of processes that train together; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sums ``x`` over all ranks, without gradient.

    Each rank waits for the others, so all must call it equally often and with tensors of the same shape, whatever
    their batches contain.

    Args:
        x: of any shape; not changed.
    """
    total = x.detach().clone()
    if ranks() > 1:
        dist.all_reduce(total)
    return total


def mean_count(count: Tensor) -> Tensor:
    """Averages a count over the ranks, as the divisor of a loss that is summed over this rank's batch.

    If the sum over the ranks is 0, it is replaced by 1.

    Args:
        count: a number of regions of this rank's batch. All ranks must call this function, see `sum_over_ranks`.
    """
    return sum_over_ranks(count).clamp(min=1) / ranks()
