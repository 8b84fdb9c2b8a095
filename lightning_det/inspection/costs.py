"""The cost of an epoch of each strategy with the suggested settings."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.trial import SAMPLE, sample
from lightning_det.views import Chips, LargeViews, Planner, Pyramid, SubImages, Tiles

TOGETHER = {"tiles": 4}
"""``data.together`` by strategy: number of views of an image that are decoded together, where it is not 1."""


class Cost(NamedTuple):
    """Views of a strategy, mean per image."""

    views: float
    """Training views of an epoch."""
    megapixels: float
    """Their pixels without padding, in millions."""
    largest: float
    """Pixels of the largest of them, in millions."""
    tested: float
    """Pixels of all views of inference, in millions."""
    decoded: float
    """How often an image is decoded in an epoch of training."""


def epoch_costs(store: AnnotationStore, settings: Mapping[str, Any], factor: float, seed: int = 0) -> dict[str, Cost]:
    """Plans an epoch of each strategy on a sample of the images.

    Args:
        store: annotations of at least one image.
        settings: suggested keys of ``dataset``.
        factor: scale by which tiles are cut.
        seed: of the sample and the views.

    Returns:
        Costs by strategy: ``single_scale`` ``multi_scale`` ``tiles`` ``snip`` ``sniper_no_negatives``.
    """
    store = sample(store, seed, SAMPLE)
    sniper, snip, tiles = settings["sniper"], settings["snip"], settings["tiles"]
    single, pyramid = Pyramid([settings["resolution"]]), Pyramid(settings["pyramid"])
    cut = Planner(Pyramid([factor]), Tiles(tiles["size"], tiles["overlap"], whole=True))
    chips = Planner(Pyramid(sniper["scales"], sniper["valid_ranges"]), Chips(sniper["size"], sniper["stride"]))
    windows = Planner(Pyramid(settings["pyramid"], snip["valid_ranges"]), SubImages(snip["sub_image"]))
    tested = Planner(Pyramid(sniper["pyramid"]), LargeViews())
    planners = {
        "single_scale": (Planner(single), Planner(single)),
        "multi_scale": (Planner(Pyramid(settings["pyramid"], draw="one")), Planner(single)),
        "tiles": (cut, cut),
        "snip": (windows, Planner(pyramid, LargeViews())),
        "sniper_no_negatives": (chips, tested),
    }
    return {name: _cost(store, train, test, TOGETHER.get(name, 1), seed) for name, (train, test) in planners.items()}


def object_tiles(store: AnnotationStore, settings: Mapping[str, Any], factor: float, seed: int = 0) -> float:
    """Computes the share of the tiles that show a part of a box; arguments as in `epoch_costs`."""
    store = sample(store, seed, SAMPLE)
    side, overlap = settings["tiles"]["size"], settings["tiles"]["overlap"]
    counts = [
        len(plan_epoch(store, Planner(Pyramid([factor]), Tiles(side, overlap, background)), seed, rendered=False))
        for background in (0.0, 1.0)
    ]
    return counts[0] / max(1, counts[1])


def _cost(store: AnnotationStore, train: Planner, test: Planner, together: int, seed: int) -> Cost:
    megapixels = [_megapixels(store, train, seed), _megapixels(store, test, None)]
    totals = [sum(each) / len(store) for each in megapixels]
    views = len(megapixels[0]) / len(store)
    return Cost(views, totals[0], max(megapixels[0], default=0.0), totals[1], views / together)


def _megapixels(store: AnnotationStore, planner: Planner, seed: int | None) -> list[float]:
    sizes = (look.view.size for look in plan_epoch(store, planner, seed, rendered=False))
    return [height * width / 1e6 for height, width in sizes]
