"""Writes checkpoints atomically, and often enough to resume from, and reads them as plain data only."""

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
from lightning_det.protocols.structures import Batch
from lightning_det.system.errors import UserError
from lightning_det.system.files import atomic_write

NEXT = ".part"
"""Suffix of a checkpoint whose step has not been logged yet."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint completely or not at all, and unpickles only tensors and plain data."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint, and replaces the old file when the new one is completely on disk.

        Raises:
            UserError: the file cannot be written. The old one is kept.
        """
        file = Path(path)
        content = BytesIO()  # torch's own writer does not say why a file cannot be written
        torch.save(checkpoint, content)
        try:
            with atomic_write(file, "wb") as stream:
                stream.write(content.getbuffer())
        except OSError as error:
            file = file.with_name(file.name.removesuffix(NEXT))
            kept = "the last one that was written is complete" if file.exists() else "there is none yet"
            raise UserError(
                f"{file}: the checkpoint cannot be written ({error.strerror}); {kept}. Make room or choose another "
                "folder, and go on with resume=RUN_FOLDER"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads a checkpoint, see `read_checkpoint`.

        Raises:
            UserError: the file is not a checkpoint of this package, or is damaged.
        """
        return read_checkpoint(Path(path), map_location)


class LastCheckpoint(Checkpoint):
    """Keeps the state of the training in one file, from which an interrupted run can be resumed.

    It is written at the end of every epoch and within an epoch after a number of optimizer steps. It is never written
    within an accumulation window, because checkpoints do not hold gradients.

    Lightning logs a step or an epoch after the callbacks at its end. So the checkpoint is written to a temporary file,
    which replaces the old one when the step is logged. A run that is killed in between resumes from the old checkpoint,
    and its log has every row. If a validation follows a step, the step is saved again after the validation: otherwise
    the resumed run would skip the validation.

    Args:
        dirpath: folder of the file.
        filename: name of the file without ``.ckpt``.
        every_n_train_steps: optimizer steps between two checkpoints within an epoch; None for none.
    """

    def __init__(self, dirpath: str, filename: str = "last", every_n_train_steps: int | None = 1000):
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be at least 1, or null, got {every_n_train_steps}")
        self.file = Path(dirpath) / f"{filename}.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._saved = 0
        self._unlogged: Any = None  # progress of the loop whose end was saved but not logged yet
        self._saves_again = False  # save again after the current validation

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes unfinished checkpoints of an interrupted run."""
        self._saved = trainer.global_step  # a resumed run does not save its start again
        if trainer.is_global_zero:
            for part in self.file.parent.glob(f"*{NEXT}"):
                part.unlink()
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                logger.after_row = partial(self._publish, trainer, trainer.fit_loop.epoch_progress)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Saves if it is due. The last batch of an epoch is saved at the end of the epoch."""
        if self.every_n_train_steps is None or batch_idx + 1 >= trainer.num_training_batches:
            return
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step - self._saved >= self.every_n_train_steps:
            self._save(trainer, trainer.fit_loop.epoch_loop.batch_progress)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Publishes: the saved step has been logged."""
        self._publish(trainer, self._unlogged)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drops the unlogged checkpoint; the step is saved again after the validation."""
        self._saves_again, self._unlogged = self._unlogged is not None, None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves and publishes: the validation has been logged."""
        if self._saves_again:
            self._save(trainer, trainer.fit_loop.epoch_loop.batch_progress)
            self._publish(trainer, self._unlogged)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the end of the epoch."""
        self._save(trainer, trainer.fit_loop.epoch_progress)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Publishes: what was saved has been logged."""
        self._publish(trainer, self._unlogged)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Publishes: what was saved has been logged."""
        self._publish(trainer, self._unlogged)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Publishes if the saved step has been logged."""
        if self._unlogged is not None and self._unlogged.current.completed >= self._unlogged.current.processed:
            self._publish(trainer, self._unlogged)

    def _save(self, trainer: pl.Trainer, progress: Any) -> None:
        self._saved = trainer.global_step
        trainer.save_checkpoint(f"{self.file}{NEXT}", weights_only=False)  # with the optimizer's state
        self._unlogged = progress

    def _publish(self, trainer: pl.Trainer, progress: Any) -> None:
        """Replaces the old checkpoint by the one that was saved at the end of a loop.

        Args:
            trainer: of the run.
            progress: of the loop whose end is logged now.
        """
        if progress is None or self._unlogged is not progress:
            return
        if trainer.is_global_zero:
            os.replace(f"{self.file}{NEXT}", self.file)
        self._unlogged = None
