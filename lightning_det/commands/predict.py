"""Detections in images or a video."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_det.config.data import build_data
from lightning_det.config.trainer import build_trainer
from lightning_det.data.folder import PREDICTIONS
from lightning_det.evaluation.results import Results
from lightning_det.runs.composition import run_folder
from lightning_det.runs.prediction import read_source, summarize, write_pictures
from lightning_det.runs.restore import restore_detector
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import write_json

log = logging.getLogger("lightning_det")


def predict(cfg: DictConfig) -> None:
    """Predicts as configured; writes pictures, or a video, and ``predictions.json`` into ``output``."""
    settings, module = restore_detector(cfg)
    output = Path(cfg.output) if cfg.output is not None else run_folder()
    if output.resolve() == Path(cfg.source).resolve():
        raise ConfigError(f"output={cfg.output}: the folder of the images; pictures need another one")
    source = read_source(Path(cfg.source), module.labels)
    for problem in source.problems:
        log.warning("left out: %s", problem)
    if len(source.store) == 0:
        raise UserError(f"{cfg.source}: no image that can be read")
    store, kind = source.store, "images" if source.video is None else "frames"
    log.info("%d %s", len(store), kind)

    trainer = build_trainer(settings, run_folder(), learning=False)
    parts: Any = trainer.predict(module, datamodule=build_data(settings, None, store, source.video))
    results = module.inference.merge_views(Results.concatenate(parts), store)
    write_json(output / PREDICTIONS, summarize(source, results, module.labels))
    write_pictures(source, results, module.labels, cfg.draw_threshold, output)
    above = int((results.scores >= cfg.draw_threshold).sum())
    counts = (len(results), len(store), kind, above, cfg.draw_threshold)
    log.info("%d detections in %d %s; %d of them with a score of at least draw_threshold=%g are drawn", *counts)
    print(output)
