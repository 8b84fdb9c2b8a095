"""Compares the speed of our training loader with torchvision's detection reference pipeline.

    python benchmarks/loader.py                                     # generated images of 640 x 480, and 2000 x 1500
    python benchmarks/loader.py --root COCO                         # a dataset in COCO's layout, such as tiny_coco
    python benchmarks/loader.py --backend tensor                    # torchvision's transforms on tensors, not on Pillow
    python benchmarks/loader.py dataset.resolution=[800,1333]       # other settings of dataset=tiny_coco

The reference is what torchvision's ``references/detection`` builds: ``CocoDetection`` read by Pillow,
``wrap_dataset_for_transforms_v2``, the transforms of its presets, batches as lists, and a ``DataLoader``. It has the
output size of ours:

- one scale: ``RandomShortestSize`` of one size, beside ``strategy=[single_scale,flip]``;
- multi-scale: ``RandomShortestSize`` (preset ``multiscale``), beside ``strategy=[multi_scale,flip]``;
- chips: ``ScaleJitter`` and a crop with padding (preset ``lsj``), beside ``strategy=[sniper_no_negatives,flip]``;
  with ``data.together=4`` as well, which puts up to four chips of an image into a batch.

Ours is the training loader of the data module, planning included. It also pads a batch to one size, which the reference
leaves to its detectors, and leaves the conversion to float to the device, which the reference does here.

Arms take turns of an epoch each, so that other load on the machine affects both alike. The result is the median ratio
of neighbouring epochs. Per core: views per second of processor
time, of this process and its workers. Every process has one thread.

The last table is of ``lightning_det.train`` with the default detector: the share of a training step spent waiting for
data.
"""

import argparse
import contextlib
import csv
import io
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import psutil
import pytorch_lightning as pl
import torch
import torchvision
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2
from train_step import hardware

from lightning_det.config.data import build_data, usable_split
from lightning_det.config.schema import CONF, register_schema

STRATEGIES = {
    "one scale": ["strategy=[single_scale,flip]"],
    "multi-scale": ["strategy=[multi_scale,flip]"],
    "chips": ["strategy=[sniper_no_negatives,flip]"],
    "chips, 4 of an image": ["strategy=[sniper_no_negatives,flip]", "data.together=4"],
}
SIZES = {"640 x 480": (640, 480), "2000 x 1500": (2000, 1500)}
SPLITS = ("train2017", "val2017")
Epoch = Callable[[int], int]
"""Takes all batches of an epoch, given its number, and returns how many views they had."""


def write_dataset(root: Path, images: int, width: int, height: int) -> None:
    """Writes smooth random JPEGs, as large on disk as photographs, with seven boxes each, in COCO's layout."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        (root / split).mkdir(parents=True)
        entries, boxes = [], []
        for number in range(images):
            coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
            pixels = (pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number}.jpg", quality=90)
            entries.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
            for _ in range(7):
                sides = 10 * np.exp(rng.random(2) * np.log([width / 20, height / 20]))
                corner = rng.random(2) * ([width, height] - sides)
                box = np.concatenate([corner, sides]).round(2).tolist()
                rest = {"id": len(boxes) + 1, "category_id": 1, "area": box[2] * box[3], "iscrowd": 0}
                boxes.append(rest | {"image_id": number, "bbox": box})
        content = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def compose_config(root: Path, kind: str, overrides: Sequence[str]) -> DictConfig:
    """Composes the configuration of a training."""
    register_schema()
    chosen = ["dataset=tiny_coco", f"dataset.root={root}", *STRATEGIES[kind], *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", chosen)


def ours(cfg: DictConfig, workers: int) -> tuple[Epoch, int]:
    """Builds our training loader; returns it and its batch size."""
    cfg.data.num_workers = workers
    data = build_data(cfg, usable_split(cfg, "train"), None)
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    data.trainer = pl.Trainer(accelerator="cpu", devices=1, reload_dataloaders_every_n_epochs=1, **silent)
    progress = data.trainer.fit_loop.epoch_progress.current

    def epoch(number: int) -> int:
        progress.processed = number  # views are planned anew
        return sum(len(batch) for batch in data.train_dataloader())

    return epoch, data.batch_size


def reference(cfg: DictConfig, kind: str, batch: int, workers: int, backend: str) -> Epoch:
    """Builds torchvision's pipeline with the same batch size."""
    root = Path(cfg.dataset.root)
    with contextlib.redirect_stdout(io.StringIO()):
        raw = CocoDetection(str(root / SPLITS[0]), str(root / f"annotations/instances_{SPLITS[0]}.json"))
    dataset = wrap_dataset_for_transforms_v2(raw, target_keys=("boxes", "labels", "image_id"))
    # As in the references: images without objects are left out. The transform comes after v2's wrapper.
    useful = [number for number, image in enumerate(raw.ids) if raw.coco.getAnnIds(image)]
    dataset.transforms = presets(cfg, kind, backend)
    subset = torch.utils.data.Subset(dataset, useful)
    loader = DataLoader(
        subset,
        batch_size=batch,
        sampler=RandomSampler(subset),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=as_lists,
    )
    return lambda number: sum(len(images) for images, _ in loader)


def presets(cfg: DictConfig, kind: str, backend: str) -> v2.Compose:
    """The transforms of ``references/detection/presets.py`` for an output of our size."""
    if kind.startswith("chips"):
        side = (cfg.dataset.sniper.size,) * 2
        resize = [v2.ScaleJitter(side, antialias=True), v2.RandomCrop(side, pad_if_needed=True, fill=(123, 117, 104))]
    else:
        pyramid = [cfg.dataset.resolution] if kind == "one scale" else cfg.dataset.pyramid
        shorts, longs = zip(*pyramid, strict=True)
        resize = [v2.RandomShortestSize(list(shorts), max(longs), antialias=True)]
    return v2.Compose(
        [
            *([v2.PILToTensor()] if backend == "tensor" else []),
            *resize,
            v2.RandomHorizontalFlip(0.5),
            *([v2.PILToTensor()] if backend == "pil" else []),
            v2.ToDtype(torch.float, scale=True),
            v2.ConvertBoundingBoxFormat("XYXY"),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )


def as_lists(samples: Sequence[tuple]) -> tuple:
    """Collates as the references do: a tuple of images and one of targets."""
    return tuple(zip(*samples, strict=True))


def processor_seconds() -> float:
    """Processor time of this process and its living children; that of children comes in ticks, mostly of 10 ms."""
    children = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


def measure(epoch: Epoch, number: int) -> dict[str, float]:
    """Measures views per second of an epoch, and per second of processor time.

    An epoch too short for the ticks of the processor's clock is repeated until ten of them are spent.
    """
    start, before, epochs, spent = time.perf_counter(), processor_seconds(), 0, 0.0
    while spent < 0.1:
        views, epochs = epoch(number), epochs + 1
        spent = processor_seconds() - before
    taken = epochs * views
    return {"views": views, "per_second": taken / (time.perf_counter() - start), "per_core": taken / spent}


def compare(root: Path, kind: str, workers: int, options: argparse.Namespace) -> dict:
    """Measures both pipelines in turn on one dataset."""
    cfg = compose_config(root, kind, options.overrides)
    own, batch = ours(cfg, workers)
    arms = {"torchvision": reference(cfg, kind, batch, workers, options.backend), "lightning-det": own}
    found = {name: [] for name in arms}
    for epoch in arms.values():
        epoch(0)  # starts the workers and brings the files into memory
    for number in range(1, options.rounds + 1):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            found[name].append(measure(arms[name], number))
    keys = ("per_second", "per_core")
    ratios = {key: [b[key] / a[key] for a, b in zip(*found.values(), strict=True)] for key in keys}
    return {
        "kind": kind,
        "workers": workers,
        "arms": {name: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for name, rows in found.items()},
        "ratios": {key: statistics.median(values) for key, values in ratios.items()},
        "ratio_range": {key: [min(values), max(values)] for key, values in ratios.items()},
    }


def data_wait(root: Path, kind: str, workers: int, options: argparse.Namespace) -> dict:
    """Runs a real training and returns the medians of its logged figures over steps."""
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-m", "lightning_det.train", "dataset=tiny_coco", f"dataset.root={root}"]
        call += [*STRATEGIES[kind], f"data.num_workers={workers}", *options.overrides]
        call += [f"trainer.max_steps={options.steps}", "trainer.max_epochs=1000", "trainer.log_every_n_steps=1"]
        call += ["trainer.limit_val_batches=0", "trainer.enable_progress_bar=false", f"hydra.run.dir={folder}"]
        done = subprocess.run(call, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(call)}\n{done.stdout}\n{done.stderr}")
        rows = list(csv.DictReader((Path(folder) / "metrics.csv").open(newline="")))
    figures = ("train/views_per_s", "train/data_wait")
    views, wait = ([float(row[name]) for row in rows if row[name]] for name in figures)
    return {
        "kind": kind,
        "workers": workers,
        "views_per_s": statistics.median(views),
        "data_wait": statistics.median(wait),
    }


def datasets(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the given dataset, or generated ones."""
    if options.root:
        yield options.root.name, options.root.resolve()
        return
    for name in options.sizes:
        write_dataset(folder / name.replace(" ", ""), options.images, *SIZES[name])
        yield name, folder / name.replace(" ", "")


def main() -> None:
    """Measures and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a dataset in COCO's layout; default: generated images")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES), help="of generated images")
    parser.add_argument("--images", type=int, default=48, help="generated images per size")
    parser.add_argument("--kinds", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=5, help="measured epochs of each arm")
    parser.add_argument("--backend", default="pil", choices=["pil", "tensor"], help="of torchvision's transforms")
    parser.add_argument("--steps", type=int, default=12, help="of the trainings; 0: none")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("overrides", nargs="*", help="further settings, such as dataset.resolution=[800,1333]")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    print(
        f"seed 0; torchvision's backend {options.backend}; {hardware('cpu', 1)}; torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}; {date.today()}\n"
    )
    columns = "torchvision | lightning-det | ratio (range)"
    print(f"| images | output | workers | views/s: {columns} | per core: {columns} |\n|---|---|{'---:|' * 7}")
    rows, trained = [], []
    with tempfile.TemporaryDirectory() as folder:
        places = list(datasets(options, Path(folder)))
        for name, root in places:
            for kind in options.kinds:
                for workers in options.workers:
                    rows.append({"images": name} | compare(root, kind, workers, options))
                    print(line(rows[-1]), flush=True)
        if options.steps:
            print("\n| training on | output | workers | views/s | share of a step that waits for data |")
            print("|---|---|---:|---:|---:|")
        for name, root in places if options.steps else []:
            for kind in options.kinds:
                for workers in options.workers:
                    trained.append({"images": name} | data_wait(root, kind, workers, options))
                    row = trained[-1]
                    print(
                        f"| {name} | {kind} | {workers} | {row['views_per_s']:.1f} | {100 * row['data_wait']:.1f} % |"
                    )
    if options.json:
        options.json.write_text(json.dumps({"loaders": rows, "trainings": trained}, indent=1))


def line(row: dict) -> str:
    """Formats a row of the first table."""
    cells = [row["images"], row["kind"], str(row["workers"])]
    for key in ("per_second", "per_core"):
        low, high = row["ratio_range"][key]
        cells += [f"{row['arms'][name][key]:.0f}" for name in ("torchvision", "lightning-det")]
        cells.append(f"{row['ratios'][key]:.2f} ({low:.2f}-{high:.2f})")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
