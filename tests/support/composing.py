"""Makes composing configurations cheaper for tests: half of what a small training costs is Hydra's work.

Results are the same. Commands that tests start as a user does (`sys.executable`) do without it.
"""

import pickle
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

from lightning_det.config import CONF

Plugins.instance()  # imports the class that reads files once more
FileConfigSource = SourcesRegistry.instance().resolve("file")
_read, _mode = FileConfigSource.load_config, Hydra.get_mode
_files: dict[tuple[str, str], bytes] = {}


def _remembered(self: Any, config_path: str) -> Any:
    """Parses each file of the package's config folder once per process and its forks."""
    if self.path != str(CONF):
        return _read(self, config_path)
    key = (self.provider, config_path)
    if key not in _files:
        _files[key] = pickle.dumps(_read(self, config_path))
    return pickle.loads(_files[key])


def _asked_for(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Composes for ``hydra.mode`` only if something may set it; Hydra composes everything twice for it."""
    setters = ("hydra.mode", "hydra.searchpath", "hydra/", "+hydra", "++hydra")
    return _mode(self, config_name, overrides) if any(o.startswith(setters) for o in overrides) else None


def install() -> None:
    """Makes this process, and those forked from it, compose so."""
    FileConfigSource.load_config = _remembered
    Hydra.get_mode = _asked_for
