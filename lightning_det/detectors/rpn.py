"""Region proposal network (Faster R-CNN, section 3.1), batched and static in shape."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead

from lightning_det.detectors.anchors import Anchors
from lightning_det.detectors.reach import stack_shapes
from lightning_det.ops.boxes import clip, decode, encode_where, gather_boxes, sqrt_area
from lightning_det.ops.largest import largest
from lightning_det.ops.nms import NMS
from lightning_det.ops.ranks import mean_count
from lightning_det.protocols.detector import AnchorShapes
from lightning_det.protocols.selector import Regions, Selector
from lightning_det.protocols.structures import Batch
from lightning_det.selection.matching import label_anchors
from lightning_det.system.shares import check_shares


class Proposals(NamedTuple):
    """``P`` proposals per view, best first."""

    boxes: Tensor
    """(B, P, 4) float32 ``xyxy``, pixels of the view, clipped to it; no gradient."""
    scores: Tensor
    """(B, P) float32 objectness, a probability; 0 for padding."""
    valid: Tensor
    """(B, P) bool, False for padding."""


class Predictions(NamedTuple):
    """Raw output of the network, one tensor per map with ``A`` anchors."""

    anchors: list[Tensor]
    """(A, 4) float32 ``xyxy``, pixels of the view."""
    logits: list[Tensor]
    """(B, A) float32, objectness before the sigmoid."""
    deltas: list[Tensor]
    """(B, A, 4) float32, regression of the anchors."""


class RPN(nn.Module):
    """Scores anchors, refines them into proposals, and learns from a selection of them.

    Args:
        channels: channels of every feature map.
        strides: pixels of the view per cell of each feature map, finest first.
        select: selector of the anchors that carry loss; it must not rank by loss.
        sizes: sides of the square anchors, pixels of the view: all of them on the only map, or one per map.
        before_nms: (training, inference) most proposals per map that enter NMS.
        after_nms: (training, inference) most proposals per view after NMS.
        ratios: height / width of the anchors of every size.
        positive: lowest IoU of a positive anchor.
        negative: IoU below which an anchor is background.
        ignore: anchors that overlap an invalid or ignored box by more than this carry no loss.
        nms_iou: threshold of NMS, which runs on every map by itself.
        min_size: shortest side of proposals, pixels of the view; smaller ones are removed.
        per_megapixel: lowest value of ``after_nms`` at inference, per megapixel of the canvas, since large views hold
            more objects; ``before_nms`` grows in proportion. None: the limits above hold for all views.
        border: how far anchors may reach beyond the view (or into its padding), pixels of the view. Anchors that reach
            further carry no loss and cannot be the best of a box. None: no limit, as in torchvision; SNIPER uses 32.
        box_beta: box error from which smooth L1 is linear: 1/9 is sigma = 3 of py-faster-rcnn; SNIPER's code has 1.
        box_weight: factor of the box loss; SNIPER's code has 3.

    Raises:
        ValueError: the sizes do not fit the maps, thresholds are out of 0 to 1 or of order, or the selector ranks by
            loss.
    """

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        select: Selector,
        sizes: Sequence[float],
        before_nms: Sequence[int],
        after_nms: Sequence[int],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        positive: float = 0.7,
        negative: float = 0.3,
        ignore: float = 0.3,
        nms_iou: float = 0.7,
        min_size: float = 1e-3,
        border: float | None = None,
        per_megapixel: float | None = None,
        box_beta: float = 1.0 / 9,
        box_weight: float = 1.0,
    ):
        super().__init__()
        if len(strides) not in (1, len(sizes)):
            raise ValueError(
                f"the pyramid has {len(strides)} maps, so dataset.anchor_sizes needs {len(strides)} sizes, got {sizes}"
            )
        check_shares(ignore=ignore, nms_iou=nms_iou)
        if not 0 <= negative <= positive <= 1:
            raise ValueError(
                f"rpn: positive and negative are the lowest IoU of a positive and the highest of a background, got "
                f"{positive} and {negative}"
            )
        if select.ranking is not None:
            raise ValueError("OHEM selects RoIs (selection.rois); anchors are selected without their losses")
        if per_megapixel is not None and per_megapixel < 0:
            raise ValueError(f"proposals_per_megapixel must be positive or null, got {per_megapixel}")
        self.strides = list(strides)
        self.anchors = Anchors([sizes] if len(strides) == 1 else [[s] for s in sizes], ratios)
        self.head = RPNHead(channels, self.anchors.per_cell[0])
        self.select = select
        self.thresholds = {"positive": positive, "negative": negative, "ignore": ignore}
        self.before_nms = tuple(before_nms)
        self.after_nms = tuple(after_nms)
        self.nms = NMS(nms_iou)
        self.min_size = min_size
        self.border = border
        self.box_beta = box_beta
        self.box_weight = box_weight
        self.per_megapixel = per_megapixel

    def anchor_shapes(
        self, sizes: Sequence[float] | None = None, ratios: Sequence[float] | None = None
    ) -> AnchorShapes:
        """Shapes and grids of the anchors, or of anchors of other sizes or ratios."""
        anchors = self.anchors if sizes is None else self.anchors.with_sizes(sizes, ratios)
        return stack_shapes(anchors.cells, self.strides, start=0.0)

    def forward(self, maps: list[Tensor], image_size: tuple[int, int]) -> Predictions:
        """Predictions on feature maps (B, C, h, w) of a batch whose padded (height, width) is ``image_size``.

        Returns:
            Per map: anchors (A, 4), logits (B, A) and deltas (B, A, 4), both float32.
        """
        logits, deltas = self.head(maps)
        return Predictions(
            self.anchors(image_size, maps),
            [_per_anchor(x, 1).squeeze(-1).float() for x in logits],
            [_per_anchor(x, 4).float() for x in deltas],
        )

    def counts(self, canvas: tuple[int, int], wanted: int = 0) -> tuple[int, int]:
        """Most proposals per map that enter NMS, and most per view after NMS; equal for all views of a batch.

        Args:
            canvas: (height, width) of the views with padding.
            wanted: see `propose`.
        """
        return (self.before_nms[0], self.after_nms[0]) if self.training else self._inference_counts(canvas, wanted)

    def fix_counts(self, canvas: tuple[int, int]) -> None:
        """Makes the numbers of proposals at inference those of views of a (height, width), whatever views follow."""
        before, after = self._inference_counts(canvas)
        self.before_nms, self.after_nms = (self.before_nms[0], before), (self.after_nms[0], after)
        self.per_megapixel = None

    def _inference_counts(self, canvas: tuple[int, int], wanted: int = 0) -> tuple[int, int]:
        before, after = self.before_nms[1], self.after_nms[1]
        grown = max(after, wanted, ceil((self.per_megapixel or 0.0) * canvas[0] * canvas[1] / 1e6))
        return ceil(before * grown / max(1, after)), grown

    @torch.no_grad()
    def propose(
        self,
        predictions: Predictions,
        sizes: Tensor,
        ranges: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        wanted: int = 0,
    ) -> Proposals:
        """Best proposals of every view.

        Args:
            predictions: output of `forward`.
            sizes: (B, 2), the views' (height, width) without padding.
            ranges: (B, 2) sizes, pixels of the view, outside which proposals are removed before the best are
                picked: in training, only proposals that a view may learn from should fill the limits (SNIPER).
            canvas: (height, width) of the views with padding, see `counts`; None: ``per_megapixel`` has no effect.
            wanted: lowest value of ``after_nms`` at inference; ``before_nms`` grows in proportion.
        """
        before, after = self.counts(canvas or (0, 0), wanted)
        boxes, logits, groups = [], [], []
        for number, (anchors, logit, delta) in enumerate(zip(*predictions, strict=True)):
            if ranges is not None:
                side = sqrt_area(clip(decode(anchors, delta).nan_to_num(0.0), sizes))
                logit = logit.masked_fill((side < ranges[:, :1]) | (side >= ranges[:, 1:]), -torch.inf)
            top, index = largest(logit, before)
            boxes.append(decode(anchors[index], gather_boxes(delta, index)))
            logits.append(top)
            groups.append(torch.full_like(index, number))
        # After a diverged step boxes may be NaN, which torchvision's RoIAlign would turn into invalid addresses.
        box = clip(torch.cat(boxes, dim=1).nan_to_num(0.0), sizes)
        score = torch.cat(logits, dim=1).sigmoid()
        sides = box[..., 2:] - box[..., :2]
        logit = torch.cat(logits, dim=1)
        usable = (sides >= self.min_size).all(dim=-1) & score.isfinite() & (logit > -torch.inf)
        lengths = [x.shape[1] for x in logits]
        index, valid = self.nms(box, score, torch.cat(groups, dim=1), usable, after, lengths)
        return Proposals(gather_boxes(box, index), score.gather(1, index) * valid, valid)

    def losses(self, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
        """Objectness and box loss, both divided by the number of selected anchors of the batch, see `mean_count`."""
        anchors = torch.cat(predictions.anchors)
        logits = torch.cat(predictions.logits, dim=1)
        deltas = torch.cat(predictions.deltas, dim=1)
        usable = None if self.border is None else within(anchors, batch.sizes, self.border)
        states = batch.states if batch.anchor_states is None else batch.anchor_states
        labels, matched, ious = label_anchors(anchors, batch.boxes, states, usable=usable, **self.thresholds)
        index, chosen = self.select(Regions(anchors.expand(len(labels), -1, -1), labels, ious, None))
        is_object = labels.gather(1, index) == 1
        objectness = F.binary_cross_entropy_with_logits(logits.gather(1, index), is_object.float(), reduction="none")
        reference = anchors[index]
        boxes = gather_boxes(batch.boxes, matched.gather(1, index))
        targets = encode_where(is_object, reference, boxes)
        error = F.smooth_l1_loss(gather_boxes(deltas, index), targets, beta=self.box_beta, reduction="none").sum(dim=-1)
        count = mean_count(chosen.sum())
        return {
            "rpn_objectness": (objectness * chosen).sum() / count,
            "rpn_box": self.box_weight * (error * (chosen & is_object)).sum() / count,
        }


def within(anchors: Tensor, sizes: Tensor, border: float) -> Tensor:
    """(B, A) bool, whether (A, 4) anchors reach at most ``border`` pixels beyond views of (B, 2) ``sizes``."""
    limit = sizes.flip(1)[:, None] + border
    return ((anchors[:, :2] >= -border) & (anchors[:, 2:] <= limit)).all(dim=-1)


def _per_anchor(x: Tensor, values: int) -> Tensor:
    """(B, A * values, h, w) to (B, h * w * A, values), the order of `Anchors`."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)
