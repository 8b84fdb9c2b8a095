"""Writes the results of a training: ``metrics.json``, thresholds, the report, COCO's table and the run folder."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from lightning_det.callbacks import EpochSummary, Evaluator, Report, Throughput
from lightning_det.callbacks.access import find_callback
from lightning_det.checkpoint import read_checkpoint
from lightning_det.evaluation.rare_classes import hardly_learned, rare_classes
from lightning_det.evaluation.thresholds import THRESHOLDS, Thresholds
from lightning_det.runs.report_settings import display, next_commands
from lightning_det.system.errors import UserError
from lightning_det.system.files import read_json, write_json

log = logging.getLogger("lightning_det")


def check_learned(cfg: DictConfig, trainer: pl.Trainer) -> None:
    """Raises an error if a training has ended without a step.

    Raises:
        UserError: nothing was learned.
    """
    if trainer.global_step == 0:
        raise UserError(
            "the training has ended without a single step, so nothing is learned "
            f"(trainer.max_time={cfg.trainer.max_time}, trainer.limit_train_batches={cfg.trainer.limit_train_batches})"
        )


def report_training(cfg: DictConfig, trainer: pl.Trainer, folder: Path, mining: Path | None = None) -> None:
    """Writes the results, and prints COCO's table, the command that predicts, and last the run folder.

    Args:
        cfg: the whole configuration.
        trainer: after the training.
        folder: of the run.
        mining: the file with the cost of mining, of this run or an earlier one.
    """
    evaluator = find_callback(trainer, Evaluator)
    metrics: dict[str, Any] = {
        "epochs": trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]  # of a base class
        "steps": trainer.global_step,
    }
    summary, throughput = find_callback(trainer, EpochSummary), find_callback(trainer, Throughput)
    if summary is not None and summary.losses:
        metrics |= {"loss": summary.losses[-1], "epoch_losses": summary.losses}
    if throughput is not None:
        metrics["cost"] = throughput.cost()
        if evaluator is not None and evaluator.image_seconds is not None:
            metrics["cost"]["image_seconds"] = evaluator.image_seconds
    if mining is not None and (found := read_json(mining)):
        metrics["mining"] = found
    best = {} if evaluator is None else best_report(evaluator, folder)
    if evaluator is not None and evaluator.report:
        metrics = evaluator.report["figures"] | metrics
        metrics["best_AP"] = best["figures"]["AP"]
        metrics["per_class"] = evaluator.report["per_class"]
        print(evaluator.report["table"])
        for said in filter(None, (rare_classes(metrics["per_class"]), hardly_learned(metrics["per_class"]))):
            print(said)
    if evaluator is not None and trainer.limit_val_batches:
        report_unvalidated(evaluator.report, trainer, folder)
    write_json(folder / "metrics.json", metrics)
    if "thresholds" in best:  # not in the checkpoints of earlier versions
        Thresholds(**best["thresholds"]).write(folder / THRESHOLDS)
    settings = find_callback(trainer, Report)
    # A finished run that is resumed without a further step has no detections any more, but still its report.
    if settings is not None and not (settings.file.exists() and (evaluator is None or evaluator.results is None)):
        # Matplotlib takes a while to import.
        from lightning_det.runs.report_content import content_of_training
        from lightning_det.runs.run_report import write_report

        write_report(content_of_training(cfg, trainer, folder, metrics), settings)
    print(f"next: {next_commands(display(folder), True, None)[0].line}")
    print(folder)


def best_report(evaluator: Evaluator, folder: Path) -> dict[str, Any]:
    """Returns the evaluator's report on the best checkpoint, whatever figure decides; without one, on the last weights.

    Args:
        evaluator: has that of the last validation.
        folder: of the run.
    """
    file = folder / "checkpoints/best.ckpt"
    report = read_checkpoint(file)["callbacks"].get(evaluator.state_key) if file.is_file() else None
    return report or evaluator.report


def report_unvalidated(report: dict[str, Any], trainer: pl.Trainer, folder: Path) -> None:
    """Warns if a training went on after its last validation, so the figures are not those of its last weights.

    Args:
        report: the evaluator's; empty if nothing has been validated.
        trainer: after the training.
        folder: of the run.
    """
    # Checkpoints of earlier versions do not hold the step.
    validated = report.get("step", trainer.global_step) if report else 0
    if validated < trainer.global_step:
        figures = f"the figures are those of step {validated}" if validated else "there are no figures"
        log.warning(
            "%s: the training ended at step %d, without a validation. Evaluate it with lightning-det eval "
            "checkpoint=%s, or train with trainer.val_check_interval=STEPS trainer.check_val_every_n_epoch=null",
            figures,
            trainer.global_step,
            folder / "checkpoints/last.ckpt",
        )
