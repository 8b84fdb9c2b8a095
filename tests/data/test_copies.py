"""Records that are there twice, boxes that reach a little beyond, keys that contradict each other; COCO's odd names."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.json_files import edit

from lightning_det.annotations import DatasetError, LabelMap
from lightning_det.annotations.problems import BOX_CLIPPED, BOX_LEFT_OUT, IMAGE_LEFT_OUT, Problem, refuse
from lightning_det.data.classes import choose_classes
from lightning_det.data.coco import Coco
from lightning_det.data.splits import find_misspelt, match_classes, nothing_to_learn
from lightning_det.evaluation.coco import evaluate
from lightning_det.evaluation.measurable import explain_undefined
from lightning_det.evaluation.results import Results


def perfect(store):
    """AP of a detector that finds every object once."""
    image = np.repeat(np.arange(len(store)), np.diff(store.offsets))
    rows = np.unique(np.c_[image, store.labels, store.boxes], axis=0, return_index=True)[1]
    rows = rows[~store.ignored[rows]]
    scores = np.linspace(1, 0.5, len(rows)).astype(np.float32)
    boxes, labels = store.boxes[rows].astype(np.float32), store.labels[rows].astype(np.int64)
    return evaluate(store, Results(image[rows], boxes, scores, labels, np.arange(len(store)))).ap()


def test_identical_boxes_are_one(coco_folder):
    """Crowds too; a training goes on without the copies, and says so."""

    def twice(content):
        content["annotations"] += [a | {"id": a["id"] + 1000} for a in content["annotations"]]

    edit(coco_folder, twice)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert (store.num_boxes, store.ignored.sum()) == (6, 1)
    assert perfect(store) == pytest.approx(1)
    assert {p.record for p in problems} == {f"annotation {100 * n + k + 1000}" for n in range(4) for k in range(n)}
    assert problems[0].reason == "box is identical to that of annotation 100"
    assert {(p.action, p.harmless) for p in problems} == {(BOX_LEFT_OUT, True)}
    refuse(problems, "dataset.train")


def test_almost_identical_boxes_are_two(coco_folder):
    def more(content):
        first = content["annotations"][0]
        x, *rest = first["bbox"]
        content["annotations"] += [
            first | {"id": 1, "bbox": [x + 1e-9, *rest]},
            first | {"id": 2, "category_id": 90},
            first | {"id": 3, "iscrowd": 1},
        ]

    edit(coco_folder, more)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert (store.num_boxes, problems) == (9, [])


@pytest.mark.parametrize("name", ["2.jpg", "./2.jpg", "link.jpg", "train2017/2.jpg", ".\\2.jpg"])
def test_images_that_are_listed_under_two_ids(coco_folder, name):
    """The first mention gets the boxes of both, once each, though the one or the other has none."""
    (coco_folder / "train2017/link.jpg").symlink_to("2.jpg")

    def again(content):
        content["images"] += [content["images"][2] | {"id": 99, "file_name": name}]
        content["annotations"][1]["image_id"] = 99
        content["annotations"] += [content["annotations"][1] | {"id": 1000, "image_id": 20}]

    edit(coco_folder, again)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert [store.source_id(i) for i in range(len(store))] == [0, 10, 20, 30]
    assert np.diff(store.offsets).tolist() == [0, 1, 2, 3]
    assert perfect(store) == pytest.approx(1)
    image, box = problems
    assert (image.record, image.action, image.harmless) == ("image 99", IMAGE_LEFT_OUT, False)
    assert image.reason == "its file is that of image 20 (2.jpg), which gets its boxes"
    assert (box.action, box.harmless) == (BOX_LEFT_OUT, True)
    with pytest.raises(DatasetError, match="1 x image left out"):
        refuse(problems, "dataset.train")


@pytest.mark.parametrize(
    ("right", "clipped", "harmless"),
    [(64.0, False, None), (64.1, False, None), (64.2, True, True), (65.0, True, True), (65.1, True, False)],
)
def test_boxes_that_reach_beyond_their_image(coco_folder, right, clipped, harmless):
    """By a pixel where that is more than a hundredth of the side."""
    edit(coco_folder, lambda c: c["annotations"][0].update(bbox=[60, 3, right - 60, 9]))
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert store.boxes[0].tolist() == pytest.approx([60, 3, 64 if clipped else right, 12])
    assert [(p.action, p.harmless) for p in problems] == [(BOX_CLIPPED, harmless)] * clipped


def test_a_hundredth_of_a_large_image(coco_folder):
    from support.datasets import write_image

    write_image(coco_folder / "train2017/1.jpg", 1000, 500)

    def change(content):
        content["images"][1].update(width=1000, height=500)
        first = content["annotations"][0]
        first["bbox"] = [900, 400, 109, 104]
        content["annotations"] += [first | {"id": 1, "bbox": [900, 400, 111, 50]}]
        content["annotations"] += [first | {"id": 2, "bbox": [900, 400, 90, 106]}]

    edit(coco_folder, change)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert store.boxes[:3].tolist() == [[900, 400, 1000, 500], [900, 400, 1000, 450], [900, 400, 990, 500]]
    assert [p.harmless for p in problems] == [True, False, False]


def test_shares_of_the_image_are_no_pixels(coco_folder):
    """Where all boxes lie within a pixel; one that does is a small object."""
    edit(coco_folder, lambda c: [a.update(bbox=[0.1, 0.2, 0.3, 0.5]) for a in c["annotations"]] and None)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert (store.num_boxes, len(problems)) == (0, 6)
    assert "shares of the image instead of pixels?" in problems[0].reason
    assert not any(p.harmless for p in problems)
    edit(coco_folder, lambda c: c["annotations"][3].update(bbox=[1, 2, 30, 50]))
    assert Coco(str(coco_folder)).read("train2017")[0].num_boxes == 6


def test_what_skip_does_is_said_in_words_of_its_own():
    out, clip = Problem("f", "1", "r", BOX_LEFT_OUT), Problem("f", "2", "r", BOX_CLIPPED)
    for problems, words in (
        ([out], r"go on without these records \(1 x box left out\)\."),
        ([clip, clip], r"go on with 2 x box clipped to the image\."),
        ([out, clip], r"go on without these records \(1 x box left out\) and with 1 x box clipped to the image\."),
    ):
        with pytest.raises(DatasetError, match=words):
            refuse(problems, "dataset.train")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"images": [', '"images": [], "images": [', "images"),
        ('"bbox": [', '"bbox": [1, 1, 2, 2], "bbox": [', "bbox"),
        ('"name": "cat"', '"name": "cat", "name": "bird"', "name"),
    ],
)
def test_keys_that_occur_twice_are_refused(coco_folder, old, new, key):
    file = coco_folder / "annotations/instances_train2017.json"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DatasetError, match=f"the key '{key}' occurs twice in one object"):
        Coco(str(coco_folder)).read("train2017")


@pytest.mark.parametrize(
    "name",
    ["train2017/{}", "./{}", "train2017\\{}", ".\\{}", "coco/train2017/{}", "sub/{}", "sub\\{}", "linked/{}", "é {}"],
)
def test_file_names_that_mean_a_file(coco_folder, tmp_path, name):
    folder = coco_folder / "train2017"
    for below in ("sub", "é "):
        (folder / below).parent.mkdir(exist_ok=True)
    (folder / "sub").mkdir()
    (tmp_path / "outside").mkdir()
    (folder / "linked").symlink_to(tmp_path / "outside")
    for number in range(4):
        data = (folder / f"{number}.jpg").read_bytes()
        for place in ("sub/", "linked/", "é "):
            (folder / f"{place}{number}.jpg").write_bytes(data)

    def change(content):
        for image in content["images"]:
            image["file_name"] = name.format(image["file_name"])

    edit(coco_folder, change)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert problems == []
    assert all(store.path(i).is_file() for i in range(4))
    assert store.num_boxes == 6


@pytest.mark.parametrize(
    "name", ["http://images.cocodataset.org/train2017/1.jpg", "val2017/1.jpg", "..\\val2017\\1.jpg", "", "."]
)
def test_file_names_that_mean_none(coco_folder, name):
    edit(coco_folder, lambda c: c["images"][1].update(file_name=name))
    store, (problem,) = Coco(str(coco_folder)).read("train2017")
    assert (len(store), problem.action) == (3, IMAGE_LEFT_OUT)
    assert problem.record == "image 10"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_json_of_windows(coco_folder, encoding):
    file = coco_folder / "annotations/instances_train2017.json"
    file.write_bytes(file.read_text().encode(encoding))
    assert Coco(str(coco_folder)).read("train2017")[0].num_boxes == 6


def test_crowds_alone_are_named(coco_folder):
    edit(coco_folder, lambda c: [a.update(iscrowd=1) for a in c["annotations"]] and None)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert problems == []
    assert "all 6 boxes have iscrowd 1 (COCO) or difficult 1 (VOC)" in nothing_to_learn(store)
    edit(coco_folder, lambda c: c.update(annotations=[]))
    assert nothing_to_learn(Coco(str(coco_folder)).read("train2017")[0]).startswith("no box to learn from; choose")


def test_classes_of_the_splits_are_matched_by_name(coco_folder, caplog):
    def other_order(content):
        content["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
        for a in content["annotations"]:
            a["category_id"] = {7: 2, 90: 1}[a["category_id"]]

    edit(coco_folder, other_order, "val2017")
    train, val = (Coco(str(coco_folder)).read(s)[0] for s in ("train2017", "val2017"))
    assert val.label_map.names == ("dog", "cat")
    found = match_classes(val, train.label_map)
    assert found.label_map.names == ("cat", "dog")
    assert found.labels.tolist() == train.labels.tolist()
    assert found.label_map.source_ids == (2, 1)
    assert "the same classes in another order" in caplog.text
    assert match_classes(train, train.label_map).labels.tolist() == train.labels.tolist()
    # A class that is not validated is one that is not measured; one that is not learned is refused.
    wider = LabelMap(["bird", "cat", "dog"])
    assert match_classes(val, wider).labels.tolist() == (train.labels + 1).tolist()
    assert "misses bird" in caplog.text
    with pytest.raises(DatasetError, match=r"dataset\.val misses bird and has also dog"):
        match_classes(val, LabelMap(["bird", "cat"]))


def test_classes_that_may_be_one():
    assert find_misspelt(LabelMap(["cat", "traffic light", "Cat", "dog", "trafficlight ", "CAT"])) == [
        "cat",
        "Cat",
        "CAT",
        "traffic light",
        "trafficlight ",
    ]
    assert find_misspelt(LabelMap(["cat", "cats"])) == []


def test_problems_are_plain_data(coco_folder):
    edit(coco_folder, lambda c: c["annotations"][0].update(bbox=[60, 3, 4.5, 9]))
    (problem,) = Coco(str(coco_folder)).read("train2017")[1]
    assert Problem(**json.loads(json.dumps(problem.to_dict()))) == problem


def test_some_boxes_that_look_like_pixels_do_not_hide_shares(coco_folder):
    """Boxes whose rounded sum exceeds 1, and one that is no box."""

    def change(content):
        first = content["annotations"][0] | {"bbox": [0.123457, 0.2, 0.876544, 0.3]}
        content["annotations"] = [first | {"id": n} for n in range(38)]
        content["annotations"] += [first | {"id": 38, "bbox": [5, 5, 9, 9]}, first | {"id": 39, "bbox": [1, 1, 0, 5]}]

    edit(coco_folder, change)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert store.boxes.tolist() == [[5, 5, 14, 14]]
    assert sum("shares of the image instead of pixels?" in p.reason for p in problems) == 38
    assert len([p for p in problems if not p.harmless]) == 39


@pytest.mark.parametrize("others", ["ignore", "background"])
def test_classes_that_are_left_out_are_named_where_nothing_else_is_there(coco_folder, others):
    store, _ = Coco(str(coco_folder)).read("train2017")
    absent = replace(store, label_map=LabelMap([*store.label_map.names, "cow"], [*store.label_map.source_ids, 900]))
    chosen = choose_classes(absent, ["cow"], others)
    assert "boxes are of classes that dataset.classes leaves out (" in nothing_to_learn(chosen)
    assert store.label_map.names[int(store.labels[0])] in nothing_to_learn(chosen)
    assert explain_undefined(chosen) == f"all {store.num_boxes} boxes are of classes that dataset.classes leaves out"
