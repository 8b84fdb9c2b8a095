"""RetinaNet (Lin et al., ICCV 2017): a class and a box for every anchor of a feature pyramid, learned by focal loss."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from lightning_det.backbones import Backbone
from lightning_det.detectors.anchors import Anchors
from lightning_det.detectors.dense import HEAD_CONVS, DenseDetector, group_norm
from lightning_det.detectors.reach import stack_shapes
from lightning_det.detectors.retina_pyramid import RetinaPyramid
from lightning_det.ops.boxes import decode, encode_where, gather_boxes, giou_loss
from lightning_det.ops.ranks import mean_count
from lightning_det.protocols.detector import AnchorShapes
from lightning_det.protocols.structures import Batch
from lightning_det.selection.matching import BACKGROUND, label_anchors
from lightning_det.system.shares import check_shares

OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sizes of the anchors of a map, in units of its own (section 4)."""

PUBLISHED_WIDTH, STD = 256, 0.01
"""Channels of the published heads, and the standard deviation of their first weights (section 4.1). Narrower heads have
a greater one: with weights as small, too little of the maps would pass through them, and a training from scratch would
wait for epochs until they have grown."""


class RetinaNet(DenseDetector):
    """Single-stage detector that learns from all anchors: focal loss takes the place of a selection.

    An anchor is positive from an IoU of ``positive`` with a valid box, or as the best of all anchors for one. Anchors
    on invalid or ignored boxes carry no loss, see `label_anchors`.

    Args:
        backbone: built with ``form="pyramid"``.
        num_classes: object classes, background not counted.
        neck: `RetinaPyramid` with its settings; gets channels and strides of the backbone.
        sizes: smallest side of the square anchors of each map, pixels of the view; each map has three, an octave in
            equal ratios.
        ratios: height / width of the anchors of every size.
        preprocess: uint8 images to normalised float images; None: `Normalize` as the backbone was trained.
        head_norm: normalisation of the convolutions of the heads; None: they have a bias instead.
        head_convs: convolutions of each head before its last layer, at most the four of the paper.
        prior: probability of every class that the fresh network predicts (section 4.1).
        alpha: weight of positives in the focal loss; negatives have 1 - alpha.
        gamma: exponent of the focal loss; 0 is weighted cross-entropy.
        box_loss: ``l1`` on the regression targets, or ``giou`` on the boxes.
        box_weight: weight of the box loss.
        positive: lowest IoU of a positive anchor.
        negative: IoU below which an anchor is background.
        ignore: see `label_anchors`.

    Raises:
        ValueError: the sizes do not fit the maps, or a number is out of its range.
    """

    torchvision_name = "RetinaNet"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        neck: Callable[..., RetinaPyramid],
        sizes: Sequence[float],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        preprocess: nn.Module | None = None,
        head_norm: Literal["group"] | None = None,
        head_convs: int = HEAD_CONVS,
        prior: float = 0.01,
        alpha: float = 0.25,
        gamma: float = 2.0,
        box_loss: Literal["l1", "giou"] = "l1",
        box_weight: float = 1.0,
        positive: float = 0.5,
        negative: float = 0.4,
        ignore: float = 0.4,
    ):
        super().__init__(backbone, num_classes, neck, preprocess, head_convs, prior, alpha, gamma)
        check_shares(ignore=ignore)
        if not 0 <= negative <= positive <= 1:
            raise ValueError(
                f"positive and negative are the lowest IoU of a positive and the highest of a background, got "
                f"{positive} and {negative}"
            )
        if len(sizes) != len(self.strides):
            raise ValueError(
                f"the pyramid has {len(self.strides)} maps, so dataset.anchor_sizes needs as many sizes, got "
                f"{list(sizes)}"
            )
        self.anchor_sizes = len(sizes)
        self.anchors = Anchors(_octaves(sizes), ratios)
        norm = None if head_norm is None else group_norm
        per_cell = self.anchors.per_cell[0]
        classify = RetinaNetClassificationHead(self.width, per_cell, num_classes, prior, norm)
        regress = RetinaNetRegressionHead(self.width, per_cell, norm)
        # Torchvision's heads have four convolutions, without a choice.
        classify.conv, regress.conv = classify.conv[:head_convs], regress.conv[:head_convs]
        if norm is None and self.width < PUBLISHED_WIDTH:
            for layer in [*classify.conv.modules(), *regress.conv.modules()]:
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=STD * PUBLISHED_WIDTH / self.width)
        self.classify, self.regress = classify, regress
        self.box_loss = box_loss
        self.box_weight = box_weight
        self.thresholds = (positive, negative, ignore)

    def predict(self, images: Tensor, sizes: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Returns anchors (A_i, 4) of each map, class logits (B, A, classes) and box deltas (B, A, 4), float32."""
        maps, canvas = self.features(images, sizes)
        return self.anchors(canvas, maps), self.classify(maps).float(), self.regress(maps).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Focal loss of all anchors and box loss of the positive ones, divided by the number of positives.

        The number is that of the joint batch (section 4.1: "normalized by the number of anchors assigned to a
        ground-truth box"); torchvision divides image by image.
        """
        per_map, logits, deltas = self.predict(batch.images, batch.sizes)
        anchors = torch.cat(per_map)
        labels, matched, _ = label_anchors(anchors, batch.boxes, batch.states, *self.thresholds)
        is_object = labels > BACKGROUND
        classes = batch.labels.gather(1, matched)
        classification = self.focal_losses(logits, classes, is_object, labels >= BACKGROUND)
        boxes = gather_boxes(batch.boxes, matched)
        count = mean_count(is_object.sum())
        return {
            "class": classification.sum() / count,
            "box": self.box_weight * self._box_losses(anchors, deltas, boxes, is_object).sum() / count,
        }

    def per_map(self, images: Tensor, sizes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See `DenseDetector.per_map`."""
        per_map, logits, deltas = self.predict(images, sizes)
        lengths = [anchors.shape[0] for anchors in per_map]
        boxes = decode(torch.cat(per_map), deltas)
        return list(zip(boxes.split(lengths, 1), logits.sigmoid().split(lengths, 1), strict=True))

    def anchor_shapes(
        self, sizes: Sequence[float] | None = None, ratios: Sequence[float] | None = None
    ) -> AnchorShapes:
        """Shapes and grids of the anchors, or of anchors of other smallest sides of the maps, or other ratios."""
        anchors = self.anchors if sizes is None else Anchors(_octaves(sizes), ratios or self.anchors.ratios)
        return stack_shapes(anchors.cells, self.strides, start=0.0)

    def _box_losses(self, anchors: Tensor, deltas: Tensor, boxes: Tensor, is_object: Tensor) -> Tensor:
        """(B, A), 0 where ``is_object`` does not hold."""
        if self.box_loss == "l1":
            targets = encode_where(is_object, anchors.expand_as(deltas), boxes)
            return F.l1_loss(deltas, targets, reduction="none").sum(dim=-1) * is_object
        # An anchor without an object is compared with itself, since a loss on padding may be NaN, and NaN * 0 is NaN.
        found = decode(anchors, deltas)
        return giou_loss(found, torch.where(is_object[..., None], boxes, anchors)) * is_object


def _octaves(sizes: Sequence[float]) -> list[list[float]]:
    """Three anchor sizes per map, rounded down as in torchvision, whose weights are for them."""
    return [[float(int(size * step)) if step > 1 else float(size) for step in OCTAVES] for size in sizes]
