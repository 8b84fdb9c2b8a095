"""Backbones: images to feature maps, by the contract `Backbone`."""

from lightning_det.backbones.contract import Backbone, RoIStage, StagedBackbone
from lightning_det.backbones.dsod import dsod
from lightning_det.backbones.resnet_vd import resnet_vd
from lightning_det.backbones.ssd import VGG16, ssd_tiny
from lightning_det.backbones.timm import timm_backbone
from lightning_det.backbones.tiny import tiny_backbone
from lightning_det.backbones.torchvision import torchvision_backbone

__all__ = [
    "VGG16",
    "Backbone",
    "RoIStage",
    "StagedBackbone",
    "dsod",
    "resnet_vd",
    "ssd_tiny",
    "timm_backbone",
    "tiny_backbone",
    "torchvision_backbone",
]
