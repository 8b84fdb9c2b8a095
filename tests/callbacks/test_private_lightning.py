"""Private interfaces of Lightning that callbacks and runs rely on: a version that moves them fails here first."""

import inspect

import pytorch_lightning as pl
from lightning_fabric.strategies.launchers import subprocess_script
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.trainer.connectors.checkpoint_connector import _CheckpointConnector

from lightning_det.callbacks import BestCheckpoint, TrainingProgress, WeightAverage
from lightning_det.runs.continuation import LIGHTNING_RESTORERS
from lightning_det.system import interrupt


def test_functions_that_restore_a_training():
    assert set(dir(_CheckpointConnector)) >= LIGHTNING_RESTORERS


def test_processes_that_lightning_starts_are_marked(monkeypatch):
    mark = "hydra.job.name=train_ddp_process_"
    assert mark in inspect.getsource(subprocess_script)
    monkeypatch.setattr("sys.argv", ["train", f"{mark}1"])
    assert interrupt.is_started_by_lightning()


def test_the_progress_bar_asks_for_its_description():
    trainer = pl.Trainer(max_epochs=-1, logger=False, accelerator="cpu", enable_checkpointing=False)
    assert "self._get_train_description(" in inspect.getsource(RichProgressBar.on_train_epoch_start)
    bar = TrainingProgress()
    bar._trainer = trainer
    assert "-2" in RichProgressBar._get_train_description(bar, 3)
    assert bar._get_train_description(3).split() == ["epoch", "4"]


def test_keys_of_states():
    """Continuation and `KeepSettings` look states up by these keys in checkpoints."""
    stopping = EarlyStopping(monitor="val/AP", mode="max")
    assert stopping.state_key == "EarlyStopping{'monitor': 'val/AP', 'mode': 'max'}"
    best = ModelCheckpoint(monitor="val/AP", mode="max")
    assert best.state_key.startswith("ModelCheckpoint{'monitor': 'val/AP', 'mode': 'max'")
    assert BestCheckpoint(monitor="val/AP", mode="max").state_key == best.state_key


def test_entries_of_states():
    assert {"wait_count", "patience", "stopping_reason"} <= EarlyStopping(monitor="a").state_dict().keys()
    best = ("monitor", "dirpath", "best_k_models", "best_model_path", "best_model_score", "kth_best_model_path")
    assert {*best, "kth_value", "last_model_path"} <= ModelCheckpoint(monitor="a").state_dict().keys()
    assert {"latest_update_step"} <= WeightAverage().state_dict().keys()


def test_progress_of_loops():
    """`LastCheckpoint`, the progress bar and the checks of a resumed training read these counts."""
    trainer = pl.Trainer(max_epochs=1, logger=False, accelerator="cpu", enable_checkpointing=False)
    loop = trainer.fit_loop

    for progress in (loop.epoch_progress, loop.epoch_loop.batch_progress):
        assert progress.current.processed == progress.current.completed == 0
    assert loop.epoch_progress.state_dict()["current"]["processed"] == 0
