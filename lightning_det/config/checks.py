"""The checks that a run makes before it starts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from math import inf
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lightning_det.config.ranges import check_ranges
from lightning_det.config.schema import CONF
from lightning_det.config.signatures import check_targets, locate, parameters
from lightning_det.system.errors import ConfigError
from lightning_det.views.resolution import check_resolution

SLOTS = ("views.train.scales", "views.train.windows", "views.train.flip", "views.test.scales", "views.test.windows")
SLOTS += (
    "views.train.distort",
    "views.test.flip",
    "selection.anchors",
    "selection.rois",
    "selection.priors",
    "test.merge",
    "test.vote",
    "data",
)
"""Nodes that strategies may replace; each at most once in a list of strategies."""


def validated(cfg: DictConfig, lists: Mapping[str, Sequence[str]], overridden: Iterable[str]) -> DictConfig:
    """The configuration with strategies' slots cleared of what they replaced, checked as a whole.

    Args:
        cfg: as composed.
        lists: names in the lists of options: ``strategy`` and ``test``.
        overridden: dotted keys that the user set on the command line.

    Raises:
        ConfigError: naming the key and the valid values.
    """
    for group, names in lists.items():
        check_slots(group, names)
    chosen = (option_file(f"{group}/{name}") for group, names in lists.items() for name in names)
    chosen = list(chosen)
    contents = [option_file("base"), *chosen]
    cfg = cfg.copy()
    for slot in SLOTS:
        _drop_leftovers(cfg, slot, contents, set(overridden))
    plain = resolved(cfg)
    _check_selection(plain, lists.get("strategy", []), overridden)
    if plain["dataset"]["root"] is None:
        raise ConfigError("dataset.root is not set: dataset.root=DIR names the folder of the dataset")
    check_targets(plain)
    check_sense(plain)
    check_ranges(plain)
    return cfg


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain data.

    Raises:
        ConfigError: a value is missing, or refers to something that does not exist.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        variable = re.search(r"Environment variable '(\w+)' not found", reason)
        if variable:
            reason = f"the environment variable {variable[1]} is not set; set it, or give {error.full_key}=..."
        elif isinstance(error, MissingMandatoryValue):
            reason = f"not set; give {error.full_key}=..."
        raise ConfigError(f"{error.full_key or 'config'}: {reason}") from error


def check_slots(group: str, names: Sequence[str]) -> None:
    """Refuses a list of options of which two set the same slot.

    Raises:
        ConfigError: naming both.
    """
    owners: dict[str, str] = {}
    for name in names:
        content = option_file(f"{group}/{name}")
        for slot in SLOTS:
            # What names no target adjusts the thing in a slot that another option has put there.
            if "_target_" not in (OmegaConf.select(content, slot) or {}):
                continue
            if slot in owners:
                raise ConfigError(
                    f"{group}=[{','.join(names)}]: {owners[slot]} and {name} both set {slot}; keep one of them"
                )
            owners[slot] = name


def _check_selection(cfg: Mapping[str, Any], names: Sequence[str], overridden: Iterable[str]) -> None:
    """Refuses strategies and settings that select what the detector does not have."""
    known = parameters(locate("detector", cfg["detector"]["_target_"])) or {}
    for name in names:
        selects = option_file(f"strategy/{name}").get("selection", {})
        if selects and not any(f"select_{kind}" in known for kind in selects):
            raise ConfigError(
                f"strategy={name} selects {', '.join(selects)}, which detector {cfg['detector']['_target_']} has not"
            )
    for key in overridden:
        group, _, rest = key.partition(".")
        if group == "selection" and rest and f"select_{rest.split('.')[0]}" not in known:
            raise ConfigError(f"{key}: detector {cfg['detector']['_target_']} has no {rest.split('.')[0]}")


def option_file(option: str) -> DictConfig:
    """The file of an option, in the package's config folder or one of ``hydra.searchpath``; empty if there is none."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    folders = [Path(s.path) for s in sources if s.schema == "file"]
    folders += [resources.files(s.path) for s in sources if s.schema == "pkg"]
    files = (folder / f"{option}.yaml" for folder in [CONF, *folders])
    return OmegaConf.create(next((f.read_text(encoding="utf-8") for f in files if f.is_file()), "{}"))


def _drop_leftovers(cfg: DictConfig, slot: str, contents: Sequence[DictConfig], overridden: set[str]) -> None:
    """Removes keys of what a strategy replaced: Hydra merges dictionaries, but a slot holds one thing.

    Args:
        cfg: changed in place.
        slot: dotted name of the node.
        contents: the files that may have filled it.
        overridden: dotted keys that the user set.
    """
    node = OmegaConf.select(cfg, slot)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return
    known = parameters(locate(slot, node._target_))
    if known is None:
        return
    given = [n for n in (OmegaConf.select(c, slot) for c in contents) if isinstance(n, DictConfig)]
    replaced = {key for n in given if n.get("_target_", node._target_) != node._target_ for key in n}
    OmegaConf.set_struct(node, False)
    for key in replaced - set(known):
        if key in node and not key.startswith("_") and f"{slot}.{key}" not in overridden:
            del node[key]
    OmegaConf.set_struct(node, True)


def check_sense(cfg: Mapping[str, Any]) -> None:
    """Refuses choices that contradict each other.

    Raises:
        ConfigError: naming the keys and what would fit.
    """
    backbone = cfg["backbone"] or {}
    has_weights = backbone.get("weights") or backbone.get("pretrained") or cfg.get("weights") or cfg.get("resume")
    if backbone.get("norm") == "frozen" and not has_weights:
        raise ConfigError(
            "backbone.norm=frozen keeps statistics that nothing has learned; set backbone.weights or weights, "
            "or backbone.norm to batch, sync or group"
        )
    if cfg["detector"].get("head_norm") == "frozen" and not (cfg.get("weights") or cfg.get("resume")):
        raise ConfigError(
            "detector.head_norm=frozen keeps statistics that nothing has learned; set weights, or detector.head_norm "
            "to batch, sync or group"
        )
    if backbone.get("frozen_stages") and not has_weights:
        raise ConfigError(
            f"backbone.frozen_stages={backbone['frozen_stages']} keeps random weights; set backbone.weights or "
            "weights, or backbone.frozen_stages=0"
        )
    if (cfg.get("trainer") or {}).get("sync_batchnorm"):
        raise ConfigError(
            "trainer.sync_batchnorm loses what some networks keep in their BatchNorm layers, their activations; set "
            "backbone.norm=sync, and detector.head_norm=sync where the detector has it"
        )
    windows = cfg["views"]["train"]["windows"] or {}
    if cfg.get("proposals") is not None and "negatives" not in windows:
        raise ConfigError(f"proposals={cfg['proposals']} is for negative chips: strategy=sniper, or proposals=null")
    test = cfg["test"]
    if test.get("fragments") is not None and not 0 < test["fragments"] <= 1:
        raise ConfigError(f"test.fragments must be above 0 and at most 1, or null, got {test['fragments']}")
    if test.get("vote") and test["nms_iou"] <= test["vote"].get("iou", 0):
        raise ConfigError(
            f"test.nms_iou={test['nms_iou']} leaves no candidates within a view to vote (test.vote.iou="
            f"{test['vote']['iou']}); set test.nms_iou=1"
        )
    for key in ("test.detections_per_megapixel", "capacity.proposals_per_megapixel"):
        group, _, name = key.partition(".")
        rate = (cfg.get(group) or {}).get(name)
        if rate is not None and not 0 <= rate < inf:
            raise ConfigError(f"{key} must be 0 or more, or null, got {rate}")
    _check_resolutions(cfg["dataset"])
    if test.get("merge") is None:
        raise ConfigError("test.merge=null leaves views unmerged; test.merge.iou=1 keeps all of their detections")
    cuts = cfg["dataset"]["size_cuts"]
    if len(cuts) != 2 or not 0 < cuts[0] < cuts[1]:
        raise ConfigError(f"dataset.size_cuts must be two ascending sizes in pixels, got {cuts}")
    backends = ("pycocotools", "faster-coco-eval")
    if cfg["test"]["backend"] not in backends:
        raise ConfigError(f"test.backend must be {' or '.join(backends)}, got {cfg['test']['backend']!r}")


def _check_resolutions(dataset: Mapping[str, Any]) -> None:
    """Names the dataset's key where a resolution is none, or a factor that must have been meant as pixels."""
    sniper = dataset.get("sniper")
    sniper = sniper if isinstance(sniper, Mapping) else {}
    lists = {f"sniper.{key}": sniper.get(key) for key in ("scales", "pyramid")} | {"pyramid": dataset.get("pyramid")}
    lists["resolution"] = None if dataset.get("resolution") is None else [dataset["resolution"]]
    for key, resolutions in lists.items():
        if resolutions is None:
            continue
        if not isinstance(resolutions, list):
            raise ConfigError(f"dataset.{key}: must be a list of resolutions, finest first, got {resolutions!r}")
        for resolution in resolutions:
            try:
                check_resolution(resolution)
            except ValueError as error:
                raise ConfigError(f"dataset.{key}: {error}") from error
