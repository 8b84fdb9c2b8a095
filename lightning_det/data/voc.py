"""Datasets in Pascal VOC's layout: an XML file of annotations per image."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import (
    BOX_LEFT_OUT,
    IMAGE_LEFT_OUT,
    MENTION_LEFT_OUT,
    DatasetError,
    Problem,
)
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.images import check_all, image_size, size_fault
from lightning_det.data.text import lines_of, splits_of
from lightning_det.data.voc_files import VocFiles, has_flag
from lightning_det.data.xml import read_xml
from lightning_det.system.workload import progress

CORNERS = ("xmin", "ymin", "xmax", "ymax")

FLAGS = {"0": False, "1": True, "false": False, "true": True}
"""Values of ``difficult`` that tools write."""

OTHER_NAME = "image of the annotation's own name used"


class _Object(NamedTuple):
    """An object of an annotation."""

    number: int
    """Number of the object in its file, counted from 1."""
    name: str
    """Name of its class."""
    corners: tuple[float, float, float, float]
    """As annotated, see `Voc`."""
    difficult: bool


class Voc:
    """One or more folders in VOC's layout: ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.

    Corners are pixel indices counted from 1, both inclusive, as in the development kit: (xmin, ymin, xmax, ymax)
    becomes the continuous box (xmin - 1, ymin - 1, xmax, ymax).

    Args:
        root: the folder, or the parent of several (``VOCdevkit``).
        classes: names in the order of their ids; None: all names in the annotations, sorted. For VOC, this is the
            official order.

    Raises:
        ValueError: ``classes`` is empty, names one twice, or is not a list of texts and numbers.
    """

    def __init__(self, root: str, classes: Sequence[str] | None = None):
        self.root = Path(root)
        named = classes is None or (isinstance(classes, list | tuple) and all(type(n) in (str, int) for n in classes))
        if not named:
            raise ValueError(f"classes must be a list of names, as in [cat,dog], got {classes!r}")
        self.classes = None if classes is None else LabelMap(list(classes))

    def read(self, split: str | Sequence[str]) -> tuple[AnnotationStore, list[Problem]]:
        """Reads the annotations of a split, and their problems; difficult objects become ignored regions.

        Args:
            split: name of a list in ``ImageSets/Main`` such as ``trainval``, with its folder where ``root`` is the
                parent of several (``VOC2007/trainval``); or several such names, read as one.

        Raises:
            DatasetError: a folder or list is missing, or there is no class.
        """
        parts = splits_of(split)
        problems: list[Problem] = []
        stems: dict[tuple[VocFiles, str], None] = {}
        folders: dict[Path, VocFiles] = {}
        for part in parts:
            self._read_list(part, folders, stems, problems)
        label_map = self._label_map(folders.values())
        found = _read_images(self.root, list(stems), problems)
        contiguous = {name: number for number, name in enumerate(label_map.names)}
        rows = []
        for image, (xml, objects) in enumerate(found.objects):
            for item in objects:
                if item.name in contiguous:
                    rows.append((image, xml, item, contiguous[item.name]))
                else:
                    reason = f"class {item.name!r} is not in dataset.classes"
                    problems.append(Problem(str(xml), f"object {item.number}", reason, BOX_LEFT_OUT))
        corners = np.array([r[2].corners for r in rows], np.float64).reshape(-1, 4)
        # By VOC's convention, a box with equal corners is one pixel wide; in practice it is a misplaced click.
        empty = (corners[:, 2:] <= corners[:, :2]).any(axis=1, keepdims=True)
        raw = RawAnnotations(
            root=self.root,
            files=found.files,
            ids=found.ids,
            widths=found.widths,
            heights=found.heights,
            image_of_box=np.array([r[0] for r in rows], np.int64),
            boxes=np.where(empty, corners, corners - [1, 1, 0, 0]),
            labels=np.array([r[3] for r in rows], np.int32),
            ignored=np.array([r[2].difficult for r in rows], bool),
            areas=np.full(len(rows), np.nan),
            label_map=label_map,
            problems=problems,
        )
        return raw.check(lambda row: (str(rows[row][1]), f"object {rows[row][2].number} ({rows[row][2].name})"))

    def _read_list(
        self,
        part: str,
        folders: dict[Path, VocFiles],
        stems: dict[tuple[VocFiles, str], None],
        problems: list[Problem],
    ) -> None:
        """Adds folder and name of every image of a list to ``stems``, and new folders to ``folders``.

        Raises:
            DatasetError: there is no such list.
        """
        *parents, name = Path(part).parts or ("",)
        folder = self.root.joinpath(*parents)
        file = folder / "ImageSets" / "Main" / f"{name}.txt"
        if not file.is_file():
            there = ", ".join(sorted(f.stem for f in file.parent.glob("*.txt"))[:20])
            raise DatasetError(
                f"{file}: no such list of images; dataset.root must hold Annotations, ImageSets/Main and JPEGImages "
                f"(or folders that do, named in the split: VOC2007/{name})" + f"; there are {there}" * bool(there)
            )
        files = folders.setdefault(folder, VocFiles(folder))
        lines = list(lines_of(file))
        plain = not all(has_flag(line) for _, line in lines)
        for number, line in lines:
            try:
                stem = files.resolve(line, plain)
            except ValueError as error:
                problems.append(Problem(str(file), f"line {number}", str(error), IMAGE_LEFT_OUT))
                continue
            if (files, stem) in stems:
                reason = f"image {stem} occurs twice"
                problems.append(Problem(str(file), f"line {number}", reason, MENTION_LEFT_OUT))
            else:
                stems[files, stem] = None

    def _label_map(self, folders: Iterable[VocFiles]) -> LabelMap:
        """The configured classes, or those of all annotations in the folders.

        Raises:
            DatasetError: the annotations have no class.
        """
        if self.classes is not None:
            return self.classes
        names: set[str] = set()
        files = sorted(f for folder in folders for f in folder.annotations.values())
        for file in progress(files, "reading class names", len(files)):
            try:
                # Only objects: their parts (head, hand, foot) are not classes.
                names.update((o.findtext("name") or "").strip() for o in read_xml(file).iterfind("object"))
            except (ValueError, OSError):
                continue  # it is reported with the splits that list this image
        names.discard("")
        if not names:
            raise DatasetError(f"{self.root}: no object with a class name in any Annotations/*.xml")
        return LabelMap(sorted(names))


class _Images(NamedTuple):
    """Images of some splits with their objects, in the order of the lists."""

    files: list[str]
    ids: list[str]
    widths: np.ndarray
    heights: np.ndarray
    objects: list[tuple[Path, list[_Object]]]


def _read_images(root: Path, stems: list[tuple[VocFiles, str]], problems: list[Problem]) -> _Images:
    """Reads annotation and header of every image; images for which one of them cannot be used become problems."""
    parsed = []
    for files, stem in progress(stems, "reading annotations", len(stems)):
        xml = files.annotation(stem)
        tree = _parse(xml, problems)
        if tree is None:
            continue
        written = (tree.findtext("filename") or "").strip()
        try:
            image = files.image(stem, written)
        except ValueError as error:
            problems.append(Problem(str(xml), "", str(error), IMAGE_LEFT_OUT))
            continue
        if files.is_other_image(written, image):
            reason = f"<filename> says {written}, which is there too, but {image.name} has the annotation's name"
            problems.append(Problem(str(xml), "filename", reason, OTHER_NAME, harmless=True))
        parsed.append((files, stem, xml, image, tree))
    sizes, unreadable = check_all([p[3] for p in parsed], image_size, "reading image headers")
    problems.extend(unreadable.values())
    # The years of VOC have different image names. If two folders share a name, the folder becomes part of the id.
    folders = Counter(stem for _, stem in stems)
    names: list[str] = []
    ids: list[str] = []
    usable: list[tuple[int, int]] = []
    objects: list[tuple[Path, list[_Object]]] = []
    for (files, stem, xml, image, tree), size in zip(parsed, sizes, strict=True):
        try:
            annotated = _annotated_size(tree)
        except ValueError as error:
            problems.append(Problem(str(xml), "size", str(error), IMAGE_LEFT_OUT))
            continue
        if size is not None and annotated is not None and annotated != size:
            reason = size_fault(image, annotated, size, image.name)
            problems.append(Problem(str(xml), "size", reason, IMAGE_LEFT_OUT))
        elif size is not None:
            names.append(str(image.relative_to(root)))
            ids.append(stem if folders[stem] == 1 else f"{files.folder.relative_to(root).as_posix()}/{stem}")
            usable.append(size)
            objects.append((xml, _objects(xml, tree, problems)))
    widths, heights = np.array(usable, np.int64).reshape(-1, 2).T
    return _Images(names, ids, widths, heights, objects)


def _parse(xml: Path, problems: list[Problem]) -> Element | None:
    """Parses an annotation and returns its root; None, and a problem, if it cannot be used."""
    try:
        tree = read_xml(xml)
        if tree.tag != "annotation":
            raise ValueError(f"not an annotation of VOC: it holds <{tree.tag[:40]}>")
        if tag := _misplaced_object(tree):
            raise ValueError(f"not an annotation of VOC: <{tag[:40]}> does not stand directly in <annotation>")
        return tree
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    problems.append(Problem(str(xml), "", reason, IMAGE_LEFT_OUT))
    return None


def _misplaced_object(tree: Element) -> str | None:
    """Finds the tag of an object that would be missed, because its case or its parent is not that of VOC; else None."""
    tags = (item.tag for child in tree if child.tag != "object" for item in child.iter())
    return next((tag for tag in tags if tag.rpartition(":")[2].lower() in ("object", "objects")), None)


def _annotated_size(tree: Element) -> tuple[int, int] | None:
    """Reads the annotated (width, height); None if they are missing or 0, which some tools write.

    Raises:
        ValueError: they are not integers, or occur twice.
    """
    if len(tree.findall("size")) > 1:
        raise ValueError("<size> occurs twice")
    texts = [(tree.findtext(f"size/{side}") or "0").strip() for side in ("width", "height")]
    try:
        size = int(texts[0]), int(texts[1])
    except ValueError as error:
        shown = " and ".join(repr(t[:40]) for t in texts)
        raise ValueError(f"width and height must be whole numbers of pixels, got {shown}") from error
    return size if min(size) > 0 else None


def _objects(xml: Path, tree: Element, problems: list[Problem]) -> list[_Object]:
    """Usable objects of an annotation; the others become problems."""
    found = []
    for number, item in enumerate(tree.iterfind("object"), start=1):
        name = (item.findtext("name") or "").strip()
        record = f"object {number} ({name})" if name else f"object {number}"
        try:
            found.append(_object(number, name, item))
        except ValueError as error:
            problems.append(Problem(str(xml), record, str(error), BOX_LEFT_OUT))
    return found


def _object(number: int, name: str, item: Element) -> _Object:
    """Reads one object.

    Raises:
        ValueError: it has no name or no box, or an element that occurs twice.
    """
    twice = [p for p in ("name", "difficult", "bndbox", *(f"bndbox/{c}" for c in CORNERS)) if len(item.findall(p)) > 1]
    if twice:
        raise ValueError(f"<{twice[0].rpartition('/')[2]}> occurs twice in the object")
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{c}", "")) for c in CORNERS)
    except ValueError as error:
        raise ValueError(f"bndbox needs {', '.join(CORNERS)} as numbers") from error
    if not name:
        raise ValueError("object has no name")
    difficult = (item.findtext("difficult") or "0").strip().lower() or "0"
    if difficult not in FLAGS:
        raise ValueError(f"difficult must be 0 or 1, got {difficult[:40]!a}")
    return _Object(number, name, (x1, y1, x2, y2), FLAGS[difficult])
