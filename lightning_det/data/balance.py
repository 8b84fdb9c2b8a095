"""Shows views of rare classes more often: repeat factor sampling (Gupta, Dollár and Girshick, CVPR 2019, LVIS)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.protocols.structures import State
from lightning_det.system.workload import progress
from lightning_det.views.planner import Planner
from lightning_det.views.targets import targets


def repeat_factors(counts: np.ndarray, views: int, threshold: float) -> np.ndarray:
    """Computes how often views of each class are shown, max(1, sqrt(t / f)) (appendix B.2).

    Args:
        counts: (K,) number of views with each class; a class without any has factor 1.
        views: number of all views.
        threshold: t, the share f of views from which a class is no longer rare.

    Returns:
        (K,) float64, at least 1.
    """
    shares = np.where(counts > 0, counts / max(1, views), 1.0)
    return np.maximum(1.0, np.sqrt(threshold / shares))


@dataclass(frozen=True)
class Balance:
    """Repeats views of rare classes. A view has the largest factor of the classes that are learned from it.

    What LVIS does with images is done with views, so chips and tiles of rare classes are repeated without the rest of
    their image; if every image is one view, both are the same. A repeated view is planned anew, so other random numbers
    flip, cut or scale it: the k-th further plan of an image keeps a view with probability ``factor - k``, at most 1.
    Over all plans, this rounds the factor stochastically.

    Raises:
        ValueError: ``threshold`` is not a share.
    """

    threshold: float
    """See `repeat_factors`."""
    min_visible: float = 0.5
    """See `targets`."""
    min_side: float = 1.0
    """See `targets`."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"data.repeat_threshold must be above 0 and at most 1, got {self.threshold}")

    def repeat(
        self, store: AnnotationStore, planner: Planner, looks: Sequence[Look], seed: int, epoch: int
    ) -> list[Look]:
        """Plans the repetitions of an epoch, which are added to its looks.

        They depend on the seed, the epoch and the store, and neither on the process nor on the number of ranks.

        Args:
            store: annotations.
            planner: that has made the looks, of this epoch.
            looks: of the epoch, every view once.
            seed: of the training.
            epoch: number of the epoch.
        """
        factors = repeat_factors(self.count(store, looks), len(looks), self.threshold)
        further = []
        for image, record in enumerate(store.records()):
            classes = np.unique(record.labels[~record.ignored])
            most = factors[classes].max(initial=1.0)
            for number in range(1, ceil(most)):
                rng = np.random.default_rng((seed, epoch, image, number))
                planned = [Look(image, view) for view in planner(record, rng)]
                draws = rng.random(len(planned))
                further += [
                    look
                    for look, draw in zip(planned, draws, strict=True)
                    if draw < factors[self._classes(store, look)].max(initial=1.0) - number
                ]
        return further

    def count(self, store: AnnotationStore, looks: Sequence[Look]) -> np.ndarray:
        """Counts the views that each class is learned from, by the detector proper: (K,) int64."""
        counts = np.zeros(len(store.label_map), np.int64)
        for look in progress(looks, "counting classes", len(looks), threshold=20_000):
            counts[self._classes(store, look)] += 1
        return counts

    def _classes(self, store: AnnotationStore, look: Look) -> np.ndarray:
        """(k,) int64, classes that are learned from a view, each once."""
        found = targets(store.record(look.image), look.view, self.min_visible, self.min_side)
        return np.unique(found.labels[found.states == State.VALID])
