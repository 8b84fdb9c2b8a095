"""Makes the random numbers of a training step independent of earlier steps."""

import numpy as np
import pytorch_lightning as pl
import torch

from lightning_det.protocols.structures import Batch


class StepSeeds(pl.Callback):
    """Seeds torch before each training batch by (seed, epoch, batch, rank).

    So a resumed run draws the same samples and dropout masks as an uninterrupted one, wherever it resumes. The
    alternative would be to save the state of a generator for every device of every rank.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seeds the generators of all devices."""
        parts = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]))
