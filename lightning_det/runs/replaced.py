"""Says which settings of a checkpoint another dataset's replace."""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_det.callbacks.ranks import differences
from lightning_det.config.composition import origin, override_key
from lightning_det.system.errors import one_line

log = logging.getLogger("lightning_det")

TUNED = ("views.test", "test", "dataset.size_cuts")
"""Settings that decide what is found and how it is measured."""


def replaced_settings(saved: Mapping[str, Any], merged: DictConfig, overridden: Iterable[str]) -> dict[str, list[Any]]:
    """Lists the settings of inference and evaluation that differ from those of the checkpoint's training.

    Args:
        saved: complete settings of the checkpoint, not resolved.
        merged: see `overlay_settings`.
        overridden: keys that the user set, which are left out.

    Returns:
        Before and after, by key.
    """
    before, after = _tuned(OmegaConf.create(dict(saved))), _tuned(merged)
    keys = [tuple(key.split(".")) for key in overridden if "." in key]
    found: dict[str, list[Any]] = {}
    for key in differences(before, after):
        place = tuple(key.split("."))
        if not any(place[: len(given)] == given for given in keys):
            found[key] = [_at(before, place), _at(after, place)]
    return found


def report_replaced(saved: Mapping[str, Any], merged: DictConfig, overridden: Iterable[str]) -> None:
    """Logs what ``dataset=OTHER`` beside a checkpoint replaces besides the images."""
    overridden = list(overridden)
    if "dataset" not in overridden:
        return
    found = replaced_settings(saved, merged, overridden)
    if found:
        words = [f"{key} from {_text(before)} to {_text(after)}" for key, (before, after) in found.items()]
        log.info(
            "dataset=%s replaces settings that the checkpoint was trained with: %s (what is given beside it is kept: "
            "dataset.resolution=..., dataset.pyramid=...; to evaluate other images of the same kind, give dataset.root "
            "alone)",
            next(o.partition("=")[2] for o in origin().overrides if override_key(o) == "dataset"),
            "; ".join(words),
        )


def _tuned(cfg: DictConfig) -> dict[str, Any]:
    """The values of `TUNED`, nested by their keys."""
    nodes: dict[str, Any] = {}
    for key in TUNED:
        value = OmegaConf.select(cfg, key)
        plain = OmegaConf.to_container(value, resolve=True, enum_to_str=True) if OmegaConf.is_config(value) else value
        *above, last = key.split(".")
        node = nodes
        for step in above:
            node = node.setdefault(step, {})
        node[last] = plain
    return nodes


def _at(node: Any, place: Iterable[str]) -> Any:
    for step in place:
        node = node.get(step) if isinstance(node, Mapping) else None
    return node


def _text(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False), 200)
