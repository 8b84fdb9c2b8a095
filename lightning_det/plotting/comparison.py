"""Plots the comparison of runs, see `lightning_det.evaluation.comparison.compare_runs`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from lightning_det.evaluation.comparison import training_pixels
from lightning_det.system.errors import one_line

SIZES = ("AP_small", "AP_medium", "AP_large")
CLASSES = 40
"""Maximum number of classes in a plot; those with the largest differences are shown."""

MARKERS = "os^Dv"
"""Of the first ten groups, the next ten ...; there are ten colours."""


def plot_sizes(groups: Sequence[Mapping[str, Any]], file: Path, title: str = "") -> None:
    """Plots AP against object size, with standard deviations over seeds.

    The sizes are octaves if all groups have measured them, else small, medium and large.

    Args:
        groups: of `compare_runs`.
        file: PNG to write.
        title: of the plot.
    """
    figure, axes = _figure()
    octaves = [(p["from"], p["to"]) for p in groups[0]["curve"]]
    if octaves and all([(p["from"], p["to"]) for p in g["curve"]] == octaves for g in groups):
        ticks = [f"{low:g}-{high:g}" for low, high in octaves]
        lines = [g["curve"] for g in groups]
        axes.set_xlabel("object size sqrt(area), original pixels")
    else:
        known = [s for s in SIZES if all(s in g["figures"] for g in groups)]
        ticks = [name.removeprefix("AP_") for name in known]
        lines = [[g["figures"][size] for size in known] for g in groups]
        axes.set_xlabel("object size")
    width, labels = 0.5 / max(1, len(groups)), _labels(groups)
    for number, (group, points) in enumerate(zip(groups, lines, strict=True)):
        # Shifted a little, so error bars do not overlap.
        where = [k + width * (number - (len(groups) - 1) / 2) for k in range(len(points))]
        bars = [100 * (p["std"] or 0) for p in points]
        means = [100 * p["mean"] for p in points]
        axes.errorbar(where, means, bars, marker=_marker(number), capsize=2, label=labels[group["name"]])
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_ylabel("AP")
    _finish(figure, axes, file, title)


def plot_cost(groups: Sequence[Mapping[str, Any]], file: Path, title: str = "", tested: bool = False) -> bool:
    """Plots AP against training pixels, mining included, with standard deviations over seeds.

    Args:
        groups: of `compare_runs`.
        file: PNG to write.
        title: of the plot.
        tested: against the pixels of inference instead.

    Returns:
        Whether a plot was written: the pixels of a group must be known.
    """
    known = [g for g in groups if ("test_pixels" if tested else "pixels") in g["cost"] and "AP" in g["figures"]]
    if not known:
        return False
    labels = _labels(groups)
    figure, axes = _figure()
    for number, group in enumerate(known):
        ap = group["figures"]["AP"]
        bar = 100 * (ap["std"] or 0)
        axes.errorbar(
            [(group["cost"]["test_pixels"]["mean"] if tested else training_pixels(group)) / 1e6],
            [100 * ap["mean"]],
            [bar],
            marker=_marker(number),
            capsize=3,
            label=labels[group["name"]],
        )
    axes.set_xscale("log")
    for axis_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_formatter(LogFormatter())  # 80, not 8 x 10^1
    axes.set_xlabel("million pixels of inference" if tested else "million training pixels, mining included")
    axes.set_ylabel("AP")
    _finish(figure, axes, file, title)
    return True


def _marker(number: int) -> str:
    """The marker of a group by its position."""
    return MARKERS[number // 10 % len(MARKERS)]


def plot_classes(groups: Sequence[Mapping[str, Any]], baseline: str, file: Path, title: str = "") -> bool:
    """Plots the AP that every class gains over the baseline, with 95 % intervals.

    Args:
        groups: of `compare_runs`.
        baseline: name of its group.
        file: PNG to write.
        title: of the plot.

    Returns:
        Whether a plot was written: a group must have gains by class.
    """
    others = [g for g in groups if g.get("per_class_gain")]
    if not others:
        return False
    gains: dict[str, list[float]] = {}
    for group in others:
        for label, gain in group["per_class_gain"].items():
            gains.setdefault(label, []).append(gain["mean"])
    largest = sorted(gains, key=lambda label: max(map(abs, gains[label])))[-CLASSES:]
    classes = sorted(largest, key=lambda label: gains[label][0])
    labels = _labels(groups)
    figure, axes = _figure(height=1.2 + 0.3 * len(classes) * max(1, len(others) / 3) + 0.25 * len(others))
    for number, group in enumerate(others):
        found = [
            (k, group["per_class_gain"][name]) for k, name in enumerate(classes) if name in group["per_class_gain"]
        ]
        where = [k + 0.5 / len(others) * (number - (len(others) - 1) / 2) for k, _ in found]
        margins = [0 if g["low"] is None else 100 * (g["high"] - g["mean"]) for _, g in found]
        means = [100 * g["mean"] for _, g in found]
        axes.errorbar(means, where, xerr=margins, fmt="o", capsize=2, label=labels[group["name"]])
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(classes)), [_short(name, 30) for name in classes])
    axes.set_xlabel(f"AP gained over {labels.get(baseline, _short(baseline))}")
    _finish(figure, axes, file, title)
    return True


def _figure(height: float = 4.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, min(height, 24)), layout="constrained")
    return figure, figure.subplots()


def _labels(groups: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Makes the labels of groups in legends, by name: their numbers are those of the tables, if names are cut off."""
    short = {group["name"]: _short(group["name"]) for group in groups}
    if len({*short.values()}) == len(short):
        return short
    return {name: f"{number}: {label}" for number, (name, label) in enumerate(short.items())}


def _short(name: str, width: int = 50) -> str:
    """Shortens a name for a legend. Matplotlib hides names with a leading underscore, and reads $ as mathematics."""
    return one_line(name, width).replace("$", r"\$").lstrip("_") or "-"


def _finish(figure: Figure, axes: Axes, file: Path, title: str) -> None:
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small", ncols=2)
    if title:
        axes.set_title(fill(title, 72))
    figure.savefig(file, dpi=110)
