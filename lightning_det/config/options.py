"""Options of config groups: their settings, and the slots that only one option may fill."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from lightning_det.config.composition import origin
from lightning_det.config.own_options import own_folder
from lightning_det.config.schema import CONF
from lightning_det.config.signatures import locate, parameters
from lightning_det.system.errors import ConfigError

SLOTS = (
    "views.train.scales",
    "views.train.windows",
    "views.train.flip",
    "views.train.distort",
    "views.test.scales",
    "views.test.windows",
    "views.test.flip",
    "selection.anchors",
    "selection.rois",
    "selection.priors",
    "test.merge",
    "test.vote",
    "data",
)
"""Nodes that options of ``strategy`` and ``test`` replace. In a list of options, each node is replaced at most once."""


SUGGESTED = "strategy/suggested"
"""The option that stands for the strategies suggested for a dataset, and the group of suggestions by dataset."""


def read_option(option: str) -> DictConfig:
    """Reads the content of an option, inherited settings included, at the keys of a run's configuration.

    Args:
        option: ``GROUP/NAME``, in the package's config folder, in ``conf/`` or in one of ``hydra.searchpath``.

    Raises:
        HydraException: there is no such option.
    """
    return OmegaConf.create(_compose(option, origin().searched, own_folder()))


@lru_cache
def _compose(option: str, searched: tuple[str, ...], own: Path | None) -> dict[str, Any]:
    """Composes an option; what it is depends on the folders that are searched for it."""
    if option == SUGGESTED:
        return {}  # no settings of its own, and other options with each dataset
    group, _, name = option.rpartition("/")
    # Not as the primary configuration, which Hydra searches in the package's folder only.
    overrides = [f"+{group}={name}", *searched]
    composed = origin().loader.load_configuration(None, overrides, RunMode.RUN)
    content: Any = OmegaConf.to_container(composed, resolve=False)
    return {key: value for key, value in content.items() if key != "hydra"}


def check_slots(group: str, names: Sequence[str]) -> None:
    """Refuses a list of options of which two set the same slot.

    Raises:
        ConfigError: two options set the same slot; the message names both.
    """
    owners: dict[str, str] = {}
    for name in names:
        content = read_option(f"{group}/{name}")
        for slot in SLOTS:
            # A node without a target adjusts the part that another option has put into the slot.
            if "_target_" not in (OmegaConf.select(content, slot) or {}):
                continue
            if slot in owners:
                raise ConfigError(f"{group}=[{','.join(names)}]: {_taken(slot, owners[slot], name)}{_hint(group)}")
            owners[slot] = name


def _taken(slot: str, first: str, second: str) -> str:
    """Says which options set a slot."""
    if first == second:
        return f"{first} is in the list twice; name it once"
    return f"{first} and {second} both set {slot}; keep one of them"


def _hint(group: str) -> str:
    """Says that a list is longer than the one that was given, if it is."""
    if group == "strategy" and any("suggested" in override for override in origin().overrides):
        return (
            ". The list has all options that strategy=suggested stands for: leave out of yours what it has already, or "
            "change conf/strategy/suggested/NAME.yaml"
        )
    return ""


def drop_leftovers(cfg: DictConfig, options: Iterable[str], overridden: set[str]) -> None:
    """Removes the arguments of replaced parts: Hydra merges dictionaries, but a slot holds only one part.

    Args:
        cfg: changed in place.
        options: ``GROUP/NAME`` of all options that may have filled a slot.
        overridden: dotted keys that the user set. They are kept, and refused later if the part does not know them.
    """
    contents = [read_option(option) for option in options]
    for slot in SLOTS:
        _drop_leftovers(cfg, slot, [_base(), *contents], overridden)
    _drop_absent(cfg, contents, overridden)


@lru_cache
def _base() -> DictConfig | ListConfig:
    """Reads the settings that every run has without options; who calls it must not change them."""
    return OmegaConf.load(CONF / "base.yaml")


def _drop_leftovers(cfg: DictConfig, slot: str, contents: Sequence[Any], overridden: set[str]) -> None:
    node = OmegaConf.select(cfg, slot)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return
    known = parameters(locate(slot, node._target_))
    if known is None:
        return
    given = [n for n in (OmegaConf.select(c, slot) for c in contents) if isinstance(n, DictConfig)]
    replaced = {str(key) for n in given if n.get("_target_", node._target_) != node._target_ for key in n}
    OmegaConf.set_struct(node, False)
    for key in replaced - set(known):
        if key in node and not key.startswith("_") and f"{slot}.{key}" not in overridden:
            del node[key]
    OmegaConf.set_struct(node, True)


def _drop_absent(cfg: DictConfig, contents: Sequence[DictConfig], overridden: set[str]) -> None:
    """Removes settings of options for parts that the detector lacks, such as OHEM's for the RoI head of an SSD."""
    known = parameters(locate("detector", cfg.detector._target_))
    if known is None:
        return
    given = {str(key) for content in contents for key in OmegaConf.select(content, "detector") or ()}
    OmegaConf.set_struct(cfg.detector, False)
    for key in given - set(known):
        is_part = isinstance(cfg.detector.get(key), DictConfig) and "_target_" not in cfg.detector[key]
        if is_part and not any(f"{o}.".startswith(f"detector.{key}.") for o in overridden):
            del cfg.detector[key]
    OmegaConf.set_struct(cfg.detector, True)
