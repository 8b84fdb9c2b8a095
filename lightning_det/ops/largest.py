"""The best of many scores, with a number of results that an exported graph can fix."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_det.ops.tracing import is_exporting


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Finds the largest values of each row.

    Args:
        values: (B, N) float.
        count: how many to find at most.

    Returns:
        Values and positions, both (B, min(count, N)), largest first. An exported graph leaves N open, because it
        depends on the image's shape. There, results have the length ``count``, and are -inf after the first N.
    """
    length = values.shape[1]
    if not is_exporting():
        top, index = values.topk(min(count, length), dim=1)
        return top, index
    top, index = F.pad(values, (0, count), value=-torch.inf).topk(count, dim=1)
    return top, index.clamp(max=length - 1)
