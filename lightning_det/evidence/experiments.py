"""Experiments that are written down before they run: arms, each an ordinary training and its evaluations per seed."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_det.data.images import cores
from lightning_det.evaluation.comparison import Run
from lightning_det.runs.launch import PARENT
from lightning_det.runs.results import METRICS, read_run
from lightning_det.runs.resume import override_key, quote, recorded_overrides
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import write_json

WORKERS = "data.num_workers"

ELAPSED = "elapsed.json"
"""In the folder of a run: seconds of its process, of all starts that ended."""

RUNNING: set[subprocess.Popen] = set()
"""Commands that this process has started and that have not ended."""


@dataclass(frozen=True)
class Arm:
    """One of the things to compare."""

    settings: Sequence[str]
    """Options of its training."""
    batch: int
    """``data.batch_size``, before the budget enlarges it."""
    canvases: float
    """Training pixels of a step of this batch, in canvases."""
    tests: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Options of evaluations of the last checkpoint, by what tables call them."""
    start: str | None = None
    """Arm whose last weights of the same seed it starts from."""
    share: float = 1.0
    """Of the experiment's pixels that it trains for."""


@dataclass(frozen=True)
class Bar:
    """What a claim expects."""

    figure: str
    better: str
    """``arm, test``."""
    than: Sequence[str]
    """``arm, test`` of each baseline; the best of them counts."""
    by: float
    """Least difference of the means over seeds, 0 to 1; negative where it may be that much worse."""
    pixels: float | None = None
    """Largest share of the baseline's training pixels, mining included."""


@dataclass(frozen=True)
class Budget:
    """How much an experiment computes."""

    canvases: float
    """Training pixels of an arm, in canvases."""
    batch: int = 1
    """How many times the batches of the arms."""
    settings: Sequence[str] = ()
    """Further options of all trainings."""
    tests: Sequence[str] = ()
    """Further options of all evaluations: they do not take the trainer from the training."""


@dataclass(frozen=True)
class Experiment:
    """Arms that are compared in one table."""

    title: str
    equal: str
    """What the arms have in common: ``pixels`` or ``images``."""
    canvas: int
    """Pixels of a canvas: of one image at the dataset's resolution."""
    budgets: Mapping[str, Budget]
    arms: Mapping[str, Arm]
    baseline: str
    """``arm, test`` that the others are compared with."""
    settings: Sequence[str] = ()
    """Options of all trainings."""
    needs: str | None = None
    """Environment variable that names the dataset's folder; without it the experiment is left out."""
    bars: Sequence[Bar] = ()

    def training(self, arm: str, seed: int, budget: str, folder: Path) -> list[str]:
        """Options of an arm's training.

        Args:
            arm: its name.
            seed: of everything.
            budget: one of the budgets.
            folder: of the experiment's runs.
        """
        chosen, spent = self.arms[arm], self.budgets[budget]
        steps = round(chosen.share * spent.canvases / (chosen.canvases * spent.batch))
        if steps < 1:
            raise ConfigError(f"{self.title}: the budget {budget} is less than one step of {arm}")
        stop = [f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "trainer.limit_val_batches=0"]
        if chosen.start is not None:
            stop.append(f"weights={quote(training_folder(folder, chosen.start, seed) / 'checkpoints' / 'last.ckpt')}")
        size = f"data.batch_size={chosen.batch * spent.batch}"
        return [*self.settings, *spent.settings, *chosen.settings, size, *stop, f"seed={seed}"]


def parse_experiment(node: Mapping[str, Any], name: str) -> Experiment:
    """An experiment out of plain data.

    Raises:
        ConfigError: a key is unknown or missing, or an arm, test or budget that is referred to is not there.
    """
    try:
        made = Experiment(
            **{
                **node,
                "budgets": {key: Budget(**value) for key, value in node["budgets"].items()},
                "arms": {key: Arm(**value) for key, value in node["arms"].items()},
                "bars": [Bar(**value) for value in node.get("bars", [])],
            }
        )
    except (TypeError, KeyError) as error:
        raise ConfigError(f"{name}: {error}") from error
    rows = table_rows(made)
    for row in [made.baseline, *(r for bar in made.bars for r in (bar.better, *bar.than))]:
        if row not in rows:
            raise ConfigError(f"{name}: no arm and test {row!r}; there are {'; '.join(rows)}")
    for key, arm in made.arms.items():
        if arm.start is not None and made.arms[arm.start].start is not None:
            raise ConfigError(f"{name}.arms.{key}: start={arm.start} itself starts from another arm")
    return made


def table_rows(experiment: Experiment) -> list[str]:
    """``arm, test`` of all rows of its table."""
    return [f"{arm}, {test}" for arm, content in experiment.arms.items() for test in content.tests]


def training_folder(folder: Path, arm: str, seed: int) -> Path:
    """Run folder of a training."""
    return folder / f"{arm}-{seed}".replace(" ", "_")


def run_experiment(experiment: Experiment, seeds: Sequence[int], budget: str, folder: Path, jobs: int) -> list[Run]:
    """Runs what is left of an experiment, and reads all of it.

    Args:
        experiment: what to do.
        seeds: of its arms.
        budget: one of its budgets.
        folder: of its runs; finished ones are not run again, interrupted trainings go on.
        jobs: how many run side by side.

    Raises:
        UserError: some run has failed, or its folder holds a run with other options; the others have ended.
    """
    count = len(seeds) * sum(1 + len(arm.tests) for arm in experiment.arms.values())
    workers = max(0, cores() // jobs - 1)
    # What others start from comes first, of all seeds: whoever waits for it keeps a place that another one could use.
    order = sorted(product(seeds, experiment.arms), key=lambda job: experiment.arms[job[1]].start is not None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task(experiment.title, total=count)

        def one(name: str, seed: int, start: Future | None) -> list[Run]:
            if start is not None:
                start.result()
            home, arm = training_folder(folder, name, seed), experiment.arms[name]
            train(home, experiment.training(name, seed, budget, folder), workers)
            progress.advance(task)
            runs = []
            for test, settings in arm.tests.items():
                evaluated = home / test.replace(" ", "_")
                checkpoint = quote(home / "checkpoints" / "last.ckpt")
                evaluate(evaluated, [f"checkpoint={checkpoint}", *experiment.budgets[budget].tests, *settings])
                runs.append(read_run(evaluated, f"{name}, {test}", seed))
                progress.advance(task)
            return runs

        futures: dict[tuple[str, int], Future] = {}
        for seed, name in order:
            start = experiment.arms[name].start
            futures[name, seed] = pool.submit(one, name, seed, futures.get((start, seed)))
        try:
            wait(futures.values())
        except BaseException:  # what waits must not start, and what runs must not go on without anybody
            pool.shutdown(wait=False, cancel_futures=True)
            for command in list(RUNNING):
                command.terminate()
            raise
    errors = [error for f in futures.values() if (error := f.exception()) is not None]
    for error in errors:
        if not isinstance(error, UserError):
            raise error
    if errors:
        raise UserError("\n".join(dict.fromkeys(map(str, errors))))
    return [run for name in experiment.arms for seed in seeds for run in futures[name, seed].result()]


def train(folder: Path, options: Sequence[str], workers: int) -> None:
    """Trains until the end, from where an earlier start was interrupted.

    Args:
        folder: of the run.
        options: of the protocol.
        workers: loader processes, which belong to no protocol: they change nothing but the time.
    """
    begun = _begun(folder, options)
    if not (folder / METRICS).exists():
        given = options if begun is None else [f"resume={quote(folder)}"]
        _command("train", folder, [*given, f"{WORKERS}={workers}"])


def evaluate(folder: Path, options: Sequence[str]) -> None:
    """Evaluates, unless it has been done."""
    _begun(folder, options)
    if not (folder / METRICS).exists():
        _command("eval", folder, options)


def _begun(folder: Path, options: Sequence[str]) -> list[str] | None:
    """The options that a run was started with, if it was.

    Raises:
        ConfigError: with others than these.
    """
    begun = recorded_overrides(folder)
    changed = sorted(o for o in set(begun or options) ^ set(options) if override_key(o) not in ("resume", WORKERS))
    if changed:
        raise ConfigError(f"{folder} holds a run of another protocol ({' '.join(changed)}); remove it, or set folder=")
    return begun


def elapsed_seconds(folder: Path) -> float:
    """Seconds that the processes of a run took; 0 where nothing is known."""
    file = folder / ELAPSED
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 0.0


def command_line(name: str, options: Sequence[str]) -> list[str]:
    """A command of the package."""
    return [sys.executable, "-m", f"lightning_det.{name}", *options]


def _command(name: str, folder: Path, options: Sequence[str]) -> None:
    """Runs a command of one thread; its output goes into the folder."""
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
        raise UserError(f"{folder}: {name} has ended with {code}: {' '.join(said)} (see its output.txt)")
