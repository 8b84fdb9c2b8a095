"""R-FCN (Dai et al., NIPS 2016), plain or deformable (Dai et al., ICCV 2017)."""

from collections.abc import Callable

from torch import nn

from lightning_det.backbones import Backbone
from lightning_det.backbones.atrous import deform, dilate
from lightning_det.detectors.position_sensitive import Pooling, PositionSensitive, linear_conv
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.rpn import RPN
from lightning_det.detectors.second_stage import SecondStage
from lightning_det.detectors.two_stage import TwoStage, only_map
from lightning_det.protocols.selector import Selector


class RFCN(TwoStage):
    """Two-stage detector without layers per RoI: RoIs average position-sensitive maps."""

    @classmethod
    def c5(
        cls,
        backbone: Backbone,
        num_classes: int,
        select_anchors: Selector,
        select_rois: Selector,
        rpn: Callable[..., RPN],
        roi_head: Callable[..., SecondStage],
        roi_size: int,
        head_width: int,
        pooling: Pooling = "align",
        deformable_convs: int = 0,
        preprocess: nn.Module | None = None,
    ) -> "RFCN":
        """R-FCN with the proposal network on one map and the head on the dilated last stage after it.

        A backbone without a RoI stage gives both the same map.

        Args:
            backbone: built with ``form="c4"``; its RoI stage runs on the whole image, dilated (see `dilate`).
            num_classes: object classes, background not counted.
            select_anchors: selector of the anchors that carry loss.
            select_rois: selector of the RoIs that carry loss.
            rpn: `RPN` with its settings; gets channels, strides and selector.
            roi_head: `RoIHead` or `CascadeHead` with its settings; gets predictor and selector.
            roi_size: k, bins per side of a RoI.
            head_width: channels between the last stage and the maps.
            pooling: see `PositionSensitive`.
            deformable_convs: how many of the last stage's convolutions are deformable, from its end.
            preprocess: uint8 images to normalised float images; None: `Normalize` as the backbone was trained.
        """
        channels, stride = only_map(backbone)
        stage, width = (nn.Identity(), channels) if backbone.roi_stage is None else backbone.roi_stage
        stage = deform(dilate(stage), deformable_convs)
        trunk = nn.Sequential(stage, linear_conv(width, head_width), nn.ReLU(inplace=True))
        proposing = rpn(channels, [stride], select_anchors)
        predictor = PositionSensitive(trunk, head_width, num_classes, stride, roi_size, pooling)
        return cls(
            backbone,
            nn.Identity(),
            proposing,
            roi_head(predictor, select_rois),
            preprocess or Normalize(*backbone.pixels),
        )
