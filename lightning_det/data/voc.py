"""Datasets in Pascal VOC's layout: an XML file of annotations per image."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import (
    BOX_LEFT_OUT,
    IMAGE_LEFT_OUT,
    MENTION_LEFT_OUT,
    DatasetError,
    NoSplitError,
    Problem,
)
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.sizes import check_all, image_size, size_fault
from lightning_det.data.text import lines_of, splits_of
from lightning_det.data.voc_files import WHOLE, VocFiles, has_flag, holds_voc, lists_of
from lightning_det.data.voc_records import Object, annotated_size, objects_of, parse
from lightning_det.data.xml import read_xml
from lightning_det.system.workload import progress

OTHER_NAME = "image of the annotation's own name used"


class Voc:
    """One or more folders in VOC's layout: ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.

    The lists in ``ImageSets/Main`` may be missing, ``JPEGImages`` may be called ``images``, and annotations may lie
    beside the images, in a folder for each split.

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
                parent of several (``VOC2007/trainval``); or a folder that holds annotations and images of a split;
                or ``all``, for all annotations of a folder without such a list; or several such names, read as one.

        Raises:
            DatasetError: a folder or list is missing, or there is no class.
        """
        parts = splits_of(split)
        problems: list[Problem] = []
        stems: dict[tuple[VocFiles, str], None] = {}
        folders: dict[Path, VocFiles] = {}
        for part in parts:
            self._read_list(part, folders, stems, problems)
        for file in [file for files in folders.values() for file in files.misnamed()]:
            problems.append(Problem(ascii(str(file)).strip("'"), "", "its name is not UTF-8", IMAGE_LEFT_OUT))
        label_map = self._label_map(folders.values())
        found = _read_images(self.root, list(stems), problems)
        contiguous = {name: number for number, name in enumerate(label_map.names)}
        rows = []
        for image, (xml, objects) in enumerate(found.objects):
            for item in objects:
                if item.name in contiguous:
                    rows.append((image, xml, item, contiguous[item.name]))
                else:
                    reason = f"class {item.name!r} is not in dataset.source.classes"
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
            is_folder = bool(name) and name == Path(name).name and holds_voc(folder / name)
            whole = folder / name if is_folder else folder if name == WHOLE else None
            if whole is None or not holds_voc(whole):
                raise _no_list(file, name)
            files = folders.setdefault(whole, VocFiles(whole))
            stems |= dict.fromkeys((files, stem) for stem in files.annotations)
            problems += _without_annotation(files)
            return
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


def _without_annotation(files: VocFiles) -> list[Problem]:
    """Harmless problems of images without annotation, in a folder whose annotations are a split.

    Labelling tools write no file for an image that nobody has looked at, nor do some for one without objects.
    """
    reason = f"no annotation of this name in {files.annotation_folder}"
    return [Problem(str(file), "", reason, IMAGE_LEFT_OUT, harmless=True) for file in files.without_annotation()]


def _no_list(file: Path, name: str) -> NoSplitError:
    """Makes the error of a split that does not exist."""
    roots = file.parents[2:3]  # none for a split such as "/"
    there = ", ".join([found for root in roots for found in lists_of(root)][:20])
    return NoSplitError(
        f"{file}: no such list of images; dataset.root must hold Annotations, ImageSets/Main and JPEGImages "
        f"(or folders that do, named in the split: VOC2007/{name}); without lists, the split {WHOLE} is all of "
        "Annotations" + f"; there are {there}" * bool(there)
    )


class _Images(NamedTuple):
    """Images of some splits with their objects, in the order of the lists."""

    files: list[str]
    ids: list[str]
    widths: np.ndarray
    heights: np.ndarray
    objects: list[tuple[Path, list[Object]]]


def _read_images(root: Path, stems: list[tuple[VocFiles, str]], problems: list[Problem]) -> _Images:
    """Reads annotation and header of every image; images for which one of them cannot be used become problems."""
    parsed = []
    for files, stem in progress(stems, "reading annotations", len(stems)):
        xml = files.annotation(stem)
        tree = parse(xml, problems)
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
    objects: list[tuple[Path, list[Object]]] = []
    for (files, stem, xml, image, tree), size in zip(parsed, sizes, strict=True):
        try:
            annotated = annotated_size(tree)
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
            objects.append((xml, objects_of(xml, tree, problems)))
    widths, heights = np.array(usable, np.int64).reshape(-1, 2).T
    return _Images(names, ids, widths, heights, objects)
