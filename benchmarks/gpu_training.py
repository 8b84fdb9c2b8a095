"""A training on a GPU by the real command, on JPEG files: how long the device waits for data (see `gpu.py`)."""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


@contextmanager
def photographs(count: int, size: tuple[int, int]) -> Iterator[Path]:
    """A folder in COCO's layout with smooth random JPEG files of (width, height), eight boxes each."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for split in ("train2017", "val2017", "annotations"):
            (root / split).mkdir()
        images, boxes = [], []
        for number in range(count):
            noise = Image.fromarray(rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8))
            noise.resize(size, Image.Resampling.BICUBIC).save(root / "train2017" / f"{number}.jpg", quality=90)
            images.append({"id": number, "file_name": f"{number}.jpg", "width": size[0], "height": size[1]})
            for x, y, side in zip(
                *rng.uniform(0, 0.8, (2, 8)) * np.array([size]).T, rng.uniform(16, 160, 8), strict=True
            ):
                box = [float(x), float(y), float(min(side, size[0] - x)), float(min(side, size[1] - y))]
                boxes.append({"id": len(boxes), "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0})
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "object"}]}
        for split in ("train2017", "val2017"):
            (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for file in (root / "train2017").iterdir():
            (root / "val2017" / file.name).symlink_to(file)
        yield root


def data_wait(backbone: str, batch: int, compiled: str, device: str, images: int, steps: int) -> dict[str, float]:
    """Trains Faster R-CNN on SNIPER's chips of JPEG files by the real command.

    No decoded image is kept, as if there were too many for that.

    Returns:
        ``wait_share`` of the time in which the device waits for data, ``images_per_second`` (chips), both of the second
        half of the steps.
    """
    with photographs(images, (1280, 960)) as root, tempfile.TemporaryDirectory() as run:
        options = [
            *("dataset=coco", f"dataset.root={root}", "detector=faster_rcnn_fpn", f"backbone={backbone}"),
            *("backbone.weights=null", "backbone.norm=batch", "strategy=[sniper_no_negatives,flip]"),
            *(f"trainer={'gpu' if device == 'cuda' else 'default'}", f"module.compiled={compiled}"),
            *(f"data.batch_size={batch}", "data.keep_megabytes=0"),
            *(f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "trainer.limit_val_batches=0"),
            *(f"trainer.log_every_n_steps={max(1, steps // 10)}", f"hydra.run.dir={run}/run"),
        ]
        subprocess.run([sys.executable, "-m", "lightning_det.train", *options], check=True)
        with open(f"{run}/run/metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["train/data_wait"] and int(row["step"]) >= steps // 2]
    return {
        "wait_share": statistics.fmean(float(row["train/data_wait"]) for row in rows),
        "images_per_second": statistics.harmonic_mean([float(row["train/views_per_s"]) for row in rows]),
    }
