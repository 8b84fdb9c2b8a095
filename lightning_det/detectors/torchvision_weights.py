"""Weights of torchvision's Faster R-CNN R50-FPN in our detector."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_det.detectors.faster_rcnn import FasterRCNN

RENAMED = {
    "backbone.body.conv1.": "backbone.stages.0.0.",
    "backbone.body.bn1.": "backbone.stages.0.1.",
    "backbone.body.layer1.": "backbone.stages.0.4.",
    "backbone.body.layer2.": "backbone.stages.1.0.",
    "backbone.body.layer3.": "backbone.stages.2.0.",
    "backbone.body.layer4.": "backbone.stages.3.0.",
    "backbone.fpn.": "neck.pyramid.",
    "rpn.head.": "rpn.head.",
    "roi_heads.box_head.": "roi_head.predictor.trunk.",
    "roi_heads.box_predictor.cls_score.": "roi_head.predictor.classify.",
    "roi_heads.box_predictor.bbox_pred.": "roi_head.predictor.regress.",
}


def load_torchvision(
    detector: FasterRCNN, state_dict: Mapping[str, Tensor], class_rows: Sequence[int] | None = None
) -> list[str]:
    """Loads a state_dict of torchvision's ``fasterrcnn_resnet*_fpn`` into `FasterRCNN.fpn`.

    Args:
        detector: made by `FasterRCNN.fpn` with a torchvision ResNet of the same depth, form ``pyramid``.
        state_dict: torchvision's tensors by torchvision's names.
        class_rows: for each of our classes, counted from 0, its label in torchvision's model (row 0 is background;
            for COCO weights the label is COCO's category id). None: the classes are the same, in the same order;
            where their number differs the last layer keeps its fresh weights.

    Returns:
        Names of the detector's tensors that the state_dict did not set: none, or the last layer.

    Raises:
        ValueError: the state_dict is not of such a detector, or misses tensors.
    """
    weights = {}
    for name, tensor in state_dict.items():
        prefix = next((p for p in RENAMED if name.startswith(p)), None)
        if prefix is None:
            raise ValueError(f"not a state_dict of torchvision's Faster R-CNN FPN: it holds {name!r}")
        weights[RENAMED[prefix] + name.removeprefix(prefix)] = tensor
    _select_classes(weights, detector, class_rows)
    try:
        missing, unexpected = detector.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the state_dict is of another detector: {error}") from error
    lost = [n for n in missing if not n.startswith(detector.class_layers)]
    if lost or unexpected:
        raise ValueError(
            f"the state_dict is of another detector: {len(lost)} tensors are missing {lost[:3]}, "
            f"{len(unexpected)} have no place {unexpected[:3]}"
        )
    return missing


def _select_classes(weights: dict[str, Tensor], detector: FasterRCNN, class_rows: Sequence[int] | None) -> None:
    """Picks the rows of our classes from the last layer, or drops the layer where the classes differ."""
    num_classes = detector.roi_head.predictor.num_classes
    rows = weights["roi_head.predictor.classify.weight"].shape[0]
    if class_rows is None and rows == num_classes + 1:
        return
    if class_rows is None:
        for name in [n for n in weights if n.startswith(detector.class_layers)]:
            del weights[name]
        return
    if len(class_rows) != num_classes or not all(0 < r < rows for r in class_rows):
        raise ValueError(f"class_rows needs {num_classes} numbers of 1 to {rows - 1}, got {list(class_rows)}")
    index = [0, *class_rows]
    for name in [n for n in weights if n.startswith(detector.class_layers)]:
        per_row = weights[name].unflatten(0, (rows, -1))
        weights[name] = per_row[index].flatten(0, 1)
