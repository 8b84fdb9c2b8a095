"""Merges the detections of several views of an image into detections of the image."""

from lightning_det.merging.nms import NMS
from lightning_det.merging.soft_nms import SoftNMS
from lightning_det.merging.voting import BoxVoting

__all__ = ["NMS", "BoxVoting", "SoftNMS"]
