"""The protocol of an experiment, fixed before it runs. Each arm is a training and its evaluations, for every seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_det.runs.resume import quote
from lightning_det.system.errors import ConfigError


@dataclass(frozen=True)
class Arm:
    """One of the trainings that an experiment compares."""

    settings: Sequence[str]
    """Overrides of its training."""
    batch: int
    """``data.batch_size``, before the budget enlarges it."""
    canvases: float
    """Training pixels of a step with this batch, in canvases."""
    tests: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Overrides of evaluations of the last checkpoint, by their names in tables."""
    start: str | None = None
    """The arm whose last weights, of the same seed, it starts from."""
    share: float = 1.0
    """Share of the budget's pixels that it trains on."""


@dataclass(frozen=True)
class Bar:
    """An expectation of a claim: how much better one row is than others."""

    figure: str
    better: str
    """``arm, test``."""
    than: Sequence[str]
    """``arm, test`` of each baseline. The best one counts."""
    by: float
    """Minimum difference of the means over seeds, of 0 to 1. Negative: the row may be worse by that much."""
    pixels: float | None = None
    """Maximum share of the baseline's training pixels, including mining; None: no limit."""


@dataclass(frozen=True)
class Budget:
    """How much an experiment may compute."""

    canvases: float
    """Training pixels of an arm, in canvases."""
    batch: int = 1
    """Factor of the arms' batches."""
    settings: Sequence[str] = ()
    """Further overrides of all trainings."""
    tests: Sequence[str] = ()
    """Further overrides of all evaluations, which do not inherit the training's trainer."""


FIXED = (
    *("data.batch_size", "trainer.max_steps", "trainer.max_epochs", "trainer.limit_val_batches", "weights", "seed"),
    "hydra.run.dir",
)
"""Keys that each training gets from its arm, its budget, its seed and its folder."""


@dataclass(frozen=True)
class Experiment:
    """Arms that one table compares."""

    title: str
    equal: str
    """The cost that the arms have in common: ``pixels`` or ``images``."""
    canvas: int
    """Pixels of a canvas, which is one image at the dataset's resolution."""
    budgets: Mapping[str, Budget]
    arms: Mapping[str, Arm]
    baseline: str
    """``arm, test`` that the others are compared with."""
    settings: Sequence[str] = ()
    """Overrides of all trainings."""
    needs: str | None = None
    """Environment variable with the dataset's folder. If it is not set, the experiment is left out."""
    bars: Sequence[Bar] = ()
    figures: Sequence[str] = ()
    """Further figures that its tables show."""
    further: Sequence[str] = ()
    """Overrides that the user adds to all trainings. They replace those of arms, so that they hold for all of them."""

    def training(self, arm: str, seed: int, budget: str, folder: Path) -> list[str]:
        """Makes the overrides of an arm's training.

        Args:
            arm: name of the arm.
            seed: of the training.
            budget: name of the budget.
            folder: of the experiment's runs.

        Raises:
            ConfigError: the budget is too small for a single step.
        """
        own, limit = self.arms[arm], self.budgets[budget]
        steps = round(own.share * limit.canvases / (own.canvases * limit.batch))
        if steps < 1:
            raise ConfigError(f"{self.title}: the budget {budget} is less than one step of {arm}")
        stop = [f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "trainer.limit_val_batches=0"]
        if own.start is not None:
            stop.append(f"weights={quote(training_folder(folder, own.start, seed) / 'checkpoints' / 'last.ckpt')}")
        batch = f"data.batch_size={own.batch * limit.batch}"
        return [*self.settings, *limit.settings, *own.settings, *self.further, batch, *stop, f"seed={seed}"]


def parse_experiment(node: Mapping[str, Any], name: str) -> Experiment:
    """Makes an experiment of plain data.

    Args:
        node: the fields of `Experiment`.
        name: of the experiment, for messages.

    Raises:
        ConfigError: a key is unknown or missing, or the experiment refers to an arm or test that does not exist.
    """
    try:
        experiment = Experiment(
            **{
                **node,
                "budgets": {key: Budget(**value) for key, value in node["budgets"].items()},
                "arms": {key: Arm(**value) for key, value in node["arms"].items()},
                "bars": [Bar(**value) for value in node.get("bars", [])],
            }
        )
    except (TypeError, KeyError) as error:
        raise ConfigError(f"{name}: {error}") from error
    rows = table_rows(experiment)
    for row in [experiment.baseline, *(r for bar in experiment.bars for r in (bar.better, *bar.than))]:
        if row not in rows:
            raise ConfigError(f"{name}: no arm and test {row!r}; there are {'; '.join(rows)}")
    for key, arm in experiment.arms.items():
        if arm.start is not None and arm.start not in experiment.arms:
            raise ConfigError(f"{name}.arms.{key}: start={arm.start}: there are {', '.join(experiment.arms)}")
        if arm.start is not None and experiment.arms[arm.start].start is not None:
            raise ConfigError(f"{name}.arms.{key}: start={arm.start} itself starts from another arm")
    return experiment


def table_rows(experiment: Experiment) -> list[str]:
    """Lists ``arm, test`` of every row in the table of an experiment."""
    return [f"{arm}, {test}" for arm, content in experiment.arms.items() for test in content.tests]


def training_folder(folder: Path, arm: str, seed: int) -> Path:
    """Returns the run folder of a training.

    Args:
        folder: of the experiment's runs.
        arm: name of the arm.
        seed: of the training.
    """
    return folder / f"{arm}-{seed}".replace(" ", "_")


def select_experiments(cfg: DictConfig) -> dict[tuple[str, str], Experiment]:
    """Selects the experiments of a configuration of ``claims``, by claim and name.

    Raises:
        ConfigError: an experiment is unknown or makes no sense, or has no such budget, or the further settings have a
            key that each training gets from its experiment.
    """
    if fixed := [text for text in cfg.settings if text.lstrip("+").split("=")[0] in FIXED]:
        raise ConfigError(
            f"settings: {', '.join(fixed)}: a training gets {', '.join(FIXED)} from its arm, its budget and its seed; "
            "change conf/claim instead, or give seeds= and budget="
        )
    known = {name for node in cfg.protocols.values() for name in node}
    unknown = [name for name in cfg.experiments or [] if name not in known]
    if unknown:
        raise ConfigError(f"experiments: there are {', '.join(sorted(known))}, not {', '.join(unknown)}")
    # Not resolved: interpolations in overrides are resolved by the training.
    protocols: Any = OmegaConf.to_container(cfg.protocols, resolve=False)
    selected = {}
    for claim, nodes in protocols.items():
        for name in nodes if cfg.experiments is None else [n for n in nodes if n in cfg.experiments]:
            experiment = parse_experiment(nodes[name], f"claim {claim}, {name}")
            if cfg.budget not in experiment.budgets:
                raise ConfigError(f"budget={cfg.budget}: {claim}, {name} has {', '.join(experiment.budgets)}")
            selected[claim, name] = replace(experiment, further=list(cfg.settings))
    return selected
