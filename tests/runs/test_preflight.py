"""What is said before a training: figures that will be undefined, settings that cannot work, nothing to learn."""

import json
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.demos.boring_classes import BoringModel
from support.checks import accepted
from support.datasets import make_coco

from lightning_det.annotations import DatasetError
from lightning_det.callbacks import BestCheckpoint, EpochSummary, Evaluator
from lightning_det.config import ConfigError
from lightning_det.config.data import usable_split
from lightning_det.runs import training_report
from lightning_det.runs.preflight import check_data, check_monitors
from lightning_det.runs.training_report import best_report

SIZES = ("dataset.resolution=[48,64]", "dataset.anchor_sizes=[8,16,32]")


class Scripted(Evaluator):
    """Reports given APs, a validation each."""

    def __init__(self, *values):
        super().__init__()
        self.values = iter(values)

    def on_validation_batch_end(self, *_):
        """Keeps nothing."""

    def on_validation_epoch_end(self, trainer, pl_module):
        value = next(self.values)
        self.report = {"figures": {"AP": value}}
        if value is not None:
            pl_module.log("val/AP", value)


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        return {"loss": loss, "train/loss": loss.detach()}


def best_epoch(folder, *values):
    """Epoch of the best checkpoint after validations of some APs, and the callback; None without a checkpoint."""
    saving = BestCheckpoint(
        dirpath=str(folder), filename="best", monitor="val/AP", mode="max", enable_version_counter=False
    )
    trainer = pl.Trainer(
        max_epochs=len(values), limit_train_batches=1, limit_val_batches=1, num_sanity_val_steps=0, logger=False,
        callbacks=[Scripted(*values), EpochSummary(), saving], accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder),
    )  # fmt: skip
    trainer.fit(Model())
    file = folder / "best.ckpt"
    return (torch.load(file, weights_only=True)["epoch"] + 1 if file.exists() else None), saving


def test_the_best_checkpoint_has_a_figure_behind_it(tmp_path, caplog):
    with caplog.at_level("INFO", "lightning_det"):
        assert best_epoch(tmp_path / "undefined", None, None, None)[0] is None
    assert [r.getMessage().split(", ")[-1] for r in caplog.records if r.name == "lightning_det"] == ["AP undefined"] * 3
    assert best_epoch(tmp_path / "found", 0.1, 0.3, 0.2)[0] == 2
    assert best_epoch(tmp_path / "late", None, 0.3, 0.3)[0] == 2
    # Nothing found is nothing to choose by.
    assert best_epoch(tmp_path / "nothing", 0.0, 0.0, 0.0)[0] == 3
    epoch, saving = best_epoch(tmp_path / "once", 0.0, 0.2, 0.0)
    assert epoch == 2
    assert saving.state_key.startswith("ModelCheckpoint{")  # as in checkpoints of earlier versions


def stores_of(cfg, root, change=None):
    """The splits of a small dataset whose validation split is changed; the configuration gets its root."""
    make_coco(root)
    file = root / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    if change is not None:
        change(content)
    file.write_text(json.dumps(content))
    cfg.dataset.root = str(root)
    return {which: usable_split(cfg, which) for which in ("train", "val")}


@pytest.fixture
def cfg(composed):
    return composed("train", "dataset=coco", "callbacks=[default,early_stopping]", *SIZES)


def emptied(content):
    content["annotations"] = []


def crowds_only(content):
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def test_a_validation_without_boxes_is_said_before(cfg, tmp_path, caplog):
    cfg.callbacks.early_stopping = None
    reasons = {"there are no boxes": emptied, "ignored ones (crowds, difficult objects)": crowds_only}
    for number, (reason, change) in enumerate(reasons.items()):
        caplog.clear()
        check_data(cfg, **stores_of(cfg, tmp_path / str(number), change))
        (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert "dataset.val (val2017): " in said
        assert reason in said
        assert "no best checkpoint" in said
    caplog.clear()
    check_data(cfg, **stores_of(cfg, tmp_path / "good"))
    cfg.trainer.limit_val_batches = 0
    check_data(cfg, **stores_of(cfg, tmp_path / "none", emptied))
    assert not caplog.records


def test_a_validation_that_sees_no_box_is_said_before(cfg, tmp_path, caplog):
    """The first image has no box, and the first batch is that image."""
    cfg.callbacks.early_stopping = None
    cfg.data.test_batch_size, cfg.trainer.limit_val_batches = 1, 1
    stores = stores_of(cfg, tmp_path / "data")
    check_data(cfg, **stores)
    assert "no box is in the 1 of 4 images that are looked at" in caplog.text
    caplog.clear()
    cfg.trainer.limit_val_batches = 0.5
    check_data(cfg, **stores)
    assert not caplog.records


def test_a_validation_without_some_views_of_its_images_is_said(composed, tmp_path, caplog):
    """Batches are of one scale each, the finest first."""
    cfg = composed("train", "dataset=coco", "views.test.scales.resolutions=[2.0,1.0]", *SIZES)
    cfg.data.test_batch_size, cfg.trainer.limit_val_batches = 2, 3
    stores = stores_of(cfg, tmp_path / "data")
    check_data(cfg, **stores)
    assert "sees 6 of 8 views. 2 of its 4 images lack others" in caplog.text
    caplog.clear()
    cfg.trainer.limit_val_batches = 1.0
    check_data(cfg, **stores)
    assert not caplog.records


def test_recall_is_monitored_by_the_number_of_detections_that_is_measured(cfg, tmp_path):
    stores = stores_of(cfg, tmp_path / "data")  # images of 64 x 48
    for rate, most, logged, other in ((100.0, 100, 100, 300), (1e5, 100, 308, 100), (None, 5, 5, 100)):
        cfg.test.detections_per_megapixel, cfg.test.max_detections = rate, most
        cfg.callbacks.best.monitor = f"val/AR{logged}"
        check_monitors(cfg)
        check_data(cfg, **stores)
        cfg.callbacks.best.monitor = f"val/AR{other}"
        refuse = partial(check_monitors, cfg) if rate is None else partial(check_data, cfg, **stores)
        with pytest.raises(ConfigError, match=rf"monitor=val/AR{other}: a validation .*logs (.*, )?val/AR{logged}"):
            refuse()


def test_the_report_is_of_the_best_checkpoint_whatever_decides(tmp_path, monkeypatch):
    evaluator = Evaluator()
    evaluator.report = {"figures": {"AP": 0.1}}
    assert best_report(evaluator, tmp_path) == evaluator.report
    file = tmp_path / "checkpoints/best.ckpt"
    file.parent.mkdir()
    file.touch()
    saved = {evaluator.state_key: {"figures": {"AP": 0.3}}}
    monkeypatch.setattr(training_report, "read_checkpoint", lambda path: {"callbacks": saved if path == file else None})
    assert best_report(evaluator, tmp_path) == {"figures": {"AP": 0.3}}


def test_one_best_checkpoint_is_kept():
    """All of several would be one file, the last one saved."""
    for settings in ({"save_top_k": 2}, {"save_top_k": -1}, {"filename": "best-{epoch}"}):
        with pytest.raises(ValueError, match=r"not supported: commands read one best\.ckpt"):
            BestCheckpoint(monitor="val/AP", mode="max", **settings)


def test_a_figure_that_is_undefined_cannot_stop_a_training(cfg, tmp_path, caplog):
    with pytest.raises(ConfigError, match=r"callbacks\.early_stopping\.monitor=val/AP: dataset\.val .*no boxes"):
        check_data(cfg, **stores_of(cfg, tmp_path / "empty", emptied))
    stores = stores_of(cfg, tmp_path / "data")
    cfg.callbacks.early_stopping.monitor = cfg.callbacks.best.monitor = "val/AP_large"
    with pytest.raises(ConfigError, match=r"monitor=val/AP_large: .*no box of that size"):
        check_data(cfg, **stores)
    cfg.callbacks.early_stopping = None
    check_data(cfg, **stores)
    assert "dataset.val (val2017) has no box for val/AP_large: callbacks.best will save nothing" in caplog.text


def test_figures_that_nobody_logs_are_refused(cfg):
    def refused(message, **changes):
        other = cfg.copy()
        for key, value in changes.items():
            OmegaConf.update(other, key.replace("__", "."), value)
        with pytest.raises(ConfigError, match=message):
            check_monitors(other)

    check_monitors(cfg)
    known = r"callbacks\.best\.monitor=val/mAP: a validation logs val/AP, val/AP50"
    refused(known, callbacks__best__monitor="val/mAP")
    refused(r"callbacks\.best\.monitor=val/AP: without callbacks\.evaluator", callbacks__evaluator=None)
    refused("there is no validation .*callbacks.early_stopping=null", trainer__limit_val_batches=0)
    refused("there is no validation", trainer__check_val_every_n_epoch=9)
    monitor = {"callbacks__best__monitor": "val/AR100"}
    refused("val/AR100: a validation logs", test__max_detections=5, test__detections_per_megapixel=None, **monitor)


def test_figures_that_are_logged_may_be_watched(cfg):
    cfg.callbacks.best.monitor, cfg.test.max_detections = "val/AR5", 5
    check_monitors(cfg)
    cfg.trainer.limit_val_batches, cfg.callbacks.early_stopping = 0, None
    check_monitors(cfg)


def test_a_patience_that_never_ends_a_training_is_said(cfg, caplog):
    for epochs, patience, said in ((6, 5, True), (7, 5, False), (5, 3, False), (5, 4, True)):
        caplog.clear()
        cfg.trainer.max_epochs, cfg.callbacks.early_stopping.patience = epochs, patience
        check_monitors(cfg)
        assert (f"patience={patience} never ends this training early: it has {epochs} vali" in caplog.text) == said
    del cfg.callbacks.early_stopping.patience  # of a callback that leaves it to Lightning
    cfg.trainer.max_epochs = 4
    caplog.clear()
    check_monitors(cfg)
    assert "patience=3 never ends" in caplog.text
    cfg.trainer.val_check_interval = 0.5  # twice as many validations
    caplog.clear()
    check_monitors(cfg)
    assert not caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["views.train.scales.valid_ranges=[[500,-1]]"],
        ["data.min_side=60"],
        ["strategy=[sniper_no_negatives]", "dataset.sniper.scales=[1]", "dataset.sniper.size=64",
         "dataset.sniper.valid_ranges=[[0,3]]", "dataset.sniper.anchor_ranges=[[0,3]]", "data.min_side=30",
         "dataset.sniper.pyramid=[[48,64]]", "dataset.sniper.test_ranges=[[0,-1]]"],
    ],
    ids=["ranges", "min_side", "chips"],
)  # fmt: skip
def test_a_training_that_learns_from_no_box_is_refused(composed, tmp_path, overrides):
    cfg = accepted(composed("train", "dataset=coco", f"dataset.root={tmp_path}", *SIZES, *overrides))
    stores = stores_of(cfg, tmp_path / "data")
    with pytest.raises(DatasetError, match=r"dataset\.train \(train2017\): none of its 6 boxes is learned from"):
        check_data(cfg, **stores)
