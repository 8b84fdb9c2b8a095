"""The configuration: its schema, and the checks that a run makes before it starts.

Nodes with a ``_target_`` are checked against the signature they call, so names, types and choices are written down
once, in the code. The dataclasses here describe the rest.
"""

import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lightning_det.errors import UserError

CONF = next(p for p in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if p.is_dir())
"""The config folder: inside an installed wheel, or at the root of a checkout."""

SLOTS = ("views.train.scales", "views.train.windows", "views.train.flip", "views.test.scales", "views.test.windows")
SLOTS += ("views.test.flip", "selection.anchors", "selection.rois", "test.merge", "data")
"""Nodes that strategies may replace; each at most once in a list of strategies."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type or contradicts another."""


class OnBad(Enum):
    """What to do with records that cannot be used."""

    error = "error"
    skip = "skip"


@dataclass
class DatasetConfig:
    """A dataset, and the numbers that depend on the sizes of its images and objects."""

    root: str | None = None
    source: Any = None
    train: Any = "train"
    val: Any = "val"
    test: Any = None
    on_bad: OnBad = OnBad.error
    limit: int | None = None
    resolution: Any = None
    pyramid: Any = None
    anchor_sizes: list[float] = field(default_factory=list)
    size_cuts: list[float] = field(default_factory=list)


@dataclass
class PhaseViews:
    """The steps of a planner, see `lightning_det.views.Planner`."""

    scales: Any = None
    windows: Any = None
    flip: Any = None


@dataclass
class ViewsConfig:
    """Planners of training and inference."""

    train: PhaseViews = field(default_factory=PhaseViews)
    test: PhaseViews = field(default_factory=PhaseViews)


@dataclass
class SelectionConfig:
    """Which losses count."""

    anchors: Any = None
    rois: Any = None


@dataclass
class TestConfig:
    """Inference and evaluation, see `lightning_det.modules.module.Inference` and `evaluate`."""

    score_threshold: float = 0.01
    nms_iou: float = 0.5
    max_detections: int = 100
    merge: Any = None
    backend: str = "pycocotools"


@dataclass
class CapacityConfig:
    """Sizes of a detector's parts: the detector's defaults, replaced by a backbone that deserves others."""

    neck: int = 256
    """Channels of a feature pyramid."""
    head: int = 1024
    """Width of the RoI head."""
    roi: int = 7
    """Cells per side of a RoI."""
    rois: int = 512
    """RoIs per view that carry loss."""
    before_nms: list[int] = field(default_factory=lambda: [2000, 1000])
    """(training, inference) proposals per map that enter NMS."""
    after_nms: list[int] = field(default_factory=lambda: [2000, 1000])
    """(training, inference) proposals per view that leave it."""


@dataclass
class Config:
    """Everything that a run knows."""

    seed: int = 0
    weights: str | None = None
    resume: str | None = None
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    data: Any = None
    views: ViewsConfig = field(default_factory=ViewsConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    test: TestConfig = field(default_factory=TestConfig)
    capacity: CapacityConfig = field(default_factory=CapacityConfig)
    backbone: Any = None
    detector: Any = None
    module: Any = None
    optimizer: Any = None
    schedule: Any = None
    trainer: Any = None
    callbacks: Any = None
    logger: Any = None


@dataclass
class EvalConfig(Config):
    """Adds what `lightning_det.eval` needs."""

    checkpoint: str = MISSING
    split: str = "val"


@dataclass
class PredictConfig(Config):
    """Adds what `lightning_det.predict` needs."""

    checkpoint: str = MISSING
    source: str = MISSING
    output: str | None = None
    draw_threshold: float = 0.3


@dataclass
class InspectConfig(Config):
    """Adds what `lightning_det.inspect` needs."""

    split: str = "train"
    decode: bool = True
    pictures: int = 12


def register_schema() -> None:
    """Makes the schemas known to Hydra; the yaml files merge into them."""
    schemas = {"train": Config, "eval": EvalConfig, "predict": PredictConfig, "inspect": InspectConfig}
    for name, schema in schemas.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)


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
    files = [CONF / "base.yaml", *(CONF / group / f"{name}.yaml" for group, names in lists.items() for name in names)]
    contents = [OmegaConf.load(file) for file in files if file.is_file()]
    cfg = cfg.copy()
    for slot in SLOTS:
        _drop_leftovers(cfg, slot, contents, set(overridden))
    plain = resolved(cfg)
    if plain["dataset"]["root"] is None:
        raise ConfigError("dataset.root is not set: dataset.root=DIR names the folder of the dataset")
    check_sense(plain)
    check_targets(plain)
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
        file = CONF / group / f"{name}.yaml"
        content = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
        for slot in SLOTS:
            if OmegaConf.select(content, slot) is None:
                continue
            if slot in owners:
                raise ConfigError(
                    f"{group}=[{','.join(names)}]: {owners[slot]} and {name} both set {slot}; keep one of them"
                )
            owners[slot] = name


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
    known = _parameters(_locate(slot, node._target_))
    given = [n for n in (OmegaConf.select(c, slot) for c in contents) if isinstance(n, DictConfig)]
    replaced = {key for n in given if n.get("_target_", node._target_) != node._target_ for key in n}
    if known is None:
        return
    OmegaConf.set_struct(node, False)
    for key in replaced - set(known):
        if key in node and not key.startswith("_") and f"{slot}.{key}" not in overridden:
            del node[key]
    OmegaConf.set_struct(node, True)


def check_targets(node: Any, key: str = "") -> None:
    """Checks every node with a ``_target_`` against the signature of what it names.

    Raises:
        ConfigError: an argument is unknown or has the wrong type.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            check_targets(item, f"{key}[{number}]")
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        check_targets(value, f"{key}.{name}" if key else str(name))
    if "_target_" not in node:
        return
    known = _parameters(_locate(key, node["_target_"]))
    if known is None:
        return
    for name, value in node.items():
        if name.startswith("_"):
            continue
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"{key}.{name}: unknown{hint}; {node['_target_']} has {', '.join(known)}")
        annotation = known[name].annotation
        if not _fits(value, annotation):
            raise ConfigError(f"{key}.{name}: must be {_describe(annotation)}, got {value!r}")


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
    if backbone.get("frozen_stages") and not has_weights:
        raise ConfigError(
            f"backbone.frozen_stages={backbone['frozen_stages']} keeps random weights; set backbone.weights or "
            "weights, or backbone.frozen_stages=0"
        )
    if cfg.get("weights") and cfg.get("resume"):
        raise ConfigError("weights starts a new training and resume continues one; give one of them")
    cuts = cfg["dataset"]["size_cuts"]
    if len(cuts) != 2 or not 0 < cuts[0] < cuts[1]:
        raise ConfigError(f"dataset.size_cuts must be two ascending sizes in pixels, got {cuts}")
    backends = ("pycocotools", "faster-coco-eval")
    if cfg["test"]["backend"] not in backends:
        raise ConfigError(f"test.backend must be {' or '.join(backends)}, got {cfg['test']['backend']!r}")


def _locate(key: str, target: str) -> Any:
    try:
        return get_object(target)
    except Exception as error:
        raise ConfigError(f"{key}._target_: cannot import {target} ({error})") from error


def _parameters(function: Any) -> dict[str, inspect.Parameter] | None:
    """Parameters by name, those of base classes too where a constructor passes them on; None if it takes anything."""
    chain = [c.__init__ for c in function.__mro__ if "__init__" in vars(c)] if inspect.isclass(function) else [function]
    known: dict[str, inspect.Parameter] = {}
    for step in chain:
        try:
            parameters = inspect.signature(step, eval_str=True).parameters.values()
        except (TypeError, ValueError, NameError):
            return None
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self")
        known = {p.name: p for p in named} | known
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return known
    return None


def _fits(value: Any, annotation: Any) -> bool:
    """Whether plain data fits a type annotation; what is no plain type fits anything."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if origin is Literal:
        return value in arguments
    if annotation is None or annotation is type(None):
        return value is None
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin in (list, Sequence):
        return isinstance(value, list) and all(_fits(v, arguments[0]) for v in value)
    if origin is tuple:
        if Ellipsis in arguments:
            return isinstance(value, list) and all(_fits(v, arguments[0]) for v in value)
        return isinstance(value, list) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    # A node that makes an object, or something that a config cannot spell: the constructor judges.
    return isinstance(value, Mapping) or not _is_plain(annotation)


def _is_plain(annotation: Any) -> bool:
    return annotation in (list, dict, tuple)


def _describe(annotation: Any) -> str:
    """An annotation in the words of a config file."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(a) for a in arguments))
    if origin is Literal:
        return " or ".join(str(a) for a in arguments)
    if annotation is type(None):
        return "null"
    if origin in (list, Sequence, tuple):
        return f"a list of {_describe(arguments[0])}"
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
