"""Reads the figures of finished runs of `train`, of its sweeps and of `eval`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_det.evaluation.comparison import RunRecord
from lightning_det.runs.evaluated_data import evaluated_data
from lightning_det.runs.layout import METRICS, OVERRIDES, STATUS
from lightning_det.runs.resume import override_key, recorded_overrides
from lightning_det.system.errors import ConfigError, UserError

FIGURES = ("AP", "AR", "voc")
"""Beginnings of the names of figures."""

IGNORED_KEYS = ("seed", "checkpoint", "resume")
"""Overrides that are not part of the name of a run, because its repetitions differ in them."""


def read_runs(paths: Sequence[str | Path]) -> tuple[list[RunRecord], list[str]]:
    """Reads the evaluated runs in some folders.

    Args:
        paths: run folders, or folders that contain some at any depth, such as a sweep's.

    Returns:
        The runs, each named by the overrides that not all of them share; and a line per run that was left out, with
        the reason.

    Raises:
        UserError: a folder does not exist or holds no run; two runs have the same overrides and seed; no run is
            evaluated; a file is damaged.
    """
    folders = list(dict.fromkeys(f for path in paths for f in _run_folders(Path(path))))
    records, left_out = [], []
    for folder in folders:
        if not (folder / METRICS).exists():
            left_out.append(f"{folder}: {_explain_unfinished(folder)}")
            continue
        metrics = _metrics(folder)
        training = _training(folder, metrics)
        if "AP" not in metrics:
            left_out.append(
                f"{folder}: trained without validation; lightning-det eval checkpoint={folder} evaluates it"
            )
        elif metrics["AP"] is None or metrics["AP"] < 0:  # earlier versions wrote -1
            left_out.append(f"{folder}: its AP is undefined: no box was in the images that it was evaluated on")
        elif not (training / OVERRIDES).exists():
            left_out.append(f"{folder}: the run that it has evaluated is not in {training}; its options are not known")
        else:
            records.append(_record(folder, training, metrics))
    if not records:
        raise UserError("\n".join(["none of these runs can be compared:", *left_out]))
    shared = set.intersection(*(set(record["options"]) for record in records)) if len(records) > 1 else set()
    runs: list[RunRecord] = []
    names: dict[tuple[str, ...], str] = {}
    seen: dict[tuple[str, int], Path] = {}
    for record in records:
        own = [o for o in record["options"] if o not in shared]
        name = names.setdefault(tuple(sorted(own)), " ".join(own) or "defaults")  # runs differ in the order only
        twice = seen.setdefault((name, record["seed"]), record["folder"])
        if twice != record["folder"]:
            raise UserError(
                f"{twice} and {record['folder']} are runs of the same options ({name}) and seed ({record['seed']}); "
                "leave one of them out"
            )
        runs.append(read_run(record["folder"], name, record["seed"]))
    return runs, left_out


def read_run(folder: Path, name: str, seed: int) -> RunRecord:
    """Reads an evaluated run: the last validation of `train`, or an `eval` and the cost of its training.

    Args:
        folder: with ``metrics.json``.
        name: see `RunRecord`.
        seed: of the training.
    """
    metrics = _metrics(folder)
    training = _training(folder, metrics)
    trained = _metrics(training) if (training / METRICS).exists() else {}
    # What the training cost, and what the evaluation at hand did.
    own = {"image_seconds": metrics.get("cost", {}).get("image_seconds"), "test_pixels": metrics.get("pixels")}
    cost = {name: number for name, number in (trained.get("cost", {}) | own).items() if _is_number(number)}
    if mining := trained.get("mining"):
        cost["mining_pixels"] = mining.get("pixels", 0) + mining.get("inference_pixels", 0)
    figures = metrics | largest_class(metrics.get("per_class", {}))
    return RunRecord(
        name,
        seed,
        {k: v for k, v in figures.items() if k.startswith(FIGURES) and isinstance(v, float) and _is_number(v)},
        {label: row["AP"] for label, row in metrics.get("per_class", {}).items() if row["AP"] is not None},
        metrics.get("ap_by_size", []),
        cost,
        evaluated_data(folder),
    )


def largest_class(per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Figures of the class with the most boxes, ``AP_largest_class`` and ``AP50_largest_class``.

    Where most classes have a handful of boxes, these say more than the mean over classes.

    Args:
        per_class: see `Evaluation.per_class`; empty if it is not known how many boxes there are.
    """
    rows = [row for row in per_class.values() if row.get("boxes")]
    if not rows:
        return {}
    most = max(rows, key=lambda row: row["boxes"])
    return {f"{name}_largest_class": most.get(name) for name in ("AP", "AP50")}


def _run_folders(path: Path) -> list[Path]:
    """The run folders at a path or below it: those with a record of their overrides, or with the state of a job."""
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; give run folders, or a folder of a sweep")
    found = {f.parent for name in (OVERRIDES, STATUS) for f in path.rglob(name) if f.parent.name != ".hydra"}
    if not found:
        raise UserError(f"{path}: no run below it; a run folder holds {OVERRIDES} and, when it is finished, {METRICS}")
    return sorted(found, key=_natural_order)


def _explain_unfinished(folder: Path) -> str:
    """Says why a folder has no figures."""
    if (folder / STATUS).exists() and (error := _json(folder / STATUS).get("error")):
        return str(error)
    if (folder / "train.log").exists():
        return f"not finished (lightning-det train resume={folder} goes on)"
    return f"no {METRICS}: no training or evaluation that has ended"


def _natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key that puts the jobs of a sweep in the order of their numbers."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.parts]


def _record(folder: Path, training: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Collects the options and the seed of an evaluated run, which make its name."""
    options = _options(recorded_overrides(training) or [])
    if training != folder:
        checkpoint = f"checkpoint={Path(metrics['checkpoint']).stem}"  # best or last
        options.append(f"eval({' '.join([checkpoint, *_options(recorded_overrides(folder) or [])])})")
    return {"folder": folder, "options": options, "seed": _seed(training / "config.yaml")}


def _seed(file: Path) -> int:
    """The seed in a run's configuration."""
    try:
        return int(yaml.safe_load(file.read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not the configuration of a run; leave its folder out") from error


def _options(overrides: Iterable[str]) -> list[str]:
    """Selects the overrides that name a run. Weights and proposals are named by the run that made them."""
    kept = []
    for override in overrides:
        key = override_key(override)
        if key in IGNORED_KEYS:
            continue
        source = _origin(Path(override.split("=", 1)[1].strip("'\""))) if key in ("weights", "proposals") else None
        # Weights of the same training with another seed are not another option.
        kept.append(override if source is None else f"{key}=[{' '.join(_options(source)) or 'defaults'}]")
    return kept


def _origin(path: Path) -> list[str] | None:
    """The overrides of the run that a file of weights or proposals comes from; None if it comes from no run."""
    folders = [path, *list(path.parents)[:2]]
    return next((o for f in folders if f.is_dir() and (o := recorded_overrides(f)) is not None), None)


def _training(folder: Path, metrics: dict[str, Any]) -> Path:
    """The run folder of the training that an evaluation evaluated; a training's own folder."""
    if "checkpoint" not in metrics:
        return folder
    return (folder / metrics["checkpoint"]).resolve().parent.parent


def _metrics(folder: Path) -> dict[str, Any]:
    """Reads the figures that `train` or `eval` has written.

    Raises:
        UserError: the file does not hold such figures.
    """
    metrics = _json(folder / METRICS)
    rows, cost, mining = (metrics.get(name, {}) for name in ("per_class", "cost", "mining"))
    curve = metrics.get("ap_by_size", [])
    fits = all(isinstance(node, dict) for node in (rows, cost, mining)) and isinstance(curve, list)
    fits = fits and isinstance(metrics.get("checkpoint", ""), str)
    fits = fits and (not mining or all(_is_number(mining.get(n, 0)) for n in ("pixels", "inference_pixels")))
    fits = fits and all(isinstance(node, dict) and "AP" in node for node in (*rows.values(), *curve))
    found = [metrics.get("AP"), *(row["AP"] for row in rows.values())] if fits else []
    ends = [point.get(name) for point in curve for name in ("AP", "from", "to")] if fits else []
    if not fits or not all(n is None or _is_number(n) for n in found) or not all(map(_is_number, ends)):
        raise UserError(f"{folder / METRICS}: not the figures of a run; run it again, or leave its folder out")
    return metrics


def _is_number(value: Any) -> bool:
    """Whether a value is a number that can be averaged."""
    return type(value) in (int, float) and abs(value) < 1e18


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error}); run it again, or leave its folder out") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not the figures of a run; leave its folder out")
    return content
