"""Holds out a share of the training images for validation, where a dataset has no split for it."""

import hashlib
from collections import defaultdict
from pathlib import PurePath

import numpy as np

from lightning_det.annotations.problems import DatasetError
from lightning_det.annotations.store import AnnotationStore

DEFAULT = 0.2
"""Share that is held out of a recognised dataset without a validation split."""

COPIES = ".rf."
"""In file names of Roboflow, between the name of an image and the number of one of its augmented copies."""


def held_out(store: AnnotationStore, share: float) -> np.ndarray:
    """Decides which images are held out: (n,) bool.

    The choice depends on the names of the files and on nothing else: it is the same in every run and for every seed,
    and an image that is added later moves few others. Augmented copies of an image stay together.

    Args:
        store: all images.
        share: of the images, above 0 and below 1; at least one image is held out, and at least one is not.

    Raises:
        DatasetError: there are fewer than two different images.
    """
    images = defaultdict(list)
    for number in range(len(store)):
        images[PurePath(store.files[number]).with_suffix("").as_posix().split(COPIES)[0]].append(number)
    if len(images) < 2:
        raise DatasetError(
            f"dataset.holdout={share:g}: {len(images)} images cannot be divided; give a validation split"
        )
    ordered = sorted(images, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    chosen = np.zeros(len(store), bool)
    for name in ordered[:-1]:
        if chosen.any() and chosen.sum() + len(images[name]) / 2 > share * len(store):
            break
        chosen[images[name]] = True
    return chosen
