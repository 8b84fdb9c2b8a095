"""A sweep that goes on with its folder alone, and folders of other sweeps."""

import pytest
import yaml
from omegaconf import OmegaConf

from lightning_det.runs.sweep_record import check_sweep, complete_sweep
from lightning_det.system.errors import ConfigError

STARTED = ["hydra/launcher=cluster", "optimizer.lr=0.1", "seed=0,1"]


def config(*task, hydra=("hydra.mode=MULTIRUN", "hydra.sweep.dir=x")):
    return OmegaConf.create({"hydra": {"overrides": {"task": list(task), "hydra": list(hydra)}}})


@pytest.fixture
def folder(tmp_path):
    """Of a sweep that was started."""
    place = tmp_path / "sweep"
    (place / "0").mkdir(parents=True)
    (place / "0/status.json").touch()
    hydra = ["hydra.mode=MULTIRUN", "hydra/launcher=cluster", "hydra.sweep.dir=x"]
    check_sweep(place, config(*STARTED[1:], hydra=hydra), "train")
    return place


def test_a_sweep_goes_on_with_its_folder_alone(folder):
    for place in (f"hydra.sweep.dir={folder}", f'hydra.sweep.dir="{folder}"'):
        assert complete_sweep(["-m", place], "train") == ["-m", *STARTED, place]
        assert complete_sweep([place, "--multirun"], "train") == [*STARTED, place, "--multirun"]
        assert complete_sweep([place, "hydra.mode=MULTIRUN"], "train") == [*STARTED, place, "hydra.mode=MULTIRUN"]


def test_sweeps_of_earlier_versions_go_on_by_hydras_record(folder):
    (folder / "sweep.yaml").unlink()
    overrides = {"task": ["seed=0,1"], "hydra": ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={folder}"]}
    content = {"hydra": {"overrides": overrides, "job": {"config_name": "train"}}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(content))
    place = f"hydra.sweep.dir={folder}"
    assert complete_sweep(["-m", place], "train") == ["-m", "seed=0,1", place]


def test_other_command_lines_stay_as_they_are(folder, tmp_path):
    place = f"hydra.sweep.dir={folder}"
    for given in ([], ["-m"], ["-m", place, "seed=3"], [place], ["-m", f"hydra.sweep.dir={tmp_path}/new"], ["--help"]):
        assert complete_sweep(given, "train") == given


def test_another_sweep_is_refused(folder):
    before = (folder / "sweep.yaml").read_text()
    for task, words in (
        (["optimizer.lr=0.2", "seed=0,1"], "optimizer.lr=0.1 optimizer.lr=0.2"),
        (["optimizer.lr=0.1", "seed=0,1", "trainer.max_epochs=3"], "trainer.max_epochs=3"),
        (["optimizer.lr=0.1", "seed=0"], "seed seed=0"),
        (["seed=0,1"], "optimizer.lr=0.1"),
    ):
        with pytest.raises(ConfigError, match=f"differs in {words}; -m hydra.sweep.dir={folder} alone goes on"):
            check_sweep(folder, config(*task), "train")
    with pytest.raises(ConfigError, match="train, not eval"):
        check_sweep(folder, config(*STARTED[1:]), "eval")
    with pytest.raises(ConfigError, match="a sweep of train, not of eval"):
        complete_sweep(["-m", f"hydra.sweep.dir={folder}"], "eval")
    assert (folder / "sweep.yaml").read_text() == before


def test_a_sweep_of_which_no_job_was_begun_may_be_mended(folder):
    (folder / "0/status.json").unlink()
    check_sweep(folder, config("seed=2,3"), "train")
    assert "seed=2,3" in complete_sweep(["-m", f"hydra.sweep.dir={folder}"], "train")


def test_a_sweep_may_grow(folder):
    """More values of what it sweeps: jobs that are finished are not run again."""
    check_sweep(folder, config("seed=0,1,2", "optimizer.lr=0.1"), "train")
    assert "seed=0,1,2" in complete_sweep(["-m", f"hydra.sweep.dir={folder}"], "train")


@pytest.mark.parametrize("content", ["", "[", "a: 1", "command: train\noverrides: 3", "command: train\noverrides: [1]"])
def test_a_damaged_record_is_named(folder, content):
    for name in ("sweep.yaml", "multirun.yaml"):
        (folder / name).write_text(content)
        with pytest.raises(ConfigError, match=f"{name}: damaged.*Remove the file, and start the sweep again with its"):
            complete_sweep(["-m", f"hydra.sweep.dir={folder}"], "train")
        (folder / name).unlink()
