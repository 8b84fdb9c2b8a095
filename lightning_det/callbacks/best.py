"""The checkpoint with the best figure."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_det.callbacks.evaluation import is_undefined
from lightning_det.modules import keys

NAME = "best"
"""Name of the file, see `lightning_det.checkpoint.reading.checkpoint_file`."""


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which saves nothing after a validation whose ``monitor`` is undefined.

    While the AP is 0, because nothing is detected yet, the later of two checkpoints is kept.

    It keeps one file, ``best.ckpt``, which other commands read.

    Args:
        filename: ``best``, the only valid name.
        save_top_k: 1, or 0 to save nothing. More would all be one file, the last one saved.
        **arguments: see Lightning.
    """

    def __init__(self, filename: str = NAME, save_top_k: int = 1, **arguments: Any):
        if filename != NAME or save_top_k not in (0, 1):
            raise ValueError(
                f"filename={filename} and save_top_k={save_top_k} are not supported: commands read one {NAME}.ckpt per "
                "run. To keep other checkpoints too, add a callback: +callbacks.more._target_="
                "pytorch_lightning.callbacks.ModelCheckpoint +callbacks.more.save_top_k=3 and its other arguments"
            )
        super().__init__(filename=filename, save_top_k=save_top_k, **arguments)

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
