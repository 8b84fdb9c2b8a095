"""Loads weights of torchvision's Faster R-CNN R50-FPN and SSD300 into our detectors; `rename` serves others too."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, SSD300_VGG16_Weights

from lightning_det.detectors.two_stage import TwoStage
from lightning_det.protocols.detector import Detector

FASTER_RCNN_CLASSES: Sequence[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
SSD_CLASSES: Sequence[str] = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
"""Names by COCO's category id; background is 0, gaps are "N/A"."""

BODY = {
    "backbone.body.conv1.": "backbone.stages.0.0.",
    "backbone.body.bn1.": "backbone.stages.0.1.",
    "backbone.body.layer1.": "backbone.stages.0.4.",
    "backbone.body.layer2.": "backbone.stages.1.0.",
    "backbone.body.layer3.": "backbone.stages.2.0.",
    "backbone.body.layer4.": "backbone.stages.3.0.",
}
"""Prefixes of a ResNet's tensors in torchvision's detectors and in ours."""

HEAD = "roi_head.predictor."

RENAMED = BODY | {
    "backbone.fpn.": "neck.pyramid.",
    "rpn.head.": "rpn.head.",
    "roi_heads.box_head.": f"{HEAD}trunk.",
    "roi_heads.box_predictor.cls_score.": f"{HEAD}classify.",
    "roi_heads.box_predictor.bbox_pred.": f"{HEAD}regress.",
}

SSD_RENAMED = {
    "backbone.": "backbone.network.",
    "head.classification_head.module_list.": "classify.",
    "head.regression_head.module_list.": "regress.",
}


def faster_rcnn_rows(state_dict: Mapping[str, Tensor], classes: Sequence[str]) -> list[int] | None:
    """The ``class_rows`` for `load_torchvision`: found by name in weights for COCO, None for other weights."""
    last = state_dict.get("roi_heads.box_predictor.cls_score.weight")
    if last is None or len(last) != len(FASTER_RCNN_CLASSES):
        return None
    return rows_by_name(FASTER_RCNN_CLASSES, classes)


def ssd_class_rows(state_dict: Mapping[str, Tensor], per_cell: int, classes: Sequence[str]) -> list[int] | None:
    """The ``class_rows`` for `load_torchvision_ssd`, see `faster_rcnn_rows`."""
    return rows_by_name(SSD_CLASSES, classes) if ssd_rows(state_dict, per_cell) == len(SSD_CLASSES) else None


def rows_by_name(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """Index of each of our classes among theirs; empty unless they have all of them."""
    return [theirs.index(name) for name in ours] if set(ours) <= set(theirs) else []


def load_torchvision(
    detector: TwoStage, state_dict: Mapping[str, Tensor], num_classes: int, class_rows: Sequence[int] | None = None
) -> list[str]:
    """Loads a state_dict of torchvision's ``fasterrcnn_resnet*_fpn`` into `FasterRCNN.fpn`.

    Every stage of a cascade gets the weights of torchvision's only one. A regression that serves all classes keeps its
    fresh weights, for torchvision's is one per class.

    Args:
        detector: made by `FasterRCNN.fpn` with a torchvision ResNet of the same depth, form ``pyramid``.
        state_dict: torchvision's tensors by torchvision's names.
        num_classes: object classes of the detector, background not counted.
        class_rows: for each of our classes, counted from 0, its label in torchvision's model (row 0 is background;
            for COCO weights the label is COCO's category id). None: the classes are the same, in the same order;
            if their number differs, the last layer keeps its fresh weights. Empty: it always keeps them.

    Returns:
        Names of the detector's tensors that the state_dict did not set: none, or those of the last layers.

    Raises:
        ValueError: the state_dict is not of such a detector, or misses tensors.
    """
    weights = rename(state_dict, RENAMED, "Faster R-CNN FPN")
    rows = len(weights[f"{HEAD}classify.weight"])
    if class_rows:
        _check_rows(class_rows, num_classes, rows)
    head = {name.removeprefix(HEAD): weights.pop(name) for name in [*weights] if name.startswith(HEAD)}
    for name in [n for n in head if n.startswith(("classify.", "regress."))]:
        if class_rows:
            # A class has one row of the classification, four of the regression.
            head[name] = head[name].unflatten(0, (rows, -1))[[0, *class_rows]].flatten(0, 1)
        elif class_rows is not None or rows != num_classes + 1:
            del head[name]
    predictors = detector.roi_head.predictors()
    fresh = [f"roi_head.{place}.regress." for place, predictor in predictors.items() if predictor.class_agnostic]
    if fresh:
        head = {name: tensor for name, tensor in head.items() if not name.startswith("regress.")}
    weights |= {f"roi_head.{place}.{name}": tensor for place in predictors for name, tensor in head.items()}
    return load_renamed(detector, weights, fresh)


def load_torchvision_ssd(
    detector: Detector,
    state_dict: Mapping[str, Tensor],
    num_classes: int,
    per_cell: int,
    class_rows: Sequence[int] | None = None,
) -> list[str]:
    """Loads a state_dict of torchvision's ``ssd300_vgg16`` into `SSD`; see `load_torchvision`.

    Args:
        detector: made with the backbone `VGG16` and torchvision's numbers of priors.
        state_dict: see `load_torchvision`.
        num_classes: see `load_torchvision`.
        per_cell: priors in a cell of the first map.
        class_rows: see `load_torchvision`.

    Returns:
        See `load_torchvision`.

    Raises:
        ValueError: see `load_torchvision`.
    """
    weights = rename(state_dict, SSD_RENAMED, "SSD300")
    rows = ssd_rows(state_dict, per_cell)
    if class_rows:
        _check_rows(class_rows, num_classes, rows)
    for name in [n for n in weights if n.startswith(detector.class_layers)]:
        if class_rows:
            weights[name] = weights[name].unflatten(0, (-1, rows))[:, [0, *class_rows]].flatten(0, 1)
        elif class_rows is not None or rows != num_classes + 1:
            del weights[name]
    return load_renamed(detector, weights)


def ssd_rows(state_dict: Mapping[str, Tensor], per_cell: int) -> int:
    """Number of classes, background included, of torchvision's SSD with ``per_cell`` priors in a cell of its first map.

    Raises:
        ValueError: the state_dict has no classification head.
    """
    first = state_dict.get("head.classification_head.module_list.0.bias")
    if first is None:
        raise ValueError("not a state_dict of torchvision's SSD300: it has no classification head")
    return len(first) // per_cell


def rename(state_dict: Mapping[str, Tensor], table: Mapping[str, str], kind: str) -> dict[str, Tensor]:
    """Gives torchvision's tensors our names.

    Args:
        state_dict: tensors by torchvision's names.
        table: prefixes of theirs and of ours; the first that fits counts.
        kind: the detector that all names must be of, for the message.

    Raises:
        ValueError: a tensor has another name.
    """
    weights = {}
    for name, tensor in state_dict.items():
        prefix = next((p for p in table if name.startswith(p)), None)
        if prefix is None:
            raise ValueError(f"not a state_dict of torchvision's {kind}: it holds {name!r}")
        weights[table[prefix] + name.removeprefix(prefix)] = tensor
    return weights


def load_renamed(detector: Detector, weights: Mapping[str, Tensor], fresh: Sequence[str] = ()) -> list[str]:
    """Loads all tensors of a detector but those that depend on the classes, which may be missing.

    Args:
        detector: gets the weights.
        weights: tensors by the detector's names.
        fresh: prefixes of the names of further tensors that may be missing.

    Returns:
        Names of the missing tensors.

    Raises:
        ValueError: other tensors are missing, or there are more, or shapes differ.
    """
    try:
        missing, unexpected = detector.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the state_dict is of another detector: {error}") from error
    lost = [n for n in missing if not n.startswith((*detector.class_layers, *fresh))]
    if lost or unexpected:
        raise ValueError(
            f"the state_dict is of another detector: {len(lost)} tensors are missing {lost[:3]}, "
            f"{len(unexpected)} are unexpected {unexpected[:3]}"
        )
    return missing


def _check_rows(class_rows: Sequence[int], num_classes: int, rows: int) -> None:
    if len(class_rows) != num_classes or not all(0 < r < rows for r in class_rows):
        raise ValueError(f"class_rows needs {num_classes} numbers of 1 to {rows - 1}, got {list(class_rows)}")
