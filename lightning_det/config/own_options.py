"""A folder ``conf/`` in the working directory: its options join the package's, and win over those of the same name.

Only options of groups are taken, which are files in subfolders: Hydra projects of any kind have a ``conf/`` whose top
level is theirs.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lightning_det.config.schema import CONF

VARIABLE = "LIGHTNING_DET_CONF"
"""Environment variable: the folder, if it is not the working directory's. Commands hand it to processes they start."""


def options_folder() -> Path:
    """Where the user's options are, or would be."""
    return Path(os.environ.get(VARIABLE) or "conf")


def own_folder() -> Path | None:
    """The user's folder of options; None if there is none, or if it is a package's, as in a checkout."""
    folder = options_folder().absolute()
    packaged = all((folder / name).is_file() for name in ("base.yaml", "train.yaml"))
    return folder if folder.is_dir() and not packaged else None


@contextmanager
def same_for_children() -> Iterator[None]:
    """Lets processes that are started in the body use this one's folder, whatever their working directories."""
    before, folder = os.environ.get(VARIABLE), own_folder()
    if folder is not None:
        os.environ[VARIABLE] = str(folder)
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop(VARIABLE)
            os.environ.update({} if before is None else {VARIABLE: before})


def say_own_options() -> None:
    """Prints which of the user's options take the place of the package's, and which files are not read."""
    folder = own_folder()
    if folder is None:
        return
    same = [f for f in (file.relative_to(folder) for file in sorted(folder.rglob("*.yaml"))) if (CONF / f).is_file()]
    options = [str(file.with_suffix("")) for file in same if file.parent != Path()]
    unread = [str(file) for file in same if file.parent == Path()]
    if options:
        print(f"{folder} takes the place of the package's {', '.join(options)}", file=sys.stderr)
    if unread:
        print(f"{folder}: {', '.join(unread)} not read; options of groups are, in subfolders", file=sys.stderr)


def register_own_options() -> None:
    """Lets Hydra find the user's options, whichever way it is started."""
    Plugins.instance().register(OwnSource)
    Plugins.instance().register(OwnOptions)


class OwnSource(FileConfigSource):
    """The user's folder, without the files at its top.

    The base class is Hydra's for all folders and is checked with Hydra 1.3; `tests/config/test_own_options.py` fails
    when it moves.
    """

    @staticmethod
    def scheme() -> str:
        """The part before ``://`` of the folder in Hydra's search path."""
        return "own"

    def is_config(self, config_path: str) -> bool:
        """Whether there is such an option."""
        return "/" in config_path and super().is_config(config_path)


class OwnOptions(SearchPathPlugin):
    """Puts the user's folder before the package's, and changes no search path of other Hydra apps."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra whenever it makes a search path."""
        folder = own_folder()
        ours = any(part.provider == "main" and part.path == str(CONF) for part in search_path.get_path())
        if ours and folder is not None:
            path = f"{OwnSource.scheme()}://{folder}"
            search_path.prepend(provider="conf/", path=path, anchor=SearchPathQuery(provider="main"))
