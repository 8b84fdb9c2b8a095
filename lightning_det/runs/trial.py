"""Training steps with the largest batches of an epoch, to find out how much memory they take."""

from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_det.annotations import AnnotationStore
from lightning_det.data.datamodule import ViewData
from lightning_det.data.dataset import Collate, Look, ViewDataset
from lightning_det.data.sampler import plan_epoch
from lightning_det.modules.module import DetectionModule
from lightning_det.protocols.structures import Batch

DRAWS = 3
"""Number of epochs whose views are looked at, because views may be random."""

FEW = 1000
"""In a dataset with more images, one epoch tells the largest views."""

RENDERED = 8
"""Most views of a batch that are rendered; the rest repeats them, because pixels do not change the memory."""


class Trial:
    """A module that is trained for a few steps and then thrown away.

    Args:
        module: with an optimizer.
        data: plans the views.
        store: images to learn from.
        trainer: has device and precision; it is not run.
    """

    def __init__(self, module: DetectionModule, data: ViewData, store: AnnotationStore, trainer: pl.Trainer):
        if module.optimizer is None:
            raise ValueError("a module without optimizer cannot be trained")
        self.device = trainer.strategy.root_device
        self.precision = trainer.precision_plugin
        self.precision.convert_module(module.to(self.device).train())
        self.detector = module.detector
        self.optimizer = module.optimizer(module.parameter_groups())
        self.data = data
        self.store = store
        self.dataset = ViewDataset(store, data.visibility["min_visible"], data.visibility["min_side"])
        numbers = range(DRAWS if len(store) < FEW else 1)
        epochs = [plan_epoch(store, data.train_views, data.seed, e, balance=data.balance) for e in numbers]
        self.views = len(epochs[0])
        """Number of views in an epoch."""
        self.looks = [look for looks in epochs for look in looks]

    def step(self, size: int) -> None:
        """Trains on a batch of a size, twice: the second step finds the optimizer's state in memory."""
        batch = self.largest_batch(size).to(self.device)
        for _ in range(2):
            self._loss(batch).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def kept_bytes(self, size: int) -> int:
        """Bytes of the tensors that a forward pass keeps for the backward pass, parameters included."""
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = self.largest_batch(size).to(self.device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self._loss(batch)
        del loss  # until here nothing that is kept is freed, so no address is used twice
        return sum(kept.values())

    def _loss(self, batch: Batch) -> Tensor:
        with self.precision.forward_context():
            return torch.stack(list(self.detector.losses(batch).values())).sum()

    def largest_batch(self, size: int) -> Batch:
        """The batch of an epoch with the most pixels, on the largest canvas that its views may share.

        Args:
            size: ``data.batch_size``.
        """
        batches = self.data.grouping(self.looks, size, np.random.default_rng(self.data.seed))
        canvases = {level: self._canvas(level) for level in {look.view.level for look in self.looks}}
        largest = max(batches, key=lambda batch: len(batch) * int(np.prod(canvases[batch[0].view.level])))
        level = largest[0].view.level
        boxes = np.diff(self.store.offsets)
        crowded = max((look for look in self.looks if look.view.level == level), key=lambda look: boxes[look.image])
        samples = self.dataset.__getitems__([crowded, *largest[: RENDERED - 1]])
        return Collate(canvases[level])([samples[i % len(samples)] for i in range(len(largest))])

    def _canvas(self, level: int) -> tuple[int, int]:
        """Height and width in which all views of a level fit: a batch may mix upright and flat ones."""
        if self.data.train_views.canvas is not None:
            side = self.data.train_views.canvas
            return (side, side) if isinstance(side, int) else side
        return _largest_size([look for look in self.looks if look.view.level == level], self.data.canvas_step)


def _largest_size(looks: Sequence[Look], step: int) -> tuple[int, int]:
    """Height and width, multiples of ``step``, in which all views fit."""
    height, width = (max(sides) for sides in zip(*(look.view.size for look in looks), strict=True))
    return -(-height // step) * step, -(-width // step) * step
