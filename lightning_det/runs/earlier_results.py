"""Removes the results of a run that goes on, because they are those of an earlier end."""

from pathlib import Path

import pytorch_lightning as pl

from lightning_det.evaluation.thresholds import THRESHOLDS
from lightning_det.runs.layout import METRICS


class EarlierResults(pl.Callback):
    """Removes figures and score thresholds of an earlier end when a training goes on beyond it.

    If it is interrupted then, other commands take it for unfinished, and not the old figures for those of its new
    options. A run that is resumed where nothing is left to train keeps them.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes the files. Where nothing is left to train, Lightning does not get here."""
        if trainer.is_global_zero:
            for name in (METRICS, THRESHOLDS):
                (self.folder / name).unlink(missing_ok=True)
