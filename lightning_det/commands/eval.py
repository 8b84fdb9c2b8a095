"""COCO's figures of a trained detector."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import Callback

from lightning_det.callbacks import Evaluator, end_wandb_run
from lightning_det.config.build import build
from lightning_det.config.data import build_data, usable_split
from lightning_det.config.trainer import build_loggers, build_trainer
from lightning_det.evaluation.measurable import explain_undefined
from lightning_det.runs.composition import run_folder, save_config
from lightning_det.runs.evaluation_report import report_evaluation
from lightning_det.runs.focus_sweep import check_sweep, sweep_focus
from lightning_det.runs.restore import relabel, restore_detector
from lightning_det.system.errors import ConfigError

log = logging.getLogger("lightning_det")


def evaluate_checkpoint(cfg: DictConfig) -> dict[str, Any]:
    """Evaluates the checkpoint of a configuration, and writes results into Hydra's run folder."""
    if cfg.dataset.limit is not None:
        raise ConfigError(
            f"dataset.limit={cfg.dataset.limit} is of images to learn from; dataset.limit_val={cfg.dataset.limit} "
            "evaluates on so many"
        )
    settings, module = restore_detector(cfg)
    check_sweep(cfg.sweep_thresholds, settings)
    folder = run_folder()
    save_config(settings, folder)
    store = relabel(usable_split(settings, cfg.split, settings.dataset.limit_val), module.labels)
    log.info("%s: %d images, %d boxes", cfg.split, len(store), store.num_boxes)
    if reason := explain_undefined(store):
        log.warning("dataset.%s: %s, so there is nothing to measure and AP is undefined", cfg.split, reason)

    test, cuts = settings.test, tuple(settings.dataset.size_cuts)
    evaluator = Evaluator(cuts, test.max_detections, test.backend, test.metric)
    trainer = build_trainer(settings, folder, learning=False)
    trainer.callbacks += [evaluator, *media_callbacks(settings, folder)]  # type: ignore[attr-defined]  # set late
    trainer.loggers = build_loggers(settings)
    with end_wandb_run(trainer):
        trainer.validate(module, datamodule=build_data(settings, None, store), verbose=False)
        if cfg.sweep_thresholds is not None:
            sweep_focus(cfg.sweep_thresholds, settings, module, store, folder)
        return report_evaluation(cfg, settings, trainer, evaluator, folder) if trainer.is_global_zero else {}


def media_callbacks(settings: DictConfig, folder: Path) -> list[Callback]:
    """Builds the callbacks that draw detections, send them to wandb, and ask for a report."""
    nodes = settings.callbacks or {}
    places: dict[str, dict[str, str]] = {
        "pictures": {"folder": str(folder / "pictures")},
        "report": {"folder": str(folder)},
        "wandb": {},
    }
    return [build(nodes[n], f"callbacks.{n}", **place) for n, place in places.items() if nodes.get(n) is not None]
