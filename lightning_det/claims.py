"""``python -m lightning_det.claims claim=NAME``: the experiments behind a paper's claim, run and written up."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torchvision
from omegaconf import DictConfig, OmegaConf

from lightning_det.compare import cell, cost, gain, markdown, value
from lightning_det.evaluation.comparison import FIGURES, Run, compared, pixels
from lightning_det.evidence.experiments import (
    Experiment,
    command_line,
    elapsed_seconds,
    parse_experiment,
    run_experiment,
    training_folder,
)
from lightning_det.plotting.comparison import plot_cost, plot_sizes
from lightning_det.runs.command import command
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import atomic_write, write_json

BEGIN = """# Claims

What papers claim, and what became of it here. `python -m lightning_det.claims claim=NAME` runs the experiments of
`conf/claim/NAME.yaml` and writes this page from the figures in `claims/`; runs that have finished are kept. Every row
is an ordinary `lightning_det.train` and `lightning_det.eval`; its settings were written down before it ran, and are
those of all other rows but for what it is named after. Figures are percent, mean ± sample deviation over seeds;
differences are those of pairs of equal seed, with Student's 95 % interval. Three seeds tell little about a deviation:
were figures normal, a fourth would be within one of these of the mean every second time, within five in 95 of 100.
`+ N` behind pixels is what mining has cost, its look at every image counted as if it were training. Seconds are those
of training steps, on one thread each.
"""


def claims(cfg: DictConfig) -> None:
    """Runs the claims that were composed, and writes them up."""
    seeds = list(range(cfg.seeds)) if isinstance(cfg.seeds, int) else [int(s) for s in cfg.seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={cfg.seeds}: an experiment needs at least one seed, and each of them once")
    if cfg.jobs < 1:
        raise ConfigError(f"jobs={cfg.jobs}: at least one run at a time")
    known = {name for node in cfg.protocols.values() for name in node}
    unknown = [name for name in cfg.experiments or [] if name not in known]
    if unknown:
        raise ConfigError(f"experiments: there are {', '.join(sorted(known))}, not {', '.join(unknown)}")
    protocols = {name: _experiments(name, node, cfg) for name, node in cfg.protocols.items()}
    docs, folder = Path(cfg.docs), Path(cfg.folder) / str(cfg.budget)
    for claim, experiments in protocols.items():
        for name, made in experiments.items():
            if made.needs is not None and not os.environ.get(made.needs):
                print(f"{claim}, {name}: left out, for {made.needs} does not name the folder of its dataset")
                continue
            home = (folder / claim / name).resolve()
            file = docs / "claims" / f"{claim}-{name}-{cfg.budget}.json"
            before = _before(file, list(cfg.settings))
            runs = run_experiment(made, seeds, cfg.budget, home, cfg.jobs)
            record = _record(claim, name, cfg, made, runs, seeds, home)
            if record["runs"] == before.get("runs"):  # no new figures: day and machine are those that made them
                record |= {key: before[key] for key in ("date", "hardware", "jobs")}
            write_json(file, record)
    with atomic_write(docs / "claims.md") as stream:
        stream.write(page(docs / "claims"))
    print(docs / "claims.md")


def _before(file: Path, settings: Sequence[str]) -> dict[str, Any]:
    """The figures that are there already; nothing where there are none.

    Raises:
        ConfigError: they are of another protocol.
    """
    if not file.exists():
        return {}
    record = json.loads(file.read_text())
    if record.get("settings", []) != settings:
        words = " ".join(record.get("settings", [])) or "no further settings"
        raise ConfigError(
            f"{file} has figures with {words}: other settings make another protocol; set folder= and docs="
        )
    return record


def _experiments(claim: str, node: DictConfig, cfg: DictConfig) -> dict[str, Experiment]:
    """Those of a claim that are asked for.

    Raises:
        ConfigError: one makes no sense, or has no such budget.
    """
    content = OmegaConf.to_container(node, resolve=False)  # what options refer to is the training's
    found = {}
    for name in content if cfg.experiments is None else [n for n in content if n in cfg.experiments]:
        made = parse_experiment(content[name], f"claim {claim}, {name}")
        if cfg.budget not in made.budgets:
            raise ConfigError(f"budget={cfg.budget}: {claim}, {name} has {', '.join(made.budgets)}")
        found[name] = replace(made, settings=[*made.settings, *cfg.settings])
    return found


def _record(
    claim: str,
    name: str,
    cfg: DictConfig,
    made: Experiment,
    runs: Sequence[Run],
    seeds: Sequence[int],
    home: Path,
) -> dict[str, Any]:
    """All that the page is written from."""
    arms = [arm for arm in made.arms if made.arms[arm].tests]
    trainings = {arm: made.training(arm, 0, cfg.budget, Path("RUNS")) for arm in made.arms}
    more = made.budgets[cfg.budget].tests
    evaluations = {f"{arm}, {test}": [*more, *given] for arm in arms for test, given in made.arms[arm].tests.items()}
    folders = [training_folder(home, arm, seed) for arm in made.arms for seed in seeds]
    seconds = sum(elapsed_seconds(f.parent) for folder in folders for f in folder.rglob("elapsed.json"))
    return {
        "claim": claim,
        "experiment": name,
        "title": made.title,
        "equal": made.equal,
        "canvas": made.canvas,
        "budget": cfg.budget,
        "settings": list(cfg.settings),
        "seeds": list(seeds),
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "process_seconds": round(seconds),
        "jobs": cfg.jobs,
        "baseline": made.baseline,
        "bars": [asdict(bar) for bar in made.bars],
        "trainings": trainings,
        "evaluations": evaluations,
        "runs": [asdict(run) for run in runs],
        "steps": {arm: _steps(training_folder(home, arm, seeds[0])) for arm in arms},
    }


def _steps(folder: Path) -> int:
    return json.loads((folder / "metrics.json").read_text())["steps"]


def hardware() -> str:
    """The machine and the libraries that figures depend on."""
    name = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "CPU")
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{os.cpu_count()} cores of {name}; torch {torch.__version__}, torchvision {torchvision.__version__}"


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def page(folder: Path) -> str:
    """The page, with a section per file of figures, and the plots beside them.

    Args:
        folder: with the records; a file ``CLAIM.md`` there is put behind the figures of its claim.
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
    """An experiment: its tables, bars, plots and commands."""
    result = compared([Run(**run) for run in record["runs"]], record["baseline"])
    groups = result["groups"]
    name = f"{record['claim']}-{record['experiment']}-{record['budget']}"
    plot_sizes(groups, folder / f"{name}-sizes.png", record["title"])
    spent = [pixels(group) for group in groups]
    differ = max(spent) > 1.1 * min(spent)  # where all have cost the same, the table says all
    drawn = differ and plot_cost(groups, folder / f"{name}-pixels.png", record["title"])
    rows = [_row(group, record) for group in groups]
    gains = [[cell(g["name"]), *(gain(g["gain"].get(f)) for f in FIGURES)] for g in groups if "gain" in g]
    hours = record["process_seconds"] / 3600
    options = [f"claim={record['claim']}", f"experiments=[{record['experiment']}]", f"budget={record['budget']}"]
    if record["seeds"] != list(range(3)):
        options.append(f"seeds=[{','.join(map(str, record['seeds']))}]")
    options += [f"settings={json.dumps(given, ensure_ascii=False)}"] if (given := record.get("settings")) else []
    parts = [
        f"### {record['title']}",
        f"Equal in {record['equal']}. Budget `{record['budget']}`, seeds {', '.join(map(str, record['seeds']))}; "
        f"{record['date']}, {record['hardware']}. All of it: {hours:.1f} h of processes, {record['jobs']} side by "
        f"side. `{_line('claims', options)}`",
        markdown(["arm, tested with", "steps", *FIGURES, "Mpixels", "s"], rows),
        f"Gained over *{cell(record['baseline'])}*:",
        markdown(["arm, tested with", *FIGURES], gains),
        *(f"- {verdict(bar, groups)}" for bar in record["bars"]),
        f"![AP by size](claims/{name}-sizes.png)",
        f"![AP against pixels](claims/{name}-pixels.png)" if drawn else "",
        _commands(record),
    ]
    return "\n\n".join(part for part in parts if part)


def _row(group: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    steps = record["steps"][group["name"].split(", ")[0]]
    figures = [value(group["figures"].get(f)) for f in FIGURES]
    return [cell(group["name"]), str(steps), *figures, *cost(group["cost"])[:2]]


def verdict(bar: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    """Whether what was expected has come true."""
    rows = {group["name"]: group for group in groups}
    figure = bar["figure"]
    if unmeasured := [name for name in (bar["better"], *bar["than"]) if figure not in rows[name]["figures"]]:
        return f"{bar['better']}: {figure} is undefined for {', '.join(unmeasured)}: **not measured**"
    best = max(bar["than"], key=lambda name: rows[name]["figures"][figure]["mean"])
    better, base = rows[bar["better"]], rows[best]
    reached = better["figures"][figure]["mean"] - base["figures"][figure]["mean"]
    met = reached >= bar["by"]
    text = f"{bar['better']} against {best}: {figure} {100 * reached:+.1f}, at least {100 * bar['by']:+.1f} expected"
    if bar["pixels"] is not None:
        share = pixels(better) / pixels(base)
        met = met and share <= bar["pixels"]
        text += f"; {100 * share:.0f} % of its pixels, at most {100 * bar['pixels']:.0f} %"
    return f"{text}: **{'met' if met else 'missed'}**"


def _commands(record: Mapping[str, Any]) -> str:
    """The exact commands of the first seed."""
    lines = []
    for arm, options in record["trainings"].items():
        lines.append(_line("train", [*options, f"hydra.run.dir=RUNS/{arm}-0"]))
        for row, tests in record["evaluations"].items():
            if row.startswith(f"{arm}, "):
                lines.append(_line("eval", [f"checkpoint=RUNS/{arm}-0/checkpoints/last.ckpt", *tests]))
    text = "\n".join(lines)
    return f"<details><summary>Commands, seed 0</summary>\n\n```bash\n{text}\n```\n</details>"


def _line(name: str, options: Sequence[str]) -> str:
    return shlex.join(["python", *command_line(name, options)[1:]])


main = command("claims")(claims)

if __name__ == "__main__":
    main()
