"""Files of proposals: what a proposal network took for objects in the images of a dataset, by image id.

A file is an uncompressed ``.npz`` that holds no pickled object:

======================= ============================================================================================
``offsets``             (n + 1,) int64; image ``i`` has rows ``offsets[i]`` to ``offsets[i + 1]`` of the next two
``boxes``               (K, 4) float32 ``xyxy``, pixels of the original image
``scores``              (K,) float32 objectness, falling within an image
``widths``, ``heights`` (n,) int32 sizes of the images
``ids_*``, ``files_*``  ids and file names of the images: UTF-8 bytes (``data``) and where each begins (``offsets``)
``about``               UTF-8 json: ``version``, ``fingerprint`` of the dataset, and how the file was made
======================= ============================================================================================
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from lightning_det.annotations.arrays import check_groups, from_plain, load_arrays, save_arrays, to_plain
from lightning_det.annotations.problems import DatasetError
from lightning_det.annotations.store import AnnotationStore, ProposalSet, Strings

VERSION = 1


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
    about = {"version": VERSION, "fingerprint": fingerprint(*identity), "made_by": made_by}
    arrays = {
        "offsets": proposals.offsets.astype(np.int64),
        "boxes": proposals.boxes.astype(np.float32),
        "scores": proposals.scores.astype(np.float32),
        "widths": store.widths.astype(np.int32),
        "heights": store.heights.astype(np.int32),
        "about": from_plain(about),
    }
    save_arrays(file, arrays | store.ids.to_arrays("ids") | store.files.to_arrays("files"))


def load_proposals(file: Path, store: AnnotationStore) -> ProposalSet:
    """Reads the proposals of a store's images; the file may hold more images than the store.

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
    except OSError as error:
        raise DatasetError(f"proposals={file}: {error.strerror or 'cannot be read'}") from error
    except Exception as error:  # NumPy and zipfile raise whatever they stumble over
        raise DatasetError(
            f"proposals={file}: not a file of proposals, or a damaged one; make it anew with lightning_det.mine, "
            "or give proposals=auto"
        ) from error
    if version != VERSION:
        raise DatasetError(f"proposals={file}: format {version}, this version reads {VERSION}; make it anew")
    if made_for == fingerprint(store.ids, store.files, store.widths, store.heights):
        return proposals
    places = {ids[i]: i for i in range(len(ids))}
    missing = [store.ids[i] for i in range(len(store)) if store.ids[i] not in places]
    if missing:
        raise DatasetError(
            f"proposals={file}: made for other images; it lacks {len(missing)} of the {len(store)} of this dataset, "
            f"such as id {missing[0]}; make it anew with lightning_det.mine, or give proposals=auto"
        )
    order = np.array([places[store.ids[i]] for i in range(len(store))], np.int64)
    for i, there in enumerate(order):
        mine = (store.files[i], int(store.widths[i]), int(store.heights[i]))
        theirs = (files[there], int(widths[there]), int(heights[there]))
        if mine != theirs:
            raise DatasetError(
                f"proposals={file}: made for other images; id {store.ids[i]} is {theirs[0]} ({theirs[1]} x "
                f"{theirs[2]}) there and {mine[0]} ({mine[1]} x {mine[2]}) here; make it anew with lightning_det.mine"
            )
    return proposals.select(order)


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
