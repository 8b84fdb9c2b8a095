"""Faster R-CNN (Ren et al., NIPS 2015) on one feature map ("C4") or a feature pyramid (FPN)."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lightning_det.backbones import Backbone
from lightning_det.detectors.anchors import Anchors
from lightning_det.detectors.per_roi import PerRoI, Stage, TwoFC
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.roi_head import RoIHead
from lightning_det.detectors.rpn import RPN
from lightning_det.detectors.two_stage import TwoStage, labelling, only_map


class FPN(nn.Module):
    """Feature pyramid network (Lin et al., CVPR 2017) with an extra, max-pooled map for the largest anchors.

    Args:
        channels: channels of the backbone's maps.
        width: channels of the pyramid.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(channels), width, extra_blocks=LastLevelMaxPool())

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """N maps, finest first, to N + 1 maps of ``width`` channels."""
        named = OrderedDict((str(number), m) for number, m in enumerate(maps))
        return list(self.pyramid(named).values())


class FasterRCNN(TwoStage):
    """Two-stage detector whose head is a network on the features of every RoI."""

    @classmethod
    def c4(
        cls,
        backbone: Backbone,
        num_classes: int,
        anchor_sizes: Sequence[float],
        anchor_ratios: Sequence[float],
        select_anchors,
        select_rois,
        roi_size: int = 7,
        head_width: int = 1024,
        before_nms: Sequence[int] = (2000, 1000),
        after_nms: Sequence[int] = (2000, 1000),
        anchor_iou: Sequence[float] = (0.7, 0.3),
        anchor_border: float | None = None,
        box_beta: float = 1.0 / 9,
        proposals_per_megapixel: float | None = None,
    ) -> "FasterRCNN":
        """Faster R-CNN on one feature map.

        A backbone with a RoI stage makes the "C4" form of ResNet's appendix: RoIs of 2 * ``roi_size`` cells go
        through the stage, which halves them. One without gets two fully connected layers on ``roi_size`` cells.

        Args:
            backbone: built with ``form="c4"``.
            num_classes: object classes, background not counted.
            anchor_sizes: sides of the square anchors, pixels of the view.
            anchor_ratios: height / width of the anchors.
            select_anchors: selector of the anchors that carry loss.
            select_rois: selector of the RoIs that carry loss.
            roi_size: see above.
            head_width: width of the fully connected layers.
            before_nms: see `RPN`.
            after_nms: see `RPN`.
            anchor_iou: (lowest of a positive, highest of a background) IoU of an anchor with a box.
            anchor_border: see ``border`` of `RPN`.
            box_beta: see `RoIHead`.
            proposals_per_megapixel: see ``per_megapixel`` of `RPN`.
        """
        channels = only_map(backbone)
        anchors = Anchors([anchor_sizes], anchor_ratios)
        if backbone.roi_stage is None:
            trunk = TwoFC(channels, roi_size, head_width)
        else:
            trunk = Stage(*backbone.roi_stage, size=2 * roi_size)
        return cls(
            backbone,
            nn.Identity(),
            RPN(
                channels,
                anchors,
                select_anchors,
                before_nms=before_nms,
                after_nms=after_nms,
                per_megapixel=proposals_per_megapixel,
                **labelling(anchor_iou, anchor_border),
            ),
            RoIHead(PerRoI(trunk, num_classes, backbone.strides), select_rois, box_beta=box_beta),
            Normalize(),
        )

    @classmethod
    def fpn(
        cls,
        backbone: Backbone,
        num_classes: int,
        anchor_sizes: Sequence[float],
        anchor_ratios: Sequence[float],
        select_anchors,
        select_rois,
        neck_width: int = 256,
        roi_size: int = 7,
        head_width: int = 1024,
        before_nms: Sequence[int] = (2000, 1000),
        after_nms: Sequence[int] = (2000, 1000),
        anchor_iou: Sequence[float] = (0.7, 0.3),
        anchor_border: float | None = None,
        box_beta: float = 1.0 / 9,
        proposals_per_megapixel: float | None = None,
    ) -> "FasterRCNN":
        """Faster R-CNN on a feature pyramid; see `c4` for the arguments that both have.

        Args:
            backbone: built with ``form="pyramid"``.
            num_classes: object classes.
            anchor_sizes: one side per map of the pyramid, which has one map more than the backbone.
            anchor_ratios: height / width of the anchors.
            select_anchors: selector of anchors.
            select_rois: selector of RoIs.
            neck_width: channels of the pyramid.
            roi_size: cells per side of a RoI.
            head_width: width of the fully connected layers.
            before_nms: see `RPN`; per map.
            after_nms: see `RPN`.
            anchor_iou: see `c4`.
            anchor_border: see `c4`.
            box_beta: see `RoIHead`.
            proposals_per_megapixel: see ``per_megapixel`` of `RPN`.
        """
        maps = len(backbone.channels) + 1
        if len(anchor_sizes) != maps:
            raise ValueError(
                f"the pyramid has {maps} maps, so dataset.anchor_sizes needs {maps} sizes, got {anchor_sizes}"
            )
        anchors = Anchors([[s] for s in anchor_sizes], anchor_ratios)
        return cls(
            backbone,
            FPN(backbone.channels, neck_width),
            RPN(
                neck_width,
                anchors,
                select_anchors,
                before_nms=before_nms,
                after_nms=after_nms,
                per_megapixel=proposals_per_megapixel,
                **labelling(anchor_iou, anchor_border),
            ),
            RoIHead(
                PerRoI(TwoFC(neck_width, roi_size, head_width), num_classes, backbone.strides),
                select_rois,
                box_beta=box_beta,
            ),
            Normalize(),
        )
