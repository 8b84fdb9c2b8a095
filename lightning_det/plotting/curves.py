"""Plots curves with matplotlib, without its global state."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from lightning_det.plotting.figures import styled


@styled
def draw_ap_by_size(curve: Sequence[dict[str, float]], title: str = "") -> Figure:
    """Draws average precision against object size, with the number of boxes as bars.

    Args:
        curve: see `Evaluation.curve`.
        title: of the plot.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    counts = axes.twinx()
    names = [f"{c['from']:g}-{c['to']:g}" for c in curve]
    positions = range(len(curve))
    counts.bar(positions, [c["boxes"] for c in curve], color="#88888830", width=0.8)
    counts.set_ylabel("boxes", color="#808080")
    counts.tick_params(colors="#808080")
    axes.plot(positions, [c["AP50"] for c in curve], "o--", color="tab:orange", label="AP50")
    axes.plot(positions, [c["AP"] for c in curve], "o-", color="tab:blue", label="AP")
    axes.set_xticks(list(positions), names, rotation=0 if len(curve) < 9 else 30)
    axes.set_xlabel("object size sqrt(area), original pixels")
    axes.set_ylabel("average precision")
    axes.set_ylim(0, 1)
    axes.set_zorder(counts.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left")
    if title:
        axes.set_title(title)
    return figure


def plot_sizes(sizes: np.ndarray, file: Path, marks: Sequence[float] = (), title: str = "") -> None:
    """Plots a histogram of object sizes on a logarithmic axis.

    Args:
        sizes: (n,) sqrt(width * height) of the objects, pixels.
        file: PNG to write.
        marks: sizes that vertical lines mark.
        title: of the plot.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    if len(sizes):
        low, high = max(1.0, min(sizes)), max(2.0, *sizes)
        steps = 40
        edges = [low * (high / low) ** (k / steps) for k in range(steps + 1)]
        axes.hist(sizes, bins=edges, color="tab:blue", alpha=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    for mark in marks:
        axes.axvline(mark, color="tab:red", linestyle="--", linewidth=1)
    axes.set_xlabel("object size sqrt(width x height), original pixels")
    axes.set_ylabel("boxes")
    if title:
        axes.set_title(title)
    figure.savefig(file, dpi=120)
