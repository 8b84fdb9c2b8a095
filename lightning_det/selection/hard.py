"""Online hard example mining: learn from the regions that the network gets most wrong (OHEM)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_det.ops.nms import best_after_nms


class HardSelector:
    """Keeps the regions of highest current loss (Shrivastava et al., CVPR 2016, section 4).

    Every labelled region is ranked by its classification plus box loss under the current weights. Of regions that
    overlap, whose losses are alike, NMS with the loss as score leaves the hardest; the ``count`` hardest survivors of
    each image carry loss. There is neither a quota of positives nor a lowest IoU of backgrounds.

    Args:
        count: regions per image; fewer survivors are all kept.
        nms_iou: a region goes when its IoU with a harder one is greater. Behind a proposal network's NMS at the same
            threshold it removes next to nothing (docs/claims.md). None: no NMS, as in R-FCN.
        per_label: regions of different labels do not suppress each other, as in the released code.
        ranking: mode of BatchNorm and dropout while losses are ranked: ``eval`` uses running statistics and ranks all
            regions alike; ``train`` uses those of the batch, as the released code. Neither changes statistics.
    """

    by_loss = True
    """Tells detectors that regions are ranked by their losses: all candidates must reach this selector."""

    def __init__(
        self,
        count: int = 128,
        nms_iou: float | None = 0.7,
        per_label: bool = False,
        ranking: Literal["eval", "train"] = "eval",
    ):
        if count < 1 or not 0 <= (nms_iou or 0) <= 1:
            raise ValueError(f"OHEM needs count >= 1 and nms_iou of 0 to 1 or null, got {count} and {nms_iou}")
        if ranking not in ("eval", "train"):
            raise ValueError(f"ranking must be eval or train, got {ranking!r}")
        self.count = count
        self.nms_iou = nms_iou
        self.per_label = per_label
        self.ranking = ranking

    def __call__(
        self,
        labels: Tensor,
        boxes: Tensor,
        losses: Callable[[int, str], Tensor] | None = None,
        ious: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Selects the regions that carry loss.

        Args:
            labels: (B, R) int64: above 0 positive, 0 background, below 0 never selected.
            boxes: (B, R, 4) the regions: proposals, not what they are regressed to.
            losses: see `RandomSelector`; called with ``count``, so that ranking needs no more memory than training.
            ious: see `RandomSelector`; not used here.

        Returns:
            ``index`` (B, S) int64 by falling loss and ``chosen`` (B, S) bool with S = min(count, R).
        """
        loss = losses(self.count, self.ranking)
        # What is not a number must win: training stops at it, and not over a selection of what is left.
        loss = torch.where(loss.isnan(), torch.inf, loss)
        usable = labels >= 0
        if self.nms_iou is None:
            top, index = loss.masked_fill(~usable, -torch.inf).topk(min(self.count, loss.shape[1]), dim=1)
            return index, top > -torch.inf
        groups = labels.clamp(min=0) if self.per_label else torch.zeros_like(labels)
        return best_after_nms(boxes, loss, groups, usable, self.nms_iou, self.count)
