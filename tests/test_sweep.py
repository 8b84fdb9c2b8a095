"""Sweeps: jobs that fail, jobs of several ranks, and ranks that do not train the same thing."""

import os
import subprocess
import sys

import pytest
import yaml
from helpers import SMALL, read

from lightning_det.callbacks.ranks import differences

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(shapes_root):
    return [f"dataset.root={shapes_root}", *SMALL, "debug=limit"]


def train(*overrides, launcher=(sys.executable, "-m"), target="lightning_det.train", env=None):
    call = [*launcher, target, *overrides]
    return subprocess.run(call, capture_output=True, text=True, env=os.environ | (env or {}), timeout=300, check=False)


def test_failing_jobs_do_not_stop_the_others(small, tmp_path):
    """One job is misconfigured, one has no data; each says so, and the sweep ends with the larger exit code."""
    sweep = ["-m", "strategy=[tiles,sniper],[single_scale]", "dataset.train=train,nowhere"]
    done = train(*sweep, *small, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 2, done.stdout + done.stderr
    jobs = read(tmp_path / "sweep.json")
    assert [job["exit_code"] for job in jobs] == [2, 2, 0, 1]
    assert [job["AP"] is not None for job in jobs] == [False, False, True, False]
    for number, job in enumerate(jobs):
        assert read(tmp_path / str(number) / "status.json") == job
        assert job["folder"] == str(tmp_path / str(number))
    assert "tiles and sniper both set views.train.windows" in jobs[0]["error"]
    assert "nowhere" in jobs[3]["error"]
    assert "3 of 4 jobs failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "strategy=[single_scale]" in done.stdout  # the table
    assert "dataset.resolution" not in done.stdout.split("sweep in")[1]  # what all jobs have in common is left out


def test_jobs_of_two_ranks_have_one_folder_and_one_configuration(small, tmp_path):
    sweep = ["-m", "seed=0,1", "strategy=[single_scale],[tiles,sniper]", f"hydra.sweep.dir={tmp_path}/sweep"]
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", "logger=wandb"]
    done = train(*sweep, *ranks, *small, env={"WANDB_SILENT": "true"})
    assert done.returncode == 2, done.stdout + done.stderr
    jobs = read(tmp_path / "sweep/sweep.json")
    assert [job["exit_code"] for job in jobs] == [0, 2, 0, 2]
    assert sorted(p.name for p in (tmp_path / "sweep").iterdir() if p.is_dir()) == ["0", "1", "2", "3"]
    assert [p.name for p in tmp_path.iterdir()] == ["sweep"]
    for number in (0, 2):
        folder = tmp_path / f"sweep/{number}"
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == number // 2
        (log,) = folder.glob("wandb/offline-run-*/*.wandb")
        recorded = log.read_bytes()
        assert f"{tmp_path.name}/sweep".encode() in recorded  # the group
        assert f"seed={number // 2} strategy=[single_scale] ".encode() in recorded  # the name
        assert read(folder / "metrics.json")["steps"] > 0


def test_ranks_that_fail_do_not_hold_up_the_sweep(small, tmp_path):
    """The optimizer refuses the first job, the second one diverges on all ranks, the third one trains."""
    sweep = ["-m", "optimizer.lr=-1,1e30,1e-3", "trainer.devices=2", "trainer.strategy=ddp"]
    done = train(*sweep, *small, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 2, done.stdout + done.stderr
    jobs = read(tmp_path / "sweep.json")
    assert [job["exit_code"] for job in jobs] == [2, 1, 0]
    assert [job["AP"] is not None for job in jobs] == [False, False, True]
    assert "error: optimizer: Invalid learning rate: -1" in done.stderr
    assert "error: the loss became nan in epoch 0" in done.stderr
    assert "2 of 3 jobs failed" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["0", "1", "2"]
    for number, lr in enumerate((-1, 1e30, 1e-3)):
        assert read(tmp_path / f"{number}/status.json") == jobs[number]
        assert yaml.safe_load((tmp_path / f"{number}/config.yaml").read_text())["optimizer"]["lr"] == lr
    assert str(tmp_path) not in subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, text=True).stdout


def test_ranks_with_other_settings_are_refused(small, tmp_path):
    """A launcher that gives every rank a command line of its own can do this; without a check it would train."""
    script = tmp_path / "entry.py"
    script.write_text(
        "import os, sys\n"
        "from lightning_det.train import main\n"
        "sys.argv += ['optimizer.lr=0.5'] * (os.environ['RANK'] == '1')\n"
        "main()\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", f"hydra.run.dir={tmp_path}/run"]
    done = train(*ranks, *small, launcher=launcher, target=str(script))
    assert done.returncode != 0
    assert done.stderr.count("rank 1 has another configuration than rank 0: optimizer.lr;") == 2
    assert not (tmp_path / "run/metrics.json").exists()


def test_a_launcher_does_not_start_a_sweep_of_ranks(small, tmp_path):
    ranks = ["-m", "seed=0,1", "trainer.devices=2", f"hydra.sweep.dir={tmp_path}"]
    done = train(*ranks, *small, env={"LOCAL_RANK": "0"})
    assert done.returncode == 2
    assert "a multirun starts the ranks of its jobs itself" in done.stderr


def test_differences_of_settings():
    first = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": {}}
    assert differences(first, first) == []
    second = {"a": 1, "b": {"c": [1, 3], "d": None, "f": 0}, "e": 1}
    assert sorted(differences(first, second)) == ["b.c", "b.f", "e"]
