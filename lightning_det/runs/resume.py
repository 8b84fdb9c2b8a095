"""``train resume=RUN_FOLDER``: the options of a run that goes on are those it was started with."""

import json
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from lightning_det.config.record import check_record, read_record
from lightning_det.system.errors import ConfigError

MULTIRUN = ("-m", "--multirun")

OVERRIDES = "overrides.yaml"
"""How a run was started, in its folder; Hydra's own record is cut if a run is killed while it writes."""


def completed(arguments: Sequence[str]) -> list[str]:
    """The command line of a run that goes on: what it was started with, what is given now, and its folder.

    What is given now wins. Without ``resume=FOLDER``, or where the folder does not say how it was started, the
    arguments stay as they are.

    Args:
        arguments: after the name of the command.

    Raises:
        ConfigError: ``resume`` in a multirun.
    """
    given = {override_key(a): a.split("=", 1)[1] for a in arguments if "=" in a and not a.startswith("-")}
    name = given.get("resume", "").strip("'\"")
    if name in ("", "null"):
        return list(arguments)
    if any(flag in arguments for flag in MULTIRUN):
        raise ConfigError(
            f"resume={name} in a multirun: resume continues one run. A sweep goes on when it is started again with "
            "hydra.sweep.dir=ITS_FOLDER"
        )
    folder = Path(name)
    started = started_with(folder)
    if started is None:
        return list(arguments)
    left = {*given, "resume"}
    if not unstarted(folder):
        left.add("weights")  # it has left them behind
    first = [o for o in started if override_key(o) not in left]
    check_record(first, folder)
    place = [] if "hydra.run.dir" in given else [f"hydra.run.dir={quoted(folder.resolve())}"]
    return [*first, *arguments, *place]


def started_with(folder: Path) -> list[str] | None:
    """The overrides that a run was started with; None if its folder does not say.

    Raises:
        ConfigError: its records are damaged.
    """
    damaged = None
    for file in (folder / OVERRIDES, folder / ".hydra" / OVERRIDES):
        if file.is_file():
            try:
                started = read_record(file)
            except ConfigError as error:
                damaged = damaged or error
                continue
            if started is not None:  # a file without content has been cut off; without options it has an empty list
                return started
    if damaged is not None:
        raise damaged
    return None


def unstarted(run: str | Path) -> bool:
    """Whether a run was interrupted before its first last checkpoint: it starts again from the beginning.

    The best one may be there already, but from the middle of an accumulation window no training can go on. A run that
    has ended and whose last checkpoint is gone is none of these.
    """
    folder = Path(run)
    if any((folder / name).exists() for name in ("checkpoints/last.ckpt", "metrics.json")):
        return False
    return started_with(folder) is not None


def goes_on_in(resume: str | None, folder: Path) -> bool:
    """Whether a training that resumes something goes on in that run's own folder."""
    if resume is None:
        return False
    place, run = folder.resolve(), Path(resume).resolve()
    return place == run or place / "checkpoints" == run.parent


def composed_of() -> list[str]:
    """The overrides that this run is composed of: the task's, and where else than in the package options are found."""
    given = HydraConfig.get().overrides
    return [*(o for o in given.hydra if override_key(o) == "hydra.searchpath"), *given.task]


def to_record(folder: Path) -> list[str]:
    """`composed_of`, and the weights that an earlier part of a run that goes on started from.

    Args:
        folder: of the run.
    """
    now = composed_of()
    keys = {override_key(o) for o in now}
    if "resume" not in keys or "weights" in keys:
        return now
    return [*(o for o in started_with(folder) or [] if override_key(o) == "weights"), *now]


def quoted(path: str | Path) -> str:
    """A path as the value of an override. Letters stay as they are: Hydra does not read JSON's escapes."""
    return json.dumps(str(path), ensure_ascii=False)


def override_key(override: str) -> str:
    """The dotted key that an override sets."""
    return override.split("=", 1)[0].lstrip("+~")
