"""The LightningModule around a detector, and the schedules of its learning rate."""

from lightning_det.modules.module import DetectionModule
from lightning_det.modules.schedules import Constant, Cosine, MultiStep

__all__ = ["Constant", "Cosine", "DetectionModule", "MultiStep"]
