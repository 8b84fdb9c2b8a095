"""Box voting: kept boxes become weighted means of their neighbours (Gidaris and Komodakis, ICCV 2015, section 4)."""

from itertools import pairwise

import torch
from torch import Tensor

from lightning_det.ops.boxes import area

PAIRS = 1_000_000
"""Pairs of a kept box and a candidate that are compared at once: bounds the memory."""


class BoxVoting:
    """Replaces every kept box by the mean of the candidates around it, weighted by their scores.

    All candidates vote, including those that the merge suppressed. Scores do not change.

    Args:
        iou: lowest IoU of a voter with the kept box.
    """

    def __init__(self, iou: float = 0.5):
        if not 0 < iou <= 1:
            raise ValueError(f"test.vote.iou must be above 0 and at most 1, got {iou}")
        self.iou = iou

    def __call__(self, kept: Tensor, boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        """Lets candidates vote.

        Args:
            kept: (K,) int64, which candidates the merge kept.
            boxes: (N, 4) float ``xyxy`` of all candidates, pixels of the original image.
            scores: (N,) float, before the merge.
            groups: (N,) int64, one number per image and class; only candidates of a box's group vote.

        Returns:
            (K, 4) new boxes of the kept detections.
        """
        order = torch.argsort(groups, stable=True)
        by_group = groups[order]
        starts = torch.searchsorted(by_group, groups[kept])
        counts = torch.searchsorted(by_group, groups[kept], right=True) - starts
        voted = []
        for begin, end in _parts(counts):
            count = counts[begin:end]
            row = torch.repeat_interleave(torch.arange(end - begin), count)
            place = torch.arange(len(row)) - torch.repeat_interleave(count.cumsum(0) - count, count)
            voters = order[torch.repeat_interleave(starts[begin:end], count) + place]
            voted.append(self._means(boxes[kept[begin:end]], boxes[voters], scores[voters], row))
        return torch.cat([boxes[:0], *voted])

    def _means(self, kept: Tensor, voters: Tensor, scores: Tensor, row: Tensor) -> Tensor:
        """Averages the voters (P, 4), by their scores (P,), for the rows (P,) of ``kept`` (K, 4) that they vote for."""
        own = kept[row]
        sides = torch.minimum(own[:, 2:], voters[:, 2:]) - torch.maximum(own[:, :2], voters[:, :2])
        common = sides.clamp(min=0).prod(dim=1)
        union = area(own) + area(voters) - common
        weight = torch.where(common >= self.iou * union, scores.clamp(min=0), 0).double()
        total = torch.zeros(len(kept), dtype=torch.float64).index_add_(0, row, weight)
        moved = torch.zeros(len(kept), 4, dtype=torch.float64)
        # Averages differences: averages of coordinates far from the origin would lose digits.
        moved.index_add_(0, row, weight[:, None] * (voters.double() - own))
        return (kept + moved / total.clamp(min=1e-12)[:, None]).to(kept.dtype)


def _parts(counts: Tensor) -> list[tuple[int, int]]:
    """Consecutive ranges of rows whose counts sum to about `PAIRS`."""
    part = counts.cumsum(0).div(PAIRS, rounding_mode="floor")
    ends = torch.unique_consecutive(part, return_counts=True)[1].cumsum(0).tolist()
    return list(pairwise([0, *ends]))
