"""The progress bar."""

import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from lightning_det.protocols.structures import Batch


class TrainingProgress(RichProgressBar):
    """Lightning's progress bar with short names, and the remaining time of the training.

    Lightning itself only shows times of an epoch. The time left is estimated from the time per batch so far,
    validations included.
    """

    _start = 0.0
    _done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        self._start, self._done = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Counts a batch and updates the bar."""
        self._done += 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The figures logged with ``prog_bar=True`` by their short names, and the time left."""
        figures = super().get_metrics(trainer, pl_module)
        figures.pop("v_num", None)
        shown = {short(name): value for name, value in figures.items()}
        left = batches_left(trainer)
        if left and self._done:
            seconds = round((time.monotonic() - self._start) / self._done * left)
            shown["training left"] = str(timedelta(seconds=seconds))
        return shown

    def _get_train_description(self, current_epoch: int) -> str:
        """Returns Lightning's description, without its ``/-2`` for an unlimited number of epochs.

        A private method, checked with Lightning 2.6; `tests/callbacks/test_private_lightning.py` fails when it moves.
        """
        return super()._get_train_description(current_epoch).replace("/-2", "")


def short(name: str) -> str:
    """Shortens a figure's name for the progress bar: ``views/s`` for ``train/views_per_s``."""
    return name.removeprefix("train/").replace("_per_", "/").replace("_", " ")


def batches_left(trainer: pl.Trainer) -> int | None:
    """Counts remaining batches, if all epochs are as long as this one; None if epochs and steps are unlimited."""
    counts = []
    done = trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]  # its default
    epochs = trainer.max_epochs or 0
    if epochs > 0:
        counts.append((epochs - trainer.current_epoch) * trainer.num_training_batches - done)
    if trainer.max_steps > 0:
        counts.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
    return max(0, round(min(counts))) if counts else None
