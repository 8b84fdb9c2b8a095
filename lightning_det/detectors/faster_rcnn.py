"""Faster R-CNN (Ren et al., NIPS 2015) on one feature map ("C4") or a feature pyramid (FPN)."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lightning_det.backbones import Backbone
from lightning_det.detectors.per_roi import PerRoI, Stage, TwoFC
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.rpn import RPN
from lightning_det.detectors.second_stage import SecondStage
from lightning_det.detectors.torchvision_weights import faster_rcnn_rows, load_torchvision
from lightning_det.detectors.two_stage import TwoStage, only_map
from lightning_det.protocols.selector import Selector


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
    """Two-stage detector whose head runs a network on the features of every RoI."""

    @classmethod
    def c4(
        cls,
        backbone: Backbone,
        num_classes: int,
        select_anchors: Selector,
        select_rois: Selector,
        rpn: Callable[..., RPN],
        roi_head: Callable[..., SecondStage],
        roi_size: int,
        head_width: int,
        class_agnostic: bool = False,
        preprocess: nn.Module | None = None,
    ) -> "FasterRCNN":
        """Faster R-CNN on one feature map.

        A backbone with a RoI stage makes the "C4" form of ResNet's appendix: RoIs of 2 * ``roi_size`` cells go
        through the stage, which halves them. One without gets two fully connected layers on ``roi_size`` cells.

        Args:
            backbone: built with ``form="c4"``.
            num_classes: object classes, background not counted.
            select_anchors: selector of the anchors that carry loss.
            select_rois: selector of the RoIs that carry loss.
            rpn: `RPN` with its settings; gets channels, strides and selector.
            roi_head: `RoIHead` or `CascadeHead` with its settings; gets predictor and selector.
            roi_size: cells per side of a RoI, see above.
            head_width: width of the fully connected layers.
            class_agnostic: whether one regression serves all classes, as a `CascadeHead` needs it.
            preprocess: uint8 images to normalised float images; None: `Normalize` as the backbone was trained.
        """
        channels, stride = only_map(backbone)
        if backbone.roi_stage is None:
            trunk: TwoFC | Stage = TwoFC(channels, roi_size, head_width)
        else:
            trunk = Stage(*backbone.roi_stage, size=2 * roi_size)
        proposing = rpn(channels, [stride], select_anchors)
        head = roi_head(PerRoI(trunk, num_classes, backbone.strides, class_agnostic), select_rois)
        return cls(backbone, nn.Identity(), proposing, head, preprocess or Normalize(*backbone.pixels))

    @classmethod
    def fpn(
        cls,
        backbone: Backbone,
        num_classes: int,
        select_anchors: Selector,
        select_rois: Selector,
        rpn: Callable[..., RPN],
        roi_head: Callable[..., SecondStage],
        neck_width: int,
        roi_size: int,
        head_width: int,
        class_agnostic: bool = False,
        preprocess: nn.Module | None = None,
    ) -> "FasterRCNN":
        """Faster R-CNN on a feature pyramid; see `c4` for the arguments that both have.

        Args:
            backbone: built with ``form="pyramid"``.
            num_classes: object classes.
            select_anchors: selector of anchors.
            select_rois: selector of RoIs.
            rpn: its sizes are one per map of the pyramid, which has one map more than the backbone.
            roi_head: see `c4`.
            neck_width: channels of the pyramid.
            roi_size: cells per side of a RoI.
            head_width: width of the fully connected layers.
            class_agnostic: see `c4`.
            preprocess: see `c4`.
        """
        neck = FPN(backbone.channels, neck_width)
        proposing = rpn(neck_width, [*backbone.strides, 2 * backbone.strides[-1]], select_anchors)
        trunk = TwoFC(neck_width, roi_size, head_width)
        head = roi_head(PerRoI(trunk, num_classes, backbone.strides, class_agnostic), select_rois)
        return cls(backbone, neck, proposing, head, preprocess or Normalize(*backbone.pixels))

    def load_torchvision(self, weights: Mapping[str, Tensor], classes: Sequence[str]) -> str:
        """Loads a state_dict of torchvision's ``fasterrcnn_resnet*_fpn``; classes of COCO weights are found by name."""
        rows = faster_rcnn_rows(weights, classes)
        left = load_torchvision(self, weights, len(classes), rows)
        if any("classify" in name for name in left):
            return "the last layer starts fresh: its classes are others"
        return "all layers but the regression of boxes: here it serves all classes" if left else "all layers"
