"""The proposal half of a two-stage detector as a detector of its own, with the single class "object"."""

from torch import Tensor, nn

from lightning_det.detectors.rpn import RPN, Predictions
from lightning_det.detectors.two_stage import TwoStage
from lightning_det.protocols.structures import Batch, Detections


class ProposalNetwork(nn.Module):
    """Learns where objects are, and detects its own proposals (SNIPER, section 3.3: it finds the hard background).

    Args:
        backbone: see `TwoStage`.
        neck: see `TwoStage`.
        rpn: see `TwoStage`.
        preprocess: see `TwoStage`.
    """

    class_layers = ()
    """No parameter's shape follows the classes."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, rpn: RPN, preprocess: nn.Module):
        super().__init__()
        self.preprocess = preprocess
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn

    @classmethod
    def of(cls, detector: TwoStage) -> "ProposalNetwork":
        """The proposal network of a detector, with whose layers it shares its weights."""
        return cls(detector.backbone, detector.neck, detector.rpn, detector.preprocess)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The two losses of the proposal network."""
        return self.rpn.losses(self._predict(batch.images, batch.sizes), batch)

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        score_threshold: float = 0.0,
        nms_iou: float = 0.7,
        max_detections: int = 300,
        ranges: Tensor | None = None,
    ) -> Detections:
        """Best proposals of views.

        Args:
            images: (B, 3, H, W) uint8.
            sizes: (B, 2) int64, (height, width) of the views without padding.
            score_threshold: proposals need a greater objectness.
            nms_iou: not used: the proposal network has a threshold of its own.
            max_detections: most proposals per view.
            ranges: see `RPN.propose`.
        """
        found = self.rpn.propose(self._predict(images, sizes), sizes, ranges, images.shape[-2:])
        boxes, scores, valid = (x[:, :max_detections] for x in found)
        valid = valid & (scores > score_threshold)
        return Detections(boxes, scores * valid, scores.new_zeros(scores.shape, dtype=int), valid)

    def _predict(self, images: Tensor, sizes: Tensor) -> Predictions:
        maps = self.neck(self.backbone(self.preprocess(images, sizes)))
        return self.rpn(maps, images.shape[-2:])
