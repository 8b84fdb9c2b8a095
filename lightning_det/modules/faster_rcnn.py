"""Faster R-CNN in Lightning."""

from collections.abc import Mapping

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from lightning_det.detectors.torchvision_weights import load_torchvision
from lightning_det.modules.module import DetectionModule

COCO_CLASSES = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
"""Names by COCO's category id; background is 0, gaps are "N/A"."""


class FasterRCNNModule(DetectionModule):
    """Faster R-CNN, one map or FPN."""

    def load_foreign(self, state_dict: Mapping[str, Tensor]) -> str:
        """Loads a state_dict of torchvision's ``fasterrcnn_resnet*_fpn`` and says what came of the classes.

        Classes of COCO weights are found by name.

        Raises:
            ValueError: see `load_torchvision`.
        """
        rows = None
        last = state_dict.get("roi_heads.box_predictor.cls_score.weight")
        is_coco = last is not None and len(last) == len(COCO_CLASSES)
        if is_coco:
            known = set(self.labels.names) <= set(COCO_CLASSES)
            rows = [COCO_CLASSES.index(name) for name in self.labels.names] if known else []
        left = load_torchvision(self.detector, state_dict, rows)
        return "the last layer starts fresh: its classes are others" if left else "all layers"
