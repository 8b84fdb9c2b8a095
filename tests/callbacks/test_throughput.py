"""How fast a training is and whether it waits for data: on a clock that only the loader, the steps and so on move."""

import csv
import io
import logging
import re
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import rich
import torch
from helpers import SMALL, TINY, read, run_forked
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger
from support.sizes import make_store
from torch.utils.data import DataLoader

from lightning_det.callbacks import Throughput, TrainingProgress, throughput
from lightning_det.callbacks import progress as progress_module
from lightning_det.callbacks.progress import batches_left, fitting, number
from lightning_det.callbacks.throughput import DeviceWait, peak_memory
from lightning_det.config.schema import DatasetConfig
from lightning_det.config.signatures import parameters
from lightning_det.data.datamodule import ChipData
from lightning_det.data.sampler import ByImage, ByLevel

BATCH = 4


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless somebody spends time."""
    clock = SimpleNamespace(now=1000.0)
    clock.perf_counter = clock.monotonic = lambda: clock.now

    def spend(seconds):
        clock.now += seconds

    clock.spend = spend
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


class Record(DummyLogger):
    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)

    def of(self, name):
        return [row[f"train/{name}"] for row in self.rows if f"train/{name}" in row]


class Views:
    """A batch of views of 3 x 5 pixels."""

    def __init__(self, count):
        self.images = torch.ones(count, 3, 3, 5)

    def __len__(self):
        return len(self.images)


class Data(pl.LightningDataModule):
    """Batches of `BATCH` views; making one takes a while."""

    def __init__(self, clock, seconds, batches=6, grouping=None):
        super().__init__()
        self.clock, self.seconds, self.batches = clock, seconds, batches
        self.grouping, self.batch_size = grouping or ByLevel(), BATCH

    def make(self, samples):
        self.clock.spend(self.seconds)
        return Views(len(samples))

    def train_dataloader(self):
        return DataLoader(range(BATCH * self.batches), BATCH, collate_fn=self.make)

    def val_dataloader(self):
        return DataLoader(range(1))


class Module(pl.LightningModule):
    """A step takes a second, validation 100 and saving a checkpoint 1000."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.clock.spend(1)
        return self.layer(batch.images[..., :1]).mean()

    def validation_step(self, batch, batch_idx):
        self.clock.spend(100)

    def on_save_checkpoint(self, checkpoint):
        self.clock.spend(1000)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(clock, data, *callbacks, **arguments):
    """Trains; what was logged."""
    record = Record()
    run(clock, data, *callbacks, logger=record, **arguments)
    return record


def run(clock, data, *callbacks, path=None, **arguments):
    """Trains; what it came to."""
    bar = any(isinstance(c, TrainingProgress) for c in callbacks)
    saves = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    settings = {"max_epochs": 1, "log_every_n_steps": 2, "num_sanity_val_steps": 0, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[*callbacks, Throughput()],
        enable_progress_bar=bar,
        enable_checkpointing=saves,
        **{"logger": False} | settings | arguments,
    )
    trainer.fit(Module(clock), datamodule=data, ckpt_path=path)
    throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))
    return throughput.cost()


def test_a_slow_loader_is_seen(clock):
    record = fit(clock, Data(clock, seconds=3))
    assert record.of("views_per_s") == [BATCH / 4] * 3
    assert record.of("data_wait") == [0.75] * 3
    assert all(0 < memory < 1000 for memory in record.of("memory_GB"))


def test_validation_and_checkpoints_are_left_out(clock, tmp_path):
    """Both come in the middle of an epoch and at its end; the wait after validation counts, as any other."""
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)
    record = fit(clock, Data(clock, seconds=1), saving, max_epochs=2, val_check_interval=2)
    assert len(list(tmp_path.glob("*.ckpt"))) == 4
    assert record.of("views_per_s")[:2] == pytest.approx([BATCH / 2, 2 * BATCH / 3])  # no fetch after saving
    assert record.of("data_wait")[:2] == [0.5, pytest.approx(1 / 3)]
    assert min(record.of("views_per_s")) == BATCH / 2


def test_windows_go_on_from_epoch_to_epoch(clock):
    record = fit(clock, Data(clock, seconds=1, batches=3), max_epochs=3, log_every_n_steps=4)
    assert record.of("views_per_s") == [BATCH / 2] * 2
    assert record.of("data_wait") == [0.5] * 2


def test_accumulated_batches_are_one_step(clock):
    record = fit(clock, Data(clock, seconds=1), accumulate_grad_batches=3, log_every_n_steps=1)
    assert record.of("views_per_s") == [BATCH / 2] * 2


def test_views_of_all_ranks_count(clock, monkeypatch):
    logged = {}
    module = SimpleNamespace(
        device=torch.device("cpu"),
        log_dict=lambda values, **_: logged.update(values),
        log=lambda name, value, **_: logged.update({name: value}),
    )
    trainer = SimpleNamespace(world_size=8, global_step=1, log_every_n_steps=1)
    callback = Throughput()
    callback.on_fit_start(trainer, module)
    callback.on_train_epoch_start(trainer, module)
    clock.spend(1)
    callback.on_train_batch_start(trainer, module, None, 0)
    clock.spend(3)
    callback.on_train_batch_end(trainer, module, None, Views(BATCH), 0)
    assert logged["train/views_per_s"] == 8 * BATCH / 4
    assert logged["train/data_wait"] == 0.25
    assert callback.cost()["pixels"] == 8 * BATCH * 15
    # It goes on with one rank.
    resumed, trainer.world_size = Throughput(), 1
    resumed.load_state_dict(callback.state_dict())
    resumed.on_fit_start(trainer, module)
    resumed.on_train_batch_start(trainer, module, None, 0)
    clock.spend(1)
    resumed.on_train_batch_end(trainer, module, None, Views(BATCH), 0)
    assert resumed.cost()["views"] == 9 * BATCH


def test_cost_of_a_training_that_goes_on(clock, tmp_path):
    """Interrupted after the first of two epochs: the cost is that of both, and of what was not lost."""
    saving = {"max_epochs": 1, "log_every_n_steps": 1}
    cost = run(clock, Data(clock, seconds=3), ModelCheckpoint(tmp_path, filename="a"), **saving)
    assert cost | {"memory_GB": 0} == {"views": 24, "pixels": 360, "seconds": 24, "data_wait": 0.75, "memory_GB": 0}
    saving["max_epochs"] = 2
    both = run(clock, Data(clock, seconds=1), ModelCheckpoint(tmp_path), path=tmp_path / "a.ckpt", **saving)
    seconds, wait = 6 * 4 + 6 * 2, 6 * 3 + 6 * 1
    assert both | {"memory_GB": 0} == {
        "views": 48,
        "pixels": 720,
        "seconds": seconds,
        "data_wait": round(wait / seconds, 4),
        "memory_GB": 0,
    }
    assert both["memory_GB"] >= cost["memory_GB"] > 0


@pytest.mark.parametrize(
    ("grouping", "keys"),
    [(ByLevel(), ["data.num_workers, now 0"]), (ByImage(2), ["data.num_workers, now 0", "data.together, now 2"])],
)
def test_a_slow_loader_is_said_once(clock, caplog, grouping, keys):
    with caplog.at_level(logging.WARNING, "lightning_det"):
        fit(clock, Data(clock, seconds=3, grouping=grouping), max_epochs=3)
    (said,) = [r.getMessage() for r in caplog.records if r.name == "lightning_det"]
    assert "epoch 1 waited for data for 75 % of its training time" in said
    assert all(key in said for key in keys)
    assert ("data.together" in said) == (len(keys) == 2)
    known = {f"data.{name}" for name in parameters(ChipData)} | {f"dataset.{name}" for name in vars(DatasetConfig)}
    assert set(re.findall(r"\((\w+\.\w+)", said)) <= {*known}


def test_a_fast_loader_is_not_worth_a_line(clock, caplog):
    with caplog.at_level(logging.WARNING, "lightning_det"):
        fit(clock, Data(clock, seconds=0.4))
    assert not [r for r in caplog.records if r.name == "lightning_det"]


@pytest.mark.parametrize("share", [0, 1.1, -1])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="warn_above"):
        Throughput(share)


class Device:
    """A CUDA device as `DeviceWait` sees it: it works off what the host queues, and events note when."""

    def __init__(self, clock):
        self.clock, self.free_at = clock, clock.now

    def work(self, seconds):
        self.free_at = max(self.free_at, self.clock.now) + seconds

    def event(self, enable_timing):
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.at = max(self.device.free_at, self.device.clock.now)

    def query(self):
        return self.at <= self.device.clock.now

    def elapsed_time(self, other):
        return 1000 * (other.at - self.at)


def test_a_wait_of_the_host_alone_is_none(clock, monkeypatch):
    """The host waits for 3 s of which the device has work for 2, or for all."""
    device = Device(clock)
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    wait = DeviceWait()
    for work in (2, 5):
        device.work(work)
        wait.start()
        clock.spend(3)
        wait.stop()
    assert wait.seconds == 1  # the device has not come to the second one yet, and nobody waits for it
    clock.spend(10)
    assert wait.seconds == 1
    wait.start()
    clock.spend(4)
    wait.stop()
    assert wait.seconds == 5


@pytest.mark.slow
def test_peak_memory_grows():
    before = peak_memory(torch.device("cpu"))
    kept = torch.ones(max(25_000_000, before // 4 + 25_000_000))  # as large as all that was ever resident, and more
    assert peak_memory(torch.device("cpu")) > before
    assert len(kept)


def test_the_bar_shows_what_is_left(clock, monkeypatch):
    """6 of 12 batches of 2 s each, then a validation of 100 s: its time is in the estimate."""
    out = io.StringIO()
    bar = TrainingProgress(console_kwargs={"file": out, "force_terminal": True, "width": 80, "color_system": None})
    seen = []
    monkeypatch.setattr(
        TrainingProgress, "get_metrics", lambda *a, f=TrainingProgress.get_metrics: seen.append(f(*a)) or seen[-1]
    )
    try:
        fit(clock, Data(clock, seconds=1), bar, max_epochs=2)
    finally:
        rich.reconfigure()
    shown = [line.strip() for line in re.split(r"\x1b\[[\d;?]*[A-Za-z]|\n", out.getvalue())]
    assert max(map(len, shown)) <= 80
    first = [line for line in shown if line.startswith("epoch 1/2 ")]
    # On one line; the last one may be drawn after the validation.
    assert any(re.search(r" 6/6 +views/s: 2.000 GB: [\d.]+ left: 0:00:12$", line) for line in first)
    assert any(line.startswith("epoch 2/2 ") for line in shown)
    left = [figures["left"] for figures in seen if "left" in figures]
    assert left[:6] == [f"0:00:{seconds}" for seconds in (22, 20, 18, 16, 14, 12)]
    # 112 / 6 * 6 seconds after validation, 114 / 7 * 5 a batch later
    assert list(dict.fromkeys(left[6:]))[:2] == ["0:01:52", "0:01:21"]
    assert "left" not in seen[-1]
    assert {"views/s", "GB", "left"} == {name for figures in seen for name in figures}


@pytest.mark.parametrize("terminal", [False, True])
def test_without_a_terminal_a_line_a_minute_says_how_far_the_training_is(clock, terminal, caplog):
    """Steps of 15 s: every fourth is a minute after the last line."""
    bar = TrainingProgress(console_kwargs={"file": io.StringIO(), "force_terminal": terminal, "width": 80})
    try:
        with caplog.at_level(logging.INFO, "lightning_det"):
            fit(clock, Data(clock, seconds=14), bar, max_epochs=1)
    finally:
        rich.reconfigure()
    lines = [line for line in caplog.messages if "batch" in line]
    expected = ["epoch 1/1, batch 4/6", "validation, batch 1/1"]  # a validation takes 100 s
    assert [line.partition(":")[0] for line in lines] == ([] if terminal else expected)
    assert terminal or re.search(r"left 0:00:30$", lines[0])


def test_a_bar_over_images_counts_batches_and_says_so():
    store = make_store([(8, 8)] * 3, [[]] * 3)
    trainer = SimpleNamespace(state=SimpleNamespace(fn="predict"), datamodule=SimpleNamespace(val=store))
    bar = TrainingProgress()
    bar._trainer = trainer
    assert bar.predict_description == "predicting 3 images"
    _, _, batches, _ = bar.configure_columns(trainer)
    task = SimpleNamespace(completed=2, total=15)
    assert batches.render(task).plain == "batch 2/15"
    trainer.state.fn = "fit"
    assert bar.configure_columns(trainer)[2].render(task).plain == "2/15"


def test_a_line_has_room_for_the_loss_and_the_time_first():
    figures = {"loss": "2.787", "views/s": "45.1", "GB": "3.100", "left": "1:02:33"}
    assert fitting(figures, 80) == figures
    assert fitting(figures, len("loss: 2.787 views/s: 45.1 left: 1:02:33")) == {
        "loss": "2.787",
        "views/s": "45.1",
        "left": "1:02:33",
    }
    assert list(fitting(figures, 30)) == ["loss", "left"]
    assert list(fitting(figures, 11)) == ["loss"]
    assert fitting(figures, 10) == {}
    assert [number(value) for value in (0.51234, 45.678, 1234.5, "1:02")] == ["0.512", "45.7", "1234", "1:02"]


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"max_epochs": 3}, 2 * 10 - 4),
        ({"max_epochs": None, "max_steps": 9}, (9 - 7) * 2),
        ({"max_epochs": 3, "max_steps": 9}, 4),
        ({"max_epochs": 3, "max_steps": 5}, 0),
        ({"max_epochs": -1}, None),
    ],
)
def test_batches_left(settings, left):
    progress = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace())))
    progress.epoch_loop.batch_progress.current.processed = 4
    trainer = SimpleNamespace(current_epoch=1, num_training_batches=10, global_step=7, accumulate_grad_batches=2)
    vars(trainer).update({"max_steps": -1, "fit_loop": progress} | settings)
    assert batches_left(trainer) == left


@pytest.mark.slow
def test_real_runs_log_it(shapes_root, tmp_path):
    call = ["train", f"dataset.root={shapes_root}", *SMALL, *TINY, "data.num_workers=1"]
    call += ["trainer.log_every_n_steps=1", "trainer.max_epochs=1", "data.batch_size=4", f"hydra.run.dir={tmp_path}"]
    done = run_forked(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(newline="")))
    logged = [row for row in rows if row["train/views_per_s"]]
    assert len(logged) == 6
    cost = read(tmp_path / "metrics.json")["cost"]
    assert (cost["views"], cost["pixels"]) == (24, 24 * 64 * 64)  # padded
    assert 0 < cost["seconds"] < 300
    for row in logged:
        assert float(row["train/views_per_s"]) > 0
        assert 0 <= float(row["train/data_wait"]) <= 1
        assert 0.05 < float(row["train/memory_GB"]) < 100
