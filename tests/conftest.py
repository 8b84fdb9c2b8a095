"""Fixtures: small datasets that the tests make, and the real ones where the environment names them."""

import json
import os
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from support.datasets import make_coco, make_voc, make_yolo

from lightning_det.config import CONF, register_schema
from lightning_det.runs.launch import register_start_time

# Several test processes share the cores, and one thread is the same everywhere; the commands that tests start inherit
# it. Two processes with two threads each on two cores wait for each other most of the time.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

GOLDEN = json.loads((Path(__file__).parent / "golden" / "spine.json").read_text())


def _real(variable):
    root = os.environ.get(variable)
    if not root:
        pytest.skip(f"{variable} does not name the dataset's folder")
    return Path(root)


@pytest.fixture(scope="session")
def tiny_coco():
    return _real("TINY_COCO_ROOT")


@pytest.fixture(scope="session")
def bccd():
    return _real("BCCD_ROOT")


@pytest.fixture(scope="session")
def golden():
    return GOLDEN


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    """Where the tests' generated images go, rendered once."""
    return tmp_path_factory.mktemp("data") / "shapes"


@pytest.fixture
def composed(monkeypatch, tmp_path):
    """Composes as a command would: ``composed("train", "seed=1")``."""
    for variable in ("BCCD_ROOT", "TINY_COCO_ROOT"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    register_schema()
    register_start_time()

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


@pytest.fixture
def coco_folder(tmp_path):
    return make_coco(tmp_path / "coco")


@pytest.fixture
def voc_folder(tmp_path):
    return make_voc(tmp_path / "voc")


@pytest.fixture
def yolo_folder(tmp_path):
    return make_yolo(tmp_path / "yolo")
