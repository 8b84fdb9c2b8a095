"""Run folders belong to one run, and to one process at a time."""

import os
import signal
import time

import pytest
from helpers import start_forked

from lightning_det.runs.layout import LOCK
from lightning_det.runs.occupancy import (
    LOCKED,
    check_unused,
    lock_folder,
    remove_results,
    take_folder,
    unlock_folder,
    unused_folder,
)
from lightning_det.system.errors import ConfigError

WORK = """
import os, pathlib, sys, time
from lightning_det.system.errors import ConfigError
from lightning_det.runs.occupancy import take_folder
place = pathlib.Path(sys.argv[1])
while not (place.parent / "go").exists():
    time.sleep(0.001)
try:
    take_folder(place, "train")
except ConfigError as error:
    print(error, flush=True)
    sys.exit(2)
if len(sys.argv) > 2 and not (child := os.fork()):  # as for a loader, which lives on for some seconds
    time.sleep(600)
print("works", *([child] if len(sys.argv) > 2 else []), flush=True)
while not (place.parent / "end").exists():
    time.sleep(0.01)
(place / "config.yaml").touch()
"""


def start(folder, place, *arguments):
    number = len(list(folder.glob("*.txt")))
    script, output = folder / f"{number}.py", folder / f"{number}.txt"  # another one may be reading its script just now
    script.write_text(WORK)
    output.touch()
    return start_forked(script, [str(place), *arguments], output, output), output


def said(output, process):
    while not output.read_text().endswith("\n"):
        assert process.exitcode is None
        time.sleep(0.01)
    return output.read_text()


@pytest.mark.parametrize(
    "name",
    [f"checkpoints/{name}.ckpt" for name in ("best", "last")]
    + ["config.yaml", "overrides.yaml", "metrics.csv", "metrics.json", "proposals.npz", "proposals.mining.ckpt"]
    + ["status.json", "sweep.json", "sweep.yaml", "multirun.yaml"],
)
def test_a_training_needs_a_folder_without_a_run(tmp_path, name):
    folder = tmp_path / "run"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).touch()
    with pytest.raises(ConfigError) as error:
        take_folder(folder, "train")
    words = str(error.value)
    assert words.startswith(f"{folder} holds a ")
    assert name in words
    assert f"another folder (hydra.run.dir={tmp_path}/run-2), or remove this one first" in words
    assert f"resume={folder}" in words or name not in ("checkpoints/last.ckpt", "overrides.yaml")
    assert ("-m hydra.sweep.dir=" in words) == (name in ("status.json", "sweep.json", "sweep.yaml", "multirun.yaml"))
    assert [f.name for f in folder.rglob("*") if f.is_file()] == [name.split("/")[-1]]  # no lock either
    take_folder(folder, "train", resumes=True)
    unlock_folder(folder)


def test_starts_that_were_refused_leave_a_free_folder(tmp_path):
    for name in (".hydra/overrides.yaml", "train.log", "output.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    check_unused(tmp_path, "train")
    check_unused(tmp_path / "new", "train")


def test_other_commands_replace_their_results_but_no_training(tmp_path):
    for name in ("metrics.json", "config.yaml", "overrides.yaml"):
        (tmp_path / name).touch()
    check_unused(tmp_path, "eval")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").touch()
    with pytest.raises(ConfigError, match="holds a run that has ended"):
        check_unused(tmp_path, "eval")


def test_what_starts_over_keeps_no_result(tmp_path):
    kept = ("proposals.mining.ckpt", "proposals.npz", "train.log", "overrides.yaml", "checkpoints/notes.md")
    for name in ("checkpoints/best.ckpt", "metrics.csv", "metrics.json", *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert remove_results(tmp_path) == ["checkpoints/best.ckpt", "metrics.csv", "metrics.json"]
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()) == sorted(kept)


def test_a_free_name(tmp_path, monkeypatch):
    (tmp_path / "run-2").mkdir()
    assert unused_folder(tmp_path / "run") == tmp_path / "run-3"
    monkeypatch.chdir(tmp_path)
    assert unused_folder(tmp_path.relative_to(tmp_path)).name == f"{tmp_path.name}-2"


def test_of_three_at_once_one_wins(tmp_path):
    place = tmp_path / "run"
    running = [start(tmp_path, place) for _ in range(3)]
    (tmp_path / "go").touch()
    words = [said(output, process) for process, output in running]
    assert words.count("works\n") == 1
    winner = running[words.index("works\n")][0]
    refused = [w for w in words if w != "works\n"]
    assert all(f"{place} is in use: process {winner.pid} on {os.uname().nodename} works in it" in w for w in refused)
    with pytest.raises(ConfigError, match=f"process {winner.pid}"):
        take_folder(place, "train", resumes=True)
    (tmp_path / "end").touch()
    for process, _ in running:
        process.join()
    with pytest.raises(ConfigError, match="holds a run that was begun"):
        take_folder(place, "train")
    assert place.resolve() not in LOCKED


def test_a_process_that_is_killed_leaves_no_lock(tmp_path):
    """Nor do its loader processes, which notice seconds later."""
    place = tmp_path / "run"
    (tmp_path / "go").touch()
    process, output = start(tmp_path, place, "with a child")
    child = int(said(output, process).split()[1])
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lock_folder(place)
    os.kill(child, signal.SIGKILL)
    unlock_folder(place)
    assert not (place / LOCK).exists()


def test_a_file_system_without_locks_locks_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("lightning_det.runs.occupancy.fcntl.lockf", refuse)
    take_folder(tmp_path, "train")
    unlock_folder(tmp_path)
