"""Runs that are killed, again and again, end as if nothing had happened.

A run is a process that is forked from this one, so that an attempt costs a second and not ten. It kills itself with
SIGKILL at a moment that a seeded generator draws: at one of Lightning's hooks (before and after every batch, backward
pass, optimizer step, validation and epoch) or in the middle of the writing of a checkpoint.
"""

import os
import signal
import socket
import sys
import traceback
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import CHIPS, SMALL, read
from hydra.core.global_hydra import GlobalHydra
from pytorch_lightning.trainer import call

import lightning_det.callbacks.checkpoints as checkpoints
from lightning_det import train
from lightning_det.resume import started_with, unstarted

pytestmark = pytest.mark.slow

SHORT = (
    "dataset.source.train=12",
    "data.batch_size=2",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "callbacks.last.every_n_train_steps=1",
    "callbacks.pictures=null",
    "callbacks.throughput=null",  # how fast it was is never the same
    "data.num_workers=0",
)


class Moments:
    """Counts moments of this process, and ends it at one of them."""

    def __init__(self, last=None):
        self.count = 0
        self.last = last

    def pass_by(self):
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self):
        """Only for a process that ends soon: it patches what it counts."""
        hooks, whole = call._call_callback_hooks, checkpoints.whole

        def hook(*args, **kwargs):
            self.pass_by()
            return hooks(*args, **kwargs)

        class Slow:
            """A file of which a half is there for a moment."""

            def __init__(self, stream, moments):
                self.stream = stream
                self.moments = moments

            def write(self, data):
                self.stream.write(data[: len(data) // 2])
                self.stream.flush()
                self.moments.pass_by()
                return len(data) // 2 + self.stream.write(data[len(data) // 2 :])

            def __getattr__(self, name):
                return getattr(self.stream, name)

        @contextmanager
        def slowly(file, mode="w"):
            with whole(file, mode) as stream:
                yield Slow(stream, self)

        call._call_callback_hooks = hook
        checkpoints.whole = slowly


def fork(folder, arguments, last=None, environment=()):
    """Starts the train command in a process that may kill itself at a moment; its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        out = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ.update(environment)
        moments = Moments(last)
        moments.watch()
        GlobalHydra.instance().clear()
        sys.argv = ["train", *arguments]
        train.main()
        (folder / "moments.txt").write_text(str(moments.count))
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def attempt(folder, arguments, last=None, ranks=1):
    """Trains until the end, or until the last moment of one of the ranks; whether the end was reached."""
    environments = [{}]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "WORLD_SIZE": str(ranks)}
        environments = [common | {"LOCAL_RANK": str(rank)} for rank in range(ranks)]
        arguments = [*arguments, f"trainer.devices={ranks}", "trainer.strategy=ddp"]
    victim = 0 if last is None else last % ranks
    processes = [fork(folder, arguments, last if r == victim else None, e) for r, e in enumerate(environments)]
    _, status = os.waitpid(processes[victim], 0)
    killed = os.WIFSIGNALED(status)
    for process in processes:
        if process != processes[victim]:
            if killed:  # a node that is preempted takes all of its ranks
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    assert killed or os.WEXITSTATUS(status) == 0, (folder / "output.txt").read_text()[-3000:]
    return not killed


def interrupted(tmp_path, arguments, kills, seed=0, ranks=1):
    """Folders of a run without and of one with interruptions, and how often the second one began anew."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert attempt(whole, [*arguments, f"hydra.run.dir={whole}"], ranks=ranks)
    moments = int((whole / "moments.txt").read_text())
    rng = np.random.default_rng(seed)
    ended, anew = False, 0
    for last in [*rng.integers(1, moments // 2, kills), None]:
        # All that a user types the second time; the first moment of all may come before there is a folder.
        begun = started_with(killed) is not None
        anew += begun and unstarted(killed)
        again = [f"resume={killed}"] if begun else [*arguments, f"hydra.run.dir={killed}"]
        ended = attempt(killed, again, None if last is None else int(last), ranks)
        assert not list(killed.glob("*.part")), "a cut file of another kind than checkpoints"
    assert ended
    assert anew <= kills // 2, "hardly a checkpoint was used"
    return whole, killed


def assert_same(first, second):
    """Bit-identical weights, optimizer, averages and schedule; the same log, losses and figures."""
    one, two = (torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (first, second))
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_equal(one.get(key), two.get(key), key)
    assert one["global_step"] == two["global_step"]
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()
    assert read(first / "metrics.json") == read(second / "metrics.json")


def assert_equal(one, two, path):
    assert type(one) is type(two), path
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_equal(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), path
        for number, pair in enumerate(zip(one, two, strict=True)):
            assert_equal(*pair, f"{path}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    else:
        assert one == two, path


@pytest.fixture(scope="module")
def short(shapes_root):
    return [f"dataset.root={shapes_root}", *SMALL, *SHORT]


def test_twenty_kills_change_nothing(short, tmp_path):
    """With averages of weights, accumulated gradients, and validations within epochs and accumulation windows."""
    options = ["trainer.accumulate_grad_batches=2", "callbacks=[default,ema]", "trainer.val_check_interval=0.5"]
    assert_same(*interrupted(tmp_path, [*short, *options], kills=20))


@pytest.mark.parametrize(
    "options",
    [
        ("strategy=[sniper,flip,ohem]", "capacity.rois=16", "miner.epochs=1", "trainer.max_epochs=2", *CHIPS),
        ("detector=ssd", "backbone=ssd_tiny", "strategy=[warp,iou_crops,distort,flip]", "data.num_workers=2"),
        ("trainer.limit_train_batches=5", "schedule=cosine", "trainer.max_epochs=-1", "trainer.max_steps=12"),
    ],
    ids=["mined chips and OHEM", "an augmented SSD with workers", "counted in steps"],
)
def test_kills_change_nothing(short, tmp_path, options):
    assert_same(*interrupted(tmp_path, [*short, *options], kills=4))


def test_kills_of_one_of_two_ranks_change_nothing(short, tmp_path):
    options = ["trainer.accumulate_grad_batches=2", "callbacks=[default,ema]", "dataset.source.train=14"]
    assert_same(*interrupted(tmp_path, [*short, *options], kills=6, ranks=2))
