"""``data.batch_size=auto``."""

import threading

import pytest
import torch
from helpers import CHIPS, SMALL, TINY, read
from omegaconf import OmegaConf
from support.in_process import run

from lightning_det.config.data import build_data, usable_split
from lightning_det.config.module import build_module
from lightning_det.config.trainer import build_trainer
from lightning_det.runs import batch_size
from lightning_det.runs.batch_size import agree, largest_that_fits, settle_batch_size, sizes_up_to
from lightning_det.runs.composition import validate_run
from lightning_det.runs.launch import MeetingPoint
from lightning_det.runs.trial import Trial


def step_with_room_for(most, tried):
    def step(size):
        tried.append(size)
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return step


@pytest.mark.parametrize(("most", "found"), [(1, 1), (5, 4), (7, 6), pytest.param(100, 40, marks=pytest.mark.slow)])
def test_the_largest_that_fits(most, found):
    tried = []
    assert largest_that_fits(step_with_room_for(most, tried), sizes_up_to(40)) == found
    assert tried == [size for size in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40) if size <= max(tried)]


def test_nothing_fits_or_the_step_is_wrong():
    with pytest.raises(torch.OutOfMemoryError):
        largest_that_fits(step_with_room_for(0, []), sizes_up_to(8))

    def step(size):
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        largest_that_fits(step, [1, 2])


@pytest.fixture
def made(composed, shapes_root, tmp_path):
    """Configuration, images and trial of a small training."""

    def make(*options):
        cfg = validate_run(composed("train", f"dataset.root={shapes_root}", *SMALL, "data.batch_size=auto", *options))
        store = usable_split(cfg, "train")
        trainer = build_trainer(cfg, tmp_path, learning=False)
        return cfg, store, Trial(build_module(cfg, store.label_map), build_data(cfg, store, None), store, trainer)

    return make


def test_the_largest_batch_of_an_epoch(made):
    _, store, trial = made("strategy=[multi_scale,flip]")
    batch = trial.largest_batch(6)
    assert batch.images.shape == (6, 3, 192, 256)  # the finest of three levels
    assert batch.boxes.shape[1] >= (store.offsets[1:] - store.offsets[:-1]).max()
    steps = made("strategy=[multi_scale,flip]", "+data.canvas_step=128")[2]
    assert steps.largest_batch(6).images.shape == (6, 3, 256, 256)  # as batches of the training are padded
    trial.step(2)
    one, two, three = map(trial.kept_bytes, (1, 2, 3))
    assert three - two == pytest.approx(two - one, rel=0.1)  # what one view more takes


def test_chips_fill_their_canvas(made):
    assert made("strategy=[sniper_no_negatives,flip]", *CHIPS)[2].largest_batch(5).images.shape == (5, 3, 64, 64)


@pytest.mark.parametrize(
    ("memory", "number", "why"),
    [(2**40, 2, "an epoch of 24 views keeps 10 steps"), (1, 1, "fits into the memory of cpu")],
)
def test_batches_on_a_cpu(made, tmp_path, monkeypatch, caplog, memory, number, why):
    cfg, store, _ = made()
    monkeypatch.setattr(batch_size, "available_memory", lambda: memory)
    before = torch.get_rng_state()
    with caplog.at_level("INFO"):
        settled = settle_batch_size(cfg, store, tmp_path)
    assert settled.data.batch_size == number
    assert f"data.batch_size=auto: {number} (" in caplog.text
    assert why in caplog.text
    assert torch.equal(torch.get_rng_state(), before)
    assert settle_batch_size(settled, store, tmp_path) is settled


def test_a_cpu_has_a_cap(made, tmp_path, monkeypatch):
    cfg, store, _ = made()
    monkeypatch.setattr(batch_size, "FEWEST_STEPS", 25)
    assert batch_size.find_batch_size(cfg, store, tmp_path) == (1, "an epoch of 24 views cannot have 25 steps")
    monkeypatch.setattr(batch_size, "FEWEST_STEPS", 1)
    assert batch_size.find_batch_size(cfg, store, tmp_path) == (16, "larger ones are not faster on a CPU")


@pytest.mark.parametrize("ranks", [2, None])
def test_ranks_take_the_same(monkeypatch, ranks):
    monkeypatch.setattr(batch_size, "meeting_point", lambda: None)
    assert agree(7, 2) == 7  # alone
    store = torch.distributed.HashStore()
    monkeypatch.setattr(batch_size, "shared_store", lambda point: store)
    found = {}

    def rank(number, own):
        found[number] = agree(own, ranks)

    points = {f"rank {n}": MeetingPoint("localhost", 1, n, n == 0) for n in range(2)}
    monkeypatch.setattr(batch_size, "meeting_point", lambda: points[threading.current_thread().name])
    threads = [threading.Thread(target=rank, args=pair, name=f"rank {pair[0]}") for pair in ((0, 12), (1, 8))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ({0: 8, 1: 8} if ranks else {0: 12, 1: 12})


@pytest.mark.slow
def test_a_run_equals_one_with_the_number_given_and_is_resumed_with_it(shapes_root, tmp_path, monkeypatch):
    given = [f"dataset.root={shapes_root}", *SMALL, *TINY, "data.num_workers=0", "trainer.enable_progress_bar=false"]
    given += ["trainer.max_epochs=1", "module.reference_batch=8", "callbacks.pictures=null", "callbacks.selection=null"]
    found, fixed = tmp_path / "found", tmp_path / "fixed"
    assert run("train", *given, "data.batch_size=auto", f"hydra.run.dir={found}").code == 0
    assert run("train", *given, "data.batch_size=2", f"hydra.run.dir={fixed}").code == 0
    assert OmegaConf.load(found / "config.yaml").data.batch_size == 2
    figures = [{k: v for k, v in read(folder / "metrics.json").items() if k != "cost"} for folder in (found, fixed)]
    assert figures[0] == figures[1]
    monkeypatch.setattr(batch_size, "find_batch_size", None)  # it is not searched again
    outcome = run("train", f"resume={found}", "trainer.max_epochs=2")
    assert outcome.code == 0, outcome.errors
    assert "data.batch_size=auto: 2 (as the run began)" in outcome.output
