"""The interfaces of Lightning that the training loader relies on without a promise of theirs."""

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_det.data.loader import TrainLoader


class Epochs(list):
    """Stands for `TrainBatches`, with the same batches in every epoch."""

    def start_at(self, epoch, done):
        self.started = (epoch, done)


class Watcher(pl.LightningModule):
    """Notes the state of the loader, and Lightning's counts, while batches end."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.states, self.completed = [], []

    def training_step(self, batch, number):
        return self.layer(batch.float().reshape(-1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)

    def on_train_batch_end(self, *_):
        self.states.append(self.trainer.train_dataloader.state_dict())
        self.completed.append(self.trainer.fit_loop.epoch_loop.batch_progress.current.completed)


def make_trainer():
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", max_epochs=2, enable_model_summary=False, **quiet)


def make_loader(trainer):
    loader = TrainLoader(list(range(6)), batch_sampler=Epochs([[0, 1], [2, 3], [4, 5]]))
    loader.trainer = trainer
    return loader


def test_lightning_counts_a_batch_as_ready_before_it_is_completed():
    trainer, module = make_trainer(), Watcher()
    trainer.fit(module, make_loader(trainer))
    expected = [{"epoch": epoch, "done": done, "batches": 3} for epoch in range(2) for done in (1, 2, 3)]
    assert module.states == expected
    assert module.completed == [0, 1, 2] * 2  # what a resumed run sets it to


def test_the_counts_that_a_resumed_run_sets_are_all_that_lightning_has():
    trainer = make_trainer()
    loader = make_loader(trainer)
    loader.load_state_dict({"epoch": 1, "done": 2, "batches": 6})
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    assert current.state_dict() == {"ready": 1, "started": 1, "processed": 1, "completed": 0}
    assert loader.batch_sampler.started == (1, 1)
