"""Runs the jobs of a multirun. Each job writes its state, and a table of all jobs is printed at the end.

A multirun that is started again in its folder (``-m hydra.sweep.dir=ITS_FOLDER``) runs the remaining jobs.
"""

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_det.runs.child_job import has_ranks, run_in_child
from lightning_det.runs.jobs import Job, JobError, check_same_job, print_error, read_ap, read_job, write_job
from lightning_det.runs.layout import LAST, STATUS, SWEEP_TABLE
from lightning_det.runs.occupancy import check_unused, lock_folder, unlock_folder, unused_folder
from lightning_det.runs.resume import composition_overrides
from lightning_det.system import interrupt
from lightning_det.system.errors import ConfigError, explain_error
from lightning_det.system.files import write_json

INTERRUPTED = "interrupted"
"""The error of a job that a signal has ended."""

JOBS: list[Job] = []
"""The jobs of the sweep that have run in this process."""

BEFORE: dict[Path, dict[Path, int]] = {}
"""The folder of the sweep that this process runs, and the modification times of the ``status.json`` found there.

Empty in a process that runs jobs for another one, as submitit's launchers do.
"""


class SweepFolder(Callback):
    """Remembers the folder of the sweep that this process runs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Runs before the first job."""
        folder = Path(config.hydra.sweep.dir).absolute()
        JOBS.clear()
        BEFORE.clear()
        BEFORE[folder] = _status_times(folder)


def run_job(task: Callable[[DictConfig], object], cfg: DictConfig, module: str) -> object:
    """Runs a task. In a multirun, writes the state of the job into its folder and into that of the sweep.

    A job that has finished in an earlier start of the multirun is not run again. A training that was begun goes on
    from its last checkpoint; everything else starts over.

    Args:
        task: takes the composed configuration.
        cfg: of the job. Sets ``resume`` in it if the job is a training that goes on.
        module: of the command, for jobs of several ranks.

    Returns:
        The task's result; in a multirun the job's AP, or None: launchers send it between processes.

    Raises:
        JobError: the job of a multirun failed, or its folder is another job's. The error has been printed.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return task(cfg)
    command, folder, start = module.rpartition(".")[2], Path(hydra.runtime.output_dir), time.monotonic()
    job = Job(hydra.job.num, list(hydra.overrides.task), str(folder), None, 0.0, "not finished", None)
    before = _take_job_folder(job, command, cfg)
    if before is not None and before.exit_code == 0:
        print(f"job {job.number} ({' '.join(job.overrides)}) is finished")
        unlock_folder(folder)
        _keep(before._replace(number=job.number, folder=str(folder)))
        return before.AP
    resumes = command == "train" and before is not None and (folder / LAST).exists()
    if resumes:
        cfg.resume, cfg.weights = str(folder), None
    write_job(job)
    code: int | None = 1
    error: str | None = INTERRUPTED
    try:
        with _wandb_names(job.overrides, "/".join(Path(hydra.sweep.dir).absolute().parts[-2:])):
            if has_ranks(cfg):
                run_in_child(module, composition_overrides(), folder, resumes)
            else:
                task(cfg)
        code, error = 0, None
        return read_ap(folder)
    except BaseException as failure:
        code, error = _exit_of(failure)
        if isinstance(failure, SystemExit):
            raise SystemExit(code) from failure
        if error == INTERRUPTED or isinstance(failure, JobError):
            raise
        raise _fail(job._replace(exit_code=code, error=error), failure) from failure
    finally:
        seconds = round(time.monotonic() - start, 1)
        _keep(job._replace(exit_code=code, seconds=seconds, error=error, AP=read_ap(folder)))
        unlock_folder(folder)


def _take_job_folder(job: Job, command: str, cfg: DictConfig) -> Job | None:
    """Locks the folder of a job; the state that an earlier start of the job has left there.

    Raises:
        JobError: the folder is in use, or holds another run.
    """
    folder = Path(job.folder)
    try:
        before = read_job(folder, job.overrides)
        check_same_job(before, job.overrides, folder)
        if before is None:
            sweep = Path(HydraConfig.get().sweep.dir)
            check_unused(folder, command, f"hydra.sweep.dir={unused_folder(sweep)}")
        if not has_ranks(cfg):  # else the job's own process locks it
            lock_folder(folder)
    except ConfigError as failure:
        refused = job._replace(exit_code=2, error=str(failure), AP=read_ap(folder))
        JOBS.append(refused)  # but write no file: they are the other job's
        raise print_error(refused) from failure
    return before


def _exit_of(failure: BaseException) -> tuple[int | None, str | None]:
    """Returns the exit code and the error of a job that raised an exception."""
    if isinstance(failure, JobError):
        return failure.code, failure.message
    if (
        isinstance(failure, KeyboardInterrupt) or interrupt.was_interrupted()
    ):  # libraries convert it to other exceptions
        return interrupt.CODE, INTERRUPTED
    if isinstance(failure, SystemExit):  # Lightning's, which has no code after SIGTERM
        code = 1 if isinstance(failure.code, str) else failure.code
        return code or 128 + signal.SIGTERM, INTERRUPTED
    if not isinstance(failure, Exception):
        return 1, INTERRUPTED
    code = 2 if isinstance(failure, ConfigError) else 1
    return code, explain_error(failure) or f"{type(failure).__name__}: {failure}"


def _fail(job: Job, failure: BaseException) -> JobError:
    """Prints why a job failed, and frees what it has in memory."""
    if isinstance(failure, Exception) and explain_error(failure) is None:
        traceback.print_exc()
        error = JobError(job.error, job.exit_code)
    else:
        error = print_error(job)
    _free_frames(failure)
    return error


def _free_frames(failure: BaseException | None) -> None:
    """Frees the local variables of a failed job: Hydra keeps its exception, and so its frames, until the sweep ends."""
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__
    gc.collect()


def summary() -> int:
    """Prints a table of the sweep of this process, if there was one. Returns the largest exit code of its jobs."""
    if not BEFORE:
        return 0
    (folder,) = BEFORE
    if not JOBS:
        _gather()
    if not JOBS:
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("job", "overrides", "exit code", "AP", "seconds", title=f"sweep in {folder}")
    shared = set.intersection(*(set(job.overrides) for job in JOBS)) if len(JOBS) > 1 else set()
    for job in JOBS:
        own = escape(" ".join(o for o in job.overrides if o not in shared))
        figures = ("-" if job.AP is None else f"{job.AP:.3f}", f"{job.seconds:.0f}")
        table.add_row(str(job.number), own, str(job.exit_code), *figures)
    Console().print(table)
    failed = [1 if job.exit_code is None else job.exit_code for job in JOBS if job.exit_code != 0]
    if failed:
        print(f"error: {len(failed)} of {len(JOBS)} jobs failed", file=sys.stderr)
    return max(failed, default=0)


def _keep(job: Job) -> None:
    """Writes the state of a job and of the sweep."""
    JOBS.append(job)
    write_job(job)
    _write_sweep()


def _gather() -> None:
    """Reads the states of jobs run by other processes. Their errors have been printed into their own logs only."""
    ((folder, before),) = BEFORE.items()
    written = [file.parent for file, time in _status_times(folder).items() if before.get(file) != time]
    jobs = [job for job_folder in written if (job := read_job(job_folder)) is not None]
    JOBS.extend(sorted(jobs, key=lambda job: job.number))
    for job in JOBS:
        if job.error is not None:
            print_error(job)
    if JOBS:
        _write_sweep()


def _write_sweep() -> None:
    """Writes the states of all jobs into the folder of the sweep, if this process runs the sweep."""
    for folder in BEFORE:
        write_json(folder / SWEEP_TABLE, [job._asdict() for job in JOBS])


def _status_times(folder: Path) -> dict[Path, int]:
    """The modification times of the ``status.json`` of all jobs of a sweep, in nanoseconds."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob(STATUS)}


@contextmanager
def _wandb_names(overrides: Sequence[str], sweep: str) -> Iterator[None]:
    """Groups wandb's runs of a sweep and names them by their overrides, unless the user's environment names them."""
    names = {"WANDB_RUN_GROUP": sweep, "WANDB_NAME": " ".join(overrides)[:128] or "defaults"}
    added = {key: value for key, value in names.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
