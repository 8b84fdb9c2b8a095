"""Single-shot detectors: SSD (Liu et al., ECCV 2016), DSOD and GRP-DSOD (Shen et al., ICCV 2017; 2017)."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.backbones import Backbone
from lightning_det.backbones.dsod import initialise
from lightning_det.backbones.norms import Norm, set_norm
from lightning_det.detectors.gated_pyramid import GatedPyramid
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.priors import Priors
from lightning_det.detectors.proposals import ProposalNetwork, light_network
from lightning_det.detectors.reach import stack_shapes
from lightning_det.detectors.second_stage import BOX_WEIGHTS, candidate_count
from lightning_det.detectors.torchvision_weights import load_torchvision_ssd, ssd_class_rows
from lightning_det.ops.boxes import clip, decode, encode_where, gather_boxes, in_detection_range
from lightning_det.ops.largest import largest
from lightning_det.ops.nms import best_after_nms
from lightning_det.ops.ranks import ranks, sum_over_ranks
from lightning_det.protocols.detector import AnchorShapes, Detector, Selected
from lightning_det.protocols.selector import Regions, Selector
from lightning_det.protocols.structures import Batch, Detections
from lightning_det.selection.priors import label_priors
from lightning_det.system.shares import check_shares


class L2Norm(nn.Module):
    """L2-normalises cells over channels, then scales each channel by a learned factor (ParseNet; SSD, section 3.1).

    Args:
        channels: channels of the map.
        scale: initial factor of all channels.
    """

    def __init__(self, channels: int, scale: float = 20.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return F.normalize(x, dim=1, eps=1e-10) * self.scale[:, None, None]


class SSD(Detector):
    """Classifies every prior of several feature maps and regresses a class-agnostic box from it.

    Args:
        backbone: images to prediction maps.
        num_classes: object classes, background not counted.
        select_priors: selector of the priors that carry loss.
        priors: `Priors` with its settings; gets the number of maps.
        neck: `GatedPyramid` with its settings; gets the channels of the maps. Another module must return as many maps
            and have the attribute ``channels``. None: no neck.
        preprocess: uint8 images to normalised float images; None: `Normalize` as the backbone was trained.
        l2_norm: whether `L2Norm` is applied to every map before prediction, as in DSOD. SSD normalises only its finest
            map, inside its backbone.
        head_norm: normalisation after the convolutions that predict, as in DSOD (see `set_norm`); None: they have a
            bias instead.
        positive: lowest IoU at which a prior gets a box's class without being its best.
        ignore: see `label_priors`.
        box_weight: weight of the box loss.
        box_beta: error at which smooth L1 turns from quadratic to linear, in units of the targets' standard deviations.

    Raises:
        ValueError: the priors are for another number of maps, the selector ranks in evaluation mode, or a threshold is
            not 0 to 1.
    """

    class_layers = ("classify.",)
    spreads_anchors = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        select_priors: Selector,
        priors: Callable[..., Priors],
        neck: Callable[..., GatedPyramid] | None = None,
        preprocess: nn.Module | None = None,
        l2_norm: bool = False,
        head_norm: Norm | None = None,
        positive: float = 0.5,
        ignore: float = 0.5,
        box_weight: float = 1.0,
        box_beta: float = 1.0,
    ):
        super().__init__()
        check_shares(positive=positive, ignore=ignore)
        ranking = select_priors.ranking
        if ranking is not None and ranking.mode != "train":
            raise ValueError("priors are ranked by the losses of the step itself: selection.priors.ranking=train")
        self.preprocess = preprocess or Normalize(*backbone.pixels)
        self.backbone = backbone
        self.neck = None if neck is None else neck(backbone.channels)
        self.num_classes = num_classes
        self.priors = priors(maps=len(backbone.channels))
        if len(backbone.channels) != len(self.priors.per_cell):
            raise ValueError(
                f"priors are for {len(self.priors.per_cell)} maps, the backbone makes {len(backbone.channels)}"
            )
        self.anchor_sizes = len(self.priors.per_cell)
        self.select = select_priors
        channels = backbone.channels if self.neck is None else self.neck.channels
        shapes = list(zip(channels, self.priors.per_cell, strict=True))
        self.norms = nn.ModuleList(L2Norm(c) if l2_norm else nn.Identity() for c in channels)
        self.classify = nn.ModuleList(_head(c, n * (num_classes + 1), head_norm) for c, n in shapes)
        self.regress = nn.ModuleList(_head(c, n * 4, head_norm) for c, n in shapes)
        self.thresholds = {"positive": positive, "ignore": ignore}
        self.box_weight = box_weight
        self.box_beta = box_beta

    def predict(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns priors (P, 4), class logits (B, P, 1 + classes) and box deltas (B, P, 4), float32."""
        maps = self.observe(self.backbone(self.preprocess(images, sizes)))
        if self.neck is not None:
            maps = self.neck(maps)
        normed = [norm(m) for norm, m in zip(self.norms, maps, strict=True)]
        logits, deltas = (
            torch.cat([_per_prior(head(m), width) for head, m in zip(heads, normed, strict=True)], dim=1).float()
            for heads, width in ((self.classify, self.num_classes + 1), (self.regress, 4))
        )
        return self.priors(images.shape[-2:], maps), logits, deltas

    def candidates(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and class scores of all priors, see `Detector.candidates`."""
        priors, logits, deltas = self.predict(images, sizes)
        boxes = clip(decode(priors, deltas, BOX_WEIGHTS).nan_to_num(0.0), sizes)
        return boxes, logits.softmax(dim=-1)[..., 1:]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Classification and box loss of the selected priors, divided by the number of positives in the batch.

        The divisor is at least a quarter of the selected priors, because OHEM may select background alone. With
        hard negatives at 3:1 this bound has no effect.
        """
        priors, logits, deltas = self.predict(batch.images, batch.sizes)
        labels, matched, ious = label_priors(priors, batch.boxes, batch.labels, batch.states, **self.thresholds)
        is_object = labels > 0
        regions = priors.expand_as(deltas)
        targets = encode_where(is_object, regions, gather_boxes(batch.boxes, matched), BOX_WEIGHTS)
        box = F.smooth_l1_loss(deltas, targets, beta=self.box_beta, reduction="none").sum(dim=-1) * is_object
        classification = F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none")
        classification = classification.view(labels.shape)
        current = (classification + box).detach()
        index, chosen = self.select(Regions(regions, labels, ious, current))
        carries = torch.zeros_like(is_object).scatter(1, index, chosen)
        known = current.masked_fill(labels < 0, torch.nan)
        self.selected = Selected(regions, labels.clamp(min=0), matched, carries, current, known, "prior")
        positives, selected = sum_over_ranks(torch.stack([(carries & is_object).sum(), carries.sum()]))
        if self.select.background_alone:
            positives = torch.maximum(positives, selected / 4)  # as many as the published ratio of negatives leaves
        count = positives.clamp(min=1) / ranks()
        return {
            "class": (classification * carries).sum() / count,
            "box": self.box_weight * (box * carries).sum() / count,
        }

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        score_threshold: float = 0.01,
        nms_iou: float = 0.45,
        max_detections: int = 200,
        ranges: Tensor | None = None,
        passes: int = 1,
    ) -> Detections:
        """Detects objects in views, see `Detector.forward`."""
        boxes, scores = self.candidates(images, sizes)
        if ranges is not None:
            scores = scores.masked_fill(~in_detection_range(boxes, ranges)[..., None], 0.0)
        scores = scores.flatten(1)
        top, place = largest(scores, candidate_count(max_detections))
        label = place % self.num_classes
        found = gather_boxes(boxes, place.div(self.num_classes, rounding_mode="floor"))
        usable = (top > score_threshold) & (found[..., 2:] - found[..., :2] >= 1e-2).all(dim=-1)
        if ranges is not None:
            usable &= in_detection_range(found, ranges)
        index, valid = best_after_nms(found, top, label, usable, nms_iou, max_detections)
        return Detections(gather_boxes(found, index), top.gather(1, index) * valid, label.gather(1, index), valid)

    def compiled_parts(self) -> list[nn.Module]:
        """Backbone and neck."""
        return [self.backbone] if self.neck is None else [self.backbone, self.neck]

    def proposer(self, anchor_sizes: Sequence[float]) -> ProposalNetwork:
        """See `light_network`."""
        return light_network(self.backbone, self.preprocess, anchor_sizes)

    def anchor_shapes(
        self, sizes: Sequence[float] | None = None, ratios: Sequence[float] | None = None
    ) -> AnchorShapes | None:
        """Shapes and grids of the priors, or of priors spread between the first and the last of ``sizes``."""
        if ratios is not None:
            return None
        priors = self.priors if sizes is None else self.priors.with_sizes(sizes)
        return stack_shapes(priors.cells, priors.steps or self.backbone.strides, start=0.5)

    def load_torchvision(self, weights: Mapping[str, Tensor], classes: Sequence[str]) -> str:
        """Loads a state_dict of torchvision's ``ssd300_vgg16``; classes of COCO weights are found by name."""
        rows = ssd_class_rows(weights, self.priors.per_cell[0], classes)
        left = load_torchvision_ssd(self, weights, self.num_classes, self.priors.per_cell[0], rows)
        return "the last layers start fresh: their classes are others" if left else "all layers"


def _head(inputs: int, outputs: int, norm: Norm | None) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm is None)
    if norm is None:
        initialise(conv)
        return conv
    nn.init.normal_(conv.weight, std=0.01)
    return set_norm(nn.Sequential(conv, nn.BatchNorm2d(outputs)), norm)


def _per_prior(x: Tensor, values: int) -> Tensor:
    """(B, n * values, h, w) to (B, h * w * n, values), the order of `Priors`."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)
