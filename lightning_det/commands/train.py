"""Trains a detector and evaluates it after every epoch."""

import logging
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from lightning_det.annotations import AnnotationStore
from lightning_det.callbacks import end_wandb_run
from lightning_det.callbacks.access import callbacks_of
from lightning_det.checkpoint import checkpoint_file
from lightning_det.config.data import build_data
from lightning_det.config.module import build_module
from lightning_det.config.trainer import build_trainer, check_callbacks
from lightning_det.modules.module import DetectionModule
from lightning_det.runs.batch_size import settle_batch_size
from lightning_det.runs.composition import overridden_keys, run_folder, save_config, validate_run
from lightning_det.runs.continuation import check_resumable, explain_restore_errors
from lightning_det.runs.data_report import report_boxes, report_repetitions, report_views
from lightning_det.runs.earlier_results import EarlierResults
from lightning_det.runs.launch import is_first_rank
from lightning_det.runs.mining import cost_file, mine, proposals_file, with_proposals
from lightning_det.runs.occupancy import remove_results
from lightning_det.runs.preflight import check_data, check_monitors, check_trainer
from lightning_det.runs.resume import is_unstarted
from lightning_det.runs.splits import read_training_splits
from lightning_det.runs.training_report import check_learned, report_training
from lightning_det.runs.unread import report_unreachable, report_unread
from lightning_det.runs.weights import load_weights
from lightning_det.system.errors import ConfigError

log = logging.getLogger("lightning_det")


def train(cfg: DictConfig) -> pl.Trainer:
    """Trains as configured, in Hydra's run folder.

    Raises:
        ConfigError: the settings contradict each other.
        DatasetError: the splits have different classes, or nothing to learn from.
    """
    cfg = validate_run(cfg)
    check_trainer(cfg)
    check_monitors(cfg)
    report_unread(cfg, overridden_keys())
    report_unreachable(cfg)
    fresh = cfg.resume is None or is_unstarted(cfg.resume)
    if not fresh and cfg.weights is not None:
        raise ConfigError("weights starts a new training and resume continues one; give one of them")
    folder = run_folder()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    stores = read_training_splits(cfg)
    cfg = settle_batch_size(cfg, stores["train"], folder)
    check_data(cfg, **stores)
    proposals = proposals_file(cfg, folder)
    module = prepare(cfg, folder, fresh, stores["train"], proposals)
    stores["train"] = with_proposals(stores["train"], proposals)
    data = build_data(cfg, stores["train"], stores["val"])
    report_views(cfg, stores["train"], data)
    report_repetitions(cfg, stores["train"], data)
    report_boxes(cfg, module.detector, stores["train"], data)
    trainer = build_trainer(cfg, folder)
    callbacks_of(trainer).append(EarlierResults(folder))
    resume = None if fresh else str(checkpoint_file(cfg.resume, "last"))
    with end_wandb_run(trainer), explain_restore_errors(cfg):
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    check_learned(cfg, trainer)
    if trainer.is_global_zero:
        report_training(cfg, trainer, folder, None if proposals is None else cost_file(proposals))
    return trainer


def prepare(
    cfg: DictConfig, folder: Path, fresh: bool, store: AnnotationStore, proposals: Path | None
) -> DetectionModule:
    """Loads the initial weights of the module, and writes the record and the proposals into the run folder.

    Args:
        cfg: the whole configuration; its ``proposals`` become the file's name.
        folder: the run folder.
        fresh: whether the training starts at its first step.
        store: images to learn from.
        proposals: file of proposals; if it does not exist and ``proposals=auto``, they are mined.
    """
    mines = cfg.proposals == "auto" and proposals is not None and not proposals.exists()
    composed = cfg.copy()
    cfg.proposals = None if proposals is None else str(proposals)
    module = build_module(cfg, store.label_map, resumed=not fresh)
    if not fresh:
        check_resumable(cfg, module, mines)
    elif cfg.weights is not None:
        load_weights(module, cfg.weights)
    if fresh and is_first_rank() and (gone := remove_results(folder)):
        log.info("starts over; removed what its first start had left: %s", ", ".join(gone))
    save_config(composed, folder)
    log.info("%.2f million parameters", sum(p.numel() for p in module.parameters()) / 1e6)
    if mines and proposals is not None:
        check_callbacks(cfg)
        mine(cfg, module.detector, store, store, proposals)
    return module
