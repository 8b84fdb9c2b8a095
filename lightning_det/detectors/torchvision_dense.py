"""Loads weights of torchvision's RetinaNet and FCOS R50-FPN into ours."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from lightning_det.detectors.torchvision_weights import BODY, load_renamed, rename, rows_by_name
from lightning_det.protocols.detector import Detector

CLASSES: Sequence[str] = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
"""Names by COCO's category id; 0 is a background that is never predicted, gaps are "N/A"."""

RENAMED = BODY | {
    "backbone.fpn.extra_blocks.p6.": "neck.extra.0.",
    "backbone.fpn.extra_blocks.p7.": "neck.extra.1.",
    "backbone.fpn.": "neck.pyramid.",
    "head.classification_head.": "classify.",
    "head.regression_head.": "regress.",
}


def load_torchvision_dense(
    detector: Detector, state_dict: Mapping[str, Tensor], kind: str, num_classes: int, classes: Sequence[str]
) -> list[str]:
    """Loads a state_dict of ``retinanet_resnet50_fpn``, ``retinanet_resnet50_fpn_v2`` or ``fcos_resnet50_fpn``.

    Torchvision counts classes from 0, but its weights for COCO, and trainings that follow its tutorials, leave 0 to a
    background that is never predicted. So weights for one class more than ours lose their first class.

    Args:
        detector: with a torchvision ResNet-50; a `RetinaNet`, for version 1 with ``source="pyramid"``, for version 2
            with ``source="backbone"``, ``head_norm="group"`` and ``box_loss="giou"``; or an `FCOS` with
            ``source="pyramid"``.
        state_dict: torchvision's tensors by torchvision's names.
        kind: torchvision's name of the detector, for messages.
        num_classes: classes of the detector.
        classes: their names. Classes of weights for COCO are found by name.

    Returns:
        Names of the detector's tensors that the state_dict did not set: none, or the last layer of the classification.

    Raises:
        ValueError: the state_dict is not of such a detector, or misses tensors.
    """
    heads = ("classification_head.cls_logits", "regression_head.bbox_reg")
    bias, box_bias = (state_dict.get(f"head.{name}.bias") for name in heads)
    if bias is None or box_bias is None:
        raise ValueError(f"not a state_dict of torchvision's {kind}: it has no heads")
    per_cell = len(box_bias) // 4
    count = len(bias) // per_cell
    rows = _find_rows(count, num_classes, classes)
    weights = rename(state_dict, RENAMED, kind)
    for name in [n for n in weights if n.startswith(detector.class_layers)]:
        if rows:
            weights[name] = weights[name].unflatten(0, (per_cell, count))[:, rows].flatten(0, 1)
        else:
            del weights[name]
    return load_renamed(detector, weights)


def _find_rows(count: int, num_classes: int, classes: Sequence[str]) -> list[int]:
    """Number of each of our classes among ``count`` classes of the weights; empty if they are others."""
    if count == len(CLASSES) and set(classes) <= set(CLASSES):
        return rows_by_name(CLASSES, classes)
    first = count - num_classes
    return list(range(first, count)) if first in (0, 1) else []
