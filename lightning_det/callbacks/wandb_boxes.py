"""Boxes and images in the format of wandb, which can filter and search them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lightning_det.annotations.labels import ANY_CLASS, ANY_NAME, name_of

if TYPE_CHECKING:
    import wandb


def boxes_of(
    boxes: np.ndarray, labels: np.ndarray, names: Sequence[str], scores: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Boxes in the format of wandb.

    Args:
        boxes: (n, 4) ``xyxy`` pixels of the image.
        labels: (n,) positions in ``names``, or `ANY_CLASS`.
        names: of the classes.
        scores: (n,); None for ground truth.
    """
    rows = []
    for number, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        position = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
        one = {"position": position, "domain": "pixel", "class_id": label, "box_caption": name_of(label, names)}
        if scores is not None:
            score = float(scores[number])
            one |= {"scores": {"score": score}, "box_caption": f"{names[label]} {score:.2f}"}
        rows.append(one)
    return rows


def image_with_boxes(
    pixels: np.ndarray, groups: Mapping[str, list[dict[str, Any]]], names: Sequence[str], caption: str
) -> "wandb.Image":
    """An image (h, w, 3) uint8 with groups of boxes. Empty groups are left out."""
    import wandb

    classes = dict(enumerate(names))
    if any(box["class_id"] == ANY_CLASS for group in groups.values() for box in group):
        classes[ANY_CLASS] = ANY_NAME
    boxes = {name: {"box_data": group, "class_labels": classes} for name, group in groups.items() if group}
    return wandb.Image(Image.fromarray(pixels), caption=caption, boxes=boxes)
