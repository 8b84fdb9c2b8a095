"""Finds weights that are NaN or infinite."""

from collections.abc import Mapping

from torch import Tensor


def find_nonfinite(weights: Mapping[str, Tensor]) -> str | None:
    """Finds a tensor with NaN or infinite values, and returns its name; None if there is none."""
    return next((n for n, t in weights.items() if t.is_floating_point() and not t.isfinite().all()), None)
