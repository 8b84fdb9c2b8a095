"""Backbones: images to feature maps, behind one small contract (`Backbone`)."""

from lightning_det.backbones.contract import Backbone, RoIStage
from lightning_det.backbones.timm import timm_backbone
from lightning_det.backbones.tiny import tiny_backbone
from lightning_det.backbones.torchvision import torchvision_backbone

__all__ = ["Backbone", "RoIStage", "timm_backbone", "tiny_backbone", "torchvision_backbone"]
