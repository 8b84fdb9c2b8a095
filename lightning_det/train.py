"""``python -m lightning_det.train``: trains a detector, evaluates it after every epoch, and keeps what happened."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from lightning_det.annotations import DatasetError
from lightning_det.callbacks import EpochSummary, Evaluator, Throughput, end_wandb_run
from lightning_det.config.build import (
    build_data,
    build_module,
    build_trainer,
    checkpoint_file,
    load_weights,
    own_priors,
    usable_split,
)
from lightning_det.data.anchors import SAMPLE, boxes_in_views, misfit
from lightning_det.data.datamodule import ViewData
from lightning_det.data.inspection import count_orphans, count_unlearned, larger_than_tiles
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.splits import matched, nothing_to_learn
from lightning_det.data.suggestion import sample
from lightning_det.modules import keys
from lightning_det.runs.command import checked, command, run_folder, save_config
from lightning_det.runs.continuation import check_resumable, explain_restore_errors
from lightning_det.runs.launch import is_first_rank
from lightning_det.runs.mining import COST, mine, proposals_file, with_proposals
from lightning_det.runs.occupancy import remove_results
from lightning_det.runs.preflight import check_data, check_monitors, check_trainer
from lightning_det.runs.resume import complete_overrides, is_unstarted
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import read_json, write_json

log = logging.getLogger("lightning_det")


def train(cfg: DictConfig) -> pl.Trainer:
    """Trains as the configuration says; the run folder is Hydra's.

    Raises:
        ConfigError: the settings contradict each other.
        DatasetError: the splits have different classes, or nothing to learn from.
    """
    cfg = checked(cfg)
    check_trainer(cfg)
    check_monitors(cfg)
    fresh = cfg.resume is None or is_unstarted(cfg.resume)
    if not fresh and cfg.weights is not None:
        raise ConfigError("weights starts a new training and resume continues one; give one of them")
    folder = run_folder()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    limits = {"train": cfg.dataset.limit, "val": cfg.dataset.limit_val}
    stores = {which: usable_split(cfg, which, limit) for which, limit in limits.items()}
    stores["val"] = matched(stores["val"], stores["train"].label_map)
    if stores["train"].ignored.all():
        few = "" if cfg.dataset.limit is None else f", of which dataset.limit={cfg.dataset.limit} images are kept,"
        raise DatasetError(f"dataset.train ({cfg.dataset.train}){few} has {nothing_to_learn(stores['train'])}")
    for which, store in stores.items():
        log.info("%s: %d images, %d boxes, %d classes", which, len(store), store.num_boxes, len(store.label_map))
        if store.ignored.any():
            log.info("%s: %d of the boxes are regions without loss (crowd or difficult)", which, store.ignored.sum())
    check_data(cfg, **stores)

    proposals = proposals_file(cfg, folder)
    mines = cfg.proposals == "auto" and not proposals.exists()
    asked = cfg.copy()
    cfg.proposals = None if proposals is None else str(proposals)
    module = build_module(cfg, stores["train"].label_map)
    if not fresh:
        check_resumable(cfg, module, mines)
    elif cfg.weights is not None:
        load_weights(module, cfg.weights)
    if fresh and is_first_rank() and (gone := remove_results(folder)):
        log.info("starts over; removed what its first start had left: %s", ", ".join(gone))
    save_config(asked, folder)
    log.info("%.2f million parameters", sum(p.numel() for p in module.parameters()) / 1e6)
    if mines:
        mine(cfg, module.detector, stores["train"], stores["train"], proposals)
    stores["train"] = with_proposals(stores["train"], proposals)
    data = build_data(cfg, **stores)
    report_views(cfg, data)
    report_anchors(cfg, module, data)
    trainer = build_trainer(cfg, folder)
    resume = None if fresh else str(checkpoint_file(cfg.resume, "last"))
    with end_wandb_run(trainer), explain_restore_errors(cfg):
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    if trainer.global_step == 0:
        raise UserError(
            "the training has ended without a single step, so nothing is learned "
            f"(trainer.max_time={cfg.trainer.max_time}, trainer.limit_train_batches={cfg.trainer.limit_train_batches})"
        )
    if trainer.is_global_zero:
        report(trainer, folder, None if proposals is None else proposals.with_name(COST))
    return trainer


def report_views(cfg: DictConfig, data: ViewData) -> None:
    """Says which boxes no scale or tile shows, and when chips go without negative ones."""
    orphans = count_orphans(data.train, data.train_views)
    if orphans:
        unlearned = count_unlearned(data.train, data.train_views)
        log.info(
            "train: %d boxes are valid at no scale: %d go to the coarsest, %d get no chip (windows.orphans)",
            orphans,
            orphans - unlearned,
            unlearned,
        )
    if larger := larger_than_tiles(data.train, data.train_views):
        log.warning("train: %s", larger)
    if getattr(data.train_views.windows, "negatives", 0) and cfg.proposals is None:
        log.info("train: no proposals, so positive chips only (proposals=auto mines them first)")


def report_anchors(cfg: DictConfig, module: pl.LightningModule, data: ViewData) -> None:
    """Warns where many boxes of the training views have no anchor that could learn to find them."""
    store = sample(data.train, cfg.seed, SAMPLE)
    boxes = boxes_in_views(store, plan_epoch(store, data.train_views, cfg.seed), **data.visibility)
    said = misfit(boxes, module.detector, len(cfg.dataset.anchor_sizes), cfg.seed, own_priors(cfg))
    if said:
        log.warning("train: %s (python -m lightning_det.inspect suggests settings)", said)


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
        saved = (c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None) == keys.validated("AP"))
        best = getattr(next(saved, None), "best_model_score", None)
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


main = command("train", complete_overrides)(train)

if __name__ == "__main__":
    main()
