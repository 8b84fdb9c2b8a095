"""Fixtures: small datasets that the tests make, and the real ones where the environment names them."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from PIL import Image
from support import composing
from support.shared import common_folder

from lightning_det.config import CONF, register_schema
from lightning_det.runs.launch import register_started

# Several test processes share the cores, and one thread is the same everywhere; the commands that tests start inherit
# it. Two processes with two threads each on two cores wait for each other most of the time.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
composing.install()

LARGER_COCO = os.environ.get("TINY_COCO_ROOT")

GOLDEN = json.loads((Path(__file__).parent / "golden" / "spine.json").read_text())


def pytest_collection_finish():
    """What was imported is no garbage: from here on nothing looks for some in it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _tiny_coco_of_the_checkout():
    """``dataset=tiny_coco`` is the same in every test, whatever larger subset the environment names."""
    os.environ.pop("TINY_COCO_ROOT", None)


@pytest.fixture(scope="session")
def tiny_coco():
    """12 training and 15 validation photographs."""
    return Path(__file__).parent / "data/tiny_coco"


@pytest.fixture(scope="session")
def larger_coco():
    return _named(LARGER_COCO, "TINY_COCO_ROOT does not name a larger subset of COCO")


@pytest.fixture(scope="session")
def bccd():
    return _named(os.environ.get("BCCD_ROOT"), "BCCD_ROOT does not name the folder of the blood cell images")


def _named(root, otherwise):
    if not root:
        pytest.skip(otherwise)
    return Path(root)


@pytest.fixture(scope="session")
def golden():
    return GOLDEN


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    """Where the tests' generated images go, rendered once for all workers."""
    return common_folder(tmp_path_factory) / "shapes"


@pytest.fixture
def composed(monkeypatch, tmp_path):
    """Composes as a command would: ``composed("train", "seed=1")``."""
    for variable in ("BCCD_ROOT", "TINY_COCO_ROOT"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    register_schema()
    register_started()

    def compose_for(command, *overrides):
        GlobalHydra.instance().clear()
        initialize_config_dir(config_dir=str(CONF), version_base="1.3")
        whole = compose(command, overrides=list(overrides), return_hydra_config=True)
        with open_dict(whole):
            whole.hydra.runtime.output_dir = str(tmp_path / "run")  # Hydra does so when it starts a job
        HydraConfig.instance().set_config(whole)
        with open_dict(whole):
            del whole["hydra"]
        return whole

    yield compose_for
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def write_image(path, width=64, height=48, seed=0):
    """A random JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def coco_folder(tmp_path):
    return make_coco(tmp_path / "coco")


def make_coco(root):
    """A small dataset in COCO's layout: gaps in the category ids, a crowd, an image without boxes."""
    categories = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]
    for split in ("train2017", "val2017"):
        images, annotations = [], []
        for number in range(4):
            name = f"{number}.jpg"
            write_image(root / split / name, seed=number)
            images.append({"id": 10 * number, "file_name": name, "width": 64, "height": 48})
            for k in range(number):
                annotations.append(
                    {
                        "id": 100 * number + k,
                        "image_id": 10 * number,
                        "category_id": 90 if k else 7,
                        "bbox": [2.5 + 12 * k, 3, 10, 20.5],
                        "area": 150.5,
                        "iscrowd": int(k == 2),
                    }
                )
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def voc_folder(tmp_path):
    return make_voc(tmp_path / "voc")


def make_voc(root):
    """A small dataset in VOC's layout: a difficult object, one with parts."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        write_image(root / "JPEGImages" / f"i{number}.jpg", seed=number)
        (root / "Annotations" / f"i{number}.xml").write_text(
            f"""<annotation><filename>i{number}.jpg</filename>
            <size><width>64</width><height>48</height><depth>3</depth></size>
            <object><name>person</name><difficult>0</difficult>
              <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
              <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
            </object>
            <object><name>bird</name><difficult>1</difficult>
              <bndbox><xmin>31</xmin><ymin>11</ymin><xmax>64</xmax><ymax>48</ymax></bndbox></object>
            </annotation>"""
        )
    (root / "ImageSets/Main/train.txt").write_text("i0\ni1\n")
    (root / "ImageSets/Main/val.txt").write_text("i2\n")
    return root


@pytest.fixture
def yolo_folder(tmp_path):
    return make_yolo(tmp_path / "yolo")


def make_yolo(root):
    """A small dataset in YOLO's layout: a polygon, an image without a label file."""
    for split in ("train", "val"):
        for number in range(3):
            write_image(root / "images" / split / f"{number}.png", seed=number)
        labels = root / "labels" / split
        labels.mkdir(parents=True)
        (labels / "0.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n")
        (labels / "1.txt").write_text("0 0.25 0.25 0.5 0.5\n")
    (root / "data.yaml").write_text(
        "path: ../elsewhere\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
    )
    return root
