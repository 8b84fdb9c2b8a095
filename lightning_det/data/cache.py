"""What was read before, on disk: COCO's json takes a minute to parse, its arrays a moment to load."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_det import __version__
from lightning_det.annotations.arrays import decode_json, encode_json, load_arrays, save_arrays
from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import Problem
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.strings import Strings

log = logging.getLogger("lightning_det")

VERSION = f"3 {__version__}"
"""Changes with the format of the arrays or the rules by which records are read."""

SMALLEST = 20 * 2**20
"""Bytes of an annotation file from which on its arrays are kept."""

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
"""What an annotation file says, and the id of the record of every box."""


def cache_folder() -> Path:
    """``$LIGHTNING_DET_CACHE``, or ``lightning_det`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LIGHTNING_DET_CACHE") or Path(base) / "lightning_det")


def kept(name: str) -> dict[str, np.ndarray] | None:
    """Arrays that are kept under a name; None where there are none, or none that can be read."""
    try:
        return load_arrays(cache_folder() / f"{name}.npz")
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged cache costs time, no more
        log.warning("the cache cannot be read (%s); reading anew", error)
        return None


def keep(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps arrays under a name, whole or not at all."""
    try:
        save_arrays(cache_folder() / f"{name}.npz", arrays)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        log.warning("not kept in the cache (%s); LIGHTNING_DET_CACHE says where it is", error)


def named(*identity: object) -> str:
    """A name that follows from what a thing is made of."""
    return hashlib.sha256(repr((VERSION, *identity)).encode()).hexdigest()[:24]


def cached(file: Path, root: Path, read: Callable[[], Annotations]) -> Annotations:
    """Reads annotations, from the cache where a file of this very content was read before.

    What the images are like is no part of it: they may be mended, or damaged, while the annotations stay as they are.

    Args:
        file: of the annotations.
        root: folder of the images.
        read: parses the file.
    """
    try:
        if file.stat().st_size < SMALLEST:
            return read()
        with file.open("rb") as stream:
            name = named(hashlib.file_digest(stream, "sha256").hexdigest(), str(file), str(root))
    except OSError:
        return read()  # which says what is wrong with the file
    arrays = kept(name)
    if arrays is not None:
        try:
            return unpacked(arrays, root)
        except Exception as error:
            log.warning("the cache of %s is damaged (%s); reading it anew", file, error)
    annotations = read()
    keep(name, packed(annotations))
    return annotations


def packed(annotations: Annotations) -> dict[str, np.ndarray]:
    """Annotations as arrays."""
    raw, records = annotations
    rest = {"label_map": raw.label_map.to_dict(), "problems": [p.to_dict() for p in raw.problems]}
    arrays = {name: getattr(raw, name).astype(kind) for name, kind in ARRAYS.items()}
    arrays |= Strings.pack(raw.files).to_arrays("files") | _packed_ids(raw.ids, "ids")
    return arrays | _packed_ids(records, "records") | {"rest": encode_json(rest)}


def unpacked(arrays: Mapping[str, np.ndarray], root: Path) -> Annotations:
    """Undoes `packed`; nothing is unpickled.

    Raises:
        KeyError, ValueError: the arrays are something else.
    """
    rest = decode_json(arrays["rest"])
    raw = RawAnnotations(
        root=root,
        files=list(Strings.from_arrays(arrays, "files")),
        ids=_unpacked_ids(arrays, "ids"),
        label_map=LabelMap.from_dict(rest["label_map"]),
        problems=[Problem(**p) for p in rest["problems"]],
        **{name: arrays[name] for name in ARRAYS},
    )
    records = _unpacked_ids(arrays, "records")
    images, boxes = len(raw.files), len(records)
    shapes = {"widths": (images,), "heights": (images,), "boxes": (boxes, 4)}
    if any(arrays[n].shape != shapes.get(n, (boxes,)) or arrays[n].dtype != kind for n, kind in ARRAYS.items()):
        raise ValueError("arrays of other shapes")
    inside = [(raw.image_of_box, images), (raw.labels, len(raw.label_map))]
    if len(raw.ids) != images or any(((values < 0) | (values >= count)).any() for values, count in inside):
        raise ValueError("arrays that do not go together")
    return raw, records


def _packed_ids(ids: Sequence[int | str], name: str) -> dict[str, np.ndarray]:
    if all(isinstance(i, int) for i in ids):
        return {name: np.array(ids, np.int64)}
    return Strings.pack([str(i) for i in ids]).to_arrays(name)


def _unpacked_ids(arrays: Mapping[str, np.ndarray], name: str) -> list[int] | list[str]:
    return arrays[name].tolist() if name in arrays else list(Strings.from_arrays(arrays, name))
