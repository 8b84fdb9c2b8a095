"""The content of the report of a training or of an evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig

from lightning_det.callbacks import Evaluator, Report
from lightning_det.callbacks.access import find_callback, val_store
from lightning_det.checkpoint import checkpoint_file
from lightning_det.evaluation.diagnosis import Diagnosis
from lightning_det.evaluation.figures import format_figure
from lightning_det.evaluation.rare_classes import hardly_learned, rare_classes
from lightning_det.report.page import Fact, Page
from lightning_det.runs.composition import chosen_options
from lightning_det.runs.layout import METRICS
from lightning_det.runs.report_settings import changes, display, next_commands, option, settings_text
from lightning_det.runs.resume import composition_overrides
from lightning_det.runs.run_report import Run, inference_cost, training_cost
from lightning_det.system.files import read_json


def content_of_training(cfg: DictConfig, trainer: pl.Trainer, folder: Path, metrics: Mapping[str, Any]) -> Run:
    """Collects the content of a training's report.

    Args:
        cfg: the whole configuration.
        trainer: after the training.
        folder: of the run.
        metrics: content of its ``metrics.json``.
    """
    evaluator = find_callback(trainer, Evaluator)
    known = evaluator is not None and evaluator.results is not None
    diagnosis = evaluator.diagnose(val_store(trainer)) if evaluator is not None and known else None
    run, split = display(folder), "val" if cfg.dataset.test is None else "test"
    validated = evaluator.report.get("step") if evaluator is not None else None
    page = Page(
        title=run,
        kind="training",
        summary=summarize_training(cfg, metrics),
        headline=_headline_of_training(metrics),
        notes=notes(metrics, run, validated, diagnosis),
        cost=training_cost(metrics.get("cost", {}), metrics.get("mining")),
        overrides=composition_overrides(),
        changes=changes(cfg),
        settings=settings_text(cfg),
        commands=next_commands(run, True, split),
    )
    return Run(page, folder, folder, metrics, metrics.get("per_class", {}), diagnosis)


def content_of_evaluation(
    cfg: DictConfig,
    settings: DictConfig,
    trainer: pl.Trainer,
    diagnosis: Diagnosis,
    metrics: Mapping[str, Any],
    report: Report,
) -> Run:
    """Collects the content of an evaluation's report.

    Args:
        cfg: configuration of this command.
        settings: of the checkpoint, with the options of this command.
        trainer: after the validation.
        diagnosis: of its detections.
        metrics: content of its ``metrics.json``.
        report: names the run folder.
    """
    folder, file = report.file.parent, checkpoint_file(cfg.checkpoint)
    training = file.resolve().parent.parent
    trained = read_json(training / METRICS)
    evaluator = find_callback(trainer, Evaluator)
    seconds = 0.0 if evaluator is None else evaluator.seconds
    inference = inference_cost(len(diagnosis.results.seen), metrics["pixels"], seconds)
    other = next((s for s in ("test", "val") if s != cfg.split and settings.dataset[s] is not None), None)
    page = Page(
        title=display(folder),
        kind="evaluation",
        summary=f"{display(file)} on the split {cfg.split} of {settings.dataset.root}.",
        headline=[Fact("images", f"{metrics['images']:,}"), Fact("detections", f"{metrics['detections']:,}")],
        cost=[*inference, *training_cost(trained.get("cost", {}), trained.get("mining"))],
        overrides=composition_overrides(),
        changes=changes(settings),
        settings=settings_text(settings),
        commands=next_commands(str(cfg.checkpoint), False, other, str(folder)),
    )
    return Run(page, folder, training, metrics, metrics["per_class"], diagnosis)


def summarize_training(cfg: DictConfig, metrics: Mapping[str, Any]) -> str:
    """Says in a sentence what was trained."""
    options = chosen_options(("detector", "backbone", "dataset", "strategy"))
    parts = [f"{group} {', '.join(names)}" for group, names in options.items() if names]
    return f"{'; '.join(parts)}. {metrics['epochs']} epochs, {metrics['steps']:,} steps, data in {cfg.dataset.root}."


def _headline_of_training(metrics: Mapping[str, Any]) -> list[Fact]:
    facts = [Fact("steps", f"{metrics['steps']:,}")]
    if metrics.get("best_AP") is not None:
        facts.insert(0, Fact("best AP", format_figure(metrics["best_AP"])))
    if metrics.get("loss") is not None:
        facts.append(Fact("last loss", f"{metrics['loss']:.3g}"))
    return facts


def notes(metrics: Mapping[str, Any], run: str, validated: int | None, diagnosis: Diagnosis | None) -> list[str]:
    """Says which weights a training's figures belong to, and what is missing.

    Args:
        metrics: content of its ``metrics.json``.
        run: its folder as shown.
        validated: step of the last validation; None if there was none.
        diagnosis: of the last validation; None if its detections are not known.
    """
    evaluate = f"lightning-det eval {option('checkpoint', run)}"
    said = []
    if validated is None:
        return [f"The training was not validated, so there are no figures. {evaluate} evaluates it."]
    if validated < metrics["steps"]:
        said.append(
            f"The training ended at step {metrics['steps']} without a validation; the figures are those of step "
            f"{validated}."
        )
    best, last = metrics.get("best_AP"), metrics.get("AP")
    # Lightning keeps the best one with 32 bits.
    if best is not None and last is not None and best > np.float32(last):
        said.append(
            f"The figures are those of the last validation. checkpoints/best.ckpt, with AP {format_figure(best)}, is "
            f"better: {evaluate} reports on it. thresholds.json is that of best.ckpt."
        )
    per_class = metrics.get("per_class", {})
    said += filter(None, (rare_classes(per_class), hardly_learned(per_class)))
    if diagnosis is None:
        said.append(
            "The run was resumed after its last validation, whose detections are not kept. So precision, confusion and "
            f"images are missing here; {evaluate} makes them."
        )
    return said
