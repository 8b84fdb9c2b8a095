"""A trained detector and its settings, out of a checkpoint."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap
from lightning_det.build import build_module, load_checkpoint
from lightning_det.callbacks.ranks import differences
from lightning_det.cli import chosen, overridden_keys
from lightning_det.config import option_file, validated
from lightning_det.config.signatures import locate
from lightning_det.errors import ConfigError, UserError
from lightning_det.modules.module import DetectionModule, parameter_groups

log = logging.getLogger("lightning_det")

OF_THIS_RUN = ("trainer", "seed", "logger", "dataset.limit", "dataset.limit_val")
"""Keys that never come from a checkpoint: they describe this machine and this run."""

OF_NO_MATTER = ("callbacks", "logger", "proposals", "resume", "weights")
"""Nodes that may differ where a training goes on."""

PARTS = tuple(f"lightning_det.{p}." for p in ("backbones", "callbacks", "data", "detectors", "modules", "selection"))
PARTS += ("lightning_det.views.", "pytorch_lightning.", "torch.optim.")
"""Where the parts come from that a checkpoint's settings may name."""

OF_GROUPS = {
    "strategy": ("views", "data", "test"),
    "experiment": ("dataset", "views", "data", "test"),
}
"""What choosing an option of these groups replaces in the settings of a checkpoint. See also `replaced_by_tests`."""


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
    merged = overlaid(saved["settings"], cfg, overridden_keys())
    check_origins(OmegaConf.to_container(merged, resolve=False), OmegaConf.to_container(cfg, resolve=False))
    merged = validated(merged, chosen(), overridden_keys())
    module = build_module(merged, LabelMap.from_dict(saved["labels"]), learning=False)
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        first = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
        raise UserError(
            f"checkpoint={cfg.checkpoint}: its weights do not fit the detector of these settings ({first[:200]}); "
            "leave out what changes the detector: a checkpoint brings its own"
        ) from error
    return merged, module.eval()


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


def check_origins(node: Any, now: Any, key: str = "") -> None:
    """Refuses settings of a checkpoint that would call code from elsewhere: they could run anything.

    Args:
        node: the settings as plain data.
        now: what the user's own options and command line came to at the same place; they may call anything there.
        key: of the node.

    Raises:
        ConfigError: naming the code, and how to allow it.
    """
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        here = f"{key}.{name}" if key else str(name)
        inside = isinstance(now, type(node)) and (name in now if isinstance(now, dict) else name < len(now))
        named = now[name] if inside else None
        if isinstance(value, dict | list):
            check_origins(value, named, here)
        # An interpolation is the same text in both, and may lead to another part of the checkpoint's settings.
        elif name == "_target_" and (value != named or "${" in str(value)) and not _is_part(here, value):
            raise ConfigError(
                f"{here}: the checkpoint's settings call {value}, which is no part of lightning-det; "
                f"if you know and trust it, give ++{here}={value}"
            )


def _is_part(key: str, target: Any) -> bool:
    """Whether a target is public and was defined in `PARTS`: paths go through imports, as in ``module.os.system``."""
    if not isinstance(target, str) or not target.startswith(PARTS) or "._" in target:
        return False
    return f"{getattr(locate(key, target), '__module__', '')}.".startswith(PARTS)


def overlaid(saved: dict[str, Any], cfg: DictConfig, overridden: list[str]) -> DictConfig:
    """A checkpoint's settings, replaced where the user chose otherwise.

    Args:
        saved: the ``settings`` of a checkpoint.
        cfg: this command's configuration, with everything that the user set.
        overridden: keys and groups that the user set.
    """
    merged = OmegaConf.create(saved)
    wanted = [*OF_THIS_RUN]
    for key in overridden:
        wanted += replaced_by_tests(chosen()["test"]) if key == "test" else OF_GROUPS.get(key, (key,))
    for key in wanted:
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=False, enum_to_str=True)
        OmegaConf.update(merged, key, value, merge=False, force_add=True)
    return merged


def replaced_by_tests(options: Sequence[str]) -> list[str]:
    """What options of the group ``test`` replace: views as a whole, and of the rest what they set.

    So ``test=[voting]`` refines what a checkpoint's strategy brings, and ``test=[single_scale]`` drops its pyramid.
    """
    files = [option_file(f"test/{name}") for name in options]
    keys = [f"test.{key}" for file in files for key in file.get("test", {})]
    return ["views.test"] * any("views" in file for file in files) + keys


def relabelled(store: AnnotationStore, labels: LabelMap) -> AnnotationStore:
    """A store whose classes are counted as a detector counts them; classes are the same if their names are.

    Raises:
        DatasetError: the store has classes that the detector does not know.
    """
    pairs = zip(store.label_map.names, store.label_map.shown, strict=True)
    unknown = [shown for name, shown in pairs if name not in labels.names]
    if unknown:
        raise DatasetError(
            f"the dataset has classes that the checkpoint does not know: {', '.join(unknown[:10])}; "
            f"it knows {', '.join(labels.shown[:10])}{' ...' if len(labels) > 10 else ''}"
        )
    return store.with_labels(labels)
