"""Trains what `inspect` suggests for a dataset, and beside it single scale and tiles on as many pixels.

    python benchmarks/suggested.py boards --work /tmp/boards
    python benchmarks/suggested.py insects --work /tmp/insects
    python benchmarks/suggested.py DIR --work /tmp/own       # a dataset of your own

``boards`` and ``insects`` are drawn (``generated_photos.py``); `inspect` is given a folder, as a user gives it. Every
arm has the suggested sizes and anchors, and is tested with the views of its strategy. Single scale takes steps of one
image, of which it has more than of several. Tiles come in steps as large as those of the suggestion, about as many
without a box as with one, of as many images as its chips. All arms have as many RoIs and anchors per step, the same
share of warm-up, and Soft-NMS, which SNIPER has by default. Commands are processes of their own; finished ones are not
repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from generated_photos import KINDS, write
from omegaconf import DictConfig, OmegaConf

from lightning_det.inspection.recommendation import background

COLUMNS = ("AP", "AP50", "AP_class_agnostic", "AP50_class_agnostic")


def run(folder: Path, command: str, *options: str) -> dict[str, Any]:
    """Runs a command with ``folder`` as its run folder, unless it has finished, and returns its figures."""
    file = folder / ("inspect.json" if command == "inspect" else "metrics.json")
    if not file.exists():
        call = [sys.executable, "-m", f"lightning_det.{command}", *options, f"hydra.run.dir={folder}"]
        print(*call[2:], flush=True)
        with Path(f"{folder}.log").open("w") as log:
            subprocess.run(call, cwd=folder.parent, check=True, stdout=log, stderr=subprocess.STDOUT)
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


def arms(inspected: dict[str, Any], suggested: dict[str, Any], cfg: DictConfig) -> dict[str, tuple[int, list[str]]]:
    """Returns steps and options of single scale and tiles for as many pixels as the suggestion was trained on.

    Args:
        inspected: figures of `inspect`.
        suggested: figures of the suggestion.
        cfg: configuration of its training.
    """
    suggestion = inspected["suggestion"]
    figures, settings = suggestion["figures"], suggestion["recommended"]["settings"]
    megapixels = suggested["cost"]["pixels"] / 1e6
    batch, side = settings["data"]["batch_size"], suggestion["dataset"]["tiles"]["size"]
    image = figures["costs"]["single_scale"]["train"]["megapixels"]
    shown = background(figures["object_tiles"])
    warmup = ["schedule.unit=share", f"schedule.warmup={cfg.schedule.warmup / cfg.trainer.max_epochs:.3g}"]
    tiles = [f"data.batch_size={batch}", f"views.train.windows.background={shown}", "data.together=1", *warmup]
    rois, (learning, detecting) = cfg.capacity.rois * batch, cfg.capacity.after_nms
    whole = ["data.batch_size=1", f"capacity.rois={rois}", f"capacity.after_nms=[{max(learning, rois)},{detecting}]"]
    whole += [f"selection.anchors.count={cfg.selection.anchors.count * batch}", *warmup]
    return {
        "single_scale": (round(megapixels / image), whole),
        "tiles": (round(megapixels / (batch * side**2 / 1e6)), tiles),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help=f"{', '.join(KINDS)}, or the folder of a dataset")
    parser.add_argument("--work", type=Path, required=True, help="folder for the drawn images and the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--options", nargs="*", default=[], help="further options of all commands")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = work / options.dataset if options.dataset in KINDS else Path(options.dataset).resolve()
    if options.dataset in KINDS and not root.exists():
        write(KINDS[options.dataset], root)
    given = [f"seed={options.seed}", *options.options]
    inspected = run(work / "inspect", "inspect", f"dataset.root={root}", "write=mine", *given)
    rows = {"suggested": run(work / "suggested", "train", "dataset=mine", "strategy=suggested", *given)}
    cfg = OmegaConf.load(work / "suggested/config.yaml")
    for name, (steps, settings) in arms(inspected, rows["suggested"], cfg).items():
        length = (f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "trainer.limit_val_batches=0")
        run(work / name, "train", "dataset=mine", f"strategy=[{name},flip]", *length, *settings, *given)
        checkpoint = f"checkpoint={work / name / 'checkpoints/last.ckpt'}"
        rows[name] = run(work / f"{name}_tested", "eval", checkpoint, "test=[soft_nms]", *options.options)
    strategy = ",".join(inspected["suggestion"]["recommended"]["strategy"])
    print(f"\n| {options.dataset}, suggested: [{strategy}] | {' | '.join(COLUMNS)} |")
    print(f"|---|{'---:|' * len(COLUMNS)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{100 * row[column]:.1f}' for column in COLUMNS)} |")
    if options.json is not None:
        options.json.write_text(json.dumps({name: {c: row[c] for c in COLUMNS} for name, row in rows.items()}))


if __name__ == "__main__":
    main()
