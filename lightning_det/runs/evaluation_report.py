"""Writes the results of an evaluation: files, tables and plots."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_det.annotations import AnnotationStore
from lightning_det.annotations.labels import LONGEST
from lightning_det.callbacks import Evaluator, log_ap_by_size
from lightning_det.checkpoint import checkpoint_file
from lightning_det.evaluation.coco import evaluate
from lightning_det.evaluation.figures import Evaluation, format_figure
from lightning_det.evaluation.files import write_coco_results
from lightning_det.plotting.curves import plot_ap_by_size
from lightning_det.system.errors import one_line
from lightning_det.system.files import write_json


def report_evaluation(
    cfg: DictConfig, trainer: pl.Trainer, evaluator: Evaluator, store: AnnotationStore, folder: Path
) -> dict[str, Any]:
    """Writes the figures and detections of an evaluation, and prints its tables and, last, the run folder.

    Args:
        cfg: configuration of this command.
        trainer: the trainer, after the validation.
        evaluator: has the detections.
        store: the annotations that they are compared with.
        folder: of the run.
    """
    results = evaluator.results
    if results is None:
        raise RuntimeError("the validation has left no detections")
    # Once more with the octaves of the curve, which training does without.
    cuts, most = evaluator.size_cuts, evaluator.counted
    full = evaluate(store, results, cuts, most, curve=True, backend=evaluator.backend)
    log_ap_by_size(trainer, full.curve())
    write_coco_results(folder / "detections.json", store, results)
    plot_ap_by_size(full.curve(), folder / "ap_by_size.png", f"AP by object size, {cfg.split}")
    metrics = full.figures() | {
        "images": len(results.seen),
        "detections": len(results),
        "pixels": evaluator.pixels * trainer.world_size,
        "cost": {"image_seconds": evaluator.image_seconds},
        "checkpoint": os.path.relpath(checkpoint_file(cfg.checkpoint).resolve(), folder.resolve()),
        "per_class": full.per_class(),
        "ap_by_size": full.curve(),
    }
    write_json(folder / "metrics.json", metrics)
    print_tables(full)
    print(folder)
    return metrics


def print_tables(evaluation: Evaluation) -> None:
    """Prints AP by class and by size, and COCO's table."""
    console = Console()
    classes = Table("class", "boxes", "AP", "AP50", title="AP by class")
    for name, figures in evaluation.per_class().items():
        if figures["boxes"]:
            # As text: a name may look like rich's markup, or like one of its emojis.
            classes.add_row(
                Text(one_line(name, LONGEST)),
                str(figures["boxes"]),
                format_figure(figures["AP"]),
                format_figure(figures["AP50"]),
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
