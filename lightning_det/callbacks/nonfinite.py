"""Stops a run when a loss is infinite or NaN, and saves the batch."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_det.callbacks.access import train_store
from lightning_det.checkpoint.finite import find_nonfinite
from lightning_det.protocols.structures import Batch
from lightning_det.system.errors import UserError

REMEDIES = "Usual remedies: a lower optimizer.lr, a longer schedule.warmup, trainer.gradient_clip_val."


class NonFiniteLossError(UserError):
    """A loss or a weight is infinite or NaN."""


class StopOnNonFinite(pl.Callback):
    """Stops when the loss of a step is not finite, saves the batch and names its images.

    The losses are checked after the next step has been queued, so the device never waits for the host. At most one
    more step is taken with broken weights, and they are never saved: there is a check before every validation, at every
    end of an epoch, and of all weights before a checkpoint is written.

    Args:
        folder: for the file ``nonfinite-rankR.pt``, which ``torch.load`` reads.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self._last: tuple[int, dict[str, Tensor], Batch] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Checks the previous step."""
        self._check(trainer)
        self._last = (batch_idx, {k: v.detach() for k, v in outputs.items()}, batch)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the last step before its weights are evaluated."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the last step before its weights are saved."""
        self._check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Checks the last step, and all weights: a gradient may be NaN where the loss is not.

        Raises:
            NonFiniteLossError: the checkpoint is not written then.
        """
        self._check(trainer)
        if broken := find_nonfinite(checkpoint["state_dict"]):
            raise NonFiniteLossError(
                f"after step {trainer.global_step}, {broken} holds NaN or infinite values. Nothing is saved, and an "
                f"earlier checkpoint stays as it is. {REMEDIES}"
            )

    def _check(self, trainer: pl.Trainer) -> None:
        if self._last is None:
            return
        (batch_idx, outputs, batch), self._last = self._last, None
        if math.isfinite(outputs["loss"]):
            return
        store = train_store(trainer)
        names = [str(store.path(int(i))) for i in batch.index]
        losses = {name: float(value) for name, value in outputs.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"nonfinite-rank{trainer.global_rank}.pt"
        tensors = {f.name: getattr(batch, f.name).cpu() for f in fields(batch)}
        torch.save({"batch": tensors, "losses": losses, "images": names, "epoch": trainer.current_epoch}, file)
        table = "\n".join(f"  {name} = {value:g}" for name, value in losses.items())
        place = f"epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}"
        raise NonFiniteLossError(
            f"the loss became {losses['loss']:g} in {place}:\n{table}\n"
            f"images: {', '.join(names)}\n"
            f"The batch is in {file}. {REMEDIES}"
        )
