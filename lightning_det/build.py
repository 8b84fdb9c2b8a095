"""From a configuration to objects."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torchvision
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap, Problem
from lightning_det.annotations.problems import refuse, summary
from lightning_det.backbones.pretrained import fetching
from lightning_det.callbacks import WholeCheckpoints
from lightning_det.config import ConfigError, resolved
from lightning_det.config.signatures import locate, parameters
from lightning_det.data.datamodule import ViewData
from lightning_det.errors import UserError
from lightning_det.modules.module import DetectionModule, Inference
from lightning_det.refusals import in_keys, unworkable
from lightning_det.views.planner import Planner

log = logging.getLogger("lightning_det")


def build(cfg: DictConfig | None, key: str, **arguments: Any) -> Any:
    """Makes the object that a node describes; None for an empty node.

    Args:
        cfg: the node.
        key: its dotted name, for messages.
        **arguments: built parts that it needs besides its settings.

    Raises:
        ConfigError: the constructor refuses its settings.
    """
    if cfg is None:
        return None
    try:
        # A partial first: instantiate() itself would turn dataclasses among the arguments into configurations.
        make = instantiate(cfg, _convert_="all", _partial_=True)
        return make if cfg.get("_partial_") else make(**arguments)
    except InstantiationException as error:
        raise ConfigError(f"{key}: {error.__cause__ or error}") from error
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        words = in_keys(str(error)) if key == "trainer" else f"{key}: {error}"
        raise ConfigError(words) from error


def read_split(cfg: DictConfig, which: str) -> tuple[AnnotationStore, list[Problem]]:
    """Annotations of one of the dataset's splits, and what is wrong with them.

    Args:
        cfg: the whole configuration.
        which: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: the dataset has no such split, or no root.
        DatasetError: the annotations cannot be read at all.
    """
    dataset = cfg.dataset
    if which not in ("train", "val", "test") or dataset[which] is None:
        there = ", ".join(s for s in ("train", "val", "test") if dataset[s] is not None)
        raise ConfigError(f"split must be one of this dataset's {there}, got {which!r}")
    split = OmegaConf.to_object(dataset[which]) if OmegaConf.is_config(dataset[which]) else dataset[which]
    return build(dataset.source, "dataset.source").read(split)


def usable_split(cfg: DictConfig, which: str, limit: int | None = None) -> AnnotationStore:
    """Annotations of a split for training or evaluation: complete, or reduced as ``dataset.on_bad`` allows.

    Args:
        cfg: the whole configuration.
        which: ``train``, ``val`` or ``test``.
        limit: how many images to keep, the first ones; None for all.

    Raises:
        DatasetError: the split has problems and ``dataset.on_bad`` is ``error``, or it is empty.
    """
    store, problems = read_split(cfg, which)
    name = f"dataset.{which} ({cfg.dataset[which]})"
    if str(cfg.dataset.on_bad).split(".")[-1] == "error":
        refuse(problems, name)
    elif problems:
        log.warning("%s: %s", name, summary(problems))
    if len(store) == 0:
        raise DatasetError(f"{name} has no image; dataset.root and dataset.{which} say where images are looked for")
    return limited(store, limit)


def limited(store: AnnotationStore, limit: int | None) -> AnnotationStore:
    """The first images of a store; None for all."""
    return store if limit is None else store.select(range(min(len(store), limit)))


def build_planner(cfg: DictConfig, phase: str) -> Planner:
    """The planner of ``views.train`` or ``views.test``.

    Raises:
        ConfigError: a step refuses its settings, or steps do not go together.
    """
    steps = {name: build(node, f"views.{phase}.{name}") for name, node in cfg.views[phase].items()}
    try:
        return Planner(**steps)
    except ValueError as error:
        raise ConfigError(f"views.{phase}: {error}") from error


def build_data(
    cfg: DictConfig,
    train: AnnotationStore | None,
    val: AnnotationStore | None,
    frames: Callable[[int], Tensor] | None = None,
) -> ViewData:
    """The data module, with its planners; ``frames`` reads the images of ``val`` if they are no files."""
    planners = {f"{phase}_views": build_planner(cfg, phase) for phase in ("train", "test")}
    return build(cfg.data, "data", train=train, val=val, seed=cfg.seed, frames=frames, **planners)


def build_module(cfg: DictConfig, labels: LabelMap, learning: bool = True) -> DetectionModule:
    """The LightningModule around a freshly initialised detector.

    Args:
        cfg: the whole configuration.
        labels: classes.
        learning: whether it will be trained and needs an optimizer.
    """
    known = parameters(locate("detector", cfg.detector._target_)) or {}
    selectors = {
        f"select_{name}": build(node, f"selection.{name}")
        for name, node in cfg.selection.items()
        if f"select_{name}" in known
    }
    # What is not to learn gets its weights from a checkpoint: nothing needs to be downloaded.
    untrained = {} if learning else {"weights": None, "pretrained": False}
    backbone = OmegaConf.merge(cfg.backbone, {k: v for k, v in untrained.items() if k in cfg.backbone})
    detector = build(
        cfg.detector,
        "detector",
        backbone=build(backbone, "backbone"),
        num_classes=len(labels),
        **selectors,
    )
    test = {k: v for k, v in cfg.test.items() if k in Inference._fields}
    test |= {key: build(cfg.test.get(key), f"test.{key}") for key in ("merge", "vote")}
    return build(
        cfg.module,
        "module",
        detector=detector,
        labels=labels,
        optimizer=build(cfg.optimizer, "optimizer") if learning else None,
        schedule=build(cfg.schedule, "schedule") if learning else None,
        inference=Inference(**test),
        settings=portable(cfg),
    )


def portable(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain data for a checkpoint.

    Everything is resolved except what refers to the dataset and shall follow a change of it: its source, views, tests.
    """
    symbolic = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    plain = resolved(cfg) | {key: symbolic[key] for key in ("views", "test")}
    return plain | {"dataset": plain["dataset"] | {"source": symbolic["dataset"]["source"]}}


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """What figures go to; a node that the user has set to null is left out."""
    return [build(node, f"logger.{name}") for name, node in (cfg.logger or {}).items() if node is not None]


def build_trainer(cfg: DictConfig, folder: Path, learning: bool = True) -> pl.Trainer:
    """Lightning's trainer, with loggers and callbacks if it is to train."""
    arguments: dict[str, Any] = {"logger": False, "callbacks": [], "enable_checkpointing": False}
    if learning:
        loggers = build_loggers(cfg)
        nodes = {name: node for name, node in (cfg.callbacks or {}).items() if node is not None}
        callbacks = {name: build(node, f"callbacks.{name}") for name, node in nodes.items()}
        if not loggers:
            callbacks.pop("learning_rate", None)  # it refuses to run without a logger
        if not cfg.trainer.enable_progress_bar:
            callbacks.pop("progress", None)  # Lightning refuses both
        arguments = {"logger": loggers or False, "callbacks": list(callbacks.values()), "plugins": [WholeCheckpoints()]}
    # Our batch samplers share views between ranks themselves, and their length differs from epoch to epoch.
    arguments |= {"use_distributed_sampler": False, "reload_dataloaders_every_n_epochs": 1}
    if why := unworkable(cfg.trainer):
        raise ConfigError(why)
    trainer = build(cfg.trainer, "trainer", default_root_dir=str(folder), **arguments)
    # With max_steps, Lightning takes every checkpoint to be from the middle of an epoch, and ends those of whole epochs
    # a second time when a run goes on: logs and epoch means would not be those of an uninterrupted run.
    trainer.fit_loop._iteration_based_training = lambda: False
    return trainer


def load_checkpoint(path: str | Path, prefer: str = "best") -> dict[str, Any]:
    """Reads one of our checkpoints; nothing but tensors and plain data is unpickled.

    Args:
        path: a file, or a run folder.
        prefer: ``best`` or ``last`` of a run folder.

    Raises:
        UserError: no such file, or no checkpoint of this package.
    """
    file = checkpoint_file(path, prefer)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{file}: cannot be read as a checkpoint: {_unreadable(error)}; give a run folder or its *.ckpt"
        ) from error
    if not _is_own(content):
        raise UserError(f"{file}: not a checkpoint of lightning-det (load other weights with train's weights=FILE)")
    return content


def _unreadable(error: Exception) -> str:
    """Why ``torch.load`` refused a file. Its own words advise to load all of it, which would run what is in it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is damaged, or holds more than tensors and plain data, which could run anything and is not loaded"


def _is_own(content: Any) -> bool:
    """Whether what a file holds is a checkpoint of this package."""
    saved = content.get("hyper_parameters") if isinstance(content, dict) else None
    return isinstance(saved, dict) and {"labels", "settings"} <= saved.keys() and "state_dict" in content


def checkpoint_file(path: str | Path, prefer: str = "best") -> Path:
    """The checkpoint that a file or run folder means; a run without a validation has no best, but a last one."""
    path = Path(path)
    files = [path / "checkpoints" / f"{name}.ckpt" for name in (prefer, "last")] if path.is_dir() else [path]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise UserError(f"{files[0]}: no such checkpoint")
    return file


def load_weights(module: DetectionModule, source: str) -> None:
    """Starts a module from trained weights.

    Args:
        module: gets the weights.
        source: one of our checkpoints, a file with torchvision's state_dict, or the name of torchvision weights such
            as ``FasterRCNN_ResNet50_FPN_Weights.COCO_V1``, which are downloaded.

    Raises:
        UserError: neither, or weights of another detector.
    """
    if not Path(source).exists():
        try:
            weights = torchvision.models.get_weight(source)
        except ValueError as error:
            raise ConfigError(f"weights={source}: no such file, and no weights of torchvision") from error
        with fetching(f"weights={source}", weights.url):
            content = weights.get_state_dict(progress=True, check_hash=True)
    else:
        try:
            content = torch.load(checkpoint_file(source, "best"), map_location="cpu", weights_only=True)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{source}: cannot be read as weights: {_unreadable(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{source}: not weights: neither one of our checkpoints nor a state_dict")
    try:
        if _is_own(content):
            labels = LabelMap.from_dict(content["hyper_parameters"]["labels"])
            outcome = module.load_own(content["state_dict"], labels)
        else:
            outcome = module.load_foreign(content)
    except ValueError as error:
        raise UserError(f"weights={source}: {error}") from error
    log.info("weights from %s: %s", source, outcome)
