"""Layouts of folders as tools write them: recognised, and read with the same boxes."""

import json

import pytest
from support.datasets import make_coco, make_voc, make_yolo, write_image

from lightning_det.annotations import DatasetError, NoSplitError
from lightning_det.data.any_format import AnyFormat
from lightning_det.data.layouts import recognise

BOX = [8, 12, 16, 24]  # x, y, width and height in images of 64 x 48


def coco(file, folder, name="a", entry=None):
    """One image with one box."""
    write_image(folder / f"{name}.jpg")
    file.parent.mkdir(parents=True, exist_ok=True)
    image = {"id": 1, "file_name": entry or f"{name}.jpg", "width": 64, "height": 48}
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": BOX, "area": 384, "iscrowd": 0}
    content = {"info": {}, "images": [image], "annotations": [box], "categories": [{"id": 3, "name": "cat"}]}
    file.write_text(json.dumps(content))


def xml(file, folder, name="a"):
    write_image(folder / f"{name}.jpg")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"<annotation><filename>{name}.jpg</filename><size><width>64</width><height>48</height></size><object>"
        "<name>cat</name><bndbox><xmin>9</xmin><ymin>13</ymin><xmax>24</xmax><ymax>36</ymax></bndbox></object></annotation>"
    )


def txt(file, folder, name="a"):
    write_image(folder / f"{name}.jpg")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("0 0.25 0.5 0.25 0.5\n")


def names(file, text="cat\n"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def coco_2017(root):
    for split in ("train2017", "val2017"):
        coco(root / f"annotations/instances_{split}.json", root / split)
    (root / "annotations/captions_train2017.json").write_text('{"images": [], "annotations": []}')


def coco_short_names(root):
    for split in ("train", "val", "test"):
        coco(root / f"annotations/{split}.json", root / "images" / split)


def coco_common_images(root):
    for split in ("train", "val"):
        coco(root / f"{split}.json", root / "images", split)


def coco_roboflow(root):
    for split in ("train", "valid", "test"):
        coco(root / split / "_annotations.coco.json", root / split)


def coco_label_studio(root):
    coco(root / "result.json", root / "images", entry="images/a.jpg")


def coco_cvat(root):
    coco(root / "annotations/instances_default.json", root / "images" / "default")


def coco_fiftyone(root):
    coco(root / "labels.json", root / "data")


def voc_without_lists(root):
    xml(root / "Annotations/a.xml", root / "JPEGImages")


def voc_kaggle(root):
    xml(root / "annotations/a.xml", root / "images")


def voc_roboflow(root):
    for split in ("train", "valid"):
        xml(root / split / "a.xml", root / split)


def voc_one_folder(root):
    xml(root / "a.xml", root)


def voc_years(root):
    for year in ("VOC2007", "VOC2012"):
        xml(root / year / "Annotations/a.xml", root / year / "JPEGImages")
        names(root / year / "ImageSets/Main/trainval.txt", "a\n")
        names(root / year / "ImageSets/Main/cat_trainval.txt", "a 1\n")
    names(root / "VOC2007/ImageSets/Main/test.txt", "a\n")


def yolo_roboflow(root):
    for split in ("train", "valid"):
        txt(root / split / "labels/a.txt", root / split / "images")
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['cat']\n"
    names(root / "data.yaml", text)


def yolo_patterns(root):
    for site in ("north", "south"):
        txt(root / f"labels/{site}/{site}.txt", root / f"images/{site}", site)
    names(root / "data.yaml", "train: images/n*/*.jpg\nval: [images/s*]\nnames: {0: cat}\n")


def yolo_lists(root):
    for split in ("train", "val"):
        txt(root / f"labels/{split}.txt", root / "images", split)
        names(root / f"{split}.txt", f"./images/{split}.jpg\n")
    names(root / "set.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")


def yolo_names_only(root):
    for split in ("train", "val"):
        txt(root / f"labels/{split}/a.txt", root / f"images/{split}")
    names(root / "classes.txt")


def yolo_split_folders(root):
    for split in ("train", "valid", "test"):
        txt(root / split / "labels/a.txt", root / split / "images")
        names(root / split / "labels/classes.txt")


def yolo_label_img(root):
    txt(root / "a.txt", root)
    names(root / "classes.txt")


def yolo_darknet(root):
    txt(root / "obj_train_data/a.txt", root / "obj_train_data")
    names(root / "obj.names")


LAYOUTS = {
    coco_2017: ("coco", "train val"),
    coco_short_names: ("coco", "train val test"),
    coco_common_images: ("coco", "train val"),
    coco_roboflow: ("coco", "train val test"),
    coco_label_studio: ("coco", "train"),
    coco_cvat: ("coco", "train"),
    coco_fiftyone: ("coco", "train"),
    voc_without_lists: ("voc", "train"),
    voc_kaggle: ("voc", "train"),
    voc_roboflow: ("voc", "train val"),
    voc_one_folder: ("voc", "train"),
    voc_years: ("voc", "train test"),
    yolo_roboflow: ("yolo", "train val"),
    yolo_patterns: ("yolo", "train val"),
    yolo_lists: ("yolo", "train val"),
    yolo_names_only: ("yolo", "train val"),
    yolo_split_folders: ("yolo", "train val test"),
    yolo_label_img: ("yolo", "train"),
    yolo_darknet: ("yolo", "train"),
}


@pytest.mark.parametrize("make", LAYOUTS)
def test_layouts_of_tools(tmp_path, make):
    expected, splits = LAYOUTS[make]
    make(tmp_path)
    layout = recognise(tmp_path)
    assert layout.format == expected
    assert list(layout.splits) == splits.split()
    for split in layout.splits:
        store, problems = AnyFormat(str(tmp_path)).read(split)
        assert problems == []
        assert store.label_map.names == ("cat",)
        assert len(store) == (2 if make is voc_years and split == "train" else 1)
        assert store.boxes.tolist() == [[8, 12, 24, 36]] * len(store)


def test_the_tests_own_datasets(tmp_path, tiny_coco):
    for make, name in ((make_coco, "coco"), (make_voc, "voc"), (make_yolo, "yolo")):
        assert recognise(make(tmp_path / name)).format == name
    assert recognise(tiny_coco).splits == {"train": ["train2017"], "val": ["val2017"]}


def test_two_layouts_are_ambiguous(tmp_path):
    coco_2017(tmp_path)
    yolo_names_only(tmp_path)
    with pytest.raises(DatasetError, match="two layouts fit") as raised:
        recognise(tmp_path)
    for words in ("COCO (annotations/instances_train2017.json)", "YOLO (classes.txt)", "dataset.source.format=coco or"):
        assert words in str(raised.value)
    assert recognise(tmp_path, ["yolo"]).format == "yolo"
    assert AnyFormat(str(tmp_path), "coco").read("train")[0].files[0] == "a.jpg"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": [', '{"img": []}'])
@pytest.mark.parametrize("file", ["annotations/instances_val2017.json", "val2017/_annotations.coco.json"])
def test_a_damaged_annotation_file_does_not_make_a_split_absent(tmp_path, file, content):
    """The training images would be divided without a word."""
    coco(tmp_path / "annotations/instances_train2017.json", tmp_path / "train2017")
    names(tmp_path / file, content)
    assert set(recognise(tmp_path).splits) == {"train", "val"}
    with pytest.raises(DatasetError, match=file):
        AnyFormat(str(tmp_path)).read("val")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_description_in_another_encoding_is_named(tmp_path, encoding):
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_bytes("names: [k\xe4fer]\ntrain: images/train\n".encode(encoding))
    with pytest.raises(DatasetError, match=r"data.yaml: not a text file in UTF-8"):
        recognise(tmp_path)


def test_nothing_recognised_says_what_was_looked_for(tmp_path):
    write_image(tmp_path / "more" / "a.jpg")
    names(tmp_path / "table.csv")
    yolo_label_img(tmp_path / "inner")
    with pytest.raises(DatasetError) as raised:
        recognise(tmp_path)
    for words in (
        "COCO: ",
        "VOC: ",
        "YOLO: data.yaml",
        "inner/, more/, 1 x .csv",
        f"{tmp_path}/inner: YOLO (classes.txt)",
    ):
        assert words in str(raised.value)


def test_names_of_classes_are_asked_for(tmp_path):
    yolo_label_img(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "a.txt").write_text("4 0.5 0.5 0.1 0.1\n")
    assert recognise(tmp_path).format == "yolo"
    with pytest.raises(DatasetError, match=r"classes.txt with a class name a line: .* class numbers up to 4"):
        AnyFormat(str(tmp_path)).read("train")


def test_two_splits_for_one_purpose(tmp_path):
    for split in ("train2014", "train2017"):
        coco(tmp_path / f"annotations/instances_{split}.json", tmp_path / split)
    reader = AnyFormat(str(tmp_path))
    with pytest.raises(DatasetError, match=r"train2014 and train2017 .* dataset.train=NAME"):
        reader.read("train")
    assert len(reader.read("train2014")[0]) == 1
    with pytest.raises(NoSplitError, match=r"no split 'val' in COCO .*; there is train \(train2014, train2017\)"):
        reader.read("val")
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train")
    assert AnyFormat(str(tmp_path)).read("train")[0].root.name == "train"  # which has the very name


@pytest.mark.parametrize("name", ["pom.xml", "package.json", "settings.yaml", "notes.txt"])
def test_other_files_are_no_dataset(tmp_path, name):
    write_image(tmp_path / "a.jpg")
    contents = {
        "pom.xml": "<project/>",
        "package.json": '{"name": 1}',
        "settings.yaml": "lr: 1\n",
        "notes.txt": "1 2 3 4\n",
    }
    (tmp_path / name).write_text(contents[name])
    with pytest.raises(DatasetError, match="no dataset is recognised"):
        recognise(tmp_path)


@pytest.mark.parametrize(("content", "line"), [("cat\n\ndog\n", 2), ("\ncat\ndog\n", 1)])
def test_an_empty_line_among_names_is_refused(tmp_path, content, line):
    """Class numbers count lines; only the last ones may be empty."""
    yolo_label_img(tmp_path)
    (tmp_path / "classes.txt").write_text(content)
    with pytest.raises(DatasetError, match=rf"line {line} is empty, so class {line - 1} has no name"):
        AnyFormat(str(tmp_path)).read("train")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n")
    assert AnyFormat(str(tmp_path)).read("train")[0].label_map.names == ("cat", "dog")


def test_names_files_that_differ_are_refused(tmp_path):
    yolo_split_folders(tmp_path)
    names(tmp_path / "valid/labels/classes.txt", "dog\n")
    with pytest.raises(DatasetError, match="name other classes"):
        recognise(tmp_path)


@pytest.mark.parametrize(("root", "words"), [("nowhere", "no such folder"), ("a.csv", "must be a folder")])
def test_roots_that_are_no_folder(tmp_path, root, words):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(DatasetError, match=words):
        recognise(tmp_path / root)
