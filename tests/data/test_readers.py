"""COCO, VOC and YOLO annotations, in order and out of order."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import read_folder
from support.json_files import edit

from lightning_det.annotations import DatasetError, LabelMap
from lightning_det.annotations.arrays import load_arrays, save_arrays
from lightning_det.annotations.problems import BOX_CLIPPED, BOX_LEFT_OUT, IMAGE_LEFT_OUT
from lightning_det.annotations.store import AnnotationStore
from lightning_det.annotations.strings import Strings
from lightning_det.data import cache, headers
from lightning_det.data.coco import Coco
from lightning_det.data.orientation import ORIENTATION
from lightning_det.data.sizes import image_size
from lightning_det.data.voc import Voc
from lightning_det.data.yolo import Yolo


def test_coco(coco_folder):
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert problems == []
    assert len(store) == 4
    assert store.num_boxes == 6
    assert store.label_map == LabelMap(["cat", "dog"], [7, 90])
    assert store.source_id(3) == 30
    record = store.record(3)
    assert (record.width, record.height) == (64, 48)
    assert record.boxes.tolist() == [[2.5, 3, 12.5, 23.5], [14.5, 3, 24.5, 23.5], [26.5, 3, 36.5, 23.5]]
    assert record.labels.tolist() == [0, 1, 1]
    assert record.ignored.tolist() == [False, False, True]
    assert store.areas[-1] == 150.5
    assert len(store.record(0).boxes) == 0
    assert store.path(2).is_file()


def test_string_ids_and_missing_areas_are_fine(coco_folder):
    def change(content):
        for image in content["images"]:
            image["id"] = f"a{image['id']}"
        for a in content["annotations"]:
            a["image_id"] = f"a{a['image_id']}"
            if a["id"] % 2:
                a["area"] = 0
            else:
                del a["area"]

    edit(coco_folder, change)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert problems == []
    assert store.source_id(1) == "a10"
    assert store.areas.tolist() == [205.0] * 6


def broken(key, value, where="annotations", index=0):
    def change(content):
        content[where][index][key] = value

    return change


def without(key, where="annotations", index=0):
    def change(content):
        del content[where][index][key]

    return change


@pytest.mark.parametrize(
    ("change", "record", "reason", "action"),
    [
        (broken("bbox", [1, 1, 0, 5]), "annotation 100", "has no area", BOX_LEFT_OUT),
        (broken("bbox", [9, 9, -4, 5]), "annotation 100", "has no area", BOX_LEFT_OUT),
        (broken("bbox", [1, 1, float("nan"), 5]), "annotation 100", "NaN or infinite", BOX_LEFT_OUT),
        (broken("bbox", [100, 1, 5, 5]), "annotation 100", "outside the 64 x 48 image", BOX_LEFT_OUT),
        (broken("bbox", [60, 1, 9, 5]), "annotation 100", "reaches beyond", BOX_CLIPPED),
        (broken("bbox", [1, 1, 5]), "annotation 100", "must be four numbers", BOX_LEFT_OUT),
        (broken("bbox", "1 1 5 5"), "annotation 100", "must be four numbers", BOX_LEFT_OUT),
        (broken("bbox", [10**400, 1, 5, 5]), "annotation 100", "must be four numbers", BOX_LEFT_OUT),
        (broken("category_id", 8), "annotation 100", "none of the file's categories", BOX_LEFT_OUT),
        (broken("category_id", "7"), "annotation 100", "none of the file's categories", BOX_LEFT_OUT),
        (broken("image_id", 999), "annotation 100", "is no image of the file", BOX_LEFT_OUT),
        (broken("image_id", None), "annotation 100", "neither an integer nor a text", BOX_LEFT_OUT),
        (broken("id", 201), "annotation 201", "occurs twice", BOX_LEFT_OUT),
        (without("bbox"), "annotation 100", '"bbox" is missing', BOX_LEFT_OUT),
        (broken("id", 20, "images", 1), "image 20", "occurs twice", IMAGE_LEFT_OUT),
        (without("file_name", "images", 1), "image 10", '"file_name" is missing', IMAGE_LEFT_OUT),
        (broken("file_name", "gone.jpg", "images", 1), "image 10", "no file gone.jpg", IMAGE_LEFT_OUT),
        (broken("file_name", "../val2017/1.jpg", "images", 1), "image 10", "must be a path below", IMAGE_LEFT_OUT),
        (broken("file_name", "/etc/passwd", "images", 1), "image 10", "must be a path below", IMAGE_LEFT_OUT),
        (broken("file_name", "", "images", 1), "image 10", "must be a path below", IMAGE_LEFT_OUT),
        (broken("width", 48, "images", 1), "image 10", "annotated as 48 x 48, but 1.jpg is 64 x 48", IMAGE_LEFT_OUT),
        (broken("height", -3, "images", 1), "image 10", "must be positive integers", IMAGE_LEFT_OUT),
        (broken("height", float("inf"), "images", 1), "image 10", "must be positive integers", IMAGE_LEFT_OUT),
        (broken("id", True, "images", 1), "images[1]", '"id" is neither an integer', IMAGE_LEFT_OUT),
        (broken("id", "20", "images", 1), "image 20", "occurs twice", IMAGE_LEFT_OUT),
        (broken("file_name", "\ud800.jpg", "images", 1), "image 10", "must be a path below", IMAGE_LEFT_OUT),
        (broken("id", [1]), "annotation [0]", "neither an integer nor a text", BOX_LEFT_OUT),
        (broken("bbox", [1, True, 5, 5]), "annotation 100", "must be four numbers", BOX_LEFT_OUT),
        (broken("iscrowd", "0"), "annotation 100", "iscrowd '0' must be 0 or 1", BOX_LEFT_OUT),
        (broken("area", -1), "annotation 100", "area -1 must be", BOX_LEFT_OUT),
        (broken("area", float("nan")), "annotation 100", "area nan must be", BOX_LEFT_OUT),
    ],
)
def test_coco_names_every_bad_record(coco_folder, change, record, reason, action):
    file = edit(coco_folder, change)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert len(problems) >= 1
    problem = problems[0]
    assert problem.file == str(file)
    assert problem.record == record
    assert reason in problem.reason
    assert problem.action == action
    if action == IMAGE_LEFT_OUT:
        assert len(store) == 3
        # Its boxes went with it, and are not problems of their own.
        assert all(p.action == IMAGE_LEFT_OUT for p in problems) or "twice" in reason or '"id"' in reason
    else:
        assert len(store) == 4
        assert store.num_boxes == (6 if action == BOX_CLIPPED else 5)


def test_rounding_beyond_the_border_is_no_problem(coco_folder):
    edit(coco_folder, broken("bbox", [-0.04, 1, 64.05, 47.05]))
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert problems == []
    # Kept as annotated, so that evaluation agrees with COCO's.
    assert store.boxes[0].tolist() == pytest.approx([-0.04, 1, 64.01, 48.05])


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"images": [], "annotations": {}, "categories": []}', ""])
def test_what_is_no_coco_file_is_refused(coco_folder, content):
    file = coco_folder / "annotations" / "instances_train2017.json"
    file.write_text(content)
    with pytest.raises(DatasetError, match=r"instances_train2017\.json"):
        Coco(str(coco_folder)).read("train2017")


@pytest.mark.parametrize(
    "id_", [float("inf"), 1.5, "1", None, True, 2**60], ids=["inf", "1.5", "text", "null", "true", "large"]
)
def test_category_ids_are_integers(coco_folder, id_):
    edit(coco_folder, broken("id", id_, "categories", 1))
    with pytest.raises(DatasetError, match=r'unique integer "id".*categories\[1\]'):
        Coco(str(coco_folder)).read("train2017")


def test_other_placeholders_are_refused():
    with pytest.raises(ValueError, match=r"images=\{year\}: the only placeholder is \{split\}"):
        Coco("x", images="{year}")


@pytest.mark.parametrize("categories", [[], [{"id": 1}], [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], [3]])
def test_bad_categories_are_refused(coco_folder, categories):
    edit(coco_folder, lambda c: c | {"categories": categories})
    with pytest.raises(DatasetError, match="categor"):
        Coco(str(coco_folder)).read("train2017")


def test_wrong_root_says_what_is_expected(tmp_path):
    with pytest.raises(DatasetError, match=r"instances_SPLIT\.json"):
        Coco(str(tmp_path)).read("train2017")


def turn(path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.open(path).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_the_size_of_pixels_that_exif_turns_is_told_from_a_wrong_one(coco_folder, voc_folder, layout, orientation):
    if layout == "coco":
        image, read = coco_folder / "train2017" / "1.jpg", lambda: Coco(str(coco_folder)).read("train2017")
    else:
        image, read = voc_folder / "JPEGImages" / "i1.jpg", lambda: Voc(str(voc_folder)).read("train")
    turn(image, orientation)
    store, (problem,) = read()
    assert problem.action == IMAGE_LEFT_OUT
    assert problem.reason == (
        f"annotated as 64 x 48, but {image.name} is 48 x 64 as it is seen: it is stored as 64 x 48 and turned by its "
        f"Exif orientation {orientation}, so the annotations seem to be for the unturned pixels. Annotate it as it is "
        "seen, or take the orientation out of the file (exiftool -Orientation= FILE), which leaves its pixels as they "
        "are annotated"
    )
    assert image.name not in [Path(name).name for name in store.files]
    # What the message says helps.
    Image.open(image).save(image, exif=Image.Exif())
    assert read()[1] == []


def test_sizes_as_an_image_is_seen_are_right(coco_folder, voc_folder):
    turn(coco_folder / "train2017" / "1.jpg", 6)
    edit(coco_folder, broken("width", 48, "images", 1))
    edit(coco_folder, broken("height", 64, "images", 1))
    assert Coco(str(coco_folder)).read("train2017")[1] == []
    turn(voc_folder / "JPEGImages" / "i1.jpg", 3)  # upside down: as wide as before
    assert Voc(str(voc_folder)).read("train")[1] == []


def test_damaged_headers_are_problems(coco_folder):
    (coco_folder / "train2017" / "1.jpg").write_bytes(b"")
    (coco_folder / "train2017" / "2.jpg").write_bytes(b"not an image")
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert len(store) == 2
    assert problems[0].reason == "the file is empty"
    assert problems[1].reason.startswith("not an image of a kind that is read (BMP, GIF, JPEG, ")


@pytest.fixture
def caching(tmp_path, monkeypatch):
    """Files of any size are cached, and images as soon as they are written; the cache's folder."""
    monkeypatch.setattr(cache, "SMALLEST", 0)
    monkeypatch.setattr(headers, "FEWEST", 0)
    monkeypatch.setattr(headers, "SETTLED", 0)
    monkeypatch.setenv("LIGHTNING_DET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(first, second):
    """Whether two results of a reader are equal."""
    (store, problems), (again, others) = first, second
    arrays = ("widths", "heights", "offsets", "boxes", "labels", "ignored", "areas")
    return (
        problems == others
        and all(
            np.array_equal(getattr(store, name), getattr(again, name))
            and getattr(store, name).dtype == getattr(again, name).dtype
            for name in arrays
        )
        and (list(store.files), list(store.ids), store.label_map, store.integer_ids)
        == (list(again.files), list(again.ids), again.label_map, again.integer_ids)
    )


@pytest.mark.parametrize("ids", ["numbers", "texts"])
def test_cache_returns_the_same(coco_folder, caching, monkeypatch, ids):
    edit(coco_folder, broken("bbox", [1, 1, 0, 5]))
    if ids == "texts":
        edit(coco_folder, lambda c: c | {"images": [i | {"id": str(i["id"])} for i in c["images"]]})
        edit(
            coco_folder,
            lambda c: (
                c
                | {"annotations": [a | {"id": f"é{a['id']}", "image_id": str(a["image_id"])} for a in c["annotations"]]}
            ),
        )
    first = Coco(str(coco_folder)).read("train2017")
    assert len(list(caching.iterdir())) == 2
    # Neither is needed again.
    monkeypatch.setattr("lightning_det.data.coco.CocoFile", None)
    monkeypatch.setattr(headers, "check_all", None)
    second = Coco(str(coco_folder)).read("train2017")
    assert same(first, second)
    assert second[0].source_id(1) == (10 if ids == "numbers" else "10")
    assert [p.record for p in second[1]] == ["annotation 100" if ids == "numbers" else "annotation é100"]


@pytest.mark.parametrize("content", [b"", b"PK", bytes(100)])
def test_a_damaged_cache_is_made_anew(coco_folder, caching, content):
    first = Coco(str(coco_folder)).read("train2017")
    files = list(caching.iterdir())
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(content or whole[: len(whole) // 2])
    assert same(first, Coco(str(coco_folder)).read("train2017"))
    assert sorted(caching.iterdir()) == sorted(files)
    for file in files:
        assert load_arrays(file)


def altered(file, **changes):
    save_arrays(file, load_arrays(file) | changes)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("image_of_box", np.full(6, 99)),
        ("labels", np.full(6, -1, np.int32)),
        ("boxes", np.zeros((5, 4))),
        ("widths", np.zeros(3, np.int64)),
        ("rest", np.zeros(3, np.uint8)),
    ],
)
def test_a_cache_of_something_else_is_made_anew(coco_folder, caching, name, array):
    first = Coco(str(coco_folder)).read("train2017")
    file = next(f for f in caching.iterdir() if "boxes" in load_arrays(f))
    altered(file, **{name: array})
    assert same(first, Coco(str(coco_folder)).read("train2017"))


def test_a_cache_of_other_headers_is_made_anew(coco_folder, caching):
    first = Coco(str(coco_folder)).read("train2017")
    file = next(f for f in caching.iterdir() if "sizes" in load_arrays(f))
    altered(file, sizes=np.zeros((4, 3), np.int64))
    assert same(first, Coco(str(coco_folder)).read("train2017"))


def test_a_cache_that_cannot_be_written_costs_time_only(coco_folder, caching, caplog):
    caching.write_text("a file where the folder should be")
    first = Coco(str(coco_folder)).read("train2017")
    assert first[0].num_boxes == 6
    assert "not kept in the cache" in caplog.text


def names(problems):
    return {p.record or Path(p.file).name: p.reason.split(" (")[0] for p in problems}


def test_mended_and_damaged_images_are_noticed_beside_the_cache(coco_folder, caching):
    """The cache remembers annotations, and of images only that they were good."""
    images = coco_folder / "train2017"
    whole = {n: (images / f"{n}.jpg").read_bytes() for n in (1, 2)}
    (images / "1.jpg").unlink()
    (images / "2.jpg").write_bytes(whole[2][: len(whole[2]) // 2])
    edit(coco_folder, broken("bbox", [1, 1, 0, 5]))  # on the image that is missing
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert names(problems) == {"image 10": f"no file 1.jpg in {images}", "2.jpg": "damaged image"}
    assert list(store.files) == ["0.jpg", "3.jpg"]

    for n, content in whole.items():
        (images / f"{n}.jpg").write_bytes(content)
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert list(names(problems)) == ["annotation 100"]
    assert len(store) == 4

    times = os.stat(images / "3.jpg")
    content = bytearray((images / "3.jpg").read_bytes())
    (images / "3.jpg").write_bytes(content[:-40] + bytes(40))  # as long and, in a moment, as old as before
    os.utime(images / "3.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    (images / "1.jpg").unlink()
    store, problems = Coco(str(coco_folder)).read("train2017")
    assert list(names(problems)) == ["image 10", "3.jpg"]
    assert list(store.files) == ["0.jpg", "2.jpg"]


def test_an_image_that_changed_a_moment_ago_is_looked_at_again(coco_folder, caching, monkeypatch):
    monkeypatch.setattr(headers, "SETTLED", 3600)
    first = Coco(str(coco_folder)).read("train2017")
    looked = []
    monkeypatch.setattr(headers, "image_size", lambda path: looked.append(path.name) or image_size(path))
    assert same(first, Coco(str(coco_folder)).read("train2017"))
    assert sorted(looked) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_annotations_of_the_same_time_and_length_are_read_again(coco_folder, caching):
    file = coco_folder / "annotations" / "instances_train2017.json"
    assert Coco(str(coco_folder)).read("train2017")[0].label_map.names == ("cat", "dog")
    times = os.stat(file)
    file.write_text(file.read_text().replace('"cat"', '"cow"'))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Coco(str(coco_folder)).read("train2017")[0].label_map.names == ("cow", "dog")


def test_another_folder_of_images_is_looked_at_by_itself(coco_folder, caching):
    assert Coco(str(coco_folder)).read("train2017")[1] == []
    (coco_folder / "val2017" / "1.jpg").unlink()
    store, problems = Coco(str(coco_folder), images="val2017").read("train2017")
    assert store.root == coco_folder / "val2017"
    assert names(problems) == {"image 10": f"no file 1.jpg in {store.root}"}


def test_changed_annotations_are_read_again(coco_folder, caching):
    assert Coco(str(coco_folder)).read("train2017")[0].num_boxes == 6
    edit(coco_folder, lambda c: c | {"annotations": c["annotations"][:2]})
    assert Coco(str(coco_folder)).read("train2017")[0].num_boxes == 2


def test_voc(voc_folder):
    store, problems = Voc(str(voc_folder)).read("train")
    assert problems == []
    assert store.label_map.names == ("bird", "person")  # "head" is a part, no class
    record = store.record(0)
    # Inclusive corners counted from 1 become continuous ones.
    assert record.boxes.tolist() == [[0, 0, 30, 40], [30, 10, 64, 48]]
    assert record.labels.tolist() == [1, 0]
    assert record.ignored.tolist() == [False, True]
    assert store.source_id(1) == "i1"
    assert store.path(1) == voc_folder / "JPEGImages" / "i1.jpg"


def test_several_voc_years_read_as_one(voc_folder, tmp_path):
    (tmp_path / "kit").mkdir()
    for year in ("VOC2007", "VOC2012"):
        (tmp_path / "kit" / year).symlink_to(voc_folder)
    store, _ = Voc(str(tmp_path / "kit")).read(["VOC2007/train", "VOC2012/val"])
    assert len(store) == 3
    assert store.files[2] == "VOC2012/JPEGImages/i2.jpg"
    assert store.path(2).is_file()


def test_voc_images_of_several_folders_have_ids_of_their_own(voc_folder, tmp_path):
    (tmp_path / "kit").mkdir()
    for name in ("a", "b"):
        shutil.copytree(voc_folder, tmp_path / "kit" / name)
    store, problems = Voc(str(tmp_path / "kit")).read(["a/train", "b/train", "b/val", "b/val"])
    assert list(store.ids) == ["a/i0", "a/i1", "b/i0", "b/i1", "i2"]
    assert [p.reason for p in problems] == ["image i2 occurs twice"]


def test_voc_lists_of_anything_but_text_are_refused(voc_folder):
    (voc_folder / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"train\.txt: not a text file in UTF-8"):
        Voc(str(voc_folder)).read("train")


def test_what_a_problem_quotes_does_not_reach_the_terminal_as_it_is(coco_folder):
    edit(coco_folder, broken("id", "\x1b[2J\n", "images", 1))
    edit(coco_folder, without("width", "images", 1))
    _, (problem, *_) = Coco(str(coco_folder)).read("train2017")
    assert "image \\x1b[2J" in str(problem)
    assert str(problem).isprintable()


def test_symbolic_links_are_followed_and_paths_are_not(yolo_folder, tmp_path):
    """Whoever owns the folder made its links; an annotation file cannot make one."""
    outside = tmp_path / "outside.png"
    (yolo_folder / "images/train/2.png").rename(outside)
    (yolo_folder / "images/train/2.png").symlink_to(outside)
    (yolo_folder / "some.txt").write_text("images/train/2.png\n../outside.png\n" + str(outside))
    (yolo_folder / "data.yaml").write_text("train: some.txt\nnames: [cat, dog]\n")
    store, problems = Yolo(str(yolo_folder)).read("train")
    assert list(store.files) == ["images/train/2.png"]
    assert [p.record for p in problems] == ["line 2", "line 3"]


def test_voc_classes_in_a_given_order(voc_folder):
    store, problems = Voc(str(voc_folder), ["person", "cat"]).read("train")
    assert store.label_map.names == ("person", "cat")
    assert [p.reason for p in problems] == ["class 'bird' is not in dataset.source.classes"] * 2
    assert problems[0].record == "object 2"


@pytest.mark.parametrize(
    ("old", "new", "record", "reason"),
    [
        (
            "<xmin>1</xmin><ymin>1</ymin><xmax>30</xmax>",
            "<xmin>30</xmin><ymin>1</ymin><xmax>30</xmax>",
            "object 1",
            "no area",
        ),
        ("<xmax>30</xmax>", "<xmax>many</xmax>", "object 1", "as numbers"),
        ("<xmax>30</xmax>", "", "object 1", "as numbers"),
        ("<name>person</name>", "", "object 1", "no name"),
        ("<width>64</width>", "<width>65</width>", "size", "annotated as 65 x 48"),
        ("</annotation>", "", "", "not valid XML"),
        # Objects that would not be seen.
        ("<object><name>bird", "<Object/><object><name>bird", "", "<Object> does not stand directly in <annotation>"),
        ("<size>", "<objects><object/></objects><size>", "", "<objects> does not stand directly"),
        ("<size>", "<a:object xmlns:a='b'/><size>", "", "<a:object> does not stand directly"),
    ],
)
def test_voc_names_every_bad_record(voc_folder, old, new, record, reason):
    file = voc_folder / "Annotations" / "i0.xml"
    file.write_text(file.read_text().replace(old, new))
    _, problems = Voc(str(voc_folder)).read("train")
    assert len(problems) == 1
    assert problems[0].file == str(file)
    assert problems[0].record.startswith(record)
    assert reason in problems[0].reason


@pytest.mark.parametrize(
    ("declared", "codec"),
    [("gb2312", "gbk"), ("GBK", "gbk"), ("Big5", "big5"), ("Shift_JIS", "cp932"), ("euc-kr", "euc_kr")],
)
def test_voc_in_encodings_of_several_bytes(voc_folder, declared, codec):
    file = voc_folder / "Annotations" / "i0.xml"
    named = file.read_text().replace("person", "\N{CJK UNIFIED IDEOGRAPH-4EBA}")
    file.write_bytes(f'<?xml version="1.0" encoding="{declared}"?>{named}'.encode(codec))
    store, problems = Voc(str(voc_folder)).read("train")
    assert problems == []
    assert store.label_map.names == ("bird", "person", "\N{CJK UNIFIED IDEOGRAPH-4EBA}")
    np.testing.assert_array_equal(store.boxes[0], [0, 0, 30, 40])
    file.write_bytes(f'<?xml version="1.0" encoding="{declared}"?><annotation>'.encode() + b"\xff\xff\xff")
    assert "not valid XML" in Voc(str(voc_folder)).read("train")[1][0].reason


@pytest.mark.parametrize("classes", ["person", {"person": 0}, [None], [True], [["person"]]])
def test_voc_classes_are_a_list_of_names(voc_folder, classes):
    with pytest.raises(ValueError, match="classes must be a list of names"):
        Voc(str(voc_folder), classes)


def test_a_pipe_in_place_of_an_annotation_is_not_opened(voc_folder):
    file = voc_folder / "Annotations" / "i0.xml"
    file.unlink()
    os.mkfifo(file)
    assert [p.reason for p in Voc(str(voc_folder)).read("train")[1]] == ["not a regular file"]


def test_voc_lists(voc_folder):
    (voc_folder / "ImageSets/Main/train.txt").write_text("i0 1\ni0 -1\n\ngone\n../i1\n")
    store, problems = Voc(str(voc_folder)).read("train")
    assert len(store) == 1
    assert sorted(p.reason for p in problems) == [
        "'../i1' is not the name of an annotation file without .xml",
        "No such file or directory",
        "image i0 occurs twice",
    ]
    with pytest.raises(DatasetError, match="no such list"):
        Voc(str(voc_folder)).read("minival")


def test_yolo(yolo_folder):
    store, problems = Yolo(str(yolo_folder)).read("train")
    assert problems == []
    assert store.label_map.names == ("cat", "dog")
    assert len(store) == 3
    record = store.record(0)
    np.testing.assert_allclose(record.boxes, [[24, 12, 40, 36], [6.4, 4.8, 19.2, 19.2]])
    assert record.labels.tolist() == [1, 0]
    assert len(store.record(2).boxes) == 0


def test_labels_without_their_image(yolo_folder):
    """Those of an image of a kind that is not read; without objects nothing is lost."""
    (yolo_folder / "labels/train/phone.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (yolo_folder / "labels/train/empty.txt").touch()
    (yolo_folder / "labels/train/classes.txt").write_text("cat\ndog\n")
    _, problems = Yolo(str(yolo_folder)).read("train")
    (problem,) = problems
    assert problem.file == f"{yolo_folder}/labels/train/phone.txt"
    assert problem.reason.startswith("no image of this name")
    assert problem.action == BOX_LEFT_OUT


def test_linked_folders_are_followed(yolo_folder, tmp_path):
    (yolo_folder / "images/train").rename(tmp_path / "elsewhere")
    (yolo_folder / "images/train").mkdir()
    (yolo_folder / "images/train/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(yolo_folder / "images")  # in a circle
    (yolo_folder / "labels/train").rename(yolo_folder / "labels/more")
    (yolo_folder / "labels/train").mkdir()
    (yolo_folder / "labels/more").rename(yolo_folder / "labels/train/more")
    store, problems = Yolo(str(yolo_folder)).read("train")
    files = [f"images/train/more/{n}.png" for n in range(3)]
    assert [file for file in store.files if "back" not in file] == files
    assert problems == []
    assert store.num_boxes == 3
    folder, _ = read_folder(yolo_folder / "images/train", LabelMap(["cat"]))
    assert {f"images/train/{file}" for file in folder.files} >= set(files)
    (tmp_path / "elsewhere/back").unlink()
    assert [f"images/train/{f}" for f in read_folder(yolo_folder / "images/train", LabelMap(["cat"]))[0].files] == files


def test_what_was_predicted_is_no_input(coco_folder, caplog):
    """Pictures of an earlier run below the folder, a name that no picture can have, and other files."""
    caplog.set_level("INFO")
    labels = LabelMap(["cat"])
    before = list(read_folder(coco_folder, labels)[0].files)
    out = coco_folder / "outputs/12-00-00"
    (out / "sub").mkdir(parents=True)
    (out / "predictions.json").write_text("{}")
    name = before[0]
    for file in (out / "x.jpg.png", out / "sub/y.png.png", coco_folder / f"{'x' * 245}.jpg"):
        file.write_bytes((coco_folder / name).read_bytes())
    with suppress(OSError):  # some file systems refuse it themselves
        Path(os.fsdecode(os.fsencode(coco_folder) + b"/\xff.jpg")).write_bytes(b"")
    store, problems = read_folder(coco_folder, labels)
    assert list(store.files) == before
    assert f"{out}: predicted, for it holds predictions.json" in map(str, problems)
    assert sum("too long for a file name" in str(p) for p in problems) in (1, 2)
    assert "no images or videos by their names: 2 x .json" in caplog.text


def test_yolo_folders_as_roboflow_writes_them(yolo_folder):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (yolo_folder / split).mkdir(exist_ok=True)
            (yolo_folder / kind / split).rename(yolo_folder / split / kind)
    (yolo_folder / "data.yaml").write_text("train: ../train/images\nval: ../val/images\nnc: 2\nnames: [cat, dog]\n")
    store, problems = Yolo(str(yolo_folder)).read("train")
    assert problems == []
    assert store.num_boxes == 3


def test_yolo_list_of_images(yolo_folder):
    (yolo_folder / "some.txt").write_text("./images/train/0.png\nimages/train/1.png\n")
    (yolo_folder / "data.yaml").write_text("train: some.txt\nnames: [cat, dog]\n")
    assert len(Yolo(str(yolo_folder)).read("train")[0]) == 2
    (yolo_folder / "some.txt").write_text("images/train/0.png\n../../secret.png\nimages/train/0.png\n")
    store, problems = Yolo(str(yolo_folder)).read("train")
    assert len(store) == 1
    assert [(p.file, p.record) for p in problems] == [(str(yolo_folder / "some.txt"), f"line {n}") for n in (2, 3)]
    assert ["is not below" in problems[0].reason, "named twice" in problems[1].reason] == [True, True]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of the 2 classes"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("cat 0.5 0.5 0.1 0.1", "is not a class number"),
        ("0 0.5 0.5 0.1", "4 make a box"),
        ("0 0.5 0.5 0.1 0.1 0.2", "4 make a box"),
        ("0 32 24 10 10", "holds pixels"),
        ("0 0.5 0.5 0 0.1", "has no area"),
        ("0 0.5 nan 0.1 0.1", "NaN or infinite"),
        ("0 0.9 0.5 0.4 0.1", "reaches beyond"),
    ],
)
def test_yolo_names_every_bad_record(yolo_folder, line, reason):
    file = yolo_folder / "labels" / "train" / "1.txt"
    file.write_text("0 0.25 0.25 0.5 0.5\n" + line)
    _, problems = Yolo(str(yolo_folder)).read("train")
    assert len(problems) == 1
    assert (problems[0].file, problems[0].record) == (str(file), "line 2")
    assert reason in problems[0].reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("names: [a", "not valid YAML"),
        ("", "no keys"),
        ("train: images/train\n", "names"),
        ("train: images/train\nnames: {0: a, 2: b}", "without gaps"),
        ("train: images/train\nnames: [a, a]", "unique"),
        ("val: images/val\nnames: [cat, dog]", "no split 'train'"),
        ("train: nowhere\nnames: [cat, dog]", "neither a folder nor a file"),
        ("train: /etc\nnames: [cat, dog]", "neither a folder nor a file"),
    ],
)
def test_bad_yolo_descriptions_are_refused(yolo_folder, content, reason):
    (yolo_folder / "data.yaml").write_text(content)
    with pytest.raises(DatasetError, match=reason):
        Yolo(str(yolo_folder)).read("train")


def test_folder_of_images(coco_folder):
    labels = LabelMap(["a"])
    (coco_folder / "train2017" / "broken.png").write_bytes(b"?")
    store, problems = read_folder(coco_folder, labels)
    assert len(store) == 8
    assert store.files[0] == "train2017/0.jpg"
    assert [p.file for p in problems] == [str(coco_folder / "train2017" / "broken.png")]
    single, _ = read_folder(coco_folder / "val2017" / "1.jpg", labels)
    assert list(single.files) == ["1.jpg"]
    with pytest.raises(DatasetError, match="no image"):
        read_folder(coco_folder / "annotations", labels)
    with pytest.raises(DatasetError, match="no such image, folder or video"):
        read_folder(coco_folder / "nothing", labels)


def test_strings_are_packed():
    strings = Strings.pack(["a", "", "äöü", "日本.jpg"])
    assert list(strings) == ["a", "", "äöü", "日本.jpg"]
    assert strings[-1] == "日本.jpg"
    with pytest.raises(IndexError):
        strings[4]


def test_select_takes_boxes_along(coco_folder):
    store, _ = Coco(str(coco_folder)).read("train2017")
    part = store.select(np.array([3, 0, 2]))
    assert [part.source_id(i) for i in range(3)] == [30, 0, 20]
    for i, source in enumerate((3, 0, 2)):
        assert np.array_equal(part.record(i).boxes, store.record(source).boxes)
        assert np.array_equal(part.record(i).ignored, store.record(source).ignored)
    assert part.num_boxes == 5


def test_relabelling_follows_names(coco_folder):
    store, _ = Coco(str(coco_folder)).read("train2017")
    wider = LabelMap(["bird", "dog", "cat"], [1, 2, 3])
    other = store.with_labels(wider)
    assert [wider.names[n] for n in other.labels] == [store.label_map.names[n] for n in store.labels]
    # Detections are still written with the source's ids.
    assert dict(zip(other.label_map.names, other.label_map.source_ids, strict=True))["dog"] == 90
    assert len(set(other.label_map.source_ids)) == 3


def test_label_maps():
    labels = LabelMap(["a", "b"], [5, 3])
    assert LabelMap.from_dict(labels.to_dict()) == labels
    assert labels.contiguous == {5: 0, 3: 1}
    assert labels.difference(LabelMap(["a", "b"])) == ""
    assert "other order" in labels.difference(LabelMap(["b", "a"])).replace("another order", "other order")
    assert "misses b" in labels.difference(LabelMap(["a"]))
    assert "has also c" in labels.difference(LabelMap(["a", "b", "c"]))
    for arguments in ([[]], [["a", "a"]], [["a", "b"], [1, 1]], [["a"], [1, 2]]):
        with pytest.raises(ValueError, match=r"class|ids"):
            LabelMap(*arguments)


def test_bccd_names_its_two_bad_boxes(bccd):
    problems = [p for split in ("train", "val", "test") for p in Voc(str(bccd)).read(split)[1]]
    assert {(p.file.rsplit("/", 1)[1], p.record) for p in problems} == {
        ("BloodImage_00338.xml", "object 13 (RBC)"),
        ("BloodImage_00343.xml", "object 4 (RBC)"),
    }


def test_drone_photographs_are_in_order(drone):
    """The splits share no place."""
    places = []
    for split, images, boxes in (("train2017", 87, 2565), ("val2017", 35, 1032)):
        store, problems = Coco(str(drone)).read(split)
        assert (len(store), store.num_boxes, problems) == (images, boxes, [])
        assert store.label_map.names == ("car", "truck", "bus", "minibus", "cyclist")
        content = json.loads((drone / f"annotations/instances_{split}.json").read_text())
        places.append({image["sequence"] for image in content["images"]} - {"photo"})
    assert places[0].isdisjoint(places[1])


@pytest.mark.parametrize(("name", "counts"), [("tiny_coco", (12, 15)), ("larger_coco", None)])
def test_real_annotations_are_in_order(name, counts, request):
    root = request.getfixturevalue(name)
    stores = []
    for split in ("train2017", "val2017"):
        store, problems = Coco(str(root)).read(split)
        assert problems == []
        assert isinstance(store, AnnotationStore)
        assert len(store.label_map) == 80
        assert store.label_map.source_ids[-1] == 90
        stores.append(store)
    assert counts is None or tuple(len(store) for store in stores) == counts
