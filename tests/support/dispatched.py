"""Counts the operators that a computation calls."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode

DYNAMIC = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "index.Tensor_mask", "item", "where.default")
"""Beginnings of the names of operators whose shapes depend on the data, or that the host waits for."""


class Count(TorchDispatchMode):
    """Counts dispatched operators."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))
