"""Single-shot detectors: SSD (Liu et al., ECCV 2016), DSOD (Shen et al., ICCV 2017) and GRP-DSOD (the same, 2017)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.backbones.dsod import initialise
from lightning_det.backbones.norms import Norm, set_norm
from lightning_det.detectors.gated_pyramid import GatedPyramid
from lightning_det.detectors.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalize
from lightning_det.detectors.priors import Priors, spread
from lightning_det.detectors.roi_head import BOX_WEIGHTS, Selected, candidate_count
from lightning_det.ops.boxes import clip, decode, encode_where, gather_boxes, in_detection_range
from lightning_det.ops.nms import best_after_nms
from lightning_det.ops.ranks import ranks, sum_over_ranks
from lightning_det.protocols.structures import Batch, Detections
from lightning_det.selection.priors import label_priors


class L2Norm(nn.Module):
    """Gives the channels of every cell a length that is learned per channel (ParseNet; SSD, section 3.1).

    Args:
        channels: of the map.
        scale: length at the beginning.
    """

    def __init__(self, channels: int, scale: float = 20.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) as it came."""
        return F.normalize(x, dim=1, eps=1e-10) * self.scale[:, None, None]


class SSD(nn.Module):
    """Classifies every prior of several feature maps and regresses it to a box that serves all classes.

    Args:
        backbone: images to prediction maps; has their ``channels``.
        num_classes: object classes, background not counted.
        priors: boxes on the maps.
        select: which priors carry loss.
        l2_norm: whether maps are brought to length 20 before they are read, as in DSOD. SSD does so on its finest map
            alone, inside its backbone.
        head_norm: BatchNorm behind the convolutions that predict, as in DSOD (see `set_norm`); None: they have a bias.
        positive: lowest IoU of a prior with a box whose class it gets without being the best.
        ignore: see `label_priors`.
        box_weight: of the box loss.
        box_beta: where the box loss turns from quadratic to linear.
        preprocess: uint8 images to normalised float images.
        neck: prediction maps to those that are read; has their ``channels``. None: they are read as they are.

    Attributes:
        selected: of the last step; callbacks read it.
    """

    class_layers = ("classify.",)
    """Prefixes of the parameters whose shape follows the classes."""

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        priors: Priors,
        select,
        l2_norm: bool = False,
        head_norm: Norm | None = None,
        positive: float = 0.5,
        ignore: float = 0.5,
        box_weight: float = 1.0,
        box_beta: float = 1.0,
        preprocess: nn.Module | None = None,
        neck: nn.Module | None = None,
    ):
        super().__init__()
        if getattr(select, "ranking", "train") != "train":
            raise ValueError("priors are ranked by the losses of the step itself: selection.priors.ranking=train")
        if len(backbone.channels) != len(priors.per_cell):
            raise ValueError(f"priors are for {len(priors.per_cell)} maps, the backbone makes {len(backbone.channels)}")
        self.preprocess = preprocess or Normalize()
        self.backbone = backbone
        self.neck = neck
        self.num_classes = num_classes
        self.priors = priors
        self.select = select
        channels = backbone.channels if neck is None else neck.channels
        shapes = list(zip(channels, priors.per_cell, strict=True))
        self.norms = nn.ModuleList(L2Norm(c) if l2_norm else nn.Identity() for c in channels)
        self.classify = nn.ModuleList(_head(c, n * (num_classes + 1), head_norm) for c, n in shapes)
        self.regress = nn.ModuleList(_head(c, n * 4, head_norm) for c, n in shapes)
        self.thresholds = {"positive": positive, "ignore": ignore}
        self.selected: Selected | None = None
        self.box_weight = box_weight
        self.box_beta = box_beta

    @classmethod
    def build(
        cls,
        backbone: nn.Module,
        num_classes: int,
        sizes: Sequence[float],
        select_priors,
        prior_sizes: Sequence[float] | None = None,
        prior_ratios: Sequence[float] | Sequence[Sequence[float]] = (2.0,),
        prior_steps: Sequence[float] | None = None,
        prior_longest: float | None = None,
        l2_norm: bool = False,
        head_norm: Norm | None = None,
        reused: float | Sequence[int] | None = None,
        box_weight: float = 1.0,
        box_beta: float = 1.0,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> "SSD":
        """The detector with its priors.

        Args:
            backbone: see the class.
            num_classes: see the class.
            sizes: of the objects, smallest first, pixels of the view: priors are spread between the ends.
            select_priors: selector of the priors that carry loss.
            prior_sizes: see ``sizes`` of `Priors`; None: spread.
            prior_ratios: see `Priors`.
            prior_steps: see `Priors`.
            prior_longest: see `Priors`.
            l2_norm: see the class.
            head_norm: see the class; also the norm of the neck, which has ``batch`` without.
            reused: see `GatedPyramid`; None: no neck.
            box_weight: see the class.
            box_beta: see the class.
            pixel_mean: see `Normalize`.
            pixel_std: see `Normalize`.
        """
        if prior_sizes is None:
            prior_sizes = spread(sizes[0], sizes[-1], len(backbone.channels))
        priors = Priors(prior_sizes, prior_ratios, prior_steps, prior_longest)
        preprocess = Normalize(pixel_mean, pixel_std)
        neck = None if reused is None else GatedPyramid(backbone.channels, reused, head_norm or "batch")
        return cls(
            backbone,
            num_classes,
            priors,
            select_priors,
            l2_norm,
            head_norm,
            box_weight=box_weight,
            box_beta=box_beta,
            preprocess=preprocess,
            neck=neck,
        )

    def predict(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Priors (P, 4), class logits (B, P, 1 + classes) and box deltas (B, P, 4), float32."""
        maps = self.backbone(self.preprocess(images, sizes))
        if self.neck is not None:
            maps = self.neck(maps)
        normed = [norm(m) for norm, m in zip(self.norms, maps, strict=True)]
        logits, deltas = (
            torch.cat([_per_prior(head(m), width) for head, m in zip(heads, normed, strict=True)], dim=1).float()
            for heads, width in ((self.classify, self.num_classes + 1), (self.regress, 4))
        )
        return self.priors(images.shape[-2:], maps), logits, deltas

    def candidates(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4) of all priors, clipped to their views, and class scores (B, P, classes), float32."""
        priors, logits, deltas = self.predict(images, sizes)
        boxes = clip(decode(priors, deltas, BOX_WEIGHTS).nan_to_num(0.0), sizes)
        return boxes, logits.softmax(dim=-1)[..., 1:]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Classification and box loss of the selected priors, divided by the number of positives in the batch.

        A selection with fewer positives than a fourth of it, which hard negatives at 3:1 never are, is divided by that
        fourth: OHEM may select background alone.
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
        index, chosen = self.select(labels, regions, lambda chunk, mode: current, ious)
        carries = torch.zeros_like(is_object).scatter(1, index, chosen)
        known = current.masked_fill(labels < 0, torch.nan)
        self.selected = Selected(regions, labels.clamp(min=0), matched, carries, current, known)
        positives, selected = sum_over_ranks(torch.stack([(carries & is_object).sum(), carries.sum()]))
        count = torch.maximum(positives, selected / 4).clamp(min=1) / ranks()
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
    ) -> Detections:
        """Detects objects in views.

        Args:
            images: (B, 3, H, W) uint8.
            sizes: (B, 2) int64, (height, width) of the views without padding.
            score_threshold: detections need a greater score.
            nms_iou: NMS threshold per class; 1 keeps all.
            max_detections: most detections per view.
            ranges: (B, 2) sizes, pixels of the view, that detections have; None: all. What is outside them goes before
                anything is cut or suppressed (SNIP, section 6.1).
        """
        boxes, scores = self.candidates(images, sizes)
        if ranges is not None:
            scores = scores.masked_fill(~in_detection_range(boxes, ranges)[..., None], 0.0)
        scores = scores.flatten(1)
        top, place = scores.topk(min(candidate_count(max_detections), scores.shape[1]), dim=1)
        label = place % self.num_classes
        found = gather_boxes(boxes, place.div(self.num_classes, rounding_mode="floor"))
        usable = (top > score_threshold) & (found[..., 2:] - found[..., :2] >= 1e-2).all(dim=-1)
        if ranges is not None:
            usable &= in_detection_range(found, ranges)
        index, valid = best_after_nms(found, top, label, usable, nms_iou, max_detections)
        return Detections(gather_boxes(found, index), top.gather(1, index) * valid, label.gather(1, index), valid)

    def compile_parts(self, **options) -> None:
        """Compiles backbone and neck as one graph each."""
        for part in (self.backbone, self.neck):
            if part is not None:
                part.compile(fullgraph=True, **options)


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
