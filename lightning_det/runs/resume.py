"""``train resume=RUN_FOLDER``: a run that goes on has the overrides it was started with."""

import json
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from lightning_det.config.composition import SEARCHPATH, override_key
from lightning_det.config.record import check_record, read_record
from lightning_det.runs.layout import LAST, METRICS, OVERRIDES
from lightning_det.system.errors import ConfigError

MULTIRUN = ("-m", "--multirun")


def complete_overrides(arguments: Sequence[str]) -> list[str]:
    """The command line of a resumed run: its recorded overrides, then those given now, then its folder.

    Overrides given now win. The arguments stay as they are without ``resume=FOLDER``, or if the folder has no record.

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
    recorded = recorded_overrides(folder)
    if recorded is None:
        return list(arguments)
    left_out = {*given, "resume"}
    if not is_unstarted(folder):
        left_out.add("weights")  # the checkpoint to go on from has later ones
    first = [o for o in recorded if override_key(o) not in left_out]
    check_record(first, folder)
    last = [] if "hydra.run.dir" in given else [f"hydra.run.dir={quote(folder.resolve())}"]
    return [*first, *arguments, *last]


def recorded_overrides(folder: Path) -> list[str] | None:
    """The overrides that a run was started with; None if its folder has no record of them.

    Raises:
        ConfigError: the records are damaged.
    """
    damaged = None
    for file in (folder / OVERRIDES, folder / ".hydra" / OVERRIDES):
        if file.is_file():
            try:
                recorded = read_record(file)
            except ConfigError as error:
                damaged = damaged or error
                continue
            if recorded is not None:  # an empty file has been cut off; a run without overrides has an empty list
                return recorded
    if damaged is not None:
        raise damaged
    return None


def is_unstarted(run: str | Path) -> bool:
    """Whether a run was interrupted before it wrote ``last.ckpt``, so that it starts again from the beginning.

    The best checkpoint may exist already, but it may come from the middle of an accumulation window, from which no
    training can go on. A run that has ended and whose last checkpoint was deleted is not unstarted.
    """
    folder = Path(run)
    if any((folder / name).exists() for name in (LAST, METRICS)):
        return False
    return recorded_overrides(folder) is not None


def resumes_in_place(resume: str | None, folder: Path) -> bool:
    """Whether a training resumes the run of its own folder.

    Args:
        resume: run folder or checkpoint; None for a new training.
        folder: of this training.
    """
    if resume is None:
        return False
    own, resumed = folder.resolve(), Path(resume).resolve()
    return own == resumed or own / "checkpoints" == resumed.parent


def composition_overrides() -> list[str]:
    """The overrides that this run is composed of: those of the task, and Hydra's search path."""
    given = HydraConfig.get().overrides
    return [*(o for o in given.hydra if override_key(o) == SEARCHPATH), *given.task]


def overrides_to_record(folder: Path) -> list[str]:
    """`composition_overrides`, and for a resumed run the ``weights`` that its first start began with.

    Args:
        folder: of the run.
    """
    now = composition_overrides()
    keys = {override_key(o) for o in now}
    if "resume" not in keys or "weights" in keys:
        return now
    return [*(o for o in recorded_overrides(folder) or [] if override_key(o) == "weights"), *now]


def quote(path: str | Path) -> str:
    """A path as the value of an override. Non-ASCII letters are kept: Hydra does not read JSON's escapes."""
    return json.dumps(str(path), ensure_ascii=False)
