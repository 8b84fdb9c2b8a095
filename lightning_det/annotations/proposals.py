"""Files of proposals: what a proposal network took for objects in the images of a dataset, by image id.

A file is an uncompressed ``.npz`` that holds no pickled object:

======================= ============================================================================================
``offsets``             (n + 1,) int64; image ``i`` has rows ``offsets[i]`` to ``offsets[i + 1]`` of the next two
``boxes``               (K, 4) float32 ``xyxy``, pixels of the original image
``scores``              (K,) float32 objectness, falling within an image
``widths``, ``heights`` (n,) int32 sizes of the images
``lengths``             (n,) int64 bytes of their files
``digests``             (n,) uint64 of their files' contents, see `lightning_det.annotations.contents`
``ids_*``, ``files_*``  ids and file names of the images: UTF-8 bytes (``data``) and where each begins (``offsets``)
``about``               UTF-8 json: ``version``, ``fingerprint`` of the dataset, and how the file was made
======================= ============================================================================================
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from lightning_det.annotations.arrays import check_groups, from_plain, load_arrays, save_arrays, to_plain
from lightning_det.annotations.contents import digests_of, lengths_of
from lightning_det.annotations.problems import DatasetError
from lightning_det.annotations.store import AnnotationStore, ProposalSet, Strings

VERSION = 2

COMPARED = 2000
"""Images whose contents are compared, evenly spread over the dataset; of the others the length of the file is."""

AGAIN = "make it anew with lightning_det.mine, or give proposals=auto"


def fingerprint(ids: Strings, files: Strings, widths: np.ndarray, heights: np.ndarray) -> str:
    """Identifies the images of a dataset by their ids, file names and sizes, in order."""
    digest = hashlib.sha256()
    sizes = np.stack([widths, heights]).astype(np.int32)
    for array in (ids.data, ids.offsets, files.data, files.offsets, sizes):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_proposals(file: Path, store: AnnotationStore, proposals: ProposalSet, made_by: dict[str, Any]) -> None:
    """Writes a file of proposals, whole or not at all.

    Args:
        file: to write.
        store: the images.
        proposals: of these images.
        made_by: plain data about the network.
    """
    identity = (store.ids, store.files, store.widths, store.heights)
    paths = [store.path(i) for i in range(len(store))]
    about = {"version": VERSION, "fingerprint": fingerprint(*identity), "made_by": made_by}
    arrays = {
        "offsets": proposals.offsets.astype(np.int64),
        "boxes": proposals.boxes.astype(np.float32),
        "scores": proposals.scores.astype(np.float32),
        "widths": store.widths.astype(np.int32),
        "heights": store.heights.astype(np.int32),
        "lengths": lengths_of(paths),
        "digests": digests_of(paths),
        "about": from_plain(about),
    }
    save_arrays(file, arrays | store.ids.to_arrays("ids") | store.files.to_arrays("files"))


def load_proposals(file: Path, store: AnnotationStore) -> ProposalSet:
    """Reads the proposals of a store's images; the file may hold more images than the store.

    Images are the same by their id, name, size and what is in their file, wherever the dataset lies and however old.

    Raises:
        DatasetError: no such file, not a file of proposals, or one of other images.
    """
    try:
        content = load_arrays(file)
        about = to_plain(content["about"])
        ids, files = (Strings.from_arrays(content, name) for name in ("ids", "files"))
        widths, heights = content["widths"], content["heights"]
        proposals = ProposalSet(content["offsets"], content["boxes"], content["scores"])
        _check(proposals, len(ids), files, widths, heights)
        version, made_for = about["version"], about.get("fingerprint")
        lengths, digests = (content[name] if version == VERSION else None for name in ("lengths", "digests"))
        if version == VERSION:
            _check_contents(lengths, digests, len(ids))
    except OSError as error:
        raise DatasetError(f"proposals={file}: {error.strerror or 'cannot be read'}") from error
    except Exception as error:  # NumPy and zipfile raise whatever they stumble over
        raise DatasetError(f"proposals={file}: not a file of proposals, or a damaged one; {AGAIN}") from error
    if version != VERSION:
        raise DatasetError(f"proposals={file}: format {version}, this version reads {VERSION}; {AGAIN}")
    if made_for == fingerprint(store.ids, store.files, store.widths, store.heights):
        _compare_contents(file, store, lengths, digests)
        return proposals
    places = {ids[i]: i for i in range(len(ids))}
    missing = [store.ids[i] for i in range(len(store)) if store.ids[i] not in places]
    if missing:
        raise DatasetError(
            f"proposals={file}: made for other images; it lacks {len(missing)} of the {len(store)} of this dataset, "
            f"such as id {missing[0]}; {AGAIN}"
        )
    order = np.array([places[store.ids[i]] for i in range(len(store))], np.int64)
    for i, there in enumerate(order):
        mine = (store.files[i], int(store.widths[i]), int(store.heights[i]))
        theirs = (files[there], int(widths[there]), int(heights[there]))
        if mine != theirs:
            raise DatasetError(
                f"proposals={file}: made for other images; id {store.ids[i]} is {theirs[0]} ({theirs[1]} x "
                f"{theirs[2]}) there and {mine[0]} ({mine[1]} x {mine[2]}) here; {AGAIN}"
            )
    _compare_contents(file, store, lengths[order], digests[order])
    return proposals.select(order)


def _compare_contents(file: Path, store: AnnotationStore, lengths: np.ndarray, digests: np.ndarray) -> None:
    """Checks that a store's images are those that were looked at, and not others of the same names.

    Args:
        file: of the proposals.
        store: the images.
        lengths: of their files, as they were.
        digests: of their files, as they were.

    Raises:
        DatasetError: they are not.
    """
    paths = [store.path(i) for i in range(len(store))]
    others = set(np.flatnonzero(lengths_of(paths) != lengths).tolist())
    some = np.unique(np.linspace(0, len(store) - 1, min(COMPARED, len(store))).round().astype(int))
    others.update(some[digests_of([paths[i] for i in some]) != digests[some]].tolist())
    if others:
        first = min(others)
        raise DatasetError(
            f"proposals={file}: made for other images of the same names; {len(others)} or more of the {len(store)} of "
            f"this dataset have another content, such as id {store.ids[first]} ({store.files[first]}); {AGAIN}"
        )


def _check_contents(lengths: np.ndarray, digests: np.ndarray, images: int) -> None:
    """Checks that every image has a length and a digest.

    Raises:
        ValueError: there is not.
    """
    kinds = [(array.shape, array.dtype) for array in (lengths, digests)]
    if kinds != [((images,), np.int64), ((images,), np.uint64)]:
        raise ValueError("no length and digest for every image")


def _check(proposals: ProposalSet, images: int, files: Strings, widths: np.ndarray, heights: np.ndarray) -> None:
    """Checks that the arrays of a file are what they should be, and belong together.

    Raises:
        ValueError: they are not.
    """
    boxes, scores = proposals.boxes, proposals.scores
    check_groups(proposals.offsets, images, len(boxes))
    fit = boxes.shape == (len(boxes), 4) and scores.shape == (len(boxes),) and len(files) == images
    fit = fit and boxes.dtype == scores.dtype == np.float32
    sizes = all(side.shape == (images,) and side.dtype == np.int32 for side in (widths, heights))
    if not fit or not sizes or not np.isfinite(boxes).all() or not np.isfinite(scores).all():
        raise ValueError("arrays do not go together")
    # Views are whole pixels of a resized image, so a proposal may leave its image by a few of the original's.
    limits = np.repeat(np.stack([widths, heights, widths, heights], axis=1), np.diff(proposals.offsets), axis=0)
    if (boxes[:, 2:] < boxes[:, :2]).any() or (boxes < -0.1 * limits - 8).any() or (boxes > 1.1 * limits + 8).any():
        raise ValueError("boxes lie outside their images")
