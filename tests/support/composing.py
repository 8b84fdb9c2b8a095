"""Makes composing configurations cheaper for tests: half of what a small training costs is Hydra's work.

Results are the same. Commands that tests start as a user does (`sys.executable`) do without it.
"""

import copy
import os
import pickle
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import omegaconf._utils
import omegaconf.base
from hydra import compose
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_det.config import CONF
from lightning_det.config.own_options import own_folder

Plugins.instance()  # imports the class that reads files once more
FileConfigSource = SourcesRegistry.instance().resolve("file")
_read, _mode = FileConfigSource.load_config, Hydra.get_mode
_create, _compute = config_loader_impl.create_defaults_list, ConfigLoaderImpl.compute_defaults_list
_files: dict[tuple[str, str], bytes] = {}
_last: list[Any] = [None, None]
"""Of the defaults list that was made last: what it is of, and itself."""
_composed: dict[tuple[str, ...], tuple[DictConfig, tuple[Any, ...]]] = {}
"""Configurations by working directory, command and overrides, each with what was last when it was composed."""


def _remembered_file(self: Any, config_path: str) -> Any:
    """Parses each file of the package's config folder once per process and its forks."""
    if self.path != str(CONF):
        return _read(self, config_path)
    key = (self.provider, config_path)
    if key not in _files:
        _files[key] = pickle.dumps(_read(self, config_path))
    return pickle.loads(_files[key])


def _mode_if_set(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Composes for ``hydra.mode`` only if something may set it; Hydra composes everything twice for it."""
    setters = ("hydra.mode", "hydra.searchpath", "hydra/", "+hydra", "++hydra")
    return _mode(self, config_name, overrides) if any(o.startswith(setters) for o in overrides) else None


def _recorded(repo: Any, config_name: str | None, overrides_list: list[Any], **settings: Any) -> Any:
    """Makes a defaults list and remembers it."""
    lines = [o.input_line for o in overrides_list]
    searched = [line for line in lines if line.startswith("hydra.searchpath")]
    task = [o.input_line for o in overrides_list if not o.is_hydra_override()]
    made = _create(repo=repo, config_name=config_name, overrides_list=overrides_list, **settings)
    _last[:] = (config_name, [*searched, *task], settings["skip_missing"]), made
    return made


def _defaults_of_last(self: Any, config_name: str | None, overrides: list[str], run_mode: RunMode) -> Any:
    """Does not repeat the defaults list of the configuration that has just been composed; commands ask for it."""
    if _last[0] == (config_name, overrides, run_mode == RunMode.MULTIRUN):
        return _last[1]
    return _compute(self, config_name, overrides, run_mode)


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
    FileConfigSource.load_config = _remembered_file
    Hydra.get_mode = _mode_if_set
    config_loader_impl.create_defaults_list = _recorded
    ConfigLoaderImpl.compute_defaults_list = _defaults_of_last
    CachingConfigRepository.__init__ = _copy_without_sources
    for module in (omegaconf.base, omegaconf._utils):
        module.parse = _parse
