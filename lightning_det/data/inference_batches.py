"""Batches of inference: every view once, in batches that memory holds."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import inf
from typing import NamedTuple

from torch.utils.data import Sampler

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.sampler import plan_epoch
from lightning_det.views.planner import Planner


class Limits(NamedTuple):
    """The largest batch of inference.

    Args:
        views: maximum number of views.
        megapixels: maximum of all views together, padded to one shape; a view that has more is a batch of its own.
            None: no maximum.
    """

    views: int
    megapixels: float | None = None

    def allow(self, looks: Sequence[Look]) -> bool:
        """Whether these looks may share a batch."""
        heights, widths = zip(*(look.view.size for look in looks), strict=True)
        pixels = len(looks) * max(heights) * max(widths)
        return len(looks) <= self.views and pixels <= (inf if self.megapixels is None else self.megapixels * 1e6)


class InferenceBatches(Sampler[list[Look]]):
    """Every view of every image once, views of similar shape together; ranks share images, not views.

    A rank without images repeats the first view, since Lightning needs a batch on every rank. `Results.share` removes
    the detections of it.

    Args:
        store: annotations.
        planner: makes each image's views.
        limits: of a batch.
        rank: of this process.
        ranks: how many processes share the images.
    """

    def __init__(self, store: AnnotationStore, planner: Planner, limits: Limits, rank: int = 0, ranks: int = 1):
        everything = plan_epoch(store, planner, None)
        looks = [look for look in everything if look.image % ranks == rank] or everything[:1]
        self._batches = similar_together(looks, limits)
        self.limits = limits
        self.largest = max((look.view.size[0] * look.view.size[1] for look in looks), default=0) / 1e6
        """Pixels of the largest view, in millions."""

    def __iter__(self) -> Iterator[list[Look]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def shortage(self) -> str:
        """Says that views are so large that batches have fewer than ``limits.views``; empty if they are not."""
        most = self.limits.megapixels
        if most is None or self.limits.views * self.largest <= most:
            return ""
        fewest = max(1, int(most / self.largest))
        return (
            f"views of inference have up to {self.largest:.3g} megapixels, so batches of the largest have {fewest} "
            f"instead of data.test_batch_size={self.limits.views} (data.test_megapixels={most:g} limits them)"
        )


def similar_together(looks: Sequence[Look], limits: Limits) -> list[list[Look]]:
    """Groups looks into batches of at most ``limits``, views of similar shape together, images in order."""
    groups: dict[tuple, list[Look]] = defaultdict(list)
    for look in looks:
        groups[look.view.level, look.view.size].append(look)
    batches: list[list[Look]] = []
    for look in [look for _, group in sorted(groups.items()) for look in group]:
        last = batches[-1] if batches else []
        if last and _fit_together(last[0], look) and limits.allow([*last, look]):
            last.append(look)
        else:
            batches.append([look])
    return batches


def _fit_together(first: Look, second: Look) -> bool:
    """Whether two looks need little padding in one batch: same level, same orientation."""
    (h1, w1), (h2, w2) = first.view.size, second.view.size
    return first.view.level == second.view.level and (h1 > w1) == (h2 > w2)
