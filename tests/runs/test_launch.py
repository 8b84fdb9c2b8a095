"""Launchers: ranks that others start, perhaps seconds apart, share a folder, and none outlives its run."""

import os
import signal
import socket
import sys
import time

import pytest
from helpers import SMALL, read, run_forked, start_forked

from lightning_det.runs import launch, rendezvous
from lightning_det.runs.launch import is_first_rank
from lightning_det.system.errors import ConfigError

MOMENT = """
import pathlib, time
import lightning_det.runs.launch as x
print(x.shared("moment", lambda: str(time.time())), flush=True)
while not pathlib.Path("end").exists():
    time.sleep(0.05)
"""
CHILD = """
import os, sys, time
from lightning_det.runs.launch import PARENT, end_with_parent
parent = os.getpid()
child = os.fork()
if child:
    os.waitpid(child, 0)
else:
    if sys.argv[1] == "sweep":
        os.environ[PARENT] = str(parent)
    if sys.argv[1] == "lightning":
        sys.argv.append("hydra.job.name=train_ddp_process_1")
    end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)
    os._exit(0)
"""
SLURM = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0"}


def started(folder, code, *arguments, **env):
    """A process, and the first line that it prints."""
    script, output = (folder / f"{len(list(folder.iterdir()))}{end}" for end in (".py", ".txt"))
    script.write_text(code)
    process = start_forked(script, arguments, output, output, cwd=folder, env=os.environ | env)
    while not (output.exists() and output.read_text().endswith("\n")):
        assert process.exitcode is None
        time.sleep(0.05)
    return process, output.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["SLURM_PROCID", "NODE_RANK"])
def test_ranks_take_the_first_ones_moment(rank, tmp_path):
    """SLURM's tasks, and nodes started by hand; the second rank comes when the first one has gone on."""
    port = 20000 + os.getpid() % 10000
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | (SLURM if rank == "SLURM_PROCID" else {})
    first, moment = started(tmp_path, MOMENT, **env, **{rank: "0"})
    second, other = started(tmp_path, MOMENT, **env, **{rank: "1"})
    assert other == moment
    (tmp_path / "end").touch()
    for process in (first, second):
        process.join()
        assert process.exitcode == 0


@pytest.mark.slow
def test_torchrun_starts_ranks_of_one_folder(shapes_root, tmp_path):
    script = tmp_path / "late.py"
    script.write_text(
        "import os, time\ntime.sleep(2 * int(os.environ['RANK']))\nfrom lightning_det.train import main\nmain()\n"
    )
    launcher = tmp_path / "torchrun.py"
    launcher.write_text("from torch.distributed.run import main\nif __name__ == '__main__':\n    main()\n")
    options = ["trainer.devices=2", "trainer.strategy=ddp", "debug=limit", f"dataset.root={shapes_root}", *SMALL]
    done = run_forked(launcher, "--standalone", "--nproc_per_node=2", str(script), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs/train").glob("2*/*")
    assert read(folder / "metrics.json")["steps"] > 0
    assert done.stdout.count("train: 24 images") == 1  # one of them speaks
    assert done.stdout.splitlines()[-1] == str(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends processes with their parent")
@pytest.mark.parametrize("child", ["sweep", "lightning", "other"])
def test_what_ranks_and_sweeps_start_ends_with_them(child, tmp_path):
    parent, printed = started(tmp_path, CHILD, child)
    pid = int(printed)
    parent.kill()
    parent.join()
    time.sleep(0.5)
    lives = running(pid)
    if lives:
        os.kill(pid, signal.SIGKILL)
    assert lives == (child == "other")


def running(pid):
    """Whether a process is there and not merely unburied."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


WATCH = """
import sys, time
from lightning_det.runs import launch
from lightning_det.runs import rendezvous
rendezvous.GRACE = 0.1
try:
    rendezvous.join(2)
except Exception as error:
    sys.exit(str(error))
print("meets", flush=True)
if sys.argv[1] == "waits":
    time.sleep(600)
rendezvous.leave(sys.argv[1] == "leaves well")
"""


def rank(folder, number, does, port, seconds="60"):
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(number)}
    process, _ = started(folder, WATCH, does, **env, LIGHTNING_DET_MEETING=seconds)
    return process


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_takes_the_others_along(victim, tmp_path):
    """Whatever they are at, as where torch waits for it half an hour."""
    port = free_port()
    ranks = [rank(tmp_path, number, "waits", port) for number in (0, 1)]
    ranks[victim].kill()
    other = ranks[1 - victim]
    other.join(60)
    assert other.exitcode == 1
    said = "".join(f.read_text() for f in tmp_path.glob("*.txt"))
    name = "rank 0" if victim == 0 else f"rank 1 (process {ranks[1].pid} on {os.uname().nodename})"
    assert f"error: {name} has ended before its time, and this rank ends with it;" in said


@pytest.mark.slow
@pytest.mark.parametrize(("does", "code"), [("leaves well", 0), ("fails", 1)])
def test_the_end_of_a_rank_that_is_done_is_none_for_the_others(does, code, tmp_path):
    port = free_port()
    first = rank(tmp_path, 0, "waits", port)
    second = rank(tmp_path, 1, does, port)
    second.join()
    first.join(3 if code == 0 else 60)
    ended = first.exitcode
    first.kill()
    first.join()
    assert ended == (None if code == 0 else code)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_rank_whose_others_do_not_come_ends(number, tmp_path):
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": str(number)}
    script, output = tmp_path / "rank.py", tmp_path / "rank.txt"
    script.write_text(WATCH)
    process = start_forked(script, ["waits"], output, output, env=os.environ | env | {"LIGHTNING_DET_MEETING": "1"})
    process.join(60)
    assert process.exitcode == 1
    words = "1 of 2 ranks came within 1 s" if number == 0 else "rank 1 does not reach rank 0 at 127.0.0.1:"
    assert words in output.read_text()
    assert "LIGHTNING_DET_MEETING=SECONDS" in output.read_text()


@pytest.mark.parametrize(
    ("environment", "trainer", "number"),
    [
        ({}, {"num_nodes": 2, "devices": 8}, 2),  # Lightning starts the others of a node
        ({"LOCAL_RANK": "0"}, {"num_nodes": 2, "devices": 8}, 16),
        ({"LOCAL_RANK": "0"}, {"devices": "auto"}, None),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "3"}, {"devices": "auto"}, 3),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, {"devices": 2}, 4),
    ],
)
def test_how_many_processes_others_start(environment, trainer, number, monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rendezvous.expected_ranks(trainer) == number


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "1"}, False),
    ],
)
def test_the_first_rank_alone_minds_the_folder(environment, first, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_rank() == first


@pytest.mark.parametrize("given", ["soon", "", "nan", "inf", "-1", "0"])
def test_times_to_wait_that_are_none(monkeypatch, given):
    monkeypatch.setenv(launch.TIMEOUT, given)
    with pytest.raises(ConfigError, match="seconds, such as 600"):
        launch.timeout()
    monkeypatch.setenv(launch.TIMEOUT, "600")
    assert launch.timeout() == 600
