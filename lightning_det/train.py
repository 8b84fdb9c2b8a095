"""``python -m lightning_det.train``: trains a detector, evaluates it after every epoch, and keeps what happened."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from lightning_det.annotations import DatasetError
from lightning_det.build import (
    build_data,
    build_module,
    build_trainer,
    checkpoint_file,
    load_weights,
    usable_split,
)
from lightning_det.callbacks import EpochSummary, Evaluator, Throughput, finished_logs
from lightning_det.cli import checked, command, run_folder, save_config
from lightning_det.data.datamodule import ViewData
from lightning_det.data.inspection import count_orphans
from lightning_det.errors import ConfigError
from lightning_det.files import read_json, write_json
from lightning_det.launch import is_first
from lightning_det.mining import COST, mine, proposals_file, with_proposals
from lightning_det.places import forget
from lightning_det.restore import to_go_on_from
from lightning_det.resume import completed, unstarted

log = logging.getLogger("lightning_det")


def train(cfg: DictConfig) -> pl.Trainer:
    """Trains as the configuration says; the run folder is Hydra's.

    Raises:
        ConfigError: the settings contradict each other.
        DatasetError: the splits have different classes, or nothing to learn from.
    """
    cfg = checked(cfg)
    fresh = cfg.resume is None or unstarted(cfg.resume)
    if not fresh and cfg.weights is not None:
        raise ConfigError("weights starts a new training and resume continues one; give one of them")
    folder = run_folder()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    stores = {which: usable_split(cfg, which) for which in ("train", "val")}
    difference = stores["train"].label_map.difference(stores["val"].label_map)
    if difference:
        raise DatasetError(f"dataset.val {difference}, compared with dataset.train; both need the same classes")
    if stores["train"].ignored.all():
        raise DatasetError(f"dataset.train ({cfg.dataset.train}) has no box to learn from; choose a split with boxes")
    for which, store in stores.items():
        log.info("%s: %d images, %d boxes, %d classes", which, len(store), store.num_boxes, len(store.label_map))

    proposals = proposals_file(cfg, folder)
    mines = cfg.proposals == "auto" and not proposals.exists()
    asked = cfg.copy()
    cfg.proposals = None if proposals is None else str(proposals)
    module = build_module(cfg, stores["train"].label_map)
    if not fresh:
        to_go_on_from(cfg, module)
    elif cfg.weights is not None:
        load_weights(module, cfg.weights)
    if fresh and is_first() and (gone := forget(folder)):
        log.info("starts over; removed what its first start had left: %s", ", ".join(gone))
    save_config(asked, folder)
    log.info("%.2f million parameters", sum(p.numel() for p in module.parameters()) / 1e6)
    if mines:
        mine(cfg, module.detector, stores["train"], stores["train"], proposals)
    stores["train"] = with_proposals(stores["train"], proposals)
    data = build_data(cfg, **stores)
    report_views(cfg, data)
    trainer = build_trainer(cfg, folder)
    resume = None if fresh else str(checkpoint_file(cfg.resume, "last"))
    with finished_logs(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    if trainer.is_global_zero:
        report(trainer, folder, None if proposals is None else proposals.with_name(COST))
    return trainer


def report_views(cfg: DictConfig, data: ViewData) -> None:
    """Says which boxes no scale learns from, and when chips go without negative ones."""
    orphans = count_orphans(data.train, data.train_views)
    if orphans:
        fate = "go to the coarsest scale" if data.train_views.windows.orphans == "coarsest" else "are left out"
        log.info("train: %d boxes are valid at no scale and %s", orphans, fate)
    if getattr(data.train_views.windows, "negatives", 0) and cfg.proposals is None:
        log.info("train: no proposals, so positive chips only (proposals=auto mines them first)")


def report(trainer: pl.Trainer, folder: Path, mining: Path | None = None) -> None:
    """Writes ``metrics.json`` and prints COCO's table and, last, the run folder.

    Args:
        trainer: after the training.
        folder: of the run.
        mining: says what finding the proposals has come to, in this run or an earlier one.
    """
    evaluator = next((c for c in trainer.callbacks if isinstance(c, Evaluator)), None)
    metrics = {"epochs": trainer.fit_loop.epoch_progress.current.processed, "steps": trainer.global_step}
    losses = next((c.losses for c in trainer.callbacks if isinstance(c, EpochSummary)), [])
    if losses:
        metrics |= {"loss": losses[-1], "epoch_losses": losses}
    throughput = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)
    if throughput is not None:
        metrics["cost"] = throughput.cost(trainer)
    if mining is not None and (found := read_json(mining)):
        metrics["mining"] = found
    if evaluator is not None and evaluator.report:
        best = getattr(trainer.checkpoint_callback, "best_model_score", None)
        metrics = evaluator.report["figures"] | metrics
        metrics["best_AP"] = metrics["AP"] if best is None else float(best)
        metrics["per_class"] = evaluator.report["per_class"]
        print(evaluator.report["table"])
    if evaluator is not None and trainer.limit_val_batches:
        report_unvalidated(evaluator.report, trainer, folder)
    write_json(folder / "metrics.json", metrics)
    print(folder)


def report_unvalidated(report: dict[str, Any], trainer: pl.Trainer, folder: Path) -> None:
    """Says when a training has ended after its last validation: the figures are not those of its last weights.

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
            "%s: the training ended at step %d, without a validation. Evaluate it with python -m lightning_det.eval "
            "checkpoint=%s, or train with trainer.val_check_interval=STEPS trainer.check_val_every_n_epoch=null",
            figures,
            trainer.global_step,
            folder / "checkpoints/last.ckpt",
        )


main = command("train", completed)(train)

if __name__ == "__main__":
    main()
