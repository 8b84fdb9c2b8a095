"""What scale strategies learn from the same number of training pixels, on `shapes`, over several seeds.

    python benchmarks/equal_pixels.py --seeds 3

Every arm is an ordinary run of ``lightning_det.train`` with the default detector, then of ``lightning_det.eval``. The
unit is one canvas: one 256 x 192 image. Batches have about equal pixels in all arms, and every arm stops after the same
number of canvases. Finding negative chips costs extra, which is not counted: the proposal network is trained for two
epochs of positive chips (about 2,700 canvases) and looks at every image of the pyramid once.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

CANVAS = 256 * 192
FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")

ARMS = {
    # name: overrides, canvases per batch, what it is tested with
    "single_scale": (["strategy=[single_scale,flip]", "data.batch_size=8"], 8.0, ["one scale", "pyramid"]),
    "multi_scale": (["strategy=[multi_scale,flip]", "data.batch_size=4"], 4 * (4 + 1 + 0.25) / 3, ["pyramid"]),
    "sniper_no_negatives": (
        ["strategy=[sniper_no_negatives,flip]", "data.batch_size=42"],
        42 * 96 * 96 / CANVAS,
        ["own ranges"],
    ),
    "sniper": (["strategy=[sniper,flip]", "data.batch_size=42"], 42 * 96 * 96 / CANVAS, ["own ranges"]),
}

TESTS = {"one scale": ["test=[single_scale]"], "pyramid": ["test=[multi_scale,soft_nms]"], "own ranges": []}


def main() -> None:
    """Runs all arms and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--canvases", type=int, default=6000, help="training pixels of every arm, in canvases")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, of one thread each")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/equal_pixels"), help="runs; finished ones are kept"
    )
    parser.add_argument("overrides", nargs="*", help="further settings of every run, such as dataset.source.train=100")
    options = parser.parse_args()
    # The images are rendered once, before runs side by side would both do it.
    command("inspect", options.folder / "images", ["decode=false", "pictures=1", *options.overrides])
    jobs = [(arm, seed) for seed in range(options.seeds) for arm in options.arms]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda job: run(*job, options), jobs))
    print_table(options, [row for part in rows for row in part])


def run(arm: str, seed: int, options: argparse.Namespace) -> list[dict]:
    """One training and its tests; what a finished one left is read again."""
    overrides, per_batch, tests = ARMS[arm]
    folder = options.folder / f"{arm}-{seed}"
    steps = round(options.canvases / per_batch)
    if not (folder / "metrics.json").exists():
        stop = [f"trainer.max_steps={steps}", "trainer.max_epochs=1000", "trainer.limit_val_batches=0"]
        command("train", folder, [*overrides, *stop, f"seed={seed}", *options.overrides])
    rows = []
    for test in tests:
        place = folder / test.replace(" ", "_")
        if not (place / "metrics.json").exists():
            command("eval", place, [f"checkpoint={folder}/checkpoints/last.ckpt", *TESTS[test]])
        metrics = json.loads((place / "metrics.json").read_text())
        rows.append({"arm": arm, "test": test, "seed": seed, "steps": steps, "canvases": steps * per_batch} | metrics)
    return rows


def command(name: str, folder: Path, overrides: list[str]) -> None:
    """Runs a command of the package in one thread."""
    call = [sys.executable, "-m", f"lightning_det.{name}", *overrides, f"hydra.run.dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(call)}\n{done.stdout}\n{done.stderr}")


def print_table(options: argparse.Namespace, rows: list[dict]) -> None:
    """Mean and standard deviation over seeds, as markdown."""
    print(f"| strategy | tested with | steps | canvases | {' | '.join(FIGURES)} |")
    print(f"|---|---|---|---|{'---|' * len(FIGURES)}")
    for arm in options.arms:
        for test in ARMS[arm][2]:
            chosen = [r for r in rows if (r["arm"], r["test"]) == (arm, test)]
            cells = []
            for figure in FIGURES:
                values = [100 * r[figure] for r in chosen]
                cells.append(f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}")
            print(f"| {arm} | {test} | {chosen[0]['steps']} | {chosen[0]['canvases']:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
