"""LightningDataModules: for whole images at several scales, and for chips or tiles of one size."""

import logging
from collections.abc import Callable
from copy import copy
from typing import Any, Literal, cast

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Sampler

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.balance import Balance
from lightning_det.data.dataset import Collate, Look, ViewDataset
from lightning_det.data.following import Follow, Follower
from lightning_det.data.inference_batches import InferenceBatches, Limits
from lightning_det.data.loader import TrainLoader
from lightning_det.data.memory import Reader, decoders, room_for
from lightning_det.data.sampler import ByImage, ByLevel, Grouping, TrainBatches
from lightning_det.data.windows import Pixels
from lightning_det.protocols.structures import STRIDE
from lightning_det.system.workload import cores
from lightning_det.views.planner import Planner

log = logging.getLogger(__name__)

MOST_WORKERS = 16
"""Loader processes, unless more are asked for: each takes memory, and time to start."""


class ViewData(pl.LightningDataModule):
    """Base of both data modules; use one of them.

    Args:
        train: images to learn from, or None where nothing is trained.
        val: images to detect objects in, or None.
        train_views: planner of the training views.
        test_views: planner of the views of inference.
        batch_size: training views per batch and device; ``auto`` stands for a number that is yet to be found, and
            makes no batches.
        test_batch_size: views per batch and device at inference.
        test_megapixels: see `Limits`; per batch and device at inference.
        num_workers: loader processes; None takes up to `MOST_WORKERS` of the cores that training leaves over, fewer if
            memory cannot hold an image for each.
        keep_megabytes: decoded images that the processes of a loader keep in memory; None: see `room_for`.
        min_visible: see `targets`.
        min_side: see `targets`.
        seed: of the views drawn in training.
        frames: see `ViewDataset`; of the images to detect objects in.
        repeat_threshold: of `Balance`; None repeats no views.
    """

    grouping: Grouping
    canvas_step: int = STRIDE
    """Sides of the canvases of training batches are multiples of this, unless all views fit one canvas."""

    def __init__(
        self,
        train: AnnotationStore | None,
        val: AnnotationStore | None,
        train_views: Planner,
        test_views: Planner,
        batch_size: int | Literal["auto"] = 8,
        test_batch_size: int = 8,
        test_megapixels: float | None = None,
        num_workers: int | None = None,
        keep_megabytes: float | None = None,
        min_visible: float = 0.5,
        min_side: float = 1.0,
        seed: int = 0,
        frames: Callable[[int], Pixels] | None = None,
        repeat_threshold: float | None = None,
    ):
        super().__init__()
        if (batch_size != "auto" and batch_size < 1) or test_batch_size < 1:
            raise ValueError(f"batch sizes must be at least 1, got {batch_size} and {test_batch_size}")
        self.train = train
        self.val = val
        self.train_views = train_views
        self.test_views = test_views
        self._batch_size = batch_size
        self.test_limits = Limits(test_batch_size, test_megapixels)
        self.num_workers = num_workers
        self.keep_megabytes = keep_megabytes
        self.visibility = {"min_visible": min_visible, "min_side": min_side}
        self.balance = None if repeat_threshold is None else Balance(repeat_threshold, min_visible, min_side)
        self.seed = seed
        self.frames = frames
        self._loaders: dict[str, DataLoader] = {}
        self._follow: Follow | None = None

    @property
    def batch_size(self) -> int:
        """Training views per batch and device.

        Raises:
            ValueError: it is ``auto``, and no number has been found yet.
        """
        if self._batch_size == "auto":
            raise ValueError("data.batch_size=auto: `lightning_det.train` and `mine` find a number before they train")
        return self._batch_size

    @property
    def _active_trainer(self) -> pl.Trainer:
        """The trainer that Lightning has attached the module to.

        Raises:
            RuntimeError: there is none yet.
        """
        if self.trainer is None:
            raise RuntimeError("the data module has no trainer yet; Trainer.fit, validate and predict attach theirs")
        return self.trainer

    def setup(self, stage: str) -> None:
        """Removes the loaders of another trainer.

        Raises:
            ValueError: the trainer would take every epoch to be as long as the first one.
        """
        every: int = self._active_trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]  # set by a connector
        if stage == "fit" and every != 1:
            raise ValueError("the trainer needs reload_dataloaders_every_n_epochs=1: epochs differ in length")
        self._loaders.clear()

    def teardown(self, stage: str) -> None:
        """Frees the decoded images that loaders and `follow` keep; Lightning may keep the loaders themselves."""
        self._follow = None
        for loader in self._loaders.values():
            cast(ViewDataset, loader.dataset).memory.clear()

    def train_dataloader(self) -> DataLoader:
        """Batches of the current epoch, whose views are planned anew.

        Epochs differ in their number of batches, and Lightning counts them only when it asks for the loader: it has to
        ask every epoch (``reload_dataloaders_every_n_epochs=1``), and gets the same loader, whose workers stay alive.
        """
        if "train" not in self._loaders:
            store, trainer = _require(self.train, "train"), self._active_trainer
            batches = TrainBatches(
                store,
                self.train_views,
                self.batch_size,
                self.grouping,
                self.seed,
                epoch=lambda: self._active_trainer.current_epoch,
                rank=trainer.global_rank,
                ranks=trainer.world_size,
                accumulate=trainer.accumulate_grad_batches,
                balance=self.balance,
            )
            reader = self.reader(store, trainer.num_devices)
            content = self._content(store, batches, self.train_views, room=reader.room, step=self.canvas_step)
            loader = TrainLoader(**content, **self._processes(reader))
            loader.trainer = trainer
            self._loaders["train"] = loader
        return self._loaders["train"]

    def epoch_loader(self, epoch: int) -> DataLoader:
        """Batches of an epoch of training, counted from 0, for a loop without a trainer; their views are planned anew.

        Args:
            epoch: decides, with the seed, which views are drawn.
        """
        store = _require(self.train, "train")
        plan = (store, self.train_views, self.batch_size, self.grouping, self.seed)
        batches = TrainBatches(*plan, epoch=lambda: epoch, balance=self.balance)
        workers, room = self.reader(store)
        content = self._content(store, batches, self.train_views, room=room, step=self.canvas_step)
        return DataLoader(**content, num_workers=workers)

    def num_train_batches(self) -> int:
        """Batches per epoch and rank."""
        return len(self.train_dataloader())

    def val_dataloader(self) -> DataLoader:
        """Every view of every image once."""
        if "val" not in self._loaders:
            store, trainer = _require(self.val, "val"), self._active_trainer
            reader = self.reader(store, trainer.num_devices)
            share = {"rank": trainer.global_rank, "ranks": trainer.world_size, "room": reader.room}
            self._loaders["val"] = self.inference_loader(store, self.frames, **share, **self._processes(reader))
            if shortage := cast(InferenceBatches, self._loaders["val"].batch_sampler).shortage:
                log.info("%s", shortage)
        return self._loaders["val"]

    predict_dataloader = val_dataloader

    def inference_loader(
        self,
        store: AnnotationStore,
        frames: Callable[[int], Pixels] | None = None,
        rank: int = 0,
        ranks: int = 1,
        room: int = 0,
        **processes: Any,
    ) -> DataLoader:
        """Every view of every image of a store once, with or without a trainer.

        Args:
            store: the images.
            frames: see `ViewDataset`.
            rank: see `InferenceBatches`.
            ranks: see `InferenceBatches`.
            room: see `ViewDataset`.
            **processes: arguments of the loader that change nothing about the batches.
        """
        batches = InferenceBatches(store, self.test_views, self.test_limits, rank, ranks)
        return DataLoader(**self._content(store, batches, self.test_views, frames, room), **processes)

    def reader(self, store: AnnotationStore, devices: int = 1) -> Reader:
        """How training reads the images of a store, where so many devices of this machine train."""
        workers = self.num_workers
        if workers is None:
            workers = min(max(0, min(MOST_WORKERS, cores() // devices - 2)), decoders(store, devices))
        return Reader(workers, room_for(store, self.keep_megabytes, max(1, workers), devices))

    @property
    def follow(self) -> Follow | None:
        """Makes the batches that follow those of `val_dataloader`; None if none do."""
        if self._follow is None:
            self._follow = self.follow_in(_require(self.val, "val"), self.frames)
        return self._follow

    def follow_in(self, store: AnnotationStore, frames: Callable[[int], Pixels] | None = None) -> Follow | None:
        """Makes the batches that follow those of `inference_loader`; None if none do.

        Args:
            store: the images.
            frames: see `ViewDataset`.
        """
        if not self.test_views.follows:
            return None
        own = copy(frames)  # the loader's may be further in a video
        return Follower(self.test_views, self.test_limits, ViewDataset(store, frames=own))

    def _content(
        self,
        store: AnnotationStore,
        batches: Sampler[list[Look]],
        planner: Planner,
        frames: Callable[[int], Pixels] | None = None,
        room: int = 0,
        step: int = STRIDE,
    ) -> dict[str, Any]:
        """Arguments of a loader that decide about its batches, and the bytes of images that it keeps."""
        return {
            "dataset": ViewDataset(store, **self.visibility, frames=frames, room=room),
            "batch_sampler": batches,
            "collate_fn": Collate(planner.canvas, step),
        }

    def _processes(self, reader: Reader) -> dict[str, Any]:
        """Arguments of a loader that decide how the batches are made."""
        return {
            "num_workers": reader.workers,
            "persistent_workers": reader.workers > 0,
            "pin_memory": self._active_trainer.strategy.root_device.type == "cuda",
        }


def _require(store: AnnotationStore | None, name: str) -> AnnotationStore:
    """The store of a split, or an error that names the split."""
    if store is None:
        raise ValueError(f"data: there are no images of {name}, so there are no batches of them")
    return store


class MultiScaleData(ViewData):
    """Whole images at one or several scales; the views of a training batch have one pyramid level.

    Args:
        same_pixels: see `ByLevel`.
        canvas_step: sides of the canvases of training batches are multiples of this. Larger ones make fewer shapes, for
            each of which ``module.compiled`` compiles anew, and more padding.
        **arguments: see `ViewData`.

    Raises:
        ValueError: the step is no multiple of the strides of feature maps.
    """

    def __init__(self, *args: Any, same_pixels: bool = False, canvas_step: int = STRIDE, **arguments: Any):
        super().__init__(*args, **arguments)
        if canvas_step < 1 or canvas_step % STRIDE:
            raise ValueError(f"data.canvas_step must be a multiple of {STRIDE}, got {canvas_step}")
        self.canvas_step = canvas_step
        self.grouping = ByLevel(same_pixels)


class ChipData(ViewData):
    """Chips or tiles: training views that all fit one square canvas.

    Args:
        together: see `ByImage`.
        **arguments: see `ViewData`.
    """

    def __init__(self, *args: Any, together: int = 1, **arguments: Any):
        super().__init__(*args, **arguments)
        if self.train_views.canvas is None:
            raise ValueError("data: ChipData needs training views of one size; whole images go into MultiScaleData")
        self.grouping = ByImage(together)
