"""Draws views with the boxes that are learned from."""

import numpy as np
from PIL import Image

from lightning_det.plotting.boxes import draw_boxes
from lightning_det.plotting.colours import GREY, class_colour
from lightning_det.protocols.structures import State
from lightning_det.views.targets import Targets


def draw_view(pixels: np.ndarray, found: Targets, names: tuple[str, ...], side: int) -> np.ndarray:
    """Draws a view with its boxes: valid ones with solid lines, the others dashed, ignored ones grey.

    Args:
        pixels: (h, w, 3) uint8.
        found: the boxes.
        names: of the classes.
        side: longer side of the picture, pixels. All pictures have lines and captions of one size.
    """
    factor = side / max(pixels.shape[:2])
    # Small views are enlarged without smoothing, so the pixels that the detector sees are visible.
    resample = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    height, width = (max(1, round(s * factor)) for s in pixels.shape[:2])
    valid = found.states == State.VALID
    ignored = found.states == State.IGNORED
    return draw_boxes(
        np.asarray(Image.fromarray(pixels).resize((width, height), resample)),
        found.boxes * factor,
        [names[label] if ok else "" for label, ok in zip(found.labels, valid, strict=True)],
        [GREY if i else class_colour(label) for label, i in zip(found.labels, ignored, strict=True)],
        dashed=~valid,
    )
