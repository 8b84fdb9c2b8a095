"""Jobs of a multirun: each leaves how it ended, several ranks get a process of their own, and the end is a table."""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_det.errors import ConfigError, UserError, explained
from lightning_det.files import write_json


class Job(NamedTuple):
    """How a job of the sweep ended."""

    number: int
    overrides: list[str]
    folder: str
    exit_code: int
    seconds: float
    error: str | None
    AP: float | None


class JobError(UserError):
    """A job failed, and has said so."""


JOBS: list[Job] = []
"""Of the sweep that this process runs."""


def run_job(task: Callable[[DictConfig], object], cfg: DictConfig, module: str) -> object:
    """Runs a task; in a multirun, keeps how it ended: ``status.json`` in its folder, ``sweep.json`` in the sweep's.

    Args:
        task: takes the composed configuration.
        cfg: of the job.
        module: of the command, for jobs of several ranks.

    Raises:
        JobError: the job of a multirun failed; what was wrong has been printed.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return task(cfg)
    overrides, folder = list(hydra.overrides.task), Path(hydra.runtime.output_dir)
    start, code, error = time.monotonic(), 1, "interrupted"
    try:
        with _wandb_names(overrides, "/".join(folder.parent.parts[-2:])):
            result = _in_child(module, overrides, folder) if _has_ranks(cfg) else task(cfg)
        code, error = 0, None
        return result
    except JobError as failure:
        code, error = failure.args[1], failure.args[0]
        raise
    except Exception as failure:
        code, error = 2 if isinstance(failure, ConfigError) else 1, explained(failure)
        if error is None:
            error = f"{type(failure).__name__}: {failure}"
            traceback.print_exc()
        else:
            print(f"error: job {hydra.job.num} ({' '.join(overrides)}): {error}", file=sys.stderr)
        raise JobError(error, code) from failure
    finally:
        job = Job(hydra.job.num, overrides, str(folder), code, round(time.monotonic() - start, 1), error, _ap(folder))
        JOBS.append(job)
        write_json(folder / "status.json", job._asdict())
        write_json(folder.parent / "sweep.json", [j._asdict() for j in JOBS])


def summary() -> int:
    """Prints a table of the sweep that ran, if one did; the largest exit code of its jobs."""
    if not JOBS:
        return 0
    table = Table("job", "overrides", "exit code", "AP", "seconds", title=f"sweep in {Path(JOBS[0].folder).parent}")
    shared = set.intersection(*(set(job.overrides) for job in JOBS)) if len(JOBS) > 1 else set()
    for job in JOBS:
        own = escape(" ".join(o for o in job.overrides if o not in shared))
        figures = ("-" if job.AP is None else f"{job.AP:.3f}", f"{job.seconds:.0f}")
        table.add_row(str(job.number), own, str(job.exit_code), *figures)
    Console().print(table)
    failed = [job.exit_code for job in JOBS if job.exit_code]
    if failed:
        print(f"error: {len(failed)} of {len(JOBS)} jobs failed", file=sys.stderr)
    return max(failed, default=0)


def _ap(folder: Path) -> float | None:
    file = folder / "metrics.json"
    return json.loads(file.read_text()).get("AP") if file.exists() else None


def _has_ranks(cfg: DictConfig) -> bool:
    """Whether a job may have more than one rank."""
    trainer = cfg.get("trainer") or {}
    return str(trainer.get("devices", 1)) != "1" or int(trainer.get("num_nodes", 1)) != 1


def _in_child(module: str, overrides: list[str], folder: Path) -> None:
    """Runs the job as a single run of its own.

    Lightning starts further ranks by the arguments of this process, which are the whole sweep's: each rank would draw
    and train what its own sweep comes to. And what kills one rank kills the process that started it.

    Raises:
        ConfigError: another launcher has started the ranks already.
        JobError: the job failed.
    """
    if "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        raise ConfigError("a multirun starts the ranks of its jobs itself; run it in one process, without a launcher")
    call = [sys.executable, "-m", module, *overrides, f"hydra.run.dir={json.dumps(str(folder))}"]
    sys.stdout.flush()
    code = subprocess.run(call, check=False).returncode
    if code:
        raise JobError(f"the job ended with exit code {code}", code if code > 0 else 128 - code)


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
