"""Annotations of single images in VOC's XML."""

from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from lightning_det.annotations.problems import BOX_LEFT_OUT, IMAGE_LEFT_OUT, Problem
from lightning_det.data.xml import read_xml

CORNERS = ("xmin", "ymin", "xmax", "ymax")

FLAGS = {"0": False, "1": True, "false": False, "true": True}
"""Values of ``difficult`` that tools write."""


class Object(NamedTuple):
    """An object of an annotation."""

    number: int
    """Number of the object in its file, counted from 1."""
    name: str
    """Name of its class."""
    corners: tuple[float, float, float, float]
    """As annotated, see `Voc`."""
    difficult: bool


def parse(xml: Path, problems: list[Problem]) -> Element | None:
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


def annotated_size(tree: Element) -> tuple[int, int] | None:
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


def objects_of(xml: Path, tree: Element, problems: list[Problem]) -> list[Object]:
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


def _object(number: int, name: str, item: Element) -> Object:
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
    return Object(number, name, (x1, y1, x2, y2), FLAGS[difficult])
