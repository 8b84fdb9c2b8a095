"""Trainings that go on: from every state that a kill can leave on the disk, and with other settings."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.trainer import call
from test_module import LABELS, Stub, data_of, ten, trainer_in

from lightning_det.callbacks import (
    CSVLog,
    EpochSummary,
    GoingOn,
    LastCheckpoint,
    StepSeeds,
    WeightAverage,
    WholeCheckpoints,
)
from lightning_det.callbacks import checkpoints as checkpoint_files
from lightning_det.data.coco import Coco
from lightning_det.modules import Cosine, MultiStep
from lightning_det.modules.module import DetectionModule


@pytest.fixture
def store(coco_folder):
    return ten(Coco(str(coco_folder)).read("train2017")[0])


class Learner(Stub):
    """A detector of one layer that learns something random, with a constant that floats hardly represent."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)
        self.register_buffer("constant", torch.tensor([0.485, 0.1, torch.inf]), persistent=False)

    def losses(self, batch):
        seen = torch.rand(3, 2) * batch.images.float().mean() / 255
        return {"one": self.layer(self.norm(seen)).square().mean()}


class Figure(pl.Callback):
    """A figure of the weights that are validated, in place of AP."""

    def on_validation_epoch_end(self, trainer, pl_module):
        detector = pl_module.detector
        pl_module.log(
            "val/AP", -(detector.layer.weight.abs().sum() + detector.constant[0] + detector.norm.running_var[0])
        )


def run(store, folder, resume=False, batch_size=2, optimizer=None, schedule=None, watch=None, **settings):
    """Trains in a folder; the trainer."""
    torch.manual_seed(0)
    places = {"dirpath": str(folder / "checkpoints")}
    callbacks = {
        "going_on": GoingOn(),
        "seeds": StepSeeds(0),
        "figure": Figure(),
        "summary": EpochSummary(),
        "rate": LearningRateMonitor("step"),
        "ema": WeightAverage(decay=0.9),
        "best": ModelCheckpoint(**places, filename="best", monitor="val/AP", mode="max", enable_version_counter=False),
        "last": LastCheckpoint(**places, every_n_train_steps=1),
    } | settings.pop("callbacks", {})
    make = optimizer or (lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1))
    module = DetectionModule(Learner(), LABELS, make, schedule or Cosine(), reference_batch=4)
    log = CSVLog(str(folder))
    settings = {"max_epochs": 3, "log_every_n_steps": 1, "enable_checkpointing": True} | settings
    trainer = trainer_in(folder, **settings, plugins=[WholeCheckpoints()])
    trainer.callbacks = trainer._callback_connector._reorder_callbacks([c for c in callbacks.values() if c is not None])
    trainer.loggers = [log]
    last = folder / "checkpoints/last.ckpt"
    with (watch or nothing)(folder, log):
        trainer.fit(module, datamodule=data_of(store, batch_size), ckpt_path=str(last) if resume else None)
    return trainer


@contextmanager
def nothing(*_):
    yield


def watched(states):
    """Keeps a copy of every state of the disk that a kill could leave."""

    @contextmanager
    def watch(folder, log):
        seen = set()

        def look():
            content = tuple((f.name, f.read_bytes()) for f in sorted(folder.rglob("*")) if f.is_file())
            if content not in seen and (folder / "checkpoints/last.ckpt").exists():
                seen.add(content)
                shutil.copytree(folder, states / str(len(seen)))

        with pytest.MonkeyPatch.context() as patch:
            for owner, name in (
                (call, "_call_callback_hooks"),
                (checkpoint_files, "torch.save"),
                (checkpoint_files, "os.replace"),
                (Path, "replace"),
                (log, "log_metrics"),
            ):
                *parents, name = name.split(".")
                for parent in parents:
                    owner = getattr(owner, parent)
                patch.setattr(owner, name, _then(getattr(owner, name), look))
            yield

    return watch


def _then(function, look):
    def both(*args, **arguments):
        result = function(*args, **arguments)
        look()
        return result

    return both


def content(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)


def assert_same(first, second):
    """Weights, averages, optimizer, rates and state of callbacks bit by bit, and the same log."""
    for name in ("last", "best"):
        one, two = content(first, name), content(second, name)
        for state in (one, two):
            state.pop("loops")
            for key, callback in state["callbacks"].items():
                if key.startswith("ModelCheckpoint"):
                    state["callbacks"][key] = {k: v for k, v in callback.items() if "score" in k or "value" in k}
        _assert_equal(one, two, name)
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()


def _assert_equal(one, two, path):
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            _assert_equal(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), path
        for number, pair in enumerate(zip(one, two, strict=True)):
            _assert_equal(*pair, f"{path}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    else:
        assert one == two, path


STOPPER = {"early": EarlyStopping("train/epoch_loss", min_delta=10.0, patience=2)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"val_check_interval": 2},
        {"accumulate_grad_batches": 2, "log_every_n_steps": 3, "val_check_interval": 0.5},
        {"max_epochs": -1, "max_steps": 13, "check_val_every_n_epoch": 2},
        {"callbacks": STOPPER, "max_epochs": 6},
    ],
    ids=["epochs", "validations within epochs", "accumulated", "steps", "stopped early"],
)
def test_every_state_of_the_disk_leads_to_the_same_end(store, tmp_path, settings):
    whole, states = tmp_path / "whole", tmp_path / "states"
    run(store, whole, watch=watched(states), **settings)
    folders = sorted(states.iterdir(), key=lambda f: int(f.name))
    assert len(folders) > 20
    for folder in folders:
        run(store, folder, resume=True, **settings)
        assert_same(whole, folder)
