"""``python -m lightning_det.compare RUNS...``: a table and plots of runs, their seeds folded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lightning_det.evaluation.comparison import FIGURES, compared
from lightning_det.plotting.comparison import plot_classes, plot_cost, plot_sizes
from lightning_det.runs.command import command, run_folder
from lightning_det.runs.results import read_runs
from lightning_det.system.errors import ConfigError, one_line, printable
from lightning_det.system.files import atomic_write, write_json


def compare(cfg: DictConfig) -> dict[str, Any]:
    """Compares as the configuration says; results go into Hydra's run folder."""
    if not cfg.runs:
        raise ConfigError("nothing to compare: python -m lightning_det.compare RUN_OR_SWEEP_FOLDERS...")
    runs, left_out = read_runs(list(cfg.runs))
    names = list(dict.fromkeys(run.name for run in runs))
    if cfg.baseline is not None and not 0 <= cfg.baseline < len(names):
        raise ConfigError(f"baseline={cfg.baseline}: the table's rows are numbered 0 to {len(names) - 1}")
    result = compared(runs, names[cfg.baseline or 0]) | {"left_out": left_out}
    folder = run_folder()
    write_json(folder / "compare.json", result)
    plots = {
        "ap_by_size.png": plot_sizes(result["groups"], folder / "ap_by_size.png"),
        "ap_by_pixels.png": plot_cost(result["groups"], folder / "ap_by_pixels.png"),
        "per_class.png": plot_classes(result["groups"], result["baseline"], folder / "per_class.png"),
    }
    parts = [f"# {len(runs)} runs", *tables(result)]
    parts += [f"![{file}]({file})" for file, drawn in plots.items() if drawn is not False]
    if left_out:
        parts += ["Left out:", "\n".join(f"- {cell(line)}" for line in left_out)]
    with atomic_write(folder / "compare.md") as stream:
        stream.write("\n\n".join(parts) + "\n")
    show(result, left_out)
    print(folder)
    return result


def tables(result: Mapping[str, Any], names: Sequence[str] = FIGURES) -> list[str]:
    """Markdown: figures and cost of every group, then what it gains over the baseline and what its classes gain."""
    groups = result["groups"]
    rows = [
        [str(n), cell(g["name"]), str(len(g["seeds"])), *(value(g["figures"].get(f)) for f in names), *cost(g["cost"])]
        for n, g in enumerate(groups)
    ]
    head = ["", "run", "seeds", *names, "Mpixels", "s", "GB"]
    found = [markdown(head, rows)]
    others = [g for g in groups if "gain" in g]
    if others:
        rows = [[cell(g["name"]), *(gain(g["gain"].get(f)) for f in names)] for g in others]
        found.append(f"Gained over {cell(result['baseline'])}, pairs of equal seed, 95 % interval:")
        found.append(markdown(["run", *names], rows))
        labels = list(dict.fromkeys(label for g in others for label in g["per_class_gain"]))
        rows = [[cell(label), *(gain(g["per_class_gain"].get(label)) for g in others)] for label in labels]
        found += ["AP gained by class:", markdown(["class", *(cell(g["name"]) for g in others)], rows)]
    return found


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return printable(text).replace("|", r"\|").replace("<", r"\<").replace("\n", " ")


def value(spread: Mapping[str, float] | None, scale: float = 100, digits: int = 1) -> str:
    """A mean and deviation, figures of 0 to 1 in percent."""
    if spread is None:
        return "-"
    text = f"{scale * spread['mean']:.{digits}f}"
    return text if spread["std"] is None else f"{text} ± {scale * spread['std']:.{digits}f}"


def gain(difference: Mapping[str, Any] | None) -> str:
    """A difference in percent, with its interval if it has one."""
    if difference is None:
        return "-"
    text = f"{100 * difference['mean']:+.1f}"
    if difference["low"] is None:
        return text
    return f"{text} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"


def cost(spreads: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Million training pixels, with those of mining behind a plus, seconds in training steps, and peak memory."""
    pixels = value(spreads.get("pixels"), 1e-6, 0)
    if "mining_pixels" in spreads:
        pixels += f" + {spreads['mining_pixels']['mean'] / 1e6:.0f}"
    return [pixels, value(spreads.get("seconds"), 1, 0), value(spreads.get("memory_GB"), 1, 1)]


def show(result: Mapping[str, Any], left_out: Sequence[str]) -> None:
    """The table on the terminal, and what is not in it."""
    sizes = [name.replace("AP_", "") for name in FIGURES]
    table = Table("", "seeds", *sizes, "Mpixels", "s", "GB", title="percent, mean ± deviation over seeds")
    for number, group in enumerate(result["groups"]):
        figures = [value(group["figures"].get(f)) for f in FIGURES]
        table.add_row(str(number), str(len(group["seeds"])), *figures, *cost(group["cost"]))
    for number, group in enumerate(result["groups"]):
        print(f"{number}: {one_line(group['name'])}")
    Console().print(table)
    for number, group in enumerate(result["groups"]):
        if "AP" in group.get("gain", {}):
            found = group["gain"]["AP"]
            pairs = "one pair of equal seed" if found["low"] is None else "pairs of equal seed, 95 % interval"
            print(f"{number}: AP {gain(found)} over the baseline, {pairs}")
    for line in left_out:
        print(f"left out: {one_line(line)}")


FLAGS = ("--cfg", "-c", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p")
"""Of Hydra, those with a value behind them."""


def listed(arguments: Sequence[str]) -> list[str]:
    """The command line with folders that stand alone gathered in ``runs=[...]``."""
    folders, rest = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        alone = "=" not in argument or Path(argument).is_dir()  # sweeps may be in folders such as lr=0.1
        is_folder = alone and not argument.startswith("-") and before not in FLAGS
        (folders if is_folder else rest).append(argument)
    return [*rest, f"runs={json.dumps(folders, ensure_ascii=False)}"] if folders else rest


main = command("compare", listed)(compare)

if __name__ == "__main__":
    main()
