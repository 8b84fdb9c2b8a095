"""A subset of a dataset's classes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lightning_det.annotations.labels import ANY_CLASS, LabelMap
from lightning_det.annotations.problems import DatasetError
from lightning_det.annotations.store import AnnotationStore

Others = Literal["background", "ignore"]
"""How boxes of the other classes are treated."""


def choose_classes(store: AnnotationStore, names: Sequence[str], others: Others) -> AnnotationStore:
    """Keeps the boxes of some classes, which are numbered in the given order.

    Args:
        store: annotations.
        names: of the classes; those that the store does not have get no boxes.
        others: whether boxes of the other classes are removed, so that they are background, or become ignored regions
            of `ANY_CLASS`.

    Raises:
        DatasetError: the store has none of the classes.
    """
    ids = dict(zip(store.label_map.names, store.label_map.source_ids, strict=True))
    if not any(name in ids for name in names):
        raise DatasetError(f"dataset.classes: none of {', '.join(names)}; there are {_list(store.label_map)}")
    numbers = np.array([names.index(n) if n in names else ANY_CLASS for n in store.label_map.names], np.int32)
    labels = np.where(store.labels < 0, ANY_CLASS, numbers[store.labels]).astype(np.int32)
    other = (labels == ANY_CLASS) & (store.labels >= 0)
    counts = np.bincount(store.labels[other], minlength=len(store.label_map)).tolist()
    spare = max(ids.values()) + 1
    label_map = LabelMap(names, [ids.get(name, spare + number) for number, name in enumerate(names)])
    chosen = replace(
        store,
        labels=labels,
        ignored=store.ignored | other,
        label_map=label_map,
        other_classes={name: count for name, count in zip(store.label_map.names, counts, strict=True) if count},
    )
    return chosen if others == "ignore" else chosen.select_boxes(~other)


def check_classes(names: Sequence[str], known: LabelMap) -> None:
    """Refuses names that a dataset does not have.

    Raises:
        DatasetError: naming the valid ones.
    """
    if unknown := [name for name in names if name not in known.names]:
        raise DatasetError(f"dataset.classes: no class {', '.join(unknown)}; there are {_list(known)}")


def _list(labels: LabelMap, most: int = 20) -> str:
    shown = labels.printable_names
    return ", ".join(shown[:most]) + f" and {len(shown) - most} more" * (len(shown) > most)
