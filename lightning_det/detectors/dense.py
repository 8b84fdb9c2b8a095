"""Base of detectors that predict in every cell of a pyramid's maps, and learn from all cells by focal loss."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.backbones import Backbone
from lightning_det.detectors.extractor import Extractor
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.proposals import ProposalNetwork, light_network
from lightning_det.detectors.retina_pyramid import RetinaPyramid
from lightning_det.detectors.torchvision_dense import load_torchvision_dense
from lightning_det.ops.boxes import clip, gather_boxes, in_detection_range
from lightning_det.ops.largest import largest
from lightning_det.ops.nms import best_after_nms
from lightning_det.protocols.structures import STRIDE, Detections

HEAD_CONVS = 4
"""Convolutions of each head before its last layers (RetinaNet, section 4; FCOS, section 3.1)."""

BEST_PER_MAP = 1000
"""Most (region, class) pairs per map that enter NMS (RetinaNet, section 4.1; FCOS follows it)."""

GROUPS = 32
"""Most groups of a GroupNorm layer."""


class DenseDetector(Extractor):
    """Base of RetinaNet and FCOS: heads shared by all maps of a pyramid, which learn from all regions by focal loss.

    A region is an anchor or a point. A derived class sets ``classify`` and ``regress``, and overrides `losses` and
    `per_map`.

    Args:
        backbone: built with ``form="pyramid"``.
        num_classes: object classes, background not counted.
        neck: `RetinaPyramid` with its settings; gets channels and strides of the backbone.
        preprocess: uint8 images to normalised float images; None: `Normalize` as the backbone was trained.
        head_convs: convolutions of each head before its last layers, 1 to `HEAD_CONVS`.
        prior: probability of every class that the fresh network predicts.
        alpha: weight of positives in the focal loss; negatives have 1 - alpha.
        gamma: exponent of the focal loss; 0 is weighted cross-entropy.

    Attributes:
        width: channels of the pyramid's maps.
        strides: pixels of the view per cell of each map.

    Raises:
        ValueError: a number is out of its range.
    """

    class_layers = ("classify.cls_logits.",)
    torchvision_name: str
    """Name of torchvision's detector, for messages."""
    backbone: Backbone
    classify: nn.Module
    """Maps to class logits (B, R, classes)."""
    regress: nn.Module
    """Maps to all other predictions of the regions."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        neck: Callable[..., RetinaPyramid],
        preprocess: nn.Module | None,
        head_convs: int,
        prior: float,
        alpha: float,
        gamma: float,
    ):
        pyramid = neck(backbone.channels, backbone.strides)
        super().__init__(backbone, pyramid, preprocess or Normalize(*backbone.pixels))
        if not (0 < prior < 1 and 0 <= alpha <= 1 and 0 <= gamma < math.inf):
            raise ValueError(f"prior {prior}, alpha {alpha} and gamma {gamma} must be in (0, 1), [0, 1] and [0, inf)")
        if not 1 <= head_convs <= HEAD_CONVS:
            raise ValueError(f"capacity.head_convs must be between 1 and {HEAD_CONVS}, got {head_convs}")
        self.num_classes = num_classes
        self.width = pyramid.width
        self.strides = pyramid.strides
        self.granularity = max(STRIDE, *self.strides)
        self.alpha = alpha
        self.gamma = gamma

    def per_map(self, images: Tensor, sizes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Boxes (B, R, 4) and class scores (B, R, classes) of all regions of each map, float32, not clipped.

        Args:
            images: as in `Detector.forward`.
            sizes: likewise.
        """
        raise NotImplementedError

    def candidates(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and class scores of all regions, see `Detector.candidates`."""
        boxes, scores = (torch.cat(parts, dim=1) for parts in zip(*self.per_map(images, sizes), strict=True))
        return clip(boxes.nan_to_num(0.0), sizes), scores.nan_to_num(0.0)

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        ranges: Tensor | None = None,
        passes: int = 1,
    ) -> Detections:
        """Detects objects in views, see `Detector.forward`."""
        count = max(BEST_PER_MAP, max_detections)
        picked = [best_pairs(boxes, scores, sizes, count, ranges) for boxes, scores in self.per_map(images, sizes)]
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*picked, strict=True))
        usable = (scores > score_threshold) & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        index, valid = best_after_nms(boxes, scores, labels, usable, nms_iou, max_detections)
        return Detections(gather_boxes(boxes, index), scores.gather(1, index) * valid, labels.gather(1, index), valid)

    def compiled_parts(self) -> list[nn.Module]:
        """Backbone, neck and heads."""
        return [*super().compiled_parts(), self.classify, self.regress]

    def proposer(self, anchor_sizes: Sequence[float]) -> ProposalNetwork:
        """See `light_network`."""
        return light_network(self.backbone, self.preprocess, anchor_sizes)

    def load_torchvision(self, weights: Mapping[str, Tensor], classes: Sequence[str]) -> str:
        """Loads a state_dict of torchvision's version of the detector; COCO's classes are found by name."""
        left = load_torchvision_dense(self, weights, self.torchvision_name, self.num_classes, classes)
        return "the last layer starts fresh: its classes are others" if left else "all layers"

    def focal_losses(self, logits: Tensor, classes: Tensor, is_object: Tensor, carries: Tensor) -> Tensor:
        """Focal loss of regions, summed over the classes.

        Args:
            logits: (B, R, classes).
            classes: (B, R) int64, class of each object; any class elsewhere.
            is_object: (B, R) bool.
            carries: (B, R) bool, whether the region carries loss.

        Returns:
            (B, R) float32, 0 where ``carries`` does not hold.
        """
        # All terms as if there were no object, then the terms of the objects exchanged: no tensor of targets, and a
        # third of the passes over all classes of torchvision's sigmoid_focal_loss.
        own = logits.gather(2, classes[..., None]).squeeze(2)
        exchanged = self.alpha * self._focal(-own) - (1 - self.alpha) * self._focal(own)
        return ((1 - self.alpha) * self._focal(logits).sum(dim=-1) + exchanged * is_object) * carries

    def _focal(self, logits: Tensor) -> Tensor:
        """Focal loss (Lin et al. 2017, equation 4) of logits that should be low."""
        return logits.sigmoid().pow(self.gamma) * F.softplus(logits)


def best_pairs(
    boxes: Tensor, scores: Tensor, sizes: Tensor, count: int, ranges: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Picks the best (region, class) pairs of a map.

    Args:
        boxes: (B, R, 4); they are clipped to their views.
        scores: (B, R, classes).
        sizes: (B, 2), height and width of the views.
        count: most pairs.
        ranges: (B, 2), see `Detector.forward`; pairs outside get a score of 0.

    Returns:
        Boxes (B, K, 4), scores and labels (B, K), K at most ``count``, by falling score.
    """
    # After a diverged step boxes and scores may be NaN.
    boxes = clip(boxes.nan_to_num(0.0), sizes)
    if ranges is not None:
        scores = scores.masked_fill(~in_detection_range(boxes, ranges)[..., None], 0.0)
    flat = scores.nan_to_num(0.0).flatten(1)
    top, place = largest(flat, count)
    region = place.div(scores.shape[2], rounding_mode="floor")
    return gather_boxes(boxes, region), top, place % scores.shape[2]


def group_norm(width: int) -> nn.GroupNorm:
    """GroupNorm of ``width`` channels in 32 groups, or as many of them as divide the width."""
    return nn.GroupNorm(math.gcd(GROUPS, width), width)
