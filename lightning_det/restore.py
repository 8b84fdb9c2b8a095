"""A trained detector and its settings, out of a checkpoint."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap
from lightning_det.build import build_module, check_kinds, load_checkpoint
from lightning_det.callbacks.ranks import differences
from lightning_det.checkpoint import check_references
from lightning_det.cli import chosen, overridden_keys
from lightning_det.config import resolved, validated
from lightning_det.config.parts import PARTS, check_parts
from lightning_det.errors import ConfigError, UserError
from lightning_det.modules.module import DetectionModule, parameter_groups
from lightning_det.overlay import check_read, check_shape, complete, overlaid

log = logging.getLogger("lightning_det")

OF_NO_MATTER = ("callbacks", "logger", "proposals", "resume", "weights")
"""Nodes that may differ where a training goes on."""


def restored(cfg: DictConfig) -> tuple[DictConfig, DetectionModule]:
    """Settings and module of ``cfg.checkpoint``, with what the user set on the command line.

    Args:
        cfg: as composed for this command.

    Raises:
        UserError: no checkpoint of this package.
        ConfigError: the settings do not fit.
    """
    content = load_checkpoint(cfg.checkpoint)
    saved = content["hyper_parameters"]
    merged = merged_settings(saved["settings"], cfg)
    labels, weights = LabelMap.from_dict(saved["labels"]), content["state_dict"]
    check_fit(merged, labels, weights, cfg.checkpoint)
    module = build_module(merged, labels, learning=False)
    try:
        check_kinds(module, weights)
        module.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        raise _unfit(cfg.checkpoint, str(error).partition("\n\t")[2] or str(error)) from error
    return merged, module.eval()


def merged_settings(saved: dict[str, Any], cfg: DictConfig) -> DictConfig:
    """The settings of a checkpoint with what the user set, checked before anything in them is called.

    Args:
        saved: plain data, see `read_checkpoint`.
        cfg: as composed for this command.

    Raises:
        ConfigError: naming the key.
    """
    command, keys = HydraConfig.get().job.config_name, overridden_keys()
    try:
        merged = overlaid(complete(saved), cfg, keys)
        check_references(OmegaConf.to_container(merged, resolve=False, enum_to_str=True))
    except ValueError as error:
        raise ConfigError(f"checkpoint={cfg.checkpoint}: {error}") from error
    for part in ("optimizer", "schedule"):  # nothing here calls them, which may be the user's own
        if (OmegaConf.select(merged, f"{part}._target_") or "") not in PARTS[part]:
            merged[part] = None
    plain = resolved(merged)
    check_parts(plain, cfg)
    check_shape(plain)
    check_read(merged, command, cfg.get("split") if command == "eval" else None, keys)
    return validated(merged, chosen(), keys)


def check_fit(cfg: DictConfig, labels: LabelMap, weights: Mapping[str, Tensor], name: str) -> None:
    """Compares a detector of the package's parts with its weights before it takes memory, which settings may ask for.

    Raises:
        UserError: the weights are of another detector.
    """
    if any(cfg[part]._target_ not in PARTS[part] for part in ("backbone", "detector", "module")):
        return  # the user's own parts may need numbers to be made
    with torch.device("meta"):
        outline = build_module(cfg, labels, learning=False)
    if wrong := outline.unlike(weights):
        raise _unfit(name, f"{len(wrong)} tensors are missing or differ in shape, such as {', '.join(wrong[:3])}")


def _unfit(name: str, reason: str) -> UserError:
    return UserError(
        f"checkpoint={name}: its weights do not fit the detector of these settings ({reason[:300]}); "
        "leave out what changes the detector: a checkpoint brings its own"
    )


def to_go_on_from(cfg: DictConfig, module: DetectionModule) -> None:
    """Checks that a training can go on from the checkpoint of ``cfg.resume``, before anything is written.

    Args:
        cfg: of this run.
        module: that it is about to train.

    Raises:
        UserError: the checkpoint has other classes, another detector, optimizer or averaging of weights.
    """
    content = load_checkpoint(cfg.resume, "last")
    saved = content["hyper_parameters"]
    before, now = saved["settings"], module.hparams["settings"]
    changed = [f"{key} was {_short(before, key)}, is {_short(now, key)}" for key in changed_settings(before, now)]
    wrong = _unlike(content, module, cfg)
    if wrong:
        settings = f"\nSettings that differ: {'; '.join(changed)}" if changed else ""
        raise UserError(
            f"resume={cfg.resume}: this training cannot go on from there: {wrong}. Give the run's own settings "
            f"(resume=RUN_FOLDER alone does), or start a new training from its weights with weights=FILE.{settings}"
        )
    log.info("goes on from %s: %d epochs and %d steps are done", cfg.resume, _epochs(content), content["global_step"])
    for words in changed:
        log.info("another setting than before: %s", words)


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
    nodes = (node for node in (cfg.callbacks or {}).values() if node is not None)
    averages = [node._target_.endswith("WeightAveraging") for node in nodes]
    if any(averages) != ("averaging_state" in content):
        return f"it has {'no' if any(averages) else 'an'} average of weights (callbacks=[default,ema])"
    epochs, limit = _epochs(content), cfg.trainer.max_epochs
    return f"it is {epochs} epochs old, more than trainer.max_epochs={limit}" if -1 < (limit or -1) < epochs else ""


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


def relabelled(store: AnnotationStore, labels: LabelMap) -> AnnotationStore:
    """A store whose classes are counted as a detector counts them; classes are the same if their names are.

    Raises:
        DatasetError: the store has classes that the detector does not know.
    """
    unknown = [n for n in store.label_map.names if n not in labels.names]
    if unknown:
        raise DatasetError(
            f"the dataset has classes that the checkpoint does not know: {', '.join(unknown[:10])}; "
            f"it knows {', '.join(labels.names[:10])}{' ...' if len(labels) > 10 else ''}"
        )
    return store.with_labels(labels)
