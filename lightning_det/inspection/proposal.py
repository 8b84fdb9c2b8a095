"""Suggests settings for a dataset, and a strategy, from its annotations and the configured detector."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import numpy as np

from lightning_det.annotations import AnnotationStore
from lightning_det.data.anchors import suggested_ratios, suggested_sizes
from lightning_det.data.memory import Reader
from lightning_det.data.suggested_parts import suggest_cuts, suggest_proposals
from lightning_det.data.suggestion import SMALL, single_factor, size_seen, suggest
from lightning_det.data.trial import try_out
from lightning_det.detectors.reach import finest_stride
from lightning_det.inspection.costs import epoch_costs, object_tiles
from lightning_det.inspection.figures import Figures
from lightning_det.inspection.probe import Speed
from lightning_det.inspection.recommendation import Recommendation, recommend
from lightning_det.protocols.detector import Detector
from lightning_det.views.resolution import scale_factor

FEWEST = 0.001
"""Share of the chips below which a scale is left out: none of its objects needs it, or they are too thin there."""

STRIDE = 16.0
"""Assumed stride of a detector that cannot be built or has neither anchors nor points, pixels of the view per cell."""


@dataclass(frozen=True)
class Suggestion:
    """Settings for a dataset, how they were tried, and the recommended strategy."""

    dataset: dict[str, Any]
    """Suggested keys of ``dataset``."""
    tried: dict[str, Any]
    """Result of `try_out`."""
    figures: Figures
    recommended: Recommendation

    def to_dict(self) -> dict[str, Any]:
        """Json data: ``dataset``, ``images``, ``sniper``, ``snip``, ``figures`` and ``recommended``."""
        figures = asdict(self.figures)
        figures["costs"] = {
            name: {"train": cost.train._asdict(), "test": cost.test._asdict()}
            for name, cost in self.figures.costs.items()
        }
        figures["speed"] = None if self.figures.speed is None else self.figures.speed._asdict()
        return {"dataset": self.dataset, **self.tried, "figures": figures, "recommended": asdict(self.recommended)}


def make_suggestion(
    store: AnnotationStore,
    val_images: int,
    detector: Detector | None,
    count: int,
    speed: Speed | None,
    reader: Reader,
    seed: int,
) -> Suggestion | None:
    """Suggests settings and a strategy.

    Args:
        store: annotations to learn from.
        val_images: number of images to validate on.
        detector: for which settings are suggested; None if it cannot be built.
        count: number of anchor sizes.
        speed: of training the detector; None if it is not known.
        reader: how a training reads its images.
        seed: of samples and views.

    Returns:
        The suggestion; None without boxes.
    """
    stride = (None if detector is None else finest_stride(detector)) or STRIDE
    sizes = _sizes(store)
    found, tried = _suggest_and_try(store, stride, seed)
    if found is None or tried is None:
        return None
    long = float(np.median(np.maximum(store.widths, store.heights)))
    factor = single_factor(sizes, long, stride, _thin(store))
    settings = {key: found[key] for key in ("resolution", "pyramid")} | _fitted(store, found, detector, count, seed)
    settings |= found
    unlearned = tried["sniper"]["boxes_share_of_none"]
    figures = measure_figures(store, settings, stride, factor, unlearned, val_images, speed, reader, seed)
    return Suggestion(settings, tried, figures, recommend(figures))


def _suggest_and_try(
    store: AnnotationStore, stride: float, seed: int
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Suggests scales, without those that get hardly any chips in a sample of the images, and tries them."""
    labels = store.labels[~store.ignored].astype(np.int64)
    given = (_sizes(store), store.widths, store.heights, stride, _thin(store), labels)
    found = suggest(*given)
    if found is None:
        return None, None
    tried = try_out(store, found, found["resolution"], seed)
    chips = np.array([level["chips_per_image"] for level in tried["sniper"]["levels"]])
    empty = np.flatnonzero(chips < FEWEST * chips.sum()).tolist()
    if empty:
        found = suggest(*given, without=empty)
        assert found is not None, "there are boxes"
        tried = try_out(store, found, found["resolution"], seed)
    return found, tried


def _fitted(
    store: AnnotationStore, found: Mapping[str, Any], detector: Detector | None, count: int, seed: int
) -> dict[str, Any]:
    """Suggests anchors, proposals and size cuts."""
    fitted: dict[str, Any] = {}
    if detector is not None and (anchors := suggested_sizes(store, found, detector, count, seed)):
        fitted["anchor_sizes"] = anchors
        if ratios := suggested_ratios(store, found, detector, anchors, seed):
            fitted["anchor_ratios"] = ratios
    finest = found["sniper"]["pyramid"][0]
    factors = [scale_factor(int(w), int(h), finest) for w, h in zip(store.widths, store.heights, strict=True)]
    megapixels = np.square(factors) * store.widths * store.heights / 1e6
    proposals = suggest_proposals(_counts(store), megapixels)
    return fitted | {"proposals_per_megapixel": proposals, "size_cuts": suggest_cuts(_sizes(store))}


def measure_figures(
    store: AnnotationStore,
    settings: Mapping[str, Any],
    stride: float,
    factor: float,
    unlearned: float,
    val_images: int,
    speed: Speed | None,
    reader: Reader,
    seed: int,
) -> Figures:
    """Measures what a recommendation depends on; arguments as in `make_suggestion` and `Figures`."""
    areas = store.widths.astype(float) * store.heights
    counts, sizes = _counts(store), _sizes(store)
    long = np.repeat(np.maximum(store.widths, store.heights), counts)
    allowed = 100 * np.maximum(1.0, areas / 1e6)
    median = int(np.median(store.widths)), int(np.median(store.heights))
    return Figures(
        images=len(store),
        val_images=val_images,
        without_boxes=int((counts == 0).sum()),
        boxes_per_image=float(counts.mean()),
        crowd=float(np.percentile(counts / allowed, 95)),
        crowded=float(np.percentile(counts, 95)),
        object_share=min(1.0, float(np.square(sizes).sum() / areas.sum())),
        median_size=float(np.median(sizes)),
        small_size=float(np.percentile(sizes, SMALL)),
        relative_size=float(np.median(sizes / long)),
        seen=size_seen(stride),
        stride=stride,
        factor=round(factor, 2),
        single=scale_factor(*median, settings["resolution"]),
        finest=scale_factor(*median, settings["sniper"]["scales"][0]),
        unlearned=unlearned,
        scales=len(settings["pyramid"]),
        object_tiles=object_tiles(store, settings, factor, seed),
        costs=epoch_costs(store, settings, factor, reader, seed),
        speed=speed,
        workers=reader.workers,
    )


def _counts(store: AnnotationStore) -> np.ndarray:
    """Counts the boxes of each image that are not ignored: (m,) int."""
    image = np.repeat(np.arange(len(store)), np.diff(store.offsets))[~store.ignored]
    return np.bincount(image, minlength=len(store))


def _thin(store: AnnotationStore) -> float:
    """Computes the 10th percentile of the short sides of the boxes that are not ignored; infinite without boxes."""
    sides = (store.boxes[:, 2:] - store.boxes[:, :2])[~store.ignored].min(axis=1)
    return max(1e-3, float(np.percentile(sides, SMALL))) if len(sides) else inf


def _sizes(store: AnnotationStore) -> np.ndarray:
    """Computes sqrt(width * height) of the boxes that are not ignored: (n,) float64, pixels."""
    return np.sqrt((store.boxes[:, 2:] - store.boxes[:, :2])[~store.ignored].prod(axis=1))
