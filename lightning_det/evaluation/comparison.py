"""Compares runs: means and deviations over seeds, and differences in pairs of equal seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import mpmath

from lightning_det.evaluation.figures import AGNOSTIC, METRICS, voc_figure

FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")
"""COCO's figures that tables show."""

OTHERS = (*AGNOSTIC, *map(voc_figure, METRICS))
"""Figures beside them that tables show where a run has them."""


@dataclass(frozen=True)
class RunRecord:
    """Figures and cost of a run."""

    name: str
    """Name that the run shares with runs of other seeds, and with no others."""
    seed: int
    figures: Mapping[str, float]
    """COCO's figures and others, 0 to 1, without undefined ones, which earlier versions recorded as -1."""
    per_class: Mapping[str, float] = field(default_factory=dict)
    """AP of every class."""
    curve: Sequence[Mapping[str, float]] = ()
    """AP by octaves of object size, see `Evaluation.curve`; empty if not measured."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Cost as far as known: of the training ``pixels``, ``mining_pixels``, ``seconds`` and ``memory_GB``; of inference
    ``image_seconds``, the time per image, and ``test_pixels``, those of all its views."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Settings that decide about the images and boxes of its evaluation, as far as known."""


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Computes ``mean`` and sample standard deviation ``std`` of at least one value; ``std`` of one value is None."""
    values = list(values)
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def difference(base: Mapping[int, float], other: Mapping[int, float]) -> dict[str, Any] | None:
    """Computes the difference of two groups of runs, in pairs of equal seed.

    Args:
        base: values by seed.
        other: values by seed, from which those of ``base`` are subtracted.

    Returns:
        ``mean``, the bounds ``low`` and ``high`` of the 95 % interval by Student's t for paired samples (None for a
        single pair), and the common ``seeds``; None if there is no common seed.
    """
    seeds = sorted(base.keys() & other.keys())
    if not seeds:
        return None
    gains = [other[s] - base[s] for s in seeds]
    low = high = None
    if len(gains) > 1:
        margin = student_t(len(gains) - 1) * stdev(gains) / len(gains) ** 0.5
        low, high = mean(gains) - margin, mean(gains) + margin
    return {"mean": mean(gains), "low": low, "high": high, "seeds": seeds}


def student_t(freedom: int, outside: float = 0.05) -> float:
    """Computes the t whose absolute value is exceeded with probability ``outside`` (Student's t distribution).

    This probability is the regularised incomplete beta function I_x(v / 2, 1 / 2) at x = v / (v + t^2).

    Args:
        freedom: degrees of freedom v, at least 1.
        outside: probability, above 0 and below 1.
    """

    def excess(t: mpmath.mpf) -> mpmath.mpf:
        return mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) - outside

    return float(mpmath.findroot(excess, (2.0, 3.0), "secant", maxsteps=100))


def group_by_name(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Groups runs by name, in the order of the first run of each, and sorts each group by seed."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return {name: sorted(group, key=lambda r: r.seed) for name, group in groups.items()}


def compare_runs(runs: Sequence[RunRecord], baseline: str | None = None) -> dict[str, Any]:
    """Compares runs, for tables and plots.

    Args:
        runs: one or more.
        baseline: name of the runs with which the others are compared; None takes the first.

    Returns:
        Plain data: ``baseline``, and ``groups`` with ``name``, ``seeds``, ``figures``, ``cost`` and ``per_class``
        (`spread` by name), and ``curve`` (octaves that all seeds measured). Groups other than the baseline also have
        ``pairs``, the seeds that both have, and ``gain`` and ``per_class_gain`` (`difference` by name) over these.
        ``different_data`` has a line for each setting in which the runs were not evaluated on the same data.
    """
    groups = group_by_name(runs)
    baseline = next(iter(groups)) if baseline is None else baseline
    base = groups[baseline]
    rows = []
    for name, group in groups.items():
        row = {
            "name": name,
            "seeds": [run.seed for run in group],
            "figures": _spreads([run.figures for run in group]),
            "cost": _spreads([run.cost for run in group]),
            "per_class": _spreads([run.per_class for run in group]),
            "curve": _mean_curve(group),
        }
        if name != baseline:
            row["pairs"] = sorted({run.seed for run in base} & {run.seed for run in group})
            row["gain"] = _differences(*({run.seed: run.figures for run in side} for side in (base, group)))
            row["per_class_gain"] = _differences(*({run.seed: run.per_class for run in side} for side in (base, group)))
        rows.append(row)
    return {"baseline": baseline, "groups": rows, "different_data": different_data(list(groups.values()))}


def different_data(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Says in which settings of their data groups of runs differ, numbered from 0; a run that lacks one is left out."""
    lines = []
    for key in dict.fromkeys(key for group in groups for run in group for key in run.data):
        values: dict[str, list[str]] = {}
        for number, group in enumerate(groups):
            for value in dict.fromkeys(run.data[key] for run in group if key in run.data):
                values.setdefault(value, []).append(str(number))
        if len(values) > 1:
            lines.append(f"{key}: " + "; ".join(f"{value} in {', '.join(rows)}" for value, rows in values.items()))
    return lines


def known_figures(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of `FIGURES`, and of those of `OTHERS` that some group of `compare_runs` has."""
    groups = list(groups)
    return [*FIGURES, *(name for name in OTHERS if any(name in group["figures"] for group in groups))]


def training_pixels(group: Mapping[str, Any]) -> float:
    """Returns the training pixels of a group of `compare_runs`, mining included; 0 if unknown."""
    return sum(group["cost"][name]["mean"] for name in ("pixels", "mining_pixels") if name in group["cost"])


def _spreads(dictionaries: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Computes, by key, the `spread` of the values that all dictionaries have."""
    keys = [k for k in dictionaries[0] if all(d.get(k, -1) >= 0 for d in dictionaries)]
    return {key: spread(d[key] for d in dictionaries) for key in keys}


def _differences(
    base: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """Computes, by key, the `difference` of figures that are given by seed."""
    found = {}
    for key in next(iter(base.values())):
        sides = ({seed: row[key] for seed, row in side.items() if row.get(key, -1) >= 0} for side in (base, other))
        gain = difference(*sides)
        if gain is not None:
            found[key] = gain
    return found


def _mean_curve(group: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Computes the `spread` of AP in the octaves that all runs measured."""
    octaves = [(point["from"], point["to"]) for point in group[0].curve]
    curves = [{(p["from"], p["to"]): p["AP"] for p in run.curve} for run in group]
    shared = [octave for octave in octaves if all(octave in curve for curve in curves)]
    return [{"from": o[0], "to": o[1], **spread(curve[o] for curve in curves)} for o in shared]
