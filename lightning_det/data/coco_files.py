"""Finds annotation files and folders of images in the variants of COCO's layout."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lightning_det.annotations.problems import DatasetError, NoSplitError
from lightning_det.data.kinds import kind_of
from lightning_det.data.text import is_file_name

BESIDE = ("_annotations.coco.json", "annotations.json", "labels.json")
"""Names of annotation files in a split's own folder, as Roboflow and FiftyOne write them."""

TEMPLATES = (
    "annotations/instances_{split}.json",
    "annotations/{split}.json",
    "{split}.json",
    *(f"{{split}}/{name}" for name in BESIDE),
)
"""Places of annotation files, below the dataset's folder."""

OTHER_TASKS = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")
"""Beginnings of the names of COCO's files for other tasks."""

HEAD = 2**16
"""Bytes of a file that are searched for COCO's keys."""

SAMPLE = 20
"""Number of images that decide which folder holds a split's images."""


def find_annotations(root: Path, split: str) -> Path:
    """Finds the annotation file of a split.

    Args:
        root: the dataset's folder.
        split: its name, as in ``annotations/instances_NAME.json`` or ``NAME/_annotations.coco.json``.

    Raises:
        DatasetError: there is none, or there are several.
    """
    standard = root / TEMPLATES[0].format(split=split)
    named = is_file_name(split) and not Path(split).is_absolute() and ".." not in Path(split).parts
    found = [file for file in (root / t.format(split=split) for t in TEMPLATES) if named and file.is_file()]
    if len(found) > 1:
        names = " and ".join(str(file.relative_to(root)) for file in found)
        raise DatasetError(
            f"{root}: {names} may both be the annotations of {split!r}; name one of them with "
            "dataset.source.annotations"
        )
    if found:
        return found[0]
    there = ", ".join(split_files(root))
    raise NoSplitError(
        f"{standard}: no such annotation file; dataset.root must hold {TEMPLATES[0].format(split='SPLIT')} and SPLIT/, "
        f"or SPLIT/{BESIDE[0]}, and the split {split!r} must exist" + f"; there are {there}" * bool(there)
    )


def split_files(root: Path) -> dict[str, Path]:
    """Annotation files of a folder in COCO's layout, by the name of their split.

    A file with one of COCO's own names counts whatever it holds: if it is damaged, its split is not simply absent.
    """
    listed = _json_files(root / "annotations")
    instances = [file for file in listed if file.name.startswith("instances_")]
    listed = instances or [file for file in listed if not file.name.startswith(OTHER_TASKS)]
    found = {file.stem.removeprefix("instances_"): file for file in [*listed, *_json_files(root)]}
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        own = [folder / name for name in BESIDE if (folder / name).is_file()]
        if own and folder.name != "annotations":
            found[folder.name] = own[0]
    return {split: file for split, file in found.items() if _is_named(file) or _is_coco(file)}


def _json_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if file.is_file())


def _is_named(file: Path) -> bool:
    """Whether a file has a name that is used for nothing but COCO's annotations."""
    return file.name == BESIDE[0] or (file.parent.name == "annotations" and file.name.startswith("instances_"))


def _is_coco(file: Path) -> bool:
    """Whether a file begins like an object with COCO's keys; large ones are not read to their end."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    return (
        head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
        and re.search(rb'"(images|annotations|categories)"', head) is not None
    )


def image_folders(root: Path, file: Path, split: str) -> list[Path]:
    """Lists folders in which the images of a split may be, likeliest first; all of them exist.

    Args:
        root: the dataset's folder.
        file: the split's annotations.
        split: its name.
    """
    names = [split, *({kind_of(split)} - {None, split})]
    own = [] if file.parent == root / "annotations" else [file.parent, file.parent / "data", file.parent / "images"]
    named = [root / f"{above}{name}" for name in names for above in ("", "images/")]
    folders = dict.fromkeys([*named, *own, root / "images", root / "data", root])
    return [folder for folder in folders if folder.is_dir()]


def find_images(folders: Sequence[Path], files: Sequence[str]) -> Path:
    """Finds the folder that holds most of a sample of image files; the likeliest folder if none holds any.

    Args:
        folders: see `image_folders`.
        files: names of images, relative to their folder, see `find_file`.
    """
    sample = files[:: max(1, len(files) // SAMPLE)]
    held = [sum(os.path.isfile(folder / find_file(name, folder)) for name in sample) for folder in folders]
    return folders[held.index(max(held))]


def find_file(name: str, folder: Path) -> str:
    """Finds the file in a folder that a ``file_name`` refers to; returns the name itself if there is none.

    Some tools write Windows separators, or prepend the folder and its parents.
    """
    if "/" not in name and "\\" not in name:
        return name
    for path in (Path(name), Path(name.replace("\\", "/"))):
        parts = path.parts
        starts = [0, *(n for n in range(1, len(parts)) if parts[:n] == folder.parts[-n:])]
        found = next((Path(*parts[n:]) for n in starts if os.path.isfile(folder.joinpath(*parts[n:]))), None)
        if found is not None and not found.is_absolute() and ".." not in parts:
            return found.as_posix()
    return name
