"""Combines a checkpoint's settings with those of the user: every key takes effect, or is refused by name."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_det.checkpoint.plain import follow, key_references
from lightning_det.config import read_option
from lightning_det.config.schema import Config, EvalConfig, ExportConfig, LoadConfig, PredictConfig
from lightning_det.runs.composition import chosen_options
from lightning_det.runs.idle import idle_keys
from lightning_det.system.errors import ConfigError

log = logging.getLogger("lightning_det")

OF_THIS_RUN = ("trainer", "seed", "logger", "callbacks", "dataset.limit", "dataset.limit_val")
"""Keys that never come from a checkpoint: they describe this machine and this run."""

OF_GROUPS = {
    "strategy": ("views", "data", "test"),
    "experiment": ("dataset", "views", "data", "test"),
    "detector": ("detector", "module"),
}
"""Settings of a checkpoint that an option of these groups replaces. See also `keys_replaced_by_tests`."""

OF_TRAINING = ("optimizer", "schedule", "debug")
"""Config groups that are not read if there is a checkpoint."""

SCHEMAS = {"eval": EvalConfig, "predict": PredictConfig, "load": LoadConfig, "export": ExportConfig}

DETECTOR = ("backbone", "detector", "focus", "module", "views.test", "dataset.root")
SHOWN = ("test.score_threshold", "test.nms_iou", "test.max_detections", "test.passes")
DETECTED = (
    *SHOWN,
    *("test.view_detections", "test.merge", "test.vote", "test.detections_per_megapixel", "test.fragments"),
    *("data._target_", "data.test_batch_size", "data.test_megapixels"),
)
FOUND = (*DETECTED, "data.num_workers", "data.keep_megabytes", "trainer")
EVALUATED = (
    *("dataset.source", "dataset.holdout", "dataset.classes", "dataset.other_classes", "dataset.on_bad"),
    *("dataset.limit_val", "dataset.size_cuts", "test.backend", "test.metric", "logger"),
    *("callbacks.pictures", "callbacks.report", "callbacks.wandb"),
)

READ = {
    "eval": (*DETECTOR, *FOUND, *EVALUATED),
    "predict": (*DETECTOR, *FOUND),
    "load": (*DETECTOR, *DETECTED, "dataset.size_cuts", "test.backend", "test.metric"),
    "export": (*DETECTOR, *SHOWN),
}
"""Keys that the commands read, in addition to the keys that these refer to."""

UNREAD = (
    *(f"detector.{name}" for name in ("box_beta", "box_weight")),
    *(f"detector.roi_head.{name}" for name in ("box_beta", "positive", "loss_weights")),
    *(f"detector.{name}" for name in ("box_loss", "alpha", "gamma", "prior", "positive", "negative")),
    *(f"detector.rpn.{name}" for name in ("positive", "negative", "border", "box_beta", "box_weight")),
    *(f"backbone.{name}" for name in ("weights", "frozen_stages", "checkpointed")),
    *(f"module.{name}" for name in ("norm_weight_decay", "backbone_lr_scale", "backbone_weight_decay")),
    *("module.reference_batch", "views.test.scales.warm_epochs", "focus.limits"),
    *("trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps", "trainer.max_time"),
    *("trainer.limit_train_batches", "trainer.overfit_batches", "trainer.check_val_every_n_epoch"),
    *("trainer.val_check_interval", "trainer.num_sanity_val_steps", "trainer.log_every_n_steps"),
    *("trainer.accumulate_grad_batches", "trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
    *("trainer.detect_anomaly", "trainer.enable_model_summary", "trainer.enable_checkpointing"),
)
"""Keys below those that only a training reads."""

BEFORE = {"test.detections_per_megapixel": None, "test.fragments": None, "capacity.proposals_per_megapixel": None}
"""Values of keys for checkpoints that are older than the key: its default would change their figures."""

UNREAD_BY = {
    "predict": ("trainer.limit_val_batches", "dataset.root"),
    "eval": ("trainer.limit_predict_batches",),
    "load": ("dataset.root",),
    "export": ("dataset.root", "module.compiled", "views.test.scales.valid_ranges"),
}


def overlay_settings(saved: dict[str, Any], cfg: DictConfig, overridden: Sequence[str]) -> DictConfig:
    """Returns a checkpoint's settings, overridden by those of the user.

    Args:
        saved: the ``settings`` of a checkpoint.
        cfg: this command's configuration, with everything that the user set.
        overridden: keys and groups that the user set.
    """
    merged = OmegaConf.create(saved)
    wanted = [*OF_THIS_RUN]
    for key in overridden:
        if key == "test":
            wanted += keys_replaced_by_tests(chosen_options()["test"])
        elif key in ("backbone", "detector") and _same_part(saved, cfg, key):
            _say_kept(saved, cfg, key)
        else:
            wanted += OF_GROUPS.get(key, (key,) if key != "debug" else ())
    form = OmegaConf.select(merged, "backbone.form")
    for key in wanted:
        OmegaConf.update(merged, key, _composed_value(cfg, key), merge=False, force_add=True)
    if "detector" in wanted:
        form = OmegaConf.select(cfg, "backbone.form")
    if form is not None and "backbone.form" not in overridden and OmegaConf.is_dict(merged.get("backbone")):
        OmegaConf.update(merged, "backbone.form", form, force_add=True)
    composed: Any = OmegaConf.to_container(cfg, resolve=False)
    for place, text in referring_settings(composed, overridden):
        key = ".".join(place)
        parent = OmegaConf.select(merged, ".".join(place[:-1]))
        if key not in overridden and OmegaConf.is_dict(parent) and place[-1] in parent:
            OmegaConf.update(merged, key, text, merge=False)
    return merged


def _composed_value(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key, throw_on_missing=False)
    return OmegaConf.to_container(value, resolve=False, enum_to_str=True) if OmegaConf.is_config(value) else value


def _same_part(saved: Mapping[str, Any], cfg: DictConfig, key: str) -> bool:
    """Whether an option names the part that the checkpoint was trained with; its settings are then kept."""
    node = saved.get(key)
    target = node.get("_target_") if isinstance(node, dict) else None
    return target is not None and target == OmegaConf.select(cfg, f"{key}._target_")


def _say_kept(saved: Mapping[str, Any], cfg: DictConfig, key: str) -> None:
    """Logs the settings of an option that are ignored, because the weights were trained with others."""
    now, before = dict(_leaves(_composed_value(cfg, key))), dict(_leaves(saved[key]))
    kept = [
        f"{name}={before[name]}"
        for name, value in now.items()
        if name != "form" and "${" not in str(value) and name in before and before[name] != value
    ]
    if kept:
        log.info("%s: as the checkpoint was trained: %s", key, ", ".join(kept))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys and values below a node."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def keys_replaced_by_tests(options: Sequence[str]) -> list[str]:
    """Lists the keys that options of the group ``test`` replace: all views, and the other keys that they set.

    So ``test=[voting]`` refines the inference of a checkpoint's strategy; ``test=[single_scale]`` drops its pyramid.
    """
    files = [read_option(f"test/{name}") for name in options]
    keys = [f"test.{key}" for file in files for key in file.get("test", {})]
    return ["views.test"] * any("views" in file for file in files) + keys


def referring_settings(composed: dict[str, Any], overridden: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Finds settings of the detector that refer to keys of the user, such as capacity's, and their interpolations.

    A checkpoint holds them as numbers, whereas its views and tests still refer to the dataset.

    Args:
        composed: this command's configuration, not resolved.
        overridden: keys that the user set.
    """
    keys = [tuple(key.split(".")) for key in overridden if "." in key]
    found = []
    for node in ("detector", "backbone", "module"):
        for place, text in _texts(composed.get(node), (node,)):
            if any(touches(key, other) for other in key_references(text, place) for key in keys):
                found.append((place, text))
    return found


def _texts(node: Any, place: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], str]]:
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _texts(value, (*place, str(name)))
    elif isinstance(node, str) and "${" in node:
        yield place, node


def touches(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two places are the same, or one is inside the other."""
    return all(a == b for a, b in zip(first, second, strict=False))


def check_read(merged: DictConfig, command: str, split: str | None, overridden: Collection[str]) -> None:
    """Refuses keys beside a checkpoint that nothing reads.

    Args:
        merged: see `overlay_settings`.
        command: its name.
        split: that it reads.
        overridden: keys and groups that the user set.

    Raises:
        ConfigError: naming the key.
    """
    schema = SCHEMAS[command]
    own = {f.name for f in fields(schema)} - {f.name for f in fields(Config)}
    plain: Any = OmegaConf.to_container(merged, resolve=False, enum_to_str=True)
    read = reachable_keys(
        plain, [tuple(key.split(".")) for key in (*READ[command], *([f"dataset.{split}"] if split else []))]
    )
    unread, idle = (*UNREAD, *UNREAD_BY.get(command, ())), idle_keys(plain)
    for key in overridden:
        place = tuple(key.split("."))
        takes = any(touches(place, other) for other in read) and key not in unread
        takes &= key not in idle and (key != "dataset.holdout" or split != "test")
        if place[0] in own or takes or key.endswith("._target_"):
            continue
        if key in ("strategy", "test", "dataset", "experiment"):
            continue
        if key == "dataset.root" and "dataset" in overridden:  # whose option is not complete without it
            continue
        why = f": {idle[key]}" if key in idle else _reason(place, split, command)
        raise ConfigError(f"{key} beside a checkpoint: {command} does not read it{why}; leave it out")


def reachable_keys(plain: dict[str, Any], places: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Collects keys, and all keys that they refer to, directly or indirectly."""
    found, left = set(), list(places)
    while left:
        place = left.pop()
        if place in found:
            continue
        found.add(place)
        node, way = follow(plain, place)
        if isinstance(node, str) and way != place:
            left.append(way)  # an interpolation on the way
        left += [other for at, text in _texts(node, way) for other in key_references(text, at)]
    return found


def _reason(place: tuple[str, ...], split: str | None, command: str) -> str:
    if place[0] in ("capacity", "selection") or place == ("dataset", "anchor_sizes"):
        return ": the checkpoint's detector has its own settings, see detector in the run's config.yaml"
    if place[0] == "dataset" and place[-1] in ("train", "val", "test") and split:
        return f" with split={split}"
    if place[0] in ("dataset", "logger", "callbacks", "trainer", "test", "data", "seed") and command != "eval":
        return ""
    return ", only a training does"


def complete(saved: dict[str, Any]) -> dict[str, Any]:
    """Completes the settings of a checkpoint by keys that are newer than it, and checks the types.

    Raises:
        ValueError: a value has another type than its key asks for.
    """
    return _complete(OmegaConf.structured(Config), saved, "")


def _complete(schema: DictConfig, saved: dict[str, Any], key: str) -> dict[str, Any]:
    filled: Any = OmegaConf.to_container(schema, enum_to_str=True)
    for name, value in saved.items():
        here = f"{key}.{name}" if key else name
        if name in schema and OmegaConf.is_dict(schema[name]):
            if not isinstance(value, dict):
                raise ValueError(f"settings.{here}: must be a node, got {value!r:.100}")
            filled[name] = _complete(schema[name], value, here)
            continue
        if name in schema:
            try:
                schema[name] = value
            except OmegaConfBaseException as error:
                raise ValueError(f"settings.{here}: {str(error).splitlines()[0][:200]}") from error
        filled[name] = value
    new = {name: f"{key}.{name}" for name in filled if name not in saved}
    return filled | {name: BEFORE[here] for name, here in new.items() if here in BEFORE}
