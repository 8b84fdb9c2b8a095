"""Tables of compared runs, in Markdown and on the terminal. Figures are in percent, mean ± deviation over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_det.evaluation.comparison import FIGURES, known_figures
from lightning_det.system.errors import one_line, printable

COST = ("Mpixels", "s", "GB", "ms/image")
"""Million training pixels plus those of mining, seconds of training steps, peak memory; inference per image."""

TEST_COST = ("Mpixels tested", "ms/image", "GB")
"""Million pixels of the views of inference, its time per image, and the peak memory of training."""

OTHER_DATA = "These runs were not evaluated on the same data. Their figures do not compare where this matters:"


def tables(result: Mapping[str, Any]) -> list[str]:
    """Makes Markdown tables of the groups: figures and cost, gains over the baseline, and gains by class.

    Args:
        result: see `compare_runs`.
    """
    groups = result["groups"]
    names = known_figures(groups)
    rows = [
        [str(n), cell(g["name"]), str(len(g["seeds"])), *(value(g["figures"].get(f)) for f in names), *cost(g["cost"])]
        for n, g in enumerate(groups)
    ]
    head = ["", "run", "seeds", *names, *COST]
    parts = [markdown(head, rows)]
    others = [g for g in groups if "gain" in g]
    if others:
        rows = [[cell(g["name"]), paired(g), *(gain(g["gain"].get(f)) for f in names)] for g in others]
        parts.append(f"Gained over {cell(result['baseline'])}, pairs of equal seed, 95 % interval of several:")
        parts.append(markdown(["run", "pairs", *names], rows))
        labels = list(dict.fromkeys(label for g in others for label in g["per_class_gain"]))
        rows = [[cell(label), *(gain(g["per_class_gain"].get(label)) for g in others)] for label in labels]
        parts += ["AP gained by class:", markdown(["class", *(cell(g["name"]) for g in others)], rows)]
    return parts


def paired(group: Mapping[str, Any]) -> str:
    """Says how many runs of a group have a partner of equal seed in the baseline; the others count in no gain."""
    pairs, seeds = len(group["pairs"]), len(group["seeds"])
    return str(pairs) if pairs == seeds else f"{pairs} of {seeds}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a Markdown table of cells that are already Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def cell(text: str) -> str:
    """Escapes text for a cell of a Markdown table."""
    return printable(text).replace("|", r"\|").replace("<", r"\<").replace("\n", " ")


def value(spread: Mapping[str, float] | None, scale: float = 100, digits: int = 1) -> str:
    """Formats a mean and its deviation; ``-`` for None.

    Args:
        spread: ``mean``, and ``std`` or None, see `spread`.
        scale: factor; figures from 0 to 1 become percent.
        digits: after the point.
    """
    if spread is None:
        return "-"
    text = f"{scale * spread['mean']:.{digits}f}"
    return text if spread["std"] is None else f"{text} ± {scale * spread['std']:.{digits}f}"


def gain(difference: Mapping[str, Any] | None) -> str:
    """Formats a difference in percent, with its interval if there is one; ``-`` for None."""
    if difference is None:
        return "-"
    text = f"{100 * difference['mean']:+.1f}"
    if difference["low"] is None:
        return text
    return f"{text} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"


def inference_cost(spreads: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Formats `TEST_COST`; ``-`` for what is not known."""
    return [value(spreads.get("test_pixels"), 1e-6, 0), cost(spreads)[-1], cost(spreads)[-2]]


def cost(spreads: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Formats what `COST` names; ``-`` for what is not known."""
    pixels = value(spreads.get("pixels"), 1e-6, 0)
    if "mining_pixels" in spreads:
        pixels += f" + {spreads['mining_pixels']['mean'] / 1e6:.0f}"
    training = [value(spreads.get("seconds"), 1, 0), value(spreads.get("memory_GB"), 1, 1)]
    return [pixels, *training, value(spreads.get("image_seconds"), 1000, 1)]


def print_tables(result: Mapping[str, Any], left_out: Sequence[str]) -> None:
    """Prints a table of the groups, their gain in AP, and the runs that were left out.

    Args:
        result: see `compare_runs`.
        left_out: a line per run.
    """
    sizes = [name.replace("AP_", "") for name in FIGURES]
    table = Table("", "seeds", *sizes, title="percent, mean ± deviation over seeds")
    # Tables of their own: side by side they need more than 80 columns.
    costs = Table("", *COST, title="cost")
    others = known_figures(result["groups"])[len(FIGURES) :]
    further = Table("", *others)
    for number, group in enumerate(result["groups"]):
        figures = [value(group["figures"].get(f)) for f in FIGURES]
        table.add_row(str(number), str(len(group["seeds"])), *figures)
        further.add_row(str(number), *(value(group["figures"].get(f)) for f in others))
        costs.add_row(str(number), *cost(group["cost"]))
    for number, group in enumerate(result["groups"]):
        print(f"{number}: {one_line(group['name'])}")
    Console().print(table, *([further] if others else []), costs)
    for number, group in enumerate(result["groups"]):
        if "AP" in group.get("gain", {}):
            difference = group["gain"]["AP"]
            pairs = "one pair of equal seed" if difference["low"] is None else "pairs of equal seed, 95 % interval"
            some = len(group["pairs"]) < len(group["seeds"])
            print(f"{number}: AP {gain(difference)} over the baseline, {pairs}" + f" ({paired(group)} seeds)" * some)
        elif "pairs" in group and not group["pairs"]:
            print(f"{number}: no seed in common with the baseline, so no gain")
    for line in left_out:
        print(f"left out: {one_line(line)}")
    if result["different_data"]:
        print(OTHER_DATA)
    for line in result["different_data"]:
        print(f"  {one_line(line)}")
