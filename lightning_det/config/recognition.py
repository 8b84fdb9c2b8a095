"""Recognises the layout of the dataset's folders, and writes what was found into the configuration."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_det.annotations import DatasetError
from lightning_det.data.folders import folders_of
from lightning_det.data.holdout import DEFAULT
from lightning_det.data.layouts import recognise

log = logging.getLogger("lightning_det")

ANY = "lightning_det.data.any_format.AnyFormat"
"""Target of ``dataset.source`` for a layout that is recognised."""

FORMATS = {
    "lightning_det.data.coco.Coco": "coco",
    "lightning_det.data.voc.Voc": "voc",
    "lightning_det.data.yolo.Yolo": "yolo",
    "lightning_det.data.shapes.Shapes": "shapes",
    ANY: "any",
}
"""Formats of this package's readers."""

SPLITS = {"train": "train", "val": "val", "test": "test", "holdout": None}
"""Splits of a recognised dataset, before it is looked at."""


def recognise_dataset(cfg: DictConfig) -> DictConfig:
    """Recognises the layout of a dataset whose format is left open, and logs it.

    The format is written into ``dataset.source.format``, so that the run's record has it. Where no folder has a
    validation split, a share of the training images is held out.

    Raises:
        DatasetError: no layout fits, or several do.
    """
    if OmegaConf.select(cfg, "dataset.source._target_") != ANY:
        return cfg
    cfg = cfg.copy()
    dataset = cfg.dataset
    root: Any = OmegaConf.to_object(dataset.root) if OmegaConf.is_config(dataset.root) else dataset.root
    given = dataset.source.format
    wanted = [given] if isinstance(given, str) else list(given or ())
    layouts = {folder: recognise(Path(folder), wanted) for folder in folders_of(root)}
    for folder, layout in layouts.items():
        log.info("dataset.root=%s: layout of %s, with %s", folder, layout, ", ".join(layout.splits) or "no split")
    formats = list(dict.fromkeys(layout.format for layout in layouts.values()))
    dataset.source.format = formats[0] if len(formats) == 1 else formats
    kinds = {kind for layout in layouts.values() for kind in layout.splits}
    if "val" not in kinds and dataset.val == SPLITS["val"] and dataset.holdout is None:
        dataset.val, dataset.holdout = None, DEFAULT
        log.info("no validation split, so dataset.holdout=%g of the training images are held out for it", DEFAULT)
    if "test" not in kinds and dataset.test == SPLITS["test"]:
        dataset.test = None
    return cfg


def recognise_other_root(cfg: DictConfig, overridden: Iterable[str]) -> DictConfig:
    """Recognises the layout where a checkpoint is evaluated on another folder than it was trained on.

    The settings of the checkpoint stay if the folder has the layout that it was trained on.

    Args:
        cfg: settings of the checkpoint, and of the user.
        overridden: dotted keys and groups that the user set.

    Raises:
        DatasetError: the checkpoint leaves the format open, and no layout fits or several do.
    """
    keys = list(overridden)
    own = FORMATS.get(str(OmegaConf.select(cfg, "dataset.source._target_")))
    if "dataset" in keys:
        return recognise_dataset(cfg)
    if own is None or "dataset.root" not in keys or any(key.startswith("dataset.source") for key in keys):
        return cfg
    if own != "any":
        try:
            found = {recognise(Path(folder)).format for folder in folders_of(cfg.dataset.root)}
        except DatasetError:
            return cfg  # the reader says what it misses
        if found == {own}:
            return cfg
    cfg = cfg.copy()
    cfg.dataset.source = {"_target_": ANY, "root": "${dataset.root}", "format": None}
    for key, value in SPLITS.items():
        if f"dataset.{key}" not in keys:
            cfg.dataset[key] = value
    return recognise_dataset(cfg)
