"""The options behind the present configuration: those of a Hydra job's command line, or of a call from Python."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_det.config.own_options import own_folder
from lightning_det.config.schema import CONF, register_schema

SEARCHPATH = "hydra.searchpath"


class Origin(NamedTuple):
    """The options and the config folders that a configuration comes from."""

    loader: ConfigLoader
    """Reads the files of the config folders."""
    command: str | None = None
    """Name of the composed file in ``conf/``; None if there is no configuration."""
    overrides: tuple[str, ...] = ()
    """The user's overrides."""
    searched: tuple[str, ...] = ()
    """Overrides of Hydra's search path."""

    @property
    def keys(self) -> list[str]:
        """Keys that the user has set, without ``+``."""
        return [override_key(o) for o in self.overrides]


_given: ContextVar[Origin | None] = ContextVar("lightning_det.config.composition", default=None)


def origin() -> Origin:
    """The origin of the present configuration.

    Returns:
        That of the surrounding `composed_from`, otherwise that of the running Hydra job, and without one an empty one.
    """
    given = _given.get()
    if given is not None:
        return given
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else own_loader()
    if not HydraConfig.initialized():
        return Origin(loader)
    job = HydraConfig.get()
    searched = (o for o in job.overrides.hydra if override_key(o) == SEARCHPATH)
    return Origin(loader, job.job.config_name, tuple(job.overrides.task), tuple(searched))


@contextmanager
def composed_from(start: Origin) -> Iterator[None]:
    """Makes an origin the present one, in this thread only, whatever Hydra job is running."""
    token = _given.set(start)
    try:
        yield
    finally:
        _given.reset(token)


def own_loader() -> ConfigLoader:
    """Makes a loader of the config folders without Hydra's singletons, which may be those of another app.

    Hydra's public `compose` works on a singleton only. These private names were checked on Hydra 1.3;
    `tests/api/test_compose.py` fails if they change.
    """
    register_schema()
    setup_globals()
    return _loader(own_folder())


@cache
def _loader(own: Path | None) -> ConfigLoader:
    """Makes a loader while ``own`` is the user's folder of options, which the search path then holds."""
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


_lock = threading.Lock()


def compose(command: str, overrides: Sequence[str], folder: Path) -> tuple[DictConfig, Origin]:
    """Composes a configuration as a command does, without a Hydra job.

    Args:
        command: file in ``conf/``.
        overrides: as on the command line; those of Hydra's search path included.
        folder: replaces the run folder of a job, which ``${hydra:runtime.output_dir}`` names.

    Raises:
        HydraException: there is no such key or option.
    """
    loader = own_loader()
    with _lock:  # the parser of overrides and the registry of plugins are global
        whole = loader.load_configuration(command, list(overrides), RunMode.RUN, from_shell=False)
    job, given = whole.hydra, whole.hydra.overrides
    start = Origin(loader, command, tuple(given.task), tuple(o for o in given.hydra if override_key(o) == SEARCHPATH))
    with open_dict(whole):
        job.job.name, job.runtime.output_dir = command, str(folder)
        del whole["hydra"]
    return _without_job(whole, job), start


def _without_job(cfg: DictConfig, job: DictConfig) -> DictConfig:
    """Replaces ``${hydra:KEY}``, which reads a singleton, by the values of the node ``hydra``."""

    def replace(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: replace(value) for key, value in node.items()}
        if isinstance(node, list):
            return [replace(value) for value in node]
        return re.sub(r"\$\{hydra:([\w.]+)\}", value_of, node) if isinstance(node, str) else node

    def value_of(found: re.Match[str]) -> str:
        value = OmegaConf.select(job, found[1], throw_on_missing=False)
        return found[0] if value is None else str(value)

    replaced: Any = OmegaConf.merge(cfg, replace(OmegaConf.to_container(cfg, resolve=False)))
    return replaced


def override_key(override: str) -> str:
    """The dotted key that an override sets, without ``+`` and ``~``."""
    return override.split("=", 1)[0].lstrip("+~")
