"""`compose`: the parts of a training equal the command's, and settings are checked as it checks them."""

import logging
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from helpers import SMALL
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from support.datasets import make_yolo
from support.trained import OPTIONS, trained_run

from lightning_det import compose, load
from lightning_det.annotations import DatasetError
from lightning_det.data.sampler import TrainBatches
from lightning_det.system.errors import ConfigError, UserError


@pytest.fixture
def small(shapes_root):
    return [*SMALL, f"dataset.root={shapes_root}"]


@pytest.mark.slow
def test_a_training_is_that_of_the_command(small, shapes_root, tmp_path, tmp_path_factory, monkeypatch):
    """Bit by bit; its folder can be loaded."""
    run = trained_run(tmp_path_factory, shapes_root)
    monkeypatch.chdir(tmp_path)
    pl.seed_everything(3, workers=True, verbose=False)
    parts = compose([*small, *OPTIONS], folder=tmp_path / "own")
    assert list(tmp_path.iterdir()) == []
    seen = []

    class Own(pl.Callback):
        def on_train_batch_end(self, *_):
            seen.append(1)

    trainer = parts.trainer(callbacks=[Own()])
    trainer.fit(parts.module, datamodule=parts.datamodule)
    expected = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in parts.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert len(seen) == 3
    assert load(tmp_path / "own").classes == parts.module.labels.names
    assert [file.name for file in tmp_path.iterdir()] == ["own"]
    with pytest.raises(ConfigError, match=r"own holds a run that was begun .*folder=.*own-2"):
        parts.trainer()


@pytest.mark.slow
def test_a_loop_without_a_trainer(small, shapes_root, tmp_path_factory):
    run = trained_run(tmp_path_factory, shapes_root)
    parts = compose([*small, f"weights={run}", "strategy=[single_scale,flip]", "data.num_workers=0"])
    trained = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    own = parts.module.state_dict()
    assert all(torch.equal(own[name], trained[name]) for name in own if not name.endswith("num_batches_tracked"))
    data = parts.datamodule
    for epoch in range(2):
        batches = TrainBatches(data.train, data.train_views, data.batch_size, data.grouping, data.seed, lambda: epoch)  # noqa: B023
        loader = data.epoch_loader(epoch)
        assert [batch.index.tolist() for batch in loader] == [[look.image for look in looks] for looks in batches]
    losses = parts.module.train().losses(next(iter(loader)))
    sum(losses.values()).backward()
    assert set(losses) == {"rpn_objectness", "rpn_box", "roi_class", "roi_box"}


def test_a_loop_without_a_trainer_trains_the_head_of_autofocus(small):
    parts = compose([*small, "strategy=[single_scale,flip,autofocus]", "data.num_workers=0"])
    sum(parts.module.train().losses(next(iter(parts.datamodule.epoch_loader(0)))).values()).backward()
    assert all(p.grad is not None for p in parts.module.detector.focus.parameters() if p.requires_grad)


def test_settings_without_effect_are_said_as_by_the_command(small, tmp_path, caplog):
    parts = compose([*small, "dataset.sniper.size=77", "trainer.max_epochs=5"], folder=tmp_path)
    assert "no part of this run reads these settings: dataset.pyramid, dataset.sniper.size" in caplog.text
    parts.trainer(max_epochs=3)
    assert parts.module.hparams["settings"]["trainer"]["max_epochs"] == 3
    with pytest.raises(ConfigError, match=r"callbacks\.report: only the commands write a report"):
        compose([*[s for s in small if "report" not in s], "callbacks.report.worst=3"])


@pytest.mark.slow
def test_settings_are_checked(small, tmp_path):
    for overrides, said in (
        (["optimizer.lrr=1"], r"did you mean optimizer.lr\?"),
        (["strategy=[snip,tiles]"], "both set views.train.windows"),
        (["seed=1,2"], "Ambiguous value|To use it as a list"),
        (["proposals=auto", "strategy=[sniper]"], "proposals=auto trains a network first"),
        (["weights=none.ckpt"], "weights=none.ckpt: no such file"),
        ([f"resume={tmp_path}/none"], "resume=.*none: no such checkpoint or run folder"),
        ([1], "overrides must be a list of texts"),
    ):
        with pytest.raises(ConfigError, match=said):
            compose([*small, *overrides])
    with pytest.raises(DatasetError, match=r"none of its .* boxes is learned from"):
        compose([*small, "data.min_side=1000"])
    with pytest.raises(UserError, match="annotations"):
        compose(["dataset=coco", f"dataset.root={tmp_path}"])


def test_a_root_alone_is_recognised_as_by_the_command(tmp_path):
    """It does not mean generated images there, which is what the default dataset would make of it."""
    parts = compose([f"dataset.root={make_yolo(tmp_path / 'own')}", "dataset.resolution=[96,128]"])
    assert parts.module.labels.names == ("cat", "dog")
    assert parts.config.dataset.source.format == "yolo"
    with pytest.raises(DatasetError, match="none: no such folder"):
        compose([f"dataset.root={tmp_path}/none"])
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_settings_of_the_trainer_are_checked(small, tmp_path):
    parts = compose(small)
    with pytest.raises(ConfigError, match=r"compose\(..., folder=FOLDER\) names the folder"):
        parts.trainer()
    parts = compose(small, folder=tmp_path)
    assert parts.config.callbacks.best.dirpath == f"{tmp_path}/checkpoints"
    for settings, said in (
        ({"max_epoch": 3}, r"trainer.max_epoch: unknown \(did you mean max_epochs\?\)"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"precision": "64"}, "trainer.precision must be 32-true"),
        ({"logger": False}, "trainer.logger is set by the commands themselves"),
        ({"strategy": object()}, "give plain values, or make a pytorch_lightning.Trainer"),
    ):
        with pytest.raises(ConfigError, match=said):
            parts.trainer(**settings)
    assert list(tmp_path.iterdir()) == []
    trainer = parts.trainer(max_epochs=7)
    assert (trainer.max_epochs, trainer.default_root_dir) == (7, str(tmp_path))


@pytest.mark.slow
def test_nothing_is_left_behind_and_own_options_are_found(small, tmp_path, monkeypatch, capfd):
    """Within another Hydra app; torch's generator moves on, as building a network does."""
    (tmp_path / "conf/strategy").mkdir(parents=True)
    (tmp_path / "conf/app.yaml").touch()
    flip = "{_target_: lightning_det.views.RandomFlip, probability: 0.25}"
    (tmp_path / "conf/strategy/mine.yaml").write_text(f"# @package _global_\nviews: {{train: {{flip: {flip}}}}}\n")
    monkeypatch.setattr(sys, "argv", ["own", "--arguments"])
    handlers = logging.root.handlers[:]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        parts = compose([*small, f"hydra.searchpath=[file://{tmp_path}/conf]", "strategy=[single_scale,mine]"])
        assert GlobalHydra.instance().hydra is hydra
    assert parts.datamodule.train_views.flip.probability == 0.25
    assert "hydra" not in parts.config
    assert not HydraConfig.initialized()
    assert (sys.argv, logging.root.handlers) == (["own", "--arguments"], handlers)
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in Path(tmp_path).iterdir()] == ["conf"]
