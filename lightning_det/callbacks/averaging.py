"""An exponential moving average of the weights."""

import logging
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

log = logging.getLogger("lightning_det")


class WeightAverage(WeightAveraging):
    """An exponential moving average of the weights and of the statistics of normalisation layers.

    It differs from Lightning's `EMAWeightAveraging` in four points. It never waits for a GPU. Equal values are kept:
    with ``d a + (1 - d) a``, a constant would change by a rounding error at every step, but a resumed run starts with
    the original constant. Integers are copied. Before the first update, validations and checkpoints use the weights of
    the last step; Lightning's would use the initial weights of the training.

    Args:
        decay: share of the average that stays at each update.
        update_every_n_steps: optimizer steps between two updates.
        update_starting_at_step: optimizer step of the first update.
        update_starting_at_epoch: from this epoch on, the average is also updated at the end of each epoch.
        device: device of the average; None: the device of the weights.
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
        super().__init__(device=device)
        self.decay = decay
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch
        self._begun = False
        self._copies = False  # whether the current update copies the weights, because averaging has not begun
        self._last_epoch = -1  # last epoch whose end was an update; Lightning does not save it in checkpoints

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether a step or the end of an epoch updates the average. Before the first update it copies every step.

        Args:
            step_idx: of the last optimizer step, counted from 0; None at the end of an epoch.
            epoch_idx: of the last epoch, counted from 0; None after a step.
        """
        if epoch_idx is not None and epoch_idx <= self._last_epoch:
            return False
        update = self._is_due(step_idx, epoch_idx)
        if update and epoch_idx is not None:
            self._last_epoch = epoch_idx
        self._copies = not self._begun
        self._begun |= update
        return update or (step_idx is not None and self._copies)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the average into the module, and says if there is none."""
        super().on_train_end(trainer, pl_module)
        if not self._begun:
            log.warning(
                "ema: the training ended after %d steps, before the first update of the average, so the weights are "
                "those of the last step",
                trainer.global_step,
            )

    def _is_due(self, step: int | None, epoch: int | None) -> bool:
        """Whether the settings ask for an update."""
        if step is not None:
            begun = self.update_starting_at_step is None or step >= self.update_starting_at_step
            return begun and self.update_every_n_steps > 0 and step % self.update_every_n_steps == 0
        starts = self.update_starting_at_epoch
        return epoch is not None and starts is not None and epoch >= starts

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Makes the average; its own update asks the device for the number of updates, and so waits for it."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None:
            self._average_model.update_parameters = partial(self.update, self._average_model)  # type: ignore[method-assign]

    @torch.no_grad()
    def update(self, average: AveragedModel, model: nn.Module) -> None:
        """Moves an average towards a model, or copies the model before the first update."""
        averages: list[Tensor] = [*average.module.parameters()]
        parameters = [p.to(a.device) for a, p in zip(averages, model.parameters(), strict=True)]
        if self._copies:
            torch._foreach_copy_(averages, parameters)
        else:
            torch._foreach_lerp_(averages, parameters, 1 - self.decay)
        for mean, now in zip(average.module.buffers(), model.buffers(), strict=True):
            mean.copy_(self._average(mean, now.to(mean.device)))
        average.n_averaged += 1

    def _average(self, average: Tensor, now: Tensor) -> Tensor:
        """The next average of a buffer. Some hold infinity, which only stays if it is kept."""
        if self._copies or not average.is_floating_point():
            return now
        return torch.where(average == now, now, average.lerp(now, 1 - self.decay))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Loads the average. Checkpoints of earlier versions always had one."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._begun = "averaging_state" in checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The state for checkpoints."""
        return super().state_dict() | {"begun": self._begun, "latest_update_epoch": self._last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state of a checkpoint."""
        super().load_state_dict(state_dict)
        self._begun, self._last_epoch = state_dict["begun"], state_dict["latest_update_epoch"]
