"""Whether a training can go on from a checkpoint, and which settings then come too late."""

import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import WeightAveraging

from lightning_det.annotations import LabelMap
from lightning_det.callbacks.going_on import early_stopping, has_stopped
from lightning_det.callbacks.ranks import differences
from lightning_det.checkpoint import load_checkpoint
from lightning_det.config.signatures import locate
from lightning_det.modules.module import DetectionModule, parameter_groups
from lightning_det.modules.rates import lacking
from lightning_det.system.errors import ConfigError, UserError, explained

log = logging.getLogger("lightning_det")

STATE = ("callbacks", "global_step", "loops", "lr_schedulers", "optimizer_states", "pytorch-lightning_version")
"""What a checkpoint has besides weights and settings if a training can go on from it."""

OF_NO_MATTER = ("callbacks", "logger", "proposals", "resume", "weights")
"""Nodes that may differ where a training goes on."""

AT_START = ("backbone.weights", "backbone.pretrained", "miner")
"""Settings of how a training begins: where one goes on, they come too late."""

WITHOUT_TRAINING = ("trainer", "dataset.root", "dataset.source.root", "data.num_workers")
"""Settings that may differ where nothing is left to train."""

RESTORERS = {"_restore_modules_and_callbacks", "restore_training_state", "_unlike", "_ended"}
"""Functions that read the state of a training: Lightning's, and those of this module."""

NEW = "start a new training from its weights with weights=FILE"


def to_go_on_from(cfg: DictConfig, module: DetectionModule, mines: bool = False) -> None:
    """Checks that a training can go on from the checkpoint of ``cfg.resume``, before anything is written.

    Args:
        cfg: of this run.
        module: that it is about to train.
        mines: whether proposals are mined before.

    Raises:
        UserError: the checkpoint has no state of a training, other classes, another detector, optimizer or averaging
            of weights.
        ConfigError: settings would have no effect.
    """
    content = load_checkpoint(cfg.resume, "last")
    lost = [key for key in STATE if content.get(key) in (None, [])]
    if lost:
        raise UserError(
            f"resume={cfg.resume}: this checkpoint holds weights and not the state of a training (no "
            f"{', '.join(lost)}); go on from another one (RUN_FOLDER/checkpoints/last.ckpt), or {NEW}"
        )
    saved = content["hyper_parameters"]
    before, now = saved["settings"], module.hparams["settings"]
    changed = [f"{key} was {_short(before, key)}, is {_short(now, key)}" for key in changed_settings(before, now)]
    with restoring(cfg):
        wrong, end = _unlike(content, module, cfg), _ended(content, now, cfg)
    if wrong:
        settings = f"\nSettings that differ: {'; '.join(changed)}" if changed else ""
        raise UserError(
            f"resume={cfg.resume}: this training cannot go on from there: {wrong}. Give the run's own settings "
            f"(resume=RUN_FOLDER alone does), or {NEW}.{settings}"
        )
    if late := late_settings(before, now, mines):
        raise ConfigError(
            f"resume={cfg.resume}: {', '.join(late)}: the checkpoint's weights and the run's proposals are "
            f"there already, and this would have no effect; leave it out, or {NEW}"
        )
    log.info("goes on from %s: %d epochs and %d steps are done", cfg.resume, _epochs(content), content["global_step"])
    for words in changed:
        log.info("another setting than before: %s", words)
    if end:
        late = [k for k in changed_settings(before, now) if not _below(k, WITHOUT_TRAINING) and _has(before, k)]
        if late:
            raise ConfigError(
                f"resume={cfg.resume}: nothing is left to train ({end}), so these would have no effect: "
                f"{', '.join(late)}. Leave them out, evaluate with python -m lightning_det.eval "
                f"checkpoint={cfg.resume}, or {NEW}"
            )
        log.warning("nothing is left to train: %s", end)


def late_settings(before: Mapping[str, Any], now: Mapping[str, Any], mines: bool = False) -> list[str]:
    """Dotted keys of settings that differ and come too late to have an effect.

    Args:
        before: settings of the checkpoint.
        now: those given now.
        mines: whether proposals are mined now.
    """
    early = tuple(node for node in AT_START if not (mines and node == "miner"))
    return sorted(key for key in differences(before, now) if _below(key, early))


@contextmanager
def restoring(cfg: DictConfig, mined: Path | None = None) -> Iterator[None]:
    """Says what is wrong where the state of a training cannot be restored: another version's may differ.

    Args:
        cfg: of this run.
        mined: the file of a half-trained proposal network, if that is what goes on.

    Raises:
        UserError: instead of what came of the checkpoint.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        callers = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
        if (cfg.resume is None and mined is None) or not callers & RESTORERS or explained(error) is not None:
            raise
        file, remedy = (f"resume={cfg.resume}", NEW) if mined is None else (mined, "remove it, and mining starts over")
        raise UserError(
            f"{file}: the state of the training cannot be restored ({type(error).__name__}: {str(error)[:200]}): the "
            f"checkpoint is of another version, or damaged; {remedy}"
        ) from error


def _unlike(content: dict[str, Any], module: DetectionModule, cfg: DictConfig) -> str:
    """What keeps a training from going on from a checkpoint, in words; empty if nothing does."""
    saved = content["hyper_parameters"]
    classes = LabelMap.from_dict(saved["labels"]).difference(module.labels)
    if classes:
        return f"the dataset {classes}, compared with the checkpoint"
    if names := module.unlike(content["state_dict"]):
        return f"it is of another detector ({len(names)} tensors are missing or differ in shape, such as {names[0]})"
    before, now = saved["settings"].get("optimizer") or {}, module.hparams["settings"].get("optimizer") or {}
    groups = [len(g["params"]) for g in content["optimizer_states"][0]["param_groups"]]
    here = [len(g["params"]) for g in parameter_groups(module.detector, module.norm_weight_decay)]
    if before.get("_target_") != now.get("_target_"):
        return f"its optimizer is {before.get('_target_')}, this one {now.get('_target_')}"
    if groups != here:
        return f"its optimizer has groups of {groups} parameters, this one of {here}"
    parameters = parameter_groups(module.detector, module.norm_weight_decay)[0]["params"]
    if name := lacking(module.optimizer, content["optimizer_states"][0], parameters):
        changed = ", ".join(f"optimizer.{key}" for key in sorted(differences(before, now)))
        return f"its optimizer has kept no {name}, which this one needs ({changed})"
    nodes = (node for node in (cfg.callbacks or {}).values() if node is not None)
    averages = [_averages(node._target_) for node in nodes]
    if any(averages) != ("averaging_state" in content):
        return f"it has {'no' if any(averages) else 'an'} average of weights (callbacks=[default,ema])"
    done = {"max_epochs": _epochs(content), "max_steps": content["global_step"]}
    for limit, count in done.items():
        if -1 < (-1 if cfg.trainer.get(limit) is None else cfg.trainer[limit]) < count:
            return f"it is {count} {limit[4:]} old, more than trainer.{limit}={cfg.trainer[limit]}"
    return ""


def _averages(target: str) -> bool:
    """Whether a callback averages weights."""
    kind = locate("callbacks", target)
    return isinstance(kind, type) and issubclass(kind, WeightAveraging)


def _epochs(content: dict[str, Any]) -> int:
    """Epochs that a checkpoint's training has done."""
    return content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Dotted keys of settings that differ, as far as they say what is trained on what."""
    return sorted(k for k in differences(before, now) if k.split(".")[0] not in OF_NO_MATTER)


def _short(settings: Mapping[str, Any], key: str) -> str:
    value = OmegaConf.select(OmegaConf.create(settings), key)
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _ended(content: Mapping[str, Any], now: Mapping[str, Any], cfg: DictConfig) -> str:
    """Why nothing is left to train and what would let it go on, in words; empty if something is left."""
    epochs, steps = _epochs(content), content["global_step"]
    if cfg.trainer.max_epochs == epochs:
        return f"all {epochs} epochs are done; more with trainer.max_epochs"
    if cfg.trainer.get("max_steps") == steps:
        return f"all {steps} steps are done; more with trainer.max_steps"
    same = early_stopping(content["hyper_parameters"]["settings"]) == early_stopping(now)
    for name, node in early_stopping(now).items():
        # As Lightning names the state.
        key = f"EarlyStopping{ {'monitor': node['monitor'], 'mode': node.get('mode', 'min')} }"
        patience = now["callbacks"][name].get("patience", 3)
        if key in content["callbacks"] and has_stopped(content["callbacks"][key], patience, same):
            return f"callbacks.{name} has ended it after {epochs} epochs; more with a greater callbacks.{name}.patience"
    return ""


def _below(key: str, nodes: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of some nodes, or in one."""
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def _has(settings: Mapping[str, Any], key: str) -> bool:
    """Whether settings, perhaps those of another version, have a dotted key."""
    *parents, name = key.split(".")
    for parent in parents:
        settings = settings.get(parent) or {}
    return name in settings
