"""Names run folders ``outputs/train/2026-11-28/001-sniper-flip``, and links the newest as ``outputs/train/latest``."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_det.runs.launch import is_first_rank, shared
from lightning_det.runs.resume import quote

LATEST = "latest"
"""Name of the link, beside the folders of the days."""

NAMING = ("experiment", "strategy", "test", "detector", "backbone", "dataset", "debug")
"""Groups whose options stand in the name of a run's folder."""

LONGEST = 40
"""Maximum length of these options in the name, characters."""


class _Names:
    """The folders that this process has named, and whether it takes those that it names now."""

    taken: dict[str, str] = {}  # noqa: RUF012  # of the process
    taking = False


def register_numbering() -> None:
    """Registers the resolver ``${numbered:FOLDER,OVERRIDES}``, see `numbered`; forgets earlier runs of this process."""
    _Names.taken = {}
    OmegaConf.register_new_resolver("numbered", numbered, replace=True)


def numbered(parent: str, overrides: Sequence[str]) -> str:
    """The folder of this process's run below another folder; before it is taken, one that is free.

    Args:
        parent: holds a folder for each day.
        overrides: of the run; options of groups become part of the name.
    """
    if parent not in _Names.taken:
        day = Path(parent) / datetime.now().strftime("%Y-%m-%d")
        words = option_words(overrides)
        if not _Names.taking:
            return str(_next(day, words))
        _Names.taken[parent] = shared("run_folder", lambda: str(take_next(day, words)))
    return _Names.taken[parent]


def take_run_folder(config: DictConfig) -> Path:
    """Resolves ``hydra.run.dir``. A numbered folder is made, so no other process gets it, and linked as the latest.

    Args:
        config: with the node ``hydra``.
    """
    with _taking():
        folder = Path(str(OmegaConf.select(config, "hydra.run.dir")))
    if str(folder) in _Names.taken.values() and is_first_rank():
        link_latest(folder)
    return folder


@contextmanager
def _taking() -> Iterator[None]:
    _Names.taking = True
    try:
        yield
    finally:
        _Names.taking = False


def take_next(day: Path, words: str) -> Path:
    """Makes a folder with the next number of a day.

    Args:
        day: holds the folders; is created.
        words: follow the number, if there are any.
    """
    day.mkdir(parents=True, exist_ok=True)
    while True:
        folder = _next(day, words)
        with suppress(FileExistsError):
            folder.mkdir()
            # Names differ, so another process may have made one with the same number. Both then try the next ones.
            if _numbers(day).count(_number(folder.name)) == 1:
                return folder
            folder.rmdir()


def _next(day: Path, words: str) -> Path:
    number = max(_numbers(day), default=0) + 1
    return day / "-".join([f"{number:03d}", *([words] if words else [])])


def _numbers(day: Path) -> list[int]:
    """The numbers that are in use on a day. Earlier versions named folders by the time, as 12-00-00."""
    names = [path.name for path in day.iterdir()] if day.is_dir() else []
    return [number for name in names if (number := _number(name))]


def _number(name: str) -> int:
    found = re.match(r"(\d{3,})(-|$)", name)
    return int(found[1]) if found else 0


def option_words(overrides: Sequence[str]) -> str:
    """The options of groups that a command line chooses, as part of a folder's name: ``sniper-flip-rfcn``."""
    chosen = dict(o.split("=", 1) for o in overrides if "=" in o)
    words: list[str] = []
    for group in NAMING:
        words += re.findall(r"\w+", chosen[group]) if re.fullmatch(r"[\w\[\], ]+", chosen.get(group, "")) else []
    kept = [word for end, word in enumerate(words, 1) if len("-".join(words[:end])) <= LONGEST and word != "null"]
    return "-".join(kept)


def is_of_a_day(folder: Path) -> bool:
    """Whether a folder is in one that is named by a day, as those of sweeps are by default."""
    return re.fullmatch(r"\d{4}-\d\d-\d\d", folder.parent.name) is not None


def link_latest(folder: Path) -> None:
    """Lets ``latest``, beside the folder of the day, name a run folder. A file or folder of this name stays.

    Where links cannot be made, this is said.
    """
    link = folder.parent.parent / LATEST
    part = link.with_name(f".{LATEST}.{os.getpid()}")
    try:
        if link.exists() and not link.is_symlink():
            raise FileExistsError(17, "it is no link", str(link))
        part.unlink(missing_ok=True)
        part.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
        part.replace(link)
    except OSError as error:
        print(f"{link} does not name this run ({error.strerror}); its folder is {folder}", file=sys.stderr)


def name_targets(arguments: Sequence[str]) -> list[str]:
    """Replaces links to the latest run in a command line by its folder: the link will soon name another one.

    Args:
        arguments: after the name of the command.
    """
    return [_target(argument) for argument in arguments]


def _target(argument: str) -> str:
    key, equals, value = argument.rpartition("=")
    path = Path(value.strip("'\""))
    for folder in (path, *path.parents):
        if folder.name == LATEST and folder.is_symlink() and path.exists():
            target = str(folder.parent / os.readlink(folder) / path.relative_to(folder))
            plain = not equals or re.fullmatch(r"[\w./-]+", target)
            return f"{key}{equals}{target if plain else quote(target)}"
    return argument
