"""Fixtures: small datasets that the tests make, and the real ones where the environment names them."""

import gc
import json
import os
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from support import composing
from support.datasets import make_coco, make_voc, make_yolo
from support.shared import common_folder

from lightning_det.config import CONF, register_schema
from lightning_det.inspection import probe
from lightning_det.runs.numbering import register_numbering

# Several test processes share the cores, and one thread is the same everywhere; the commands that tests start inherit
# it. Two processes with two threads each on two cores wait for each other most of the time.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
gc.disable()  # until everything is imported, see `pytest_collection_finish`
composing.install()
probe.PATIENCE, probe.BATCH = 0.0, 2  # of `inspect`, which measures the machine for seconds

LONGEST = ("test_export.py", "test_commands.py", "test_interruptions.py")

LARGER_COCO = os.environ.get("TINY_COCO_ROOT")

GOLDEN = json.loads((Path(__file__).parent / "golden" / "spine.json").read_text())


def pytest_collection_modifyitems(items):
    """What takes long starts first: else one worker is left with it when the others are done."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, item.path.name not in LONGEST))


def pytest_collection_finish():
    """What was imported is no garbage: nothing looks for some in it, here on the way or later."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)
    gc.enable()


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


@pytest.fixture(scope="session")
def drone():
    return _named(os.environ.get("DRONE_ROOT"), "DRONE_ROOT does not name the folder of the aerial photographs")


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
    for variable in ("BCCD_ROOT", "DRONE_ROOT", "TINY_COCO_ROOT"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    register_schema()
    register_numbering()

    def compose_for(command, *overrides):
        GlobalHydra.instance().clear()
        initialize_config_dir(config_dir=str(CONF), version_base="1.3")
        whole = composing.compose_once(command, overrides)
        with open_dict(whole):
            whole.hydra.runtime.output_dir = str(tmp_path / "run")  # Hydra does so when it starts a job
        HydraConfig.instance().set_config(whole)
        with open_dict(whole):
            del whole["hydra"]
        return whole

    yield compose_for
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture
def coco_folder(tmp_path):
    return make_coco(tmp_path / "coco")


@pytest.fixture
def voc_folder(tmp_path):
    return make_voc(tmp_path / "voc")


@pytest.fixture
def yolo_folder(tmp_path):
    return make_yolo(tmp_path / "yolo")
