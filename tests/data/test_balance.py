"""Views of rare classes are repeated as often as LVIS's formula says."""

import logging
from collections import Counter
from math import ceil, floor, sqrt
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scenes import make_store

from lightning_det.data.balance import Balance, repeat_factors
from lightning_det.data.datamodule import ChipData, MultiScaleData
from lightning_det.data.sampler import ByImage, TrainBatches, plan_epoch
from lightning_det.runs.composition import validate_run
from lightning_det.runs.data_report import report_repetitions
from lightning_det.runs.mining import mining_config
from lightning_det.views import Chips, Planner, Pyramid, RandomFlip, Tiles

WHOLE = Planner(Pyramid([0.25]))
FLIPPED = Planner(Pyramid([0.25]), flip=RandomFlip(0.5))
CHIPS = Planner(Pyramid([1.0]), Chips(96, 16), RandomFlip(0.5))


def boxes(*labels, ignored=0):
    """Boxes of an image, far from each other."""
    return [(10 + 150 * n, 10 + 120 * n, 30, 30, label, ignored) for n, label in enumerate(labels)]


def store_of(tmp_path, images, classes=3):
    return make_store(tmp_path, images, classes)


def test_factors_by_hand():
    """A class in a hundredth of the views, with t = 1/4: sqrt(25) times."""
    assert repeat_factors(np.array([100, 25, 24, 1, 0]), 100, 0.25) == pytest.approx([1, 1, sqrt(25 / 24), 5, 1])
    assert repeat_factors(np.array([3]), 1000, 0.001).tolist() == [1]  # LVIS's threshold
    assert repeat_factors(np.zeros(2, int), 0, 0.1).tolist() == [1, 1]


def test_an_integer_factor_is_exact(tmp_path):
    images = [boxes(0)] * 15 + [boxes(0, 1)]
    looks = plan_epoch(store_of(tmp_path, images), WHOLE, 0, balance=Balance(0.25))
    assert Counter(look.image for look in looks) == {**dict.fromkeys(range(15), 1), 15: 2}


labels = st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(labels, st.sampled_from([0.02, 0.3, 0.7, 1.0]), st.integers(0, 5))
def test_images_are_repeated_as_in_lvis(tmp_path_factory, images, threshold, epoch):
    """The factor of an image is that of its rarest class; it is rounded up or down."""
    store = store_of(tmp_path_factory.getbasetemp(), [boxes(*image) for image in images])
    counts = Counter(look.image for look in plan_epoch(store, WHOLE, 3, epoch, balance=Balance(threshold)))
    shares = {k: sum(k in image for image in images) / len(images) for k in range(3)}
    for number, image in enumerate(images):
        factor = max([1.0, *(sqrt(threshold / shares[k]) for k in image)])
        assert counts[number] in (floor(factor + 1e-9), ceil(factor - 1e-9))


def test_factors_are_rounded_by_chance(tmp_path):
    store = store_of(tmp_path, [boxes(0)] * 9 + [boxes(1)])
    epochs = [plan_epoch(store, WHOLE, 0, epoch, balance=Balance(0.6)) for epoch in range(400)]
    shown = [sum(look.image == 9 for look in looks) for looks in epochs]
    assert set(shown) == {2, 3}
    assert np.mean(shown) == pytest.approx(sqrt(6), abs=0.07)  # 2.45; three standard errors


def test_chips_are_repeated_without_the_rest_of_their_image(tmp_path):
    store = store_of(tmp_path, [boxes(0, 0, 0)] * 8 + [boxes(0, 1, 0)])
    balance = Balance(0.25)
    flips = set()
    for epoch in range(6):
        once, whole = plan_epoch(store, CHIPS, 0, epoch), plan_epoch(store, CHIPS, 0, epoch, balance=balance)
        further = whole[27:]
        assert whole[:27] == once
        assert len(further) in (1, 2)  # sqrt(27 / 4) = 2.6 times in all
        for look in further:
            assert look.image == 8
            assert balance.count(store, [look]).tolist() == [0, 1, 0]
            flips.add(look.view.flip)
    assert flips == {False, True}  # planned anew


def test_only_boxes_that_are_learned_from_count(tmp_path):
    images = [boxes(0)] * 9 + [boxes(0) + boxes(1, ignored=1)]
    assert len(plan_epoch(store_of(tmp_path, images), WHOLE, 0, balance=Balance(1.0))) == 10
    thin = [boxes(0)] * 9 + [[(10, 10, 30, 30, 0, 0), (100, 100, 3, 30, 1, 0)]]
    store = store_of(tmp_path, thin)
    assert len(plan_epoch(store, WHOLE, 0, balance=Balance(1.0, min_side=1.0))) == 10  # less than a pixel of the view
    assert len(plan_epoch(store, WHOLE, 0, balance=Balance(1.0, min_side=0.5))) > 10


def test_an_epoch_follows_from_seed_and_number_on_any_number_of_ranks(tmp_path):
    store = store_of(tmp_path, [boxes(0)] * 17 + [boxes(1), boxes(2, 0)])
    balance = Balance(0.8)
    looks = plan_epoch(store, FLIPPED, 1, 4, balance=balance)
    assert looks == plan_epoch(store, FLIPPED, 1, 4, balance=balance)
    assert looks != plan_epoch(store, FLIPPED, 1, 5, balance=balance)
    assert looks[19:] != plan_epoch(store, FLIPPED, 2, 4, balance=balance)[19:]
    plan = (store, FLIPPED, 1, ByImage(1), 1)
    ranks = [list(TrainBatches(*plan, lambda: 4, rank, 2, balance=balance)) for rank in range(2)]
    shared = Counter(batch[0] for of_rank in ranks for batch in of_rank)
    assert (
        shared - Counter(looks) == Counter() or sum((shared - Counter(looks)).values()) == 1
    )  # an odd number is filled
    assert Counter(looks) - shared == Counter()
    resumed = TrainBatches(*plan, lambda: 4, 1, 2, balance=balance)
    resumed.start_at(4, 3)
    assert list(resumed) == ranks[1][3:]


@pytest.mark.parametrize("kind", [MultiScaleData, ChipData])
def test_both_data_modules_repeat(tmp_path, kind):
    store = store_of(tmp_path, [boxes(0)] * 15 + [boxes(0, 1)])
    planner = Planner(Pyramid([1.0]), Tiles(800)) if kind is ChipData else WHOLE
    data = kind(store, None, planner, planner, 1, repeat_threshold=0.25, num_workers=0)
    assert len(data.epoch_loader(0)) == 17
    with pytest.raises(ValueError, match=r"data\.repeat_threshold must be above 0 and at most 1, got 2"):
        kind(store, None, planner, planner, 1, repeat_threshold=2.0)


def test_the_log_says_what_is_repeated(tmp_path, caplog):
    store = store_of(tmp_path, [boxes(0)] * 15 + [boxes(0, 1)])
    cfg = SimpleNamespace(seed=0)
    with caplog.at_level(logging.INFO, "lightning_det"):
        for threshold in (None, 0.25, 0.05):
            data = MultiScaleData(store, None, WHOLE, WHOLE, repeat_threshold=threshold)
            report_repetitions(cfg, store, data)
    first, second = (record.getMessage() for record in caplog.records)
    assert "16 views, and about 1 more that repeat rare classes; views by class: c1 1 -> 2" in first
    assert "every class is in at least 0.05 of the 16 views, so none is repeated" in second


def test_mining_repeats_nothing(composed, tmp_path):
    """Its network learns one class."""
    cfg = mining_config(validate_run(composed("train", "strategy=[sniper,class_balanced]")), tmp_path / "p.npz")
    assert cfg.data.repeat_threshold is None


@pytest.mark.parametrize("scales", ["single_scale", "sniper_no_negatives", "tiles", "snip"])
def test_it_is_beside_every_strategy_of_scales(composed, scales):
    for order in (f"{scales},class_balanced", f"class_balanced,{scales}"):
        assert composed("train", f"strategy=[{order}]").data.repeat_threshold == 0.1
