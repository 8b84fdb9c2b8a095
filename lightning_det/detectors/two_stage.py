"""What two-stage detectors share: a proposal network and a head on its proposals (Ren et al., NIPS 2015)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.detectors.roi_head import RoIHead
from lightning_det.detectors.rpn import RPN
from lightning_det.protocols.structures import STRIDE, Batch, Detections


class TwoStage(nn.Module):
    """Two-stage detector assembled from built parts.

    Args:
        backbone: image batch to feature maps.
        neck: feature maps to the maps that the RPN and the head read.
        rpn: proposal network.
        roi_head: second stage.
        preprocess: uint8 images to normalised float images, zero outside the views.

    Raises:
        ValueError: the selector ranks RoIs by loss, and takes all that there are; or it cannot rank them.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, rpn: RPN, roi_head: RoIHead, preprocess: nn.Module):
        super().__init__()
        _check_mining(rpn, roi_head)
        self.preprocess = preprocess
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.roi_head = roi_head

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Prefixes of the parameters whose shape follows the classes."""
        return tuple(f"roi_head.predictor.{name}" for name in self.roi_head.predictor.class_layers)

    def features(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        """Feature maps of (B, 3, H, W) images whose views measure ``sizes`` (B, 2)."""
        return self.neck(self.backbone(self.preprocess(images, sizes)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The four losses of a training batch; their sum is what training minimises."""
        images = padded(batch.images)
        maps = self.features(images, batch.sizes)
        predictions = self.rpn(maps, images.shape[-2:])
        proposals = self.rpn.propose(predictions, batch.sizes, batch.ranges * batch.scales[:, None])
        return self.rpn.losses(predictions, batch) | self.roi_head.losses(maps, proposals, batch)

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        passes: int = 1,
        ranges: Tensor | None = None,
    ) -> Detections:
        """Detects objects in views.

        Args:
            images: (B, 3, H, W) uint8.
            sizes: (B, 2) int64, (height, width) of the views without padding.
            score_threshold: detections need a greater score.
            nms_iou: NMS threshold per class; 1 keeps all.
            max_detections: most detections per view.
            passes: how many times boxes are regressed, see `RoIHead.detect`.
            ranges: (B, 2) sizes, pixels of the view, that detections have; None: all. Proposals have any.
        """
        images = padded(images)
        maps = self.features(images, sizes)
        canvas = images.shape[-2:]
        proposals = self.rpn.propose(self.rpn(maps, canvas), sizes, canvas=canvas)
        return self.roi_head.detect(maps, proposals, sizes, score_threshold, nms_iou, max_detections, passes, ranges)

    def compile_parts(self, **options) -> None:
        """Compiles backbone, neck and heads, each as one graph; what surrounds them depends on the data."""
        for part in (self.backbone, self.neck, self.rpn.head, self.roi_head.predictor.trunk):
            part.compile(fullgraph=True, **options)


def padded(images: Tensor) -> Tensor:
    """Images whose sides are multiples of `STRIDE`: anchors are where their cells are only if every map halves evenly.

    Args:
        images: (B, 3, H, W); batches of views of one shape come without padding.
    """
    down, right = (-side % STRIDE for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, down)) if down or right else images


def _check_mining(rpn: RPN, roi_head: RoIHead) -> None:
    """Refuses OHEM where it could not mine, or not on several devices."""
    select = roi_head.select
    if not getattr(select, "by_loss", False):
        return
    proposals = min(rpn.after_nms[0], rpn.before_nms[0] * len(rpn.anchors.per_cell))
    if proposals <= select.count:
        raise ValueError(
            f"OHEM keeps the {select.count} hardest RoIs of {proposals} proposals: it would mine nothing; "
            "lower selection.rois.count or raise the first of before_nms and after_nms"
        )
    if select.ranking == "train" and any(isinstance(m, nn.SyncBatchNorm) for m in roi_head.modules()):
        # Each chunk of RoIs would be a collective operation, and ranks have different numbers of chunks.
        raise ValueError("selection.rois.ranking=train cannot be used with backbone.norm=sync; use eval")


def labelling(iou: Sequence[float], border: float | None) -> dict[str, float | None]:
    """Arguments of `RPN` that say which anchors carry which loss."""
    if len(iou) != 2 or not 0 <= iou[1] <= iou[0] <= 1:
        raise ValueError(f"anchor_iou is (lowest of a positive, highest of a background), got {list(iou)}")
    return {"positive": iou[0], "negative": iou[1], "border": border}


def only_map(backbone: nn.Module) -> int:
    """Channels of the one map of a backbone.

    Raises:
        ValueError: it makes several.
    """
    if len(backbone.channels) != 1:
        raise ValueError(f"this detector reads one map, the backbone makes {len(backbone.channels)}: use form=c4")
    return backbone.channels[0]
