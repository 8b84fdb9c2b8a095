"""Recommends a strategy from figures of a dataset: rules in words and numbers, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from lightning_det.inspection.costs import Cost
from lightning_det.inspection.probe import Speed

EVERYWHERE = 1.2
"""Pixels of chips around objects, divided by those of tiles, from which tiles are the cheaper way to see them."""

BACKGROUNDS = 0.1
"""Share of images without boxes from which a strategy must show them; chips around objects do not."""

BATCH = (0.6, 8)
"""Pixels of a training batch in millions, and its maximum number of views: many small steps learn more from scratch
than few large ones."""

TESTED_AT_ONCE = 3.0
"""Maximum pixels of a batch of inference, in millions."""

MINUTES = 6.0
"""Length of a first training."""

STEPS = (300, 3000)
"""Minimum and maximum number of steps of a first training."""

VALIDATIONS = (5, 0.15)
"""Maximum number of validations, and maximum share of the time of training that all but the last one take."""

ROUNDED = 0.15
"""Share by which the number of epochs may change so that the last one ends with a validation."""

CROWDED = 0.7
"""Share of ``test.max_detections`` that the boxes of a crowded image may take."""


@dataclass(frozen=True)
class Figures:
    """The figures of a dataset that a recommendation depends on."""

    images: int
    """Number of training images."""
    val_images: int
    """Number of validation images."""
    without_boxes: int
    """Number of training images without boxes."""
    boxes_per_image: float
    """Mean number of boxes per image."""
    crowd: float
    """Boxes of a crowded image (95th percentile) per allowance of detections: see ``test.detections_per_megapixel``."""
    object_share: float
    """Share of the pixels inside boxes."""
    median_size: float
    """Median size of the objects, pixels of the image."""
    small_size: float
    """10th percentile of the sizes."""
    relative_size: float
    """Median of the size divided by the long side of its image."""
    seen: float
    """Size from which the detector sees objects well, pixels of the view."""
    stride: float
    """Pixels of the view per cell of its finest feature map."""
    factor: float
    """Scale at which whole images and tiles show small objects large enough."""
    finest: float
    """Finest scale of chips, at which small objects are seen well."""
    scales: int
    """Number of SNIPER's scales; 1: the image in one chip shows small objects well."""
    object_tiles: float
    """Share of the tiles that show a part of a box."""
    costs: Mapping[str, Cost]
    """Cost of an epoch by strategy."""
    speed: Speed | None
    """Speed of this machine; None if it is not known."""


@dataclass(frozen=True)
class Recommendation:
    """A strategy, the settings that go with it, and the reasons."""

    strategy: tuple[str, ...]
    settings: dict[str, Any]
    """Settings of the whole configuration, nested."""
    reasons: tuple[str, ...]
    """Sentences with the figures that speak for the strategy."""
    minutes: float | None
    """Estimated length of the training with its validations; None if the machine's speed is not known."""


def recommend(figures: Figures) -> Recommendation:
    """Recommends a strategy.

    1. If one view of the whole image shows small objects well, ``single_scale``: nothing is gained by cutting.
    2. If many images have no boxes, ``tiles``: chips around objects would never show them.
    3. If chips around the objects have more pixels than tiles of the whole image, ``tiles``: objects are everywhere.
    4. Otherwise ``sniper_no_negatives``: chips around the objects, at scales that show them well.
    """
    name, why = _strategy(figures)
    cost = figures.costs[name]
    if name == "tiles":
        cost = shown_tiles(figures)
    batch = int(np.clip(BATCH[0] // max(1e-6, cost.largest), 1, BATCH[1]))
    length, minutes, said = _length(figures, cost, batch)
    settings: dict[str, Any] = {"data": {"batch_size": batch}, "trainer": length}
    if name == "single_scale":
        settings["data"]["test_batch_size"] = int(np.clip(TESTED_AT_ONCE // max(1e-6, cost.largest), 1, BATCH[1]))
    if name == "tiles":
        settings["views"] = _tiles(figures)
    if figures.crowd > CROWDED:
        settings["test"] = {"max_detections": 100 * ceil(figures.crowd / CROWDED)}
    return Recommendation((name, "flip"), settings, (*_sizes(figures, name), why, said), minutes)


def _strategy(figures: Figures) -> tuple[str, str]:
    """Returns the strategy and the reason for it."""
    chips, tiles = (figures.costs[name].megapixels for name in ("sniper_no_negatives", "tiles"))
    share = f"chips around the objects have {100 * chips / max(1e-9, tiles):.0f} % of the pixels of tiles"
    if figures.scales == 1:
        return "single_scale", "One view of the whole image shows them well, so chips or tiles would gain nothing."
    if figures.without_boxes >= BACKGROUNDS * figures.images:
        return "tiles", (
            f"{figures.without_boxes} of {figures.images} images have no boxes. Only tiles show them: chips are cut "
            "around objects."
        )
    if chips < EVERYWHERE * tiles:
        rest = "the rest is background" if chips < tiles else "but they mean more and smaller steps of training"
        return "sniper_no_negatives", f"C{share[1:]} of the whole image at that scale; {rest}."
    return "tiles", f"Objects are everywhere: {share}."


def _sizes(figures: Figures, strategy: str) -> tuple[str, str]:
    """Describes the objects, relative to the image and to what the network can see."""
    factor = figures.finest if strategy == "sniper_no_negatives" else figures.factor
    return (
        f"There are {figures.boxes_per_image:.1f} boxes per image. They cover {100 * figures.object_share:.2g} % of "
        f"the pixels; their median size is {figures.median_size:.0f} px, {100 * figures.relative_size:.2g} % of the "
        "long side of the image.",
        f"The detector sees objects well from about {figures.seen:.0f} px on (its finest feature map has a stride of "
        f"{figures.stride:g}). A tenth of the objects is smaller than {figures.small_size:.0f} px, so images are shown "
        f"at {factor:.2g} times their size.",
    )


def _tiles(figures: Figures) -> dict[str, Any]:
    scales = {"resolutions": [figures.factor]}
    return {"train": {"scales": scales, "windows": {"background": background(figures)}}, "test": {"scales": scales}}


def background(figures: Figures) -> float:
    """Chooses the probability with which tiles without a box are shown: about as many as those with one."""
    shown = figures.object_tiles / max(1e-9, 1 - figures.object_tiles)
    return float(np.clip(round(shown, 2), 0.01, 1.0))


def shown_tiles(figures: Figures) -> Cost:
    """Computes the cost of an epoch in which some of the tiles without a box are left out."""
    cost, share = figures.costs["tiles"], figures.object_tiles
    share += background(figures) * (1 - share)
    return cost._replace(
        views=share * cost.views, megapixels=share * cost.megapixels, decoded=min(cost.views * share, cost.decoded)
    )


def _length(figures: Figures, cost: Cost, batch: int) -> tuple[dict[str, Any], float | None, str]:
    """Chooses epochs and validations; returns them, the estimated minutes, and both in words."""
    steps = max(1, ceil(cost.views * figures.images / batch))
    low, high = (max(1, round(bound / steps)) for bound in STEPS)
    epoch = None if figures.speed is None else epoch_seconds(figures, cost)
    wanted = high if epoch is None else 60 * MINUTES / max(1e-9, epoch)
    epochs = int(np.clip(round(wanted), low, high))
    validation = 0.0 if figures.speed is None else figures.val_images * cost.tested * figures.speed.test
    affordable = 1 + VALIDATIONS[1] * epochs * (epoch or 0.0) / max(1e-9, validation)
    count = int(np.clip(affordable, 1, min(VALIDATIONS[0], epochs)))
    every = _interval(epochs, count)
    epochs = every * round(epochs / every)
    said = f"{epochs} epochs have {epochs * steps} steps of {batch} views"
    length = {"max_epochs": epochs, "check_val_every_n_epoch": every}
    if epoch is None:
        return length, None, f"{said}."
    minutes = (epochs * epoch + epochs // every * validation) / 60
    return length, minutes, f"{said} and take about {minutes:.0f} min on this machine (estimate)."


def _interval(epochs: int, count: int) -> int:
    """Chooses after how many epochs to validate: at most about ``count`` times, and after the last epoch."""
    intervals = range(ceil(epochs / count), epochs + 1)
    return next(every for every in intervals if abs(every * round(epochs / every) - epochs) <= ROUNDED * epochs)


def epoch_seconds(figures: Figures, cost: Cost) -> float:
    """Estimates the seconds of a training epoch; images are decoded beside the training."""
    if figures.speed is None:
        return float("nan")
    return figures.images * max(cost.megapixels * figures.speed.train, cost.decoded * figures.speed.decode)
