"""Recommends a strategy from figures of a dataset: rules in words and numbers, nothing else."""

from dataclasses import dataclass
from math import ceil, inf
from typing import Any

import numpy as np

from lightning_det.inspection.costs import BATCH, TESTED_AT_ONCE, Cost, batch_size
from lightning_det.inspection.duration import choose_length
from lightning_det.inspection.figures import Figures
from lightning_det.views import Chips, Planner, Pyramid

EVERYWHERE = 1.2
"""Pixels of chips around objects, divided by those of tiles, from which tiles are the cheaper way to see them."""

BACKGROUNDS = 0.1
"""Share of images without boxes from which a strategy must show them; chips around objects do not."""

CROWDED = 0.7
"""Share of ``test.max_detections`` that the boxes of a crowded image may take."""

SHRUNK = 0.8
"""Scale of whole images, divided by the one at which objects are seen well, below which one view is not enough."""

UNLEARNED = 0.1
"""Share of the boxes from which chips that leave them out are no choice."""


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

    1. If one view of the whole image shows small objects well, ``single_scale``: nothing is gained by cutting. If only
       images of median size are small enough for that (`SHRUNK`), ``tiles``.
    2. If a tenth of the images has no boxes (`BACKGROUNDS`), ``tiles``: chips around objects do not show them.
    3. If no chip shows a tenth of the boxes (`UNLEARNED`), because they are too long or too thin, ``single_scale``.
    4. If chips around the objects have more pixels than the whole image at their scale, or than tiles (`EVERYWHERE`),
       ``tiles``: objects are everywhere. If the whole image fits into a batch (`BATCH`), ``single_scale``.
    5. Otherwise ``sniper_no_negatives``: chips around the objects, at scales that show them well.
    """
    name, why = _strategy(figures)
    cost = figures.costs[name]
    if name == "tiles":
        cost = shown_tiles(figures)
    batch = batch_size(cost.train.largest, BATCH)
    length = choose_length(figures, cost, batch)
    several = length.epochs > 1
    said = f"{length.epochs} epoch{'s have' if several else ' has'} {length.steps} steps of {batch} views"
    if length.minutes is not None:
        takes = "take" if several else "takes"
        said += f" and {takes} about {length.minutes:.0f} min on this machine, validation included (estimate)"
    settings: dict[str, Any] = {
        "data": {"batch_size": batch, "test_batch_size": batch_size(cost.test.largest, TESTED_AT_ONCE)},
        "trainer": {"max_epochs": length.epochs, "check_val_every_n_epoch": length.every},
    }
    if name == "tiles":
        settings["views"] = _tiles(figures)
    if figures.crowd > CROWDED:
        settings["test"] = {"max_detections": 100 * ceil(figures.crowded / CROWDED / 100)}
    return Recommendation((name, "flip"), settings, (*_sizes(figures, name), why, f"{said}."), length.minutes)


def unneeded_views(figures: Figures, planner: Planner) -> str:
    """Warns of chips and ranges of sizes where one view of the whole image shows small objects well.

    On blood cells, which are such images, SNIPER has 6 to 7 AP less than whole images (``docs/claims.md``).

    Args:
        figures: of the dataset.
        planner: makes the training views.

    Returns:
        The warning; empty if there is no reason for one.
    """
    everything = (0.0, inf)
    ranged = isinstance(planner.scales, Pyramid) and any(r != everything for r in planner.scales.valid_ranges)
    if figures.scales > 1 or _is_shrunk(figures) or not (ranged or isinstance(planner.windows, Chips)):
        return ""
    return (
        "one view of the whole image shows the objects of this dataset well, so chips and ranges of sizes gain nothing "
        "and may cost accuracy: on blood cells, SNIPER has 7 AP less than strategy=[single_scale,flip], see "
        "docs/choosing.md"
    )


def _strategy(figures: Figures) -> tuple[str, str]:
    """Returns the strategy and the reason for it."""
    chips, tiles = (figures.costs[name].train.megapixels for name in ("sniper_no_negatives", "tiles"))
    whole = figures.costs["single_scale"].train.megapixels * (figures.finest / figures.single) ** 2
    share = f"chips around the objects have {100 * chips / max(1e-9, tiles):.0f} % of the pixels of tiles"
    if figures.scales == 1 and not _is_shrunk(figures):
        return "single_scale", "One view of the whole image shows them well, so chips or tiles would gain nothing."
    if figures.scales == 1:
        return "tiles", "One view shows images of median size well, but not the large ones, which tiles cut."
    if figures.without_boxes >= BACKGROUNDS * figures.images:
        return "tiles", (
            f"{figures.without_boxes} of {figures.images} images have no boxes. Tiles show them; chips, which are cut "
            "around objects, do not."
        )
    if figures.unlearned >= UNLEARNED:
        return "single_scale", (
            f"Chips would leave out {100 * figures.unlearned:.0f} % of the boxes, which are too long or thin for them."
        )
    if chips > whole and whole <= BATCH[0] and not _is_shrunk(figures):
        return "single_scale", "The whole image in one view has fewer pixels than chips around the objects."
    if chips > whole:
        return (
            "tiles",
            "Objects are everywhere: chips around them have more pixels than the whole image at their scale.",
        )
    if chips < EVERYWHERE * tiles:
        rest = "the rest is background" if chips < tiles else "but they mean more and smaller steps of training"
        return "sniper_no_negatives", f"C{share[1:]} of the whole image; {rest}."
    return "tiles", f"Objects are everywhere: {share}."


def _is_shrunk(figures: Figures) -> bool:
    """Whether the large images are too large to be seen in one view at the scale that shows small objects well."""
    return figures.single < SHRUNK * figures.factor


def _sizes(figures: Figures, strategy: str) -> tuple[str, str]:
    """Describes the objects, relative to the image and to what the network can see."""
    factors = {"sniper_no_negatives": figures.finest, "single_scale": figures.single}
    factor = factors.get(strategy, figures.factor)
    return (
        f"There are {figures.boxes_per_image:.1f} boxes per image. They cover {_percent(figures.object_share)} of "
        f"the pixels; their median size is {figures.median_size:.0f} px, {_percent(figures.relative_size)} of the "
        "long side of the image.",
        f"The detector sees objects well from about {figures.seen:.0f} px on (its finest feature map has a stride of "
        f"{figures.stride:g}). A tenth of the objects is smaller than {figures.small_size:.0f} px, so images are shown "
        f"at {factor:.2g} times their size.",
    )


def _percent(share: float) -> str:
    """Formats a share: whole per cents from 10 % on, two digits below."""
    form = ".0f" if share >= 0.1 else ".2g"
    return f"{100 * share:{form}} %"


def _tiles(figures: Figures) -> dict[str, Any]:
    scales = {"resolutions": [figures.factor]}
    windows = {"background": background(figures.object_tiles)}
    return {"train": {"scales": scales, "windows": windows}, "test": {"scales": scales}}


def background(object_tiles: float) -> float:
    """Chooses the probability with which tiles without a box are shown: about as many as those with one.

    Args:
        object_tiles: see `Figures`.
    """
    shown = object_tiles / max(1e-9, 1 - object_tiles)
    return float(np.clip(round(shown, 2), 0.01, 1.0))


def shown_tiles(figures: Figures) -> Cost:
    """Computes the cost of an epoch in which some of the tiles without a box are left out."""
    cost, share = figures.costs["tiles"], figures.object_tiles
    share += background(share) * (1 - share)
    views, megapixels, _, resized, decoded, again = cost.train
    shown = share * views
    return cost._replace(
        train=cost.train._replace(
            views=shown,
            megapixels=share * megapixels,
            resized=share * resized,
            decoded=min(shown, decoded),
            again=min(shown, again),
        )
    )
