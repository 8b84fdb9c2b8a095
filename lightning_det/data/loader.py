"""A loader whose epoch a resumed run enters at the batch where it was interrupted."""

from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from lightning_det.data.sampler import TrainBatches


class TrainLoader(DataLoader):
    """Batches of an epoch; checkpoints keep how many are done, and a resumed run starts after them.

    A run that is resumed with another number of ranks, or other batches, does the rest of the epoch, as nearly as whole
    accumulation windows allow.

    Lightning does not document its counters of batches (``fit_loop.epoch_loop.batch_progress``). Checked with 2.6.6;
    ``test_lightning_counts_batches_as_the_loader_expects`` fails if they change.

    Attributes:
        batch_sampler: of the training.
        trainer: counts the batches that are done; the loader may have read ahead.
    """

    batch_sampler: TrainBatches
    trainer: pl.Trainer

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: ``epoch``, the number of its ``batches``, and how many of them are done."""
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"epoch": self.trainer.current_epoch, "done": done, "batches": int(self.trainer.num_training_batches)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lets the epoch of a checkpoint start after the batches that it has done."""
        done, before = state_dict["done"], state_dict["batches"]
        # Lightning has not yet counted this epoch's batches.
        limit = self.trainer.limit_train_batches
        now = min(len(self), limit) if isinstance(limit, int) else int(len(self) * limit)
        window = self.trainer.accumulate_grad_batches
        if now != before or done % window:
            done = done * now // before // window * window
            counted = self.trainer.fit_loop.epoch_loop.batch_progress.current
            # As Lightning keeps these counters while a batch ends. It declares the type of their base class.
            counted.ready = counted.started = counted.processed = done  # type: ignore[attr-defined]
            counted.completed = max(0, done - 1)
        self.batch_sampler.start_at(state_dict["epoch"], done)
