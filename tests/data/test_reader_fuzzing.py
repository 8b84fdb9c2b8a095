"""Annotation files with something wrong in them are read or refused, and what is wrong is named."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.datasets import write_image

from lightning_det.annotations import DatasetError
from lightning_det.data.coco import Coco
from lightning_det.data.voc import Voc
from lightning_det.data.yolo import Yolo

EXAMPLES = 80

FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

CHARACTERS = st.characters(exclude_categories=["Cs"])
"""All that UTF-8 has, as by default, which looks at every one of them for it, for seconds."""

STRANGE = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 7, 2**31, 2**53, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308),
        *(math.nan, math.inf, -math.inf, "", " ", "7", "nan", "0x1", "1_0", "\x00", "a\nb", "\ud800", "名.jpg"),
        *("../0.jpg", "/etc/passwd", ".", "..", "x" * 300, [], [[]], [None], [1, 2, 3, 4], [math.nan] * 4, {}),
        *([[[[1]]]], {"id": 1}, {"a": {"b": []}}),
    ]
) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(CHARACTERS, max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(CHARACTERS, max_size=3), inner, max_size=3),
    max_leaves=6,
)
"""Values that do not belong where they are put."""

TEXTS = st.sampled_from(
    [
        *("", " ", "nan", "inf", "-inf", "1e999", "-1", "0", "1.5", "9" * 5000, "\x00", "é", "\u2028", "../i1", ".."),
        *("/etc/passwd", "&lol;", "<a>", "</object>", "]]>", "<!--", "x" * 300, "\u00a0", "{", "[a, b]", "*a"),
        "!!int x",
    ]
) | st.text(CHARACTERS, max_size=6)
"""Pieces of text that do not belong into an annotation file."""


def places(value, path=()):
    """Paths to every value in a structure, containers included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(draw, content):
    """Plain data after a few mutations: values replaced, keys dropped, entries doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                content = copy.deepcopy(draw(STRANGE))
            continue
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "delete", "double"]))
        if kind == "replace":
            parent[path[-1]] = copy.deepcopy(draw(STRANGE))  # the drawn one is drawn again
        elif kind == "delete":
            del parent[path[-1]]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
    return content


def damaged(draw, data):
    """Bytes after a few mutations: cut off, overwritten, text put in."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["cut", "byte", "text", "token", "remove"]))
        if kind == "cut":
            del data[at:]
        elif kind == "byte":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=2))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 12))]
        else:
            piece = draw(TEXTS).encode("utf-8", "surrogatepass")
            end = at if kind == "text" else min((i for i in map(data.find, b" <\n:", [at] * 4) if i > at), default=at)
            data[at:end] = piece
    return bytes(data)


def outcome(reader, split, file):
    """Reads, and checks what every outcome has to be like."""
    with np.errstate(all="raise", under="ignore"):
        refused = None
        try:
            store, problems = reader.read(split)
        except DatasetError as error:
            refused = str(error)
    if refused is not None:
        assert file.name in refused or str(reader.root) in refused
        return
    for problem in problems:
        assert Path(problem.file).is_relative_to(reader.root)
        assert problem.reason
        assert problem.action
        # A whole file is a record where it holds one image; anything else says which of the file's records.
        assert problem.record or Path(problem.file).suffix not in (".json", ".yaml")
        str(problem).encode()
        assert str(problem).isprintable()
    assert len(set(store.ids)) == len(store)
    assert store.offsets[0] == 0
    assert store.offsets[-1] == store.num_boxes == len(store.boxes)
    for i in range(len(store)):
        record = store.record(i)
        assert store.path(i).resolve().is_relative_to(reader.root.resolve())
        assert np.isfinite(record.boxes).all()
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all()
        assert (record.labels < len(store.label_map)).all()
        assert np.isfinite(store.areas).all()


@pytest.mark.slow
def test_coco_with_anything_in_it(coco_folder):
    file = coco_folder / "annotations/instances_train2017.json"
    whole = json.loads(file.read_text())

    @FUZZ
    @given(st.data())
    def check(data):
        file.write_text(json.dumps(changed(data.draw, whole)))
        outcome(Coco(str(coco_folder)), "train2017", file)

    check()


@pytest.mark.slow
def test_coco_with_damaged_bytes(coco_folder):
    file = coco_folder / "annotations/instances_train2017.json"
    whole = file.read_bytes()

    @FUZZ
    @given(st.data())
    def check(data):
        file.write_bytes(damaged(data.draw, whole))
        outcome(Coco(str(coco_folder)), "train2017", file)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Annotations/i0.xml", "ImageSets/Main/train.txt"])
def test_voc_with_damaged_bytes(voc_folder, name):
    file = voc_folder / name
    whole = file.read_bytes()

    @FUZZ
    @given(st.data())
    def check(data):
        file.write_bytes(damaged(data.draw, whole))
        outcome(Voc(str(voc_folder)), "train", file)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labels/train/0.txt", "data.yaml", "list.txt"])
def test_yolo_with_damaged_bytes(yolo_folder, name):
    file = yolo_folder / name
    if name == "list.txt":
        file.write_text("images/train/0.png\n./images/train/1.png\n")
        (yolo_folder / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
    whole = file.read_bytes()

    @FUZZ
    @given(st.data())
    def check(data):
        file.write_bytes(damaged(data.draw, whole))
        outcome(Yolo(str(yolo_folder)), "train", file)

    check()


def test_yolo_descriptions_with_anything_in_them(yolo_folder):
    file = yolo_folder / "data.yaml"
    whole = {"path": "..", "train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}, "nc": 2}
    whole |= {"kpt_shape": [1, 2]}

    @FUZZ
    @given(st.data())
    def check(data):
        # Json is YAML too, except for surrogates.
        text = json.dumps(changed(data.draw, whole), ensure_ascii=data.draw(st.booleans()))
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        outcome(Yolo(str(yolo_folder)), "train", file)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_with_damaged_bytes(coco_folder, suffix):
    file = coco_folder / f"train2017/1.{suffix}"
    write_image(file)
    annotations = coco_folder / "annotations/instances_train2017.json"
    annotations.write_text(annotations.read_text().replace("1.jpg", file.name))
    whole = file.read_bytes()

    @FUZZ
    @given(st.data())
    def check(data):
        file.write_bytes(damaged(data.draw, whole))
        outcome(Coco(str(coco_folder)), "train2017", file)

    check()
