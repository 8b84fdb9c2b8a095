"""A folder ``conf/`` in the working directory."""

import os

import pytest
from hydra import compose, initialize_config_dir

from lightning_det.config import CONF, read_option
from lightning_det.config.own_options import VARIABLE, own_folder, same_for_children, say_own_options


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Makes the working directory, with a folder for options of `dataset`."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/dataset").mkdir(parents=True)
    return tmp_path / "conf"


def test_an_option_is_found_and_inherits_from_the_packages(own, composed):
    (own / "dataset/mine.yaml").write_text("defaults: [yolo]\nroot: here\nlimit: 3\n")
    dataset = composed("train", "dataset=mine").dataset
    assert (dataset.root, dataset.limit) == ("here", 3)
    assert dataset.source._target_ == "lightning_det.data.yolo.Yolo"


def test_an_option_wins_over_the_packages_and_this_is_said(own, composed, capsys):
    (own / "dataset/yolo.yaml").write_text("root: mine\n")
    (own / "dataset/other.yaml").write_text("root: other\n")
    assert composed("train", "dataset=yolo").dataset.root == "mine"
    assert "dataset" not in composed("train", "dataset=other", "optimizer=sgd").optimizer
    say_own_options()
    assert capsys.readouterr() == ("", f"{own} takes the place of the package's dataset/yolo\n")


def test_files_at_the_top_belong_to_other_projects(own, composed, capsys):
    (own / "config.yaml").write_text("defaults: [elsewhere]\n")
    (own / "train.yaml").write_text("defaults: [elsewhere]\n")
    assert composed("train").seed == 0
    say_own_options()
    assert capsys.readouterr().err == f"{own}: train.yaml not read; options of groups are, in subfolders\n"


def test_the_folder_of_a_checkout_is_the_packages(own, composed, monkeypatch, capsys):
    monkeypatch.chdir(CONF.parent)
    assert own_folder() is None
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        whole = compose("train", return_hydra_config=True)
    assert [s.path for s in whole.hydra.runtime.config_sources if "conf" in s.provider] == []
    say_own_options()
    assert capsys.readouterr() == ("", "")


def test_other_working_directories_have_their_own(own, composed, tmp_path, monkeypatch):
    (own / "dataset/mine.yaml").write_text("root: here\n")
    composed("train")
    assert read_option("dataset/mine").dataset.root == "here"
    (tmp_path / "x/conf/dataset").mkdir(parents=True)
    (tmp_path / "x/conf/dataset/mine.yaml").write_text("root: there\n")
    monkeypatch.chdir(tmp_path / "x")
    composed("train")
    assert read_option("dataset/mine").dataset.root == "there"


def test_started_processes_have_the_same_wherever_they_work(own, composed, tmp_path, monkeypatch):
    (own / "dataset/mine.yaml").write_text("root: here\n")
    with same_for_children():
        assert os.environ[VARIABLE] == str(own)
        (tmp_path / "x").mkdir()
        monkeypatch.chdir(tmp_path / "x")
        assert composed("train", "dataset=mine").dataset.root == "here"
    assert VARIABLE not in os.environ
    assert own_folder() is None
    monkeypatch.setenv(VARIABLE, str(own))
    with same_for_children():
        assert own_folder() == own
    assert os.environ[VARIABLE] == str(own)
