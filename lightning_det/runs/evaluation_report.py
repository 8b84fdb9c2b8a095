"""Writes the results of an evaluation: files, tables and plots."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_det.annotations.labels import LONGEST
from lightning_det.callbacks import Evaluator, Report, log_diagnosis
from lightning_det.callbacks.access import find_callback, val_store
from lightning_det.checkpoint import checkpoint_file
from lightning_det.evaluation.figures import Evaluation, format_figure
from lightning_det.evaluation.files import write_coco_results
from lightning_det.evaluation.thresholds import THRESHOLDS
from lightning_det.plotting.curves import draw_ap_by_size
from lightning_det.plotting.figures import save_png
from lightning_det.runs.diagnosis_files import write_numbers
from lightning_det.runs.report_content import content_of_evaluation
from lightning_det.runs.run_report import write_report
from lightning_det.system.errors import one_line
from lightning_det.system.files import write_json


def report_evaluation(
    cfg: DictConfig, settings: DictConfig, trainer: pl.Trainer, evaluator: Evaluator, folder: Path
) -> dict[str, Any]:
    """Writes the figures, detections and the report of an evaluation, and prints its tables and, last, the run folder.

    Args:
        cfg: configuration of this command.
        settings: of the checkpoint, with the options of this command.
        trainer: the trainer, after the validation.
        evaluator: has the detections.
        folder: of the run.
    """
    store = val_store(trainer)
    checkpoint = checkpoint_file(cfg.checkpoint)
    diagnosis = evaluator.diagnose(store, f"{cfg.split} by {checkpoint.name}")
    results, full = diagnosis.results, diagnosis.evaluation
    log_diagnosis(trainer, diagnosis)
    write_coco_results(folder / "detections.json", store, results)
    save_png(draw_ap_by_size(full.curve(), f"AP by object size, {cfg.split}"), folder / "ap_by_size.png")
    diagnosis.thresholds.write(folder / THRESHOLDS)
    metrics = full.figures() | {
        "images": len(results.seen),
        "detections": len(results),
        "pixels": evaluator.pixels,
        "cost": {"image_seconds": evaluator.image_seconds},
        "checkpoint": os.path.relpath(checkpoint.resolve(), folder.resolve()),
        "per_class": full.per_class(),
        "ap_by_size": full.curve(),
    }
    write_json(folder / "metrics.json", metrics)
    if (report := find_callback(trainer, Report)) is None:
        write_numbers(diagnosis, folder)
    else:
        write_report(content_of_evaluation(cfg, settings, trainer, diagnosis, metrics, report), report)
    print_tables(full)
    print(folder)
    return metrics


def print_tables(evaluation: Evaluation) -> None:
    """Prints AP by class and by size, and COCO's table."""
    console = Console()
    shown = ["AP", "AP50", *evaluation.voc]
    classes = Table("class", "boxes", *shown, title="AP by class")
    for name, figures in evaluation.per_class().items():
        if figures["boxes"]:
            # As text: a name may look like rich's markup, or like one of its emojis.
            classes.add_row(
                Text(one_line(name, LONGEST)),
                str(figures["boxes"]),
                *(format_figure(figures[name]) for name in shown),
            )
    sizes = Table("sqrt(area), px", "boxes", "AP", "AP50", title="AP by object size")
    for row in evaluation.curve():
        sizes.add_row(
            f"{row['from']:g} - {row['to']:g}",
            str(row["boxes"]),
            f"{row['AP']:.3f}",
            f"{row['AP50']:.3f}",
        )
    console.print(classes, sizes)
    print(evaluation.table())
