"""Plots the learning curves of a training."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lightning_det.plotting.figures import BLUE, INK, label_text, styled

Points = Sequence[tuple[float, float]]
"""Steps and values."""


@styled
def draw_learning(losses: Points, epochs: Points, figures: Mapping[str, Points]) -> Figure:
    """Draws the loss and the figures of validations over the optimizer's steps.

    Args:
        losses: (step, loss) of the logged steps. Their running mean is drawn over them.
        epochs: (step, mean loss) of every epoch.
        figures: (step, value) of every validation, by name.
    """
    figure = Figure(figsize=(9.5, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    if losses:
        steps, values = np.array(losses, float).T
        left.plot(steps, values, color=BLUE, alpha=0.35, linewidth=0.8)
        left.plot(steps, running_mean(values), color=BLUE, linewidth=1.8)
    if epochs:
        steps, values = np.array(epochs, float).T
        left.plot(steps, values, "o", color=INK, markersize=4, label="mean of an epoch")
        left.legend(fontsize="small")
    left.set(title="training loss", xlabel="step")
    left.set_ylim(bottom=0)
    for number, (name, points) in enumerate(figures.items()):
        steps, values = np.array(points, float).T
        right.plot(steps, values, "o-", markersize=3, label=label_text(name), color=f"C{number}")
    right.set(title="validation", xlabel="step", ylim=(0, 1))
    if figures:
        right.legend(loc="upper left", fontsize="small")
    for plot in (left, right):
        plot.grid(alpha=0.25)
    return figure


def running_mean(values: np.ndarray) -> np.ndarray:
    """Means over a window of a fifteenth of the values around each, which is shorter at both ends."""
    half = max(1, len(values) // 30)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
