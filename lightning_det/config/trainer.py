"""Builds Lightning's trainer, its loggers and its callbacks from a configuration."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger

from lightning_det.callbacks import AtomicCheckpointIO, KeepSettings, LastCheckpoint
from lightning_det.config.build import build
from lightning_det.system.errors import ConfigError
from lightning_det.system.refusals import trainer_problem


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """Builds the loggers; a node that the user has set to null is left out."""
    return [build(node, f"logger.{name}") for name, node in (cfg.logger or {}).items() if node is not None]


def build_trainer(cfg: DictConfig, folder: Path, learning: bool = True) -> pl.Trainer:
    """Lightning's trainer.

    Args:
        cfg: the whole configuration.
        folder: the run folder.
        learning: whether it will train, and needs the loggers and callbacks of the configuration.

    Raises:
        ConfigError: Lightning refuses the settings, or would only refuse them during the run.
    """
    arguments: dict[str, Any] = {"logger": False, "callbacks": _progress(cfg), "enable_checkpointing": False}
    if learning:
        loggers = build_loggers(cfg)
        arguments = {
            "logger": loggers or False,
            "callbacks": _callbacks(cfg, loggers),
            "plugins": [AtomicCheckpointIO()],
        }
    # Our batch samplers distribute views over ranks, and their length differs between epochs.
    arguments |= {"use_distributed_sampler": False, "reload_dataloaders_every_n_epochs": 1}
    if why := trainer_problem(cfg.trainer):
        raise ConfigError(why)
    trainer: pl.Trainer = build(cfg.trainer, "trainer", default_root_dir=str(folder), **arguments)
    _restart_by_epochs(trainer)
    return trainer


def check_callbacks(cfg: DictConfig) -> None:
    """Builds loggers and callbacks only to find mistakes in them, before something that takes long.

    Raises:
        ConfigError: one cannot be built.
    """
    _callbacks(cfg, build_loggers(cfg))


def _progress(cfg: DictConfig) -> list[Callback]:
    """Builds the progress bar, if there shall be one."""
    node = (cfg.callbacks or {}).get("progress")
    return [] if node is None or not cfg.trainer.enable_progress_bar else [build(node, "callbacks.progress")]


def _callbacks(cfg: DictConfig, loggers: list[Logger]) -> list[Callback]:
    """Builds the callbacks of a training, without those that Lightning refuses together with the other settings."""
    nodes = {name: node for name, node in (cfg.callbacks or {}).items() if node is not None}
    built: dict[str, Callback] = {name: build(node, f"callbacks.{name}") for name, node in nodes.items()}
    if not loggers:
        built.pop("learning_rate", None)
    if not cfg.trainer.enable_progress_bar:
        built.pop("progress", None)
    # The last checkpoint contains the states of all other callbacks, so it is written after they have run.
    return sorted([KeepSettings(), *built.values()], key=lambda callback: isinstance(callback, LastCheckpoint))


def _restart_by_epochs(trainer: pl.Trainer) -> None:
    """Lets a resumed run start the epoch after its checkpoint, even with ``trainer.max_steps``.

    With ``max_steps``, Lightning assumes that every checkpoint is from the middle of an epoch, and ends complete epochs
    a second time. Logs and epoch means would then differ from those of an uninterrupted run. There is no public switch.
    The private method was checked on Lightning 2.6; `tests/config/test_trainer.py` fails if it changes.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
