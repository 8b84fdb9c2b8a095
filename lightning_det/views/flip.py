"""Views mirrored left to right."""

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.view import View


class RandomFlip(Step):
    """Mirrors each view left to right at random. For training.

    Args:
        probability: probability that a view is mirrored.
    """

    def __init__(self, probability: float = 0.5):
        if not 0 <= probability <= 1:
            raise ValueError(f"views: flip probability must be 0 to 1, got {probability}")
        self.probability = probability

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """The same views, some of them mirrored."""
        if rng is None:
            raise ValueError("views: RandomFlip is for training; inference takes BothSides")
        draws = rng.random(len(views)) < self.probability
        return [v._replace(flip=bool(d)) for v, d in zip(views, draws, strict=True)]


class BothSides(Step):
    """Returns each view twice, as it is and mirrored. For inference, or for training on a doubled dataset."""

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """Twice as many views."""
        return [v._replace(flip=flip) for v in views for flip in (False, True)]
