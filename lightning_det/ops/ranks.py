"""Sums over the processes that train together.

Their gradients are averaged. A loss that each of them divides by a count of its own batch would weigh an object more
the fewer of them its rank has; divided by the mean count per rank, the averaged gradient is that of the joint batch
(DETR's ``num_boxes``).
"""

import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """Number of processes that train together, 1 for a process alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of ``x`` over all ranks, without gradient.

    Each rank waits for the others: all have to call it equally often and with tensors of one shape, whatever their
    batches contain.

    Args:
        x: of any shape; not changed.
    """
    total = x.detach().clone()
    if ranks() > 1:
        dist.all_reduce(total)
    return total


def mean_count(count: Tensor) -> Tensor:
    """The divisor of a loss that is summed over this rank's batch: the mean of a count over the ranks.

    The sum over the ranks counts as 1 where it is 0.

    Args:
        count: a number of regions of this rank's batch. All ranks have to call it, see `sum_over_ranks`.
    """
    return sum_over_ranks(count).clamp(min=1) / ranks()
