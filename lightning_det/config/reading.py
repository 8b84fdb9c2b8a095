"""Reads a split from all folders of a dataset, and keeps the classes and images that its settings name."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_det.annotations import AnnotationStore, NoSplitError, Problem
from lightning_det.config.build import build
from lightning_det.data.classes import check_classes, choose_classes
from lightning_det.data.folders import folders_of, join
from lightning_det.data.holdout import held_out
from lightning_det.data.splits import respelt
from lightning_det.system.errors import one_line

log = logging.getLogger("lightning_det")

HOLD_OUT = "dataset.holdout=0.2 holds out a fifth of the training images for validation"

SHOWN = 5
"""Number of classes that a line names."""


def read_folders(dataset: DictConfig, split: Any) -> tuple[AnnotationStore, list[Problem]]:
    """Reads a split from the folders of ``dataset.root``, joined to one.

    Args:
        dataset: the node ``dataset``.
        split: as the reader takes it.

    Raises:
        DatasetError: the annotations cannot be read at all, or the folders have different classes.
    """
    split, root = (OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for v in (split, dataset.root))
    if isinstance(root, str) and folders_of(root) == [root]:
        return build(dataset.source, "dataset.source").read(split)
    stores, problems = [], []
    absent: list[NoSplitError] = []
    for folder in folders_of(root):
        try:
            store, found = build(dataset.source, "dataset.source", root=folder).read(split)
        except NoSplitError as error:
            absent.append(error)
            continue
        stores.append(store)
        problems += found
    if not stores:
        raise absent[0]
    for reason in absent:
        log.info("dataset.root: %s", reason)
    return join(stores, problems, dataset.classes), problems


def choose(dataset: DictConfig, store: AnnotationStore, which: str) -> AnnotationStore:
    """Keeps the classes of ``dataset.classes``, and logs what becomes of the others.

    Raises:
        DatasetError: the training split does not have one of the classes.
    """
    if which == "train":
        check_classes(dataset.classes, store.label_map)
    elif missing := [name for name in dataset.classes if name not in store.label_map.names]:
        names = ", ".join(map(one_line, missing))
        log.warning("%s: it has no class %s of dataset.classes, which does not count in its figures", which, names)
    if similar := respelt(dataset.classes, store.label_map):
        names = ", ".join(map(ascii, similar))
        log.warning("%s: dataset.classes leaves out %s; are these other classes, or misspelt?", which, names)
    others = str(dataset.other_classes).split(".")[-1]
    chosen = choose_classes(store, list(dataset.classes), "ignore" if others == "ignore" else "background")
    counts = sorted(chosen.other_classes.items(), key=lambda pair: -pair[1])
    if counts:
        names = ", ".join(f"{one_line(name)} {count}" for name, count in counts[:SHOWN])
        log.info(
            "%s: %d boxes of %d other classes are %s (%s)",
            which,
            sum(chosen.other_classes.values()),
            len(counts),
            "ignored regions" if others == "ignore" else "background",
            names + ", ..." * (len(counts) > SHOWN),
        )
    return chosen


def hold_out(store: AnnotationStore, share: float, which: str) -> AnnotationStore:
    """The part of the training images that is for ``which``, ``train`` or ``val``."""
    held = held_out(store, share)
    if which == "val":
        log.info("val: %d of %d images are held out (dataset.holdout=%g)", held.sum(), len(store), share)
    return store.select((held if which == "val" else ~held).nonzero()[0])
