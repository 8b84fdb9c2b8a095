"""Files of proposals: the regions that a proposal network found in each image.

A file is an uncompressed ``.npz`` that holds no pickled object:

======================= ============================================================================================
``offsets``             (n + 1,) int64; image ``i`` has rows ``offsets[i]`` to ``offsets[i + 1]`` of the next two
``boxes``               (K, 4) float32 ``xyxy``, pixels of the original image
``scores``              (K,) float32 objectness, descending within an image
``widths``, ``heights`` (n,) int32 sizes of the images
``lengths``             (n,) int64 bytes of their files
``digests``             (n,) uint64 of their files' contents, see `lightning_det.annotations.contents`
``ids_*``, ``files_*``  ids and file names of the images: UTF-8 bytes (``data``) and where each begins (``offsets``)
``about``               UTF-8 json: ``version``, ``fingerprint`` of the dataset, and how the file was made
======================= ============================================================================================
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_det.annotations.arrays import check_groups, load_arrays, pack_json, save_arrays, unpack_json
from lightning_det.annotations.contents import digests_of, lengths_of
from lightning_det.annotations.problems import DatasetError
from lightning_det.annotations.store import AnnotationStore, ProposalSet
from lightning_det.annotations.strings import Strings

VERSION = 2

COMPARED = 2000
"""Number of images, evenly spread over the dataset, whose contents are compared. Other images: file lengths only."""

REMEDY = "make it anew with lightning_det.mine, or give proposals=auto"


def fingerprint(ids: Strings, files: Strings, widths: np.ndarray, heights: np.ndarray) -> str:
    """Identifies the images of a dataset by their ids, file names and sizes, in order."""
    digest = hashlib.sha256()
    sizes = np.stack([widths, heights]).astype(np.int32)
    for array in (ids.data, ids.offsets, files.data, files.offsets, sizes):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_proposals(file: Path, store: AnnotationStore, proposals: ProposalSet, made_by: dict[str, Any]) -> None:
    """Writes a file of proposals, atomically.

    Args:
        file: the file to write.
        store: the images.
        proposals: the proposals of these images.
        made_by: json data about the network.
    """
    identity = (store.ids, store.files, store.widths, store.heights)
    paths = [store.path(i) for i in range(len(store))]
    about = {"version": VERSION, "fingerprint": fingerprint(*identity), "made_by": made_by}
    arrays: dict[str, np.ndarray] = {
        "offsets": proposals.offsets.astype(np.int64),
        "boxes": proposals.boxes.astype(np.float32),
        "scores": proposals.scores.astype(np.float32),
        "widths": store.widths.astype(np.int32),
        "heights": store.heights.astype(np.int32),
        "lengths": lengths_of(paths),
        "digests": digests_of(paths),
        "about": pack_json(about),
    }
    save_arrays(file, arrays | store.ids.to_arrays("ids") | store.files.to_arrays("files"))


class _ProposalFile(NamedTuple):
    """The content of a file of proposals; arrays of images are in the order of ``ids``."""

    fingerprint: str | None
    """Fingerprint of the dataset that the file was made for."""
    ids: Strings
    files: Strings
    widths: np.ndarray
    heights: np.ndarray
    lengths: np.ndarray
    digests: np.ndarray
    proposals: ProposalSet


def load_proposals(file: Path, store: AnnotationStore) -> ProposalSet:
    """Reads the proposals of a store's images; the file may hold more images than the store.

    Images are identified by id, file name, size and content, wherever the dataset lies and whenever it was written.

    Raises:
        DatasetError: the file does not exist, is not a file of proposals, or was made for other images.
    """
    found = _read(file)
    if found.fingerprint == fingerprint(store.ids, store.files, store.widths, store.heights):
        _compare_contents(file, store, found.lengths, found.digests)
        return found.proposals
    order = _find_images(file, store, found)
    _compare_contents(file, store, found.lengths[order], found.digests[order])
    return found.proposals.select(order)


def _read(file: Path) -> _ProposalFile:
    """Reads a file of proposals and checks that its arrays fit each other.

    Raises:
        DatasetError: the file does not exist, or is not a file of proposals of this version.
    """
    try:
        content = load_arrays(file)
        about = unpack_json(content["about"])
        ids, files = (Strings.from_arrays(content, name) for name in ("ids", "files"))
        widths, heights = content["widths"], content["heights"]
        proposals = ProposalSet(content["offsets"], content["boxes"], content["scores"])
        _check(proposals, len(ids), files, widths, heights)
        version, made_for = about["version"], about.get("fingerprint")
        if version == VERSION:
            _check_contents(content["lengths"], content["digests"], len(ids))
    except OSError as error:
        raise DatasetError(f"proposals={file}: {error.strerror or 'cannot be read'}") from error
    except Exception as error:  # NumPy and zipfile raise errors of many kinds for damaged files
        raise DatasetError(f"proposals={file}: not a file of proposals, or a damaged one; {REMEDY}") from error
    if version != VERSION:
        raise DatasetError(f"proposals={file}: format {version}, this version reads {VERSION}; {REMEDY}")
    return _ProposalFile(made_for, ids, files, widths, heights, content["lengths"], content["digests"], proposals)


def _find_images(file: Path, store: AnnotationStore, found: _ProposalFile) -> np.ndarray:
    """Finds the images of a store in a file of proposals: their positions (n,) int64 there.

    Raises:
        DatasetError: the file lacks an image, or has it with another file name or size.
    """
    positions = {found.ids[i]: i for i in range(len(found.ids))}
    missing = [store.ids[i] for i in range(len(store)) if store.ids[i] not in positions]
    if missing:
        raise DatasetError(
            f"proposals={file}: made for other images; it lacks {len(missing)} of the {len(store)} of this dataset, "
            f"such as id {missing[0]}; {REMEDY}"
        )
    order = np.array([positions[store.ids[i]] for i in range(len(store))], np.int64)
    for i, there in enumerate(order.tolist()):
        mine = (store.files[i], int(store.widths[i]), int(store.heights[i]))
        theirs = (found.files[there], int(found.widths[there]), int(found.heights[there]))
        if mine != theirs:
            raise DatasetError(
                f"proposals={file}: made for other images; id {store.ids[i]} is {theirs[0]} ({theirs[1]} x "
                f"{theirs[2]}) there and {mine[0]} ({mine[1]} x {mine[2]}) here; {REMEDY}"
            )
    return order


def _compare_contents(file: Path, store: AnnotationStore, lengths: np.ndarray, digests: np.ndarray) -> None:
    """Checks that a store's images have the content that they had when the proposals were made.

    Args:
        file: of the proposals.
        store: the images.
        lengths: (n,) int64 of their files, as recorded.
        digests: (n,) uint64 of their files, as recorded.

    Raises:
        DatasetError: the content of an image has changed.
    """
    paths = [store.path(i) for i in range(len(store))]
    others = set(np.flatnonzero(lengths_of(paths) != lengths).tolist())
    some = np.unique(np.linspace(0, len(store) - 1, min(COMPARED, len(store))).round().astype(int))
    others.update(some[digests_of([paths[i] for i in some]) != digests[some]].tolist())
    if others:
        first = min(others)
        raise DatasetError(
            f"proposals={file}: made for other images of the same names; {len(others)} or more of the {len(store)} of "
            f"this dataset have another content, such as id {store.ids[first]} ({store.files[first]}); {REMEDY}"
        )


def _check_contents(lengths: np.ndarray, digests: np.ndarray, images: int) -> None:
    """Checks that every image has a length and a digest.

    Raises:
        ValueError: an image lacks one of them.
    """
    kinds = [(array.shape, array.dtype) for array in (lengths, digests)]
    if kinds != [((images,), np.int64), ((images,), np.uint64)]:
        raise ValueError("no length and digest for every image")


def _check(proposals: ProposalSet, images: int, files: Strings, widths: np.ndarray, heights: np.ndarray) -> None:
    """Checks shapes, types and values of the arrays of a file.

    Raises:
        ValueError: they do not fit each other.
    """
    boxes, scores = proposals.boxes, proposals.scores
    check_groups(proposals.offsets, images, len(boxes))
    fit = boxes.shape == (len(boxes), 4) and scores.shape == (len(boxes),) and len(files) == images
    fit = fit and boxes.dtype == scores.dtype == np.float32
    sizes = all(side.shape == (images,) and side.dtype == np.int32 for side in (widths, heights))
    if not fit or not sizes or not np.isfinite(boxes).all() or not np.isfinite(scores).all():
        raise ValueError("arrays do not fit each other")
    # Views are whole pixels of a resized image, so a proposal may leave its image by a few of the original's.
    limits = np.repeat(np.stack([widths, heights, widths, heights], axis=1), np.diff(proposals.offsets), axis=0)
    if (boxes[:, 2:] < boxes[:, :2]).any() or (boxes < -0.1 * limits - 8).any() or (boxes > 1.1 * limits + 8).any():
        raise ValueError("boxes lie outside their images")
