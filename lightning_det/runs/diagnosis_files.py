"""Writes what an evaluation says beyond its figures: curves, confusion, and the errors of every image."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_det.data.images import decode
from lightning_det.evaluation.diagnosis import BACKGROUND, Diagnosis
from lightning_det.evaluation.figures import Evaluation
from lightning_det.plotting.boxes import page
from lightning_det.plotting.errors import draw_errors
from lightning_det.plotting.evaluation import draw_confusion, draw_pr_curves
from lightning_det.plotting.figures import save_png
from lightning_det.system.files import atomic_write

IOUS = {"IoU 0.5": 0.5, "IoU 0.75": 0.75, "mean over IoU 0.5 to 0.95": None}
"""Overlaps of the precision-recall curves, by their titles."""

ON_PAGE = 480
"""Longest side of an image on the page of the worst ones, pixels."""


def write_numbers(diagnosis: Diagnosis, folder: Path) -> None:
    """Writes ``confusion.csv``, ``pr_curves.csv`` and ``images.csv``."""
    names = [*diagnosis.evaluation.names, BACKGROUND]
    rows = [[name, *counts] for name, counts in zip(names, diagnosis.confusion.tolist(), strict=True)]
    _write_csv(folder / "confusion.csv", ["object \\ detected as", *names], rows)
    _write_csv(folder / "pr_curves.csv", ["class", "recall", *IOUS], _pr_rows(diagnosis.evaluation))
    store, seen = diagnosis.store, diagnosis.results.seen
    ranked = [[store.files[int(seen[n])], *diagnosis.counts[n].tolist()] for n in diagnosis.order]
    _write_csv(folder / "images.csv", ["image", "right", "wrong class", "false", "missed"], ranked)


def write_plots(diagnosis: Diagnosis, folder: Path) -> None:
    """Writes ``confusion.png`` and ``pr_curves.png``."""
    figure, _ = draw_confusion(diagnosis.confusion, [*diagnosis.evaluation.names, BACKGROUND])
    save_png(figure, folder / "confusion.png")
    curves = {title: diagnosis.evaluation.pr_curves(iou) for title, iou in IOUS.items()}
    save_png(draw_pr_curves(curves), folder / "pr_curves.png")


def write_pages(diagnosis: Diagnosis, folder: Path, worst: int, best: int) -> None:
    """Writes the pages ``worst.jpg`` and ``best.jpg``, if there are such images. Those of an earlier run are removed.

    Args:
        diagnosis: of the images.
        folder: of the run.
        worst: number of images with the most errors.
        best: number of images with the fewest errors.
    """
    for name, positions in {"worst": diagnosis.worst(worst), "best": diagnosis.best(best)}.items():
        file = folder / f"{name}.jpg"
        if not positions:
            file.unlink(missing_ok=True)
            continue
        drawn = [draw_image(diagnosis, position, ON_PAGE) for position in positions]
        titles = [f"{diagnosis.describe(n)}: {diagnosis.file(n)}" for n in positions]
        data = io.BytesIO()
        Image.fromarray(page(drawn, titles)).save(data, "JPEG", quality=90)
        with atomic_write(file, "wb") as stream:
            stream.write(data.getvalue())


def draw_image(diagnosis: Diagnosis, position: int, side: int) -> np.ndarray:
    """Draws the errors of an image, see `draw_errors`.

    Args:
        diagnosis: of the images.
        position: in ``results.seen``.
        side: longest side of the picture.
    """
    image = int(diagnosis.results.seen[position])
    pixels = decode(diagnosis.store.path(image)).permute(1, 2, 0).numpy()
    return draw_errors(pixels, diagnosis, image, side)


def _pr_rows(evaluation: Evaluation) -> Iterable[Sequence[object]]:
    """Rows of class, recall, and the precision at every overlap."""
    curves = [evaluation.pr_curves(iou) for iou in IOUS.values()]
    for number, (name, first) in enumerate(curves[0]):
        precisions = [of_iou[number][1] for of_iou in curves]
        for place, recall in enumerate(np.linspace(0, 1, len(first))):
            yield [name, round(float(recall), 4), *(round(float(p[place]), 5) for p in precisions)]


def _write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_write(file) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
