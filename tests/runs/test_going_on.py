"""Trainings that go on: from every state that a kill can leave on the disk, and with other settings."""

import csv
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.trainer import call
from support.modules import LABELS, Stub, data_of, ten, trainer_in
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel

from lightning_det.callbacks import (
    AtomicCheckpointIO,
    CSVLog,
    EpochSummary,
    KeepSettings,
    LastCheckpoint,
    StepSeeds,
    WeightAverage,
)
from lightning_det.callbacks import checkpoints as checkpoint_files
from lightning_det.data.coco import Coco
from lightning_det.modules import Cosine, MultiStep
from lightning_det.modules.module import DetectionModule
from lightning_det.runs.earlier_results import EarlierResults


@pytest.fixture
def store(coco_folder):
    return ten(Coco(str(coco_folder)).read("train2017")[0]).select(range(8))  # four batches of two


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
        "going_on": KeepSettings(),
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
    settings = {"max_epochs": 2, "log_every_n_steps": 1, "enable_checkpointing": True} | settings
    trainer = trainer_in(folder, **settings, plugins=[AtomicCheckpointIO()])
    trainer.fit_loop._iteration_based_training = lambda: False  # as build_trainer does
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
        last, before = folder / "checkpoints/last.ckpt", [None, None, False]

        def look():
            """Keeps the states before and after every change of the last checkpoint."""
            if not last.exists():
                return
            state = last.read_bytes(), {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
            if state[1] == before[1]:
                return
            number = len(list(states.glob("*")))
            if state[0] == before[0] and before[2]:
                number -= 1  # one later state of the same checkpoint is enough
                shutil.rmtree(states / str(number))
            shutil.copytree(folder, states / str(number))
            before[:] = [*state, state[0] == before[0]]

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
                    state["callbacks"][key] = {k: callback[k] for k in ("best_model_score", "kth_value")}
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"val_check_interval": 2},
        {"accumulate_grad_batches": 2, "log_every_n_steps": 3, "val_check_interval": 0.75},
        {"max_epochs": -1, "max_steps": 10, "check_val_every_n_epoch": 2},
        {"callbacks": {"early": EarlyStopping("train/epoch_loss", min_delta=10.0, patience=1)}, "max_epochs": 6},
    ],
    ids=["validations within epochs", "accumulated", "steps", "stopped early"],
)
def test_every_state_of_the_disk_leads_to_the_same_end(store, tmp_path, settings):
    whole, states = tmp_path / "whole", tmp_path / "states"
    states.mkdir()
    run(store, whole, watch=watched(states), **settings)
    folders = sorted(states.iterdir(), key=lambda f: int(f.name))
    assert len(folders) >= 6
    for folder in folders:
        run(store, folder, resume=True, **settings)
        assert_same(whole, folder)


def rates(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    (key, *_) = (name for name in rows[0] if name.startswith("lr"))
    return {int(row["step"]): float(row[key]) for row in rows if row[key]}


def test_an_optimizers_settings_are_those_given_now(store, tmp_path):
    run(store, tmp_path)
    before = content(tmp_path)["optimizer_states"][0]
    given = {"lr": 0.003, "weight_decay": 0.5, "betas": (0.8, 0.9), "eps": 1e-5}
    run(store, tmp_path, resume=True, optimizer=lambda groups: torch.optim.AdamW(groups, **given), max_epochs=3)
    after = content(tmp_path)["optimizer_states"][0]
    weights, vectors = after["param_groups"]
    assert {key: weights[key] for key in ("weight_decay", "betas", "eps")} == {
        k: v for k, v in given.items() if k != "lr"
    }
    assert vectors["weight_decay"] == 0
    assert weights["initial_lr"] == 0.003 * 2 / 4  # reference_batch
    assert after["state"][0]["step"] == before["state"][0]["step"] + 4  # its memory is the checkpoint's
    assert rates(tmp_path)[8] == pytest.approx(0.0015 * Cosine()(8, 4, 12))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "settings", "place"),
    [
        (Cosine(), {}, lambda step: (step + 4, 8, 24)),  # the first epoch would have had eight steps
        (Cosine(), {"max_steps": 12}, lambda step: (step + 4, 8, round((step + 4) * 12 / step))),  # a third is done
        (MultiStep([1.5]), {"max_steps": 12}, lambda step: (step + 4, 8, 16)),
        (MultiStep([6], unit="steps"), {}, lambda step: (step, 8, 20)),
        (Cosine(unit="steps"), {}, lambda step: (step, 8, 20)),
    ],
)
def test_a_schedule_goes_on_where_it_was_in_epochs_of_another_length(store, tmp_path, schedule, settings, place):
    """One of three epochs with four steps, two with eight."""
    run(store, tmp_path, schedule=schedule, max_epochs=1, optimizer=plain)
    trainer = run(
        store, tmp_path, resume=True, schedule=schedule, batch_size=1, max_epochs=3, optimizer=plain, **settings
    )
    full = 0.01 * 1 / 4
    for step in range(4, trainer.global_step):
        steps, per_epoch, total = place(step)
        assert rates(tmp_path)[step] == pytest.approx(full * schedule(steps, per_epoch, total)), step


def plain(groups):
    return torch.optim.SGD(groups, lr=0.01)


def test_an_extended_cosine_has_no_step_at_its_old_end(store, tmp_path):
    run(store, tmp_path, max_epochs=1, optimizer=plain)
    run(store, tmp_path, resume=True, max_epochs=2, optimizer=plain)
    assert [rates(tmp_path)[s] for s in range(4, 8)] == pytest.approx([0.005 * Cosine()(s, 4, 8) for s in range(4, 8)])


def test_more_patience_lets_a_stopped_training_go_on(store, tmp_path):
    def stopper(patience):
        return {"early": EarlyStopping("train/epoch_loss", min_delta=10.0, patience=patience)}

    run(store, tmp_path, callbacks=stopper(1), max_epochs=9)
    assert rates(tmp_path).keys() == set(range(8))
    run(store, tmp_path, resume=True, callbacks=stopper(1), max_epochs=9)
    assert rates(tmp_path).keys() == set(range(8))
    run(store, tmp_path, resume=True, callbacks=stopper(3), max_epochs=9)
    assert rates(tmp_path).keys() == set(range(16))


def best_of(folder, **settings):
    return ModelCheckpoint(str(folder), filename="best", monitor="val/AP", mode="max", **settings)


@pytest.mark.parametrize("settings", [{}, {"every_n_epochs": 2}])
def test_the_best_score_moves_with_its_folder(tmp_path, settings):
    (tmp_path / "best.ckpt").touch()
    old = str(tmp_path / "gone/best.ckpt")
    state = best_of(tmp_path).state_dict() | {"dirpath": str(tmp_path / "gone"), "kth_best_model_path": old}
    state |= {"best_k_models": {old: torch.tensor(0.5)}, "best_model_path": old}
    callback = best_of(tmp_path, **settings)
    checkpoint = {"callbacks": {best_of(tmp_path).state_key: state}, "hyper_parameters": {"settings": {}}}
    _restore(callback, checkpoint)
    assert callback.best_model_path == str(tmp_path / "best.ckpt")
    assert callback.best_model_score == callback.kth_value == torch.tensor(0.5)


@pytest.mark.parametrize("missing", [("3",), ("0", "3"), ("0", "1", "2", "3")])
def test_best_checkpoints_that_were_deleted_are_not_the_best(tmp_path, caplog, missing):
    """A worse one than a deleted one would otherwise not be kept, and the run would have none."""
    files = {str(tmp_path / f"{n}.ckpt"): torch.tensor(n / 10) for n in range(4)}
    for file in files:
        if Path(file).stem not in missing:
            Path(file).touch()
    state = best_of(tmp_path, save_top_k=4).state_dict() | {"best_k_models": files, "best_model_score": files[file]}
    callback = best_of(tmp_path, save_top_k=4)
    _restore(callback, {"callbacks": {callback.state_key: state}, "hyper_parameters": {"settings": {}}})
    left = [n for n in "0123" if n not in missing]
    assert [Path(f).stem for f in callback.best_k_models] == left
    assert Path(callback.best_model_path).stem == (left[-1] if left else "")
    assert callback.best_model_score == (torch.tensor(int(left[-1]) / 10) if left else None)
    assert f"{missing[0]}.ckpt" in caplog.text
    assert "the best checkpoint from now on is kept" in caplog.text


def test_results_of_an_earlier_end_go_when_the_training_goes_on(tmp_path):
    """An interrupted continuation would otherwise have old figures under its new options."""
    results = [tmp_path / "metrics.json", tmp_path / "thresholds.json"]

    def goes_on(epochs, path):
        for file in results:
            file.touch()
        trainer = pl.Trainer(
            max_epochs=epochs, limit_train_batches=1, limit_val_batches=0, logger=False, accelerator="cpu",
            callbacks=[EarlierResults(tmp_path)], enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=str(tmp_path),
        )  # fmt: skip
        trainer.fit(BoringModel(), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return not any(file.exists() for file in results)

    assert goes_on(1, None)
    assert goes_on(2, tmp_path / "last.ckpt")
    assert not goes_on(2, tmp_path / "last.ckpt")
    assert all(file.exists() for file in results)


def test_fewer_best_checkpoints_are_kept(tmp_path):
    files = {str(tmp_path / f"{n}.ckpt"): torch.tensor(n / 10) for n in range(4)}
    for file in files:
        Path(file).touch()
    state = best_of(tmp_path, save_top_k=4).state_dict() | {"best_k_models": files}
    callback = best_of(tmp_path, save_top_k=2)
    _restore(callback, {"callbacks": {callback.state_key: state}, "hyper_parameters": {"settings": {}}})
    assert [Path(f).stem for f in callback.best_k_models] == ["2", "3"]
    assert callback.kth_value == torch.tensor(0.2)


def _restore(callback, checkpoint):
    trainer = SimpleNamespace(callbacks=[callback])
    KeepSettings().on_load_checkpoint(trainer, SimpleNamespace(hparams={"settings": {}}), checkpoint)
    callback.load_state_dict(checkpoint["callbacks"][callback.state_key])


def test_constants_and_counters_are_not_averaged():
    torch.manual_seed(0)
    module, average = Learner(), WeightAverage(decay=0.998)
    averaged = AveragedModel(module, use_buffers=True)
    for step in range(200):
        with torch.no_grad():
            module.layer.weight.add_(0.1)
            module.norm(torch.randn(4, 2))
        if average.should_update(step_idx=step):
            average.update(averaged, module)
    assert torch.equal(averaged.module.constant, module.constant)
    assert averaged.module.norm.num_batches_tracked == 200
    assert not torch.equal(averaged.module.norm.running_mean, module.norm.running_mean)
    assert not torch.equal(averaged.module.layer.weight, module.layer.weight)
    assert averaged.n_averaged == 200


def test_averages_are_those_of_the_definition_and_do_not_wait_for_the_device():
    """With PyTorch's update, the host asks a GPU how often it has averaged, which fake tensors cannot say."""
    torch.manual_seed(0)
    module, average = Learner(), WeightAverage(decay=0.9)
    averaged, expected = AveragedModel(module, use_buffers=True), module.layer.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            module.layer.weight.normal_()
        assert average.should_update(step_idx=step)
        average.update(averaged, module)
        now = module.layer.weight.detach()
        expected = now.clone() if step == 0 else 0.9 * expected + 0.1 * now
    torch.testing.assert_close(averaged.module.layer.weight.detach(), expected)
    with FakeTensorMode(), torch.device("cuda"):
        layer, mean = nn.BatchNorm2d(2), nn.BatchNorm2d(2)  # a copy would have a mode of its own
        average.update(SimpleNamespace(module=mean, n_averaged=torch.zeros((), dtype=torch.int64)), layer)


def test_before_the_first_average_the_weights_are_the_last_ones(store, tmp_path, caplog):
    late = {"ema": WeightAverage(update_starting_at_step=100)}
    run(store, tmp_path, callbacks=late)
    state = content(tmp_path)
    _assert_equal(state["state_dict"], state["current_model_state"], "weights")
    assert "ema: the training ended after 8 steps, before the first update of the average" in caplog.text
    caplog.clear()
    run(store, tmp_path / "averaged")
    assert "ema" not in caplog.text


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"update_every_n_steps": 0}])
def test_an_average_of_nothing_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        WeightAverage(**settings)
