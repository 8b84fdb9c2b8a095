"""What benchmarks of strategies share: arms trained for the same number of pixels with several seeds, and their table.

Every arm is an ordinary run of ``lightning_det.train`` on `shapes`, then of ``lightning_det.eval``. The unit of
training pixels is one canvas: one 256 x 192 image.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")


class Arm(NamedTuple):
    """One of the things to compare."""

    overrides: Sequence[str]
    """Of training."""
    per_step: float
    """Canvases per training step."""
    tests: Mapping[str, Sequence[str]]
    """Overrides of evaluations, by what the table calls them."""
    start: str | None = None
    """The arm whose weights of the same seed it starts from."""


def compare(arms: Mapping[str, Arm], description: str, folder: str) -> None:
    """The command line of a benchmark: runs all arms and prints their table.

    Args:
        arms: by name.
        description: of the benchmark.
        folder: of its runs, below ``outputs``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(arms), choices=list(arms))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--canvases", type=int, default=6000, help="training pixels of every arm, in canvases")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, of one thread each")
    parser.add_argument("--folder", type=Path, default=Path("outputs") / folder, help="runs; finished ones are kept")
    parser.add_argument("--json", type=Path, help="also write the figures of every run to this file")
    parser.add_argument("overrides", nargs="*", help="further settings of every run, such as dataset.source.train=100")
    options = parser.parse_args()
    # The images are rendered once, before runs side by side would both do it.
    common = sorted(set.intersection(*(set(arms[name].overrides) for name in options.arms)))
    command("inspect", options.folder / "images", [*common, "decode=false", "pictures=1", *options.overrides])
    chosen = options.arms + [arms[name].start for name in options.arms if arms[name].start]
    rows = []
    # Arms that start from others wait for all of them.
    for is_second in (False, True):
        names = [name for name in arms if name in chosen and (arms[name].start is not None) == is_second]
        jobs = [(name, seed) for seed in range(options.seeds) for name in names]
        with ThreadPoolExecutor(options.jobs) as pool:
            rows += [row for part in pool.map(lambda job: run(*job, arms[job[0]], options), jobs) for row in part]
    print_table([(name, test) for name in options.arms for test in arms[name].tests], rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def run(name: str, seed: int, arm: Arm, options: argparse.Namespace) -> list[dict]:
    """One training and its tests; what a finished one left is read again."""
    folder = options.folder / f"{name}-{seed}"
    steps = round(options.canvases / arm.per_step)
    if not (folder / "metrics.json").exists():
        stop = [f"trainer.max_steps={steps}", "trainer.max_epochs=1000", "trainer.limit_val_batches=0"]
        if arm.start:
            stop.append(f"weights={options.folder}/{arm.start}-{seed}/checkpoints/last.ckpt")
        command("train", folder, [*arm.overrides, *stop, f"seed={seed}", *options.overrides])
    rows = []
    for test, overrides in arm.tests.items():
        place = folder / test.replace(" ", "_")
        if not (place / "metrics.json").exists():
            command("eval", place, [f"checkpoint={folder}/checkpoints/last.ckpt", *overrides])
        figures = json.loads((place / "metrics.json").read_text())
        kept = {figure: figures[figure] for figure in FIGURES}
        rows.append({"arm": name, "test": test, "seed": seed, "steps": steps, "canvases": steps * arm.per_step} | kept)
    return rows


def command(name: str, folder: Path, overrides: Sequence[str]) -> None:
    """Runs a command of the package in one thread."""
    call = [sys.executable, "-m", f"lightning_det.{name}", *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(call, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(call)}\n{done.stdout}\n{done.stderr}")


def print_table(lines: Sequence[tuple[str, str]], rows: Sequence[dict]) -> None:
    """Mean and standard deviation over seeds of every (arm, test), as markdown."""
    print(f"| strategy | tested with | steps | canvases | {' | '.join(FIGURES)} |")
    print(f"|---|---|---|---|{'---|' * len(FIGURES)}")
    for line in lines:
        chosen = [r for r in rows if (r["arm"], r["test"]) == line]
        cells = []
        for figure in FIGURES:
            values = [100 * r[figure] for r in chosen]
            cells.append(f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}")
        first = chosen[0]
        print(f"| {line[0]} | {line[1]} | {first['steps']} | {first['canvases']:.0f} | {' | '.join(cells)} |")
