"""Settings that no training can work with are refused by key, and Lightning's own refusals are said in our words."""

import urllib.error
from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_det.annotations import LabelMap
from lightning_det.backbones import ssd, torchvision_backbone
from lightning_det.backbones.pretrained import explain_failed_timm_download
from lightning_det.config import ConfigError, resolve
from lightning_det.config.module import build_module
from lightning_det.config.trainer import build_trainer
from lightning_det.config.values import RANGES, check_values
from lightning_det.runs.preflight import check_trainer
from lightning_det.runs.weights import load_weights
from lightning_det.system.errors import UserError, explain_error
from lightning_det.system.refusals import name_keys, trainer_problem

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true", "64", 64, "transformer-engine"])
def test_precisions_that_detectors_cannot_do_are_refused(precision):
    said = trainer_problem({"accelerator": "cpu", "precision": precision})
    assert said == f"trainer.precision must be 32-true or bf16-mixed or 16-mixed, got {precision}"


def test_precisions_that_work():
    for precision in ("32-true", "32", 32, None, "bf16-mixed", "bf16"):
        assert trainer_problem({"accelerator": "cpu", "precision": precision}) == ""
    # Lightning would take bf16-mixed instead.
    assert "needs a GPU; bf16-mixed and 32-true" in trainer_problem({"accelerator": "cpu", "precision": "16-mixed"})


@WITHOUT_GPU
def test_a_gpu_that_is_not_there_is_said(composed, tmp_path):
    for name in ("gpu", "ddp"):
        cfg = composed("train", f"trainer={name}")
        with pytest.raises(ConfigError, match=r"trainer\.accelerator=gpu: .*no GPU on this machine; trainer=cpu"):
            check_trainer(cfg)
        with pytest.raises(ConfigError, match=r"trainer\.accelerator=gpu"):
            build_trainer(cfg, tmp_path, learning=False)


def test_what_the_commands_set_themselves_is_refused():
    assert trainer_problem({"plugins": "x"}).startswith("trainer.plugins is set by the commands themselves")
    assert "hydra.run.dir" in trainer_problem({"default_root_dir": "/x"})
    assert "debug=overfit" in trainer_problem({"overfit_batches": 2})
    assert trainer_problem({"overfit_batches": 0.0}) == ""


def test_durations():
    for value in (None, "00:12:00:00", {"hours": 1}, {"minutes": 1.5}):
        assert trainer_problem({"max_time": value}) == ""
    for value in (5, "garbage", "12:00", {"hours": "x"}, {"years": 1}):
        assert trainer_problem({"max_time": value}).startswith("trainer.max_time must be days, hours"), value


def test_a_training_whose_ranges_never_apply_is_said(composed, caplog):
    for given, words in (
        (["trainer.max_epochs=3", "views.train.scales.warm_epochs=[1,3]"], "the first 3 epochs have no ranges"),
        (["trainer.max_epochs=4", "views.train.scales.warm_epochs=[1,3]"], ""),
        (["trainer.max_epochs=-1", "trainer.max_steps=9", "views.train.scales.warm_epochs=[1,3]"], ""),
        (["trainer.max_epochs=3"], ""),
    ):
        caplog.clear()
        check_trainer(composed("train", "strategy=[snip,flip]", *given))
        assert words in caplog.text
        assert bool(words) == bool(caplog.text)


def test_a_training_without_validation_is_said(composed, caplog):
    for given, words in (
        (["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=4"], "only 3 epochs, so nothing is validated"),
        (["trainer.max_epochs=4", "trainer.check_val_every_n_epoch=4"], ""),
        (["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=5"], ""),
        (["trainer.devices=999"], "999 processes on"),
    ):
        caplog.clear()
        check_trainer(composed("train", *given))
        assert words in caplog.text
        assert bool(words) == bool(caplog.text)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["trainer.val_check_interval=5"], r"check_val_every_n_epoch=null it counts on across epochs"),
        (["trainer.val_check_interval=1"], ""),
        (["trainer.val_check_interval=0.5"], ""),
        (["trainer.val_check_interval=5", "trainer.check_val_every_n_epoch=null"], ""),
        (
            ["+optimizer.fused=true", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=5"],
            r"optimizer.fused=true: .*gradient_clip_val=5",
        ),
        (["+optimizer.fused=true", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=null"], ""),
        (["+optimizer.fused=true", "trainer.gradient_clip_val=5"], ""),
    ],
)
def test_what_would_end_a_training_at_a_step_is_refused_before(composed, given, words):
    cfg = composed("train", *given)
    with pytest.raises(ConfigError, match=words) if words else nullcontext():
        check_trainer(cfg)


@pytest.mark.parametrize(
    ("detector", "key"),
    [
        ("faster_rcnn", "roi_head.positive=50"),
        ("faster_rcnn", "roi_head.ignore=-1"),
        ("faster_rcnn", "rpn.nms_iou=70"),
        ("faster_rcnn", "rpn.ignore=1.5"),
        ("rfcn", "roi_head.positive=2"),
        ("ssd", "positive=50"),
        ("ssd", "ignore=-1"),
        ("retinanet", "ignore=40"),
    ],
)
def test_thresholds_are_shares(composed, detector, key):
    """A threshold in per cent would let nothing be learned, without a word."""
    backbone = ["backbone=ssd_tiny"] if detector == "ssd" else []
    cfg = composed("train", f"detector={detector}", *backbone, f"++detector.{key}")
    name, value = key.split("=")
    name = name.split(".")[-1]
    with pytest.raises(ConfigError, match=f"{name} must be 0 to 1, got {value}"):
        build_module(cfg, LabelMap(["car"]))


def test_a_cosine_needs_an_end(composed):
    cfg = composed("train", "trainer.max_epochs=-1")
    with pytest.raises(ConfigError, match="need the length of the whole training"):
        check_trainer(cfg)
    cfg.trainer.max_steps = 5
    check_trainer(cfg)
    cfg.trainer.max_steps, cfg.schedule._target_ = -1, "lightning_det.modules.schedules.Constant"
    check_trainer(cfg)
    cfg.schedule.unit = "share"
    with pytest.raises(ConfigError, match="need the length of the whole training"):
        check_trainer(cfg)


@pytest.mark.parametrize(
    "given",
    [
        "schedule.warmup=nan",
        "schedule.warmup=inf",
        "schedule.warmup=-1",
        "detector.rpn.border=-5",
        "callbacks.early_stopping.patience=-1",
    ],
)
def test_numbers_out_of_range_are_refused_by_key(composed, given):
    cfg = composed("train", "callbacks=[default,early_stopping]", given)
    with pytest.raises(ConfigError, match=rf"^{given.partition('=')[0]} must be at least 0"):
        check_values(resolve(cfg))


def test_constructor_refusals_name_the_key(composed, tmp_path):
    cfg = composed("train", "callbacks={}", "logger={}")
    for key, value in {"devices": 0, "strategy": "foo", "profiler": "typo", "accelerator": "gup"}.items():
        wrong = cfg.copy()
        wrong.trainer[key] = value
        with pytest.raises(ConfigError, match=rf"trainer\.{key}"):
            build_trainer(wrong, tmp_path)


def test_refusals_while_a_training_begins_are_explained(tmp_path):
    """As `command` and sweeps say them: no traceback."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, val_check_interval=250, default_root_dir=str(tmp_path), **quiet)
    with pytest.raises(ValueError, match="250") as raised:
        trainer.fit(BoringModel())
    assert explain_error(raised.value).startswith("trainer.val_check_interval (250) must be less than or equal to")
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=0.0001, default_root_dir=str(tmp_path), **quiet)
    with pytest.raises(Exception, match="0001") as raised:
        trainer.fit(BoringModel())
    assert "trainer.limit_train_batches" in explain_error(raised.value)
    # Errors of other origin are not Lightning's refusals.
    assert explain_error(ValueError("mine")) is None


def test_names_of_arguments_become_keys():
    assert name_keys("`devices` must\n be > 0") == "trainer.devices must be > 0"
    assert name_keys("`Trainer(devices=0)` value is not valid") == "trainer.devices=0 value is not valid"
    assert name_keys("in the callbacks of a strategy") == "trainer: in the callbacks of a strategy"


def test_wandb_without_a_key_is_explained():
    error = type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})("No API key configured.")
    said = explain_error(error)
    assert said.startswith("wandb: No API key configured. Log in with `wandb login` or WANDB_API_KEY")
    assert "logger.wandb.offline=true" in said


@pytest.mark.slow
def test_numbers_out_of_their_range_are_refused(composed):
    cfg = OmegaConf.to_container(composed("train", "test=[voting]", "test.nms_iou=1"), resolve=True, enum_to_str=True)
    check_values(cfg)
    for key, valid in RANGES.items():
        wrong = OmegaConf.create(cfg)
        low = valid.low if valid.open_low else valid.low - 7
        OmegaConf.update(wrong, key, low, force_add=True)
        with pytest.raises(ConfigError, match=rf"^{key.replace('.', '[.]')} must be .*, got {low}"):
            check_values(OmegaConf.to_container(wrong))
    for value in ([5], [], [1, 2, 3]):
        wrong = OmegaConf.create(cfg)
        OmegaConf.update(wrong, "capacity.after_nms", value)
        with pytest.raises(ConfigError, match=r"capacity\.after_nms must be two numbers"):
            check_values(OmegaConf.to_container(wrong))
    for key, value in {
        "optimizer.lr": "foo",
        "test.score_threshold": 1,
        "test.nms_iou": 1.5,
        "capacity.before_nms": [5, 0],
    }.items():
        wrong = OmegaConf.create(cfg)
        OmegaConf.update(wrong, key, value)
        with pytest.raises(ConfigError, match=key):
            check_values(OmegaConf.to_container(wrong))


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.slow
def test_weights_that_cannot_be_downloaded_are_named(no_network):
    file = no_network / "resnet18-f37072fd.pth"
    with pytest.raises(UserError, match=f"backbone.weights=DEFAULT: https://.*Name or service.*put it at {file}"):
        torchvision_backbone("resnet18", weights="DEFAULT")
    file.write_bytes(b"half of it")
    with pytest.raises(UserError, match=f"{file} is damaged .*delete it"):
        torchvision_backbone("resnet18", weights="DEFAULT")
    name = "FasterRCNN_ResNet50_FPN_Weights.COCO_V1"
    with pytest.raises(UserError, match=rf"weights={name}: .*put it at {no_network}/fasterrcnn_resnet50_fpn_coco"):
        load_weights(None, name)
    with pytest.raises(UserError, match=rf"put it at {no_network}/vgg16_features"):
        ssd.VGG16(weights="IMAGENET1K_FEATURES")
    with pytest.raises(ValueError, match=r"backbone\.weights: vgg16 has IMAGENET1K_V1, IMAGENET1K_FEATURES"):
        ssd.VGG16(weights="TYPO")


def test_weights_of_timm_that_cannot_be_downloaded_are_named():
    pytest.importorskip("timm")
    with (
        pytest.raises(UserError, match=r"huggingface.co/timm/resnet18.a1_in1k \(offline\).*models--timm--resnet18.a1"),
        explain_failed_timm_download("resnet18", "DEFAULT"),
    ):
        raise ConnectionError("offline")
    with (
        pytest.raises(ValueError, match="timm has no weights of resnet18_no"),
        explain_failed_timm_download("resnet18_no", "DEFAULT"),
    ):
        raise AssertionError("not reached")
