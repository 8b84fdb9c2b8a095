"""Proposal networks as detectors of the single class "object": of two-stage detectors, and light ones for others."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_det.backbones import Backbone
from lightning_det.detectors.extractor import Extractor
from lightning_det.detectors.rpn import RPN
from lightning_det.protocols.detector import AnchorShapes
from lightning_det.protocols.structures import Batch, Detections
from lightning_det.selection import RandomSelector

CANONICAL_STRIDE = 16
"""Stride of the map that the proposal network of Faster R-CNN reads, and SNIPER's with it."""


class ProposalNetwork(Extractor):
    """Detects objects of any class by proposals alone; SNIPER uses it to find hard background (section 3.3).

    Args:
        backbone: see `Extractor`.
        neck: see `Extractor`.
        rpn: see `TwoStage`.
        preprocess: see `Extractor`.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, rpn: RPN, preprocess: nn.Module):
        super().__init__(backbone, neck, preprocess)
        self.rpn = rpn
        self.anchor_sizes = rpn.anchors.count

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The two losses of the proposal network."""
        maps, canvas = self.features(batch.images, batch.sizes)
        return self.rpn.losses(self.rpn(maps, canvas), batch)

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        score_threshold: float = 0.0,
        nms_iou: float = 0.7,
        max_detections: int = 300,
        ranges: Tensor | None = None,
        passes: int = 1,
    ) -> Detections:
        """Best proposals of views, see `Detector.forward`; NMS uses the threshold of the `RPN`, not ``nms_iou``.

        The limits of the `RPN` grow to ``max_detections``: they are those of a detector that classifies its proposals.
        """
        maps, canvas = self.features(images, sizes)
        found = self.rpn.propose(self.rpn(maps, canvas), sizes, ranges, canvas, max_detections)
        boxes, scores, valid = (x[:, :max_detections] for x in found)
        valid = valid & (scores > score_threshold)
        return Detections(boxes, scores * valid, torch.zeros_like(scores, dtype=torch.int64), valid)

    def compiled_parts(self) -> list[nn.Module]:
        """Backbone, neck and the head of the proposal network."""
        return [*super().compiled_parts(), self.rpn.head]

    def anchor_shapes(
        self, sizes: Sequence[float] | None = None, ratios: Sequence[float] | None = None
    ) -> AnchorShapes:
        """Shapes and grids of the anchors."""
        return self.rpn.anchor_shapes(sizes, ratios)


class OneMap(nn.Module):
    """Keeps one of several feature maps.

    Args:
        number: its position.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(B, C, h, w) maps to a list of one of them."""
        return [maps[self.number]]


def light_network(backbone: Backbone, preprocess: nn.Module, anchor_sizes: Sequence[float]) -> ProposalNetwork:
    """A proposal network for a detector without one: an `RPN` on the map of its backbone whose stride is nearest to 16.

    It samples anchors and keeps proposals as Faster R-CNN does on one map.

    Args:
        backbone: of the detector; it is shared, not copied.
        preprocess: of the detector, likewise.
        anchor_sizes: sides of the square anchors, pixels of the view; all are on the one map.
    """
    number = min(range(len(backbone.strides)), key=lambda n: abs(backbone.strides[n] - CANONICAL_STRIDE))
    rpn = RPN(
        backbone.channels[number],
        [backbone.strides[number]],
        RandomSelector(256, 0.5),
        sizes=anchor_sizes,
        before_nms=(12000, 6000),
        after_nms=(2000, 300),
    )
    return ProposalNetwork(backbone, OneMap(number), rpn, preprocess)
