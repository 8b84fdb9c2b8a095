"""Puts the report of a run together and writes it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_det.callbacks import Report
from lightning_det.evaluation.diagnosis import BACKGROUND, WITHOUT, Diagnosis
from lightning_det.evaluation.figures import format_figure
from lightning_det.evaluation.thresholds import FEWEST
from lightning_det.plotting.curves import draw_ap_by_size
from lightning_det.plotting.errors import KEY
from lightning_det.plotting.evaluation import draw_confusion, draw_pr_curves
from lightning_det.plotting.figures import to_svg
from lightning_det.plotting.learning import draw_learning
from lightning_det.report.curves import read_learning
from lightning_det.report.embedding import Picture, embed_pixels, embed_svg, within_budget
from lightning_det.report.page import Fact, Page, render
from lightning_det.runs.diagnosis_files import IOUS, draw_image, write_numbers, write_pages, write_plots
from lightning_det.system.files import atomic_write

SIDE = 960
"""Longest side of the photographs, pixels."""

HEADLINE = {
    **{"AP": "AP", "AP50": "AP50", "AP_small": "AP small", "AP_medium": "AP medium", "AP_large": "AP large"},
    **{"AP_class_agnostic": "AP, classes as one", "voc07_AP50": "AP50, VOC 07", "voc_AP50": "AP50, VOC"},
}
"""Figures at the top, and their names there."""


@dataclass(frozen=True)
class Run:
    """The sources of a run's report."""

    page: Page
    """The texts; figures and pictures are added to it."""
    folder: Path
    """Of the run, which gets the report."""
    training: Path
    """Folder of the training, which has the learning curves."""
    figures: Mapping[str, float | None]
    """COCO's figures."""
    per_class: Mapping[str, Mapping[str, Any]]
    """See `Evaluation.per_class`."""
    diagnosis: Diagnosis | None
    """None if the detections are not known any more."""


def write_report(run: Run, settings: Report) -> None:
    """Writes the report, and the files with the numbers and pictures of the diagnosis.

    Args:
        run: its content.
        settings: where it goes, and how many images it shows.
    """
    page, diagnosis = run.page, run.diagnosis
    page.headline = [*headline(run.figures), *page.headline]
    page.learning = learning_picture(run.training)
    page.class_rows = [{"class": name, **row} for name, row in run.per_class.items() if row["boxes"]]
    if diagnosis is not None:
        write_numbers(diagnosis, run.folder)
        write_plots(diagnosis, run.folder)
        write_pages(diagnosis, run.folder, settings.worst, settings.best)
        _add_figures(page, diagnosis)
        _add_confusion(page, diagnosis)
        _add_images(page, diagnosis, settings)
    with atomic_write(settings.file) as stream:
        stream.write(render(page))


def headline(figures: Mapping[str, float | None]) -> list[Fact]:
    """The most important figures, without undefined ones except AP itself."""
    known = {name: figures.get(key) for key, name in HEADLINE.items() if key in figures}
    return [Fact(name, format_figure(value)) for name, value in known.items() if value is not None or name == "AP"]


def learning_picture(training: Path) -> Picture | None:
    """Draws the learning curves of a training; None if it has not logged any."""
    losses, epochs, figures = read_learning(training / "metrics.csv")
    if not (losses or epochs or figures):
        return None
    parts = [f"{name} ends at {format_figure(curve[-1][1])}" for name, curve in figures.items()]
    if loss := losses or epochs:
        parts.insert(0, f"the training loss goes from {loss[0][1]:.3g} to {loss[-1][1]:.3g}")
    return _embed(draw_learning(losses, epochs, figures), f"Learning curves: {', '.join(parts)}")


def _embed(figure: Figure, alt: str) -> Picture:
    width, height = figure.get_size_inches() * 96
    return embed_svg(to_svg(figure), alt, width, height)


def _add_figures(page: Page, diagnosis: Diagnosis) -> None:
    """Adds AP by size and by class, and the curves of precision and recall."""
    evaluation = diagnosis.evaluation
    page.size_rows, page.class_rows = evaluation.curve(), diagnosis.per_class()
    if page.size_rows:
        said = ", ".join(f"{r['from']:g} to {r['to']:g} px {format_figure(r['AP'])}" for r in page.size_rows)
        page.sizes = _embed(draw_ap_by_size(page.size_rows), f"AP by object size: {said}")
    curves = {title: evaluation.pr_curves(iou) for title, iou in IOUS.items()}
    if any(curves.values()):
        means = ", ".join(f"{title} {format_figure(evaluation.ap(iou))}" for title, iou in IOUS.items())
        page.curves = _embed(draw_pr_curves(curves), f"Precision over recall; the areas of the means are: {means}")
    page.thresholds = _explain_thresholds(diagnosis)


def _explain_thresholds(diagnosis: Diagnosis) -> str:
    said = (
        "The best score is the threshold with the largest F1 at IoU 0.5; precision, recall and F1 are those there. "
        "thresholds.json keeps it."
    )
    if all(row["measured"] for row in diagnosis.per_class()):
        return said
    overall = diagnosis.thresholds.overall
    instead = "no detection is right, so it is" if overall is None else "it is that of all classes together,"
    value = WITHOUT if overall is None else overall
    return f"{said} * This class has fewer than {FEWEST} objects or no right detection: {instead} {value:.3f}."


def _add_confusion(page: Page, diagnosis: Diagnosis) -> None:
    names = [*diagnosis.evaluation.names, BACKGROUND]
    figure, left_out = draw_confusion(diagnosis.confusion, names)
    totals = ", ".join(f"{number} {name}" for name, number in diagnosis.totals().items())
    page.confusion = _embed(figure, f"Confusion matrix: {totals}")
    page.confused = diagnosis.confused(10)
    page.confusion_note = (
        f"Detections at the best scores, at IoU 0.5: {totals}. Cells are percent of the objects of a row; those of the "
        "last row are numbers of false detections. Counts of all classes are in confusion.csv."
    )
    if left_out:
        page.confusion_note += f" {left_out} classes that are confused less are left out here."


def _add_images(page: Page, diagnosis: Diagnosis, settings: Report) -> None:
    """Adds the worst and the best images, as far as the page may grow."""
    wanted = diagnosis.worst(settings.worst), diagnosis.best(settings.best)
    page.worst = list(within_budget(_pictures(diagnosis, wanted[0])))
    used = sum(len(picture.uri) for picture in page.worst)
    page.best = list(within_budget(_pictures(diagnosis, wanted[1]), used=used))
    page.key = KEY
    page.pictures_note = (
        "Ranked by the number of errors (false detections, missed objects, wrong classes: one each) at the best scores "
        "and IoU 0.5; of equally many, the image with fewer right detections is worse. Of images that are much larger "
        "than a picture, the part with the most errors is shown. Click to enlarge. images.csv has all images."
    )
    if missing := sum(map(len, wanted)) - len(page.worst) - len(page.best):
        page.pictures_note += f" {missing} pictures are left out, so that this file stays small."


def _pictures(diagnosis: Diagnosis, positions: Sequence[int]) -> Iterator[Picture]:
    for position in positions:
        said, file = diagnosis.describe(position), diagnosis.file(position)
        yield embed_pixels(draw_image(diagnosis, position, SIDE), f"{file}: {said}", f"{said} · {file}")


FORMATS: dict[str, tuple[str, Callable[[float], str]]] = {
    "pixels": ("pixels seen in training, padding included", lambda v: f"{v / 1e6:,.1f} million"),
    "views": ("views (images, chips or tiles)", lambda v: f"{v:,.0f}"),
    "seconds": ("time in training steps", lambda v: str(timedelta(seconds=round(v)))),
    "data_wait": ("share of it spent waiting for data", lambda v: f"{100 * v:.0f} %"),
    "memory_GB": ("peak memory", lambda v: f"{v:.2f} GB"),
}


def training_cost(cost: Mapping[str, float], mining: Mapping[str, float] | None) -> list[Fact]:
    """The cost of a training, see `Throughput.cost`, and of mining its proposals."""
    facts = [Fact(words, show(cost[name])) for name, (words, show) in FORMATS.items() if name in cost]
    if cost.get("seconds"):
        facts.append(Fact("views per second", f"{cost['views'] / cost['seconds']:,.1f}"))
    if mining:
        pixels = sum(mining.get(name, 0) for name in ("pixels", "inference_pixels"))
        facts.append(Fact("pixels seen in mining proposals", f"{pixels / 1e6:,.1f} million"))
    return facts


def inference_cost(images: int, pixels: float, seconds: float) -> list[Fact]:
    """The cost of an evaluation's inference."""
    if not seconds:
        return []
    return [
        Fact("pixels seen in evaluation, padding included", f"{pixels / 1e6:,.1f} million"),
        Fact("time of inference, loading of images included", str(timedelta(seconds=round(seconds)))),
        Fact("images per second", f"{images / seconds:,.1f}"),
    ]
