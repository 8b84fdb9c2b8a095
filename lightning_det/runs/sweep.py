"""Jobs of a multirun: each leaves how it ended, several ranks get a process of their own, and the end is a table.

A multirun that is started again in its folder (``-m hydra.sweep.dir=ITS_FOLDER``) does what is left to do.
"""

import gc
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_det.config.record import read_record
from lightning_det.runs.launch import PARENT
from lightning_det.runs.occupancy import free, hold, refuse_used, release
from lightning_det.runs.resume import OVERRIDES, composed_of, override_key, quoted
from lightning_det.system import interrupt
from lightning_det.system.errors import ConfigError, UserError, explained
from lightning_det.system.files import read_json, write_json

log = logging.getLogger("lightning_det")

STATUS = "status.json"
"""In the folder of a job."""

PATIENCE = 60.0
"""Seconds that a job of several ranks has to end in when its sweep does."""


class Job(NamedTuple):
    """How a job of the sweep ended."""

    number: int
    overrides: list[str]
    folder: str
    exit_code: int | None
    """None: it has been started, and nothing has been heard of its end."""
    seconds: float
    """Since it was started last."""
    error: str | None
    AP: float | None


class JobError(UserError):
    """A job failed, and has said so."""


JOBS: list[Job] = []
"""Of the sweep that this process runs."""

BEFORE: dict[Path, dict[Path, int]] = {}
"""Folder of the sweep that this process runs, with the times of the ``status.json`` that were there before.

Empty in a process that runs jobs for another one, as those of submitit's launchers do.
"""


class SweepFolder(Callback):
    """Notes in which folder this process runs a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Before the first job."""
        folder = Path(config.hydra.sweep.dir).absolute()
        JOBS.clear()
        BEFORE.clear()
        BEFORE[folder] = _times(folder)


def run_job(task: Callable[[DictConfig], object], cfg: DictConfig, module: str) -> object:
    """Runs a task; in a multirun, keeps how it ended: ``status.json`` in its folder, ``sweep.json`` in the sweep's.

    A job that an earlier start of the multirun has finished is not run again. A training that was begun goes on from
    its last checkpoint; everything else starts over.

    Args:
        task: takes the composed configuration.
        cfg: of the job; a training that goes on resumes from its folder.
        module: of the command, for jobs of several ranks.

    Returns:
        What the task returns; in a multirun the job's AP, None without one: launchers send it between processes.

    Raises:
        JobError: the job of a multirun failed, or its folder is another job's; what was wrong has been printed.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return task(cfg)
    overrides, folder = list(hydra.overrides.task), Path(hydra.runtime.output_dir)
    command = module.rpartition(".")[2]
    start, code, error = time.monotonic(), 1, "interrupted"

    def job() -> Job:
        seconds = round(time.monotonic() - start, 1)
        return Job(hydra.job.num, overrides, str(folder), code, seconds, error, _ap(folder))

    ranks = _has_ranks(cfg)
    try:
        before = _status(folder)
        _check_same(before, overrides, folder)
        if before is None:
            refuse_used(folder, command, f"hydra.sweep.dir={free(Path(hydra.sweep.dir))}")
        if not ranks:  # whose process locks it itself
            hold(folder)
    except ConfigError as failure:
        code, error = 2, str(failure)
        JOBS.append(job())  # and nowhere else: the files are the other job's
        raise _said(job()) from failure
    if before is not None and before.exit_code == 0:
        print(f"job {hydra.job.num} ({' '.join(overrides)}) is finished")
        release(folder)
        _keep(before._replace(number=hydra.job.num, folder=str(folder)))
        return before.AP
    goes_on = command == "train" and before is not None and (folder / "checkpoints/last.ckpt").exists()
    if goes_on:
        cfg.resume, cfg.weights = str(folder), None
    write_json(folder / STATUS, job()._replace(exit_code=None, error="not finished")._asdict())
    try:
        with _wandb_names(overrides, "/".join(Path(hydra.sweep.dir).absolute().parts[-2:])):
            if ranks:
                _in_child(module, composed_of(), folder, goes_on)
            else:
                task(cfg)
        code, error = 0, None
        return _ap(folder)
    except JobError as failure:
        code, error = failure.args[1], failure.args[0]
        raise
    except KeyboardInterrupt:
        code = interrupt.CODE
        raise
    except Exception as failure:
        if interrupt.interrupted():  # a library has made something else of it
            code = interrupt.CODE
            raise
        code, error = 2 if isinstance(failure, ConfigError) else 1, explained(failure)
        if error is None:
            error = f"{type(failure).__name__}: {failure}"
            traceback.print_exc()
            _let_go(failure)
            raise JobError(error, code) from failure
        _let_go(failure)
        raise _said(job()) from failure
    except SystemExit as stop:
        # Lightning's, after SIGTERM, has no code, and after Ctrl-C that of an error.
        code = interrupt.CODE if interrupt.interrupted() else stop.code or 128 + signal.SIGTERM
        raise SystemExit(code) from stop
    finally:
        _keep(job())
        release(folder)


def summary() -> int:
    """Prints a table of the sweep that ran, if one did; the largest exit code of its jobs."""
    if not BEFORE:
        return 0
    (folder,) = BEFORE
    if not JOBS:
        _gather()
    if not JOBS:
        return 0
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


def _status(folder: Path) -> Job | None:
    """How the job of a folder ended, if one was started there.

    One whose ``status.json`` is damaged, or of another version, was interrupted: what is known of it counts.
    """
    file = folder / STATUS
    if not file.exists():
        return None
    content = read_json(file)
    known = {key: content[key] for key in Job._fields if key in content and isinstance(content[key], _TYPES[key])}
    if not {"overrides", "exit_code"} <= known.keys():
        log.warning("%s: damaged; the job is taken for interrupted", file)
        record = folder / OVERRIDES
        started = (read_record(record) if record.is_file() else None) or []
        kept = [o for o in started if override_key(o) not in ("hydra.searchpath", "resume")]
        known["overrides"] = kept if record.is_file() else list(HydraConfig.get().overrides.task)
        known["exit_code"] = None
    missing = {"number": -1, "folder": str(folder), "exit_code": None, "seconds": 0.0, "error": None, "AP": None}
    return Job(**missing | known)


_TYPES = {
    "number": int,
    "overrides": list,
    "folder": str,
    "exit_code": int | None,
    "seconds": int | float,
    "error": str | None,
    "AP": int | float | None,
}


def _check_same(before: Job | None, overrides: list[str], folder: Path) -> None:
    """Refuses a folder in which another job was started.

    Raises:
        ConfigError: naming both jobs.
    """
    if before is None or sorted(before.overrides) == sorted(overrides):
        return
    raise ConfigError(
        f"{folder} holds the run of another job: {' '.join(before.overrides) or 'defaults'}; a sweep goes on with the "
        "options that it was started with, and one with others needs another hydra.sweep.dir"
    )


def _said(job: Job) -> JobError:
    """Prints what is wrong with a job."""
    print(f"error: job {job.number} ({' '.join(job.overrides)}): {job.error}", file=sys.stderr)
    return JobError(job.error, job.exit_code)


def _let_go(failure: BaseException | None) -> None:
    """Frees what a failed job has in memory: Hydra keeps its error, and so its frames, until the sweep ends."""
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__
    gc.collect()


def _keep(job: Job) -> None:
    """Writes how a job ended, and how the sweep stands."""
    JOBS.append(job)
    write_json(Path(job.folder) / STATUS, job._asdict())
    _write_sweep()


def _gather() -> None:
    """Reads how the jobs ended that other processes ran; what was wrong with them is in their logs only so far."""
    ((folder, before),) = BEFORE.items()
    jobs = [_status(file.parent) for file, time in _times(folder).items() if before.get(file) != time]
    JOBS.extend(sorted(jobs, key=lambda job: job.number))
    for job in JOBS:
        if job.error is not None:
            _said(job)
    if JOBS:
        _write_sweep()


def _write_sweep() -> None:
    """Writes ``sweep.json``, in the process that runs the sweep alone."""
    for folder in BEFORE:
        write_json(folder / "sweep.json", [job._asdict() for job in JOBS])


def _times(folder: Path) -> dict[Path, int]:
    """When how a job ended was written last, for all jobs of a sweep."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob(STATUS)}


def _ap(folder: Path) -> float | None:
    return read_json(folder / "metrics.json").get("AP")


def _has_ranks(cfg: DictConfig) -> bool:
    """Whether a job may have more than one rank."""
    trainer = cfg.get("trainer") or {}
    return str(trainer.get("devices", 1)) != "1" or int(trainer.get("num_nodes", 1)) != 1


def _in_child(module: str, overrides: list[str], folder: Path, goes_on: bool) -> None:
    """Runs the job as a single run of its own.

    Lightning starts further ranks by the arguments of this process, which are the whole sweep's: each rank would draw
    and train what its own sweep comes to. And what kills one rank kills the process that started it.

    Raises:
        ConfigError: another launcher has started the ranks already.
        JobError: the job failed.
    """
    if "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        raise ConfigError("a multirun starts the ranks of its jobs itself; run it in one process, without a launcher")
    place = quoted(folder)
    if goes_on:  # from its own checkpoint, wherever it started from
        overrides = [o for o in overrides if override_key(o) not in ("weights", "resume")] + [f"resume={place}"]
    call = [sys.executable, "-m", module, *overrides, f"hydra.run.dir={place}"]
    sys.stdout.flush()
    # By this name Lightning knows that it starts the ranks itself, although SLURM's variables are there.
    env = os.environ | {PARENT: str(os.getpid()), "SLURM_JOB_NAME": "interactive"}
    with subprocess.Popen(call, env=env) as child, _sigterm_exits():
        try:
            code = child.wait()
        except BaseException:
            child.terminate()  # it must not go on training without its sweep
            with suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
            child.kill()  # ranks that wait for each other do not hear
            raise
    if code:
        raise JobError(f"the job ended with exit code {code}", code if code > 0 else 128 - code)


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Turns SIGTERM into `SystemExit` meanwhile, as trainings in this process do."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _wandb_names(overrides: list[str], sweep: str) -> Iterator[None]:
    """Makes wandb's runs of a sweep a group, named by their overrides, unless the user's environment says otherwise."""
    names = {"WANDB_RUN_GROUP": sweep, "WANDB_NAME": " ".join(overrides)[:128] or "defaults"}
    added = {key: value for key, value in names.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
