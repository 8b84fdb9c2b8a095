"""The state of one job of a sweep, kept in ``status.json`` of its folder."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_det.config.record import read_record
from lightning_det.runs.layout import METRICS, OVERRIDES, STATUS
from lightning_det.runs.resume import override_key
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import read_json, write_json

log = logging.getLogger("lightning_det")


class Job(NamedTuple):
    """The state of a job."""

    number: int
    overrides: list[str]
    folder: str
    exit_code: int | None
    """None: the job was started, and has not reported its end."""
    seconds: float
    """Since it was last started."""
    error: str | None
    AP: float | None


class JobError(UserError):
    """A job failed, and its error has been printed. Its arguments are the message and the exit code."""

    def __init__(self, message: str | None, code: int | None):
        super().__init__(message, code)
        self.message = message
        self.code = code


def write_job(job: Job) -> None:
    """Writes the state of a job into its folder."""
    write_json(Path(job.folder) / STATUS, job._asdict())


def read_job(folder: Path, overrides: Sequence[str] = ()) -> Job | None:
    """The state of the job of a folder; None if no job was started there.

    A damaged ``status.json``, or one of another version, counts as that of an interrupted job, with the values that
    it does hold.

    Args:
        folder: of the job.
        overrides: of the job that is about to run there, for a folder that has no record of its overrides.
    """
    file = folder / STATUS
    if not file.exists():
        return None
    content = read_json(file)
    job = _interrupted_job(folder, content)
    if not _is_list_of_texts(content.get("overrides")) or "exit_code" not in content or not _is_code(content):
        log.warning("%s: damaged; the job is taken for interrupted", file)
        return job._replace(overrides=_recorded_overrides(folder, overrides), exit_code=None)
    return job._replace(overrides=content["overrides"], exit_code=content["exit_code"])


def _interrupted_job(folder: Path, content: dict[str, Any]) -> Job:
    """The valid values of a ``status.json``, with defaults for the others."""
    number, name, seconds = content.get("number"), content.get("folder"), content.get("seconds")
    error, ap = content.get("error"), content.get("AP")
    return Job(
        number=number if isinstance(number, int) else -1,
        overrides=[],
        folder=name if isinstance(name, str) else str(folder),
        exit_code=None,
        seconds=seconds if isinstance(seconds, int | float) else 0.0,
        error=error if isinstance(error, str) else None,
        AP=ap if isinstance(ap, int | float) else None,
    )


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_code(content: dict[str, Any]) -> bool:
    return content["exit_code"] is None or isinstance(content["exit_code"], int)


def _recorded_overrides(folder: Path, overrides: Sequence[str]) -> list[str]:
    """The overrides in the record of a job's run; the given ones if there is no record."""
    record = folder / OVERRIDES
    if not record.is_file():
        return list(overrides)
    return [o for o in read_record(record) or [] if override_key(o) not in ("hydra.searchpath", "resume")]


def check_same_job(before: Job | None, overrides: Sequence[str], folder: Path) -> None:
    """Refuses a folder in which another job was started.

    Args:
        before: the job of the folder; None if there is none.
        overrides: of the job that is about to run there.
        folder: of the job.

    Raises:
        ConfigError: naming both jobs.
    """
    if before is None or sorted(before.overrides) == sorted(overrides):
        return
    raise ConfigError(
        f"{folder} holds the run of another job: {' '.join(before.overrides) or 'defaults'}; a sweep goes on with the "
        "options that it was started with, and one with others needs another hydra.sweep.dir"
    )


def print_error(job: Job) -> JobError:
    """Prints the error of a failed job, and makes the exception that ends it."""
    print(f"error: job {job.number} ({' '.join(job.overrides)}): {job.error}", file=sys.stderr)
    return JobError(job.error, job.exit_code)


def read_ap(folder: Path) -> float | None:
    """The AP of the run in a folder; None if it has none."""
    return read_json(folder / METRICS).get("AP")
