"""``compose``: the parts of a training, for a loop of your own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from lightning_det.api.settings import composed
from lightning_det.config import check_targets, check_values, resolve
from lightning_det.config.data import build_data
from lightning_det.config.module import build_module, portable_settings
from lightning_det.config.trainer import build_trainer
from lightning_det.data.datamodule import ViewData
from lightning_det.modules.module import DetectionModule
from lightning_det.runs.batch_size import settle_batch_size
from lightning_det.runs.composition import overridden_keys, validate_run
from lightning_det.runs.data_report import report_boxes, report_repetitions, report_views
from lightning_det.runs.inputs import check_inputs
from lightning_det.runs.launch import is_first_rank
from lightning_det.runs.mining import with_proposals
from lightning_det.runs.occupancy import check_unused, unused_folder
from lightning_det.runs.preflight import check_data, check_monitors, check_trainer
from lightning_det.runs.splits import read_training_splits
from lightning_det.runs.unread import report_unreachable, report_unread
from lightning_det.runs.weights import load_weights
from lightning_det.system.errors import ConfigError


@dataclass(frozen=True)
class TrainingParts:
    """The parts of a training, made by `compose`."""

    module: DetectionModule
    """The LightningModule; ``module.losses(batch)`` are its losses by name."""
    datamodule: ViewData
    """The LightningDataModule; ``epoch_loader(epoch)`` has the batches for a loop without Lightning's trainer."""
    config: DictConfig
    """All settings, checked."""
    folder: Path | None = None
    """The folder of a run that `trainer` writes into, as given."""

    def trainer(self, callbacks: Sequence[pl.Callback] = (), **settings: Any) -> pl.Trainer:
        """Makes Lightning's trainer as the command `train` does, with the configuration's loggers and callbacks.

        They evaluate, log, draw, and write checkpoints into ``folder``, which `load` takes. One of them seeds torch
        before every training step (``callbacks.seeds=null`` leaves it out).

        Args:
            callbacks: more callbacks.
            **settings: of the trainer that differ from ``config.trainer``: ``max_epochs=3``.

        Raises:
            ConfigError: there is no folder, it holds another training, or Lightning refuses the settings.
        """
        if self.folder is None:
            raise ConfigError("compose(..., folder=FOLDER) names the folder of logs and checkpoints; there is none yet")
        if is_first_rank():
            check_unused(self.folder, "train", f"folder={unused_folder(self.folder)}")
        cfg = self.config.copy()
        try:
            with open_dict(cfg.trainer):
                cfg.trainer.update(settings)
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"trainer: {str(error).splitlines()[0]}; give plain values, or make a pytorch_lightning.Trainer with "
                "reload_dataloaders_every_n_epochs=1 and use_distributed_sampler=False"
            ) from error
        plain = {"trainer": resolve(cfg)["trainer"]}
        check_targets(plain)
        check_values(plain)
        check_trainer(cfg)
        check_monitors(cfg)
        self.module.hparams["settings"] = portable_settings(cfg)  # those that checkpoints record
        trainer = build_trainer(cfg, self.folder)
        trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]  # set late
        return trainer


def compose(overrides: Sequence[str] = (), folder: str | Path | None = None) -> TrainingParts:
    """Builds the module and the data of a training from the options of the command `train`, with its checks.

    Nothing is written. Weights are initialised by torch's generators, which ``pytorch_lightning.seed_everything(seed)``
    sets; which views and samples are drawn in training follows from ``seed=``.

    Args:
        overrides: as on the command line: ``["dataset=yolo", "dataset.root=DIR", "weights=RUN"]``.
        folder: where a trainer of `TrainingParts.trainer` writes.

    Raises:
        ConfigError: a setting is unknown, invalid, or has no effect here; the message names the key.
        DatasetError: the dataset cannot be used as it is.
        UserError: the weights are of another detector.
    """
    with composed("train", overrides, folder or ".") as cfg:
        check_inputs(cfg, "train")
        cfg = validate_run(cfg)
        if cfg.resume is not None:
            raise ConfigError(f"resume={cfg.resume}: Trainer.fit(..., ckpt_path=FILE) continues a training here")
        if cfg.proposals == "auto":
            raise ConfigError(
                "proposals=auto trains a network first, as a command: proposals=FILE takes what lightning-det mine or "
                "an earlier run has made, and proposals=null does without negative chips"
            )
        keys = overridden_keys()
        if cfg.callbacks and cfg.callbacks.get("report") and any(k.startswith("callbacks.report") for k in keys):
            raise ConfigError("callbacks.report: only the commands write a report; leave it out")
        check_trainer(cfg)
        check_monitors(cfg)
        report_unread(cfg, keys)
        report_unreachable(cfg)
        stores = read_training_splits(cfg)
        cfg = settle_batch_size(cfg, stores["train"], Path(folder or "."))
        check_data(cfg, **stores)
        module = build_module(cfg, stores["train"].label_map)
        if cfg.weights is not None:
            load_weights(module, cfg.weights)
        train = with_proposals(stores["train"], None if cfg.proposals is None else Path(cfg.proposals))
        data = build_data(cfg, train, stores["val"])
        report_views(cfg, train, data)
        report_repetitions(cfg, train, data)
        report_boxes(cfg, module.detector, train, data)
    return TrainingParts(module, data, cfg, None if folder is None else Path(folder))
