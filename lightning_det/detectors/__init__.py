"""Detectors: nn.Modules that turn image batches into losses or detections and know no scale strategy."""

from lightning_det.detectors.faster_rcnn import FasterRCNN
from lightning_det.detectors.rfcn import RFCN
from lightning_det.detectors.ssd import SSD

__all__ = ["RFCN", "SSD", "FasterRCNN"]
