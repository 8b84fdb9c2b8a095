"""Makes composing configurations cheaper for tests: half of what a small training costs is Hydra's work.

Results are the same. Commands that tests start as a user does (`sys.executable`) do without it.
"""

import copy
import os
import pickle
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import omegaconf._utils
import omegaconf.base
import omegaconf.omegaconf
import yaml
from hydra import compose
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.base import Metadata, Node
from omegaconf.nodes import AnyNode, BooleanNode, FloatNode, IntegerNode, PathNode, StringNode

from lightning_det.config import CONF
from lightning_det.config.own_options import own_folder

Plugins.instance()  # imports the class that reads files once more
FileConfigSource = SourcesRegistry.instance().resolve("file")
_read, _mode = FileConfigSource.load_config, Hydra.get_mode
_read_own = ImportlibResourcesConfigSource.load_config
_create, _compute = config_loader_impl.create_defaults_list, ConfigLoaderImpl.compute_defaults_list
_map, _merge = defaults_list._create_interpolation_map, ConfigLoaderImpl._compose_config_from_defaults_list
_files: dict[tuple[str, str, str], bytes] = {}
_lists: dict[Any, DefaultsList] = {}
_merged: dict[Any, DictConfig] = {}
_last: list[Any] = [None, None]
"""Of the defaults list that was made last: what it is of, and itself."""
_composed: dict[tuple[str, ...], tuple[DictConfig, tuple[Any, ...]]] = {}
"""Configurations by working directory, command and overrides, each with what was last when it was composed."""


def _remembered_file(self: Any, config_path: str) -> Any:
    """Parses each file of the packages' config folders once per process and its forks."""
    read = _read_own if isinstance(self, ImportlibResourcesConfigSource) else _read
    if not _is_of_a_package(self):
        return read(self, config_path)
    key = (self.provider, self.path, config_path)
    if key not in _files:
        _files[key] = pickle.dumps(read(self, config_path))
    return pickle.loads(_files[key])


def _is_of_a_package(source: Any) -> bool:
    """Whether what a source has stays the same: it is of this package, of Hydra's, or the registered schemas."""
    return source.path == str(CONF) or source.scheme() in ("pkg", "structured")


def _are_of_packages(repo: Any) -> bool:
    return all(_is_of_a_package(source) for source in repo.get_sources())


def _mode_if_set(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Composes for ``hydra.mode`` only if something may set it; Hydra composes everything twice for it."""
    setters = ("hydra.mode", "hydra.searchpath", "hydra/", "+hydra", "++hydra")
    return _mode(self, config_name, overrides) if any(o.startswith(setters) for o in overrides) else None


def _recorded(repo: Any, config_name: str | None, overrides_list: list[Any], **settings: Any) -> Any:
    """Makes a defaults list and remembers it."""
    lines = [o.input_line for o in overrides_list]
    searched = [line for line in lines if line.startswith("hydra.searchpath")]
    task = [o.input_line for o in overrides_list if not o.is_hydra_override()]
    made = _listed(repo, config_name, overrides_list, settings)
    _last[:] = (config_name, [*searched, *task], settings["skip_missing"]), made
    return made


def _listed(repo: Any, config_name: str | None, given: list[Any], settings: dict[str, Any]) -> DefaultsList:
    """Makes the defaults list of a choice of options once; values of keys do not change it."""
    overrides = Overrides(repo=repo, overrides_list=given)
    keys = {id(override) for override in overrides.config_overrides}
    choices = tuple(o.input_line for o in given if id(o) not in keys and not o.is_sweep_override())
    key = (config_name, choices, *settings.items())
    if not _are_of_packages(repo):
        return _create(repo=repo, config_name=config_name, overrides_list=given, **settings)
    if key not in _lists:
        _lists[key] = _create(repo=repo, config_name=config_name, overrides_list=given, **settings)
    made = _lists[key]
    for name in ("known_choices", "known_choices_per_group"):
        getattr(overrides, name).update(getattr(made.overrides, name))
    return DefaultsList(made.defaults, made.defaults_tree, overrides.config_overrides, overrides)


def _map_if_used(overrides: Overrides, defaults_list: list[Any], self_added: bool) -> DictConfig | None:
    """Makes the map of chosen options only for a list with interpolations, which alone reads it."""
    used = any(default.is_interpolation() for default in defaults_list)
    return _map(overrides, defaults_list, self_added) if used else None


def _merged_once(self: Any, defaults: list[Any], repo: Any) -> DictConfig:
    """Merges the files of a defaults list once, and copies the result."""
    if not _are_of_packages(repo):
        return _merge(self, defaults, repo)
    key = tuple((d.config_path, d.package, d.is_self, d.primary) for d in defaults)
    if key not in _merged:
        _merged[key] = _merge(self, defaults, repo)
    return copy.deepcopy(_merged[key])


def _defaults_of_last(self: Any, config_name: str | None, overrides: list[str], run_mode: RunMode) -> Any:
    """Does not repeat the defaults list of the configuration that has just been composed; commands ask for it."""
    if _last[0] == (config_name, overrides, run_mode == RunMode.MULTIRUN):
        return _last[1]
    return _compute(self, config_name, overrides, run_mode)


LEAVES = (AnyNode, BooleanNode, FloatNode, IntegerNode, PathNode, StringNode)


def _copied_metadata(self: Metadata, memo: dict[int, Any]) -> Metadata:
    """Its values are never changed, except two dictionaries; copying each costs a sixth of a short training."""
    made = object.__new__(type(self))
    made.__dict__.update(self.__dict__)
    made.flags = copy.copy(self.flags)
    made.resolver_cache = copy.deepcopy(self.resolver_cache, memo) if self.resolver_cache else defaultdict(dict)
    return made


def _copied_node(self: Node, memo: dict[int, Any]) -> Node:
    """Does not make an empty node first, which OmegaConf checks and throws away."""
    made = object.__new__(type(self))
    own = made.__dict__
    own.update(self.__dict__)
    own["_metadata"] = _copied_metadata(own["_metadata"], memo)
    if isinstance(self, LEAVES):
        own["_flags_cache"] = None
        return made
    own["_flags_cache"] = copy.copy(own["_flags_cache"])
    content = own["_content"]
    if isinstance(content, dict):
        own["_content"] = {key: _child(value, made, memo) for key, value in content.items()}
    elif isinstance(content, list):
        own["_content"] = [_child(value, made, memo) for value in content]
    return made


def _child(value: Node, parent: Node, memo: dict[int, Any]) -> Node:
    made = copy.deepcopy(value, memo)
    made.__dict__["_parent"] = parent
    return made


class Dumper(yaml.CDumper if yaml.__with_libyaml__ else yaml.Dumper):
    """OmegaConf's, by the library in C, which writes the same text."""


Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def _copy_without_sources(self: CachingConfigRepository, delegate: Any) -> None:
    """Copies where files are searched, and not all that is registered, which Hydra does for each composition."""
    self.delegate = copy.copy(delegate)
    self.cache = {}


def compose_once(command: str, overrides: Sequence[str]) -> DictConfig:
    """Composes as `hydra.compose` does, with Hydra's node; what has been composed in this process is copied.

    Options of other folders than the package's are composed anew, since their files may have changed.
    """
    if own_folder() is not None or any("searchpath" in override for override in overrides):
        return compose(command, overrides=list(overrides), return_hydra_config=True)
    key = (os.getcwd(), command, *overrides)
    if key not in _composed:
        _composed[key] = compose(command, overrides=list(overrides), return_hydra_config=True), tuple(_last)
    whole, _last[:] = _composed[key]
    return copy.deepcopy(whole)


_parse = lru_cache(4096)(omegaconf.base.parse)
"""Parses a text with interpolations once."""


def install() -> None:
    """Makes this process, and those forked from it, compose so."""
    FileConfigSource.load_config = ImportlibResourcesConfigSource.load_config = _remembered_file
    Hydra.get_mode = _mode_if_set
    config_loader_impl.create_defaults_list = _recorded
    defaults_list._create_interpolation_map = _map_if_used
    ConfigLoaderImpl._compose_config_from_defaults_list = _merged_once
    ConfigLoaderImpl.compute_defaults_list = _defaults_of_last
    omegaconf.omegaconf.get_omega_conf_dumper = lambda: Dumper
    Metadata.__deepcopy__ = _copied_metadata
    for kind in (DictConfig, ListConfig, *LEAVES):
        kind.__deepcopy__ = _copied_node
    CachingConfigRepository.__init__ = _copy_without_sources
    for module in (omegaconf.base, omegaconf._utils):
        module.parse = _parse
