"""Plots what an evaluation says beyond AP: precision over recall, and confused classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

from lightning_det.plotting.figures import BLUE, INK, label_text, styled

CLASSES = 25
"""Maximum number of classes in the picture of a confusion matrix."""

CURVES = 8
"""Maximum number of classes with a curve of their own."""


@styled
def draw_pr_curves(curves: Mapping[str, Sequence[tuple[str, np.ndarray]]]) -> Figure:
    """Draws precision over recall, a plot for each IoU: the mean over classes, and the classes.

    Of more than `CURVES` classes, the curves are thin and grey and have no names.

    Args:
        curves: by the title of the plot, as of `Evaluation.pr_curves`: the mean comes first.
    """
    figure = Figure(figsize=(9.5, 3.5), layout="constrained")
    plots = figure.subplots(1, len(curves), sharey=True)
    for plot, (title, of_classes) in zip(np.atleast_1d(plots), curves.items(), strict=True):
        few = len(of_classes) <= CURVES + 1
        for number, (name, precision) in reversed(list(enumerate(of_classes))):
            recall = np.linspace(0, 1, len(precision))
            if number == 0:
                plot.plot(recall, precision, color=INK, linewidth=2.4, label=name)
            elif few:
                plot.plot(recall, precision, linewidth=1.1, color=f"C{number - 1}", label=label_text(name))
            else:
                plot.plot(recall, precision, linewidth=0.6, color="0.6", label=None)
        plot.set(title=title, xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        plot.grid(alpha=0.25)
    first = np.atleast_1d(plots)[0]
    first.set_ylabel("precision")
    handles, labels = first.get_legend_handles_labels()
    if handles:
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=5, fontsize="small")
    return figure


@styled
def draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> tuple[Figure, int]:
    """Draws a confusion matrix, each row divided by its sum.

    The row of the background is divided by the largest of its cells, because the number of places without an object is
    not defined. Of many classes, those that are confused most with others are drawn.

    Args:
        matrix: (K + 1, K + 1) counts, see `confusion_matrix`.
        names: of the K classes and the background.

    Returns:
        The figure, and the number of classes that are left out.
    """
    kept = _most_confused(matrix)
    shown = matrix[np.ix_(kept, kept)]
    whole = matrix[kept].sum(axis=1).astype(float)
    whole[-1] = shown[-1].max()  # of the background
    shares = shown / np.maximum(whole, 1)[:, None]
    labels = [label_text(names[k], 18) for k in kept]
    side = 2.2 + 0.42 * len(kept)
    figure = Figure(figsize=(max(4.6, side), max(3.8, side - 0.5)), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(shares, cmap=_blues(), vmin=0, vmax=1, edgecolors="#80808040", linewidth=0.6)
    for (row, column), share in np.ndenumerate(shares):
        if shown[row, column]:
            text = f"{shown[row, column]}" if row == len(kept) - 1 else _percent(share)
            ink = "white" if share > 0.55 else INK
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=ink)
    places = np.arange(len(kept)) + 0.5
    axes.set_xticks(places, labels, rotation=40 if len(kept) > 4 else 0, ha="right" if len(kept) > 4 else "center")
    axes.set_yticks(places, labels)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.set(xlabel="detected as", ylabel="object")
    return figure, len(matrix) - len(kept)


def _most_confused(matrix: np.ndarray) -> np.ndarray:
    """Positions of the classes to draw, in their order, and of the background."""
    classes = len(matrix) - 1
    inner = matrix[:-1, :-1] - np.diag(np.diag(matrix)[:-1])
    errors = inner.sum(axis=0) + inner.sum(axis=1) + (matrix[:-1, -1] + matrix[-1, :-1]) / 1e6
    most = np.argsort(-errors, kind="stable")[:CLASSES]
    return np.append(np.sort(most), classes)


def _percent(share: float) -> str:
    return "<1" if share < 0.005 else f"{100 * share:.0f}"


def _blues() -> Colormap:
    """A colour map from transparent to blue, for light and dark backgrounds."""
    return LinearSegmentedColormap.from_list("blues", [to_rgba(BLUE, 0.0), to_rgba(BLUE, 1.0)])
