"""One line per epoch that stays on the screen and in the log."""

import logging

import pytorch_lightning as pl
import torch

from lightning_det.callbacks.evaluation import is_undefined
from lightning_det.evaluation.coco import shown
from lightning_det.modules import keys

log = logging.getLogger("lightning_det")


class EpochSummary(pl.Callback):
    """Logs each epoch's mean training loss, as ``train/epoch_loss`` and, with the AP, in words.

    The mean is over all steps of the epoch; the progress bar and ``train/loss`` show single steps.

    Attributes:
        losses: mean loss of every epoch so far, of this rank; kept in checkpoints, with the mean of the current one.
    """

    def __init__(self):
        self.losses: list[float] = []
        self._sum = torch.zeros(())
        self._steps = 0
        self._figures: dict[str, float | None] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts a mean."""
        self._sum = torch.zeros(())
        self._steps = 0
        self._figures = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Adds a step, on the device: nothing waits for it."""
        self._sum = self._sum + outputs[keys.LOSS]
        self._steps += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the figures of this epoch's validation; in most epochs there may be none."""
        found = trainer.callback_metrics
        self._figures = {n: float(found[keys.validated(n)]) for n in ("AP", "AP50") if keys.validated(n) in found}
        if is_undefined(trainer, keys.validated("AP")):
            self._figures = {"AP": None}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says how the epoch went; its validation has already run."""
        # Not append: a run that goes on from the end of an epoch may end it a second time.
        self.losses[trainer.current_epoch :] = [float(self._sum) / max(1, self._steps)]
        pl_module.log(keys.EPOCH_LOSS, self.losses[-1])
        figures = {"loss": self.losses[-1]} | self._figures
        if trainer.is_global_zero:
            of = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
            words = ", ".join(f"{name} {shown(value)}" for name, value in figures.items())
            log.info("epoch %d%s: %s", trainer.current_epoch + 1, of, words)

    def state_dict(self) -> dict:
        """For checkpoints."""
        return {"losses": self.losses, "sum": float(self._sum), "steps": self._steps, "figures": self._figures}

    def load_state_dict(self, state_dict: dict) -> None:
        """Undoes `state_dict`."""
        self.losses = list(state_dict["losses"])
        self._sum, self._steps = torch.tensor(state_dict["sum"]), state_dict["steps"]
        self._figures = dict(state_dict["figures"])
