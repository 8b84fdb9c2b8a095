"""Losses that explode without becoming NaN are reported once, with the layer whose activations grew."""

import logging

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from support.modules import LABELS, Stub, data_of, ten, trainer_in
from torch import nn

from lightning_det.callbacks import ReportExplosion
from lightning_det.callbacks.explosion import Meter, growth_in_words
from lightning_det.data.coco import Coco
from lightning_det.modules import Constant, DetectionModule


@pytest.fixture
def store(coco_folder):
    return Coco(str(coco_folder)).read("train2017")[0]


class Chain(Stub):
    """Three layers; the loss is their output, and the middle one may be blown up."""

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        for part in self.parts:
            nn.init.eye_(part.weight)
            nn.init.zeros_(part.bias)

    def losses(self, batch):
        return {"one": self.parts(torch.ones(2)).sum()}


class BlowUp(Callback):
    """Multiplies the middle layer before a batch, and fixes it before another one."""

    def __init__(self, begin, end=99, factor=1e8):
        self.begin, self.end, self.factor = begin, end, factor

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        with torch.no_grad():
            weight = pl_module.detector.parts[1].weight
            weight.mul_({self.begin: self.factor, self.end: 1 / self.factor}.get(trainer.global_step, 1.0))


def fit(store, folder, callbacks, module=None, **arguments):
    still = lambda groups: torch.optim.SGD(groups, lr=1e-30)  # noqa: E731
    module = module or DetectionModule(Chain(), LABELS, still, Constant())
    settings = {"log_every_n_steps": 2, "limit_val_batches": 0, "max_epochs": 2} | arguments
    trainer = trainer_in(folder, callbacks=callbacks, **settings)
    trainer.fit(module, datamodule=data_of(ten(store)))  # five batches an epoch
    return trainer


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "exploded" in r.getMessage()]


def test_an_explosion_is_reported_once_with_its_layer(store, tmp_path, caplog):
    fit(store, tmp_path, [BlowUp(2), ReportExplosion()])
    (said,) = warnings(caplog)
    assert "up to epoch 1, batch 4 it reached 2e+08; it began with 2" in said
    assert "1e+08 times in parts.1, to 1e+08. Usual remedies: a lower optimizer.lr" in said
    assert "parts.0" not in said


def test_a_peak_between_two_looks_is_seen_too(store, tmp_path, caplog):
    fit(store, tmp_path, [BlowUp(2, 3), ReportExplosion()])
    (said,) = warnings(caplog)
    assert "it reached 2e+08" in said
    assert "no layer have grown tenfold" in said


def test_an_explosion_in_the_last_step_is_reported_without_a_layer(store, tmp_path, caplog):
    fit(store, tmp_path, [BlowUp(9), ReportExplosion()])
    (said,) = warnings(caplog)
    assert "up to epoch 2 it reached 2e+08; it began with 2. Usual" in said


@pytest.mark.parametrize(("factor", "count"), [(1e5, 0), (1e7, 1)])
def test_losses_may_grow_a_little(store, tmp_path, caplog, factor, count):
    fit(store, tmp_path, [BlowUp(2, factor=factor), ReportExplosion()])
    assert len(warnings(caplog)) == count


def test_a_resumed_training_compares_with_the_first_step_and_reports_once(store, tmp_path, caplog):
    before, after, third = ReportExplosion(), ReportExplosion(), ReportExplosion()
    fit(store, tmp_path, [before], max_epochs=1)
    state = before.state_dict()
    assert state["loss"] == 2
    assert state["activations"] == {"parts.0": 1, "parts.1": 1, "parts.2": 1}
    after.load_state_dict(state)
    fit(store, tmp_path, [BlowUp(0), after], max_epochs=1)  # its own first step has exploded already
    assert "1e+08 times in parts.1" in warnings(caplog)[0]
    third.load_state_dict(after.state_dict())
    fit(store, tmp_path, [BlowUp(0), third], max_epochs=1)
    assert len(warnings(caplog)) == 1


def test_compiled_detectors_are_left_alone(store, tmp_path, caplog):
    module = DetectionModule(Chain(), LABELS, lambda groups: torch.optim.SGD(groups, lr=1e-30), Constant())
    module.compiled = True
    report = ReportExplosion()
    fit(store, tmp_path, [BlowUp(2), report], module)
    assert report.state_dict()["activations"] == {}
    assert warnings(caplog)[0].endswith(
        "it began with 2. Usual remedies: a lower optimizer.lr, a longer schedule.warmup, trainer.gradient_clip_val"
    )


def test_hooks_measure_the_largest_of_several_calls_and_go():
    network = nn.ModuleDict({"a": nn.Linear(1, 1, bias=False), "b": nn.Identity()})
    nn.init.constant_(network["a"].weight, -3)
    meter = Meter(network)
    for x in (2.0, 5.0, 1.0):
        network["a"](torch.tensor([x]))
    network["b"](torch.tensor([1, 2]))  # of integers
    meter.stop()
    network["a"](torch.tensor([100.0]))
    assert meter.read() == {"a": 15}
    assert not any(m._forward_hooks for m in network.modules())


def test_words_for_growth():
    before = {"a": 1.0, "b": 1.0, "c": 0.01}
    assert growth_in_words(before, {}) == ""
    assert growth_in_words({}, {"a": 9.0}) == ""
    both = "; activations grew since, 1e+04 times in b, to 1e+04 and 1e+08 times in c, to 1e+06"
    assert growth_in_words(before, {"a": 20.0, "b": 1e4, "c": 1e6}) == both
    assert "inf times in b, to nan" in growth_in_words(before, {"a": 1.0, "b": float("nan"), "c": 1e6})
