"""Logs one line per epoch."""

import logging
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_det.callbacks.evaluation import is_undefined
from lightning_det.evaluation.figures import format_figure
from lightning_det.modules import keys
from lightning_det.protocols.structures import Batch

log = logging.getLogger("lightning_det")


class EpochSummary(pl.Callback):
    """Logs each epoch's mean training loss as ``train/epoch_loss``, and a line with the loss and the AP.

    The mean is over all steps of the epoch; the progress bar and ``train/loss`` show single steps.

    Attributes:
        losses: mean loss of every epoch so far, on this rank. Saved in checkpoints, with the sum of the current epoch.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._sum = torch.zeros(())
        self._steps = 0
        self._figures: dict[str, float | None] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the mean of an epoch."""
        self._sum = torch.zeros(())
        self._steps = 0
        self._figures = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Adds the loss of a step on the device, so the host does not wait."""
        self._sum = self._sum + outputs[keys.LOSS]
        self._steps += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the figures of a validation of this epoch, if there is one."""
        found = trainer.callback_metrics
        self._figures = {n: float(found[keys.validation(n)]) for n in ("AP", "AP50") if keys.validation(n) in found}
        if is_undefined(trainer, keys.validation("AP")):
            self._figures = {"AP": None}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the epoch, after its validation."""
        # Not append: a run that is resumed at the end of an epoch may end it a second time.
        self.losses[trainer.current_epoch :] = [float(self._sum) / max(1, self._steps)]
        pl_module.log(keys.EPOCH_LOSS, self.losses[-1])
        figures = {"loss": self.losses[-1]} | self._figures
        if trainer.is_global_zero:
            of = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
            words = ", ".join(f"{name} {format_figure(value)}" for name, value in figures.items())
            log.info("epoch %d%s: %s", trainer.current_epoch + 1, of, words)

    def state_dict(self) -> dict[str, Any]:
        """The state for checkpoints."""
        return {"losses": self.losses, "sum": float(self._sum), "steps": self._steps, "figures": self._figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state of a checkpoint."""
        self.losses = list(state_dict["losses"])
        self._sum, self._steps = torch.tensor(state_dict["sum"]), state_dict["steps"]
        self._figures = dict(state_dict["figures"])
