"""SSD's random crops: windows that grow beyond the image, then are cut to have a minimum IoU with an object."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.view import View, in_learning_range


class IoUCrops(Step):
    """Draws the window of each view at random, and warps it to the size that the view had. For training.

    First the window grows, as `torchvision.transforms.v2.RandomZoomOut` pads images. Then each minimum IoU has a
    sampler, which looks for a part of the window that has this IoU with some object; a last sampler has no minimum. One
    of the parts found and of the uncut window is chosen, all with the same probability. Sources: SSD, section 2.2, and
    its Caffe code. v2's ``RandomIoUCrop`` differs: it draws one sampler, and another one if that fails, requires an
    object's centre in the part, and draws width and height independently.

    The detector learns from a box if its centre is inside the window. Other visible boxes are ``INVALID``, whereas SSD
    treats them as background. (RoIs of two-stage detectors get their class, as in chips.)

    Args:
        expansion: maximum side of a grown window, relative to the view's.
        expand_probability: probability that a window grows.
        min_ious: minimum IoU with an object, one per sampler.
        min_scale: minimum side of a part, relative to the window's: the square root of its minimum share of the area.
        max_aspect: maximum aspect ratio of a part, relative to the window's; its inverse is the minimum.
        trials: maximum number of parts that a sampler draws.

    Raises:
        ValueError: settings that leave no window.
    """

    keeps_shape = True

    def __init__(
        self,
        expansion: float = 4.0,
        expand_probability: float = 0.5,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_scale: float = 0.3,
        max_aspect: float = 2.0,
        trials: int = 50,
    ):
        if expansion < 1 or max_aspect < 1 or trials < 1 or not 0 < min_scale <= 1 or not 0 <= expand_probability <= 1:
            raise ValueError(
                "views: IoUCrops need expansion and max_aspect >= 1, trials >= 1, 0 < min_scale <= 1 and "
                f"0 <= expand_probability <= 1, got {expansion}, {max_aspect}, {trials}, {min_scale} and "
                f"{expand_probability}"
            )
        if any(not 0 <= value <= 1 for value in min_ious):
            raise ValueError(f"views: IoUCrops need min_ious between 0 and 1, got {list(min_ious)}")
        self.expansion = expansion
        self.expand_probability = expand_probability
        # The last sampler accepts any part, if there is an object.
        self.min_ious = np.array([*min_ious, 0.0])
        self.min_scale = min_scale
        self.max_aspect = max_aspect
        self.trials = trials

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """The views with other windows."""
        if rng is None:
            raise ValueError("views: IoUCrops are for training; inference sees the whole image")
        return [self._draw(image, view, rng) for view in views]

    def _draw(self, image: ImageRecord, view: View, rng: np.random.Generator) -> View:
        window = self._grow(np.array(view.window, float), rng)
        objects = image.boxes[~image.ignored]
        found = self._parts(window, objects, rng)
        choice = int(rng.integers(len(found) + 1))
        chosen = window if choice == len(found) else found[choice]
        x1, y1 = (int(v) for v in np.floor(chosen[:2] + 0.5))
        x2, y2 = (max(low + 1, int(v)) for low, v in zip((x1, y1), np.floor(chosen[2:] + 0.5), strict=True))
        height, width = view.size
        centre = (image.boxes[:, :2] + image.boxes[:, 2:]) / 2
        inside = ((centre >= [x1, y1]) & (centre < [x2, y2])).all(axis=1)
        valid, anchors = (np.flatnonzero(inside & in_learning_range(image.boxes, limits)) for limits in view.ranges)
        return view._replace(
            scale=sqrt(height * width / ((x2 - x1) * (y2 - y1))),
            window=(x1, y1, x2, y2),
            shape=(height, width),
            valid_boxes=tuple(valid.tolist()),
            anchor_boxes=tuple(anchors.tolist()),
        )

    def _grow(self, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns the window, or a larger one around it."""
        if rng.random() >= self.expand_probability:
            return window
        side = window[2:] - window[:2]
        larger = side * rng.uniform(1, self.expansion)
        start = window[:2] - rng.random(2) * (larger - side)
        return np.concatenate([start, start + larger])

    def _parts(self, window: np.ndarray, objects: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws parts (n, 4) of the window: the first suitable one of each sampler that found any."""
        shape = (len(self.min_ious), self.trials)
        scale = rng.uniform(self.min_scale, 1, shape)
        # Limits that keep the part inside the window.
        aspect = rng.uniform(np.maximum(1 / self.max_aspect, scale**2), np.minimum(self.max_aspect, scale**-2))
        side = np.stack([scale * np.sqrt(aspect), scale / np.sqrt(aspect)], axis=-1)
        start = rng.random((*shape, 2)) * (1 - side)
        extent = window[2:] - window[:2]
        parts = np.concatenate([start, start + side], axis=-1) * np.tile(extent, 2) + np.tile(window[:2], 2)
        fits: np.ndarray = np.any(_iou(parts, objects) >= self.min_ious[:, None, None], axis=-1)
        first = fits.argmax(axis=1)
        return parts[np.arange(len(first)), first][fits.any(axis=1)]


def _iou(parts: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU (..., n) of parts (..., 4) with boxes (n, 4)."""
    parts = parts[..., None, :]
    common = (np.minimum(parts[..., 2:], boxes[:, 2:]) - np.maximum(parts[..., :2], boxes[:, :2])).clip(0).prod(axis=-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(axis=-1) for b in (parts, boxes)]
    return common / (areas[0] + areas[1] - common)
