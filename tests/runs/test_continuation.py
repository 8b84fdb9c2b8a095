"""``train resume=...``: what every key does there, and checkpoints from which nothing can go on."""

import copy
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf, open_dict
from pytorch_lightning.loops.progress import _ProcessedTracker

from lightning_det.annotations import LabelMap
from lightning_det.callbacks import KeepSettings
from lightning_det.callbacks.keep_settings import has_stopped
from lightning_det.config.build import build
from lightning_det.config.module import build_module
from lightning_det.data.loader import TrainLoader
from lightning_det.data.sampler import TrainBatches
from lightning_det.modules.rates import keep_settings, missing_state
from lightning_det.runs.continuation import AT_START, STATE, check_resumable, explain_restore_errors, late_settings
from lightning_det.system.errors import ConfigError, UserError

LABELS = LabelMap(["cat", "dog"], [1, 2])

EFFECTS = {
    "callbacks": "of the objects as built: `KeepSettings`, test_no_callback_restores_a_setting",
    "optimizer": "of the objects as built: `keep_settings`, test_no_optimizer_restores_a_setting",
    "schedule": "a function of the step: `Rates`, tests/runs/test_going_on.py",
    "trainer": "built before anything is restored, which is progress alone: `TrainLoader`",
    "module": "built; its rates are the optimizer's",
    "backbone": "built, and refused by the names of weights that do not fit",
    "detector": "likewise; constants are no part of the weights: test_constants_are_no_part_of_the_weights",
    "focus": "likewise",
    "capacity": "likewise",
    "selection": "built; without state",
    "dataset": "read anew; other classes are refused",
    "data": "built; of its state the loader keeps how far the epoch is",
    "views": "planned anew",
    "test": "used by the next validation",
    "logger": "built; each keeps what it has written",
    "seed": "of every step and view from now on",
    "proposals": "read or mined anew; those of other images are refused",
    "resume": "itself",
    "weights": "refused by train",
    "miner": "refused",
}
"""Nodes of the configuration, and why a key in them takes effect beside ``resume`` or is refused."""


def leaves(node, key=""):
    if not OmegaConf.is_dict(node):
        yield key
        return
    for name in node:
        below = f"{key}.{name}" if key else name
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name) or node._get_node(name) is None:
            yield below
        else:
            yield from leaves(node[name], below)


def test_every_key_takes_effect_or_is_refused(composed):
    """A new node has to be thought about here; settings of a training's beginning are refused by name."""
    cfg = composed("train", "callbacks=[default,ema,early_stopping]", "backbone=resnet50")
    for key in leaves(cfg):
        assert key.split(".")[0] in EFFECTS, key
        nested = lambda value, key=key: OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={value}"]))  # noqa: E731
        late = late_settings(nested("a"), nested("b"))
        assert late == ([key] if key.startswith((*AT_START,)) else []), key
        assert late_settings(nested("a"), nested("a")) == []
    assert not late_settings({"miner": {"epochs": 1}}, {"miner": {"epochs": 2}}, mines=True)


def changed(node):
    """A node with other numbers and switches."""
    node = node.copy()
    for key, value in node.items():
        if key.startswith("_"):
            continue
        if isinstance(value, bool):
            node[key] = not value
        elif isinstance(value, int | float):
            node[key] = value * 0.5 if isinstance(value, float) else value + 1
    return node


def test_no_callback_restores_a_setting(composed):
    cfg = composed("train", "callbacks=[default,ema,early_stopping]").callbacks
    given = {name: changed(node) for name, node in cfg.items()}
    given["best"]["save_top_k"] = 0  # more than one is refused
    old, fresh, new = ({n: build(node, n) for n, node in nodes.items()} for nodes in (cfg, given, given))
    content = {
        "callbacks": {callback.state_key: callback.state_dict() for callback in old.values()},
        "hyper_parameters": {"settings": {}},
    }
    trainer, module = SimpleNamespace(callbacks=new.values()), SimpleNamespace(hparams={"settings": {}})
    KeepSettings().on_load_checkpoint(trainer, module, content)
    for name, callback in new.items():
        if state := content["callbacks"].get(callback.state_key):
            callback.load_state_dict(state)
        settings = vars(callback).keys() & given[name].keys()
        assert {key: getattr(callback, key) for key in settings} == {key: vars(fresh[name])[key] for key in settings}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_no_optimizer_restores_a_setting(composed, name):
    cfg = composed("train", f"optimizer={name}").optimizer
    layer = torch.nn.Linear(2, 2)
    old, new = (build(node, "optimizer")(layer.parameters()) for node in (cfg, changed(cfg)))
    fresh = {key: value for key, value in new.param_groups[0].items() if key != "params"}
    layer(torch.ones(2)).sum().backward()
    old.step()
    new.register_load_state_dict_pre_hook(keep_settings)
    new.load_state_dict(old.state_dict())
    assert {key: value for key, value in new.param_groups[0].items() if key != "params"} == fresh
    assert new.state_dict()["state"].keys() == old.state_dict()["state"].keys()


@pytest.mark.parametrize(
    ("before", "now", "name"),
    [
        ({}, {"amsgrad": True}, "max_exp_avg_sq"),
        ({"amsgrad": True}, {}, ""),
        ({}, {"weight_decay": 0.9, "maximize": True, "fused": True}, ""),
    ],
)
def test_what_an_optimizer_has_not_kept_is_named(before, now, name):
    layer = torch.nn.Linear(2, 2)
    old = torch.optim.AdamW(layer.parameters(), **before)
    layer(torch.ones(2)).sum().backward()
    old.step()
    assert missing_state(lambda p: torch.optim.AdamW(p, **now), old.state_dict(), list(layer.parameters())) == name


def test_a_gain_of_momentum_needs_no_state():
    layer = torch.nn.Linear(2, 2)
    old = torch.optim.SGD(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    old.step()
    assert missing_state(lambda p: torch.optim.SGD(p, momentum=0.9), old.state_dict(), list(layer.parameters())) == ""


@pytest.fixture
def checkpoint(composed, tmp_path):
    """The checkpoint of a training after two epochs of three steps, the module, and the configuration."""
    cfg = composed("train", "trainer.max_epochs=4", "callbacks=[default,early_stopping]")
    module = build_module(cfg, LABELS)
    content = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "optimizer_states": [module.optimizer(module.parameter_groups()).state_dict()],
        "lr_schedulers": [{"last_epoch": 6}],
        "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 2}}}},
        "callbacks": {"EarlyStopping{'monitor': 'val/AP', 'mode': 'max'}": {"wait_count": 1}},
        "global_step": 6,
        "pytorch-lightning_version": "2.6.4",
    }

    def refusal(change=None, **settings):
        """What is said of a changed checkpoint and settings; None if the training can go on."""
        changed, now = dict(content), cfg.copy()
        if change is not None:
            change(changed)
        torch.save(changed, tmp_path / "x.ckpt")
        with open_dict(now):
            now.resume = str(tmp_path / "x.ckpt")
            for key, value in settings.items():
                OmegaConf.update(now, key.replace("__", "."), value, force_add=True)
        module.save_hyperparameters({"settings": OmegaConf.to_container(now, resolve=True, enum_to_str=True)})
        module.optimizer = build(now.optimizer, "optimizer")
        try:
            check_resumable(now, module)
        except UserError as error:
            return error
        return None

    content["hyper_parameters"]["settings"] = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    return refusal


@pytest.mark.slow
@pytest.mark.parametrize("key", STATE)
def test_weights_alone_are_no_training(checkpoint, key):
    said = str(checkpoint(lambda content: content.pop(key)))
    assert "holds weights and not the state of a training" in said
    assert key in said
    assert "weights=FILE" in said
    assert "last.ckpt" in said


@pytest.mark.parametrize("name", ["weight", "early stopping"])
def test_states_that_no_training_leaves_are_refused(checkpoint, name):
    """What comes of them comes out of this module before Lightning sees them."""

    def change(content):
        if name == "weight":
            content["optimizer_states"] = copy.deepcopy(content["optimizer_states"])
            first = content["optimizer_states"][0]["param_groups"][0]["params"][0]
            content["optimizer_states"][0]["state"] = {first: {"momentum_buffer": torch.zeros(3, 5, 7)}}
        else:
            content["callbacks"] = {"EarlyStopping{'monitor': 'val/AP', 'mode': 'max'}": {}}

    node = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/AP", "mode": "max"}
    said = str(checkpoint(change, callbacks__early_stopping=node))
    assert "cannot be restored" in said
    assert "weights=FILE" in said


def test_what_begins_a_training_is_refused_by_name(checkpoint):
    error = checkpoint(backbone__weights="DEFAULT", miner__epochs=7)
    assert isinstance(error, ConfigError)
    assert "backbone.weights, miner.epochs" in str(error)
    assert "no effect" in str(error)


def test_settings_take_effect_while_something_is_left_to_train(checkpoint, caplog):
    assert checkpoint() is None
    assert checkpoint(optimizer__lr=1.0, test__nms_iou=0.3, trainer__max_epochs=9) is None
    assert "nothing is left" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"trainer__max_epochs": 2}, "all 2 epochs are done; more with trainer.max_epochs"),
        ({"trainer__max_steps": 6}, "all 6 steps are done; more with trainer.max_steps"),
        ({"callbacks__early_stopping__patience": 1}, "callbacks.early_stopping has ended it after 2 epochs"),
    ],
)
def test_where_nothing_is_left_to_train_settings_are_refused(checkpoint, caplog, limit, words):
    assert checkpoint(**limit) is None
    assert f"nothing is left to train: {words}" in caplog.text
    error = checkpoint(test__nms_iou=0.3, optimizer__lr=1.0, **limit)
    assert isinstance(error, ConfigError)
    for part in ("optimizer.lr, test.nms_iou", words, "lightning-det eval"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"trainer__max_epochs": 1}, "it is 2 epochs old, more than trainer.max_epochs=1"),
        ({"trainer__max_epochs": 0}, "it is 2 epochs old, more than trainer.max_epochs=0"),
        ({"trainer__max_steps": 5}, "it is 6 steps old, more than trainer.max_steps=5"),
    ],
)
def test_a_training_cannot_go_on_from_beyond_its_end(checkpoint, limit, words):
    assert words in str(checkpoint(**limit))


def test_what_lightning_cannot_restore_is_no_traceback():
    def restore_training_state(error):
        raise error

    cfg = OmegaConf.create({"resume": "RUN"})
    with (
        pytest.raises(UserError, match=r"cannot be restored \(KeyError: 'losses'\).*weights=FILE"),
        explain_restore_errors(cfg),
    ):
        restore_training_state(KeyError("losses"))
    with (
        pytest.raises(UserError, match=r"^mining\.ckpt: .*mining starts over"),
        explain_restore_errors(cfg, "mining.ckpt"),
    ):
        restore_training_state(KeyError("losses"))
    with pytest.raises(ConfigError, match="mine"), explain_restore_errors(cfg):
        restore_training_state(ConfigError("mine"))
    with pytest.raises(KeyError), explain_restore_errors(cfg):
        raise KeyError("no matter of the checkpoint")


def test_constants_are_no_part_of_the_weights(composed):
    """They would be the checkpoint's, whatever the settings say."""
    for options in ([], ["detector=ssd", "backbone=ssd_tiny"], ["detector=rfcn"]):
        module = build_module(composed("train", *options), LABELS)
        learned = {name for name, _ in module.named_parameters()}
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        assert [n for n in module.state_dict() if n not in learned and not n.endswith(statistics)] == []


@pytest.mark.parametrize(
    ("done", "before", "now", "window", "begins"),
    [
        (5, 12, 12, 1, 5),
        (5, 12, 12, 2, 4),  # gradients are accumulated over more batches than before: none of half a window
        (6, 12, 24, 1, 12),
        (6, 12, 25, 4, 12),
        (9, 12, 4, 2, 2),
    ],
)
def test_an_epoch_goes_on_between_windows_of_accumulated_batches(done, before, now, window, begins):
    counted = _ProcessedTracker(ready=done)
    loop = SimpleNamespace(batch_progress=SimpleNamespace(current=counted))
    batches = TrainBatches(None, None, 2, None, 0, epoch=lambda: 3)
    batches._planned = (3, list(range(now)))
    loader = TrainLoader(list(range(now)), batch_sampler=batches)
    loader.trainer = SimpleNamespace(
        limit_train_batches=1.0, accumulate_grad_batches=window, fit_loop=SimpleNamespace(epoch_loop=loop)
    )
    loader.load_state_dict({"epoch": 3, "done": done, "batches": before})
    assert list(batches) == list(range(begins, now))
    assert counted.ready == begins


def test_a_patience_of_zero_ends_a_training_after_a_validation_without_improvement():
    for waited, patience, stopped in ((0, 0, False), (1, 0, True), (1, 1, True), (1, 2, False)):
        assert has_stopped({"wait_count": waited}, patience, same=True) == stopped
