"""Runs a job of several ranks as a single run in a separate process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig

from lightning_det.runs.jobs import JobError
from lightning_det.runs.launch import PARENT
from lightning_det.runs.resume import override_key, quote
from lightning_det.system.errors import ConfigError

PATIENCE = 60.0
"""Seconds that a job of several ranks has to end when its sweep ends."""


def has_ranks(cfg: DictConfig) -> bool:
    """Whether a job may have more than one rank."""
    trainer = cfg.get("trainer") or {}
    return str(trainer.get("devices", 1)) != "1" or int(trainer.get("num_nodes") or 1) != 1


def run_in_child(module: str, overrides: Sequence[str], folder: Path, resumes: bool) -> None:
    """Runs a job as a single run in a child process.

    Lightning starts further ranks with the arguments of this process, which are those of the whole sweep: each rank
    would start its own sweep. And whatever kills one rank also kills the process that started it.

    Args:
        module: module of the command.
        overrides: overrides of the job.
        folder: folder of the job.
        resumes: whether the job resumes from its own checkpoint, whatever it started from originally.

    Raises:
        ConfigError: another launcher has started the ranks already.
        JobError: the job failed.
    """
    if "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        raise ConfigError("a multirun starts the ranks of its jobs itself; run it in one process, without a launcher")
    path = quote(folder)
    if resumes:
        overrides = [o for o in overrides if override_key(o) not in ("weights", "resume")] + [f"resume={path}"]
    call = [sys.executable, "-m", module, *overrides, f"hydra.run.dir={path}"]
    sys.stdout.flush()
    # This job name tells Lightning to start the ranks itself, although SLURM's variables are set.
    env = os.environ | {PARENT: str(os.getpid()), "SLURM_JOB_NAME": "interactive"}
    with subprocess.Popen(call, env=env) as child, _sigterm_exits():
        try:
            code = child.wait()
        except BaseException:
            child.terminate()  # it must not continue without its sweep
            with suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
            child.kill()  # ranks that wait for each other ignore SIGTERM
            raise
    if code:
        raise JobError(f"the job ended with exit code {code}", code if code > 0 else 128 - code)


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Lets SIGTERM raise `SystemExit` in the body, as it does in trainings in this process."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
