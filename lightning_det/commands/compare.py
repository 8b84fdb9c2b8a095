"""A table and plots of runs, repetitions with other seeds as one row."""

from typing import Any

from omegaconf import DictConfig

from lightning_det.evaluation.comparison import compare_runs
from lightning_det.evidence.tables import OTHER_DATA, cell, print_tables, tables
from lightning_det.plotting.comparison import plot_classes, plot_cost, plot_sizes
from lightning_det.runs.composition import run_folder
from lightning_det.runs.results import read_runs
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import atomic_write, write_json


def compare(cfg: DictConfig) -> dict[str, Any]:
    """Compares runs, and writes the results into Hydra's run folder.

    Raises:
        ConfigError: no run is given, or there is no such baseline.
    """
    if not cfg.runs:
        raise ConfigError("nothing to compare: lightning-det compare RUN_OR_SWEEP_FOLDERS...")
    runs, left_out = read_runs(list(cfg.runs))
    names = list(dict.fromkeys(run.name for run in runs))
    if cfg.baseline is not None and not 0 <= cfg.baseline < len(names):
        raise ConfigError(f"baseline={cfg.baseline}: the table's rows are numbered 0 to {len(names) - 1}")
    result = compare_runs(runs, names[cfg.baseline or 0]) | {"left_out": left_out}
    folder = run_folder()
    write_json(folder / "compare.json", result)
    plots = ["ap_by_size.png"]
    plot_sizes(result["groups"], folder / "ap_by_size.png")
    if plot_cost(result["groups"], folder / "ap_by_pixels.png"):
        plots.append("ap_by_pixels.png")
    if plot_classes(result["groups"], result["baseline"], folder / "per_class.png"):
        plots.append("per_class.png")
    parts = [f"# {len(runs)} runs", *tables(result), *(f"![{file}]({file})" for file in plots)]
    if result["different_data"]:
        parts += [OTHER_DATA, "\n".join(f"- {cell(line)}" for line in result["different_data"])]
    if left_out:
        parts += ["Left out:", "\n".join(f"- {cell(line)}" for line in left_out)]
    with atomic_write(folder / "compare.md") as stream:
        stream.write("\n\n".join(parts) + "\n")
    print_tables(result, left_out)
    print(folder)
    return result
