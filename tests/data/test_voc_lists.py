"""VOC's lists and annotations as tools write them: read as they are meant, or refused with the reason."""

import os
from pathlib import Path

import numpy as np
import pytest
from support.datasets import write_image

from lightning_det.annotations import DatasetError
from lightning_det.annotations.problems import BOX_CLIPPED, BOX_LEFT_OUT, IMAGE_LEFT_OUT
from lightning_det.data.voc import OTHER_NAME, Voc

OBJECT = (
    "<object><name>cat</name><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
)
BOX = [10, 10, 30, 40]


def make(root, names, lines=None, suffix=".jpg", objects=OBJECT, filename=None):
    """A dataset whose list of images is called ``train``."""
    for number, name in enumerate(names):
        image = root / "JPEGImages" / f"{name}.png"
        write_image(image, seed=number)
        image.rename(image.with_name(f"{image.stem}{suffix}"))
        xml = root / "Annotations" / f"{name}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        written = f"{name}{suffix}" if filename is None else filename
        xml.write_text(f"<annotation><filename>{written}</filename>{objects}</annotation>", encoding="utf-8")
    (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines or names)
    (root / "ImageSets/Main/train.txt").write_text(text, encoding="utf-8")
    return root


def listed(root, names, lines, **options):
    """Ids of the images of a list, and the reasons of its problems."""
    store, problems = Voc(str(make(root, names, lines, **options))).read("train")
    assert store.boxes.tolist() == [BOX] * len(store)
    return list(store.ids), [p.reason for p in problems]


NAMES = ["my photo 0", "my photo 1", "it's, (2)"]


@pytest.mark.parametrize(
    "lines",
    [
        NAMES,
        [f'"{name}"' for name in NAMES],
        [f'"{name}" -1' for name in NAMES],
        [f"{name}  1" for name in NAMES],
        [f"{name}.jpg" for name in NAMES],
        [f"{name}.jpg 0" for name in NAMES],
        [f"{name}.xml" for name in NAMES],
        [f"JPEGImages/{name}.jpg" for name in NAMES],
        [f"./Annotations/{name}.xml" for name in NAMES],
        [f"JPEGImages\\{name}.jpg" for name in NAMES],
        [name.upper() for name in NAMES],
        ["﻿" + NAMES[0], *(f"{name}\r" for name in NAMES[1:])],
    ],
)
@pytest.mark.parametrize("suffix", [".jpg"])
def test_names_of_images(tmp_path, lines, suffix):
    assert listed(tmp_path, NAMES, lines, suffix=suffix) == (NAMES, [])


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".PNG", ".bmp", ".tif", ".Jpeg"])
def test_suffixes_of_images(tmp_path, suffix):
    assert listed(tmp_path, ["a.v2", "b"], ["a.v2", f"b{suffix}"], suffix=suffix) == (["a.v2", "b"], [])


def test_annotations_in_large_letters_and_folders(tmp_path):
    make(tmp_path, ["day 1/a", "day 2/a"])
    (tmp_path / "Annotations/day 1/a.xml").rename(tmp_path / "Annotations/day 1/a.XML")
    store, problems = Voc(str(tmp_path)).read("train")
    assert (list(store.ids), problems) == (["day 1/a", "day 2/a"], [])


def test_names_that_end_like_flags(tmp_path):
    """A plain list means the whole line, a class list is asked to tell."""
    assert listed(tmp_path, ["photo", "photo 1"], ["photo", "photo 1"]) == (["photo", "photo 1"], [])
    ids, (reason,) = listed(tmp_path, ["photo", "photo 1"], ["photo 1"])
    assert ids == []
    assert reason == "'photo 1' may be 'photo 1' or 'photo'; write \"photo 1\" in quotes to tell"
    assert listed(tmp_path, ["photo", "photo 1"], ['"photo 1"', '"photo" 1']) == (["photo 1", "photo"], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a b", "No such file"),
        ("'a", "No such file"),
        ("/x/JPEGImages/a.jpg", "is not the name of an annotation file"),
        ("../Annotations/a", "is not the name of an annotation file"),
        ("JPEGImages/a.jpg Annotations/a.xml", "is not the name of an annotation file"),
        ("A", "No such file"),  # a and ä aside, there are two that differ in their letters only
    ],
)
def test_lines_that_name_nothing(tmp_path, line, reason):
    names = ["a", "b"] if line != "A" else ["aA", "Aa"]
    ids, (found,) = listed(tmp_path, names, [names[0], line if line != "A" else "aa"])
    assert ids == [names[0]]
    assert reason in found


def test_lists_that_are_there_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"minival\.txt: no such list .*; there are train"):
        Voc(str(make(tmp_path, ["a"]))).read("minival")


@pytest.mark.parametrize("split", [2017, None, 1.5, "", [""], "/", "."])
def test_splits_of_other_types(tmp_path, split):
    with pytest.raises(DatasetError, match="no such list"):
        Voc(str(make(tmp_path, ["a"]))).read(split)


def test_images_of_another_name(tmp_path):
    """What <filename> says decides where the annotation's own name does not."""
    make(tmp_path, ["a"], filename="other.png")
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / "JPEGImages/other.png")
    assert Voc(str(tmp_path)).read("train")[0].files[0] == "JPEGImages/other.png"
    # Both are there.
    write_image(tmp_path / "JPEGImages/a.png", seed=1)
    store, (problem,) = Voc(str(tmp_path)).read("train")
    assert store.files[0] == "JPEGImages/a.png"
    assert (problem.action, problem.harmless) == (OTHER_NAME, True)
    # A name without a file says nothing.
    make(tmp_path, ["a"], filename="C:/photos/9.jpg", suffix=".png")
    assert Voc(str(tmp_path)).read("train")[1] == []


def test_two_images_of_a_name(tmp_path):
    make(tmp_path, ["a"])
    write_image(tmp_path / "JPEGImages/a.png", seed=1)
    assert Voc(str(tmp_path)).read("train")[0].files[0] == "JPEGImages/a.jpg"  # as <filename> says
    make(tmp_path, ["a"], filename="a")
    write_image(tmp_path / "JPEGImages/a.png", seed=1)
    (problem,) = Voc(str(tmp_path)).read("train")[1]
    assert (problem.action, problem.reason.split(",")[0]) == (IMAGE_LEFT_OUT, "a.jpg and a.png are both there")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<xmin>11</xmin>", "<xmin>11</xmin><xmin>12</xmin>", "<xmin> occurs twice"),
        ("<name>cat</name>", "<name>cat</name><name>dog</name>", "<name> occurs twice"),
        ("</bndbox>", "</bndbox><bndbox/>", "<bndbox> occurs twice"),
        ("</bndbox>", "</bndbox><difficult>2</difficult>", "difficult must be 0 or 1, got '2'"),
        ("<xmax>30</xmax>", "<xmax>5</xmax>", "has no area"),
        ("<xmin>11</xmin>", "<xmin/>", "as numbers"),
        ("bndbox", "polygon", "as numbers"),
    ],
)
def test_objects_out_of_order(tmp_path, old, new, reason):
    assert old in OBJECT
    make(tmp_path, ["a"], objects=OBJECT + OBJECT.replace(old, new).replace("11</ymin>", "12</ymin>"))
    store, (problem,) = Voc(str(tmp_path)).read("train")
    assert store.boxes.tolist() == [BOX]
    assert problem.record == "object 2 (cat)"
    assert problem.action == BOX_LEFT_OUT
    assert reason in problem.reason


def test_objects_in_order(tmp_path):
    """Floats, corners counted from 0, words for difficult, identical objects, parts."""
    boxes = OBJECT.replace("30<", "30.0<")
    boxes += OBJECT.replace("11</xmin>", "0</xmin>").replace("</bndbox>", "</bndbox><difficult>True</difficult>")
    boxes += OBJECT.replace("</bndbox>", f"</bndbox><part>{OBJECT}</part><difficult> </difficult>")
    store, problems = Voc(str(make(tmp_path, ["a"], objects=boxes))).read("train")
    np.testing.assert_allclose(store.boxes, [BOX, [0, 10, 30, 40]])
    assert store.ignored.tolist() == [False, True]
    assert [(p.record, p.action, p.harmless) for p in problems] == [
        ("object 2 (cat)", BOX_CLIPPED, True),
        ("object 3 (cat)", BOX_LEFT_OUT, True),
    ]


def test_other_xml_is_no_annotation(tmp_path):
    make(tmp_path, ["a", "b"])
    (tmp_path / "Annotations/a.xml").write_text("﻿<annotations><image name='a.jpg'/></annotations>")
    (tmp_path / "Annotations/b.xml").write_bytes(f"﻿<annotation>{OBJECT}</annotation>".encode())
    store, (problem,) = Voc(str(tmp_path)).read("train")
    assert list(store.ids) == ["b"]
    assert problem.reason == "not an annotation of VOC: it holds <annotations>"


def test_images_without_annotation_are_counted(tmp_path):
    """Where the annotations are the split; a list names the images that belong to it."""
    make(tmp_path, ["a", "b", "c", "d"])
    for name in ("c", "d"):
        (tmp_path / f"Annotations/{name}.xml").unlink()
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    store, problems = Voc(str(tmp_path)).read("all")
    assert list(store.ids) == ["a", "b"]
    assert [(p.file, p.action, p.harmless) for p in problems] == [
        (str(tmp_path / f"JPEGImages/{name}.jpg"), IMAGE_LEFT_OUT, True) for name in ("c", "d")
    ]
    assert Voc(str(tmp_path)).read("train")[1] == []


def test_two_images_whose_names_differ_in_case(tmp_path):
    make(tmp_path, ["img"], filename="none")
    image = tmp_path / "JPEGImages/img.jpg"
    for name in ("IMG.jpg", "Img.jpg"):
        image.with_name(name).write_bytes(image.read_bytes())
    image.unlink()
    store, problems = Voc(str(tmp_path)).read("train")
    assert len(store) == 0
    assert "IMG.jpg and Img.jpg are both there, and <filename> names neither" in problems[0].reason


def test_names_that_are_not_utf8_are_reported(tmp_path):
    make(tmp_path, ["a"])
    for folder, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        source = tmp_path / folder / f"a.{suffix}"
        Path(os.fsdecode(os.fsencode(source.parent) + b"/\xfc." + suffix.encode())).write_bytes(source.read_bytes())
    store, problems = Voc(str(tmp_path)).read("all")
    assert list(store.ids) == ["a"]
    assert [p.reason for p in problems] == ["its name is not UTF-8"] * 2
    assert not any(p.harmless for p in problems)
