"""Checkpoints that are whole, hold plain data only, and come often enough."""

import os
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lightning_det.callbacks.csv_log import CSVLog
from lightning_det.checkpoint import read_checkpoint
from lightning_det.system.errors import UserError
from lightning_det.system.files import atomic_write

NEXT = ".part"
"""Ends the name of a checkpoint that does not count yet."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint as a whole or not at all, and unpickles nothing but tensors and plain data."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replaces the file when all of the new one is on the disk.

        Raises:
            UserError: it cannot be written; an older one stays as it is.
        """
        file = Path(path)
        content = BytesIO()  # torch's own writer does not say why a file cannot be written
        torch.save(checkpoint, content)
        try:
            with atomic_write(file, "wb") as stream:
                stream.write(content.getbuffer())
        except OSError as error:
            file = file.with_name(file.name.removesuffix(NEXT))
            kept = "the last one that was written is whole" if file.exists() else "there is none yet"
            raise UserError(
                f"{file}: the checkpoint cannot be written ({error.strerror}); {kept}. Make room or choose another "
                "folder, and go on with resume=RUN_FOLDER"
            ) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> dict:
        """Reads a checkpoint, see `read_checkpoint`.

        Raises:
            UserError: it is none, or a damaged one.
        """
        return read_checkpoint(Path(path), map_location)


class LastCheckpoint(Checkpoint):
    """Keeps the state of the training in one file, from which an interrupted run goes on.

    It is written at the end of every epoch and, within one, after every so many optimizer steps; never within an
    accumulation window, whose gradients no checkpoint holds.

    Lightning logs a step or an epoch after the callbacks of its end. So the file takes its place only then: a run that
    is killed in between goes on from the one before, and its log has every row. A step that a validation follows is
    saved after that: Lightning would leave out the validation where a run goes on.

    Args:
        dirpath: its folder.
        filename: its name without ``.ckpt``.
        every_n_train_steps: optimizer steps between two checkpoints within an epoch; None for none.
    """

    def __init__(self, dirpath: str, filename: str = "last", every_n_train_steps: int | None = 1000):
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be at least 1, or null, got {every_n_train_steps}")
        self.file = Path(dirpath) / f"{filename}.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._saved = 0
        self._waits: Any = None  # progress of the loop whose end has been saved, until that is logged
        self._validates = False  # after a step that is to be saved

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes what an interruption left half-written."""
        self._saved = trainer.global_step  # a run that goes on needs no second checkpoint of where it begins
        if trainer.is_global_zero:
            for part in self.file.parent.glob(f"*{NEXT}"):
                part.unlink()
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                logger.after_row = partial(self._place, trainer, trainer.fit_loop.epoch_progress)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        """Saves, if it is time; after an epoch's last batch the end of the epoch does it."""
        if self.every_n_train_steps is None or batch_idx + 1 >= trainer.num_training_batches:
            return
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step - self._saved >= self.every_n_train_steps:
            self._save(trainer, trainer.fit_loop.epoch_loop.batch_progress)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module, batch, batch_idx: int) -> None:
        """What was saved has been logged."""
        self._place(trainer, self._waits)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step is saved once more."""
        self._validates, self._waits = self._waits is not None, None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves; the validation has been logged."""
        if self._validates:
            self._save(trainer, trainer.fit_loop.epoch_loop.batch_progress)
            self._place(trainer, self._waits)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves."""
        self._save(trainer, trainer.fit_loop.epoch_progress)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was saved has been logged."""
        self._place(trainer, self._waits)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was saved has been logged."""
        self._place(trainer, self._waits)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The last chance, if what was saved has been logged."""
        if self._waits is not None and self._waits.current.completed >= self._waits.current.processed:
            self._place(trainer, self._waits)

    def _save(self, trainer: pl.Trainer, progress: Any) -> None:
        self._saved = trainer.global_step
        trainer.save_checkpoint(f"{self.file}{NEXT}", weights_only=False)  # with the optimizer's state
        self._waits = progress

    def _place(self, trainer: pl.Trainer, progress: Any) -> None:
        """Lets what was saved at the end of a loop count."""
        if progress is None or self._waits is not progress:
            return
        if trainer.is_global_zero:
            os.replace(f"{self.file}{NEXT}", self.file)
        self._waits = None
