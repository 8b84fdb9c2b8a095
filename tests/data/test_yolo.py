"""YOLO's data.yaml and label files as tools write them: read as they are meant, or refused with the reason."""

import numpy as np
import pytest
from support.datasets import write_image

from lightning_det.annotations import DatasetError
from lightning_det.annotations.problems import BOX_LEFT_OUT, IMAGE_LEFT_OUT, MENTION_LEFT_OUT
from lightning_det.data.yolo import ALL_BACKGROUND, Yolo
from lightning_det.data.yolo_labels import FILE_LEFT_OUT

BOX = [16, 12, 48, 36]
LINE = "0 0.5 0.5 0.5 0.5"
"""This box in an image of 64 x 48."""


def make(root, names="[cat, dog]", images=("images/train/0.png",), more="", train="images/train"):
    """A dataset with one box per image, the labels where ``labels`` stands for ``images``."""
    for number, name in enumerate(images):
        write_image(root / name, seed=number)
        label = root / name.replace("images/", "labels/").replace(".png", ".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{LINE}\n")
    (root / "data.yaml").write_text(f"train: {train}\nnames: {names}\n{more}")
    return root


def labelled(root, text, more="", **options):
    """What becomes of a label file: boxes, and the reasons of the problems."""
    make(root, more=more, **options)
    data = text if isinstance(text, bytes) else text.encode()
    (root / "labels/train/0.txt").write_bytes(data)
    store, problems = Yolo(str(root)).read("train")
    return store.boxes.tolist(), [p.reason for p in problems]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[yes, no]", ["yes", "no"]),
        ("[on, off]", ["on", "off"]),
        ("[y, n, Yes, NO]", ["y", "n", "Yes", "NO"]),
        ("[null, ~, true]", ["null", "~", "true"]),
        ("[1e3, 012, 1_000, 0x1F, .5, 1.0]", ["1e3", "012", "1_000", "0x1F", ".5", "1.0"]),
        ("[2020-01-01, 12:30, .inf]", ["2020-01-01", "12:30", ".inf"]),
        ("{0: no, 1: yes}", ["no", "yes"]),
        ("{1: yes, 0: no}", ["no", "yes"]),
        ("{'0': a, \"1\": b}", ["a", "b"]),
        ("[0, 1]", ["0", "1"]),
        ("\n- 'traffic light'\n- no", ["traffic light", "no"]),
        ("['ä', 日本]", ["ä", "日本"]),
    ],
)
def test_class_names_are_what_is_written(tmp_path, names, expected):
    store, problems = Yolo(str(make(tmp_path, names))).read("train")
    assert problems == []
    assert list(store.label_map.names) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("names: [a, b]\nnc: 3", "nc is '3', but names has 2 classes"),
        ("names: [a, b]\nnc: two", "nc is 'two'"),
        ("names: [a, b]\nnc: [2]", "nc is"),
        ("names: [a, b]\nnames: [a, c]", "the key 'names' occurs twice"),
        ("names: {0: a, 0: b}", "the key '0' occurs twice"),
        ("names: [a]\ntrain: images/val", "the key 'train' occurs twice"),
        ("names: {0: a, 2: b}", "class numbers must run from 0 without gaps, got '0, 2'"),
        ("names: {1: a, 2: b}", "without gaps"),
        ("names: {cat: 0, dog: 1}", "without gaps, got 'cat, dog'"),
        ("names: {0: a, 00: b}", "without gaps"),
        ("names: [a, a]", "unique"),
        ("names: {0: yes, 1: yes}", "unique"),
        ("names: [a, '']", "class 1 has an empty name"),
        ("names:\n- a\n-\n", "class 1 has an empty name"),
        ("names: [a, [b]]", "got a list"),
        ("names: [a, {b: c}]", "got a dict"),
        ("names: []", "at least one class"),
        ("names: {}", "at least one class"),
        ("names: a, b", "it must be a list"),
        ("nc: 2", "names: it must be a list"),
        ("names:", "names: it must be a list"),
        ("x: &x {names: [a]}\n<<: *x", "merged keys"),
        ("names: [a]\nkpt_shape: 4", "kpt_shape must be"),
        ("names: [a]\nkpt_shape: [4]", "kpt_shape must be"),
        ("names: [a]\nkpt_shape: [4, 5]", "kpt_shape must be"),
        ("names: [a]\nkpt_shape: [0, 2]", "kpt_shape must be"),
        ("names: [a]\nflip_idx: [1, 0]", "kpt_shape is missing"),
    ],
)
def test_descriptions_that_contradict_themselves_are_refused(tmp_path, content, reason):
    make(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: images/train\n{content}\n")
    with pytest.raises(DatasetError, match=r"data\.yaml: ") as refused:
        Yolo(str(tmp_path)).read("train")
    assert reason in str(refused.value)


@pytest.mark.parametrize("more", ["nc: 2", "nc:", "nc: null", "kpt_shape:", "flip_idx: []", "roboflow: {license: no}"])
def test_descriptions_in_order(tmp_path, more):
    assert Yolo(str(make(tmp_path, more=more))).read("train")[1] == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts_of_windows(tmp_path, encoding, end):
    """A byte order mark and other ends of lines, in every text."""
    make(tmp_path, images=[f"images/train/{n}.png" for n in range(2)])
    for file in (tmp_path / "labels/train").iterdir():
        file.write_bytes(f"{LINE}{end}1 0.5 0.5 0.25 0.5{end}{end}".encode(encoding))
    (tmp_path / "list.txt").write_bytes(f"images/train/0.png{end}images/train/1.png{end}".encode(encoding))
    (tmp_path / "data.yaml").write_bytes(f"names: [cat, dog]{end}train: list.txt{end}".encode(encoding))
    store, problems = Yolo(str(tmp_path)).read("train")
    assert problems == []
    assert (len(store), store.boxes.tolist()) == (2, [BOX, [24, 12, 40, 36]] * 2)


def test_other_encodings_are_named(tmp_path):
    _, (reason,) = labelled(tmp_path, LINE.encode("utf-16"))
    assert reason == "not a text file in UTF-8 (it is UTF-16, as Windows writes it: save it as UTF-8)"
    (tmp_path / "data.yaml").write_bytes("names: [a]\ntrain: images/train".encode("utf-16"))
    with pytest.raises(DatasetError, match=r"data\.yaml: not a text file in UTF-8 \(it is UTF-16"):
        Yolo(str(tmp_path)).read("train")


# Lines of label files


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (LINE, [BOX]),
        ("0.0 0.5 0.5 0.5 0.5", [BOX]),
        ("0\t0.5\t0.5  0.5 0.5 ", [BOX]),
        ("0 5e-1 .5 +0.5 0.50", [BOX]),
        ("", []),
        ("\n \n", []),
        ("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75", [BOX]),  # oriented box or polygon of four corners
        ("0 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5", [BOX]),  # polygon that is closed
        ("0 0 0 0.5 0 0.5 0.5 0 0", [[0, 0, 32, 24]]),  # closed at the image's corner
        (f"{LINE}\n1 0 0 0.5 0 0.5 0.5", [BOX, [0, 0, 32, 24]]),
    ],
)
def test_lines_in_order(tmp_path, text, boxes):
    assert labelled(tmp_path, text) == (boxes, [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0,0.5,0.5,0.5,0.5", "with spaces between them"),
        ("0.5 0.5 0.5 0.5 0.5", "is not a class number"),
        ("nan 0.5 0.5 0.5 0.5", "is not a class number"),
        ("inf 0.5 0.5 0.5 0.5", "is not a class number"),
        ("cat 0.5 0.5 0.5 0.5", "is not a class number"),
        ("0 0.5 0.5 0,5 0,5", "is not a class number"),
        ("2 0.5 0.5 0.5 0.5", "class 2 is not one of the 2 classes, which are counted from 0"),
        ("-1 0.5 0.5 0.5 0.5", "class -1"),
        ("0", "0 values after the class"),
        ("0 0.5 0.5 0.5 0.5 0.9", "a fifth may be the confidence"),
        ("0 0.5 0.5 0.5 0.5 0.9 7", "box, confidence and track"),
        ("0 0.5 0.5 0.5 0.5 0.9 1", "box, confidence and track"),
        ("0 32 24 10 10", "holds pixels"),
        ("0 3 3 30 3 30 30", "holds pixels"),
        ("0 0.5 0.5 0.5 0.5 0 0 0.4 0.4 0 0", "2 corners at (0, 0): keypoints?"),
        ("0 nan 0.5 0.5 0.5", "NaN or infinite"),
        ("0 inf 0.5 0.5 0.5", "pixels"),
        ("0 0.5 0.5 -0.5 0.5", "has no area"),
        ("0 -0.5 0.5 0.5 0.5", "outside"),
        ("100 200 300 200 300 400 100 400 cat 0", "is not a class number"),  # DOTA
    ],
)
def test_lines_that_are_neither_box_nor_polygon(tmp_path, line, reason):
    boxes, (found,) = labelled(tmp_path, f"1 0.5 0.5 0.25 0.5\n{line}")
    assert boxes == [[24, 12, 40, 36]]
    assert reason in found


@pytest.mark.parametrize(
    ("shape", "points"),
    [("[4, 2]", "0.1 0.1 0 0 0.9 0.9 0 0"), ("[2, 3]", "0.1 0.1 2 0 0 0"), ("[1, 2]", "0.1 0.1"), ("[1, 3]", "3 3 1")],
)
def test_the_box_of_a_pose(tmp_path, shape, points):
    """Its first four numbers, wherever the keypoints are."""
    boxes, reasons = labelled(tmp_path, f"{LINE} {points}\n", f"kpt_shape: {shape}")
    assert (boxes, reasons) == ([BOX], [])
    boxes, (reason,) = labelled(tmp_path, f"{LINE} {points} 0.1\n", f"kpt_shape: {shape}")
    assert boxes == []
    assert "kpt_shape asks for" in reason


def test_poses_without_their_shape_are_no_polygons(tmp_path):
    points = "0.3 0.3 2 0.4 0.4 1 0.6 0.6 0 0.7 0.7 2"
    make(tmp_path)
    (tmp_path / "labels/train/0.txt").write_text(f"{LINE} {points}\n1 {LINE[2:]} {points}\n")
    with pytest.raises(DatasetError, match=r"0\.txt, line 1: .* 4 keypoints .*add kpt_shape: \[4, 3\]"):
        Yolo(str(tmp_path)).read("train")


# Where labels are


def beside(root, name):
    """Moves an image's label file beside it."""
    label = root / name.replace("images/", "labels/").replace(".png", ".txt")
    return label.rename((root / name).with_suffix(".txt"))


def test_labels_beside_images(tmp_path):
    """In a folder that is called images or not, of all images or of some."""
    names = ["site1/0.png", "site2/images/0.png", "site2/images/1.png", "images/0.png"]
    make(tmp_path, images=names, train="list.txt")
    (tmp_path / "list.txt").write_text("\n".join(names))
    beside(tmp_path, "site2/images/0.png")
    store, problems = Yolo(str(tmp_path)).read("train")
    assert problems == []
    assert store.boxes.tolist() == [BOX] * 4


@pytest.mark.parametrize("place", ["labels/1.txt", "train/labels/1.txt", "labels_old/train/1.txt", "1.TXT"])
def test_labels_in_another_folder_are_named(tmp_path, place):
    make(tmp_path, images=[f"images/train/{n}.png" for n in range(3)] + ["images/val/1.png"])
    label = tmp_path / place
    label.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "labels/train/1.txt").rename(label)
    (tmp_path / "labels/train/2.txt").unlink()
    (tmp_path / "2.txt").write_text("a note\n")
    store, (problem,) = Yolo(str(tmp_path)).read("train")
    assert store.num_boxes == 1
    assert (problem.file, problem.action) == (str(label), FILE_LEFT_OUT)
    assert (
        f"images/train/1.png has no label file, and this one is neither beside it nor in {tmp_path}/labels/train"
        in (problem.reason)
    )


def test_two_label_files_of_an_image(tmp_path):
    make(tmp_path)
    other = tmp_path / "images/train/0.txt"
    other.write_text(f"{LINE}\n")
    assert Yolo(str(tmp_path)).read("train")[1] == []  # both say the same
    other.write_text("1 0.5 0.5 0.25 0.5\n")
    store, (problem,) = Yolo(str(tmp_path)).read("train")
    assert store.boxes.tolist() == [BOX]
    assert (problem.file, problem.action) == (str(other), FILE_LEFT_OUT)
    assert f"other labels in {tmp_path}/labels/train/0.txt" in problem.reason


def test_a_misplaced_label_file_is_reported_for_all_images_of_its_name(tmp_path):
    make(tmp_path, train="images", images=("images/c/y.png",))
    for folder in "ab":
        write_image(tmp_path / f"images/{folder}/x.png")
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/x.txt").write_text(f"{LINE}\n")
    problems = Yolo(str(tmp_path)).read("train")[1]
    named = [p.reason.split(" has no label")[0] for p in problems if p.file.endswith("boxes/x.txt")]
    assert named == [f"{tmp_path}/images/{folder}/x.png" for folder in "ab"]


@pytest.mark.parametrize(("images", "labels"), [("Images", "Labels"), ("images", "Labels"), ("IMAGES", "LABELS")])
def test_names_in_other_letters(tmp_path, images, labels):
    make(tmp_path, train=f"{images}/train")
    (tmp_path / "labels/train/0.txt").rename(tmp_path / "labels/train/0.TXT")
    (tmp_path / "labels").rename(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / labels)
    (tmp_path / "images").rename(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / images)
    (tmp_path / images / "train/0.png").rename(tmp_path / images / "train/0.PNG")
    store, problems = Yolo(str(tmp_path)).read("train")
    assert (problems, store.boxes.tolist()) == ([], [BOX])


def test_a_folder_called_images_above_the_dataset(tmp_path):
    root = make(tmp_path / "images/parts", images=["train/0.png"], train="train")
    assert Yolo(str(root)).read("train")[0].boxes.tolist() == [BOX]


def test_no_labels_at_all(tmp_path):
    """Says where they were looked for."""
    make(tmp_path, images=["images/train/0.png", "images/train/1.png"])
    (tmp_path / "labels").rename(tmp_path / "annotations")
    store, (problem,) = Yolo(str(tmp_path)).read("train")
    assert len(store) == 2
    assert problem.action == ALL_BACKGROUND
    places = f"{tmp_path}/labels/train/0.txt and {tmp_path}/images/train/0.txt"
    assert problem.reason == f"none of the 2 images has a label file; looked for {places}"


def test_labels_that_no_image_uses(tmp_path):
    """In their folder, in folders below it and beside images; texts that hold no labels are none."""
    make(tmp_path, images=["images/train/0.png", "images/train/more/0.png"])
    stray = [tmp_path / n for n in ("labels/train/a.txt", "labels/train/more/b.TXT", "images/train/c.txt")]
    for file in stray:
        file.write_text(LINE)
    (tmp_path / "labels/train/0.jpg.txt").write_text("")
    (tmp_path / "images/train/README.txt").write_text("Photographs of cats and dogs, 2024\n")
    _, problems = Yolo(str(tmp_path)).read("train")
    assert sorted(p.file for p in problems) == sorted(map(str, stray))
    assert {p.action for p in problems} == {BOX_LEFT_OUT}


# Splits


@pytest.mark.parametrize(
    "train",
    [
        "[batch1/images, batch2/images]",
        "\n- batch1/images\n- batch2/images",
        "[batch1/images, list.txt]",
        "[batch1/images, batch2/images/0.png]",
        "[../batch1/images, ./batch2/images]",
        "['batch1\\images', '..\\batch2\\images']",
        "[/elsewhere/set/batch1/images, /elsewhere/set/batch2/images]",
        "both.txt",
        "lists/relative.txt",
        "lists/to_root.txt",
        "lists/windows.txt",
        "lists/elsewhere.txt",
        ".",
    ],
)
def test_splits_of_several_folders(tmp_path, train):
    make(tmp_path, images=["batch1/images/0.png", "batch2/images/0.png"], train=train, more="path: /elsewhere/set")
    (tmp_path / "lists").mkdir()
    for name, lines in {
        "list.txt": ["./batch2/images/0.png"],
        "both.txt": ["./batch1/images/0.png", '"batch2/images/0.png"'],
        "lists/relative.txt": ["../batch1/images/0.png", "../batch2/images/0.png"],
        "lists/to_root.txt": ["batch1/images/0.png", "./batch2/images/0.png"],
        "lists/windows.txt": ["batch1\\images\\0.png", ".\\batch2\\images\\0.png"],
        "lists/elsewhere.txt": [f"/elsewhere/set/batch{n}/images/0.png" for n in (1, 2)],
    }.items():
        (tmp_path / name).write_text("\n".join(lines))
    store, problems = Yolo(str(tmp_path)).read("train")
    assert problems == []
    assert list(store.files) == ["batch1/images/0.png", "batch2/images/0.png"]
    assert store.boxes.tolist() == [BOX] * 2


def test_lists_of_what_is_not_there(tmp_path):
    make(tmp_path, train="[images/train, list.txt]")
    (tmp_path / "list.txt").write_text("gone/images/1.png\nimages\n\0\n")
    store, problems = Yolo(str(tmp_path)).read("train")
    assert list(store.files) == ["images/train/0.png"]
    assert [p.action for p in problems] == [IMAGE_LEFT_OUT] * 3


@pytest.mark.parametrize("split", [["train", "val"], ("train", "val")])
def test_several_splits_as_one(tmp_path, split):
    make(tmp_path, images=["images/train/0.png", "images/val/0.png"], more="val: images/val")
    assert list(Yolo(str(tmp_path)).read(split)[0].files) == ["images/train/0.png", "images/val/0.png"]


@pytest.mark.parametrize("split", [2017, None, 1.5, "", ["train", None]])
def test_splits_of_other_types(tmp_path, split):
    with pytest.raises(DatasetError, match="no split"):
        Yolo(str(make(tmp_path))).read(split)


@pytest.mark.parametrize("train", ["", "null", "~", "[]", "{a: b}", "[[images/train]]", "[images/train, [x]]"])
def test_splits_that_are_none(tmp_path, train):
    make(tmp_path, train=train)
    with pytest.raises(DatasetError, match="no split 'train'"):
        Yolo(str(tmp_path)).read("train")


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_names_of_the_validation_split(tmp_path, key):
    make(tmp_path, images=["valid/images/0.png"], train="../train/images", more=f"{key}: ../valid/images")
    for split in ("val", "valid"):
        assert Yolo(str(tmp_path)).read(split)[0].boxes.tolist() == [BOX]
    with pytest.raises(DatasetError, match="no split 'test'"):
        Yolo(str(tmp_path)).read("test")


@pytest.mark.parametrize("name", ["data.yaml", "coco128.yaml", "data.yml"])
def test_the_description_as_root(tmp_path, name):
    make(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / name)
    for root in (tmp_path, tmp_path / name):
        reader = Yolo(str(root))
        assert reader.root == tmp_path
        assert reader.read("train")[0].boxes.tolist() == [BOX]


def test_several_descriptions(tmp_path):
    make(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "a.yaml")
    (tmp_path / "b.yml").write_text("names: [a]")
    with pytest.raises(DatasetError, match=r"must hold data\.yaml \(there are a\.yaml, b\.yml: name one"):
        Yolo(str(tmp_path)).read("train")


def test_images_that_are_named_twice(tmp_path):
    """In another spelling, by overlapping folders, by a link, or with another suffix."""
    make(tmp_path, images=["images/train/0.png", "images/train/1.png"], train="list.txt")
    (tmp_path / "images/train/2.png").symlink_to("0.png")
    write_image(tmp_path / "images/train/1.jpg")
    names = ["images/train/0.png", "./images//train/0.png", "images/train/1.png", "images/train/1.jpg"]
    (tmp_path / "list.txt").write_text("\n".join([*names, "images/train/2.png"]))
    store, problems = Yolo(str(tmp_path)).read("train")
    assert list(store.files) == ["images/train/0.png", "images/train/1.png"]
    assert [p.action for p in problems] == [MENTION_LEFT_OUT, IMAGE_LEFT_OUT, IMAGE_LEFT_OUT]
    assert "is that of image images/train/0" in problems[2].reason
    (tmp_path / "data.yaml").write_text("train: [images, images/train]\nnames: [cat, dog]\n")
    assert len(Yolo(str(tmp_path)).read("train")[0]) == 2


def test_identical_lines(tmp_path):
    """Are one object; the same box of another class, or a box that differs in its last digit, is another one."""
    make(tmp_path)
    file = tmp_path / "labels/train/0.txt"
    file.write_text(f"{LINE}\n0 0.50 .5 0.5 0.5\n1 {LINE[2:]}\n0 0.500001 0.5 0.5 0.5\n{LINE}\n")
    store, problems = Yolo(str(tmp_path)).read("train")
    assert store.labels.tolist() == [0, 1, 0]
    assert [p.record for p in problems] == ["line 2", "line 5"]
    assert {p.reason for p in problems} == {"box is identical to that of line 1"}
    assert all(p.harmless and p.action == BOX_LEFT_OUT for p in problems)
    assert np.isfinite(store.boxes).all()
