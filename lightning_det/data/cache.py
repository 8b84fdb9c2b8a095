"""Caches parsed annotations on disk: COCO's json takes a minute to parse, but its arrays load in a moment."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_det import __version__
from lightning_det.annotations.arrays import load_arrays, pack_json, save_arrays, unpack_json
from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import Problem
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.strings import Strings

log = logging.getLogger("lightning_det")

VERSION = f"3 {__version__}"
"""Changes with the format of the arrays or the rules by which records are read."""

SMALLEST = 20 * 2**20
"""Minimum size, in bytes, of an annotation file whose arrays are cached."""

ARRAYS = {
    "widths": np.int64,
    "heights": np.int64,
    "image_of_box": np.int64,
    "boxes": np.float64,
    "labels": np.int32,
    "ignored": np.bool_,
    "areas": np.float64,
}

Annotations = tuple[RawAnnotations, Sequence[int | str]]
"""Content of an annotation file, and the id of the record of every box."""


def cache_folder() -> Path:
    """``$LIGHTNING_DET_CACHE``, or ``lightning_det`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LIGHTNING_DET_CACHE") or Path(base) / "lightning_det")


def load_cached(key: str) -> dict[str, np.ndarray] | None:
    """Loads the arrays of a key; None if there are none, or if they cannot be read."""
    try:
        return load_arrays(cache_folder() / f"{key}.npz")
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged cache costs time and nothing else
        log.warning("the cache cannot be read (%s); reading anew", error)
        return None


def save_cached(key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Saves arrays under a key, atomically; a cache that cannot be written is logged."""
    try:
        save_arrays(cache_folder() / f"{key}.npz", arrays)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        log.warning("not kept in the cache (%s); LIGHTNING_DET_CACHE says where it is", error)


def cache_key(*identity: object) -> str:
    """Makes the key of arrays that depend on nothing but ``identity``."""
    return hashlib.sha256(repr((VERSION, *identity)).encode()).hexdigest()[:24]


def read_cached(file: Path, root: Path, read: Callable[[], Annotations]) -> Annotations:
    """Reads annotations, from the cache if a file of the same content was read before.

    The state of the images is not cached: they may be repaired or damaged while the annotations stay the same.

    Args:
        file: the annotation file.
        root: folder of the images.
        read: parses the file.
    """
    try:
        if file.stat().st_size < SMALLEST:
            return read()
        with file.open("rb") as stream:
            key = cache_key(hashlib.file_digest(stream, "sha256").hexdigest(), str(file), str(root))
    except OSError:
        return read()  # raises the error with a message
    arrays = load_cached(key)
    if arrays is not None:
        try:
            return unpack(arrays, root)
        except Exception as error:
            log.warning("the cache of %s is damaged (%s); reading it anew", file, error)
    annotations = read()
    save_cached(key, pack(annotations))
    return annotations


def pack(annotations: Annotations) -> dict[str, np.ndarray]:
    """Annotations as arrays."""
    raw, records = annotations
    rest = {"label_map": raw.label_map.to_dict(), "problems": [p.to_dict() for p in raw.problems]}
    arrays = {name: getattr(raw, name).astype(kind) for name, kind in ARRAYS.items()}
    arrays |= Strings.pack(raw.files).to_arrays("files") | _pack_ids(raw.ids, "ids")
    return arrays | _pack_ids(records, "records") | {"rest": pack_json(rest)}


def unpack(arrays: Mapping[str, np.ndarray], root: Path) -> Annotations:
    """Undoes `pack`; nothing is unpickled.

    Raises:
        KeyError: an array is missing.
        ValueError: the arrays do not fit each other.
    """
    rest = unpack_json(arrays["rest"])
    raw = RawAnnotations(
        root=root,
        files=list(Strings.from_arrays(arrays, "files")),
        ids=_unpack_ids(arrays, "ids"),
        label_map=LabelMap.from_dict(rest["label_map"]),
        problems=[Problem(**p) for p in rest["problems"]],
        **{name: arrays[name] for name in ARRAYS},
    )
    records = _unpack_ids(arrays, "records")
    images, boxes = len(raw.files), len(records)
    shapes = {"widths": (images,), "heights": (images,), "boxes": (boxes, 4)}
    if any(arrays[n].shape != shapes.get(n, (boxes,)) or arrays[n].dtype != kind for n, kind in ARRAYS.items()):
        raise ValueError("arrays of other shapes")
    inside = [(raw.image_of_box, images), (raw.labels, len(raw.label_map))]
    if len(raw.ids) != images or any(((values < 0) | (values >= count)).any() for values, count in inside):
        raise ValueError("arrays that do not fit each other")
    return raw, records


def _pack_ids(ids: Sequence[int | str], name: str) -> dict[str, np.ndarray]:
    if all(isinstance(i, int) for i in ids):
        return {name: np.array(ids, np.int64)}
    return Strings.pack([str(i) for i in ids]).to_arrays(name)


def _unpack_ids(arrays: Mapping[str, np.ndarray], name: str) -> Sequence[int | str]:
    return arrays[name].tolist() if name in arrays else list(Strings.from_arrays(arrays, name))
