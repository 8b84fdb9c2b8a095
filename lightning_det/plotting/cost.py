"""Plots AP against the cost of inference."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lightning_det.plotting.figures import BLUE, INK, styled


@styled
def draw_cost(rows: Sequence[Mapping[str, Any]], images: int) -> Figure:
    """Draws AP over megapixels and over seconds, per image; thresholds of AutoFocus are joined by a line.

    Args:
        rows: evaluations with ``name``, ``threshold`` (None: not AutoFocus), ``AP`` (None: undefined), ``pixels`` and
            ``seconds``.
        images: how many there were.
    """
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    known = [row for row in rows if row["AP"] is not None]
    focused = sorted((row for row in known if row["threshold"] is not None), key=lambda row: row["pixels"])
    panels = (("pixels", 1e6, "megapixels per image"), ("seconds", 1.0, "seconds per image"))
    for plot, (key, unit, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        cost = [row[key] / images / unit for row in focused]
        plot.plot(cost, [row["AP"] for row in focused], "o-", color=BLUE, markersize=4)
        for number, row in enumerate(sorted(known, key=lambda row: row[key])):
            place = (row[key] / images / unit, row["AP"])
            if row["threshold"] is None:
                plot.plot(*place, "s", color=INK, markersize=5)
            # To the left of the point, where it lies in the right half of the panel.
            right = place[0] > 0.6 * max(r[key] for r in known) / images / unit
            plot.annotate(
                row["name"],
                place,
                xytext=(-4 if right else 4, -12 if number % 2 else 6),  # neighbours at different heights
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize="small",
            )
        plot.set(xlabel=label)
        plot.margins(y=0.12)
        plot.set_xlim(left=0)
        plot.set_ylim(bottom=0)
        plot.grid(alpha=0.25)
    figure.axes[0].set_ylabel("AP")
    return figure
