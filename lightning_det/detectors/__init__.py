"""Detectors: nn.Modules that turn image batches into losses or detections and know no scale strategy."""

from lightning_det.detectors.cascade import CascadeHead
from lightning_det.detectors.faster_rcnn import FasterRCNN
from lightning_det.detectors.fcos import FCOS
from lightning_det.detectors.focus import FocusHead
from lightning_det.detectors.gated_pyramid import GatedPyramid
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.priors import Priors
from lightning_det.detectors.retina_pyramid import RetinaPyramid
from lightning_det.detectors.retinanet import RetinaNet
from lightning_det.detectors.rfcn import RFCN
from lightning_det.detectors.roi_head import RoIHead
from lightning_det.detectors.rpn import RPN
from lightning_det.detectors.rtdetr import RTDETR
from lightning_det.detectors.ssd import SSD

__all__ = [
    "FCOS",
    "RFCN",
    "RPN",
    "RTDETR",
    "SSD",
    "CascadeHead",
    "FasterRCNN",
    "FocusHead",
    "GatedPyramid",
    "Normalize",
    "Priors",
    "RetinaNet",
    "RetinaPyramid",
    "RoIHead",
]
