"""Random selection with a quota of positives: the baseline that every learning strategy is measured against."""

import torch

from lightning_det.protocols.selector import Regions, Selection, Selector


class RandomSelector(Selector):
    """Draws regions at random, at most a fixed share of them positive (Fast R-CNN, section 2.3: 64 RoIs, 25 %).

    Negatives fill the places of missing positives.

    Args:
        count: regions per image.
        positive_share: the largest share of them that may be positive.
        background_floor: lowest IoU of a background with an object. Fast R-CNN uses 0.1, on the
            assumption that background near objects is hard; OHEM makes this heuristic unnecessary.
    """

    def __init__(self, count: int = 128, positive_share: float = 0.25, background_floor: float = 0.0):
        if count < 1 or not 0 < positive_share <= 1 or not 0 <= background_floor < 1:
            raise ValueError(
                "selection needs count >= 1, 0 < positive_share <= 1 and 0 <= background_floor < 1, "
                f"got {count}, {positive_share} and {background_floor}"
            )
        self.count = count
        self.positives = max(1, int(count * positive_share))
        self.background_floor = background_floor

    def __call__(self, regions: Regions) -> Selection:
        """Selects ``count`` regions, or all if there are fewer: S = min(count, R)."""
        labels = regions.labels
        is_background = labels == 0
        if self.background_floor > 0:
            is_background &= regions.ious >= self.background_floor
        noise = torch.rand(labels.shape, device=labels.device)
        positive_key = torch.where(labels > 0, noise, -1.0)
        # Positives with a key below the k-th highest exceed the quota.
        bar = positive_key.topk(min(self.positives, labels.shape[1]), dim=1).values[:, -1:]
        key = torch.where((positive_key >= 0) & (positive_key >= bar), noise + 1, -1.0)
        key = torch.where(is_background, noise, key)
        top, index = key.topk(min(self.count, labels.shape[1]), dim=1)
        return Selection(index, top >= 0)
