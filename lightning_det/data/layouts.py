"""Recognises the layout of a dataset's folder: COCO, VOC or YOLO."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lightning_det.annotations.problems import DatasetError
from lightning_det.data.coco_files import split_files
from lightning_det.data.kinds import KINDS, by_kind, kind_of
from lightning_det.data.voc_files import ANNOTATIONS, WHOLE, holds_voc, lists_of
from lightning_det.data.yolo import Yolo
from lightning_det.data.yolo_description import find_description, read_description
from lightning_det.data.yolo_folders import label_files, names_file

LOOKED_FOR = {
    "coco": "COCO: annotations/instances_train.json or train.json and a folder of images; train/_annotations.coco.json",
    "voc": "VOC: Annotations/*.xml and JPEGImages/; train/*.xml beside the images; several such folders (VOC2007/)",
    "yolo": "YOLO: data.yaml with names; classes.txt with images/ and labels/, or with *.txt beside the images",
}
"""The files that identify each layout, for messages."""

BYTE_ORDER_MARKS = b"\xef\xbb\xbf\xff\xfe"

SEVERAL = 5
"""Number of names that messages list."""


class Layout(NamedTuple):
    """How a folder holds a dataset."""

    format: str
    """``coco``, ``voc`` or ``yolo``."""
    evidence: str
    """The file or folder that it was recognised by."""
    splits: Mapping[str, list[str]]
    """Names of splits as the format's reader takes them, by ``train``, ``val`` and ``test``; some may be absent."""
    together: bool = False
    """Whether several names for one purpose are read as one split; otherwise the user has to choose one."""

    def __str__(self) -> str:
        return f"{self.format.upper()} ({self.evidence})"


def recognise(root: Path, formats: Sequence[str] = ()) -> Layout:
    """Recognises the layout of a folder.

    Args:
        root: the folder, or the ``data.yaml`` of a YOLO dataset.
        formats: those that come into question; empty for all.

    Raises:
        DatasetError: no layout fits, or several do.
    """
    if not root.exists():
        raise DatasetError(f"dataset.root={root}: no such folder" + ("" if root.is_absolute() else f" in {Path.cwd()}"))
    if root.is_file() and root.suffix.lower() not in (".yaml", ".yml"):
        raise DatasetError(f"dataset.root={root}: must be a folder, or the data.yaml of a YOLO dataset")
    wanted = formats or list(FINDERS)
    if unknown := set(wanted) - set(FINDERS):
        raise DatasetError(f"dataset.source.format must be {' or '.join(FINDERS)}, got {', '.join(sorted(unknown))}")
    found = [layout for layout in (FINDERS[name](root) for name in wanted) if layout is not None]
    if len(found) > 1:
        names = " and ".join(map(str, found))
        raise DatasetError(
            f"dataset.root={root}: two layouts fit, {names}; say which with "
            f"{' or '.join(f'dataset.source.format={layout.format}' for layout in found)}"
        )
    if not found:
        raise DatasetError(_nothing(root, wanted))
    return found[0]


def _coco(root: Path) -> Layout | None:
    files = split_files(root)
    return Layout("coco", str(next(iter(files.values())).relative_to(root)), by_kind(files)) if files else None


def _voc(root: Path) -> Layout | None:
    if holds_voc(root):
        evidence = next((f"{name}/" for name in ANNOTATIONS if (root / name).is_dir()), "*.xml")
        return Layout("voc", evidence, _of_lists(root))
    folders = [folder.name for folder in _folders(root) if holds_voc(folder)]
    if not folders or any(map(kind_of, folders)):
        return Layout("voc", f"{folders[0]}/*.xml", by_kind(folders)) if folders else None
    years = {name: _of_lists(root / name) for name in folders}
    splits = {kind: [f"{year}/{name}" for year, own in years.items() for name in own.get(kind, ())] for kind in KINDS}
    return Layout("voc", f"{folders[0]}/", {kind: names for kind, names in splits.items() if names}, together=True)


def _of_lists(folder: Path) -> dict[str, list[str]]:
    """Splits of a VOC folder by its lists. ``trainval`` is for training if there is no ``train``."""
    names = lists_of(folder)
    found = {kind: next((name for name in own if name in names), None) for kind, own in KINDS.items()}
    if found["train"] is None and "trainval" in names:
        found["train"] = "trainval"
    return {kind: [name] for kind, name in found.items() if name is not None} or {"train": [WHOLE]}


def _yolo(root: Path) -> Layout | None:
    try:
        file = find_description(root)
    except DatasetError:
        if any(map(_describes_yolo, root.glob("*.y*ml"))):
            raise  # it says that there are several
        return None
    if file is not None:
        return Layout("yolo", file.name, _yolo_splits(root)) if _describes_yolo(file) else None
    if not (labels := label_files(root)):
        return None
    if (names := names_file(root)) is None:
        return Layout("yolo", str(labels[0].relative_to(root)), {"train": ["train"]})  # reading says what is missing
    return Layout("yolo", str(names.relative_to(root)), _yolo_splits(root))


def _describes_yolo(file: Path) -> bool:
    """Whether a YAML file has the key that a YOLO description needs; its value or encoding may be wrong."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    # Without zeros, UTF-16 reads like ASCII here. The reader refuses what is not UTF-8, and says so.
    return any(line.lstrip(BYTE_ORDER_MARKS).startswith(b"names") for line in content.replace(b"\0", b"").splitlines())


def _yolo_splits(root: Path) -> dict[str, list[str]]:
    """Splits of a YOLO dataset whose folders exist: tools also list splits that they have not exported."""
    reader, description = Yolo(str(root)), read_description(root)
    found = {}
    for kind in KINDS:
        with suppress(DatasetError):
            for place in description.split_paths(kind):
                reader.find(description, kind, place)
            found[kind] = [kind]
    return found


FINDERS: dict[str, Callable[[Path], Layout | None]] = {"coco": _coco, "voc": _voc, "yolo": _yolo}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _nothing(root: Path, formats: Sequence[str]) -> str:
    """The message for a folder without a known layout: what was looked for, what is there, and folders that fit."""
    looked = "\n".join(f"  {LOOKED_FOR[name]}" for name in formats)
    files = [path for path in root.iterdir() if path.is_file()]
    kinds = Counter(path.suffix.lower() or "no suffix" for path in files)
    there = [f"{folder.name}/" for folder in _folders(root)[:SEVERAL]]
    there += ["..."] * (len(_folders(root)) > SEVERAL) + [f"{n} x {kind}" for kind, n in kinds.most_common(SEVERAL)]
    below = []
    for folder in _folders(root)[:20]:
        with suppress(DatasetError):
            below += [f"{folder}: {layout}" for layout in (FINDERS[name](folder) for name in formats) if layout]
    return (
        f"dataset.root={root}: no dataset is recognised. Looked for\n{looked}\n"
        f"There are {', '.join(there) or 'no files'}."
        + f"\nBelow it, {'; '.join(below[:SEVERAL])}: give such a folder as dataset.root."
        * bool(below)
    )
