"""Parsed annotations on disk: COCO's json takes a minute to parse, its arrays a moment to load."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from lightning_det.annotations.arrays import from_plain, load_arrays, save_arrays, to_plain
from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import Problem
from lightning_det.annotations.store import AnnotationStore, Strings

log = logging.getLogger("lightning_det")

VERSION = 3
"""Changes with the format of the arrays or the rules by which annotations are judged."""

SMALLEST = 20 * 2**20
"""Bytes of an annotation file from which on its arrays are kept."""

ARRAYS = ("widths", "heights", "offsets", "boxes", "labels", "ignored", "areas")

Read = Callable[[], tuple[AnnotationStore, list[Problem]]]


def cache_folder() -> Path:
    """``$LIGHTNING_DET_CACHE``, or ``lightning_det`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LIGHTNING_DET_CACHE") or Path(base) / "lightning_det")


def cached(annotations: Path, root: Path, read: Read) -> tuple[AnnotationStore, list[Problem]]:
    """Reads annotations, from the cache where this very file was read before.

    Args:
        annotations: the annotation file; its path, size and time of change are its identity.
        root: folder of the images.
        read: parses the file.
    """
    status = annotations.stat()
    if status.st_size < SMALLEST:
        return read()
    identity = f"{VERSION} {annotations.resolve()} {root.resolve()} {status.st_size} {status.st_mtime_ns}"
    file = cache_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npz"
    if file.exists():
        try:
            return load(file, root)
        except Exception as error:  # a damaged cache costs time, no more
            log.warning("%s: cannot be read (%s); reading %s anew", file, error, annotations)
    store, problems = read()
    try:
        save(file, store, problems)
    except OSError as error:
        log.warning("%s: not kept (%s)", file, error.strerror)
    return store, problems


def save(file: Path, store: AnnotationStore, problems: list[Problem]) -> None:
    """Writes a store and its problems, whole or not at all."""
    rest = {
        "label_map": store.label_map.to_dict(),
        "integer_ids": store.integer_ids,
        "problems": [p.to_dict() for p in problems],
    }
    arrays = {name: getattr(store, name) for name in ARRAYS}
    arrays |= store.files.to_arrays("files") | store.ids.to_arrays("ids") | {"rest": from_plain(rest)}
    save_arrays(file, arrays)


def load(file: Path, root: Path) -> tuple[AnnotationStore, list[Problem]]:
    """Reads what `save` wrote; nothing is unpickled."""
    data = load_arrays(file)
    rest = to_plain(data["rest"])
    store = AnnotationStore(
        root=root,
        files=Strings.from_arrays(data, "files"),
        ids=Strings.from_arrays(data, "ids"),
        label_map=LabelMap.from_dict(rest["label_map"]),
        integer_ids=rest["integer_ids"],
        **{name: data[name] for name in ARRAYS},
    )
    return store, [Problem(**p) for p in rest["problems"]]
