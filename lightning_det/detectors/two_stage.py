"""Base of two-stage detectors: a proposal network, and a head on its proposals (Ren et al., NIPS 2015)."""

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor, nn

from lightning_det.backbones import Backbone
from lightning_det.detectors.extractor import Extractor
from lightning_det.detectors.proposals import ProposalNetwork
from lightning_det.detectors.rpn import RPN
from lightning_det.detectors.second_stage import SecondStage
from lightning_det.protocols.detector import AnchorShapes
from lightning_det.protocols.structures import Batch, Detections


class TwoStage(Extractor):
    """Two-stage detector assembled from built parts.

    Args:
        backbone: see `Extractor`.
        neck: see `Extractor`.
        rpn: proposal network.
        roi_head: `RoIHead` or `CascadeHead`.
        preprocess: see `Extractor`.

    Raises:
        ValueError: the selector of RoIs ranks them by loss, but would keep all of them, or would rank them in training
            mode with synchronised BatchNorm.
    """

    refines = True

    def __init__(self, backbone: nn.Module, neck: nn.Module, rpn: RPN, roi_head: SecondStage, preprocess: nn.Module):
        super().__init__(backbone, neck, preprocess)
        _check_mining(rpn, roi_head)
        self.rpn = rpn
        self.roi_head = roi_head
        self.class_layers = tuple(
            f"roi_head.{place}.{name}"
            for place, predictor in roi_head.predictors().items()
            for name in predictor.class_layers
        )
        stages = (
            f"roi_head.{place}.{name}"
            for place, predictor in roi_head.predictors().items()
            for name in predictor.backbone_layers
        )
        self.backbone_layers = (*type(self).backbone_layers, *stages)
        self.anchor_sizes = rpn.anchors.count

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The two losses of the proposal network, and the two of the head or of each of its stages."""
        maps, canvas = self.features(batch.images, batch.sizes)
        predictions = self.rpn(maps, canvas)
        proposals = self.rpn.propose(predictions, batch.sizes, batch.ranges * batch.scales[:, None])
        rpn_losses = self.rpn.losses(predictions, batch)
        roi_losses, self.selected = self.roi_head.losses(maps, proposals, batch)
        return rpn_losses | roi_losses

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
        """Detects objects in views, see `Detector.forward` and `SecondStage.detect`; proposals may have any size."""
        maps, canvas = self.features(images, sizes)
        proposals = self.rpn.propose(self.rpn(maps, canvas), sizes, canvas=canvas)
        return self.roi_head.detect(maps, proposals, sizes, score_threshold, nms_iou, max_detections, ranges, passes)

    def candidates(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes of all proposals for every class, or one for all classes, see `Detector.candidates`."""
        maps, canvas = self.features(images, sizes)
        proposals = self.rpn.propose(self.rpn(maps, canvas), sizes, canvas=canvas)
        return self.roi_head.candidates(maps, proposals, sizes)

    def for_canvas(self, canvas: tuple[int, int]) -> "TwoStage":
        """A copy with as many proposals for every view as this detector has for views of a size."""
        fixed = deepcopy(self)
        fixed.rpn.fix_counts(canvas)
        return fixed

    def compiled_parts(self) -> list[nn.Module]:
        """Backbone, neck and heads."""
        trunks = [predictor.trunk for predictor in self.roi_head.predictors().values()]
        return [*super().compiled_parts(), self.rpn.head, *trunks]

    def proposer(self, anchor_sizes: Sequence[float]) -> ProposalNetwork:
        """The proposal network of the detector, which has anchors of its own."""
        return ProposalNetwork(self.backbone, self.neck, self.rpn, self.preprocess)

    def anchor_shapes(
        self, sizes: Sequence[float] | None = None, ratios: Sequence[float] | None = None
    ) -> AnchorShapes:
        """Shapes and grids of the anchors of the proposal network."""
        return self.rpn.anchor_shapes(sizes, ratios)


def _check_mining(rpn: RPN, roi_head: SecondStage) -> None:
    """Refuses OHEM if it would keep every RoI, or cannot rank RoIs on several devices."""
    ranking = roi_head.select.ranking
    if ranking is None or ranking.keeps is None:
        return
    proposals = min(rpn.after_nms[0], rpn.before_nms[0] * len(rpn.anchors.per_cell))
    if proposals <= ranking.keeps:
        raise ValueError(
            f"OHEM keeps the {ranking.keeps} hardest RoIs of {proposals} proposals: it would mine nothing; "
            "lower selection.rois.count or raise the first of before_nms and after_nms"
        )
    if ranking.mode == "train" and any(isinstance(m, nn.SyncBatchNorm) for m in roi_head.modules()):
        # Each chunk of RoIs would be a collective operation, and ranks have different numbers of chunks.
        raise ValueError("selection.rois.ranking=train cannot be used with backbone.norm=sync; use eval")


def only_map(backbone: Backbone) -> tuple[int, int]:
    """Channels and stride of a backbone's only map.

    Raises:
        ValueError: the backbone makes several maps.
    """
    if len(backbone.channels) != 1:
        raise ValueError(f"this detector reads one map, the backbone makes {len(backbone.channels)}: use form=c4")
    return backbone.channels[0], backbone.strides[0]
