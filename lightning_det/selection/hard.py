"""Online hard example mining: learn from the regions that the network gets most wrong (OHEM)."""

from typing import Literal

import torch
from torch import nn

from lightning_det.ops.nms import NMS
from lightning_det.protocols.selector import Ranking, Regions, Selection, Selector


class HardSelector(Selector, nn.Module):
    """Keeps the regions of highest current loss (Shrivastava et al., CVPR 2016, section 4).

    Every labelled region is ranked by its classification plus box loss under the current weights. Overlapping
    regions have similar losses, so NMS with the loss as score keeps only the hardest of them. The ``count`` hardest
    survivors of each image carry loss. There is no quota of positives and no lowest IoU of background.

    Args:
        count: regions per image; all survivors if there are fewer.
        nms_iou: a region is removed when its IoU with a harder one is greater. After a proposal network's NMS at the
            same threshold this removes next to nothing (docs/claims.md). None: no NMS, as in R-FCN.
        per_label: regions of different labels do not suppress each other, as in the released code.
        ranking: mode of BatchNorm and dropout while losses are ranked: ``eval`` uses running statistics and ranks all
            regions alike; ``train`` uses those of the batch, as the released code does. Running statistics stay
            unchanged in both.
    """

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
        super().__init__()
        self.count = count
        self.nms = None if nms_iou is None else NMS(nms_iou)
        self.per_label = per_label
        self.ranking = Ranking(ranking, count)

    def __call__(self, regions: Regions) -> Selection:
        """Selects the hardest regions by falling loss; S = min(count, R)."""
        labels, loss = regions.labels, regions.losses
        if loss is None:
            raise ValueError("HardSelector ranks regions by loss, and got no losses")
        # NaN ranks highest: it must reach the loss, where it stops the training.
        loss = torch.where(loss.isnan(), torch.inf, loss)
        usable = labels >= 0
        if self.nms is None:
            top, index = loss.masked_fill(~usable, -torch.inf).topk(min(self.count, loss.shape[1]), dim=1)
            return Selection(index, top > -torch.inf)
        groups = labels.clamp(min=0) if self.per_label else torch.zeros_like(labels)
        return Selection(*self.nms(regions.boxes, loss, groups, usable, self.count))
