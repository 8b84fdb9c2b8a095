"""``sweep.yaml`` records how a sweep was started: ``-m hydra.sweep.dir=FOLDER`` goes on with that sweep only."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from lightning_det.config.record import check_record
from lightning_det.runs.layout import STATUS, SWEEP
from lightning_det.runs.resume import MULTIRUN, override_key
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import atomic_write

SWEEP_DIR = "hydra.sweep.dir"


class SweepRecord(NamedTuple):
    """How a sweep was started."""

    command: str
    overrides: list[str]


def complete_sweep(arguments: Sequence[str], command: str) -> list[str]:
    """The command line of a sweep that goes on: if only its folder is given, with its recorded overrides.

    Args:
        arguments: after the name of the command.
        command: its name.

    Raises:
        ConfigError: the folder's record is damaged, or of another command's sweep.
    """
    given = [a for a in arguments if not a.startswith("-") and a != "hydra.mode=MULTIRUN"]
    multirun = any(a in (*MULTIRUN, "hydra.mode=MULTIRUN") for a in arguments)
    if not multirun or [override_key(a) for a in given] != [SWEEP_DIR]:
        return list(arguments)
    folder = Path(given[0].split("=", 1)[1].strip("'\""))
    record = _read_sweep(folder)
    if record is None:
        return list(arguments)
    if record.command != command:
        raise ConfigError(f"{folder} holds a sweep of {record.command}, not of {command}; choose another {SWEEP_DIR}")
    check_record(record.overrides, folder, sweep=True)
    at = list(arguments).index(given[0])  # argparse wants all overrides side by side
    return [*arguments[:at], *record.overrides, *arguments[at:]]


def check_sweep(folder: Path, config: DictConfig, command: str) -> None:
    """Refuses a folder that holds another sweep, whose jobs this one could not continue. Records this sweep.

    Args:
        folder: of the sweep.
        config: as composed for it.
        command: the command that it runs.

    Raises:
        ConfigError: naming the differences.
    """
    own = ("hydra.mode", SWEEP_DIR)
    now = [*(o for o in config.hydra.overrides.hydra if override_key(o) not in own), *config.hydra.overrides.task]
    record = _read_sweep(folder)
    if record is not None and any(folder.rglob(STATUS)):  # else no job was begun
        differing = sorted(_fixed_options(record.overrides) ^ _fixed_options(now))
        if record.command != command:
            differing.insert(0, f"{record.command}, not {command}")
        if differing:
            raise ConfigError(
                f"{folder} holds another sweep, which differs in {' '.join(differing)}; -m {SWEEP_DIR}={folder} alone "
                f"goes on with it, and one with other options needs another {SWEEP_DIR}"
            )
    with atomic_write(folder / SWEEP) as stream:
        yaml.safe_dump({"command": command, "overrides": now}, stream)


def _read_sweep(folder: Path) -> SweepRecord | None:
    """How the sweep of a folder was started; None if there is no sweep.

    Raises:
        ConfigError: there is one, but its record is damaged.
    """
    for name in (SWEEP, "multirun.yaml"):  # the second one is Hydra's, left by earlier versions
        file = folder / name
        if not file.is_file():
            continue
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            if name != SWEEP:
                hydra = content["hydra"]
                kept = [o for o in hydra["overrides"]["hydra"] if override_key(o) not in ("hydra.mode", SWEEP_DIR)]
                overrides = [*kept, *hydra["overrides"]["task"]]
                content = {"command": hydra["job"]["config_name"], "overrides": overrides}
            if all(isinstance(o, str) for o in (content["command"], *content["overrides"])):
                return SweepRecord(content["command"], list(content["overrides"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
            pass
        raise ConfigError(
            f"{file}: damaged, so that it is not known with which options this sweep was started. Remove the file, "
            f"and start the sweep again with its options and {SWEEP_DIR}={folder}"
        )
    return None


def _fixed_options(overrides: Sequence[str]) -> set[str]:
    """Overrides that all jobs of a sweep have in common, and keys of those in which the jobs differ."""
    task = [o for o in overrides if override_key(o).split(".")[0].split("/")[0] != "hydra"]
    parsed = OverridesParser.create().parse_overrides(task)
    return {o.key_or_group if o.is_sweep_override() else str(o.input_line) for o in parsed}
