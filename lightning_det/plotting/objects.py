"""Draws objects in the colours of their classes, with a colour key."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from lightning_det.plotting.boxes import LabelMode, draw_boxes
from lightning_det.plotting.colours import Colour, class_colour
from lightning_det.plotting.key import with_key

ENLARGED = 20
"""`enlargement` makes objects about this large, pixels."""

LARGEST = 4096
"""`enlargement` makes no picture longer than this, pixels."""


def draw_objects(
    pixels: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
    draw_labels: LabelMode = "auto",
    scale: float = 1.0,
    key: Sequence[tuple[str, Colour]] | None = None,
) -> np.ndarray:
    """Draws objects in the colours of their classes, with a colour key in a margin below the picture.

    Args:
        pixels: (H, W, 3) uint8.
        boxes: (n, 4) ``xyxy`` pixels.
        labels: (n,) classes, positions in ``names``.
        names: of all classes.
        scores: (n,); objects with the highest scores get the room for labels. None: the largest objects do.
        draw_labels: which objects have labels with their class and score.
        scale: factor by which the picture is enlarged before it is drawn on.
        key: entries of the colour key; None: the classes of the objects, with their numbers.

    Returns:
        (h + margin, w, 3) uint8; h and w are H and W times the scale, rounded.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order = np.argsort(-(areas if scores is None else scores), kind="stable")
    captions = [names[label] for label in labels[order]]
    if scores is not None:
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, scores[order], strict=True)]
    colours = [class_colour(int(label)) for label in labels[order]]
    drawn = draw_boxes(resize(pixels, scale), boxes[order] * scale, captions, colours, draw_labels=draw_labels)
    return with_key(drawn, class_key(labels, names) if key is None else key)


def class_key(labels: np.ndarray, names: Sequence[str]) -> list[tuple[str, Colour]]:
    """Returns the entries of a colour key: classes with the number of their objects, by the order of classes."""
    classes, counts = np.unique(labels, return_counts=True)
    found = zip(classes.tolist(), counts.tolist(), strict=True)
    return [(f"{names[label]} {count}", class_colour(label)) for label, count in found]


def enlargement(boxes: np.ndarray, size: tuple[int, int]) -> int:
    """Chooses the factor by which a picture is enlarged, so that small objects can be seen.

    Args:
        boxes: (n, 4) ``xyxy`` pixels.
        size: (width, height) of the picture.

    Returns:
        1 to 4: what brings a quarter of the objects to at least 20 pixels, and the picture to at most 4096.
    """
    if len(boxes) == 0:
        return 1
    small = float(np.quantile(np.sqrt(np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 1, None), axis=1)), 0.25))
    return max(1, min(4, -int(-ENLARGED // small), LARGEST // max(size)))


def resize(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Returns an image (H, W, 3) uint8 at another size, at least one pixel."""
    if scale == 1:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
