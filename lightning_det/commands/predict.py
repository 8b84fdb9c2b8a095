"""Detections in images or videos."""

import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from lightning_det.callbacks.evaluation import gather_results
from lightning_det.config.data import build_data
from lightning_det.config.trainer import build_trainer
from lightning_det.data.sources import PREDICTIONS
from lightning_det.evaluation.results import Results
from lightning_det.modules.module import DetectionModule
from lightning_det.protocols.structures import STRIDE
from lightning_det.runs.coco_output import Ids, write_coco
from lightning_det.runs.composition import run_folder
from lightning_det.runs.drawings import Drawing, check_drawing, write_drawings
from lightning_det.runs.predictions_file import say_counts, summarize
from lightning_det.runs.restore import restore_detector
from lightning_det.runs.score_thresholds import shown_scores
from lightning_det.runs.sources import Part, name_problems, read_source, sources_of
from lightning_det.system.files import write_json
from lightning_det.views.focus_pyramid import pyramid_pixels

log = logging.getLogger("lightning_det")


def predict(cfg: DictConfig) -> None:
    """Predicts as configured; writes pictures, or videos, and ``predictions.json`` into ``output``."""
    output = Path(cfg.output) if cfg.output is not None else run_folder()
    drawing = Drawing.of(cfg, output)
    settings, module = restore_detector(cfg)
    ids = None if cfg.coco in (True, False) else Ids.read(Path(cfg.coco), module.labels)
    thresholds = shown_scores(cfg, module.labels, module.inference.score_threshold)
    source = read_source(sources_of(cfg), cfg.recursive, module.labels)
    check_drawing(source, drawing)
    if source.problems:
        log.warning("left out, because they cannot be read:\n%s", name_problems(source.problems))

    trainer = build_trainer(settings, run_folder(), learning=False)
    start = time.monotonic()
    results = [detect(settings, trainer, module, part) for part in source.parts]
    seconds = time.monotonic() - start
    if not trainer.is_global_zero:
        return
    write_json(output / PREDICTIONS, summarize(source, results, module.labels, thresholds))
    if cfg.coco is not False:
        write_coco(source, results, module.labels, output, ids)
    shown = [found.above(thresholds) for found in results]
    write_drawings(source, shown, module.labels, drawing)
    say_counts(source, results, shown, module.labels, seconds)
    print(output)


def detect(settings: DictConfig, trainer: pl.Trainer, module: DetectionModule, part: Part) -> Results:
    """Detections in images or a video, on every rank: those of all ranks, sorted by image."""
    data = build_data(settings, None, part.store, part.video)
    parts: Any = trainer.predict(module, datamodule=data)
    # One rank has all views of an image, so they are merged before the exchange.
    everything = Results.concatenate(parts)
    mine = everything.share(trainer.global_rank, trainer.world_size)
    if data.test_views.follows and trainer.is_global_zero:
        whole = sum(pyramid_pixels(data.test_views, part.store.record(int(n)), STRIDE) for n in mine.seen)
        log.info("looked at %.0f %% of the pixels of the whole pyramid", 100 * everything.pixels / whole)
    return Results.concatenate(gather_results(module.inference.merge_views(mine, part.store))).by_image()
