"""The second stage of Faster R-CNN: classify and refine a selection of RoIs (Fast R-CNN, section 2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.detectors.rpn import Proposals
from lightning_det.ops.boxes import clip, decode, encode_where, gather_boxes, size
from lightning_det.ops.nms import best_after_nms
from lightning_det.ops.roi_align import roi_align
from lightning_det.selection.matching import label_rois
from lightning_det.structures import Batch, Detections, State

BOX_WEIGHTS = (10.0, 5.0)
BOX_BETA = 1.0 / 9

CANDIDATES = 4096
"""(box, class) pairs per view that enter the final NMS: far more than survive it."""


class TwoFC(nn.Module):
    """Two fully connected layers on the flattened RoI: the head of FPN detectors.

    Args:
        channels: channels of the RoI features.
        size: cells per side of the RoI features.
        width: outputs of both layers.
    """

    def __init__(self, channels: int, size: int, width: int = 1024):
        super().__init__()
        self.size = size
        self.width = width
        self.fc6 = nn.Linear(channels * size * size, width)
        self.fc7 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, size, size) to (N, width)."""
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class Stage(nn.Module):
    """A backbone's last stage on every RoI, then the mean over cells: the head of "C4" detectors (ResNet, appendix).

    Args:
        stage: the layers, which halve the resolution.
        width: their output channels.
        size: cells per side that the stage sees.
    """

    def __init__(self, stage: nn.Module, width: int, size: int = 14):
        super().__init__()
        self.stage = stage
        self.size = size
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, size, size) to (N, width)."""
        return self.stage(x).mean(dim=(2, 3))


class RoIHead(nn.Module):
    """Classifies RoIs and regresses a box per class.

    Args:
        trunk: RoI features (N, C, s, s) to (N, width); has ``size`` s and ``width``.
        num_classes: object classes, background not counted.
        strides: pixels of the view per cell of each feature map.
        select: which labelled RoIs carry loss.
        positive: lowest IoU of a RoI with an object's class.
        ignore: background RoIs with a greater share in an ignored box carry no loss.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        strides: Sequence[int],
        select,
        positive: float = 0.5,
        ignore: float = 0.5,
    ):
        super().__init__()
        self.trunk = trunk
        self.num_classes = num_classes
        self.strides = list(strides)
        self.classify = nn.Linear(trunk.width, num_classes + 1)
        self.regress = nn.Linear(trunk.width, 4 * (num_classes + 1))
        self.select = select
        self.thresholds = {"positive": positive, "ignore": ignore}

    def predict(self, maps: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, R, 1 + classes) and box deltas (B, R, 1 + classes, 4), float32, of (B, R, 4) RoIs."""
        features = self.trunk(roi_align(maps, self.strides, rois, self.trunk.size))
        shape = (*rois.shape[:2], self.num_classes + 1)
        return self.classify(features).float().view(shape), self.regress(features).float().view(*shape, 4)

    def losses(self, maps: list[Tensor], proposals: Proposals, batch: Batch) -> dict[str, Tensor]:
        """Classification and box loss, both divided by the number of selected RoIs of the batch."""
        rois, usable = candidates(proposals, batch)
        labels, matched = label_rois(rois, usable, batch.boxes, batch.labels, batch.states, **self.thresholds)
        boxes = gather_boxes(batch.boxes, matched)

        @torch.no_grad()
        def current_losses() -> Tensor:
            return sum(self._losses(maps, rois, labels, boxes))

        index, chosen = self.select(labels, rois, current_losses)
        labels = labels.gather(1, index).clamp(min=0)
        classification, box = self._losses(maps, gather_boxes(rois, index), labels, gather_boxes(boxes, index))
        count = chosen.sum().clamp(min=1)
        return {
            "roi_class": (classification * chosen).sum() / count,
            "roi_box": (box * chosen).sum() / count,
        }

    def _losses(self, maps: list[Tensor], rois: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Both losses (B, R) of every RoI; the box loss of background is 0."""
        logits, deltas = self.predict(maps, rois)
        labels = labels.clamp(min=0)
        classification = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        own = deltas.gather(2, labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        is_object = labels > 0
        targets = encode_where(is_object, rois, boxes, BOX_WEIGHTS)
        error = F.smooth_l1_loss(own, targets, beta=BOX_BETA, reduction="none").sum(dim=-1)
        return classification.view(labels.shape), error * is_object

    def detect(
        self,
        maps: list[Tensor],
        proposals: Proposals,
        sizes: Tensor,
        score_threshold: float,
        nms_iou: float,
        max_detections: int,
    ) -> Detections:
        """Detections of views whose (height, width) without padding are ``sizes`` (B, 2)."""
        logits, deltas = self.predict(maps, proposals.boxes)
        scores = logits.softmax(dim=-1)[..., 1:].masked_fill(~proposals.valid[..., None], 0.0).flatten(1)
        top, index = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
        roi = index.div(self.num_classes, rounding_mode="floor")
        label = index % self.num_classes
        delta = gather_boxes(deltas[:, :, 1:].flatten(1, 2), index)
        box = clip(decode(gather_boxes(proposals.boxes, roi), delta, BOX_WEIGHTS), sizes)
        sides = box[..., 2:] - box[..., :2]
        usable = (top > score_threshold) & (sides >= 1e-2).all(dim=-1)
        index, valid = best_after_nms(box, top, label, usable, nms_iou, max_detections)
        return Detections(gather_boxes(box, index), top.gather(1, index) * valid, label.gather(1, index), valid)


def candidates(proposals: Proposals, batch: Batch) -> tuple[Tensor, Tensor]:
    """Proposals and ground truth as RoIs (B, P + G, 4), and which of them the view may learn from (B, P + G).

    Only RoIs inside the view's valid range qualify, proposals and ground truth alike (SNIP, section 6.1).
    """
    rois = torch.cat([proposals.boxes, batch.boxes], dim=1)
    known = (batch.states == State.VALID) | (batch.states == State.INVALID)
    usable = torch.cat([proposals.valid, known], dim=1)
    original_size = size(rois) / batch.scales[:, None]
    low, high = batch.ranges[:, :1], batch.ranges[:, 1:]
    in_range = (original_size >= low) & (original_size < high)
    # Degenerate ground truth (clipped to nothing by a window) has no box to regress from.
    return rois, usable & in_range & (original_size > 0)
