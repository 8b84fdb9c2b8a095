"""Checks whether a training can be resumed from a checkpoint, and refuses settings that would have no effect."""

import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import WeightAveraging

from lightning_det.annotations import LabelMap
from lightning_det.callbacks.keep_settings import early_stopping_nodes, has_stopped
from lightning_det.callbacks.ranks import differences
from lightning_det.checkpoint import load_checkpoint
from lightning_det.modules.module import DetectionModule
from lightning_det.modules.rates import missing_state
from lightning_det.runs.kinds import makes
from lightning_det.system.errors import ConfigError, UserError, explain_error

log = logging.getLogger("lightning_det")

STATE = ("callbacks", "global_step", "loops", "lr_schedulers", "optimizer_states", "pytorch-lightning_version")
"""Keys of a checkpoint, besides weights and settings, that a resumed training needs."""

NOT_COMPARED = ("callbacks", "logger", "proposals", "resume", "weights")
"""Nodes of the settings that do not affect the trained model."""

AT_START = ("backbone.weights", "detector.prior", "miner")
"""Settings for the start of a training, which have no effect on a resumed one."""

WITHOUT_TRAINING = ("trainer", "dataset.root", "dataset.source.root", "data.num_workers", "data.keep_megabytes")
"""Settings that may differ even if nothing is left to train."""

LIGHTNING_RESTORERS = {"_restore_modules_and_callbacks", "restore_training_state"}
"""Functions of Lightning that read the state of a training, in the private class ``_CheckpointConnector``.

Checked with Lightning 2.6; `tests/callbacks/test_private_lightning.py` fails when they are renamed.
"""

RESTORERS = {*LIGHTNING_RESTORERS, "_find_mismatch", "_find_end"}

NEW = "start a new training from its weights with weights=FILE"


def check_resumable(cfg: DictConfig, module: DetectionModule, mines: bool = False) -> None:
    """Checks that a training can be resumed from the checkpoint of ``cfg.resume``, before anything is written.

    Args:
        cfg: configuration of this run.
        module: the module to be trained.
        mines: whether this run mines proposals before it trains.

    Raises:
        UserError: the checkpoint has no state of a training, or has other classes, another detector, another optimizer
            or another averaging of weights.
        ConfigError: settings would have no effect.
    """
    content = load_checkpoint(cfg.resume, "last")
    lost = [key for key in STATE if content.get(key) in (None, [])]
    if lost:
        raise UserError(
            f"resume={cfg.resume}: this checkpoint holds weights and not the state of a training (no "
            f"{', '.join(lost)}); go on from another one (RUN_FOLDER/checkpoints/last.ckpt), or {NEW}"
        )
    before, now = content["hyper_parameters"]["settings"], module.hparams["settings"]
    changed = [f"{key} was {_short(before, key)}, is {_short(now, key)}" for key in changed_settings(before, now)]
    with explain_restore_errors(cfg):
        mismatch, end = _find_mismatch(content, module, cfg), _find_end(content, now, cfg)
    if mismatch:
        settings = f"\nSettings that differ: {'; '.join(changed)}" if changed else ""
        raise UserError(
            f"resume={cfg.resume}: this training cannot go on from there: {mismatch}. Give the run's own settings "
            f"(resume=RUN_FOLDER alone does), or {NEW}.{settings}"
        )
    if late := late_settings(before, now, mines):
        raise ConfigError(
            f"resume={cfg.resume}: {', '.join(late)}: the checkpoint's weights and the run's proposals are "
            f"there already, and this would have no effect; leave it out, or {NEW}"
        )
    epochs, steps = _epochs_done(content), content["global_step"]
    log.info("goes on from %s: %d epochs are done (%d steps in all)", cfg.resume, epochs, steps)
    for words in changed:
        log.info("another setting than before: %s", words)
    if end:
        _check_nothing_to_train(cfg, before, now, end)


def _check_nothing_to_train(cfg: DictConfig, before: dict[str, Any], now: dict[str, Any], end: str) -> None:
    """Warns that the training has ended, and refuses settings that only further training would use."""
    keys = [k for k in changed_settings(before, now) if not _is_below(k, WITHOUT_TRAINING) and _has_key(before, k)]
    if keys:
        raise ConfigError(
            f"resume={cfg.resume}: nothing is left to train ({end}), so these would have no effect: "
            f"{', '.join(keys)}. Leave them out, evaluate with lightning-det eval "
            f"checkpoint={cfg.resume}, or {NEW}"
        )
    log.warning("nothing is left to train: %s", end)


def late_settings(before: Mapping[str, Any], now: Mapping[str, Any], mines: bool = False) -> list[str]:
    """Lists the dotted keys of settings that differ, but only matter at the start of a training.

    Args:
        before: settings of the checkpoint.
        now: settings of this run.
        mines: whether this run mines proposals.
    """
    early = tuple(node for node in AT_START if not (mines and node == "miner"))
    return sorted(key for key in differences(before, now) if _is_below(key, early))


@contextmanager
def explain_restore_errors(cfg: DictConfig, mined: Path | None = None) -> Iterator[None]:
    """Explains errors in restoring the state of a training: the checkpoint may be of another version, or damaged.

    Args:
        cfg: of this run.
        mined: the file of a partly trained proposal network, if it is restored.

    Raises:
        UserError: replaces the error of the code that reads the checkpoint.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        callers = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
        if (cfg.resume is None and mined is None) or not callers & RESTORERS or explain_error(error) is not None:
            raise
        file, remedy = (f"resume={cfg.resume}", NEW) if mined is None else (mined, "remove it, and mining starts over")
        raise UserError(
            f"{file}: the state of the training cannot be restored ({type(error).__name__}: {str(error)[:200]}): the "
            f"checkpoint is of another version, or damaged; {remedy}"
        ) from error


def _find_mismatch(content: dict[str, Any], module: DetectionModule, cfg: DictConfig) -> str:
    """Says why a training cannot be resumed from a checkpoint; empty if it can."""
    saved = content["hyper_parameters"]
    classes = LabelMap.from_dict(saved["labels"]).difference(module.labels)
    if classes:
        return f"the dataset {classes}, compared with the checkpoint"
    if names := module.find_mismatches(content["state_dict"]):
        return f"it is of another detector ({len(names)} tensors are missing or differ in shape, such as {names[0]})"
    if mismatch := _find_optimizer_mismatch(content, module):
        return mismatch
    nodes = {f"callbacks.{name}": node for name, node in (cfg.callbacks or {}).items() if node is not None}
    averages = any(makes(key, node, WeightAveraging) for key, node in nodes.items())
    if averages != ("averaging_state" in content):
        return f"it has {'no' if averages else 'an'} average of weights (callbacks=[default,ema])"
    done = {"max_epochs": _epochs_done(content), "max_steps": content["global_step"]}
    for limit, count in done.items():
        if -1 < (-1 if cfg.trainer.get(limit) is None else cfg.trainer[limit]) < count:
            return f"it is {count} {limit[4:]} old, more than trainer.{limit}={cfg.trainer[limit]}"
    return ""


def _find_optimizer_mismatch(content: dict[str, Any], module: DetectionModule) -> str:
    """Says why the optimizer cannot load a checkpoint's state; empty if it can."""
    saved = content["hyper_parameters"]["settings"].get("optimizer") or {}
    own = module.hparams["settings"].get("optimizer") or {}
    groups = module.parameter_groups()
    saved_counts = [len(group["params"]) for group in content["optimizer_states"][0]["param_groups"]]
    counts = [len(group["params"]) for group in groups]
    if saved.get("_target_") != own.get("_target_"):
        return f"its optimizer is {saved.get('_target_')}, this one {own.get('_target_')}"
    if saved_counts != counts:
        return f"its optimizer has groups of {saved_counts} parameters, this one of {counts}"
    if module.optimizer is None:
        return ""
    if name := missing_state(module.optimizer, content["optimizer_states"][0], groups[0]["params"]):
        changed = ", ".join(f"optimizer.{key}" for key in sorted(differences(saved, own)))
        return f"its optimizer has kept no {name}, which this one needs ({changed})"
    return ""


def _epochs_done(content: Mapping[str, Any]) -> int:
    """Counts the complete epochs of a checkpoint's training."""
    return content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists the dotted keys of settings that differ and affect the trained model."""
    return sorted(k for k in differences(before, now) if k.split(".")[0] not in NOT_COMPARED)


def _short(settings: dict[str, Any], key: str) -> str:
    """Formats the value of a dotted key, truncated if it is long."""
    text = str(OmegaConf.select(OmegaConf.create(settings), key))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _find_end(content: Mapping[str, Any], now: Mapping[str, Any], cfg: DictConfig) -> str:
    """Says why nothing is left to train, and which setting allows more; empty if something is left."""
    epochs, steps = _epochs_done(content), content["global_step"]
    if cfg.trainer.max_epochs == epochs:
        return f"all {epochs} epochs are done; more with trainer.max_epochs"
    if cfg.trainer.get("max_steps") == steps:
        return f"all {steps} steps are done; more with trainer.max_steps"
    same = early_stopping_nodes(content["hyper_parameters"]["settings"]) == early_stopping_nodes(now)
    for name, node in early_stopping_nodes(now).items():
        # Lightning's key of the state, see `EarlyStopping.state_key`.
        key = f"EarlyStopping{ {'monitor': node['monitor'], 'mode': node.get('mode', 'min')} }"
        patience = now["callbacks"][name].get("patience", 3)
        if key in content["callbacks"] and has_stopped(content["callbacks"][key], patience, same):
            return f"callbacks.{name} has ended it after {epochs} epochs; more with a greater callbacks.{name}.patience"
    return ""


def _is_below(key: str, nodes: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of the nodes, or is inside one."""
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def _has_key(settings: Mapping[str, Any], key: str) -> bool:
    """Whether settings, perhaps those of another version, have a dotted key."""
    *parents, name = key.split(".")
    for parent in parents:
        settings = settings.get(parent) or {}
    return name in settings
