"""What commands say to input that is out of order, one case each; run as a script, it writes docs/bad_input.md.

Every case breaks a small dataset, checkpoint or command line and runs the real command in this process.
"""

import json
import os
import pickle
import re
import resource
import signal
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import run_forked
from PIL import Image
from support.datasets import make_coco, make_voc, make_yolo, write_image
from support.in_process import Outcome, run
from support.shared import made_once

from lightning_det.config import CONF
from lightning_det.data import dataset

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "bad_input.md"

TINY = ("dataset.resolution=[48,64]", "dataset.anchor_sizes=[8,16,32,64,128]", "data.num_workers=0")
TINY += ("trainer.max_epochs=1", "data.batch_size=2", "data.test_batch_size=2", "callbacks=[]")
"""A training of seconds."""


class Case(NamedTuple):
    """One input."""

    name: str
    words: tuple[str, ...]
    """Parts of the message: file, record, remedy."""
    spoil: Callable[[Path], object] = lambda root: None
    """Breaks the dataset in ``root``."""
    arguments: tuple[str, ...] = ()
    """``{root}`` is the dataset, ``{run}`` a trained run's folder, ``{out}`` this run's."""
    layout: str = "coco"
    command: str = "train"
    code: int = 1
    start: Callable[[list[str]], "Outcome"] | None = None
    """Runs the command where `run` would not do."""


# What breaks a dataset


ANNOTATIONS = "annotations/instances_train2017.json"


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes the json of the training split."""

    def spoil(root):
        content = json.loads((root / ANNOTATIONS).read_text())
        change(content)
        (root / ANNOTATIONS).write_text(json.dumps(content))

    return spoil


def annotation(**values) -> Callable[[Path], None]:
    return edit(lambda c: c["annotations"][0].update(values))


def image(**values) -> Callable[[Path], None]:
    return edit(lambda c: c["images"][1].update(values))


def text(file: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(root):
        before = (root / file).read_text()
        assert old in before
        (root / file).write_text(before.replace(old, new))

    return spoil


def content(file: str, data: bytes | str) -> Callable[[Path], None]:
    return lambda root: (root / file).write_bytes(data if isinstance(data, bytes) else data.encode())


def cut(root: Path) -> None:
    file = root / "train2017/1.jpg"
    file.write_bytes(file.read_bytes()[:-500])


POSTSCRIPT = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 48
(/tmp/ran) (w) file closefile showpage
%%EOF
"""
"""Pillow hands such a file to Ghostscript, which runs it."""


def turned(root: Path) -> None:
    """A picture of a phone that was held upright, annotated as its pixels lie in the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "train2017/1.jpg").save(root / "train2017/1.jpg", exif=exif)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file that claims a size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def claiming_png(root: Path) -> None:
    (root / "train2017/1.png").write_bytes(png(60_000, 60_000))
    image(file_name="1.png", width=60_000, height=60_000)(root)


def cut_bitmap(root: Path, number: int = 1) -> None:
    """Cut off too, but in a format that does not say where it ends: found when it is decoded."""
    file = root / f"train2017/{number}.bmp"
    write_image(file)
    file.write_bytes(file.read_bytes()[:-500])
    edit(lambda c: c["images"][number].update(file_name=file.name))(root)


def several(root: Path) -> None:
    (root / "train2017/1.jpg").write_bytes(b"")
    edit(lambda c: c["annotations"][1].update(bbox=[1, 1, 0, 5]))(root)
    edit(lambda c: c["annotations"][2].update(bbox=[60, 1, 9, 5]))(root)


def every_kind(root: Path) -> None:
    several(root)
    cut_bitmap(root, 2)


LAUGHS = "<!DOCTYPE l [" + "<!ENTITY l0 'ha'>" + "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 10))
BOMB = f"{LAUGHS}]><annotation><object><name>&l9;</name></object></annotation>"
LOOKS = (
    "<!DOCTYPE l [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation><object><name>&x;</name></object></annotation>"
)
ALIASES = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


class Trap:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (f"{tempfile.gettempdir()}/sprung",)


def proposals(**changes) -> Callable[[Path], None]:
    """A file like that of ``lightning_det.mine``, with other arrays."""

    def spoil(root):
        plain = np.frombuffer(b'{"version": 1}', np.uint8)
        arrays = {"offsets": np.array([0, 1, 1, 1, 1]), "boxes": np.array([[0, 0, 9, 9]], np.float32), "about": plain}
        arrays |= {"scores": np.ones(1, np.float32), "widths": np.full(4, 64, np.int32)}
        arrays |= {"heights": np.full(4, 48, np.int32)}
        arrays |= {"ids_data": np.frombuffer(b"0102030", np.uint8), "ids_offsets": np.array([0, 1, 3, 5, 7])}
        arrays |= {"files_data": np.frombuffer(b"0.jpg1.jpg2.jpg3.jpg", np.uint8)}
        arrays |= {"files_offsets": np.arange(0, 25, 5)}
        np.savez(root / "p.npz", **(arrays | changes))

    return spoil


def blocked(root: Path) -> None:
    """A file where a folder would have to be; unlike permissions, it stops root too."""
    (root / "file").write_text("")


def renamed(root: Path) -> None:
    for split in ("train2017", "val2017"):
        text(f"annotations/instances_{split}.json", '"cat"', '"bird"')(root)


def saved(value: object) -> Callable[[Path], None]:
    return lambda root: torch.save(value, root / "x.ckpt")


def checkpoint(settings: dict, weights: dict | None = None, name: str = "cat") -> Callable[[Path], None]:
    """What looks like a checkpoint of ours."""
    about = {"labels": {"names": [name], "source_ids": [1]}, "settings": settings}
    return saved({"state_dict": weights or {}, "hyper_parameters": about})


PROPOSALS = (
    "strategy=[sniper,flip]",
    "proposals={root}/p.npz",
    "dataset.sniper.size=64",
    "dataset.sniper.scales=[2.0,1.5,[-1,64]]",
    "dataset.sniper.min_side=1",
)
NO_PROPOSALS = ("p.npz: not a file of proposals", "lightning_det.mine")
SKIP = "dataset.on_bad=skip"

CASES = [
    # Images
    Case("missing image", ("image 10: no file 1.jpg", SKIP), lambda r: (r / "train2017/1.jpg").unlink()),
    Case("truncated JPEG", ("1.jpg: damaged image", "truncated", SKIP), cut),
    Case("zero-byte image", ("1.jpg: the file is empty", SKIP), content("train2017/1.jpg", b"")),
    Case("text instead of an image", ("1.jpg: not an image", SKIP), content("train2017/1.jpg", "hello")),
    Case("program instead of an image", ("1.jpg: not an image", SKIP), content("train2017/1.jpg", POSTSCRIPT)),
    Case(
        "pipe instead of an image",
        ("1.jpg: not a regular file", SKIP),
        lambda r: ((r / "train2017/1.jpg").unlink(), os.mkfifo(r / "train2017/1.jpg")),
    ),
    Case(
        "PNG header of 60000 x 60000",
        ("1.png", "claims more than 536870912 pixels", "cut it into parts", SKIP),
        claiming_png,
    ),
    Case("bitmap that is cut off, found while training", ("1.bmp: damaged image", "lightning-det inspect"), cut_bitmap),
    Case(
        "the same, found by a loader process",
        ("1.bmp: damaged image", "lightning-det inspect"),
        cut_bitmap,
        ("data.num_workers=1",),
    ),
    # COCO
    Case("json that is no JSON", (f"{ANNOTATIONS}: not valid JSON",), content(ANNOTATIONS, "{")),
    Case("json without images", (ANNOTATIONS, '"images" is missing'), edit(lambda c: c.pop("images"))),
    Case("image without size", ("image 10", '"width" is missing', SKIP), edit(lambda c: c["images"][1].pop("width"))),
    Case(
        "annotation without bbox", ("annotation 100", '"bbox"', SKIP), edit(lambda c: c["annotations"][0].pop("bbox"))
    ),
    Case("unknown category id", ("annotation 100: category_id 8 is none", SKIP), annotation(category_id=8)),
    Case("string category id", ("annotation 100: category_id '7' is none", SKIP), annotation(category_id="7")),
    Case("image id twice", ("image 20: image id occurs twice", SKIP), image(id=20)),
    Case("annotation id twice", ("annotation 201: annotation id occurs twice", SKIP), annotation(id=201)),
    Case("image ids as strings", ("annotation 100: image_id 10 is no image", SKIP), image(id="10")),
    Case("NaN in a box", ("box has a NaN or infinite coordinate", SKIP), annotation(bbox=[1, float("nan"), 5, 5])),
    Case("box with a negative side", ("annotation 100: box has no area", SKIP), annotation(bbox=[9, 9, -4, 5])),
    Case("box without area", ("annotation 100: box has no area", SKIP), annotation(bbox=[9, 9, 0, 5])),
    Case(
        "box outside the image", ("annotation 100", "outside the 64 x 48 image", SKIP), annotation(bbox=[99, 9, 4, 5])
    ),
    Case("box over the border", ("reaches beyond", "1 x box clipped", SKIP), annotation(bbox=[60, 9, 9, 5])),
    Case(
        "box a little over the border",
        ("dataset.train (train2017): 1 x box clipped to the image",),
        annotation(bbox=[60, 9, 4.9, 5]),
        code=0,
    ),
    Case("iscrowd as text", ("annotation 100: iscrowd '0' must be 0 or 1", SKIP), annotation(iscrowd="0")),
    Case("size other than the image's", ("image 10", "annotated as 48 x 48", "64 x 48", SKIP), image(width=48)),
    Case("size of pixels that Exif turns", ("image 10", "turned by its Exif orientation 6", SKIP), turned),
    Case("no images", ("dataset.train (train2017) has no image",), edit(lambda c: c.update(images=[], annotations=[]))),
    Case("no boxes", ("dataset.train (train2017) has no box",), edit(lambda c: c.update(annotations=[]))),
    Case(
        "crowds alone",
        ("has no box to learn from: all 6 boxes have iscrowd 1", "set it to 0"),
        edit(lambda c: [a.update(iscrowd=1) for a in c["annotations"]]),
    ),
    Case(
        "image under two ids",
        ("image 20: its file is that of image 10 (2.jpg), which gets its boxes", "1 x image left out", SKIP),
        image(file_name="2.jpg"),
    ),
    Case(
        "key twice in an object",
        (f"{ANNOTATIONS}: not valid JSON", "the key 'id' occurs twice"),
        text(ANNOTATIONS, '"id": 100,', '"id": 100, "id": 101,'),
    ),
    Case("path out of the dataset", ("must be a path below", SKIP), image(file_name="../val2017/1.jpg")),
    Case("absolute path", ("'/etc/passwd' must be a path below", SKIP), image(file_name="/etc/passwd")),
    Case(
        "wrong dataset root", ("instances_train2017.json: no such", "dataset.root"), arguments=("dataset.root={out}",)
    ),
    Case(
        "other classes in the validation",
        ("dataset.val misses bird and has also cat",),
        edit(lambda c: c["categories"][0].update(name="bird")),
    ),
    # VOC
    Case(
        "VOC without a list",
        ("train.txt: no such list", "dataset.root"),
        arguments=("dataset.root={out}",),
        layout="voc",
    ),
    Case(
        "XML that is no XML",
        ("i0.xml: not valid XML", SKIP),
        content("Annotations/i0.xml", "<annotation>"),
        layout="voc",
    ),
    Case(
        "XML that grows to gigabytes",
        ("i0.xml", "entity 'l0'", SKIP),
        content("Annotations/i0.xml", BOMB),
        layout="voc",
    ),
    Case(
        "XML that includes a file", ("i0.xml", "entity 'x'", SKIP), content("Annotations/i0.xml", LOOKS), layout="voc"
    ),
    Case(
        "list with a path out of the dataset",
        ("train.txt, line 1: '../i1'", SKIP),
        content("ImageSets/Main/train.txt", "../i1\n"),
        layout="voc",
    ),
    Case(
        "object without a corner",
        ("i0.xml, object 1 (person): bndbox needs", SKIP),
        text("Annotations/i0.xml", "<xmax>30</xmax>", ""),
        layout="voc",
    ),
    Case(
        "class that is not asked for",
        ("i0.xml, object 2: class 'bird' is not in dataset.source.classes", SKIP),
        arguments=("dataset.source.classes=[person]",),
        layout="voc",
    ),
    Case(
        "VOC size other than the image's",
        ("i0.xml, size: annotated as 65 x 48", SKIP),
        text("Annotations/i0.xml", "<width>64", "<width>65"),
        layout="voc",
    ),
    # YOLO
    Case(
        "YOLO without data.yaml",
        ("data.yaml: No such file", "dataset.root"),
        arguments=("dataset.root={out}",),
        layout="yolo",
    ),
    Case(
        "labels of an image that is not there",
        ("labels/train/phone.txt: no image of this name", "on_bad=skip", "1 x box left out"),
        content("labels/train/phone.txt", "0 0.5 0.5 0.2 0.2\n"),
        layout="yolo",
    ),
    Case("YAML that is no YAML", ("data.yaml: not valid YAML",), content("data.yaml", "names: [a"), layout="yolo"),
    Case(
        "YAML that grows to gigabytes",
        ("data.yaml: names: class names must be texts",),
        content("data.yaml", f"{ALIASES}names: *i\ntrain: images/train\nval: images/val\n"),
        layout="yolo",
    ),
    Case(
        "wrong number of classes",
        ("data.yaml: nc is '3', but names has 2 classes",),
        text("data.yaml", "names:", "nc: 3\nnames:"),
        layout="yolo",
    ),
    Case(
        "poses with another number of keypoints",
        ("0.txt, line 3: 8 values after the class", "kpt_shape asks for 6", SKIP),
        text("data.yaml", "names:", "kpt_shape: [3, 2]\nnames:"),
        layout="yolo",
    ),
    Case(
        "unknown class number",
        ("1.txt, line 1: class 2", SKIP),
        content("labels/train/1.txt", "2 .5 .5 .1 .1"),
        layout="yolo",
    ),
    Case(
        "pixels instead of shares",
        ("1.txt, line 1", "pixels", SKIP),
        content("labels/train/1.txt", "0 9 9 5 5"),
        layout="yolo",
    ),
    Case(
        "labels that are no text",
        ("1.txt: not a text file", SKIP),
        content("labels/train/1.txt", b"\xff\xfe"),
        layout="yolo",
    ),
    Case(
        "list of images with a path out of the dataset",
        ("list.txt, line 1", "secret.png is not below", SKIP),
        lambda r: (
            content("list.txt", "../secret.png\n")(r),
            text("data.yaml", "train: images/train", "train: list.txt")(r),
        ),
        layout="yolo",
    ),
    # Both ways out
    Case("three problems at once", ("has 3 problems", "lightning-det inspect", SKIP), several),
    Case(
        "the same, to be skipped",
        ("1 x image left out", "1 x box left out", "1 x box clipped"),
        several,
        (SKIP,),
        code=0,
    ),
    Case(
        "the same and a bitmap that is cut off, inspected",
        ("4 problems:", "-> image left out", "-> box left out", "-> box clipped", "2.bmp: damaged image"),
        every_kind,
        ("pictures=1",),
        command="inspect",
        code=0,
    ),
    # Settings
    Case("unknown key", ("trainer.speed", "trainer has the keys"), arguments=("trainer.speed=3",), code=2),
    Case("key with a typo", ("did you mean trainer.max_epochs?",), arguments=("trainer.max_epoch=3",), code=2),
    Case("option that does not exist", ("trainer=cpux: there is no such option",), arguments=("trainer=cpux",), code=2),
    Case(
        "option in a list that does not exist",
        ("strategy=snipper: there is no such option; did you mean sniper?",),
        arguments=("strategy=[snipper,flip]",),
        code=2,
    ),
    Case("no option where one is needed", ("Config group override",), arguments=("logger=null",), code=2),
    Case(
        "value of another type",
        ("trainer.max_epochs: must be an integer",),
        arguments=("trainer.max_epochs=x",),
        code=2,
    ),
    Case(
        "pixels as a scale factor",
        ("dataset.resolution", "if pixels were meant, give [640, 1067]"),
        arguments=("dataset.resolution=640",),
        code=2,
    ),
    Case(
        "views that fit into no memory",
        ("would be seen as one view of 80000 x 60000 pixels",),
        arguments=("dataset.resolution=[60000,80000]",),
        code=2,
    ),
    Case(
        "brackets in a value",
        ("needs quotes of its own", "source='a (1), b'"),
        arguments=("dataset.root=images (1)",),
        code=2,
    ),
    Case(
        "two strategies for one thing",
        ("both set", "keep one"),
        arguments=("strategy=[single_scale,multi_scale]",),
        code=2,
    ),
    Case(
        "strategy that the detector cannot follow",
        ("strategy=all_rois selects rois, which detector", "has not; leave strategy=all_rois out"),
        arguments=("detector=ssd", "backbone=ssd_tiny", "strategy=all_rois"),
        code=2,
    ),
    # Checkpoints, weights, proposals
    Case(
        "no checkpoint",
        ("none.ckpt: no such checkpoint",),
        arguments=("checkpoint={root}/none.ckpt",),
        command="eval",
        code=2,
    ),
    Case(
        "text as a checkpoint",
        ("x.ckpt: cannot be read as a checkpoint",),
        content("x.ckpt", "hello"),
        ("checkpoint={root}/x.ckpt",),
        command="eval",
    ),
    Case(
        "zip file as a checkpoint",
        ("x.ckpt: cannot be read as a checkpoint",),
        lambda r: zipfile.ZipFile(r / "x.ckpt", "w").writestr("a", "b"),
        ("checkpoint={root}/x.ckpt",),
        command="eval",
    ),
    Case(
        "pickle that runs a command",
        ("x.ckpt: cannot be read as a checkpoint",),
        content("x.ckpt", pickle.dumps(Trap())),
        ("checkpoint={root}/x.ckpt",),
        command="eval",
    ),
    Case(
        "checkpoint that runs a command",
        ("x.ckpt: cannot be read as a checkpoint",),
        saved({"state_dict": Trap()}),
        ("checkpoint={root}/x.ckpt", "source={root}"),
        command="predict",
    ),
    Case(
        "checkpoint whose settings run a command",
        ("backbone._target_", "lightning_det.runs.sweep.subprocess.run", "trust"),
        checkpoint({"backbone": {"_target_": "lightning_det.runs.sweep.subprocess.run", "args": ["true"]}}),
        ("checkpoint={root}/x.ckpt",),
        command="eval",
        code=2,
    ),
    Case(
        "checkpoint whose settings look something up",
        ("x.ckpt: not a checkpoint", "settings.test.merge: ${oc.create:{_target_:os.system}} calls a resolver"),
        checkpoint({"test": {"merge": "${oc.create:{_target_:os.system}}"}}),
        ("checkpoint={root}/x.ckpt", "source={root}"),
        command="predict",
    ),
    Case(
        "checkpoint with a tensor that is larger than the file",
        ("x.ckpt: cannot be read as a checkpoint",),
        checkpoint({}, weights={"x": torch.zeros(1).as_strided((10**9,), (0,))}),
        ("checkpoint={root}/x.ckpt",),
        command="export",
    ),
    Case(
        "checkpoint with a class name that paints the terminal",
        ("labels: class names must be printable",),
        checkpoint({}, name="\x1b[31mcat"),
        ("checkpoint={root}/x.ckpt",),
        command="eval",
    ),
    Case(
        "key beside a checkpoint that nothing reads",
        ("optimizer.lr beside a checkpoint: eval does not read it",),
        arguments=("checkpoint={run}", "optimizer.lr=0.1"),
        command="eval",
        code=2,
    ),
    Case(
        "run folder whose options call code",
        ("++trainer.callbacks._target_=os.system", "give the option again"),
        content("overrides.yaml", "- ++trainer.callbacks._target_=os.system\n"),
        ("resume={root}",),
        code=2,
    ),
    Case(
        "weights alone as a checkpoint",
        ("x.ckpt: not a checkpoint of lightning-det", "weights=FILE"),
        saved({"layer.weight": torch.zeros(2)}),
        ("checkpoint={root}/x.ckpt",),
        command="eval",
    ),
    Case(
        "list of tensors as weights",
        ("x.ckpt: not weights",),
        saved([torch.zeros(2)]),
        ("weights={root}/x.ckpt",),
    ),
    Case("weights that do not exist", ("weights=nothing: no such file",), arguments=("weights=nothing",), code=2),
    Case(
        "weights of another detector",
        ("weights={run}", "detector"),
        arguments=("detector=ssd", "backbone=ssd_tiny", "weights={run}"),
    ),
    Case(
        "weights of another backbone",
        ("x.ckpt: none of its 1 tensors (layer.weight) fit this backbone's",),
        saved({"layer.weight": torch.zeros(2)}),
        ("backbone.weights={root}/x.ckpt",),
        code=2,
    ),
    Case(
        "checkpoint with the settings of another detector",
        ("checkpoint={run}: its weights do not fit", "a checkpoint brings its own"),
        arguments=("checkpoint={run}", "detector=rfcn"),
        command="eval",
    ),
    Case(
        "dataset with classes that the checkpoint does not know",
        ("classes that the checkpoint does not know: bird", "it knows cat"),
        lambda r: text("annotations/instances_val2017.json", '"cat"', '"bird"')(r),
        ("checkpoint={run}", "dataset.root={root}"),
        command="eval",
    ),
    Case(
        "checkpoint of another detector to go on from",
        ("it is of another detector", "detector._target_ was", "weights=FILE"),
        arguments=("detector=rfcn", "resume={run}/checkpoints/last.ckpt"),
    ),
    Case(
        "checkpoint of other classes to go on from",
        ("the dataset misses cat and has also bird", "weights=FILE"),
        renamed,
        ("resume={run}/checkpoints/last.ckpt",),
    ),
    Case("text as proposals", NO_PROPOSALS, content("p.npz", "hello"), PROPOSALS),
    Case("pickled proposals", NO_PROPOSALS, proposals(boxes=np.array([Trap()], object)), PROPOSALS),
    Case(
        "proposals with offsets of elsewhere", NO_PROPOSALS, proposals(offsets=np.array([0, 2**40, 1, 1, 1])), PROPOSALS
    ),
    Case("proposals of another shape", NO_PROPOSALS, proposals(boxes=np.zeros((1, 3), np.float32)), PROPOSALS),
    Case("proposals that are NaN", NO_PROPOSALS, proposals(boxes=np.full((1, 4), np.nan, np.float32)), PROPOSALS),
    Case(
        "proposals that grow to gigabytes",
        NO_PROPOSALS,
        lambda r: np.savez_compressed(r / "p.npz", boxes=np.zeros((10**6, 4), np.float32)),
        PROPOSALS,
    ),
    # Output
    Case("output below a file", ("file", "hydra.run.dir"), blocked, ("hydra.run.dir={root}/file/run",)),
    Case(
        "pictures below a file",
        ("file",),
        blocked,
        ("checkpoint={run}", "source={root}/val2017", "output={root}/file/out"),
        command="predict",
    ),
    Case(
        "nothing to predict",
        ("no image",),
        blocked,
        ("checkpoint={run}", "source={root}/annotations"),
        command="predict",
    ),
    Case(
        "text as a video",
        ("a.mp4: not a video that can be read", "ffmpeg -i FILE NEW.mp4"),
        content("a.mp4", "hello"),
        ("checkpoint={run}", "source={root}/a.mp4"),
        command="predict",
    ),
    Case(
        "pattern that matches nothing",
        ("*.gif: no file matches this pattern",),
        arguments=("checkpoint={run}", "source={root}/val2017/*.gif"),
        command="predict",
        code=2,
    ),
    Case(
        "list with a file that is not there",
        ("list.txt, line 2: no such file: nothing.jpg",),
        content("list.txt", "val2017/0.jpg\nnothing.jpg\n"),
        ("checkpoint={run}", "source={root}/list.txt"),
        command="predict",
        code=0,
    ),
    Case(
        "text as COCO annotations to predict with",
        ("a.json: not an annotation file of COCO", "it needs images with id and file_name"),
        content("a.json", "hello"),
        ("checkpoint={run}", "source={root}/val2017", "coco={root}/a.json"),
        command="predict",
    ),
    Case(
        "run without thresholds",
        ("no thresholds.json in it; eval checkpoint=RUN writes one",),
        arguments=("checkpoint={run}", "source={root}/val2017", "thresholds={root}"),
        command="predict",
        code=2,
    ),
    Case(
        "scale of pictures that is not a number",
        ("draw_scale=big: must be auto, or a number up to 16",),
        arguments=("checkpoint={run}", "source={root}/val2017", "draw_scale=big"),
        command="predict",
        code=2,
    ),
]


def killed(arguments: list[str]) -> Outcome:
    """A training whose loader process is killed at its first image, as the system does when memory ends."""

    def die(path):
        assert torch.utils.data.get_worker_info() is not None
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "open_pixels", die)
        return run("train", *arguments)


def without_space(command: str, largest: int) -> Callable[[list[str]], Outcome]:
    """Starts a command that can write so many bytes per file, in a process of its own."""

    def start(arguments: list[str]) -> Outcome:
        done = run_forked(command, *arguments, prepare=partial(limit_files, largest))
        return Outcome(done.returncode, done.stdout, done.stderr)

    return start


def limit_files(largest: int) -> None:
    """Lets this process write so many bytes per file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


CASES += [
    Case(
        "loader process killed",
        ("DataLoader worker", "data.num_workers=0", "shm"),
        arguments=("data.num_workers=1",),
        start=killed,
    ),
    Case(
        "nothing suggested",
        (
            "strategy=suggested",
            "nothing is suggested for dataset=coco",
            "inspect dataset=coco dataset.root=DIR write=mine",
        ),
        arguments=("strategy=suggested",),
        code=2,
    ),
    Case(
        "suggestion with a taken name",
        ("write=coco", "there is a dataset=coco already"),
        arguments=("write=coco",),
        command="inspect",
        code=2,
    ),
    Case("disk full", ("File too large", "make space"), command="inspect", start=without_space("inspect", 2048)),
    Case(
        "disk full while checkpointing",
        ("last.ckpt: the checkpoint cannot be written (File too large)", "there is none yet", "Make room"),
        arguments=("callbacks=[default]", "callbacks.best=null"),
        start=without_space("train", 2**19),
    ),
]


def trained(folder: Path) -> None:
    """A run of the smallest training."""
    root = make_coco(folder / "coco")
    keep = [o if o != "callbacks=[]" else "callbacks.report=null" for o in TINY]
    outcome = run("train", "dataset=coco", f"dataset.root={root}", *keep, f"hydra.run.dir={folder}/run")
    assert outcome.code == 0, outcome.errors


def command_of(case: Case, places: dict[str, Path | str]) -> list[str]:
    """The command line, without what makes the training tiny."""
    given = [a.format(**places) for a in case.arguments]
    if case.command in ("train", "inspect"):
        own = [f"dataset={case.layout}", f"dataset.root={places['root']}"]
        given = [o for o in own if not any(g.split("=")[0] == o.split("=")[0] for g in given)] + given
    return given


def outcome_of(case: Case, folder: Path, trained_run: Path) -> tuple[Outcome, str]:
    """Breaks, runs and checks; returns what happened and the message with short paths."""
    root = {"coco": make_coco, "voc": make_voc, "yolo": make_yolo}[case.layout](folder / "data")
    case.spoil(root)
    out = folder / "out"
    places = {"root": root, "run": trained_run, "out": out}
    given = command_of(case, places)
    names = {g.split("=")[0] for g in given}
    rest = [o for o in TINY if o.split("=")[0] not in names] if case.command in ("train", "inspect") else []
    rest += [] if "hydra.run.dir" in names else [f"hydra.run.dir={out}"]
    outcome = case.start([*given, *rest]) if case.start else run(case.command, *given, *rest)
    message = outcome.errors[outcome.errors.find("error: ") :] if case.code else outcome.output
    for name, place in (
        ("run", trained_run),
        ("trained", trained_run.parent / "coco"),
        ("root", root),
        ("out", out),
        ("tmp", folder),
    ):
        message = message.replace(str(place), name.upper())
    message = message.replace(str(CONF.parent), "CHECKOUT")
    message = re.sub(r"(pid\S*) \d+", r"\1 N", message)
    assert outcome.code == case.code, outcome.errors + outcome.output
    for word in case.words:
        shown = word.format(run="RUN") if "{run}" in word else word
        assert shown in message, message
    assert "Traceback" not in outcome.errors + outcome.output
    assert not list(folder.rglob("*.part"))
    if case.code:
        assert not list(out.glob("checkpoints/*"))
        assert not (out / "metrics.json").exists()
    return outcome, message


INTRO = """# Bad input

This page lists what the commands say to bad input. Each row is one case of `tests/data/test_bad_input.py`, which breaks
a small dataset, a checkpoint or a command line, and runs the real command.
`PYTHONPATH=tests python tests/data/test_bad_input.py` writes this page anew. Exit codes: 2 for settings, 1 for
everything else that you can fix, 0 if the command continued.

## Datasets
Datasets are checked when they are read, before anything is trained or written. Annotations are checked record by
record. Images are checked by their header and their size, JPEG files also by their end, and PNG files by their
checksums. `dataset.on_bad` decides what happens to a split that has problems:

- `error`, the default: `train`, `eval` and `mine` stop. They name file, record and reason of the first twenty problems,
  and count what `skip` would do about each kind.
- `skip`: records that cannot be used are **left out**, and boxes that reach far beyond their image are **clipped** to
  it. The log counts both (`1 x image left out, 2 x box clipped to the image`). If an image is left out, so are its
  boxes, unless its file is listed under two names: then the first one gets the boxes of both.

Faults with an obvious meaning stop nothing, whatever `on_bad` says. Of identical boxes of one class in one image, the
first stays and the copies are left out. A box that reaches at most a pixel, or a hundredth of the image's side, beyond
its image is clipped; up to 0.1 pixels, it is kept. The log counts these too, and `inspect` lists them.

A file that is useless as a whole (no JSON, no categories, no list of images) ends the command in either case.

`lightning-det inspect` with the same dataset options lists every problem of every split, in the terminal and
in `inspect.json`, with what `skip` would do about it. It also decodes every image. A training decodes an image only
when it needs it, so an image that is damaged elsewhere ends the training with its name. JPEG has no checksums: flipped
bits in the middle of a file show as odd colours, which no decoder reports.

Images are BMP, GIF, JPEG (MPO too), JPEG2000, PNG, PPM, TIFF or WEBP by their content, whatever their names are.
Nothing else is opened. Images are used as they are meant to be seen: turned as Exif says, 16 bits scaled to 8, the
first picture of an animation or of several pages, without transparency. Floating-point and 32-bit pixels are refused,
because nothing says which value is white. Boxes belong to the image as it is seen. If the annotated size is that of the
unturned pixels, the image is a problem. Orientations that keep the size (2 to 4, and all of a square image) do not show
this, nor do YOLO's labels, which state no size.

Annotation files of 20 MB and more are parsed once and then read from `$LIGHTNING_DET_CACHE` (`~/.cache/lightning_det`)
by their content. An image is checked again if its file has another size or time, and a bad image every time. Names of
classes and files are shown with control characters escaped.

## Nothing is executed
Nothing that a file says is executed. Checkpoints are read as tensors and plain data, arrays without pickled objects and
uncompressed, XML without entities, YAML without tags that make objects. Paths in annotation files must lie below the
dataset's folder; symbolic links in it are followed, because the owner of the folder made them. Images of more than 2^29
pixels are refused by their header. Devices and pipes are never opened.

A checkpoint is data, wherever it comes from:

- Before its content is read, its outline is checked in bounded time and memory. Refused are compressed members, members
  larger than the file, tensors larger than what is stored of them, and all pickled names except those of tensors and
  dictionaries. Then each part is checked for what a training writes there: class names are different, printable texts;
  weights are finite numbers.
- Its settings are texts, numbers, lists and dictionaries. An interpolation may name a key of the settings
  (`${dataset.resolution}`). One that calls a resolver (`${oc.env:...}`), is put together by others, leads in a circle
  or grows without bound is refused.
- A `_target_` must be, by its exact name, one of the parts that `lightning_det/config/parts.py` lists for its place.
  Trainer, logger and callbacks never come from a checkpoint. A part of your own is called only at the place where your
  command names it: by the option of the training (`backbone=MINE`, in your `conf/`), or by
  `++backbone._target_=NAME`.
- It downloads nothing, and names no files except those of its dataset. `backbone.name` is the name of a network without
  a scheme such as `hf-hub:`. Splits and the reader's paths lie below `dataset.root`. `dataset.root` itself is that of
  the training unless you give another one, and `shapes` renders its images there.

The same holds for a run folder. `train resume=RUN_FOLDER` does not take over options from its `overrides.yaml` that
look for options elsewhere (`hydra.searchpath`), call other parts or resolvers (except `oc.env`), lead out of the
dataset, or say where something is written. The message names the option; give it again if you want it.

## Messages
`RUN` is the folder of a trained run, `ROOT` the dataset, `OUT` the run folder of the command. Options that make images
and training tiny are left out.

| input | command | message | exit code |
| --- | --- | --- | --- |
"""


def row(case: Case, message: str) -> str:
    """A line of the table."""
    places = {"root": "ROOT", "run": "RUN", "out": "OUT"}
    call = f"`{' '.join([case.command, *command_of(case, places)])}`"
    if case.code == 0:
        lines = [line for line in message.splitlines() if any(word in line for word in case.words)]
    else:
        lines = message.removeprefix("error: ").splitlines()
    said = "<br>".join(line.strip().replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*") for line in lines)
    return f"| {case.name} | {call} | {said} | {case.code} |"


def rows() -> dict[str, str]:
    """The committed table, by the name of the case."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    return made_once(tmp_path_factory, "trained_on_coco", trained)[0] / "run"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_named(case, tmp_path, trained_run):
    _, message = outcome_of(case, tmp_path, trained_run)
    assert not Path(tempfile.gettempdir(), "sprung").exists()
    # Words of libraries differ between their versions, and are not compared.
    input_, call, *_, code = rows()[case.name].split(" | ")
    assert [input_, call, code] == [part for n, part in enumerate(row(case, message).split(" | ")) if n in (0, 1, 3)]


def test_the_page_has_every_case_and_no_other():
    assert list(rows()) == [case.name for case in CASES]
    assert PAGE.read_text().startswith(INTRO)


CHIPS = ("dataset.sniper.size=64", "dataset.sniper.scales=[2.0,1.0,[-1,64]]")
STRATEGIES = (
    ("strategy=[single_scale,flip]",),  # with a report
    ("strategy=[sniper_no_negatives,flip]", *CHIPS, "callbacks.report=null"),
    ("strategy=[tiles,flip]", "views.train.windows.size=64", "callbacks.report=null"),
)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=["single_scale", "sniper_no_negatives", "tiles"])
def test_unusual_images_are_no_bad_input(strategy, tmp_path):
    """One pixel, a strip, an image without boxes; a validation without any box."""
    root = make_coco(tmp_path / "data")
    write_image(root / "train2017/1.png", 1, 1)
    Image.new("RGB", (20_000, 50)).save(root / "train2017/2.png")
    image(file_name="1.png", width=1, height=1)(root)
    edit(lambda c: c["images"][2].update(file_name="2.png", width=20_000, height=50))(root)
    annotation(bbox=[0, 0, 1, 1])(root)
    edit(lambda c: c["annotations"][1].update(bbox=[9000, 1, 12, 20]))(root)
    file = root / "annotations/instances_val2017.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    limit = ["trainer.limit_train_batches=12", "trainer.limit_val_batches=2"]
    given = ["dataset=coco", f"dataset.root={root}", *TINY[:-1], *strategy, *limit, f"hydra.run.dir={tmp_path}/run"]
    outcome = run("train", *given)
    assert outcome.code == 0, outcome.errors
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["steps"] > 0
    assert np.isfinite(metrics["loss"])
    # AP of nothing is no result.
    assert "dataset.val (val2017): there are no boxes" in outcome.output
    assert metrics["AP"] is metrics["best_AP"] is None
    assert [file.name for file in (tmp_path / "run/checkpoints").iterdir()] == ["last.ckpt"]


def write_page() -> None:
    """Writes docs/bad_input.md."""
    lines, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "trained/run"
        trained(run_folder.parent)
        for number, case in enumerate(CASES):
            place = Path(folder) / str(number)
            place.mkdir()
            try:
                lines.append(row(case, outcome_of(case, place, run_folder)[1]))
            except Exception as error:
                failed.append(f"{case.name}: {type(error).__name__} {error}")
    if failed:
        sys.exit("\n".join(failed))
    PAGE.write_text(INTRO + "\n".join(lines) + "\n")


if __name__ == "__main__":
    write_page()
