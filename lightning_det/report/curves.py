"""Reads the learning curves of a run from its ``metrics.csv``."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_det.modules import keys

POINTS = 1500
"""Maximum number of points of a curve. Of more, neighbours are averaged."""

FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")

Curve = list[tuple[float, float]]
"""Steps and values."""


class Learning(NamedTuple):
    """The curves of a training."""

    losses: Curve
    """Of the logged steps."""
    epochs: Curve
    """Mean loss of every epoch."""
    figures: dict[str, Curve]
    """Of validations, by name; those that are defined."""


def read_learning(file: Path) -> Learning:
    """Reads the loss and the figures of all validations; empty if there is no such file or it logs none of them."""
    columns = {keys.LOSS: "loss", keys.EPOCH_LOSS: "epoch", **{keys.validation(name): name for name in FIGURES}}
    curves: dict[str, Curve] = {name: [] for name in columns.values()}
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                for column, name in columns.items():
                    if row.get(column) and row.get("step"):
                        curves[name].append((float(row["step"]), float(row[column])))
    losses, epochs = curves.pop("loss"), curves.pop("epoch")
    return Learning(thin_out(losses), epochs, {name: curve for name, curve in curves.items() if curve})


def thin_out(curve: Sequence[tuple[float, float]]) -> Curve:
    """Averages neighbours, so that at most `POINTS` points are left."""
    size = -(-len(curve) // POINTS)
    groups = [curve[start : start + size] for start in range(0, len(curve), max(1, size))]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]
