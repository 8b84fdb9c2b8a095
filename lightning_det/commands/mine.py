"""Proposals for SNIPER's negative chips, as a file for ``train proposals=FILE``."""

import logging
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from lightning_det.config.data import usable_split
from lightning_det.config.module import build_module
from lightning_det.runs.batch_size import settle_batch_size
from lightning_det.runs.composition import overridden_keys, run_folder, save_config, validate_run
from lightning_det.runs.mining import FILE, mine
from lightning_det.runs.weights import load_weights
from lightning_det.system.errors import ConfigError

log = logging.getLogger("lightning_det")

UNREAD = ("trainer.max_epochs", "trainer.max_steps", "trainer.limit_val_batches", "test.", "logger")
"""Beginnings of keys that only the training of the detector reads."""


def mine_split(cfg: DictConfig) -> Path:
    """Mines proposals for a split of the configuration, and returns their file."""
    for key in ("resume", "proposals"):
        if cfg[key] not in (None, "auto"):
            raise ConfigError(
                f"{key}={cfg[key]}: mine does not read it; it makes proposals anew, from weights=FILE if given"
            )
    if unread := [key for key in overridden_keys() if key.startswith(UNREAD)]:
        log.warning("mine: without effect here: %s; settings of miner take their place", ", ".join(unread))
    cfg = validate_run(cfg)
    folder = run_folder()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    train = usable_split(cfg, "train", cfg.dataset.limit)
    cfg = settle_batch_size(cfg, train, folder)
    save_config(cfg, folder)
    store = train if cfg.split == "train" else usable_split(cfg, cfg.split, cfg.dataset.limit_val)
    module = build_module(cfg, train.label_map)
    if cfg.weights is not None:
        load_weights(module, cfg.weights)
    file = folder / FILE if cfg.output is None else Path(cfg.output)
    mine(cfg, module.detector, train, store, file)
    print(file)
    return file
