"""Compares the annotation store with pycocotools at the scale of COCO's training split.

    python benchmarks/annotations.py
    python benchmarks/annotations.py --vertices 0  # boxes only: pycocotools then carries no polygons

Writes a synthetic COCO json: 118,287 images, 860,001 boxes, 80 categories with COCO's gaps between their ids, and a
polygon per box that makes the file as large as COCO's 470 MB. The image files are links to one JPEG, so the reader's
check of their headers runs, but reads them from memory and not from a disk.

Measured, each in a fresh process that has imported what it calls:

- ``first``: `Coco.read` parses the json, checks the image headers and fills the cache;
- ``cached``: `Coco.read` again, now from the cache;
- ``pycocotools``: ``COCO(json)``, which reads no image.

Resident memory is the growth of the process's RSS over the call, after a garbage collection and with the result
alive; ``arrays`` is the sum of the store's array sizes. MB are 10^6 bytes.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

SPLIT = "train2017"
WIDTH, HEIGHT = 640, 480
CATEGORIES = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
MB = 1e6


def write_dataset(root: Path, images: int, boxes: int, vertices: int) -> Path:
    """Writes a random dataset in COCO's layout and returns its annotation file."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(5 * images, images, replace=False)).tolist()
    names = [f"{i:012d}.jpg" for i in ids]
    write_images(root / SPLIT, names)
    entries = [
        {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in zip(ids, names, strict=True)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in CATEGORIES]
    file = root / "annotations" / f"instances_{SPLIT}.json"
    file.parent.mkdir(parents=True)
    with file.open("w") as stream:
        stream.write(f'{{"images":{compact(entries)},"categories":{compact(categories)},"annotations":[')
        for number in range(boxes):
            annotation = random_annotation(rng, vertices) | {"id": number + 1, "image_id": ids[rng.integers(images)]}
            stream.write("," * (number > 0) + compact(annotation))
        stream.write("]}")
    return file


def write_images(folder: Path, names: list[str]) -> None:
    """Fills a folder with copies of one JPEG; links to one file would count as one image that is listed repeatedly."""
    folder.mkdir(parents=True)
    encoded = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(encoded, "JPEG")
    for name in names:
        (folder / name).write_bytes(encoded.getvalue())


def random_annotation(rng: np.random.Generator, vertices: int) -> dict[str, Any]:
    """A box of log-uniform size inside the image, one in a hundred a crowd, with a polygon inside the box."""
    sides = 8 * np.exp(rng.random(2) * np.log([WIDTH / 8, HEIGHT / 8]))
    corner = rng.random(2) * ([WIDTH, HEIGHT] - sides)
    return {
        "category_id": CATEGORIES[rng.integers(len(CATEGORIES))],
        "bbox": np.concatenate([corner, sides]).round(2).tolist(),
        "area": round(0.6 * float(sides.prod()), 4),
        "iscrowd": int(rng.random() < 0.01),
        "segmentation": [(corner + rng.random((vertices, 2)) * sides).round(2).ravel().tolist()],
    }


def compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


def run_in_fresh_process(function: Callable[[Path], dict], file: Path) -> dict[str, Any]:
    """Calls a function with the annotation file in a new interpreter, and returns its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, file).result()


def measure(read: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Calls ``read`` and returns its result, with seconds and growth of resident memory in MB."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    start = time.perf_counter()
    result = read()
    seconds = time.perf_counter() - start
    gc.collect()
    return result, {"seconds": seconds, "resident_mb": (process.memory_info().rss - before) / MB}


def read_store(file: Path) -> dict[str, Any]:
    """Measures this package's reader."""
    # Imported here, so that a process loads only what it measures.
    from lightning_det.data import cache
    from lightning_det.data.coco import Coco

    cache.SMALLEST = 0  # small runs of this benchmark use the cache too
    (store, problems), took = measure(lambda: Coco(file.parents[1]).read(SPLIT))
    if problems:
        raise RuntimeError(f"the benchmark's own dataset has a problem: {problems[0]}")
    parts = [*vars(store).values(), *vars(store.files).values(), *vars(store.ids).values()]
    arrays = sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
    return {
        **took,
        "arrays_mb": arrays / MB,
        "images": len(store),
        "boxes": store.num_boxes,
        "categories": len(store.label_map),
    }


def read_pycocotools(file: Path) -> dict[str, Any]:
    """Measures ``COCO(json)``."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        content, took = measure(lambda: COCO(str(file)))
    return {**took, "images": len(content.imgs), "boxes": len(content.anns), "categories": len(content.cats)}


def benchmark(folder: Path, images: int, boxes: int, vertices: int) -> dict[str, Any]:
    """Writes a dataset below ``folder`` and runs all measurements on it."""
    file = write_dataset(folder / "dataset", images, boxes, vertices)
    os.environ["LIGHTNING_DET_CACHE"] = str(folder / "cache")  # child processes inherit it
    first, cached = run_in_fresh_process(read_store, file), run_in_fresh_process(read_store, file)
    other = run_in_fresh_process(read_pycocotools, file)
    # RSS may grow by less than the arrays where freed memory is used again.
    memory = max(cached["resident_mb"], cached["arrays_mb"])
    packages = ("lightning-det", "numpy", "pillow", "pycocotools")
    return {
        "file_mb": file.stat().st_size / MB,
        "first": first,
        "cached": cached,
        "pycocotools": other,
        "ratios": {"seconds": other["seconds"] / cached["seconds"], "resident_mb": other["resident_mb"] / memory},
        "versions": {package: version(package) for package in packages},
    }


def table(result: dict[str, Any]) -> str:
    """Formats the result as Markdown."""
    first, cached, other, ratios = (result[key] for key in ("first", "cached", "pycocotools", "ratios"))
    return "\n".join(
        [
            f"{cached['images']:,} images, {cached['boxes']:,} boxes, {cached['categories']} categories, "
            f"json of {result['file_mb']:.0f} MB",
            "",
            "| | store, first read | store, from cache | pycocotools | pycocotools / store from cache |",
            "|---|---:|---:|---:|---:|",
            f"| seconds | {first['seconds']:.1f} | {cached['seconds']:.2f} | {other['seconds']:.1f} "
            f"| {ratios['seconds']:.0f} |",
            f"| resident memory, MB | {first['resident_mb']:.0f} | {cached['resident_mb']:.0f} "
            f"| {other['resident_mb']:.0f} | {ratios['resident_mb']:.0f} |",
            f"| of which arrays, MB | {first['arrays_mb']:.1f} | {cached['arrays_mb']:.1f} | | |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--vertices", type=int, default=30, help="of each box's polygon, which the store leaves out")
    parser.add_argument("--folder", type=Path, help="where a temporary folder for the dataset and the cache is made")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = benchmark(Path(folder), options.images, options.boxes, options.vertices)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    print(table(result))


if __name__ == "__main__":
    main()
