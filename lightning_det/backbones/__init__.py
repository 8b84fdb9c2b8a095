"""Backbones: images to feature maps, by the contract `Backbone`."""

from lightning_det.backbones.contract import Backbone, Pixels, RoIStage, StagedBackbone
from lightning_det.backbones.dsod import dsod
from lightning_det.backbones.lite import efficientnet_lite0
from lightning_det.backbones.resnet_vd import resnet_vd
from lightning_det.backbones.ssd import VGG16, ssd_tiny
from lightning_det.backbones.timm import timm_backbone
from lightning_det.backbones.tiny import tiny_backbone
from lightning_det.backbones.torchvision import torchvision_backbone

__all__ = [
    "VGG16",
    "Backbone",
    "Pixels",
    "RoIStage",
    "StagedBackbone",
    "dsod",
    "efficientnet_lite0",
    "resnet_vd",
    "ssd_tiny",
    "timm_backbone",
    "tiny_backbone",
    "torchvision_backbone",
]
