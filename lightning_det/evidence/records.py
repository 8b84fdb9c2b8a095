"""Records of experiments: all data from which their page is written."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torchvision

from lightning_det.evaluation.comparison import RunRecord
from lightning_det.evidence.execution import ELAPSED, elapsed_seconds
from lightning_det.evidence.experiments import Experiment, training_folder
from lightning_det.runs.layout import METRICS
from lightning_det.system.errors import ConfigError


def read_record(file: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Reads the record of an earlier start; empty if there is none.

    Args:
        file: of the record.
        settings: the current further options of all trainings.

    Raises:
        ConfigError: the record belongs to another protocol.
    """
    if not file.exists():
        return {}
    record = json.loads(file.read_text())
    if record.get("settings", []) != list(settings):
        words = " ".join(record.get("settings", [])) or "no further settings"
        raise ConfigError(
            f"{file} has figures with {words}: other settings make another protocol; set folder= and docs="
        )
    return record


def make_record(
    experiment: Experiment,
    runs: Sequence[RunRecord],
    seeds: Sequence[int],
    home: Path,
    *,
    budget: str,
    labels: Mapping[str, Any],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Makes the record of an experiment, as plain data.

    Args:
        experiment: its protocol.
        runs: its evaluated runs.
        seeds: of the runs.
        home: folder of the runs.
        budget: one of the experiment's budgets.
        labels: further entries: ``claim``, ``experiment``, ``settings`` and ``jobs``.
        before: the record of an earlier start. If the figures are the same, its day, machine and jobs are kept.
    """
    arms = [arm for arm in experiment.arms if experiment.arms[arm].tests]
    folders = [training_folder(home, arm, seed) for arm in experiment.arms for seed in seeds]
    seconds = sum(elapsed_seconds(f.parent) for folder in folders for f in folder.rglob(ELAPSED))
    record = {
        "claim": labels["claim"],
        "experiment": labels["experiment"],
        "title": experiment.title,
        "equal": experiment.equal,
        "canvas": experiment.canvas,
        "budget": budget,
        "settings": labels["settings"],
        "seeds": list(seeds),
        "date": date.today().isoformat(),
        "hardware": {hardware(): list(seeds)},
        "process_seconds": round(seconds),
        "jobs": labels["jobs"],
        "baseline": experiment.baseline,
        "figures": list(experiment.figures),
        "bars": [asdict(bar) for bar in experiment.bars],
        **_protocol(experiment, budget),
        # Without folders of this machine; the protocol names the data.
        "runs": [{key: value for key, value in asdict(run).items() if key != "data"} for run in runs],
        "steps": {arm: _steps(training_folder(home, arm, seeds[0])) for arm in arms},
    }
    if record["runs"] == before.get("runs"):
        record |= {key: before[key] for key in ("date", "hardware", "jobs")}
    return record


def _protocol(experiment: Experiment, budget: str) -> dict[str, dict[str, list[str]]]:
    """The overrides of an experiment's trainings and evaluations, for records."""
    shared = experiment.budgets[budget].tests
    return {
        "trainings": {arm: experiment.training(arm, 0, budget, Path("RUNS")) for arm in experiment.arms},
        "evaluations": {
            f"{arm}, {test}": [*shared, *given]
            for arm, content in experiment.arms.items()
            for test, given in content.tests.items()
        },
    }


def check_protocol(record: Mapping[str, Any], experiment: Experiment, budget: str, file: Path) -> None:
    """Checks that seeds can be added to a record, which may be empty.

    Args:
        record: see `read_record`.
        experiment: its current protocol.
        budget: of the new runs.
        file: of the record, for the message.

    Raises:
        ConfigError: the protocol has changed since the record was made.
    """
    if not record:
        return
    changed = [name for name, value in _protocol(experiment, budget).items() if record[name] != value]
    if changed:
        raise ConfigError(
            f"add=true: {file} has other {', '.join(changed)} than a run has now; without add=true, all seeds run"
        )


def with_earlier(record: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A record of further seeds, together with an earlier one of the same protocol, perhaps of another machine."""
    seeds = sorted([*before["seeds"], *record["seeds"]])
    rows = list(record["evaluations"])
    runs = sorted([*before["runs"], *record["runs"]], key=lambda run: (rows.index(run["name"]), run["seed"]))
    seconds = before["process_seconds"] + record["process_seconds"]
    earlier, later = before["hardware"], record["hardware"]
    machines = {name: sorted([*earlier.get(name, []), *later.get(name, [])]) for name in {**earlier, **later}}
    return record | {"seeds": seeds, "hardware": machines, "runs": runs, "process_seconds": seconds}


def _steps(folder: Path) -> int:
    """Reads the number of optimizer steps of a training."""
    return json.loads((folder / METRICS).read_text())["steps"]


def hardware() -> str:
    """Describes the machine and the libraries, on which figures depend."""
    name = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "CPU")
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{os.cpu_count()} cores of {name}; torch {torch.__version__}, torchvision {torchvision.__version__}"


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
