"""How long a training takes on this machine, and how many epochs of it to suggest."""

from math import ceil
from typing import NamedTuple

import numpy as np

from lightning_det.inspection.costs import Cost, Pass
from lightning_det.inspection.figures import Figures
from lightning_det.inspection.probe import Speed

MINUTES = 6.0
"""Length of a first training with its last validation."""

STEPS = (300, 3000)
"""Minimum and maximum number of steps of a first training."""

VALIDATIONS = (5, 0.15)
"""Maximum number of validations, and maximum share of the time of training that all but the last one take."""

ROUNDED = 0.15
"""Share by which the number of epochs may change so that the last one ends with a validation."""

DRAWN = 8
"""Number of images that a validation draws: ``callbacks.pictures.count``."""

AROUND = 25.0
"""Seconds that a training takes before its first step and after its last validation: it reads the dataset, finds the
images with the most errors, and writes the report."""


class Seconds(NamedTuple):
    """Time that the parts of a training take."""

    start: float
    """`AROUND`, and what the first epoch takes longer than others: images that are kept in memory are decoded."""
    epoch: float
    """An epoch of training."""
    validation: float


class Length(NamedTuple):
    """A suggested length of a training."""

    epochs: int
    every: int
    """Epochs between two validations, the last of which ends the training."""
    steps: int
    minutes: float | None
    """Estimated time; None if the machine's speed is not known."""


def estimate(figures: Figures, cost: Cost) -> Seconds | None:
    """Estimates the time of a training's parts; None if the machine's speed is not known."""
    speed = figures.speed
    if speed is None:
        return None
    compute = figures.images * cost.train.megapixels * speed.train
    first, epoch = (
        together(compute, figures.images * loading(cost.train, speed, decoded), figures.workers)
        for decoded in (cost.train.decoded, cost.train.again)
    )
    tested = figures.val_images * cost.test.megapixels * speed.test
    read = figures.val_images * loading(cost.test, speed, cost.test.decoded)
    drawn = min(DRAWN, figures.val_images) * (speed.decode + speed.draw)
    return Seconds(AROUND + first - epoch, epoch, together(tested, read, figures.workers) + drawn)


def loading(views: Pass, speed: Speed, decoded: float) -> float:
    """Estimates the seconds in which one process decodes an image some number of times, and cuts its views."""
    return decoded * speed.decode + views.views * speed.cut + views.resized * speed.resize


def together(compute: float, load: float, workers: int) -> float:
    """Returns the seconds of a pass: a training without loader processes computes and loads in turns."""
    return max(compute, load / workers) if workers else compute + load


def choose_length(figures: Figures, cost: Cost, batch: int) -> Length:
    """Chooses the number of epochs and of validations.

    Args:
        figures: of the dataset and the machine.
        cost: of an epoch.
        batch: views per step.
    """
    steps = max(1, ceil(round(cost.train.views * figures.images, 6) / batch))  # 500 / 30 * 30 is more than 500
    low, high = (max(1, round(bound / steps)) for bound in STEPS)
    seconds = estimate(figures, cost)
    start, epoch, validation = seconds or (0.0, 0.0, 0.0)
    epochs = int(np.clip(round(min(high, (60 * MINUTES - start - validation) / max(1e-9, epoch))), low, high))
    affordable = 1 + VALIDATIONS[1] * epochs * epoch / max(1e-9, validation)
    count = int(np.clip(affordable, 1, min(VALIDATIONS[0], epochs)))
    every = interval(epochs, count)
    epochs = every * round(epochs / every)
    minutes = None if seconds is None else (start + epochs * epoch + epochs // every * validation) / 60
    return Length(epochs, every, epochs * steps, minutes)


def interval(epochs: int, count: int) -> int:
    """Chooses after how many epochs to validate: at most about ``count`` times, and after the last epoch."""
    intervals = range(ceil(epochs / count), epochs + 1)
    return next(every for every in intervals if abs(every * round(epochs / every) - epochs) <= ROUNDED * epochs)
