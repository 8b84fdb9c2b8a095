"""Datasets in several folders: finds them, and joins their annotations."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import MENTION_LEFT_OUT, DatasetError, Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.annotations.strings import Strings
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import same_files

log = logging.getLogger("lightning_det")


def folders_of(root: Any) -> list[str]:
    """Lists the folders that ``dataset.root`` names: one, a pattern such as ``sites/*``, or a list of these.

    Raises:
        ConfigError: it is no text or list of texts, or a pattern matches no folder.
    """
    named = [root] if isinstance(root, str) else root
    if not isinstance(named, list) or not named or not all(isinstance(name, str) and name for name in named):
        raise ConfigError(
            f"dataset.root must be a folder, a pattern such as 'sites/*', or a list of these, got {root!r}"
        )
    found: list[str] = []
    for name in named:
        if not glob.has_magic(name) or os.path.exists(name):
            found.append(name)
            continue
        matching = sorted(path for path in glob.glob(name, recursive=True) if os.path.isdir(path))
        if not matching:
            raise ConfigError(f"dataset.root={name}: the pattern matches no folder")
        found += matching
    return list({os.path.realpath(name): name for name in found}.values())


def join(stores: Sequence[AnnotationStore], problems: list[Problem], classes: Sequence[str] | None) -> AnnotationStore:
    """Joins the annotations of several folders; classes are matched by their names.

    Image ids that several folders have get the name of their folder. A file that several folders hold is left out of
    all but the first, which is added to the problems.

    Args:
        stores: one per folder.
        problems: changed in place.
        classes: of the joined dataset; None: those of the first folder, which the others must have too.

    Raises:
        DatasetError: the folders have different classes, and ``classes`` does not say which count.
    """
    if len(stores) == 1:
        return stores[0]
    labels = _common_labels(stores, classes)
    stores = _without_repeated(stores, problems)
    root = Path(os.path.commonpath([os.path.abspath(store.root) for store in stores]))
    files = [os.path.relpath(os.path.abspath(store.path(i)), root) for store in stores for i in range(len(store))]
    ids, integer = _unique_ids(stores, root)
    offsets = np.concatenate([[0], *(np.diff(store.offsets) for store in stores)]).cumsum().astype(np.int64)
    parts = [store.with_labels(labels) for store in stores]
    return AnnotationStore(
        root,
        Strings.pack(files),
        Strings.pack(ids),
        np.concatenate([s.widths for s in parts]),
        np.concatenate([s.heights for s in parts]),
        offsets,
        np.concatenate([s.boxes for s in parts]),
        np.concatenate([s.labels for s in parts]),
        np.concatenate([s.ignored for s in parts]),
        np.concatenate([s.areas for s in parts]),
        parts[0].label_map,
        integer,
    )


def _common_labels(stores: Sequence[AnnotationStore], classes: Sequence[str] | None) -> LabelMap:
    """The classes of the first folder, followed by further ones if ``classes`` says which count."""
    first = stores[0].label_map
    for store in stores:
        if absent := [name for name in classes or () if name not in store.label_map.names]:
            log.warning("dataset.root: %s has no class %s", store.root, ", ".join(absent))
    names = list(dict.fromkeys(name for store in stores for name in store.label_map.names))
    for store in stores[1:] if classes is None else ():
        difference = first.difference(store.label_map)
        if set(first.names) != set(store.label_map.names):
            raise DatasetError(
                f"dataset.root: {store.root} {difference}, compared with {stores[0].root}. Objects that one folder "
                f"leaves unlabelled would be learned as background; say which classes count with dataset.classes="
                f"[{','.join(names[:5])}{',...' * (len(names) > 5)}]"
            )
        if difference:
            log.info("dataset.root: %s has %s; classes are matched by their names", store.root, difference)
    return LabelMap(names)


def _without_repeated(stores: Sequence[AnnotationStore], problems: list[Problem]) -> list[AnnotationStore]:
    """Removes images whose file another folder holds too."""
    paths = [store.path(i) for store in stores for i in range(len(store))]
    repeated = same_files(paths)
    for number, before in repeated.items():
        problems.append(Problem(str(paths[number]), "", f"its file is {paths[before]} too", MENTION_LEFT_OUT))
    starts = np.cumsum([0, *map(len, stores)])
    kept = [
        np.array([i for i in range(len(store)) if int(start) + i not in repeated], np.int64)
        for store, start in zip(stores, starts, strict=False)
    ]
    return [store.select(images) for store, images in zip(stores, kept, strict=True)]


def _unique_ids(stores: Sequence[AnnotationStore], root: Path) -> tuple[list[str], bool]:
    """Ids of all images, and whether they are numbers."""
    ids = [store.ids[i] for store in stores for i in range(len(store))]
    twice = sum(count - 1 for count in Counter(ids).values())
    if not twice:
        return ids, all(store.integer_ids for store in stores)
    log.info("dataset.root: %d image ids occur in several folders; each id gets the name of its folder", twice)
    names = [Path(os.path.relpath(os.path.abspath(store.root), root)).as_posix() for store in stores]
    named = [f"{name}/{store.ids[i]}" for name, store in zip(names, stores, strict=True) for i in range(len(store))]
    return named, False
