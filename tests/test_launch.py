"""Launchers: ranks that others start, perhaps seconds apart, share a folder, and none outlives its run."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import SMALL, read

from lightning_det.launch import PARENT

MOMENT = "import sys, lightning_det.launch as x; print(x._moment(), flush=True); sys.stdin.read()"
SLURM = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0"}


def started(code, **env):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | env, **pipes)


@pytest.mark.parametrize("rank", ["SLURM_PROCID", "NODE_RANK"])
def test_ranks_take_the_first_ones_moment(rank):
    """SLURM's tasks, and nodes started by hand; the second rank comes when the first one has gone on."""
    port = 20000 + os.getpid() % 10000
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | (SLURM if rank == "SLURM_PROCID" else {})
    first = started(MOMENT, **env, **{rank: "0"})
    moment = first.stdout.readline()
    second = started(MOMENT, **env, **{rank: "1"})
    assert second.stdout.readline() == moment != ""
    for process in (first, second):
        process.communicate()
        assert process.returncode == 0


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
def test_what_ranks_and_sweeps_start_ends_with_them(child):
    argument = "hydra.job.name=train_ddp_process_1" if child == "lightning" else "x"
    waits = "from lightning_det.launch import end_with_parent as e; e(); print('on', flush=True); input()"
    parent = started(
        "import os, subprocess, sys\n"
        f"env = os.environ | ({{{PARENT!r}: str(os.getpid())}} if {child == 'sweep'} else {{}})\n"
        f"child = subprocess.Popen([sys.executable, '-c', {waits!r}, {argument!r}], env=env)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "on\n"
    parent.kill()
    parent.wait()
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
