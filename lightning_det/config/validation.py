"""The checks that a run makes before it starts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lightning_det.config.contradictions import check_contradictions
from lightning_det.config.options import check_slots, drop_leftovers, read_option
from lightning_det.config.signatures import check_targets, locate, parameters
from lightning_det.config.values import check_values
from lightning_det.data.folders import folders_of
from lightning_det.system.errors import ConfigError

REQUIRED = ("backbone", "detector", "module", "data", "dataset.source", "views.train.scales", "views.test.scales")
"""Keys of the parts that every run has."""


def validate(cfg: DictConfig, options: Mapping[str, Sequence[str]], overridden: Iterable[str]) -> DictConfig:
    """Removes the arguments of replaced parts from the configuration, and checks all of it.

    Args:
        cfg: the composed configuration.
        options: names in the lists ``strategy`` and ``test``, by group.
        overridden: dotted keys that the user set on the command line.

    Raises:
        ConfigError: a setting is invalid; the message names the key and the valid values.
    """
    for group, names in options.items():
        check_slots(group, names)
    cfg = cfg.copy()
    drop_leftovers(cfg, [f"{group}/{name}" for group, names in options.items() for name in names], set(overridden))
    plain = resolve(cfg)
    check_present(plain)
    _check_selection(plain, options.get("strategy", []), overridden)
    if plain["dataset"]["root"] is None:
        raise ConfigError("dataset.root is not set: dataset.root=DIR names the folder of the dataset")
    val, held = plain["dataset"]["val"], plain["dataset"]["holdout"]
    if "dataset.val" in overridden and val is not None and held is not None:
        raise ConfigError(
            f"dataset.val={val} and dataset.holdout={held} both say what the validation split is; add "
            "dataset.holdout=null, or leave dataset.val out"
        )
    check_targets(plain | {"dataset": _of_one_folder(plain["dataset"])})
    check_contradictions(plain)
    check_values(plain)
    return cfg


def check_present(cfg: Mapping[str, Any], remedy: str = "leave it out for the default") -> None:
    """Refuses settings without one of the `REQUIRED` parts, and values that are no part where one may be.

    Args:
        cfg: the configuration, resolved.
        remedy: ends the message about a part that is missing.

    Raises:
        ConfigError: naming the key.
    """
    places = {"callbacks": cfg.get("callbacks") or {}, "selection": cfg["selection"]}
    places |= {f"views.{phase}": views for phase, views in cfg["views"].items()}
    parts = {f"{place}.{name}": part for place, slots in places.items() for name, part in slots.items()}
    parts |= {f"test.{name}": cfg["test"].get(name) for name in ("merge", "vote")}
    if isinstance(cfg["detector"], Mapping):
        parts["detector.preprocess"] = cfg["detector"].get("preprocess")
    for key, part in parts.items():
        if part is not None and not isinstance(part, Mapping):
            raise ConfigError(f"{key}: must be null or name a part (_target_), got {part!r:.100}")
    for key in REQUIRED:
        node: Any = cfg
        for step in key.split("."):
            node = node.get(step) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            raise ConfigError(f"{key}: must name a part (_target_), got {node!r:.100}; {remedy}")


def _of_one_folder(dataset: dict[str, Any]) -> dict[str, Any]:
    """The settings with which the reader of one of a dataset's folders is made.

    Raises:
        ConfigError: ``root`` is no folder, pattern or list of them.
    """
    source, root = dataset["source"], dataset["root"]
    first = folders_of(root)[0]
    return dataset | {"source": source | {"root": first} if source and source.get("root") == root else source}


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Converts the configuration to plain data, with interpolations resolved.

    Raises:
        ConfigError: a value is missing, or refers to a key that does not exist.
    """
    try:
        plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        variable = re.search(r"Environment variable '(\w+)' not found", reason)
        if variable:
            reason = f"the environment variable {variable[1]} is not set; set it, or give {error.full_key}=..."
        elif isinstance(error, MissingMandatoryValue):
            reason = f"not set; give {error.full_key}=..."
        raise ConfigError(f"{error.full_key or 'config'}: {reason}") from error
    return plain


def _check_selection(cfg: Mapping[str, Any], names: Sequence[str], overridden: Iterable[str]) -> None:
    """Refuses strategies and settings for regions that the detector does not have."""
    known = parameters(locate("detector", cfg["detector"]["_target_"])) or {}
    for kind, selector in cfg["selection"].items():
        if selector is None and f"select_{kind}" in known:
            raise ConfigError(f"selection.{kind}: this detector needs a selector; leave it out for the default")
    for name in names:
        selects = read_option(f"strategy/{name}").get("selection", {})
        if selects and not any(f"select_{kind}" in known for kind in selects):
            raise ConfigError(
                f"strategy={name} selects {', '.join(selects)}, which detector {cfg['detector']['_target_']} has not; "
                f"leave strategy={name} out, or take a detector that has them, such as detector=faster_rcnn"
            )
    for key in overridden:
        group, _, rest = key.partition(".")
        if group == "selection" and rest and f"select_{rest.split('.')[0]}" not in known:
            raise ConfigError(
                f"{key}: detector {cfg['detector']['_target_']} has no {rest.split('.')[0]}; leave it out"
            )
