"""Writes the page ``docs/claims.md`` from the figures in ``docs/claims/``."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_det.evaluation.comparison import FIGURES, RunRecord, compare_runs, training_pixels
from lightning_det.evidence.execution import command_line
from lightning_det.evidence.tables import TEST_COST, cell, cost, gain, inference_cost, markdown, value
from lightning_det.plotting.comparison import plot_cost, plot_sizes
from lightning_det.system.errors import UserError

BEGIN = """# Claims

What papers claim, and what became of it here. `python -m lightning_det.claims claim=NAME` runs the experiments of
`conf/claim/NAME.yaml` and writes this page from the figures in `claims/`; runs that have finished are kept. Every row
is an ordinary `lightning_det.train` and `lightning_det.eval`, whose commands are below its table. Its settings were
written down before it ran. They differ from those of the other rows by what the row is named after and, where needed,
by anchors, batch and RoIs per view that suit its views; the text below a table says what was changed afterwards. A bar
is a gain that was expected beforehand.

Trainings are short, and most have not converged: tables say who learns fastest from so many pixels, not who is best in
the end. Figures are percent, mean ± sample deviation over seeds; differences are those of pairs of equal seed, with
Student's 95 % interval. Three seeds tell little about a deviation: if figures are normally distributed, a fourth seed
lies within one deviation of the mean half of the time, and within five deviations 95 % of the time.
`+ N` after the pixels is the cost of mining; its inference on every image is counted as if it were training. Seconds
are those of training steps, on one thread each.
"""


def page(folder: Path) -> str:
    """Writes the page, with a section per experiment, and draws the plots.

    Args:
        folder: holds a record per experiment (see `make_record`) and gets the plots. The text of a file ``CLAIM.md``
            follows the figures of its claim.

    Raises:
        UserError: there are no figures.
    """
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    if not records:
        raise UserError(f"{folder}: no figures; every experiment was left out")
    parts = [BEGIN]
    for claim in dict.fromkeys(r["claim"] for r in records):
        parts.append(f"## {claim.upper()}")
        parts += [section(r, folder) for r in records if r["claim"] == claim]
        reading = folder / f"{claim}.md"
        if reading.exists():
            parts.append(reading.read_text().strip())
    return "\n\n".join(part.strip() for part in parts) + "\n"


def section(record: Mapping[str, Any], folder: Path) -> str:
    """Writes the section of an experiment: tables, verdicts, plots and commands. Draws the plots.

    Args:
        record: see `make_record`.
        folder: gets the plots.
    """
    result = compare_runs([RunRecord(**run) for run in record["runs"]], record["baseline"])
    groups = result["groups"]
    name = f"{record['claim']}-{record['experiment']}-{record['budget']}"
    plot_sizes(groups, folder / f"{name}-sizes.png", record["title"])
    spent = [training_pixels(group) for group in groups]
    differ = max(spent) > 1.1 * min(spent)  # otherwise a plot would not show more than the table
    drawn = differ and plot_cost(groups, folder / f"{name}-pixels.png", record["title"])
    tested = plot_cost(groups, folder / f"{name}-test_pixels.png", record["title"], tested=True)
    figures = [*FIGURES, *record.get("figures", ())]
    costs = ["Mpixels", "s", *(TEST_COST if tested else ())]
    rows = [_row(group, record, figures, tested) for group in groups]
    gains = [[cell(g["name"]), *(gain(g["gain"].get(f)) for f in figures)] for g in groups if "gain" in g]
    place, hours = _machines(record["hardware"]), record["process_seconds"] / 3600
    options = [f"claim={record['claim']}", f"experiments=[{record['experiment']}]", f"budget={record['budget']}"]
    if record["seeds"] != list(range(3)):
        options.append(f"seeds=[{','.join(map(str, record['seeds']))}]")
    options += [f"settings={json.dumps(given, ensure_ascii=False)}"] if (given := record.get("settings")) else []
    parts = [
        f"### {record['title']}",
        f"Equal in {record['equal']}. Budget `{record['budget']}`, seeds {', '.join(map(str, record['seeds']))}; "
        f"{record['date']}, {place}. All of it: {hours:.1f} h of processes, {record['jobs']} side by "
        f"side. `{_line('claims', options)}`",
        markdown(["arm, tested with", "steps", *figures, *costs], rows),
        f"Gained over *{cell(record['baseline'])}*:",
        markdown(["arm, tested with", *figures], gains),
        *(f"- {verdict(bar, groups)}" for bar in record["bars"]),
        _classes(groups),
        f"![AP by size](claims/{name}-sizes.png)",
        f"![AP against pixels](claims/{name}-pixels.png)" if drawn else "",
        f"![AP against pixels of inference](claims/{name}-test_pixels.png)" if tested else "",
        _commands(record),
    ]
    return "\n\n".join(part for part in parts if part)


def _machines(machines: Mapping[str, Sequence[int]]) -> str:
    """Names the machines of a record, with the seeds of each if there are several."""
    if len(machines) == 1:
        return next(iter(machines))
    each = [f"{name} ({', '.join(map(str, seeds))})" for name, seeds in machines.items()]
    return f"by seed: {' and '.join(each)}; seconds are means over different machines"


def _row(group: Mapping[str, Any], record: Mapping[str, Any], figures: Sequence[str], tested: bool) -> list[str]:
    """Makes the cells of a group in the table of an experiment, with the cost of inference if ``tested``."""
    steps = record["steps"][group["name"].split(", ")[0]]
    values = [value(group["figures"].get(f)) for f in figures]
    costs = [*cost(group["cost"])[:2], *(inference_cost(group["cost"]) if tested else ())]
    return [cell(group["name"]), str(steps), *values, *costs]


def _classes(groups: Sequence[Mapping[str, Any]]) -> str:
    """Makes the table of AP by class, in a collapsed block; empty if there is at most one class."""
    labels = list(dict.fromkeys(label for group in groups for label in group["per_class"]))
    if len(labels) < 2:
        return ""
    rows = [[cell(g["name"]), *(value(g["per_class"].get(label)) for label in labels)] for g in groups]
    table = markdown(["arm, tested with", *map(cell, labels)], rows)
    return f"<details><summary>AP by class</summary>\n\n{table}\n\n</details>"


def verdict(bar: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    """Says whether an expectation was met.

    Args:
        bar: see `Bar`.
        groups: of `compare_runs`.
    """
    rows = {group["name"]: group for group in groups}
    figure = bar["figure"]
    if unmeasured := [name for name in (bar["better"], *bar["than"]) if figure not in rows[name]["figures"]]:
        return f"{bar['better']}: {figure} is undefined for {', '.join(unmeasured)}: **not measured**"
    if bar["pixels"] is not None and not all(training_pixels(rows[name]) for name in (bar["better"], *bar["than"])):
        return f"{bar['better']}: the pixels of training are not known: **not measured**"
    best = max(bar["than"], key=lambda name: rows[name]["figures"][figure]["mean"])
    better, base = rows[bar["better"]], rows[best]
    reached = better["figures"][figure]["mean"] - base["figures"][figure]["mean"]
    met = reached >= bar["by"]
    text = f"{bar['better']} against {best}: {figure} {100 * reached:+.1f}, at least {100 * bar['by']:+.1f} expected"
    if bar["pixels"] is not None:
        share = training_pixels(better) / training_pixels(base)
        met = met and share <= bar["pixels"]
        text += f"; {100 * share:.0f} % of its pixels, at most {100 * bar['pixels']:.0f} %"
    return f"{text}: **{'met' if met else 'missed'}**"


def _commands(record: Mapping[str, Any]) -> str:
    """Lists the exact commands of seed 0, in a collapsed block."""
    lines = []
    for arm, options in record["trainings"].items():
        lines.append(_line("train", [*options, f"hydra.run.dir=RUNS/{arm}-0"]))
        for row, tests in record["evaluations"].items():
            if row.startswith(f"{arm}, "):
                lines.append(_line("eval", [f"checkpoint=RUNS/{arm}-0/checkpoints/last.ckpt", *tests]))
    text = "\n".join(lines)
    return f"<details><summary>Commands, seed 0</summary>\n\n```bash\n{text}\n```\n</details>"


def _line(name: str, options: Sequence[str]) -> str:
    """Formats a command of the package for a shell."""
    return shlex.join(["python", *command_line(name, options)[1:]])
