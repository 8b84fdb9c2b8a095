"""SSD and DSOD in Lightning."""

from collections.abc import Mapping

from torch import Tensor
from torchvision.models.detection import SSD300_VGG16_Weights

from lightning_det.detectors.torchvision_weights import load_torchvision_ssd, ssd_rows
from lightning_det.modules.module import DetectionModule

COCO_CLASSES = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
"""Names by COCO's category id; background is 0, gaps are "N/A"."""


class SSDModule(DetectionModule):
    """Single-shot detectors."""

    def load_foreign(self, state_dict: Mapping[str, Tensor]) -> str:
        """Loads a state_dict of torchvision's ``ssd300_vgg16`` and says what came of the classes.

        Classes of COCO weights are found by name.

        Raises:
            ValueError: see `load_torchvision_ssd`.
        """
        rows = None
        is_coco = ssd_rows(state_dict, self.detector.priors.per_cell[0]) == len(COCO_CLASSES)
        if is_coco:
            known = set(self.labels.names) <= set(COCO_CLASSES)
            rows = [COCO_CLASSES.index(name) for name in self.labels.names] if known else []
        left = load_torchvision_ssd(self.detector, state_dict, rows)
        return "the last layers start fresh: their classes are others" if left else "all layers"
