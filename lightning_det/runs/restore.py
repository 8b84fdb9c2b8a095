"""Restores a trained detector and its settings from a checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap
from lightning_det.checkpoint import check_references, load_checkpoint
from lightning_det.config import resolve, validate
from lightning_det.config.composition import origin
from lightning_det.config.module import build_module
from lightning_det.config.parts import PARTS, check_parts
from lightning_det.config.recognition import recognise_other_root
from lightning_det.config.validation import check_present
from lightning_det.modules.module import DetectionModule
from lightning_det.runs.composition import chosen_options, overridden_keys
from lightning_det.runs.overlay import check_read, complete, overlay_settings
from lightning_det.runs.replaced import report_replaced
from lightning_det.runs.weights import check_kinds
from lightning_det.system.errors import ConfigError, UserError


def restore_detector(cfg: DictConfig) -> tuple[DictConfig, DetectionModule]:
    """Restores settings and module of ``cfg.checkpoint``, with overrides of the command line.

    Args:
        cfg: as composed for this command.

    Raises:
        UserError: the file is not a checkpoint of this package.
        ConfigError: the settings do not fit the checkpoint.
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
    """Merges the settings of a checkpoint with those of the user, and checks them before anything is called.

    Args:
        saved: plain data, see `read_checkpoint`.
        cfg: as composed for this command.

    Raises:
        ConfigError: naming the key.
    """
    command, keys = str(origin().command), overridden_keys()
    try:
        known = complete(saved)
        merged = overlay_settings(known, cfg, keys)
        references: Any = OmegaConf.to_container(merged, resolve=False, enum_to_str=True)
        check_references(references)
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"checkpoint={cfg.checkpoint}: {str(error).splitlines()[0]}") from error
    for part in ("optimizer", "schedule"):  # nothing here calls them, which may be the user's own
        if (OmegaConf.select(merged, f"{part}._target_") or "") not in PARTS[part]:
            merged[part] = None
    plain = resolve(merged)
    check_parts(plain, cfg)
    check_present(plain, "a checkpoint of a training names one")
    check_read(merged, command, cfg.get("split") if command == "eval" else None, keys)
    _check_whole(merged.trainer, command)
    report_replaced(known, merged, keys)
    valid = validate(merged, chosen_options(), keys)
    return recognise_other_root(valid, keys) if command == "eval" else valid


def _check_whole(trainer: DictConfig, command: str) -> None:
    """Refuses a trainer that looks at a part of the images only: the figures would pass for those of all.

    Raises:
        ConfigError: naming the key.
    """
    limits = {"eval": "limit_val_batches", "predict": "limit_predict_batches"}
    if command not in limits:
        return
    limit, dry = trainer.get(limits[command]), trainer.get("fast_dev_run")
    limited = limit is not None and not (isinstance(limit, float) and limit == 1)
    if limited or dry:
        key = f"trainer.{limits[command]}={limit}" if limited else f"trainer.fast_dev_run={dry}"
        fewer = "dataset.limit_val=N evaluates on the first N" if command == "eval" else "source can name fewer"
        raise ConfigError(f"{key}: {command} looks at all images; {fewer}")


def check_fit(cfg: DictConfig, labels: LabelMap, weights: Mapping[str, Tensor], name: str) -> None:
    """Compares a detector's shapes with its weights before memory is allocated, because settings may need a lot.

    Raises:
        UserError: the weights are of another detector.
    """
    if any(cfg[part]._target_ not in PARTS[part] for part in ("backbone", "detector", "module")):
        return  # the user's own parts may need numbers to be made
    with torch.device("meta"):
        outline = build_module(cfg, labels, learning=False)
    if wrong := outline.find_mismatches(weights):
        raise _unfit(name, f"{len(wrong)} tensors are missing or differ in shape, such as {', '.join(wrong[:3])}")


def _unfit(name: str, reason: str) -> UserError:
    return UserError(
        f"checkpoint={name}: its weights do not fit the detector of these settings ({reason[:300]}); "
        "leave out what changes the detector: a checkpoint brings its own"
    )


def relabel(store: AnnotationStore, labels: LabelMap) -> AnnotationStore:
    """Renumbers the classes of a store as in the detector; classes are matched by name.

    Raises:
        DatasetError: the store has classes that the detector does not know.
    """
    pairs = zip(store.label_map.names, store.label_map.printable_names, strict=True)
    unknown = [shown for name, shown in pairs if name not in labels.names]
    if unknown:
        raise DatasetError(
            f"the dataset has classes that the checkpoint does not know: {', '.join(unknown[:10])}; "
            f"it knows {', '.join(labels.printable_names[:10])}{' ...' if len(labels) > 10 else ''}; "
            "dataset.classes=[...] leaves the others out"
        )
    return store.with_labels(labels)
