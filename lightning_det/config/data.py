"""Builds annotations, planners and the data module from a configuration."""

import logging
from collections.abc import Callable

import numpy as np
from omegaconf import DictConfig

from lightning_det.annotations import AnnotationStore, DatasetError, NoSplitError, Problem
from lightning_det.annotations.labels import check_names
from lightning_det.annotations.problems import refuse, summary
from lightning_det.config.build import build
from lightning_det.config.reading import HOLD_OUT, choose, hold_out, read_folders
from lightning_det.data.datamodule import ViewData
from lightning_det.data.splits import find_misspelt
from lightning_det.data.windows import Pixels
from lightning_det.system.errors import ConfigError
from lightning_det.views import Planner
from lightning_det.views.resolution import scale_factor

log = logging.getLogger("lightning_det")


def read_split(cfg: DictConfig, which: str) -> tuple[AnnotationStore, list[Problem]]:
    """Reads the annotations of one of the dataset's splits, and their problems.

    Args:
        cfg: the whole configuration.
        which: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: the dataset has no such split, or no root.
        DatasetError: the annotations cannot be read at all, or have class names that cannot be saved in a checkpoint.
    """
    dataset = cfg.dataset
    divided = dataset.holdout is not None and which in ("train", "val")
    named = "train" if divided else which
    if named in ("train", "val") and dataset[named] is None and cfg.get("split") != named:
        words = f"; {HOLD_OUT}" if named == "val" else ""
        raise ConfigError(f"dataset.{named}=null: it must name a split of the dataset{words}")
    if named not in ("train", "val", "test") or dataset[named] is None:
        there = ", ".join(s for s in ("train", "val", "test") if dataset[s] is not None)
        raise ConfigError(f"split must be one of this dataset's {there}, got {which!r}")
    try:
        store, problems = read_folders(dataset, dataset[named])
    except NoSplitError as error:
        raise NoSplitError(f"{error}; {HOLD_OUT}" if named == "val" else str(error)) from error
    try:
        check_names(store.label_map.names)
    except ValueError as error:
        raise DatasetError(f"dataset.{named} ({dataset[named]}): {error}; rename it") from error
    if divided and len(store):  # without images, their problems are the reason
        store = hold_out(store, dataset.holdout, which)
    return store if dataset.classes is None else choose(dataset, store, which), problems


def usable_split(cfg: DictConfig, which: str, limit: int | None = None) -> AnnotationStore:
    """Reads a split for training or evaluation, without bad records if ``dataset.on_bad`` allows it.

    Args:
        cfg: the whole configuration.
        which: ``train``, ``val`` or ``test``.
        limit: number of images to keep, from the first on; None for all.

    Raises:
        DatasetError: the split has problems that are not harmless and ``dataset.on_bad`` is ``error``, or it is empty.
    """
    store, problems = read_split(cfg, which)
    name = split_name(cfg, which)
    if str(cfg.dataset.on_bad).split(".")[-1] == "error":
        refuse(problems, name)
    if problems:
        log.warning("%s: %s (lightning-det inspect lists them)", name, summary(problems))
    if find_misspelt(store.label_map):
        names = ", ".join(map(ascii, find_misspelt(store.label_map)))
        log.warning("%s: are these classes of their own, or is one of them misspelt? %s", name, names)
    if len(store) == 0:
        raise DatasetError(f"{name} has no image; dataset.root and dataset.{which} say where images are looked for")
    return keep_first(store, limit)


def split_name(cfg: DictConfig, which: str) -> str:
    """Names a split by its key, for messages."""
    held = which == "val" and cfg.dataset.holdout is not None
    return f"dataset.holdout ({cfg.dataset.holdout})" if held else f"dataset.{which} ({cfg.dataset[which]})"


def keep_first(store: AnnotationStore, limit: int | None) -> AnnotationStore:
    """Keeps the first ``limit`` images of a store; None keeps all."""
    return store if limit is None else store.select(np.arange(min(len(store), limit)))


def build_planner(cfg: DictConfig, phase: str) -> Planner:
    """Builds the planner of ``views.train`` or ``views.test``.

    Raises:
        ConfigError: a step refuses its settings, steps do not fit each other, or inference would draw at random.
    """
    steps = {name: build(node, f"views.{phase}.{name}") for name, node in cfg.views[phase].items()}
    try:
        planner = Planner(**steps)
    except ValueError as error:
        raise ConfigError(f"views.{phase}: {error}") from error
    if phase == "test" and planner.scales.draws_one:
        raise ConfigError("views.test.scales.draw=one is for training; inference looks at all resolutions: draw=all")
    return planner


def check_order(planner: Planner, store: AnnotationStore, key: str) -> None:
    """Refuses resolutions that are not ordered from the finest to the coarsest in most images of a dataset.

    A few images may have another order: with the published settings, COCO's smallest images do. Ranges of sizes refer
    to original pixels, so nothing is lost there.

    Args:
        planner: planner of training or inference.
        store: has the images.
        key: key of the scales, for the message.

    Raises:
        ConfigError: most images have another order; the message shows the factors of a median image.
    """
    scales = planner.scales
    wrong = scales.out_of_order(store.widths.tolist(), store.heights.tolist())
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
    frames: Callable[[int], Pixels] | None = None,
) -> ViewData:
    """Builds the data module with its planners.

    Args:
        cfg: the whole configuration.
        train: images to learn from; None if nothing is trained.
        val: images to validate, evaluate or predict.
        frames: reads image number ``n`` of ``val``, (3, H, W) uint8, if images are not files.

    Raises:
        ConfigError: a planner refuses its settings, or they do not fit the images.
    """
    planners = {f"{phase}_views": build_planner(cfg, phase) for phase in ("train", "test")}
    if train is not None:
        for phase in ("train", "test"):
            check_order(planners[f"{phase}_views"], train, f"views.{phase}.scales")
    return build(cfg.data, "data", train=train, val=val, seed=cfg.seed, frames=frames, **planners)
