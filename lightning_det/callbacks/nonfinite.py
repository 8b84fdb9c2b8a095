"""Losses that are no numbers end the run, with the evidence kept."""

import math
from dataclasses import fields
from pathlib import Path

import pytorch_lightning as pl
import torch

from lightning_det.system.errors import UserError


class NonFiniteLossError(UserError):
    """A loss became infinite or NaN."""


class StopOnNonFinite(pl.Callback):
    """Stops when a loss is not finite, saves the batch and names its images.

    The losses of a step are looked at after the next one has been queued, so the device never waits for the host;
    at most one more step is taken with broken weights, and none is saved: checkpoints come at the end of an epoch.

    Args:
        folder: where ``nonfinite-rankR.pt`` is written; load it with ``torch.load``.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self._last = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Checks the step before this one."""
        self._check(trainer)
        self._last = (batch_idx, {k: v.detach() for k, v in outputs.items()}, batch)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the last step before its weights are evaluated."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the last step before its weights are saved."""
        self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        if self._last is None:
            return
        (batch_idx, outputs, batch), self._last = self._last, None
        if math.isfinite(outputs["loss"]):
            return
        store = trainer.datamodule.train
        names = [str(store.path(int(i))) for i in batch.index]
        losses = {name: float(value) for name, value in outputs.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"nonfinite-rank{trainer.global_rank}.pt"
        tensors = {f.name: getattr(batch, f.name).cpu() for f in fields(batch)}
        torch.save({"batch": tensors, "losses": losses, "images": names, "epoch": trainer.current_epoch}, file)
        table = "\n".join(f"  {name} = {value:g}" for name, value in losses.items())
        raise NonFiniteLossError(
            f"the loss became {losses['loss']:g} in epoch {trainer.current_epoch}, batch {batch_idx}:\n{table}\n"
            f"images: {', '.join(names)}\n"
            f"The batch is in {file}. Usual remedies: a lower optimizer.lr, a longer schedule.warmup, "
            f"trainer.gradient_clip_val."
        )
