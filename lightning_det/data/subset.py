"""Cuts a small dataset out of a COCO dataset."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_det.annotations import DatasetError
from lightning_det.data.coco_records import image_fault


class CocoLayout(NamedTuple):
    """Paths of a split in COCO's layout; both names contain ``{split}``."""

    root: Path
    annotations: str
    """The annotation file of a split, below ``root``."""
    folder: str
    """The folder of a split's images, below ``root``."""


def cut_split(source: CocoLayout, output: Path, split: str, images: int, seed: int) -> tuple[int, int]:
    """Copies random images of a split and their annotations as they are; categories stay complete.

    Args:
        source: the full dataset.
        output: root folder of the small dataset.
        split: name of the split.
        images: maximum number of images.
        seed: seed of the random choice.

    Returns:
        How many images and annotations were copied.

    Raises:
        DatasetError: the annotation file is missing or not COCO's, or an image that was drawn is missing, or its name
            leads out of its folder.
    """
    name, folder = source.annotations.format(split=split), source.folder.format(split=split)
    content = load_annotations(source.root / name)
    rng = np.random.default_rng(seed)
    count = min(images, len(content["images"]))
    rows = sorted(rng.choice(len(content["images"]), count, replace=False).tolist())
    kept = [content["images"][row] for row in rows]
    for row, image in zip(rows, kept, strict=True):
        reason = image_fault(image, source.root / folder)
        if reason is None and not os.path.isfile(source.root / folder / image["file_name"]):
            reason = f"no file {image['file_name']} in {source.root / folder}"
        if reason is not None:
            raise DatasetError(f"{source.root / name}, images[{row}]: {reason}; fix or remove it, nothing is copied")
    ids = {str(image["id"]) for image in kept}  # as text: 1 and "1" are the same
    annotations = [a for a in content["annotations"] if isinstance(a, dict) and str(a.get("image_id")) in ids]
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_text(json.dumps(content | {"images": kept, "annotations": annotations}))
    for image in kept:
        target = output / folder / image["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.root / folder / image["file_name"], target)
    return len(kept), len(annotations)


def load_annotations(file: Path) -> dict[str, Any]:
    """Reads an annotation file.

    Raises:
        DatasetError: the file is missing, or is not COCO json.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        if not (isinstance(content["images"], list) and isinstance(content["annotations"], list)):
            raise TypeError("images and annotations must be lists")
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{file}: not a COCO annotation file ({error})") from error
    return content
