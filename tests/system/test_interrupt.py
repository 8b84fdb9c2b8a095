"""Ctrl-C: exit code 130 and one line, whatever a command is at."""

import os
import signal
import subprocess
import sys

import pytest

FRAME = """
import os, sys, time
from lightning_det.system import interrupt
def wait():
    print("ready", flush=True)
    time.sleep(600)
interrupt.install_handler()
"""
RUNNING = FRAME + "with interrupt.clean_exit():\n    interrupt.set_hint(lambda: 'go on with resume=run')\n"

CASES = {
    "while modules are imported": (FRAME + "wait()", "a training goes on with resume=RUN_FOLDER, everything else"),
    "while it works": (RUNNING + "    wait()", "go on with resume=run"),
    "where a library ends the process, as Lightning does": (
        RUNNING + "    try:\n        wait()\n    except KeyboardInterrupt:\n        sys.exit(1)",
        "go on with resume=run",
    ),
    "where a library makes another error of it": (
        RUNNING + "    try:\n        wait()\n    except KeyboardInterrupt:\n        raise RuntimeError('exited')",
        "go on with resume=run",
    ),
    "where a library swallows it": (
        RUNNING + "    try:\n        wait()\n    except KeyboardInterrupt:\n        pass",
        "go on with resume=run",
    ),
    "twice, the second time while files are closed": (
        RUNNING + "    try:\n        wait()\n    finally:\n        os.kill(os.getpid(), 2)\n        time.sleep(600)",
        "go on with resume=run",
    ),
    "in the process that it forked too": (
        RUNNING + "    child = os.fork()\n    if not child:\n        os.kill(os.getpid(), 2)\n        os._exit(7)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n    wait()",
        "go on with resume=run",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ctrl_c_is_one_line(case):
    script, words = CASES[case]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith(f"interrupted; {words}")
    assert errors.count("\n") == 1


def test_processes_that_a_sweep_has_started_leave_it_to_the_sweep():
    environment = os.environ | {"LIGHTNING_DET_PARENT": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", FRAME + "wait()"], env=environment, **pipes) as process:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 130
