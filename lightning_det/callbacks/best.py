"""The checkpoint with the best figure."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_det.callbacks.evaluation import is_undefined
from lightning_det.modules import keys


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which saves nothing after a validation whose ``monitor`` is undefined.

    While the AP is 0, because nothing is detected yet, the later of two checkpoints is kept.

    Args:
        **arguments: see Lightning.
    """

    @property
    def state_key(self) -> str:
        """The key of `ModelCheckpoint` itself, under which checkpoints of earlier versions keep the state."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves if the figure is defined, and if it is a validation's, after the first one."""
        validated = self.monitor in trainer.callback_metrics or not (self.monitor or "").startswith(keys.validation(""))
        if validated and not is_undefined(trainer, self.monitor):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves if the figure is defined."""
        if not is_undefined(trainer, self.monitor):
            super().on_validation_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether a checkpoint is kept. All ranks decide the same, because their figures are equal."""
        nothing_yet = self.mode == "max" and current is not None and current == 0 and self.best_model_score == 0
        return bool(nothing_yet) or super().check_monitor_top_k(trainer, current)
