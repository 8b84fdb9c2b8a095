"""What several test modules need."""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from importlib import import_module
from multiprocessing import forkserver, get_context, set_start_method
from multiprocessing.util import Finalize
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch
from hydra.utils import instantiate
from lightning_fabric.utilities.rank_zero import _get_rank, rank_zero_only
from omegaconf import OmegaConf

from lightning_det.protocols.structures import Batch, ImageRecord, State

IMAGES = (
    "dataset.source.train=24",
    "dataset.source.val=8",
    "dataset.source.width=128",
    "dataset.source.height=96",
    "dataset.source.sizes=[8,48]",
    "dataset.resolution=[96,128]",
    "dataset.pyramid=[[192,256],[96,128],[48,64]]",
)
"""Generated images that a command trains on in seconds."""

SMALL = (
    *IMAGES,
    *("callbacks.report=null", "callbacks.pictures.count=1", "callbacks.selection.count=1"),
    "capacity.before_nms=[300,1000]",
)
"""The same with few pictures, without a report at the end, and with few proposals to learn from; each takes as long
as the steps."""

TINY = (
    *("dataset.source.val=2", "dataset.source.width=64", "dataset.source.height=48"),
    *("dataset.source.sizes=[8,32]", "dataset.resolution=[48,64]"),
)
"""Beside `SMALL`: images of a quarter of its size, and few to validate with; half of the time."""

CHIPS = (
    "dataset.sniper.size=64",
    "dataset.sniper.scales=[2.0,1.0,[-1,64]]",
    "dataset.sniper.pyramid=[[192,256],[96,128],[48,64]]",
    "dataset.snip.sub_image=128",
    "views.train.windows.dense=[3,3]",
)
"""SNIPER's chips of such images."""


# Importing everything takes a process many seconds; commands are forked from one that has done it.
FORKS = get_context("forkserver")
POPEN = subprocess.Popen
FORKS.set_forkserver_preload(["support.warm"])


def start_server():
    """Starts the process to fork from; it looks for modules where its environment says, and imports nothing else."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with mock.patch.dict(os.environ, {"PYTHONPATH": path}):
        forkserver._forkserver.ensure_running()


def start_forked(command, arguments, stdout, stderr, prepare=None, cwd=None, env=None):
    """Starts ``python -m lightning_det.COMMAND ARGUMENTS`` in a process that need not import what it uses.

    Commands of the package that it starts itself, its ranks and submitit's jobs are forked likewise. None of them is
    the child of who has started it, as `lightning_det.runs.launch.end_with_parent` would want.

    Args:
        command: its name, another module's, which has a dot in it, or a script's path, for ``python SCRIPT ARGUMENTS``.
        arguments: strings.
        stdout: file to append to.
        stderr: likewise, perhaps the same.
        prepare: function without arguments that the process calls first.
        cwd: its folder.
        env: its environment; None takes that of this process.
    """
    env = dict(os.environ if env is None else env)
    start_server()
    process = FORKS.Process(target=_forked, args=(command, list(arguments), stdout, stderr, prepare, cwd, env))
    process.start()
    return process


def _forked(command, arguments, stdout, stderr, prepare, cwd, env):
    gc.freeze()  # what was imported is no garbage, and stays the server's memory
    set_start_method("fork", force=True)  # its loaders' processes start as they do for a user, not as it did
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    rank_zero_only.rank = _get_rank() or 0  # Lightning looks when it is imported
    if cwd is not None:
        os.chdir(cwd)
    sys.argv = [str(command), *arguments]
    forkserver._forkserver.ensure_running = lambda: None  # it would start another one here
    subprocess.Popen = _popen(stdout, stderr)
    os.execv = _execv
    if prepare is not None:
        prepare()
    _run(command)


def _run(command):
    """Runs a command, module or script in this process, with the arguments of ``sys.argv``."""
    if isinstance(command, Path):
        sys.path.insert(0, str(command.parent))
        runpy.run_path(str(command), run_name="__main__")
    elif "." in command:
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    else:
        module = import_module(f"lightning_det.{command}")
        sys.modules["__main__"].__spec__ = module.__spec__  # from which Lightning knows how to start further ranks
        module.main()


def _called(call):
    """What Python is to run: a command, a module of submitit, or a script, and its arguments; None of another call."""
    if not isinstance(call, list | tuple) or call[0] != sys.executable:
        return None
    match call[2:] if call[1] == "-u" else call[1:]:
        case ["-m", str(module), *arguments] if module.startswith(("lightning_det.", "submitit.")):
            return module.removeprefix("lightning_det."), arguments
        case [str(script), *arguments] if script.endswith(".py"):
            return Path(script), arguments
    return None


def _popen(own_stdout, own_stderr):
    """``subprocess.Popen`` of a forked process, whose output goes to two files."""

    def popen(call=None, *settings, args=None, **named):
        call = args if call is None else call
        called = _called(call)
        if called is None:
            return POPEN(call, *settings, **named)
        return ForkedChild(call, *called, own_stdout, own_stderr, **named)

    return popen


def start_children_anew():
    """For `start_forked` to call first: what the process starts is no fork, but starts as it does for a user."""
    subprocess.Popen = POPEN


def _execv(file, call):
    """``os.execv`` of a forked process: runs the command in the same process too."""
    command, arguments = _called(call)
    sys.argv = [str(command), *arguments]
    _run(command)
    sys.exit()


class ForkedChild:
    """What `subprocess.Popen` offers of a process that was started by `start_forked`."""

    def __init__(
        self,
        call,
        command,
        arguments,
        own_stdout,
        own_stderr,
        env=None,
        cwd=None,
        stdout=None,
        stderr=None,
        start_new_session=False,
        **_,
    ):
        self.args = call
        self.folder = tempfile.TemporaryDirectory()
        stdout = self._file("stdout", stdout, own_stdout)
        stderr = stdout if stderr == subprocess.STDOUT else self._file("stderr", stderr, own_stderr)
        prepare = os.setsid if start_new_session else None
        # The main module would be imported once more.
        with mock.patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
            self.process = start_forked(command, arguments, stdout, stderr, prepare, cwd, env)
        self.pid = self.process.pid
        Finalize(None, self.kill, exitpriority=0)  # of who has started it; it would wait for it

    def _file(self, name, wanted, own):
        if wanted == subprocess.PIPE:
            return Path(self.folder.name) / name
        return own if wanted is None else wanted.name

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.returncode

    def communicate(self, input=None, timeout=None):
        self.wait(timeout)
        files = [Path(self.folder.name) / name for name in ("stdout", "stderr")]
        return [file.read_text() if file.exists() else None for file in files]

    def send_signal(self, number):
        if self.process.is_alive():
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wait()


def run_forked(command, *arguments, cwd=None, env=None, prepare=None):
    """`start_forked` until its end, as `subprocess.run` would report it."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        process = start_forked(command, arguments, *files, prepare, cwd, os.environ | (env or {}))
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, *(file.read_text() for file in files))


def environments(ranks):
    """Variables for every rank of a run that is started by hand."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "WORLD_SIZE": str(ranks)}
    return [common | {"LOCAL_RANK": str(rank)} for rank in range(ranks)]


def read(file):
    return json.loads(file.read_text())


def annotations_of(run, split):
    """The annotations of the drawn dataset that a run has used; others may lie beside it."""
    source = OmegaConf.create(OmegaConf.load(run / "config.yaml").dataset.source)
    return instantiate(source).folder / f"annotations/instances_{split}.json"


def record(width=640, height=480, boxes=(), ignored=()):
    """An image with boxes of different classes."""
    boxes = np.array(boxes, float).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    flags[list(ignored)] = True
    return ImageRecord(width, height, boxes, np.arange(len(boxes)), flags)


def losses_of(model, batch, steps, lr):
    """The detector's total loss at each of some SGD steps on one batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    seen = []
    for _ in range(steps):
        total = sum(model.losses(batch).values())
        seen.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return seen


def make_batch(count=2, height=192, width=256, boxes=5, padded=16, classes=6, seed=0, scale=1.0, ranges=None):
    """Random uint8 views with ``boxes`` valid boxes each, padded to ``padded``."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, padded, 2, generator=rng) * torch.tensor([width, height]) * 0.6
    side = 8 + torch.rand(count, padded, 2, generator=rng) * torch.tensor([width, height]) * 0.35
    states = torch.full((count, padded), State.PADDING)
    states[:, :boxes] = State.VALID
    real = (states != State.PADDING)[..., None]
    return Batch(
        images=torch.randint(0, 256, (count, 3, height, width), generator=rng, dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * count),
        boxes=torch.cat([corner, corner + side], dim=-1) * real,
        labels=torch.randint(0, classes, (count, padded), generator=rng) * real[..., 0],
        states=states,
        windows=torch.tensor([[0.0, 0.0, width / scale, height / scale]] * count),
        ranges=torch.tensor([ranges or (0.0, float("inf"))] * count),
        flips=torch.zeros(count, dtype=torch.bool),
        index=torch.arange(count),
    )
