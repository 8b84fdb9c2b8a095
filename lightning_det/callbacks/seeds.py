"""Random numbers of a training step that do not depend on the steps before it."""

import numpy as np
import pytorch_lightning as pl
import torch


class StepSeeds(pl.Callback):
    """Seeds torch before each training batch by (seed, epoch, batch, rank).

    So a run that was interrupted draws the same samples and dropout masks as one that was not, wherever it goes on:
    the state of a generator belongs to its device and process, and would have to be kept for every rank.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        """Seeds the generators of all devices."""
        parts = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]))
