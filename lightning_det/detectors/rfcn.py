"""R-FCN (Dai et al., NIPS 2016), plain or deformable (Dai et al., ICCV 2017)."""

from collections.abc import Sequence

from torch import nn

from lightning_det.backbones import Backbone
from lightning_det.backbones.atrous import deform, dilate
from lightning_det.detectors.anchors import Anchors
from lightning_det.detectors.position_sensitive import Pooling, PositionSensitive
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.roi_head import RoIHead
from lightning_det.detectors.rpn import RPN
from lightning_det.detectors.two_stage import TwoStage, labelling, only_map


class RFCN(TwoStage):
    """Two-stage detector whose RoIs have no layers of their own: they average position-sensitive maps."""

    @classmethod
    def c5(
        cls,
        backbone: Backbone,
        num_classes: int,
        anchor_sizes: Sequence[float],
        anchor_ratios: Sequence[float],
        select_anchors,
        select_rois,
        head_width: int = 1024,
        bins: int = 7,
        pooling: Pooling = "align",
        deformable_convs: int = 0,
        before_nms: Sequence[int] = (6000, 6000),
        after_nms: Sequence[int] = (300, 300),
        anchor_iou: Sequence[float] = (0.7, 0.3),
        anchor_border: float | None = None,
        box_beta: float = 1.0,
        proposals_per_megapixel: float | None = None,
    ) -> "RFCN":
        """R-FCN with the proposal network on one map and the head on the dilated last stage behind it.

        A backbone without a RoI stage gives both the same map.

        Args:
            backbone: built with ``form="c4"``; its RoI stage runs on the whole image, dilated (see `dilate`).
            num_classes: object classes, background not counted.
            anchor_sizes: sides of the square anchors, pixels of the view.
            anchor_ratios: height / width of the anchors.
            select_anchors: selector of the anchors that carry loss.
            select_rois: selector of the RoIs that carry loss.
            head_width: channels between the last stage and the maps.
            bins: k, bins per side of a RoI.
            pooling: see `PositionSensitive`.
            deformable_convs: how many of the last stage's convolutions are deformable, from its end.
            before_nms: see `RPN`.
            after_nms: see `RPN`.
            anchor_iou: (lowest of a positive, highest of a background) IoU of an anchor with a box.
            anchor_border: see ``border`` of `RPN`.
            box_beta: see `RoIHead`.
            proposals_per_megapixel: see ``per_megapixel`` of `RPN`.
        """
        channels = only_map(backbone)
        stage, width = (nn.Identity(), channels) if backbone.roi_stage is None else backbone.roi_stage
        trunk = nn.Sequential(
            deform(dilate(stage), deformable_convs), nn.Conv2d(width, head_width, 1), nn.ReLU(inplace=True)
        )
        nn.init.normal_(trunk[1].weight, std=0.01)
        nn.init.zeros_(trunk[1].bias)
        return cls(
            backbone,
            nn.Identity(),
            RPN(
                channels,
                Anchors([anchor_sizes], anchor_ratios),
                select_anchors,
                before_nms=before_nms,
                after_nms=after_nms,
                per_megapixel=proposals_per_megapixel,
                **labelling(anchor_iou, anchor_border),
            ),
            RoIHead(
                PositionSensitive(trunk, head_width, num_classes, backbone.strides[0], bins, pooling),
                select_rois,
                box_beta=box_beta,
            ),
            Normalize(),
        )
