"""Random changes of colours."""

from math import inf

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.view import Distortion, View


class Distort(Step):
    """Draws a change of colours for each view, as SSD's Caffe code does. For training.

    Every change is drawn independently, and contrast comes first or last. `lightning_det.data.colours.distort` applies
    it to pixels.

    Args:
        brightness: maximum value that is added, for pixels of 0 to 255.
        contrast: smallest and largest factor.
        saturation: smallest and largest factor.
        hue: maximum rotation, where 180 is a full circle as in OpenCV.
        probability: probability of each change.
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 18.0,
        probability: float = 0.5,
    ):
        ranges = [(0.0, brightness), contrast, saturation]
        ascending = all(0 <= low <= high < inf for low, high in ranges)
        if not (ascending and 0 <= hue <= 90 and 0 <= probability <= 1):
            raise ValueError(
                "views: Distort needs brightness and factors >= 0, the smaller factor first, 0 <= hue <= 90 and "
                "0 <= probability <= 1, got "
                f"{brightness}, {list(contrast)}, {list(saturation)}, {hue} and {probability}"
            )
        self.lows = np.array([-brightness / 255, contrast[0], saturation[0], -hue / 180])
        self.highs = np.array([brightness / 255, contrast[1], saturation[1], hue / 180])
        self.probability = probability

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """The same views with other colours."""
        if rng is None:
            raise ValueError("views: Distort is for training; inference sees colours as they are")
        return [v._replace(distortion=self._draw(rng)) for v in views]

    def _draw(self, rng: np.random.Generator) -> Distortion:
        drawn = rng.uniform(self.lows, self.highs)
        is_changed = rng.random(4) < self.probability
        brightness, contrast, saturation, hue = np.where(is_changed, drawn, [0.0, 1.0, 1.0, 0.0]).tolist()
        return Distortion(brightness, contrast, saturation, hue, contrast_first=bool(rng.random() < 0.5))
