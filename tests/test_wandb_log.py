"""wandb's runs, read back from what they leave offline."""

import os
import signal
import struct
import subprocess
import sys
import time

import pytest
from helpers import SMALL, read
from pytorch_lightning.utilities import rank_zero_only
from wandb.proto.wandb_internal_pb2 import Record

from lightning_det.callbacks import WandbLog

BLOCK = 32768
PIECE = struct.Struct("<IHB")
"""Checksum, length and kind (1 a whole record, 4 the end of one) of a piece: LevelDB's log format."""


def records(file):
    """What wandb wrote to a run's file, in order; the last record of a killed run may be missing."""
    data = file.read_bytes()
    position, part, found = 7, b"", []
    while position + PIECE.size <= len(data):
        room = BLOCK - position % BLOCK
        if room < PIECE.size:
            position += room
            continue
        _, length, kind = PIECE.unpack_from(data, position)
        position += PIECE.size
        part += data[position : position + length]
        position += length
        if kind in (1, 4) and position <= len(data):
            found.append(Record.FromString(part))
            part = b""
    return found


def parts(folder):
    """Records of every part of a run, in order of time."""
    return [records(file) for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]


def run_of(part):
    return next(record.run for record in part if record.HasField("run"))


def exit_code(part):
    return next(record.exit.exit_code for record in part if record.HasField("exit"))


def steps(part):
    """The trainer's steps that figures were logged with."""
    items = [item for record in part if record.HasField("history") for item in record.history.item]
    return [int(i.value_json) for i in items if "trainer/global_step" in (i.key, *i.nested_key)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")  # the logger sets another, which is put back
    # Of an earlier test in this process: a command's run would stay open in it when the command is killed.
    monkeypatch.delenv("WANDB_SERVICE", raising=False)


def test_a_run_goes_on_in_its_folder(tmp_path):
    for part in range(2):
        log = WandbLog(str(tmp_path), project="p", offline=True)
        for step in range(3 * part, 3 * part + 3):
            log.log_metrics({"loss": 1.0 / (1 + step)}, step)
        log.experiment.finish(exit_code=1 - part)
        time.sleep(1.1)  # wandb names folders by the second
    first, second = parts(tmp_path)
    assert run_of(first).run_id == run_of(second).run_id == read(tmp_path / "wandb.json")["id"]
    assert run_of(second).resume  # so that `wandb sync` puts it behind the first
    assert (steps(first), steps(second)) == ([0, 1, 2], [3, 4, 5])
    assert (exit_code(first), exit_code(second)) == (1, 0)


def test_folders_have_runs_of_their_own(tmp_path, monkeypatch):
    logs = [WandbLog(str(tmp_path / name), project="p", offline=True) for name in "ab"]
    assert logs[0].version != logs[1].version
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert WandbLog(str(tmp_path / "c"), project="p", offline=True).version == "mine"
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert WandbLog(str(tmp_path / "c"), project="p", offline=True).version == "mine"


def test_other_ranks_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log = WandbLog(str(tmp_path), project="p", offline=True)
    log.log_metrics({"loss": 1.0}, 0)
    assert log.version is None
    assert list(tmp_path.iterdir()) == []


def command(*overrides):
    return [sys.executable, "-m", "lightning_det.train", *overrides]


@pytest.mark.slow
def test_a_killed_training_goes_on_in_its_run(shapes_root, tmp_path):
    small = [f"dataset.root={shapes_root}", *SMALL, "logger=wandb", "trainer.log_every_n_steps=1"]
    call = command(*small, "trainer.max_epochs=6", "trainer.limit_val_batches=0", f"hydra.run.dir={tmp_path}")
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 200
        while not (tmp_path / "checkpoints/last.ckpt").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(command(f"resume={tmp_path}"), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Of the first part wandb may have written no record yet; its folder names the run.
    ids = [folder.name.split("-")[-1] for folder in (tmp_path / "wandb").glob("offline-run-*")]
    _, second = parts(tmp_path)
    assert ids == [run_of(second).run_id] * 2
    per_epoch = read(tmp_path / "metrics.json")["steps"] // 6
    assert per_epoch == 3
    assert steps(second)[0] >= per_epoch  # it goes on behind the checkpoint
    assert steps(second)[-1] == 6 * per_epoch - 1
    assert exit_code(second) == 0


@pytest.mark.slow
def test_jobs_of_a_sweep_are_a_group(shapes_root, tmp_path):
    """Runs of their own with names; the one that diverges is marked as failed."""
    sweep = ["-m", "optimizer.lr=0.001,1e30", "logger=wandb", f"hydra.sweep.dir={tmp_path}/lr"]
    small = [f"dataset.root={shapes_root}", *SMALL, "debug=limit"]
    done = subprocess.run(command(*sweep, *small), env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    runs = [parts(tmp_path / "lr" / job) for job in "01"]
    assert [len(found) for found in runs] == [1] * 2
    assert [exit_code(found[0]) for found in runs] == [0, 1]
    described = [run_of(found[0]) for found in runs]
    assert len({run.run_id for run in described}) == 2
    assert {run.run_group for run in described} == {f"{tmp_path.name}/lr"}
    overrides = [read(tmp_path / "lr" / job / "status.json")["overrides"] for job in "01"]
    assert [run.display_name for run in described] == [" ".join(job)[:128] for job in overrides]
