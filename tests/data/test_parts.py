"""Subsets of classes, several folders, and images held out for validation."""

import numpy as np
import pytest
import torch
from support.datasets import make_coco, make_yolo
from support.stores import make_store

from lightning_det.annotations import DatasetError, LabelMap
from lightning_det.annotations.labels import ANY_CLASS
from lightning_det.annotations.strings import Strings
from lightning_det.data.classes import check_classes, choose_classes
from lightning_det.data.coco import Coco
from lightning_det.data.dataset import Collate, Look, Sample
from lightning_det.data.folders import folders_of, join
from lightning_det.data.holdout import held_out
from lightning_det.data.yolo import Yolo
from lightning_det.evaluation.coco import evaluate
from lightning_det.evaluation.results import Results
from lightning_det.protocols.structures import State
from lightning_det.system.errors import ConfigError
from lightning_det.views.targets import targets
from lightning_det.views.view import View

BOXES = [(0, 0, 0, 20, 20, 0), (0, 30, 0, 50, 20, 0), (1, 0, 0, 20, 20, 0), (1, 30, 0, 50, 20, 1)]
"""Of cat, dog, cat and dog in two images; the last one is ignored."""


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path, [(64, 48)] * 2, BOXES)


@pytest.fixture
def larger(coco_folder):
    """Cats and dogs with source ids 7 and 90, in four images; two of the nine boxes are crowds."""
    return Coco(str(coco_folder)).read("train2017")[0]


def test_other_classes_as_background(store):
    chosen = choose_classes(store, ["dog"], "background")
    assert chosen.label_map.names == ("dog",)
    assert chosen.label_map.source_ids == (1,)
    assert chosen.labels.tolist() == [0, 0]
    assert chosen.offsets.tolist() == [0, 1, 2]
    assert chosen.ignored.tolist() == [False, True]
    assert chosen.other_classes == {"cat": 2}
    assert len(chosen) == 2  # images without a box of the class stay


def test_other_classes_as_ignored_regions(store):
    chosen = choose_classes(store, ["dog"], "ignore")
    assert chosen.labels.tolist() == [ANY_CLASS, 0, ANY_CLASS, 0]
    assert chosen.ignored.tolist() == [True, False, True, True]
    assert chosen.num_boxes == 4
    view = View(1.0, (0, 0, 64, 48))
    assert targets(chosen.record(0), view).states.tolist() == [State.IGNORED, State.VALID]
    sample = Sample(Look(0, view), torch.zeros(3, 48, 64, dtype=torch.uint8), targets(chosen.record(0), view))
    assert Collate()([sample]).labels[0, :2].tolist() == [0, 0]  # a detector takes labels as positions
    renumbered = chosen.with_labels(LabelMap(["cat", "dog"]))
    assert renumbered.labels.tolist() == [ANY_CLASS, 1, ANY_CLASS, 1]


def test_classes_are_numbered_in_the_given_order(larger):
    chosen = choose_classes(larger, ["dog", "cat"], "background")
    assert chosen.label_map.source_ids == (90, 7)
    assert (chosen.labels == 1 - larger.labels).all()
    assert chosen.other_classes == {}


def test_a_class_that_a_split_lacks_has_no_boxes(store):
    chosen = choose_classes(store, ["bird", "cat"], "background")
    assert chosen.labels.tolist() == [1, 1]
    assert chosen.label_map.source_ids == (2, 0)


def test_unknown_classes_are_refused_with_the_valid_ones(store):
    with pytest.raises(DatasetError, match=r"dataset.classes: no class bird, fish; there are cat, dog"):
        check_classes(["bird", "cat", "fish"], store.label_map)
    with pytest.raises(DatasetError, match="none of bird; there are cat, dog"):
        choose_classes(store, ["bird"], "background")
    with pytest.raises(ValueError, match="dog occurs twice"):
        choose_classes(store, ["dog", "dog"], "background")


@pytest.mark.parametrize(("others", "precision"), [("ignore", 1.0), ("background", 0.5)])
def test_detections_on_other_classes(store, others, precision):
    """They are no false alarms where the other classes are ignored, whatever class was detected."""
    chosen = choose_classes(store, ["dog", "bird"], others)
    boxes = np.array([[0, 0, 20, 20], [30, 0, 50, 20]], np.float32)
    found = Results(np.array([0, 0]), boxes, np.array([0.9, 0.8], np.float32), np.array([0, 0]), np.array([0, 1]))
    ap50 = evaluate(chosen, found).figures()["AP50"]
    assert ap50 == pytest.approx(precision, abs=0.01)


def test_folders_and_patterns(tmp_path):
    for name in ("a1", "a2", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a3.txt").write_text("")
    assert folders_of(f"{tmp_path}/a*") == [f"{tmp_path}/a1", f"{tmp_path}/a2"]
    assert folders_of([f"{tmp_path}/b", f"{tmp_path}/*"]) == [f"{tmp_path}/{name}" for name in ("b", "a1", "a2")]
    assert folders_of("nowhere") == ["nowhere"]  # the reader says that it does not exist
    with pytest.raises(ConfigError, match=r"dataset.root=.*/c\*: the pattern matches no folder"):
        folders_of(f"{tmp_path}/c*")
    for root in ([], 3, [3], {"a": 1}):
        with pytest.raises(ConfigError, match=r"dataset.root must be a folder"):
            folders_of(root)


def test_joined_folders(tmp_path, caplog):
    stores = [Coco(str(make_coco(tmp_path / name))).read("train2017")[0] for name in ("a", "b")]
    problems = []
    with caplog.at_level("INFO"):
        joined = join(stores, problems, None)
    assert problems == []
    assert "4 image ids occur in several folders" in caplog.text
    assert len(joined) == 8
    assert joined.num_boxes == 2 * stores[0].num_boxes
    assert [joined.ids[i] for i in (0, 4)] == ["a/train2017/0", "b/train2017/0"]
    assert joined.path(5) == tmp_path / "b/train2017/1.jpg"
    assert joined.record(7).boxes.tolist() == stores[1].record(3).boxes.tolist()
    assert joined.label_map == stores[0].label_map
    assert joined.source_id(0) == "a/train2017/0"


def test_ids_that_differ_stay_as_they_are(larger):
    first, second = larger.select(np.array([0, 1])), larger.select(np.array([2, 3]))
    joined = join([first, second], [], None)
    assert [joined.source_id(i) for i in range(4)] == [0, 10, 20, 30]


def test_joined_classes_are_matched_by_name(tmp_path):
    stores = [Yolo(str(make_yolo(tmp_path / name))).read("train")[0] for name in ("a", "b")]
    turned = stores[1].with_labels(LabelMap(["dog", "cat"]))
    assert join([stores[0], turned], [], None).labels.tolist() == stores[0].labels.tolist() * 2


def test_joined_folders_with_other_classes(tmp_path, caplog):
    first = Yolo(str(make_yolo(tmp_path / "a"))).read("train")[0]
    second = Yolo(str(make_yolo(tmp_path / "b"))).read("train")[0]
    second = second.with_labels(LabelMap(["cat", "dog", "bird"]))
    with pytest.raises(DatasetError, match=r"has also bird.*dataset.classes=\[cat,dog,bird\]"):
        join([first, second], [], None)
    with caplog.at_level("WARNING"):
        joined = join([first, second], [], ["cat", "bird"])
    assert joined.label_map.names == ("cat", "dog", "bird")
    assert "has no class bird" in caplog.text


def test_files_that_two_folders_share_are_left_out_once(tmp_path):
    root = make_yolo(tmp_path / "a")
    (tmp_path / "b").symlink_to(root)
    stores = [Yolo(str(folder)).read("train")[0] for folder in (root, tmp_path / "b")]
    problems = []
    joined = join(stores, problems, None)
    assert len(joined) == 3
    assert [p.action for p in problems] == ["second mention left out"] * 3


def named(tmp_path, names):
    store = make_store(tmp_path, [(64, 48)] * len(names))
    store.files = Strings.pack(names)
    return store


@pytest.mark.parametrize(("count", "share", "expected"), [(100, 0.2, 20), (5, 0.2, 1), (2, 0.9, 1), (3, 0.01, 1)])
def test_held_out_share(tmp_path, count, share, expected):
    assert held_out(named(tmp_path, [f"{n}.jpg" for n in range(count)]), share).sum() == expected


def test_held_out_images_depend_on_names_only(tmp_path):
    names = [f"{n}.jpg" for n in range(100)]
    chosen = {name for name, held in zip(names, held_out(named(tmp_path, names), 0.2), strict=True) if held}
    turned = names[::-1]
    again = {name for name, held in zip(turned, held_out(named(tmp_path, turned), 0.2), strict=True) if held}
    assert chosen == again
    more = [*names, *(f"{n}.jpg" for n in range(100, 110))]
    later = {name for name, held in zip(more, held_out(named(tmp_path, more), 0.2), strict=True) if held}
    assert len(chosen - later) <= 4


def test_copies_of_an_image_are_not_divided(tmp_path):
    names = [f"{n}_jpg.rf.{copy}.jpg" for n in range(20) for copy in range(3)]
    held = held_out(named(tmp_path, names), 0.2).reshape(20, 3)
    assert (held.all(axis=1) == held.any(axis=1)).all()
    assert held.sum() == 12


def test_one_image_cannot_be_divided(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset.holdout=0.2: 1 images cannot be divided"):
        held_out(named(tmp_path, ["a.jpg"]), 0.2)
