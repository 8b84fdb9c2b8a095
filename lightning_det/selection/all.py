"""No selection: every region that may carry loss does."""

from collections.abc import Callable

import torch
from torch import Tensor


class AllSelector:
    """Keeps every region with a label (SNIPER trains on all RoIs of a chip; the "all RoIs" row of OHEM's table 1)."""

    def __call__(
        self,
        labels: Tensor,
        boxes: Tensor,
        losses: Callable[[int, str], Tensor] | None = None,
        ious: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Selects the regions that carry loss.

        Args:
            labels: (B, R) int64: 0 or more is kept, below 0 is not.
            boxes: (B, R, 4) the regions; not used here.
            losses: see `RandomSelector`; not used here.
            ious: see `RandomSelector`; not used here.

        Returns:
            ``index`` (B, R) int64 and ``chosen`` (B, R) bool.
        """
        index = torch.arange(labels.shape[1], device=labels.device).expand(labels.shape)
        return index, labels >= 0
