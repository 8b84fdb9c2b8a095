"""An exponential moving average of the weights."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor


class WeightAverage(EMAWeightAveraging):
    """Lightning's `EMAWeightAveraging` of weights and of the statistics of normalisation.

    Lightning's own averages everything that floats: a constant that meets itself in ``d a + (1 - d) a`` changes by a
    rounding error every step, and a run that goes on begins with the constant as it was. Here what is equal stays as it
    is, and whole numbers are copied. Before the first average there is none: the weights are those of the last step,
    where Lightning validates and saves those from before the training.

    Args:
        decay: share of the average that stays at each update.
        update_every_n_steps: optimizer steps between two updates.
        update_starting_at_step: optimizer step of the first update.
        update_starting_at_epoch: from this epoch on, its end is an update, too.
        device: of the average; None takes that of the weights.
    """

    def __init__(
        self,
        decay: float = 0.998,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        device: str | None = None,
    ):
        if not 0 <= decay < 1:
            raise ValueError(f"decay is a share, at least 0 and below 1, got {decay}")
        if update_every_n_steps < 1 and update_starting_at_epoch is None:
            raise ValueError(f"update_every_n_steps={update_every_n_steps} leaves no update; it must be at least 1")
        super().__init__(
            device=device,
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
            update_starting_at_epoch=update_starting_at_epoch,
        )
        self.decay = decay
        self._kwargs["avg_fn"] = self._average
        self._begun = self._copies = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether the average takes in the weights of a step; until the first one it is these weights."""
        update = super().should_update(step_idx, epoch_idx)
        self._copies = not self._begun
        self._begun |= update
        return update or (step_idx is not None and self._copies)

    def _average(self, average: Tensor, now: Tensor, updates: Tensor) -> Tensor:
        if self._copies or not average.is_floating_point():
            return now
        return torch.where(average == now, now, average.lerp(now, 1 - self.decay))

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Loads the average; those of earlier versions began with the first step."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._begun = "averaging_state" in checkpoint

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return super().state_dict() | {"begun": self._begun, "latest_update_epoch": self._latest_update_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undoes `state_dict`."""
        super().load_state_dict(state_dict)
        self._begun, self._latest_update_epoch = state_dict["begun"], state_dict["latest_update_epoch"]
