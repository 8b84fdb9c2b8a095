"""Detectors as published, for the benchmarks of speed and memory."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from lightning_det.backbones import VGG16, Backbone, dsod
from lightning_det.detectors import FCOS, RFCN, RPN, SSD, FasterRCNN, Normalize, Priors, RetinaNet, RoIHead
from lightning_det.detectors.retina_pyramid import RetinaPyramid
from lightning_det.protocols.selector import Selector
from lightning_det.selection import HardNegativeSelector

SIDE = 300
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
STEPS = [8, 16, 32, 64, 100, 300]
DSOD_SIZES = [30, 60, 111, 162, 213, 264, 315]
SSD_SIZES = [21, 45, 99, 153, 207, 261, 315]
"""torchvision's sizes, which are SSD's for COCO."""


def ssd300(classes: int) -> nn.Module:
    """SSD300 as torchvision's ``ssd300_vgg16``."""
    priors = partial(Priors, SSD_SIZES, RATIOS, STEPS, float(SIDE))
    preprocess = Normalize((0.48235, 0.45882, 0.40784), (1 / 255,) * 3)
    return SSD(VGG16(), classes, HardNegativeSelector(), priors, preprocess=preprocess)


def dsod300(classes: int, checkpointed: bool = False) -> nn.Module:
    """DSOD300 as DS/64-192-48-1 with dense prediction maps."""
    priors = partial(Priors, DSOD_SIZES, RATIOS, STEPS)
    backbone = dsod(checkpointed=checkpointed)
    return SSD(backbone, classes, HardNegativeSelector(), priors, l2_norm=True, head_norm="batch")


def dense(form: str, backbone: Backbone, classes: int, sizes: Sequence[float]) -> nn.Module:
    """``retinanet`` or ``fcos`` as torchvision's ``retinanet_resnet50_fpn`` and ``fcos_resnet50_fpn``."""
    neck = partial(RetinaPyramid, width=256, finest=8, extra=2, source="pyramid")
    if form == "retinanet":
        return RetinaNet(backbone, classes, neck, sizes)
    return FCOS(backbone, classes, neck, offset=0.0)


def two_stage(
    form: str,
    backbone: Backbone,
    classes: int,
    sizes: Sequence[float],
    select_anchors: Selector,
    select_rois: Selector,
    before_nms: Sequence[int] = (2000, 1000),
    after_nms: Sequence[int] = (2000, 1000),
) -> nn.Module:
    """A two-stage detector with the published sizes of its parts: ``c4``, ``fpn`` or ``rfcn``."""
    make = {"c4": FasterRCNN.c4, "fpn": FasterRCNN.fpn, "rfcn": RFCN.c5}[form]
    rpn = partial(RPN, sizes=sizes, before_nms=before_nms, after_nms=after_nms)
    head = partial(RoIHead, box_beta=1.0 if form == "rfcn" else 1 / 9)
    neck = {"neck_width": 256} if form == "fpn" else {}
    selectors = (select_anchors, select_rois)
    return make(backbone, classes, *selectors, rpn, head, roi_size=7, head_width=1024, **neck)
