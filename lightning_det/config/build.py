"""From a configuration to objects."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torchvision
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap, Problem
from lightning_det.annotations.labels import check_names
from lightning_det.annotations.problems import refuse, summary
from lightning_det.backbones.pretrained import fetching
from lightning_det.callbacks import AtomicCheckpointIO, KeepSettings, LastCheckpoint
from lightning_det.checkpoint import checkpoint_file, is_own, keep_references, read_checkpoint, read_weights
from lightning_det.config import ConfigError, resolved
from lightning_det.config.signatures import locate, parameters
from lightning_det.data.datamodule import ViewData
from lightning_det.data.splits import alike
from lightning_det.modules.module import DetectionModule, Inference
from lightning_det.system.errors import UserError, out_of_memory
from lightning_det.system.refusals import name_keys, trainer_problem
from lightning_det.views import Planner, Pyramid
from lightning_det.views.pyramid import scale_factor

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
        if error.__cause__ is not None and out_of_memory(error.__cause__):
            raise error.__cause__ from None
        raise ConfigError(f"{key}: {error.__cause__ or error}") from error
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        words = name_keys(str(error)) if key == "trainer" else f"{key}: {error}"
        raise ConfigError(words) from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError) as error:  # settings that nothing has foreseen
        if out_of_memory(error):
            raise
        raise ConfigError(f"{key}: these settings do not work ({type(error).__name__}: {error})") from error


def read_split(cfg: DictConfig, which: str) -> tuple[AnnotationStore, list[Problem]]:
    """Annotations of one of the dataset's splits, and what is wrong with them.

    Args:
        cfg: the whole configuration.
        which: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: the dataset has no such split, or no root.
        DatasetError: the annotations cannot be read at all, or have class names that no checkpoint holds.
    """
    dataset = cfg.dataset
    if which in ("train", "val") and dataset[which] is None and cfg.get("split") != which:
        raise ConfigError(f"dataset.{which}=null: it must name a split of the dataset")
    if which not in ("train", "val", "test") or dataset[which] is None:
        there = ", ".join(s for s in ("train", "val", "test") if dataset[s] is not None)
        raise ConfigError(f"split must be one of this dataset's {there}, got {which!r}")
    split = OmegaConf.to_object(dataset[which]) if OmegaConf.is_config(dataset[which]) else dataset[which]
    store, problems = build(dataset.source, "dataset.source").read(split)
    try:
        check_names(store.label_map.names)
    except ValueError as error:
        raise DatasetError(f"dataset.{which} ({split}): {error}; rename it") from error
    return store, problems


def usable_split(cfg: DictConfig, which: str, limit: int | None = None) -> AnnotationStore:
    """Annotations of a split for training or evaluation: complete, or reduced as ``dataset.on_bad`` allows.

    Args:
        cfg: the whole configuration.
        which: ``train``, ``val`` or ``test``.
        limit: how many images to keep, the first ones; None for all.

    Raises:
        DatasetError: the split has problems that are not harmless and ``dataset.on_bad`` is ``error``, or it is empty.
    """
    store, problems = read_split(cfg, which)
    name = f"dataset.{which} ({cfg.dataset[which]})"
    if str(cfg.dataset.on_bad).split(".")[-1] == "error":
        refuse(problems, name)
    if problems:
        log.warning("%s: %s (python -m lightning_det.inspect lists them)", name, summary(problems))
    if alike(store.label_map):
        names = ", ".join(map(ascii, alike(store.label_map)))
        log.warning("%s: are these classes of their own, or is one of them misspelt? %s", name, names)
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


def check_order(planner: Planner, store: AnnotationStore, key: str) -> None:
    """Refuses resolutions that are no order from the finest to the coarsest on most of a dataset's images.

    On some images a factor may be coarser than all of the image in a chip: published settings are so on COCO's
    smallest. Ranges of sizes are of original pixels, so nothing is lost there.

    Args:
        planner: of a phase.
        store: whose images count.
        key: of the scales, for the message.

    Raises:
        ConfigError: with the factors of a median image.
    """
    scales = planner.scales
    if not isinstance(scales, Pyramid) or len(store) == 0:
        return
    wrong = scales.out_of_order(store.widths, store.heights)
    if 2 * sum(wrong) <= len(store):
        return
    numbers = np.flatnonzero(wrong)
    areas = store.widths[numbers].astype(float) * store.heights[numbers]
    number = int(numbers[np.argsort(areas, kind="stable")[(len(numbers) - 1) // 2]])
    width, height = int(store.widths[number]), int(store.heights[number])
    factors = ", ".join(f"{scale_factor(width, height, r):.3g}" for r in scales.resolutions)
    raise ConfigError(
        f"{key}: resolutions must be given from the finest to the coarsest, got {scales.resolutions}: in "
        f"{len(numbers)} of {len(store)} images they are not, such as in {store.files[number]} ({width} x {height}), "
        f"whose factors are {factors}"
    )


def build_data(
    cfg: DictConfig,
    train: AnnotationStore | None,
    val: AnnotationStore | None,
    frames: Callable[[int], Tensor] | None = None,
) -> ViewData:
    """The data module, with its planners; ``frames`` reads the images of ``val`` if they are no files."""
    planners = {f"{phase}_views": build_planner(cfg, phase) for phase in ("train", "test")}
    if train is not None:
        for phase in ("train", "test"):
            check_order(planners[f"{phase}_views"], train, f"views.{phase}.scales")
    return build(cfg.data, "data", train=train, val=val, seed=cfg.seed, frames=frames, **planners)


def own_priors(cfg: DictConfig) -> str:
    """The option that lets ``dataset.anchor_sizes`` take effect where a single-shot detector has sizes of its own."""
    return " detector.prior_sizes=null" if cfg.detector.get("prior_sizes") is not None else ""


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
    plain = resolved(cfg)
    symbolic = keep_references(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True), plain)
    kept = plain | {key: symbolic[key] for key in ("views", "test")}
    return kept | {"dataset": plain["dataset"] | {"source": symbolic["dataset"]["source"]}}


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
        # The last checkpoint holds what all others have come to.
        callbacks = sorted(
            [KeepSettings(), *callbacks.values()], key=lambda callback: isinstance(callback, LastCheckpoint)
        )
        arguments = {"logger": loggers or False, "callbacks": callbacks, "plugins": [AtomicCheckpointIO()]}
    # Our batch samplers share views between ranks themselves, and their length differs from epoch to epoch.
    arguments |= {"use_distributed_sampler": False, "reload_dataloaders_every_n_epochs": 1}
    if why := trainer_problem(cfg.trainer):
        raise ConfigError(why)
    trainer = build(cfg.trainer, "trainer", default_root_dir=str(folder), **arguments)
    # With max_steps, Lightning takes every checkpoint to be from the middle of an epoch, and ends those of whole epochs
    # a second time when a run goes on: logs and epoch means would not be those of an uninterrupted run.
    trainer.fit_loop._iteration_based_training = lambda: False
    return trainer


def load_checkpoint(path: str | Path, prefer: str = "best") -> dict[str, Any]:
    """Reads one of our checkpoints, see `read_checkpoint`.

    Args:
        path: a file, or a run folder.
        prefer: ``best`` or ``last`` of a run folder.

    Raises:
        UserError: no such file, or no checkpoint of this package.
    """
    return read_checkpoint(checkpoint_file(path, prefer))


def check_kinds(module: DetectionModule, weights: Mapping[str, Tensor]) -> None:
    """Refuses weights that a module would take and that mean nothing in it: whole numbers for real ones, or NaN.

    Raises:
        ValueError: naming a tensor.
    """
    mine = module.state_dict()
    for name, tensor in weights.items():
        if name in mine and tensor.is_floating_point() != mine[name].is_floating_point():
            raise ValueError(f"{name} holds {tensor.dtype}, not {mine[name].dtype}")
    if broken := not_finite(weights):
        raise ValueError(f"{broken} holds values that are no numbers")


def not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Name of a tensor with values that are NaN or infinite."""
    return next((n for n, t in weights.items() if t.is_floating_point() and not t.isfinite().all()), None)


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
        content = read_weights(checkpoint_file(source, "best"))
    try:
        if is_own(content):
            labels = LabelMap.from_dict(content["hyper_parameters"]["labels"])
            check_kinds(module, content["state_dict"])
            outcome = module.load_own(content["state_dict"], labels)
        else:
            outcome = module.load_foreign(content)
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise UserError(f"weights={source}: {error or type(error).__name__}") from error
    if broken := not_finite(module.state_dict()):
        raise UserError(f"weights={source}: {broken} holds values that are no numbers; take other weights")
    log.info("weights from %s: %s", source, outcome)
