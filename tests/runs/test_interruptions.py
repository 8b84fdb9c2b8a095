"""Runs that are killed, again and again, end as if nothing had happened.

A run is a process that is forked from one that has imported everything, so that an attempt costs a second and not ten.
It kills itself with SIGKILL at a moment that a seeded generator draws: at one of Lightning's hooks (before and after
every batch, backward pass, optimizer step, validation and epoch) or in the middle of the writing of a checkpoint.
`test_going_on` resumes a small network from every state of the disk that a kill can leave; here are whole commands.
"""

import os
import resource
import shutil
import signal
from contextlib import contextmanager
from functools import partial
from multiprocessing.util import Finalize

import numpy as np
import pytest
import torch
from helpers import CHIPS, SMALL, TINY, environments, read, start_forked
from pytorch_lightning.trainer import call
from support import in_process
from support.shared import made_once

import lightning_det.callbacks.checkpoints as checkpoints
from lightning_det.runs.resume import is_unstarted, recorded_overrides

pytestmark = pytest.mark.slow

SHORT = (
    *TINY,
    "dataset.source.train=12",
    "data.batch_size=2",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "callbacks.last.every_n_train_steps=1",
    "callbacks.pictures=null",
    "callbacks.throughput=null",  # how fast it was is never the same
    "data.num_workers=0",
    *("capacity.head=16", "capacity.rois=16"),  # a checkpoint of every step is written
    *("capacity.before_nms=[100,50]", "capacity.after_nms=[30,30]"),
)
"""Six steps an epoch, each with a checkpoint and a line in the log."""

NARROW = ("backbone.width=8", "callbacks.selection=null")


class Moments:
    """Counts moments of this process, and ends it at one of them, or before the batch that follows so many steps."""

    def __init__(self, last=None, end=signal.SIGKILL, step=None):
        self.count = 0
        self.last = last
        self.end = end
        self.step = step

    def pass_by(self, step=None):
        self.count += 1
        if self.count == self.last or (step is not None and step == self.step):
            os.kill(os.getpid(), self.end)

    def write(self, file):
        file.write_text(str(self.count))

    def watch(self):
        """Only for a process that ends soon: it patches what it counts."""
        hooks, whole = call._call_callback_hooks, checkpoints.atomic_write

        def hook(trainer, name, *args, **kwargs):
            self.pass_by(trainer.global_step if name == "on_train_batch_start" else None)
            return hooks(trainer, name, *args, **kwargs)

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
        checkpoints.atomic_write = slowly


def start(folder, arguments, last=None, environment=None, largest=None, end=signal.SIGKILL, step=None):
    """Starts the train command in a process that may kill itself at a moment.

    Args:
        folder: gets what it prints.
        arguments: of the command.
        last: moment at which it kills itself.
        environment: variables.
        largest: bytes of a file from which on its disk is full.
        end: signal that it sends to itself.
        step: number of steps after which it does so, in place of a moment.
    """
    output, prepare = folder / "output.txt", partial(watched, folder, last, largest, end, step)
    return start_forked("train", arguments, output, output, prepare, env=os.environ | (environment or {}))


def watched(folder, last, largest, end, step):
    """What the process does first."""
    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    moments = Moments(last, end, step)
    moments.watch()
    Finalize(None, moments.write, (folder / f"moments-{os.environ.get('LOCAL_RANK', 0)}.txt",), exitpriority=0)


def attempt(folder, arguments, last=None, ranks=1, step=None):
    """Trains until the end, or until the last moment of one of the ranks; whether the end was reached.

    Args:
        folder: gets what the run prints.
        arguments: of the command.
        last: a rank and the number of its last moment.
        ranks: how many processes train.
        step: number of steps after which the last rank is killed, in place of a moment.
    """
    variables = [{}]
    if ranks > 1:
        variables = environments(ranks)
        arguments = [*arguments, f"trainer.devices={ranks}", "trainer.strategy=ddp"]
    victim, moment = last or (ranks - 1 if step else 0, None)
    limits = [{"last": moment, "step": step} if rank == victim else {} for rank in range(ranks)]
    processes = [start(folder, arguments, environment=v, **own) for v, own in zip(variables, limits, strict=True)]
    processes[victim].join()
    code = processes[victim].exitcode
    for process in processes:
        if code < 0:  # a node that is preempted takes all of its ranks
            process.kill()
        process.join()
    assert code in (0, -signal.SIGKILL), (folder / "output.txt").read_text()[-3000:]
    return code == 0


def interrupted(tmp_path, arguments, kills, seed=0, ranks=1):
    """Folders of a run without and of one with interruptions, and how often the second one began anew."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert attempt(whole, [*arguments, f"hydra.run.dir={whole}"], ranks=ranks)
    moments = counted(whole, ranks)
    rng = np.random.default_rng(seed)
    ended, anew, used = False, 0, 0
    victims = rng.integers(0, ranks, kills)
    for last in [*((v, int(rng.integers(1, moments[v] // 2))) for v in victims), None]:
        # All that a user types the second time; the first moment of all may come before there is a folder.
        begun = recorded_overrides(killed) is not None
        anew += begun and is_unstarted(killed)
        again = [f"resume={killed}"] if begun else [*arguments, f"hydra.run.dir={killed}"]
        ended = attempt(killed, again, last, ranks)
        used += not ended
    assert ended
    assert not list(killed.rglob("*.part"))
    assert anew <= kills // 2, "hardly a checkpoint was used"
    assert used > kills // 2, "the run had ended before most of them"
    return whole, killed


def counted(folder, ranks):
    """Moments of each rank of a run that was not interrupted."""
    return [int((folder / f"moments-{rank}.txt").read_text()) for rank in range(ranks)]


def assert_same(first, second):
    """Bit-identical weights, optimizer, averages and schedule; the same log, losses and figures."""
    one, two = checkpoint(first), checkpoint(second)
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


@pytest.fixture(scope="session")
def wide(shapes_root):
    return [f"dataset.root={shapes_root}", *SMALL, *SHORT]


@pytest.fixture(scope="session")
def short(wide):
    return [*wide, *NARROW]


@pytest.fixture
def trained(short, tmp_path, tmp_path_factory):
    """A folder of one's own of a run of two epochs."""

    def train(folder):
        outcome = in_process.run("train", *short, f"hydra.run.dir={folder}")
        assert outcome.code == 0, outcome.errors

    folder, _ = made_once(tmp_path_factory, "two_short_epochs", train)
    shutil.copytree(folder, tmp_path / "trained")
    (tmp_path / "trained/output.txt").touch()
    return tmp_path / "trained"


def test_many_kills_change_nothing(short, tmp_path):
    """With averages of weights, accumulated gradients, validations within epochs and accumulation windows, in steps."""
    options = ["trainer.accumulate_grad_batches=2", "callbacks=[default,ema]", "trainer.val_check_interval=0.5"]
    options += ["trainer.limit_train_batches=5", "schedule=cosine", "trainer.max_epochs=-1", "trainer.max_steps=7"]
    assert_same(*interrupted(tmp_path, [*short, *options], kills=4, seed=6))


@pytest.mark.parametrize(
    "options",
    [
        ("strategy=[sniper,flip,ohem]", "miner.epochs=1", "trainer.max_epochs=2", *CHIPS),
        ("detector=ssd", "backbone=ssd_tiny", "strategy=[warp,iou_crops,distort,flip]", "data.num_workers=2"),
    ],
    ids=["mined chips and OHEM", "an augmented SSD with workers"],
)
def test_kills_change_nothing(wide, tmp_path, options):
    assert_same(*interrupted(tmp_path, [*wide, *options], kills=2))


def test_kills_of_one_of_two_ranks_change_nothing(short, tmp_path):
    options = ["trainer.accumulate_grad_batches=2", "callbacks=[default,ema]", "dataset.source.train=14"]
    assert_same(*interrupted(tmp_path, [*short, *options], kills=2, seed=1, ranks=2))


@pytest.mark.parametrize(("before", "after", "killed"), [(1, 2, 5), (2, 1, 2)], ids=["1-2", "2-1"])
def test_a_run_goes_on_with_another_number_of_ranks(short, tmp_path, before, after, killed):
    """The new ranks do what is left of the epoch; later epochs are as long as their number makes them."""
    epoch = 8  # batches, of all ranks together
    options = [*short, f"dataset.source.train={2 * epoch}", f"hydra.run.dir={tmp_path}"]
    assert not attempt(tmp_path, options, ranks=before, step=killed)
    step = checkpoint(tmp_path)["global_step"]  # of the first rank, which need not be where the killed one was
    assert 0 < step < epoch // before - 1
    alone = ["trainer.devices=1", "trainer.strategy=auto"] if after == 1 else []
    assert attempt(tmp_path, [f"resume={tmp_path}", "trainer.max_epochs=2", *alone], ranks=after)
    metrics = read(tmp_path / "metrics.json")
    assert metrics["steps"] == step + epoch // after - step * before // after + epoch // after
    assert metrics["epochs"] == 2


def test_a_run_that_is_asked_to_end_says_so(short, tmp_path):
    """Schedulers send SIGTERM first: the batch is done, and the exit code is not that of success."""
    (tmp_path / "output.txt").touch()
    options = [*short, f"hydra.run.dir={tmp_path}"]
    code, said = refused(tmp_path, options, step=8, end=signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert said.endswith(f"error: ended by SIGTERM; go on with resume={tmp_path}\n")
    assert "Traceback" not in said
    assert 6 < checkpoint(tmp_path)["global_step"] < 12
    assert attempt(tmp_path, [f"resume={tmp_path}"])
    assert read(tmp_path / "metrics.json")["epochs"] == 2


def test_ctrl_c_ends_a_run_in_one_line(short, tmp_path):
    """Lightning would end it with the code of an error, or, from another place, go on as if it had finished."""
    options = [*short, f"hydra.run.dir={tmp_path}", "trainer.max_epochs=50"]
    (tmp_path / "output.txt").touch()
    code, said = refused(tmp_path, options, step=4, end=signal.SIGINT)
    assert code == 130
    assert said.endswith(f"\ninterrupted; go on with resume={tmp_path}\n")
    assert "Traceback" not in said
    assert not (tmp_path / "metrics.json").exists()
    assert attempt(tmp_path, [f"resume={tmp_path}", "trainer.max_epochs=1"])
    assert read(tmp_path / "metrics.json")["epochs"] == 1
    (tmp_path / "checkpoints/last.ckpt").unlink()
    code, said = refused_here(f"resume={tmp_path}", "trainer.max_epochs=2")
    assert (code, "its run has ended, and its last checkpoint is gone" in said) == (2, True)


def test_what_an_interrupted_start_left_is_no_result_of_the_next(short, tmp_path):
    """It has a best checkpoint, of a validation within its first epoch, and no last one."""
    options = [*short, f"hydra.run.dir={tmp_path}", "trainer.val_check_interval=0.5", "callbacks.last=null"]
    (tmp_path / "output.txt").touch()
    refused(tmp_path, options, step=5)
    assert (tmp_path / "checkpoints/best.ckpt").exists()
    again = [f"resume={tmp_path}", "trainer.limit_val_batches=0", "trainer.max_epochs=1", "callbacks.best=null"]
    assert attempt(tmp_path, again)
    assert "starts over; removed what its first start had left: checkpoints/best.ckpt" in (
        (tmp_path / "output.txt").read_text()
    )
    assert not (tmp_path / "checkpoints/best.ckpt").exists()


def test_a_full_disk_leaves_the_last_checkpoint(trained):
    before = (trained / "checkpoints/last.ckpt").read_bytes()
    log = (trained / "metrics.csv").read_text()
    code, said = refused(trained, [f"resume={trained}", "trainer.max_epochs=3"], largest=len(before) // 2)
    assert code == 1
    for words in ("checkpoints/last.ckpt: the checkpoint cannot be written", "File too large", "Make room", "resume="):
        assert words in said
    assert (trained / "checkpoints/last.ckpt").read_bytes() == before
    assert sorted(f.name for f in (trained / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert (trained / "metrics.csv").read_text().startswith(log)
    assert attempt(trained, [f"resume={trained}", "trainer.max_epochs=3"])


def test_checkpoints_that_do_not_fit_are_refused_with_what_differs(short, trained, tmp_path):
    """Nothing is written before; an older run of the folder stays as it is."""
    kept = {*trained.glob("*.yaml"), trained / "metrics.csv"}
    before = {file: file.read_bytes() for file in kept}
    for option, words in {
        "detector=rfcn": ["another detector", "roi_head", "detector._target_ was", "RFCN"],
        "backbone.width=24": ["another detector", "backbone.width was"],
        "optimizer=sgd": ["its optimizer is torch.optim.AdamW, this one torch.optim.SGD"],
        "module.norm_weight_decay=null": ["groups of", "module.norm_weight_decay was 0.0, is None"],
        "callbacks=[default,ema]": ["it has no average of weights"],
        "trainer.max_epochs=1": ["it is 2 epochs old, more than trainer.max_epochs=1"],
    }.items():
        code, said = refused_here(f"resume={trained}", option)
        assert code == 1, said
        assert all(word in said for word in ["weights=FILE", *words]), said
        assert "Traceback" not in said
    content = checkpoint(trained)
    content["hyper_parameters"]["labels"]["names"][0] = "spoon"
    torch.save(content, tmp_path / "other.ckpt")
    code, said = refused_here(*short, f"resume={tmp_path}/other.ckpt", f"hydra.run.dir={tmp_path}/new")
    assert code == 1
    assert "the dataset misses spoon and has also bar-h, compared with the checkpoint" in said
    assert before == {file: file.read_bytes() for file in {*trained.glob("*.yaml"), trained / "metrics.csv"}}


def test_a_fine_tuning_that_was_killed_before_its_first_checkpoint_can_be_evaluated(short, trained, tmp_path):
    """It starts from its weights again; its checkpoints say both where it began and what it resumed."""
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    weights = f"weights={trained}/checkpoints/last.ckpt"
    options = [*short, weights, "trainer.max_epochs=1", f"hydra.run.dir={tuned}"]
    assert not attempt(tuned, options, last=(0, 5))
    assert is_unstarted(tuned)
    assert attempt(tuned, [f"resume={tuned}"])
    evaluation = in_process.run("eval", f"checkpoint={tuned}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/eval")
    assert evaluation.code == 0, evaluation
    code, said = refused_here(f"resume={tuned}", weights, "trainer.max_epochs=2")
    assert code == 2
    assert "error: weights starts a new training and resume continues one; give one of them" in said


def refused(folder, arguments, **limits):
    """Exit code of a training that stops with an error, and what it printed."""
    output = folder / "output.txt"
    before = len(output.read_text())
    process = start(folder, arguments, **limits)
    process.join()
    return process.exitcode, output.read_text()[before:]


def refused_here(*arguments):
    """The same of a training in this process, which must not get as far as to train."""
    outcome = in_process.run("train", *arguments)
    return outcome.code, outcome.output + outcome.errors


def checkpoint(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
