"""Launchers: ranks that others start, perhaps seconds apart, share a folder, and none outlives its run."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import SMALL, read, start_forked

MOMENT = """
import pathlib, time
import lightning_det.launch as x
print(x._moment(), flush=True)
while not pathlib.Path("end").exists():
    time.sleep(0.05)
"""
CHILD = """
import os, sys, time
from lightning_det.launch import PARENT, end_with_parent
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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    options = ["trainer.devices=2", "trainer.strategy=ddp", "debug=limit", f"dataset.root={shapes_root}", *SMALL]
    done = subprocess.run([*launcher, *options], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs/train").glob("*/*")
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
