"""The proposal network of a two-stage detector as a detector of the single class "object"."""

import torch
from torch import Tensor, nn

from lightning_det.detectors.extractor import Extractor
from lightning_det.detectors.rpn import RPN
from lightning_det.protocols.structures import Batch, Detections


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
        """Best proposals of views, see `Detector.forward`; NMS uses the threshold of the `RPN`, not ``nms_iou``."""
        maps, canvas = self.features(images, sizes)
        found = self.rpn.propose(self.rpn(maps, canvas), sizes, ranges, canvas)
        boxes, scores, valid = (x[:, :max_detections] for x in found)
        valid = valid & (scores > score_threshold)
        return Detections(boxes, scores * valid, torch.zeros_like(scores, dtype=torch.int64), valid)

    def compiled_parts(self) -> list[nn.Module]:
        """Backbone, neck and the head of the proposal network."""
        return [*super().compiled_parts(), self.rpn.head]
