"""Detectors with few arguments, for tests: settings of all parts in one list."""

from functools import partial

import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from lightning_det.detectors import (
    FCOS,
    RFCN,
    RPN,
    RTDETR,
    SSD,
    CascadeHead,
    FasterRCNN,
    GatedPyramid,
    Normalize,
    Priors,
    RetinaNet,
    RetinaPyramid,
    RoIHead,
)
from lightning_det.protocols.selector import Regions

PROPOSALS = {"before_nms": (2000, 1000), "after_nms": (2000, 1000)}
RPN_SETTINGS = ("before_nms", "after_nms", "positive", "negative", "border", "per_megapixel")
STAGES = {
    "positive": [0.5, 0.6, 0.7],
    "box_weights": [[10.0, 5.0], [20.0, 10.0], [30.0, 15.0]],
    "loss_weights": [1.0, 0.5, 0.25],
}
CASCADE = {"stages": STAGES, "class_agnostic": True}
"""Settings of `c4` and `fpn` that make a cascade; R-FCN needs the stages only."""


def _two_stage(make, parts, backbone, classes, sizes, ratios, select_anchors, select_rois, box_beta, settings):
    own = {name: settings.pop(name) for name in RPN_SETTINGS if name in settings}
    rpn = partial(RPN, sizes=sizes, ratios=ratios, **PROPOSALS | own)
    stages = settings.pop("stages", None)
    head = partial(RoIHead, box_beta=box_beta) if stages is None else partial(CascadeHead, box_beta=box_beta, **stages)
    return make(backbone, classes, select_anchors, select_rois, rpn, head, **parts | settings)


def c4(backbone, classes, sizes, ratios, select_anchors, select_rois, box_beta=1 / 9, **settings):
    parts = {"roi_size": 7, "head_width": 1024}
    arguments = (sizes, ratios, select_anchors, select_rois, box_beta, settings)
    return _two_stage(FasterRCNN.c4, parts, backbone, classes, *arguments)


def fpn(backbone, classes, sizes, ratios, select_anchors, select_rois, box_beta=1 / 9, **settings):
    parts = {"neck_width": 256, "roi_size": 7, "head_width": 1024}
    arguments = (sizes, ratios, select_anchors, select_rois, box_beta, settings)
    return _two_stage(FasterRCNN.fpn, parts, backbone, classes, *arguments)


def rfcn(backbone, classes, sizes, ratios, select_anchors, select_rois, box_beta=1.0, **settings):
    parts = {"roi_size": 7, "head_width": 1024}
    proposals = {"before_nms": (6000, 6000), "after_nms": (300, 300)}
    arguments = (sizes, ratios, select_anchors, select_rois, box_beta, proposals | settings)
    return _two_stage(RFCN.c5, parts, backbone, classes, *arguments)


def ssd(backbone, classes, objects, select, reused=None, mean=None, std=None, head_norm=None, **settings):
    names = ("sizes", "ratios", "steps", "longest")
    own = {name: settings.pop(f"prior_{name}") for name in names if f"prior_{name}" in settings}
    neck = None if reused is None else partial(GatedPyramid, reused=reused, norm=head_norm)
    preprocess = None if mean is None else Normalize(mean, std)
    priors = partial(Priors, objects=objects, **own)
    return SSD(backbone, classes, select, priors, neck, preprocess, head_norm=head_norm, **settings)


def retinanet(backbone, classes, sizes, width=256, finest=8, extra=2, source="backbone", **settings):
    neck = partial(RetinaPyramid, width=width, finest=finest, extra=extra, source=source)
    return RetinaNet(backbone, classes, neck, sizes, **settings)


def fcos(backbone, classes, width=256, finest=8, extra=2, source="pyramid", **settings):
    neck = partial(RetinaPyramid, width=width, finest=finest, extra=extra, source=source)
    return FCOS(backbone, classes, neck, **settings)


def rtdetr(backbone, classes, **settings):
    """With few queries and layers."""
    few = {"queries": 20, "layers": 2, "width": 16, "heads": 2, "points": 2, "feedforward": 2.0}
    return RTDETR(backbone, classes, **few | settings)


def regions(labels, losses=None, boxes=None, ious=None):
    """What a selector gets; the parts that it does not read may be left out."""
    return Regions(boxes, labels, ious, losses if losses is None else torch.as_tensor(losses))


def vgg16_features(**_):
    """torchvision's VGG16 without its classifier, whose hundred million numbers take seconds to draw."""
    network = nn.Module()
    network.features = make_layers(cfgs["D"], batch_norm=False)
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):  # as torchvision draws them
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network
