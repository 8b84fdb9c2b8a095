"""Plans the looks of an epoch, and groups them into batches."""

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.balance import Balance
from lightning_det.data.dataset import Look
from lightning_det.system.errors import ConfigError
from lightning_det.system.workload import progress, without_collections
from lightning_det.views.planner import LARGEST_VIEW, Planner
from lightning_det.views.view import View

log = logging.getLogger("lightning_det")

TOGETHER = 256
"""Images whose views are planned together: steps that plan many at once make few calls for them."""

REPEATED = 1.5
"""An epoch that shows more than this many times its views, because its batches are filled up, is worth a warning."""


def plan_epoch(
    store: AnnotationStore,
    planner: Planner,
    seed: int | None,
    epoch: int = 0,
    rendered: bool = True,
    balance: Balance | None = None,
) -> list[Look]:
    """Plans all looks of one epoch, image by image.

    Every image has its own generator, seeded by (seed, epoch, image): its views depend neither on the process that
    plans them nor on the other images.

    Args:
        store: annotations.
        planner: makes each image's views.
        seed: of training; None plans for inference.
        epoch: number of the epoch.
        rendered: whether the views will be rendered; False if they are only counted.
        balance: repeats some views, at the end of the list; only in training.

    Raises:
        ConfigError: a view that will be rendered is larger than `LARGEST_VIEW`.
    """
    looks = []
    planner = planner if seed is None else planner.at(epoch)
    firsts = range(0, len(store), TOGETHER)
    with without_collections():
        for first in progress(firsts, "planning views", len(firsts), threshold=20_000 // TOGETHER):
            images = range(first, min(first + TOGETHER, len(store)))
            rngs = [None] * len(images) if seed is None else generators(seed, epoch, images)
            for image, views in zip(images, planner.many([store.record(i) for i in images], rngs), strict=True):
                if rendered:
                    _check_size(store, image, views)
                looks += [Look(image, view) for view in views]
    if balance is not None and seed is not None:
        further = balance.repeat(store, planner, looks, seed, epoch)
        for look in further if rendered else ():
            _check_size(store, look.image, [look.view])
        looks += further
    return looks


def generators(seed: int, epoch: int, images: Sequence[int]) -> list[np.random.Generator]:
    """The generator of each image in an epoch of training, seeded by (seed, epoch, image)."""
    # Arrays of this type take three quarters of the time of tuples, and seed alike.
    seeds = np.array([(seed, epoch, image) for image in images], np.uint32)
    return [np.random.default_rng(row) for row in seeds]


def _check_size(store: AnnotationStore, image: int, views: Sequence[View]) -> None:
    """Refuses views that do not fit into memory."""
    height, width = max((view.size for view in views), key=lambda size: size[0] * size[1], default=(0, 0))
    if height * width > LARGEST_VIEW:
        raise ConfigError(
            f"{store.files[image]} ({store.widths[image]} x {store.heights[image]}) would be seen as one view of "
            f"{width} x {height} pixels; lower the resolution of these views (dataset.resolution, dataset.pyramid, "
            "dataset.sniper, or the sizes in views), or cut them: strategy=tiles in training, test=[tiles] at inference"
        )


class Grouping(ABC):
    """Groups the looks of an epoch into batches."""

    together: int | None = None
    """Maximum number of looks at one image in a batch, for which it is decoded only once; None: the grouping does not
    depend on the image."""

    @abstractmethod
    def __call__(self, looks: Sequence[Look], size: int, rng: np.random.Generator) -> list[list[Look]]:
        """Makes full batches that contain every look; some looks occur twice to fill the last batches.

        Args:
            looks: of the epoch.
            size: looks per batch.
            rng: generator of the epoch.
        """


class ByLevel(Grouping):
    """Batches of one pyramid level each, for views of any shape (SNIP, figure 6).

    Looks of equal orientation share a batch as far as possible, which saves padding.

    Args:
        same_pixels: the batch size applies to the level with the largest views; batches of coarser levels have more
            views, with as many pixels in total.
    """

    def __init__(self, same_pixels: bool = False):
        self.same_pixels = same_pixels

    def __call__(self, looks: Sequence[Look], size: int, rng: np.random.Generator) -> list[list[Look]]:
        """Makes the batches."""
        groups: dict[tuple[int, bool], list[Look]] = defaultdict(list)
        for position in rng.permutation(len(looks)):
            look = looks[position]
            height, width = look.view.size
            groups[look.view.level, height > width].append(look)
        sizes = self._sizes(looks, size)
        batches: list[list[Look]] = []
        remainders: dict[int, list[Look]] = defaultdict(list)
        for (level, _), group in groups.items():
            step = sizes[level]
            full = len(group) - len(group) % step
            batches += [group[i : i + step] for i in range(0, full, step)]
            remainders[level] += group[full:]
        for level, rest in remainders.items():
            pool = [look for look in looks if look.view.level == level]
            batches += _fill([[look] for look in rest], pool, sizes[level], rng)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _sizes(self, looks: Sequence[Look], size: int) -> dict[int, int]:
        """Views per batch of each level."""
        if not self.same_pixels:
            return defaultdict(lambda: size)
        pixels: dict[int, list[int]] = defaultdict(list)
        for look in looks:
            pixels[look.view.level].append(look.view.size[0] * look.view.size[1])
        means = {level: float(np.mean(values)) for level, values in pixels.items()}
        most = max(means.values(), default=1.0)
        return {level: round(size * most / mean) for level, mean in means.items()}


class ByImage(Grouping):
    """Batches of views of one shape, whatever their level: chips and tiles.

    Args:
        together: see `Grouping`. A higher number reads faster and makes batches less varied: from scratch, four chips
            of an image in a batch of 42 cost SNIPER 4 to 8 AP (one seed, docs/claims.md).
    """

    def __init__(self, together: int):
        if together < 1:
            raise ValueError(f"data.together must be at least 1, got {together}")
        self.together: int = together

    def __call__(self, looks: Sequence[Look], size: int, rng: np.random.Generator) -> list[list[Look]]:
        """Makes the batches."""
        per_image: dict[int, list[Look]] = defaultdict(list)
        for position in rng.permutation(len(looks)):
            per_image[looks[position].image].append(looks[position])
        step = min(self.together, size)
        bundles = [views[i : i + step] for views in per_image.values() for i in range(0, len(views), step)]
        batches = _pack([bundles[i] for i in rng.permutation(len(bundles))], looks, size, rng)
        return [batches[i] for i in rng.permutation(len(batches))]


def _pack(bundles: Sequence[list[Look]], pool: Sequence[Look], size: int, rng: np.random.Generator) -> list[list[Look]]:
    """Packs whole bundles into full batches: largest bundle first, each into the fullest batch with room for it.

    Bundles in batches that remain incomplete are split.
    """
    by_room: dict[int, list[list[Look]]] = defaultdict(list)
    for bundle in sorted(bundles, key=len, reverse=True):
        room = next((r for r in range(len(bundle), size) if by_room[r]), None)
        batch = [] if room is None else by_room[room].pop()
        batch += bundle
        by_room[size - len(batch)].append(batch)
    full = by_room.pop(0, [])
    return full + _fill([b for batches in by_room.values() for b in batches], pool, size, rng)


def _fill(
    bundles: Sequence[Sequence[Look]], pool: Sequence[Look], size: int, rng: np.random.Generator
) -> list[list[Look]]:
    """Cuts the bundles' looks, in order, into full batches; fills the last one with looks drawn from ``pool``."""
    row = [look for bundle in bundles for look in bundle]
    missing = -len(row) % size
    row += [pool[i] for i in rng.choice(len(pool), missing, replace=missing > len(pool))] if missing else []
    return [row[i : i + size] for i in range(0, len(row), size)]


class TrainBatches(Sampler[list[Look]]):
    """Batches of an epoch for one rank: the same number on every rank.

    Args:
        store: annotations.
        planner: makes each image's views.
        batch_size: looks per batch and rank.
        grouping: decides which looks share a batch.
        seed: seed of the run.
        epoch: returns the number of the current epoch, on which the plan depends.
        rank: rank of this process.
        ranks: number of processes that share the epoch.
        accumulate: batches per optimizer step. Some batches are repeated, so that their number is a multiple of
            ranks x accumulate. Then all ranks get the same number, and no accumulation window is incomplete;
            Lightning would not scale the loss of an incomplete one.
        balance: repeats views of rare classes.
    """

    def __init__(
        self,
        store: AnnotationStore,
        planner: Planner,
        batch_size: int,
        grouping: Grouping,
        seed: int,
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        ranks: int = 1,
        accumulate: int = 1,
        balance: Balance | None = None,
    ):
        self.store = store
        self.planner = planner
        self.batch_size = batch_size
        self.grouping = grouping
        self.seed = seed
        self.epoch = epoch
        self.rank = rank
        self.ranks = ranks
        self.accumulate = accumulate
        self.balance = balance
        self._planned: tuple[int, list[list[Look]]] | None = None
        self._start = (-1, 0)

    def start_at(self, epoch: int, done: int) -> None:
        """Skips the first batches of one epoch, which a resumed run has already done."""
        self._start = (epoch, done)

    def batches(self) -> list[list[Look]]:
        """The current epoch's batches of this rank."""
        epoch = self.epoch()
        if self._planned is None or self._planned[0] != epoch:
            looks = plan_epoch(self.store, self.planner, self.seed, epoch, balance=self.balance)
            # A separate generator: no image has this number.
            rng = np.random.default_rng((self.seed, epoch, len(self.store)))
            made = self.grouping(looks, self.batch_size, rng)
            made += [made[i % len(made)] for i in range(-len(made) % (self.ranks * self.accumulate))]
            if self._planned is None and self.rank == 0:
                self._report_repeated(len(looks), sum(map(len, made)))
            self._planned = (epoch, made[self.rank :: self.ranks])
        return self._planned[1]

    def _report_repeated(self, planned: int, shown: int) -> None:
        """Warns if much of an epoch is repetition."""
        if shown > REPEATED * planned:
            log.warning(
                "an epoch has %d views, but shows %d, because some are repeated to fill its batches and steps "
                "(%d views x %d devices x %d accumulated batches); a smaller data.batch_size repeats fewer",
                planned,
                shown,
                self.batch_size,
                self.ranks,
                self.accumulate,
            )

    def __iter__(self) -> Iterator[list[Look]]:
        epoch, done = self._start
        return iter(self.batches()[done if epoch == self.epoch() else 0 :])

    def __len__(self) -> int:
        return len(self.batches())
