"""The chain from ``inspect write=NAME`` to ``train dataset=NAME strategy=suggested``."""

import json
from pathlib import Path

import pytest
import yaml
from helpers import SMALL
from support.in_process import run

from lightning_det.runs.suggested_options import check_name
from lightning_det.system.errors import ConfigError

SOURCE = [*SMALL[:5], "decode=false", "pictures=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shapes_root):
    """A working directory in which a suggestion was written, and what the command printed."""
    here = tmp_path_factory.mktemp("suggested")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        settings = (f"dataset.root={shapes_root}", "capacity.head=64", "backbone=tiny")
        done = run("inspect", *SOURCE, *settings, "write=mine", "hydra.run.dir=first")
    assert done.code == 0, done.errors
    return here, done.output


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder[0])
    return folder[0]


SEARCHED = ("hydra.searchpath=[file://conf]", "dataset=mine")


def test_both_options_are_written_with_what_the_user_set(here, folder, shapes_root):
    content = yaml.safe_load((here / "conf/dataset/mine.yaml").read_text())
    suggestion = json.loads((here / "first/inspect.json").read_text())["suggestion"]
    assert content["defaults"] == ["shapes"]
    assert content["root"] == str(shapes_root)
    assert content["source"]["train"] == 24
    assert content["sniper"] == suggestion["dataset"]["sniper"]
    strategy = yaml.safe_load((here / "conf/strategy/suggested/mine.yaml").read_text())
    assert strategy["trainer"] == suggestion["recommended"]["settings"]["trainer"]
    assert "recommended: strategy=[" in folder[1]
    assert "written: conf/dataset/mine.yaml" in folder[1]
    # The detector that the suggestion is for is repeated, and nothing that only inspect needs.
    repeated = "dataset=mine strategy=suggested capacity.head=64 backbone=tiny"
    assert f"next: lightning-det train {repeated}\n" in folder[1]
    assert f"or look first: lightning-det inspect {repeated}  #" in folder[1]
    assert "met by no anchor" not in folder[1]


@pytest.mark.slow
def test_the_suggested_strategy_trains_and_joins_others(here):
    recommended = json.loads((here / "first/inspect.json").read_text())["suggestion"]["recommended"]
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    done = run("train", *SEARCHED, "strategy=[suggested,ohem]", *short, "hydra.run.dir=trained")
    assert done.code == 0, done.errors
    used = yaml.safe_load((here / "trained/config.yaml").read_text())
    assert used["selection"]["rois"]["_target_"] == "lightning_det.selection.HardSelector"
    assert used["data"]["batch_size"] == recommended["settings"]["data"]["batch_size"]
    assert used["trainer"]["check_val_every_n_epoch"] == recommended["settings"]["trainer"]["check_val_every_n_epoch"]
    windows = used["views"]["train"]["windows"]
    assert (windows is not None) == (recommended["strategy"][0] != "single_scale")


def test_two_strategies_for_one_slot_are_refused_by_the_names_they_stand_for(here):
    done = run("inspect", *SEARCHED, "strategy=[suggested,flip]", "hydra.run.dir=refused")
    assert done.code == 2
    assert "flip is in the list twice; name it once" in done.errors
    assert "strategy=suggested stands for: leave out of yours what it has already" in done.errors


def test_a_name_that_is_taken_is_refused_before_anything_is_written(here, shapes_root):
    before = (here / "conf/dataset/mine.yaml").read_text()
    for name, reason in (
        ("mine", "there is a dataset=mine already; take another name, or remove what an earlier inspect has written"),
        ("coco", "there is a dataset=coco already, not written by inspect; take another name, such as write=my_coco"),
        ("../mine", "a name for dataset=NAME"),
    ):
        done = run("inspect", *SOURCE, f"dataset.root={shapes_root}", f"write={name}", "hydra.run.dir=again")
        assert done.code == 2, done.output
        assert reason in done.errors
    assert (here / "conf/dataset/mine.yaml").read_text() == before


@pytest.mark.parametrize("name", ["1", "True", "null", "ä", "a b", "-a", "a.b", "", "x" * 101])
def test_a_name_that_the_command_line_would_not_take_for_one_is_refused(name):
    with pytest.raises(ConfigError, match="a name for dataset=NAME"):
        check_name(name)


@pytest.mark.parametrize("blocked", ["conf", "conf/dataset", "conf/strategy"])
def test_a_file_where_a_folder_is_needed_is_named_first(tmp_path, monkeypatch, blocked):
    monkeypatch.chdir(tmp_path)
    Path(blocked).parent.mkdir(exist_ok=True)
    Path(blocked).write_text("")
    with pytest.raises(ConfigError, match=f"write=other: {blocked} is no folder"):
        check_name("other")


def test_without_a_suggestion_the_error_says_how_to_get_one(here):
    done = run("train", "dataset=coco", "strategy=suggested", "hydra.run.dir=none")
    assert done.code == 2
    assert "strategy=suggested: nothing is suggested for dataset=coco" in done.errors
    assert "lightning-det inspect dataset=coco dataset.root=DIR write=mine" in done.errors


def test_suggested_settings_come_after_those_of_strategies_and_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "data": {"batch_size": 5},
        "trainer": {"max_epochs": 7},
        "views": {"train": {"scales": {"resolutions": [0.9]}, "windows": {"background": 0.11}}},
    }
    suggested = {"defaults": ["/strategy/tiles", "/strategy/flip", "_self_"]} | settings
    for file, content in (("dataset/own", {"defaults": ["shapes"]}), ("strategy/suggested/own", suggested)):
        path = tmp_path / f"conf/{file}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("# @package _global_\n" * file.startswith("strategy") + yaml.safe_dump(content))
    own = ("hydra.searchpath=[file://conf]", "dataset=own", "strategy=suggested")
    done = run("train", *own, "trainer=gpu", "--cfg", "job")
    assert done.code == 0, done.errors
    composed = yaml.safe_load(done.output)
    assert composed["trainer"]["max_epochs"] == 7
    assert composed["trainer"]["accelerator"] == "gpu"
    assert composed["data"]["batch_size"] == 5
    train = composed["views"]["train"]
    assert train["scales"]["resolutions"] == [0.9]
    assert train["windows"]["_target_"] == "lightning_det.views.Tiles"
    assert train["windows"]["background"] == 0.11
    assert (
        yaml.safe_load(run("train", *own, "trainer.max_epochs=3", "--cfg", "job").output)["trainer"]["max_epochs"] == 3
    )
