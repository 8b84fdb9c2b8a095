"""The splits that a training reads."""

import logging
import os

from omegaconf import DictConfig

from lightning_det.annotations import AnnotationStore, DatasetError
from lightning_det.config.data import usable_split
from lightning_det.data.splits import match_classes, nothing_to_learn

log = logging.getLogger("lightning_det")


def read_training_splits(cfg: DictConfig) -> dict[str, AnnotationStore]:
    """Annotations of ``dataset.train`` and ``dataset.val``, by ``train`` and ``val``.

    Classes of the validation split are numbered as those of the training split.

    Raises:
        DatasetError: the splits have different classes, or the training split has no box to learn from.
    """
    limits = {"train": cfg.dataset.limit, "val": cfg.dataset.limit_val}
    stores = {which: usable_split(cfg, which, limit) for which, limit in limits.items()}
    stores["val"] = match_classes(stores["val"], stores["train"].label_map)
    if stores["train"].ignored.all():
        few = "" if cfg.dataset.limit is None else f", of which dataset.limit={cfg.dataset.limit} images are kept,"
        raise DatasetError(f"dataset.train ({cfg.dataset.train}){few} has {nothing_to_learn(stores['train'])}")
    if common := _common_images(*stores.values()):
        log.warning(
            "dataset.val: %d of its %d images are images of dataset.train too, so its figures are not those of unseen "
            "images; dataset.val=null dataset.holdout=0.2 keeps images for it out of the training",
            *(common, len(stores["val"])),
        )
    for which, store in stores.items():
        log.info("%s: %d images, %d boxes, %d classes", which, len(store), store.num_boxes, len(store.label_map))
        if store.ignored.any():
            log.info("%s: %d of the boxes are regions without loss (crowd or difficult)", which, store.ignored.sum())
    return stores


def _common_images(train: AnnotationStore, val: AnnotationStore) -> int:
    """Counts the files of the validation split that the training split has too."""
    files = {os.path.abspath(train.path(image)) for image in range(len(train))}
    return sum(os.path.abspath(val.path(image)) in files for image in range(len(val)))
