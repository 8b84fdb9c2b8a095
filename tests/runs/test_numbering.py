"""Names of run folders, and the link to the newest."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_det.runs import numbering
from lightning_det.runs.numbering import (
    link_latest,
    name_targets,
    numbered,
    option_words,
    register_numbering,
    take_next,
    take_run_folder,
)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Makes what Hydra composes, with some overrides."""
    monkeypatch.chdir(tmp_path)
    register_numbering()

    def make(*overrides):
        hydra = {"job": {"name": "train"}, "overrides": {"task": list(overrides)}}
        place = {"run": {"dir": "${numbered:outputs/${hydra.job.name},${hydra.overrides.task}}"}}
        return OmegaConf.create({"hydra": hydra | place})

    yield make
    register_numbering()


def test_a_folder_is_taken_once_and_linked(config):
    first = take_run_folder(config("strategy=[sniper,flip]", "seed=1"))
    assert first.is_dir()
    assert first.name == "001-sniper-flip"
    assert config().hydra.run.dir == str(first)  # as Hydra resolves it again
    link = Path("outputs/train/latest")
    assert os.readlink(link) == f"{first.parent.name}/{first.name}"
    register_numbering()  # another process
    second = take_run_folder(config())
    assert second == first.with_name("002")
    assert link.resolve() == second.resolve()


def test_nothing_is_made_before_a_run_starts(config, tmp_path):
    assert config("detector=rfcn").hydra.run.dir.endswith("/001-rfcn")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_choice_is_left_alone(config, tmp_path):
    chosen = config()
    chosen.hydra.run.dir = "outputs/train/mine"
    assert take_run_folder(chosen) == Path("outputs/train/mine")
    assert list(tmp_path.iterdir()) == []


def test_several_at_once_get_different_numbers(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda n: take_next(tmp_path / "day", f"run{n % 3}"), range(24)))
    numbers = [folder.name.partition("-")[0] for folder in folders]
    assert len(set(numbers)) == 24
    assert {folder.name for folder in folders} == {folder.name for folder in (tmp_path / "day").iterdir()}


def test_numbers_go_on_after_the_largest(tmp_path):
    for name in ("002-tiles", "010", "12-00-00", "0999x", "notes"):
        (tmp_path / name).mkdir()
    assert take_next(tmp_path, "").name == "011"
    (tmp_path / "999").mkdir()
    assert take_next(tmp_path, "ssd").name == "1000-ssd"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], ""),
        (["seed=3", "trainer.max_epochs=2", "dataset.root=x"], ""),
        (["detector=rfcn", "strategy=[sniper, flip]", "test=[]", "debug=null"], "sniper-flip-rfcn"),
        (["experiment=bccd", "checkpoint=runs/a=b", "~debug", "dataset='a b/c'"], "bccd"),
        (
            ["strategy=[sniper_no_negatives,random_sampling_bg01,distort]", "detector=ssd"],
            "sniper_no_negatives-random_sampling_bg01",
        ),
    ],
)
def test_the_options_of_a_run_are_in_its_name(overrides, words):
    assert option_words(overrides) == words


def test_a_link_that_cannot_be_made_is_said(tmp_path, monkeypatch, capsys):
    run = tmp_path / "2026-11-28/001"
    run.mkdir(parents=True)
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError(1, "not supported")))
    link_latest(run)
    assert capsys.readouterr().err == f"{tmp_path}/latest does not name this run (not supported); its folder is {run}\n"


def test_what_is_named_latest_and_is_no_link_stays(tmp_path, capsys):
    (tmp_path / "latest").mkdir()
    link_latest(tmp_path / "2026-11-28/001")
    assert "it is no link" in capsys.readouterr().err
    assert not (tmp_path / "latest").is_symlink()


def test_the_command_line_names_the_run_itself(tmp_path, monkeypatch):
    """The link names another run as soon as this one has its folder."""
    monkeypatch.chdir(tmp_path)
    run = Path("outputs/train/2026-11-28/001")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/best.ckpt").touch()
    link_latest(run)
    given = [
        "checkpoint=outputs/train/latest",
        "weights='outputs/train/latest/checkpoints/best.ckpt'",
        "outputs/train/latest",
    ]
    named = [f"checkpoint={run}", f"weights={run}/checkpoints/best.ckpt", str(run)]
    others = ["-m", "seed=1", "source=latest", "dataset.root=outputs/train", "weights=outputs/train/latest/none.ckpt"]
    assert name_targets([*given, *others]) == [*named, *others]


def test_other_ranks_take_the_folder_of_the_first(config, monkeypatch):
    monkeypatch.setattr(numbering, "shared", lambda name, make: "outputs/train/2026-11-28/007")
    monkeypatch.setattr(numbering, "is_first_rank", lambda: False)
    assert str(take_run_folder(config())) == "outputs/train/2026-11-28/007"
    assert numbered("outputs/train", []) == "outputs/train/2026-11-28/007"
    assert not Path("outputs").exists()
