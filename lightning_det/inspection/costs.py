"""The cost of an epoch of each strategy with the suggested settings."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.inference_batches import Limits, similar_together
from lightning_det.data.memory import Reader
from lightning_det.data.sampler import ByImage, ByLevel, Grouping, plan_epoch
from lightning_det.data.trial import SAMPLE, sample
from lightning_det.inspection.decoding import count_decoding
from lightning_det.views import Chips, LargeViews, Planner, Pyramid, SubImages, Tiles
from lightning_det.views.planner import LARGEST_VIEW

GROUPINGS: Mapping[str, Grouping] = {"tiles": ByImage(4), "sniper_no_negatives": ByImage(1)}
"""How views are grouped into batches, by strategy: see ``data`` in ``conf/strategy``. The others have `ByLevel`."""

BATCH = (0.6, 8)
"""Pixels of a training batch in millions, and its maximum number of views: many small steps learn more from scratch
than few large ones."""

TESTED_AT_ONCE = (3.0, 8)
"""Pixels of a batch of inference in millions, and its maximum number of views."""


class Pass(NamedTuple):
    """Views of one pass over the images, mean per image."""

    views: float
    megapixels: float
    """Their pixels without padding, in millions."""
    largest: float
    """Pixels of the largest of them, in millions."""
    resized: float
    """Pixels of the windows that are resized, in millions."""
    decoded: float
    """How often an image is decoded in the first pass."""
    again: float
    """How often an image is decoded in a later pass: some are kept in memory."""


class Cost(NamedTuple):
    """The two passes of a strategy."""

    train: Pass
    """An epoch of training."""
    test: Pass
    """Inference."""


def epoch_costs(
    store: AnnotationStore, settings: Mapping[str, Any], factor: float, reader: Reader, seed: int = 0
) -> dict[str, Cost]:
    """Plans an epoch of each strategy on a sample of the images.

    Args:
        store: annotations of at least one image.
        settings: suggested keys of ``dataset``.
        factor: scale by which tiles are cut.
        reader: how images are read.
        seed: of the sample and the views.

    Returns:
        Costs by strategy: ``single_scale`` ``multi_scale`` ``tiles`` ``snip`` ``sniper_no_negatives``. Without
        ``multi_scale`` if a view would be too large for it.
    """
    images = len(store)
    store = sample(store, seed, SAMPLE)
    reader = reader._replace(room=reader.room * len(store) // images)
    sniper, snip, tiles = settings["sniper"], settings["snip"], settings["tiles"]
    single, pyramid = Pyramid([settings["resolution"]]), Pyramid(settings["pyramid"])
    cut = Planner(Pyramid([factor]), Tiles(tiles["size"], tiles["overlap"], whole=True))
    chip = Chips(sniper["size"], sniper["stride"], min_side=sniper["min_side"])
    chips = Planner(Pyramid(sniper["scales"], sniper["valid_ranges"]), chip)
    windows = Planner(Pyramid(settings["pyramid"], snip["valid_ranges"]), SubImages(snip["sub_image"]))
    tested = Planner(Pyramid(sniper["pyramid"]), LargeViews())
    planners = {
        "single_scale": (Planner(single), Planner(single)),
        "multi_scale": (Planner(Pyramid(settings["pyramid"], draw="one")), Planner(single)),
        "tiles": (cut, cut),
        "snip": (windows, Planner(pyramid, LargeViews())),
        "sniper_no_negatives": (chips, tested),
    }
    if 1e6 * _largest(plan_epoch(store, Planner(pyramid), None, rendered=False)) > LARGEST_VIEW:
        del planners["multi_scale"]
    return {
        name: Cost(
            _training(store, train, GROUPINGS.get(name, ByLevel()), reader, seed), _inference(store, test, reader)
        )
        for name, (train, test) in planners.items()
    }


def object_tiles(store: AnnotationStore, settings: Mapping[str, Any], factor: float, seed: int = 0) -> float:
    """Computes the share of the tiles that show a part of a box; arguments as in `epoch_costs`."""
    store = sample(store, seed, SAMPLE)
    side, overlap = settings["tiles"]["size"], settings["tiles"]["overlap"]
    counts = [
        len(plan_epoch(store, Planner(Pyramid([factor]), Tiles(side, overlap, background)), seed, rendered=False))
        for background in (0.0, 1.0)
    ]
    return counts[0] / max(1, counts[1])


def batch_size(largest: float, limits: tuple[float, int]) -> int:
    """Chooses the number of views in a batch.

    Args:
        largest: pixels of the largest view, in millions.
        limits: `BATCH` or `TESTED_AT_ONCE`.
    """
    return int(np.clip(limits[0] // max(1e-6, largest), 1, limits[1]))


def _training(store: AnnotationStore, planner: Planner, grouping: Grouping, reader: Reader, seed: int) -> Pass:
    looks = plan_epoch(store, planner, seed, rendered=False)
    size = batch_size(_largest(looks), BATCH)
    rng = np.random.default_rng(seed)
    return _summary(store, looks, [grouping(looks, size, rng) if looks else [] for _ in range(2)], reader)


def _inference(store: AnnotationStore, planner: Planner, reader: Reader) -> Pass:
    looks = plan_epoch(store, planner, None, rendered=False)
    batches = similar_together(looks, Limits(batch_size(_largest(looks), TESTED_AT_ONCE)))
    return _summary(store, looks, [batches, batches], reader)


def _largest(looks: Sequence[Look]) -> float:
    return max((look.view.size[0] * look.view.size[1] / 1e6 for look in looks), default=0.0)


def _summary(store: AnnotationStore, looks: Sequence[Look], passes: Sequence[list[list[Look]]], reader: Reader) -> Pass:
    windows = np.array([look.view.window for look in looks], float).reshape(-1, 4)
    sizes = np.array([look.view.size for look in looks], float).reshape(-1, 2)
    spans = (windows[:, 2:] - windows[:, :2])[:, ::-1]
    resized = spans.prod(axis=1)[(spans != sizes).any(axis=1)].sum()
    decoded = count_decoding(store, passes, reader)
    sums = (len(looks), sizes.prod(axis=1).sum() / 1e6, resized / 1e6, *decoded)
    views, megapixels, moved, first, again = (float(total) / len(store) for total in sums)
    return Pass(views, megapixels, _largest(looks), moved, first, again)
