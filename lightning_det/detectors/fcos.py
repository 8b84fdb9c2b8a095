"""FCOS (Tian et al., ICCV 2019): every cell is a point that tells the class and the sides of the object around it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

from lightning_det.backbones import Backbone
from lightning_det.detectors.dense import HEAD_CONVS, DenseDetector, group_norm
from lightning_det.detectors.retina_pyramid import RetinaPyramid
from lightning_det.ops.boxes import gather_boxes, giou_loss
from lightning_det.ops.ranks import mean_count
from lightning_det.protocols.structures import Batch
from lightning_det.selection.matching import BACKGROUND
from lightning_det.selection.points import Points, distances_to_sides, label_points


class Predictions(NamedTuple):
    """Predictions of the ``P`` points of a batch, float32."""

    logits: Tensor
    """(B, P, classes)."""
    boxes: Tensor
    """(B, P, 4) ``xyxy``, pixels of the view, not clipped."""
    centre: Tensor
    """(B, P) logits of the centre-ness."""


class FCOS(DenseDetector):
    """Single-stage detector without anchors.

    Which points learn from which boxes: `label_points`. As in the authors' later version (Tian et al., TPAMI 2020),
    points near the centre are positive, boxes are learned by GIoU, distances are in strides of the map, and centre-ness
    is predicted beside the box.

    Args:
        backbone: built with ``form="pyramid"``.
        num_classes: object classes, background not counted.
        neck: `RetinaPyramid` with its settings; gets channels and strides of the backbone.
        preprocess: uint8 images to normalised float images; None: `Normalize`.
        head_convs: convolutions of each head before its last layers, at most the four of the paper.
        prior: probability of every class that the fresh network predicts.
        alpha: weight of positives in the focal loss; negatives have 1 - alpha.
        gamma: exponent of the focal loss; 0 is weighted cross-entropy.
        radius: positive points are nearer to the centre of a box along both axes, in strides of the map; infinite:
            the whole box.
        reach: how far the farthest side of a box may be from a point, in strides of the map. The next map takes boxes
            from there on, and the last map all. The paper has 64 pixels at a stride of 8, and twice as many per map.
        offset: place of a point in its cell, from the top left corner, in strides. The paper has 0.5, torchvision 0.

    Raises:
        ValueError: a number is out of its range.
    """

    torchvision_name = "FCOS"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        neck: Callable[..., RetinaPyramid],
        preprocess: nn.Module | None = None,
        head_convs: int = HEAD_CONVS,
        prior: float = 0.01,
        alpha: float = 0.25,
        gamma: float = 2.0,
        radius: float = 1.5,
        reach: float = 8.0,
        offset: float = 0.5,
    ):
        super().__init__(backbone, num_classes, neck, preprocess, head_convs, prior, alpha, gamma)
        if not (radius > 0 and reach > 0 and 0 <= offset < 1):
            raise ValueError(f"radius {radius} and reach {reach} must be positive, and offset {offset} in [0, 1)")
        self.classify = FCOSClassificationHead(self.width, 1, num_classes, head_convs, prior, group_norm)
        self.regress = FCOSRegressionHead(self.width, 1, head_convs, group_norm)
        self.point_strides = self.strides
        self.limits = [0.0, *(reach * stride for stride in self.strides[:-1]), float("inf")]
        self.radius = radius
        self.offset = offset

    def predict(self, images: Tensor, sizes: Tensor) -> tuple[list[Points], Predictions]:
        """Points of each map, and the predictions of all points, map by map."""
        maps, canvas = self.features(images, sizes)
        points = [self._points(m, canvas, number) for number, m in enumerate(maps)]
        places, strides = (torch.cat(parts) for parts in list(zip(*points, strict=True))[:2])
        distances, centre = self.regress(maps)
        # After ReLU, so that no side is beyond its point.
        distances = distances.float() * strides[:, None]
        boxes = torch.cat([places - distances[..., :2], places + distances[..., 2:]], dim=-1)
        return points, Predictions(self.classify(maps).float(), boxes, centre.float().squeeze(2))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Focal loss of all points, GIoU and centre-ness loss of the positive ones, divided by the number of positives.

        The number is that of the joint batch (section 3.1).
        """
        per_map, found = self.predict(batch.images, batch.sizes)
        points = Points(*(torch.cat(parts) for parts in zip(*per_map, strict=True)))
        labels, index = label_points(points, batch.boxes, batch.states, self.radius)
        is_object = labels > BACKGROUND
        classes = batch.labels.gather(1, index)
        classification = self.focal_losses(found.logits, classes, is_object, labels >= BACKGROUND)
        # Points without an object get a box around them, since a loss on padding may be NaN, and NaN * 0 is NaN.
        around = torch.cat([points.places - 1, points.places + 1], dim=1)
        boxes = torch.where(is_object[..., None], gather_boxes(batch.boxes, index), around)
        box = giou_loss(found.boxes, boxes) * is_object
        targets = centre_ness(distances_to_sides(points.places, boxes))
        centre = F.binary_cross_entropy_with_logits(found.centre, targets, reduction="none") * is_object
        count = mean_count(is_object.sum())
        return {name: x.sum() / count for name, x in (("class", classification), ("box", box), ("centre", centre))}

    def per_map(self, images: Tensor, sizes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See `DenseDetector.per_map`. Scores are geometric means of class probability and centre-ness."""
        points, found = self.predict(images, sizes)
        scores = (found.logits.sigmoid() * found.centre.sigmoid()[..., None]).sqrt()
        lengths = [p.places.shape[0] for p in points]
        return list(zip(found.boxes.split(lengths, 1), scores.split(lengths, 1), strict=True))

    def load_torchvision(self, weights: Mapping[str, Tensor], classes: Sequence[str]) -> str:
        """Loads a state_dict of torchvision's ``fcos_resnet50_fpn``; COCO's classes are found by name.

        Raises:
            ValueError: the points are not at torchvision's places, or the weights are of another detector.
        """
        if self.offset != 0:
            raise ValueError("torchvision's FCOS has its points in the corners of cells: detector.offset=0")
        return super().load_torchvision(weights, classes)

    def _points(self, features: Tensor, canvas: tuple[int, int], number: int) -> Points:
        """Points of a map (B, C, h, w), by row and column, in steps of canvas size / map size as `Anchors` has."""
        y, x = (
            (torch.arange(cells, device=features.device, dtype=torch.float32) + self.offset) * (side // cells)
            for side, cells in zip(canvas, features.shape[-2:], strict=True)
        )
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        places = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
        limits = (self.strides[number], self.limits[number], self.limits[number + 1])
        return Points(places, *(places.new_full(places.shape[:1], limit) for limit in limits))


def centre_ness(distances: Tensor) -> Tensor:
    """Centre-ness (...) of points by their distances (..., 4) to the sides of a box: 1 at its centre (equation 3)."""
    first, second = distances[..., :2], distances[..., 2:]
    return (torch.minimum(first, second) / torch.maximum(first, second)).prod(dim=-1).sqrt()
