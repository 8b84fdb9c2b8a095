"""``-m hydra.sweep.dir=FOLDER``: a sweep goes on with what it was started with, and no other one takes its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from lightning_det.config.record import check_record
from lightning_det.runs.occupancy import SWEEP
from lightning_det.runs.resume import MULTIRUN, override_key
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import whole

PLACE = "hydra.sweep.dir"


def sweep_again(arguments: Sequence[str], command: str) -> list[str]:
    """The command line of a sweep that goes on: with nothing but its folder given, what it was started with.

    Args:
        arguments: after the name of the command.
        command: its name.

    Raises:
        ConfigError: the folder's records are damaged, or of another command's sweep.
    """
    given = [a for a in arguments if not a.startswith("-") and a != "hydra.mode=MULTIRUN"]
    multirun = any(a in (*MULTIRUN, "hydra.mode=MULTIRUN") for a in arguments)
    if not multirun or [override_key(a) for a in given] != [PLACE]:
        return list(arguments)
    folder = Path(given[0].split("=", 1)[1].strip("'\""))
    started = _sweep_started(folder)
    if started is None:
        return list(arguments)
    if started["command"] != command:
        raise ConfigError(f"{folder} holds a sweep of {started['command']}, not of {command}; choose another {PLACE}")
    check_record(started["overrides"], folder, sweep=True)
    at = list(arguments).index(given[0])  # argparse wants them side by side
    return [*arguments[:at], *started["overrides"], *arguments[at:]]


def check_sweep(folder: Path, config: DictConfig, command: str) -> None:
    """Refuses a folder that holds another sweep, of which no job would go on; writes down how this one is started.

    Args:
        folder: of the sweep.
        config: as composed for it.
        command: that it runs.

    Raises:
        ConfigError: naming what differs.
    """
    own = ("hydra.mode", PLACE)
    now = [*(o for o in config.hydra.overrides.hydra if override_key(o) not in own), *config.hydra.overrides.task]
    started = _sweep_started(folder)
    if started is not None and any(folder.rglob("status.json")):  # or no job was begun
        differing = sorted(_fixed(started["overrides"]) ^ _fixed(now))
        if started["command"] != command:
            differing.insert(0, f"{started['command']}, not {command}")
        if differing:
            raise ConfigError(
                f"{folder} holds another sweep, which differs in {' '.join(differing)}; -m {PLACE}={folder} alone "
                f"goes on with it, and one with other options needs another {PLACE}"
            )
    with whole(folder / SWEEP) as stream:
        yaml.safe_dump({"command": command, "overrides": now}, stream)


def _sweep_started(folder: Path) -> dict[str, Any] | None:
    """With which command and overrides the sweep of a folder was started; None if there is none.

    Raises:
        ConfigError: the folder does not say, although it holds one.
    """
    for name in (SWEEP, "multirun.yaml"):  # the second one is Hydra's, of earlier versions
        file = folder / name
        if not file.is_file():
            continue
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            if name != SWEEP:
                hydra = content["hydra"]
                kept = [o for o in hydra["overrides"]["hydra"] if override_key(o) not in ("hydra.mode", PLACE)]
                overrides = [*kept, *hydra["overrides"]["task"]]
                content = {"command": hydra["job"]["config_name"], "overrides": overrides}
            if all(isinstance(o, str) for o in (content["command"], *content["overrides"])):
                return {"command": content["command"], "overrides": list(content["overrides"])}
        except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
            pass
        raise ConfigError(
            f"{file}: damaged, so that it is not known with which options this sweep was started. Remove the file, "
            f"and start the sweep again with its options and {PLACE}={folder}"
        )
    return None


def _fixed(overrides: Sequence[str]) -> set[str]:
    """Options that all jobs of a sweep have in common, and keys of those in which they differ."""
    task = [o for o in overrides if override_key(o).split(".")[0].split("/")[0] != "hydra"]
    parsed = OverridesParser.create().parse_overrides(task)
    return {o.key_or_group if o.is_sweep_override() else o.input_line for o in parsed}
