"""Random selection with a quota of positives: the baseline that every learning strategy is measured against."""

from collections.abc import Callable

import torch
from torch import Tensor


class RandomSelector:
    """Draws regions at random, at most a fixed share of them positive (Fast R-CNN, section 2.3: 64 RoIs, 25 %).

    Positives that are missing are replaced by negatives. This call signature is what every selector has; one
    that ranks regions by their loss asks ``losses`` for it, and only then is it computed.

    Args:
        count: regions per image.
        positive_share: the largest share of them that may be positive.
    """

    def __init__(self, count: int = 128, positive_share: float = 0.25):
        if count < 1 or not 0 < positive_share <= 1:
            raise ValueError(
                f"selection needs count >= 1 and 0 < positive_share <= 1, got {count} and {positive_share}"
            )
        self.count = count
        self.positives = max(1, int(count * positive_share))

    def __call__(
        self, labels: Tensor, boxes: Tensor, losses: Callable[[], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Selects the regions that carry loss.

        Args:
            labels: (B, R) int64: above 0 positive, 0 background, below 0 never selected.
            boxes: (B, R, 4) the regions; not used here.
            losses: makes the (B, R) current loss of every region, without gradient; not used here.

        Returns:
            ``index`` (B, S) int64 and ``chosen`` (B, S) bool with S = min(count, R); the positions where
            ``chosen`` is False are fillers and carry no loss.
        """
        noise = torch.rand(labels.shape, device=labels.device)
        positive_key = torch.where(labels > 0, noise, -1.0)
        # The k-th best key of the positives is the bar that the others of them fail.
        bar = positive_key.topk(min(self.positives, labels.shape[1]), dim=1).values[:, -1:]
        key = torch.where((positive_key >= 0) & (positive_key >= bar), noise + 1, -1.0)
        key = torch.where(labels == 0, noise, key)
        top, index = key.topk(min(self.count, labels.shape[1]), dim=1)
        return index, top >= 0
