"""A loader of training batches with which a resumed run can start in the middle of an epoch."""

from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from lightning_det.data.sampler import TrainBatches


class TrainLoader(DataLoader):
    """Batches of an epoch. Checkpoints record how many of them are done, and a resumed run starts after these.

    If the number of ranks or of batches has changed, a resumed run trains on the remaining share of the epoch, rounded
    to whole accumulation windows.

    Lightning has no documented way to read or set the position in an epoch. The loader uses
    ``fit_loop.epoch_loop.batch_progress`` of the trainer, checked on Lightning 2.6; tests/data/test_loader.py fails if
    it changes.

    Attributes:
        batch_sampler: a `TrainBatches`.
        trainer: counts the batches that are done. The loader may have prefetched more.
    """

    batch_sampler: TrainBatches
    trainer: pl.Trainer

    def state_dict(self) -> dict[str, Any]:
        """State for checkpoints: ``epoch``, its number of ``batches``, and how many of them are ``done``."""
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"epoch": self.trainer.current_epoch, "done": done, "batches": int(self.trainer.num_training_batches)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Starts the epoch of a checkpoint after the batches that are done."""
        done, before = state_dict["done"], state_dict["batches"]
        # trainer.num_training_batches is not set yet for this epoch.
        limit = self.trainer.limit_train_batches
        now = min(len(self), limit) if isinstance(limit, int) else int(len(self) * limit)
        window = self.trainer.accumulate_grad_batches
        if now != before or done % window:
            done = done * now // before // window * window
            # Lightning saves checkpoints while a batch ends, when all counts but `completed` include it.
            counts = {"ready": done, "started": done, "processed": done, "completed": max(0, done - 1)}
            self.trainer.fit_loop.epoch_loop.batch_progress.current.load_state_dict(counts)
        self.batch_sampler.start_at(state_dict["epoch"], done)
