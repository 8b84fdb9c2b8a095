"""The head of AutoFocus (Najibi, Singh and Davis, ICCV 2019), which predicts where small objects are."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.backbones import Backbone
from lightning_det.ops.ranks import mean_count
from lightning_det.protocols.detector import Focus
from lightning_det.protocols.structures import Batch
from lightning_det.selection.focus import label_focus
from lightning_det.selection.matching import SKIP

PUBLISHED_STRIDE = 16


class FocusHead(Focus):
    """Predicts for every cell of a feature map whether it overlaps a small object.

    It reads the backbone's map whose stride is nearest to 16, the published one: a 3x3 and a 1x1 convolution with ReLU,
    and a 1x1 convolution to two classes.

    Args:
        backbone: of the detector; it is read, not kept.
        width: channels of the two convolutions.
        limits: see `label_focus`.

    Raises:
        ValueError: the limits do not ascend.
    """

    def __init__(self, backbone: Backbone, width: int = 256, limits: Sequence[float] = (5.0, 64.0, 90.0)):
        super().__init__()
        low, small, high = limits
        if not 0 <= low < small <= high:
            raise ValueError(f"dataset.focus.limits are three sizes in ascending order, got {list(limits)}")
        self.limits = (float(low), float(small), float(high))
        strides = list(backbone.strides)
        self.number = min(range(len(strides)), key=lambda n: abs(strides[n] - PUBLISHED_STRIDE))
        self.stride = strides[self.number]
        self.layers = nn.Sequential(
            nn.Conv2d(backbone.channels[self.number], width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w) of the backbone to logits (B, 2, h, w) of background and small object, float32."""
        return self.layers(maps[self.number]).float()

    def losses(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the cells that are labelled, divided by their number in the joint batch."""
        shape = (logits.shape[2], logits.shape[3])
        labels = label_focus(batch.boxes, batch.states, batch.sizes, shape, self.stride, self.limits)
        loss = F.cross_entropy(logits, labels, ignore_index=SKIP, reduction="sum")
        return {"focus": loss / mean_count((labels != SKIP).sum())}

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, h, w) probability that a cell overlaps a small object."""
        return torch.softmax(logits, dim=1)[:, 1]
