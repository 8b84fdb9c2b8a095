"""The checkpoint with the best figure, where there is one."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_det.callbacks.evaluation import is_undefined


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which takes no figure for a result that has nothing behind it.

    Nothing is saved after a validation that had nothing to measure for ``monitor``: the last checkpoint is all there
    is then. And as long as nothing has been found, an AP of 0, the later one of two checkpoints is kept.

    Args:
        **arguments: see Lightning.
    """

    @property
    def state_key(self) -> str:
        """Lightning's own: checkpoints of earlier versions have its state under it."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, if there is a figure."""
        if not is_undefined(trainer, self.monitor):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, if there is a figure."""
        if not is_undefined(trainer, self.monitor):
            super().on_validation_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether a checkpoint is to be kept, on all ranks alike: their figures are the same."""
        nothing_yet = self.mode == "max" and current is not None and current == 0 and self.best_model_score == 0
        return nothing_yet or super().check_monitor_top_k(trainer, current)
