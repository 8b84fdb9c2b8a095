"""Runs experiments: each training and evaluation is a separate process, and finished ones are kept."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import product
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_det.evaluation.comparison import RunRecord
from lightning_det.evidence.experiments import Experiment, training_folder
from lightning_det.runs.launch import PARENT
from lightning_det.runs.layout import METRICS
from lightning_det.runs.results import read_run
from lightning_det.runs.resume import override_key, quote, recorded_overrides
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import write_json
from lightning_det.system.workload import cores

WORKERS = "data.num_workers"

ELAPSED = "elapsed.json"
"""File in a run folder: seconds that its processes took, over all starts that have ended."""

RUNNING: "set[subprocess.Popen[bytes]]" = set()
"""Running commands that this process has started."""


def run_experiment(
    experiment: Experiment, seeds: Sequence[int], budget: str, folder: Path, jobs: int
) -> list[RunRecord]:
    """Runs the unfinished part of an experiment, and reads all of its runs.

    Args:
        experiment: the protocol.
        seeds: of every arm.
        budget: name of one of its budgets.
        folder: folder of the runs. Finished ones are not repeated, and interrupted trainings are resumed.
        jobs: number of parallel runs.

    Raises:
        UserError: a run has failed, or its folder holds a run with other overrides. All other runs have ended.
    """
    count = len(seeds) * sum(1 + len(arm.tests) for arm in experiment.arms.values())
    workers = max(0, cores() // jobs - 1)
    # Arms that others start from come first, with all seeds: an arm that waits blocks a thread of the pool.
    order = sorted(product(seeds, experiment.arms), key=lambda job: experiment.arms[job[1]].start is not None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    futures: dict[tuple[str, int], Future[list[RunRecord]]] = {}
    with Progress(*columns) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task(experiment.title, total=count)

        def run_arm(name: str, seed: int, start: Future[list[RunRecord]] | None) -> list[RunRecord]:
            if start is not None:
                start.result()
            home = training_folder(folder, name, seed)
            train(home, experiment.training(name, seed, budget, folder), workers)
            progress.advance(task)
            runs = []
            for test, settings in experiment.arms[name].tests.items():
                evaluated = home / test.replace(" ", "_")
                checkpoint = quote(home / "checkpoints" / "last.ckpt")
                evaluate(evaluated, [f"checkpoint={checkpoint}", *experiment.budgets[budget].tests, *settings])
                runs.append(read_run(evaluated, f"{name}, {test}", seed))
                progress.advance(task)
            return runs

        for seed, name in order:
            start = experiment.arms[name].start
            futures[name, seed] = pool.submit(
                run_arm, name, seed, None if start is None else futures.get((start, seed))
            )
        try:
            wait(futures.values())
        except BaseException:  # waiting runs must not start, and running ones must not continue without this process
            pool.shutdown(wait=False, cancel_futures=True)
            for command in list(RUNNING):
                command.terminate()
            raise
    _raise_errors(futures.values())
    return [run for name in experiment.arms for seed in seeds for run in futures[name, seed].result()]


def _raise_errors(futures: Iterable[Future[list[RunRecord]]]) -> None:
    """Raises the errors of finished futures: a bug unchanged, otherwise the errors of all runs together."""
    errors = [error for f in futures if (error := f.exception()) is not None]
    for error in errors:
        if not isinstance(error, UserError):
            raise error
    if errors:
        raise UserError("\n".join(dict.fromkeys(map(str, errors))))


def train(folder: Path, options: Sequence[str], workers: int) -> None:
    """Trains to the end, if not done yet. An interrupted training is resumed.

    Args:
        folder: of the run.
        options: its overrides in the protocol.
        workers: number of loader processes. Not part of the protocol, because it only changes the time.
    """
    begun = _read_overrides(folder, options)
    if not (folder / METRICS).exists():
        given = options if begun is None else [f"resume={quote(folder)}"]
        _command("train", folder, [*given, f"{WORKERS}={workers}"])


def evaluate(folder: Path, options: Sequence[str]) -> None:
    """Evaluates, if not done yet.

    Args:
        folder: of the run.
        options: its overrides in the protocol.
    """
    _read_overrides(folder, options)
    if not (folder / METRICS).exists():
        _command("eval", folder, options)


def _read_overrides(folder: Path, options: Sequence[str]) -> list[str] | None:
    """Reads the overrides that the run of a folder was started with; None if there is no run.

    Raises:
        ConfigError: the run was started with other overrides than these.
    """
    begun = recorded_overrides(folder)
    changed = sorted(o for o in set(begun or options) ^ set(options) if override_key(o) not in ("resume", WORKERS))
    if changed:
        raise ConfigError(f"{folder} holds a run of another protocol ({' '.join(changed)}); remove it, or set folder=")
    return begun


def elapsed_seconds(folder: Path) -> float:
    """Reads how many seconds the processes of a run took; 0 if unknown."""
    file = folder / ELAPSED
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 0.0


def command_line(name: str, options: Sequence[str]) -> list[str]:
    """Makes the arguments of a process that runs a command of the package."""
    return [sys.executable, "-m", f"lightning_det.{name}", *options]


def _command(name: str, folder: Path, options: Sequence[str]) -> None:
    """Runs a command with one thread and appends its output to ``output.txt`` in the folder.

    Raises:
        UserError: the command failed.
    """
    if not any(override_key(o) == "resume" for o in options):
        options = [*options, f"hydra.run.dir={quote(folder)}"]
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", PARENT: str(os.getpid())}
    start = time.monotonic()
    with (folder / "output.txt").open("a") as output:
        call = command_line(name, options)
        command = subprocess.Popen(call, env=environment, stdout=output, stderr=subprocess.STDOUT)
        RUNNING.add(command)
        code = command.wait()
        RUNNING.discard(command)
    write_json(folder / ELAPSED, round(elapsed_seconds(folder) + time.monotonic() - start, 1))
    if code:
        said = (folder / "output.txt").read_text().strip().splitlines()[-1:]
        # Linux kills a process that takes the last memory.
        killed = "; killed, probably for lack of memory: start it alone, jobs=1" if code == -signal.SIGKILL else ""
        raise UserError(f"{folder}: {name} has ended with {code}: {' '.join(said)} (see its output.txt{killed})")
