"""LightningModules: training and inference steps around a detector; one per detector variant."""

from lightning_det.modules.faster_rcnn import FasterRCNNModule
from lightning_det.modules.module import DetectionModule
from lightning_det.modules.schedules import Constant, Cosine, MultiStep
from lightning_det.modules.ssd import SSDModule

__all__ = ["Constant", "Cosine", "DetectionModule", "FasterRCNNModule", "MultiStep", "SSDModule"]
