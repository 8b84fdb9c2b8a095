"""Runs beside each other: seeds folded into means and deviations, differences paired by seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import mpmath

FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")
"""Of COCO's twelve, those that tables show."""


@dataclass(frozen=True)
class Run:
    """What an evaluated run has come to."""

    name: str
    """What runs of other seeds share with it, and others do not."""
    seed: int
    figures: Mapping[str, float]
    """COCO's figures, 0 to 1, as far as there was something to measure; earlier versions kept -1 where not."""
    per_class: Mapping[str, float] = field(default_factory=dict)
    """AP of every class."""
    curve: Sequence[Mapping[str, float]] = ()
    """AP by octaves of object size, see `Evaluation.curve`; empty if it was not measured."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Of the training, as far as known: ``pixels``, ``mining_pixels``, ``seconds``, ``memory_GB``."""


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """``mean`` and sample standard deviation ``std`` (None of a single value) of at least one value."""
    values = list(values)
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def difference(base: Mapping[int, float], other: Mapping[int, float]) -> dict[str, Any] | None:
    """How much higher the other is, in pairs of equal seed.

    Args:
        base: value by seed.
        other: value by seed.

    Returns:
        ``mean``, the 95 % interval ``low`` and ``high`` of Student's t for paired samples (None of a single pair), and
        the ``seeds``; None if they have no seed in common.
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
    """Student's t that is exceeded, either way, with probability ``outside``.

    That probability is the regularised incomplete beta function I_x(v / 2, 1 / 2) at x = v / (v + t^2).

    Args:
        freedom: degrees of freedom v, at least 1.
        outside: above 0 and below 1.
    """

    def excess(t: mpmath.mpf) -> mpmath.mpf:
        return mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) - outside

    return float(mpmath.findroot(excess, (2.0, 3.0), "secant", maxsteps=100))


def by_name(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs of one name each, by seed; names in the order of their first run."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return {name: sorted(group, key=lambda r: r.seed) for name, group in groups.items()}


def compared(runs: Sequence[Run], baseline: str | None = None) -> dict[str, Any]:
    """Everything that tables and plots show, as plain data.

    Args:
        runs: at least one.
        baseline: name of the runs that the others are compared with; None takes the first.

    Returns:
        ``baseline``, and ``groups``: a list of ``name``, ``seeds``, ``figures``, ``cost`` and ``per_class`` (spreads by
        name), ``curve`` (octaves that all seeds measured), and of those that are not the baseline ``gain`` and
        ``per_class_gain`` (differences by name).
    """
    groups = by_name(runs)
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
            "curve": _folded_curve(group),
        }
        if name != baseline:
            row["gain"] = _differences(base, group, "figures")
            row["per_class_gain"] = _differences(base, group, "per_class")
        rows.append(row)
    return {"baseline": baseline, "groups": rows}


def pixels(group: Mapping[str, Any]) -> float:
    """Training pixels of a group of `compared`, those of mining included; 0 where they are not known."""
    return sum(group["cost"][name]["mean"] for name in ("pixels", "mining_pixels") if name in group["cost"])


def _spreads(dictionaries: Sequence[Mapping[str, float]]) -> dict[str, dict]:
    """Spreads of what all of them measured, by key."""
    keys = [k for k in dictionaries[0] if all(d.get(k, -1) >= 0 for d in dictionaries)]
    return {key: spread(d[key] for d in dictionaries) for key in keys}


def _differences(base: Sequence[Run], group: Sequence[Run], of: str) -> dict[str, dict]:
    found = {}
    for key in getattr(base[0], of):
        sides = [
            {run.seed: getattr(run, of)[key] for run in side if getattr(run, of).get(key, -1) >= 0}
            for side in (base, group)
        ]
        gain = difference(*sides)
        if gain is not None:
            found[key] = gain
    return found


def _folded_curve(group: Sequence[Run]) -> list[dict[str, Any]]:
    octaves = [(point["from"], point["to"]) for point in group[0].curve]
    curves = [{(p["from"], p["to"]): p["AP"] for p in run.curve} for run in group]
    shared = [octave for octave in octaves if all(octave in curve for curve in curves)]
    return [{"from": o[0], "to": o[1], **spread(curve[o] for curve in curves)} for o in shared]
