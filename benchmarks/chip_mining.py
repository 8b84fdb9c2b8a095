"""Compares our search for SNIPER's positive chips with the reference's search over a grid.

    python benchmarks/chip_mining.py

The images are random: 640 x 480, one in four portrait, with 7 boxes on average, of which 41 % are smaller than 32
pixels and 24 % larger than 96. Chips of 512 pixels are cut at the scales 3, 1.667 and 512 / long side. Three cores are
measured, which choose the chips of one image and scale:

- ``lightning-det``: `lightning_det.views.cover`, which looks at spans of positions;
- ``grid, C++``: every position of a grid is a candidate, as in SNIPER's reference code, written anew in
  `chip_mining_grid.cpp` and compiled when the benchmark starts;
- ``grid, numpy``: the same in numpy as one would write it, on fewer images.

``core`` is the core alone, on boxes that are chosen and scaled beforehand; C++ gets all images in one call. ``planner``
is the work of training per image: its random generator, `Pyramid` and `Chips`, with each of the three as the core.
Every core must cover every box. Seconds are CPU time of the only thread, so other processes count little; the arms
take turns, and the median of the repetitions is the result.
"""

import argparse
import ctypes
import gc
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_det.data.sampler import TOGETHER, generators
from lightning_det.protocols.structures import ImageRecord
from lightning_det.system.workload import without_collections
from lightning_det.views import Chips, Planner, Pyramid
from lightning_det.views import chips as chips_module
from lightning_det.views.cover import TOLERANCE, Chip, cover

SCALES = (3.0, 1.667, (-1, 512))
RANGES = ((0, 80), (32, 150), (120, -1))
SIZE = 512
PUBLISHED = {32: (3112, 2460), 56: (8134, 4964)}
"""Images per second of the reference's C++ core, and with the choice of boxes in numpy, on one core of a Xeon."""

Core = Callable[..., list[Chip]]


class Problem(NamedTuple):
    """Input of a core: the boxes of one image and scale that need chips."""

    boxes: list[list[float]]
    """``xyxy``, pixels of the resized image."""
    width: float
    height: float


def make_records(count: int, seed: int) -> list[ImageRecord]:
    """Images with boxes of COCO's sizes: log-uniform in each of small, medium and large."""
    rng = np.random.default_rng(seed)
    cuts = np.log([10, 32, 96, 450])
    records = []
    for _ in range(count):
        extent = np.array([480, 640] if rng.random() < 0.25 else [640, 480])
        boxes = rng.poisson(7)
        group = rng.choice(3, boxes, p=[0.41, 0.35, 0.24])
        size = np.exp(cuts[group] + rng.random(boxes) * (cuts[group + 1] - cuts[group]))
        aspect = np.exp(rng.normal(0, 0.35, boxes))
        sides = np.minimum(np.stack([size * aspect, size / aspect], axis=1), extent)
        corners = rng.random((boxes, 2)) * (extent - sides)
        found = np.concatenate([corners, corners + sides], axis=1)
        records.append(ImageRecord(*extent.tolist(), found, np.zeros(boxes, np.int32), np.zeros(boxes, bool)))
    return records


class Grid:
    """The grid search in C++.

    Args:
        compiler: name of the C++ compiler.
        folder: for the library.

    Raises:
        FileNotFoundError: there is no such compiler.
    """

    def __init__(self, compiler: str, folder: Path):
        if shutil.which(compiler) is None:
            raise FileNotFoundError(f"no {compiler}")
        source, library = Path(__file__).with_name("chip_mining_grid.cpp"), folder / "grid.so"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        self.mine = ctypes.CDLL(str(library)).mine
        integer, number, array = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
        self.mine.argtypes = (integer, array, array, array, number, number, ctypes.c_uint32, array, array, array)
        self.mine.restype = None

    def __call__(self, boxes, width, height, size, stride, rng, more_than=0) -> list[Chip]:
        """Chips of one image and scale, as `cover`."""
        n = len(boxes)
        boxes, offsets, extents = np.array(boxes), np.array([0, n]), np.array([width, height])
        chips, enclosed, count = np.empty((n, 3)), np.zeros((n, n), np.uint8), np.empty(1, np.int64)
        given, found = (offsets, boxes, extents), (chips, enclosed, count)
        seed = int(rng.integers(2**32))
        self.mine(1, *(a.ctypes.data for a in given), size, stride, seed, *(a.ctypes.data for a in found))
        return [
            Chip(x, y, int(gain), np.flatnonzero(row).tolist())
            for (x, y, gain), row in zip(chips[: count[0]].tolist(), enclosed, strict=False)
        ]

    def prepare(self, problems: list[Problem], stride: float, seed: int) -> Callable[[], int]:
        """Returns a function that solves all problems in one call and returns the number of boxes covered."""
        counts = np.array([len(p.boxes) for p in problems])
        offsets = np.concatenate([[0], np.cumsum(counts)])
        boxes = np.array([box for p in problems for box in p.boxes], float).reshape(-1, 4)
        extents = np.array([(p.width, p.height) for p in problems], float)
        chips, found = np.zeros((len(boxes), 3)), np.empty(len(problems), np.int64)
        enclosed = np.zeros(int((counts**2).sum()), np.uint8)

        def run() -> int:
            given, results = (offsets, boxes, extents), (chips, enclosed, found)
            pointers = [a.ctypes.data for a in given], [a.ctypes.data for a in results]
            self.mine(len(problems), *pointers[0], SIZE, stride, seed, *pointers[1])
            return int(chips[:, 2].sum())

        return run


def numpy_grid(boxes, width, height, size, stride, rng, more_than=0) -> list[Chip]:
    """The grid search in numpy, as `cover`."""
    columns, rows = (
        np.append(np.arange(0, max(0, length - size - TOLERANCE), stride), max(0, length - size))
        for length in (width, height)
    )
    corners = rng.permutation(np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2))
    boxes = np.asarray(boxes)
    enclosed = (boxes[:, :2] >= corners[:, None] - TOLERANCE) & (boxes[:, 2:] <= corners[:, None] + size + TOLERANCE)
    enclosed = enclosed.all(axis=2)
    left, chosen = np.ones(len(boxes), bool), []
    while True:
        gains = (enclosed & left).sum(axis=1)
        best = gains.argmax()
        if gains[best] <= more_than:
            return chosen
        chosen.append(Chip(*corners[best].tolist(), int(gains[best]), np.flatnonzero(enclosed[best]).tolist()))
        left &= ~enclosed[best]


@contextmanager
def core_of_chips(core: Core) -> Iterator[None]:
    """Makes `Chips` use another core."""
    chips_module.cover = core
    try:
        yield
    finally:
        chips_module.cover = cover


def plan(records: list[ImageRecord], stride: int, core: Core, seed: int) -> int:
    """Plans all images as `plan_epoch` does, keeping the views, and returns the number of chips."""
    planner = Planner(Pyramid(SCALES, RANGES), Chips(SIZE, stride))
    views = []
    with core_of_chips(core), without_collections():
        for first in range(0, len(records), TOGETHER):
            part = records[first : first + TOGETHER]
            rngs = generators(seed, 0, range(first, first + len(part)))
            views += chain.from_iterable(planner.many(part, rngs))
    return len(views)


def problems_of(records: list[ImageRecord], stride: int, seed: int) -> list[Problem]:
    """The problems that `Chips` gives its core."""
    problems = []

    def recorder(boxes, width, height, size, stride, rng, more_than=0) -> list[Chip]:
        problems.append(Problem(boxes, width, height))
        return cover(boxes, width, height, size, stride, rng, more_than)

    plan(records, stride, recorder, seed)
    return problems


def solver(core: Core, problems: list[Problem], stride: int, seed: int) -> Callable[[], int]:
    """Returns a function that runs a core on all problems and returns the number of boxes covered."""
    if isinstance(core, Grid):
        return core.prepare(problems, stride, seed)
    rng = np.random.default_rng(seed)
    return lambda: sum(chip.gain for p in problems for chip in core(*p, SIZE, stride, rng))


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """Runs a function and returns its CPU seconds and its result."""
    gc.collect()
    gc.freeze()  # keeps the garbage collector off the benchmark's own data
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def compare(records: dict[str, list[ImageRecord]], cores: dict[str, Core], stride: int, options) -> dict[str, Any]:
    """Measures all cores at one stride, in turn.

    Raises:
        RuntimeError: a core leaves boxes uncovered.
    """
    problems = {name: problems_of(records[name], stride, options.seed) for name in cores}
    solve = {name: solver(core, problems[name], stride, options.seed) for name, core in cores.items()}
    times: dict[str, dict[str, list[float]]] = {name: {"core": [], "planner": []} for name in cores}
    rows = {}
    for _ in range(options.repeats):
        for name, core in cores.items():
            seconds, covered = seconds_of(solve[name])
            if covered != sum(len(p.boxes) for p in problems[name]):
                raise RuntimeError(f"{name} does not cover every box at stride {stride}")
            times[name]["core"].append(seconds)
            seconds, chips = seconds_of(lambda n=name, c=core: plan(records[n], stride, c, options.seed))
            times[name]["planner"].append(seconds)
            rows[name] = {"images": len(records[name]), "chips_per_image": chips / len(records[name])}
    for name, row in rows.items():
        row |= {f"{part}_images_per_second": row["images"] / statistics.median(t) for part, t in times[name].items()}
    return rows


def benchmark(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs all measurements, by stride and core."""
    everything = make_records(options.images, options.seed)
    cores: dict[str, Core] = {"lightning-det": cover}
    missing = {}
    try:
        cores["grid, C++"] = Grid(options.compiler, folder)
    except FileNotFoundError as error:
        missing["grid, C++"] = str(error)
    cores["grid, numpy"] = numpy_grid
    records = {name: everything for name in cores} | {"grid, numpy": everything[: options.numpy_images]}
    sizes = np.concatenate([np.sqrt((r.boxes[:, 2:] - r.boxes[:, :2]).prod(axis=1)) for r in everything])
    return {
        "images": len(everything),
        "boxes_per_image": len(sizes) / len(everything),
        "smaller_than_32": float((sizes < 32).mean()),
        "larger_than_96": float((sizes > 96).mean()),
        "strides": {str(stride): compare(records, cores, stride, options) for stride in options.strides},
        "missing": missing,
        "seed": options.seed,
        "versions": {"python": platform.python_version(), "numpy": version("numpy")},
    }


def table(result: dict[str, Any]) -> str:
    """Formats the result as Markdown; ratios are to our core and planner."""
    lines = [
        f"{result['images']:,} images, {result['boxes_per_image']:.2f} boxes per image, "
        f"{100 * result['smaller_than_32']:.0f} % < 32 px, {100 * result['larger_than_96']:.0f} % > 96 px; "
        f"seed {result['seed']}; Python {result['versions']['python']}, numpy {result['versions']['numpy']}",
        "",
        "| stride | core | images | chips / image | core, images/s | ours / it | planner, images/s | ours / it |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for stride, rows in result["strides"].items():
        ours = rows["lightning-det"]
        for name, row in rows.items():
            cells = [stride, name, f"{row['images']:,}", f"{row['chips_per_image']:.2f}"]
            for part in ("core_images_per_second", "planner_images_per_second"):
                cells += [f"{row[part]:,.0f}", f"{ours[part] / row[part]:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines += [f"| {stride} | {name} | {why} | | | | | |" for name, why in result["missing"].items()]
        if int(stride) in PUBLISHED:
            core, wrapped = PUBLISHED[int(stride)]
            lines.append(f"| {stride} | reference, published for a Xeon core | 20,000 | | {core:,} | | {wrapped:,} | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--numpy-images", type=int, default=500, help="images of the slowest arm")
    parser.add_argument("--strides", type=int, nargs="+", default=[32, 56])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = benchmark(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    print(table(result))


if __name__ == "__main__":
    main()
