"""From annotations to batches: which looks share one, who gets it, and what is in it."""

import gc
from collections import Counter
from dataclasses import fields
from math import inf
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.datasets import write_image
from support.stores import make_store

from lightning_det.data import dataset
from lightning_det.data.coco import Coco
from lightning_det.data.datamodule import ChipData, MultiScaleData
from lightning_det.data.dataset import Collate, Look, ViewDataset
from lightning_det.data.images import decode
from lightning_det.data.inference_batches import InferenceBatches, Limits
from lightning_det.data.inspection import coverage, damaged_images, statistics
from lightning_det.data.opening import ImageError
from lightning_det.data.sampler import ByImage, ByLevel, TrainBatches, generators, plan_epoch
from lightning_det.protocols.structures import State
from lightning_det.views import BothSides, Planner, Pyramid, RandomFlip, Tiles, View

PYRAMID = [[96, 128], [48, 64], [24, 32]]


def plain(tmp_path, count):
    """Landscape and portrait images without boxes."""
    return make_store(tmp_path, [(64, 48) if i % 3 else (48, 64) for i in range(count)])


GROUPINGS = {"by_level": ByLevel(), "by_image": ByImage(4)}
PLANNERS = {
    "one_scale": Planner(Pyramid([1.0])),
    "all_scales": Planner(Pyramid(PYRAMID), flip=RandomFlip(0.5)),
    "one_of_three": Planner(Pyramid(PYRAMID, draw="one")),
    "tiles": Planner(Pyramid([1.0]), Tiles(32, 0.25)),
}


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("planner", PLANNERS)
@settings(max_examples=12, deadline=None)
@given(
    count=st.sampled_from([1, 2, 7, 13, 31]),
    size=st.integers(1, 9),
    ranks=st.integers(1, 3),
    accumulate=st.sampled_from([1, 4]),
)
def test_every_look_is_shared_out_evenly(tmp_path_factory, grouping, planner, count, size, ranks, accumulate):
    store = plain(tmp_path_factory.getbasetemp(), count)
    plan = PLANNERS[planner]
    samplers = [
        TrainBatches(store, plan, size, GROUPINGS[grouping], 3, rank=r, ranks=ranks, accumulate=accumulate)
        for r in range(ranks)
    ]
    per_rank = [list(s) for s in samplers]
    assert {len(batches) for batches in per_rank} == {len(samplers[0])}
    assert len(samplers[0]) % accumulate == 0
    batches = [batch for of_rank in per_rank for batch in of_rank]
    assert {len(batch) for batch in batches} == {size}
    looks = plan_epoch(store, plan, 3, 0)
    assert {look for batch in batches for look in batch} == set(looks)
    # What is repeated fills up batches and accumulation windows, no more.
    levels = len({look.view.level for look in looks}) if grouping == "by_level" else 1
    assert len(batches) * size - len(looks) < levels * size + ranks * accumulate * size
    if grouping == "by_level":
        assert all(len({look.view.level for look in batch}) == 1 for batch in batches)


@pytest.mark.parametrize(
    ("count", "size", "accumulate", "shown"), [(20, 8, 1, 0), (20, 8, 4, 32), (5, 8, 1, 8), (16, 8, 2, 0)]
)
def test_an_epoch_that_repeats_much_is_said(tmp_path, caplog, count, size, accumulate, shown):
    batches = TrainBatches(plain(tmp_path, count), PLANNERS["one_scale"], size, ByImage(1), 3, accumulate=accumulate)
    for _ in range(2):
        len(batches)
    assert caplog.text.count(f"an epoch has {count} views, but shows {shown},") == (shown > 0)
    assert ("an epoch has" in caplog.text) == (shown > 0)


@pytest.mark.parametrize("planner", PLANNERS)
def test_an_epoch_follows_from_seed_and_number(tmp_path, planner):
    store = plain(tmp_path, 30)

    def epoch(seed, number):
        return list(TrainBatches(store, PLANNERS[planner], 4, ByLevel(), seed, epoch=lambda: number))

    assert epoch(0, 2) == epoch(0, 2)
    assert epoch(0, 2) != epoch(0, 3)
    assert epoch(0, 2) != epoch(1, 2)


@pytest.mark.parametrize("planner", ["all_scales", "one_of_three"])
def test_every_epoch_draws_its_own_views(tmp_path, planner):
    store, plan = plain(tmp_path, 30), PLANNERS[planner]
    first = plan_epoch(store, plan, 0, 2)
    assert plan_epoch(store, plan, 0, 2) == first
    for other in (plan_epoch(store, plan, 0, 3), plan_epoch(store, plan, 1, 2)):
        changed = [a.image for a, b in zip(first, other, strict=True) if a != b]
        assert 10 <= len(set(changed)) <= 29
    # Nothing is drawn at inference.
    assert plan_epoch(store, PLANNERS["tiles"], None, 1) == plan_epoch(store, PLANNERS["tiles"], None, 2)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_batches_are_filled_up_with_different_looks(tmp_path, grouping):
    looks = plan_epoch(make_store(tmp_path, [(64, 48)] * 11), PLANNERS["one_scale"], 0)
    batches = GROUPINGS[grouping](looks, 8, np.random.default_rng(0))
    counts = Counter(look for batch in batches for look in batch)
    assert sorted(counts.values()) == [1] * 6 + [2] * 5


def test_a_sampler_goes_along_with_the_epochs(tmp_path):
    now = SimpleNamespace(epoch=0)
    sampler = TrainBatches(plain(tmp_path, 30), PLANNERS["one_of_three"], 4, ByLevel(), 0, epoch=lambda: now.epoch)
    first = list(sampler)
    assert list(sampler) == first
    now.epoch = 1
    assert list(sampler) != first
    now.epoch = 0
    assert list(sampler) == first


def test_views_of_an_image_do_not_depend_on_the_others(tmp_path):
    store = plain(tmp_path, 12)
    whole = plan_epoch(store, PLANNERS["all_scales"], 5, 1)
    part = plan_epoch(store.select(range(4)), PLANNERS["all_scales"], 5, 1)
    assert [look for look in whole if look.image < 4] == part


def test_orientations_share_batches_only_to_fill_up(tmp_path):
    store = plain(tmp_path, 60)  # 20 portraits
    looks = plan_epoch(store, PLANNERS["one_scale"], 0)
    batches = ByLevel()(looks, 8, np.random.default_rng(0))
    mixed = [b for b in batches if len({look.view.size[0] > look.view.size[1] for look in b}) == 2]
    assert len(batches) == 8
    assert len(mixed) <= 1


@pytest.mark.parametrize(("together", "size", "expected"), [(1, 8, 1), (4, 8, 4), (8, 8, 8), (20, 8, 8), (4, 2, 2)])
def test_looks_of_an_image_stay_together(tmp_path, together, size, expected):
    store = make_store(tmp_path, [(64, 64)] * 40)
    planner = Planner(Pyramid([1.0]), Tiles(16, 0.0))  # 16 looks per image
    looks = plan_epoch(store, planner, 0)
    batches = ByImage(together)(looks, size, np.random.default_rng(0))
    assert Counter(look for batch in batches for look in batch) == Counter(looks)
    # A batch is a row of bundles; with one look per bundle, looks of an image meet by chance only.
    most_images = size // expected
    if together > 1:
        assert {len({look.image for look in batch}) for batch in batches} <= set(range(1, most_images + 1))
    assert np.mean([len({look.image for look in batch}) for batch in batches]) > 0.8 * most_images


@pytest.mark.parametrize(
    ("limits", "sizes", "said"),
    [
        (Limits(8), [3], ""),
        (Limits(2), [2, 1], ""),
        (Limits(8, 0.02), [2, 1], "up to 0.01 megapixels, so batches of the largest have 2 instead of"),
        (Limits(8, 0.0199), [1, 1, 1], "have 1 instead of data.test_batch_size=8 (data.test_megapixels=0.0199"),
        (Limits(8, 0.001), [1, 1, 1], "have 1 instead of"),
        (Limits(2, 1), [2, 1], ""),
    ],
)
def test_batches_of_inference_have_a_maximum_of_views_and_of_pixels(tmp_path, limits, sizes, said):
    store = make_store(tmp_path, [(100, 100)] * 3, [])
    batches = InferenceBatches(store, Planner(Pyramid([1.0])), limits)
    assert [len(batch) for batch in batches] == sizes
    assert said in batches.shortage
    assert bool(said) == bool(batches.shortage)


def test_a_run_says_once_that_large_views_make_smaller_batches(tmp_path, caplog):
    store = make_store(tmp_path, [(100, 100)] * 3, [])
    planner = Planner(Pyramid([1.0]))
    data = MultiScaleData(store, store, planner, planner, test_batch_size=2, test_megapixels=0.01, num_workers=0)
    data.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with caplog.at_level("INFO"):
        data.val_dataloader()
        data.val_dataloader()
    assert caplog.text.count("have 1 instead of data.test_batch_size=2") == 1


def test_by_image_needs_at_least_one_look():
    with pytest.raises(ValueError, match="together must be at least 1"):
        ByImage(0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31), st.integers(0, 2**31))
def test_generators_are_seeded_by_seed_epoch_and_image(seed, epoch, image):
    made = generators(seed, epoch, range(image, image + 2))
    expected = [np.random.default_rng((seed, epoch, image + i)) for i in range(2)]
    assert [rng.bit_generator.state for rng in made] == [rng.bit_generator.state for rng in expected]


@pytest.mark.parametrize("enabled", [True, False])
def test_planning_leaves_the_garbage_collector_as_it_was(tmp_path, enabled):
    store, planner, before = plain(tmp_path, 2), Planner(Pyramid([1.0])), gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        plan_epoch(store, planner, 0)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 7), st.none() | st.floats(1e-5, 0.1), st.booleans())
def test_inference_takes_every_look_once(tmp_path_factory, count, ranks, size, megapixels, tiled):
    store = plain(tmp_path_factory.getbasetemp(), count)
    planner = Planner(Pyramid(PYRAMID), Tiles(32) if tiled else None, BothSides())
    per_rank = [InferenceBatches(store, planner, Limits(size, megapixels), r, ranks) for r in range(ranks)]
    batches = [batch for sampler in per_rank for batch in sampler]
    everything = plan_epoch(store, planner, None)
    # Ranks without an image repeat the first look: none goes without batches.
    repeated = Counter({everything[0]: max(0, ranks - count)})
    assert Counter(look for batch in batches for look in batch) == Counter(everything) + repeated
    assert min(len(sampler) for sampler in per_rank) > 0
    assert max(len(batch) for batch in batches) <= size
    assert [len(list(sampler)) for sampler in per_rank] == [len(sampler) for sampler in per_rank]
    for batch in batches:
        assert len({look.view.level for look in batch}) == 1
        sides = [look.view.size for look in batch]
        padded = len(batch) * max(h for h, _ in sides) * max(w for _, w in sides)
        assert megapixels is None or len(batch) == 1 or padded <= megapixels * 1e6
    # The views of an image are merged where they are made: ranks share images.
    owners = [{look.image for batch in sampler for look in batch} for sampler in per_rank]
    assert sum(map(len, owners)) == max(count, ranks)


@pytest.fixture
def coco(coco_folder):
    return Coco(str(coco_folder)).read("train2017")[0]


def test_an_image_is_decoded_once_per_batch(coco, monkeypatch):
    decoded = []
    monkeypatch.setattr(dataset, "open_pixels", lambda path: decoded.append(path.name) or decode(path))
    looks = plan_epoch(coco, Planner(Pyramid([2.0]), Tiles(64)), None)
    assert len(looks) > 2 * len(coco)
    samples = ViewDataset(coco).__getitems__(looks)
    assert [s.look for s in samples] == looks
    assert sorted(decoded) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_samples_show_their_windows(coco):
    pixels = decode(coco.path(3))
    view = View(1.0, (2, 3, 34, 43))
    (sample,) = ViewDataset(coco, min_visible=0.9).__getitems__([Look(3, view)])
    assert torch.equal(sample.pixels, pixels[:, 3:43, 2:34])
    assert sample.targets.boxes.tolist() == [[0.5, 0, 10.5, 20.5], [12.5, 0, 22.5, 20.5], [24.5, 0, 32, 20.5]]
    assert sample.targets.states.tolist() == [State.VALID, State.VALID, State.IGNORED]
    narrow = View(1.0, (4, 0, 64, 48))  # cuts 1.5 of 10 columns off
    for share, state in ((0.9, State.INVALID), (0.8, State.VALID)):
        assert ViewDataset(coco, min_visible=share).__getitems__([Look(3, narrow)])[0].targets.states[0] == state


def test_a_file_that_changed_its_size_is_named(coco):
    write_image(coco.path(1), 60, 48)
    whole = View(1.0, (0, 0, 64, 48))
    with pytest.raises(ImageError, match=r"1\.jpg: annotated as 64 x 48, but it is 60 x 48; replace it, .*resume=RUN"):
        ViewDataset(coco).__getitems__([Look(0, whole), Look(1, whole)])


def test_an_image_that_has_gone_is_named(coco):
    coco.path(1).unlink()
    with pytest.raises(ImageError, match=r"1\.jpg: No such file or directory; replace it, .* with resume=RUN_FOLDER"):
        ViewDataset(coco).__getitems__([Look(1, View(1.0, (0, 0, 64, 48)))])


def batch_of(store, planner, images=None):
    looks = [look for look in plan_epoch(store, planner, None) if images is None or look.image in images]
    return Collate(planner.canvas)(ViewDataset(store).__getitems__(looks))


def test_batches_are_padded_to_multiples(coco):
    batch = batch_of(coco, Planner(Pyramid([[40, 100]])))
    assert batch.images.shape == (4, 3, 64, 64)  # views of 40 x 53
    assert batch.sizes.tolist() == [[40, 53]] * 4
    assert batch.images[:, :, :40, :53].float().std() > 10
    assert batch.images[:, :, 40:].max() == 0
    assert batch.images[:, :, :, 53:].max() == 0
    assert batch.boxes.shape == (4, 8, 4)
    padding = batch.states == State.PADDING
    assert (~padding).sum(dim=1).tolist() == [0, 1, 2, 3]
    assert batch.boxes[padding].abs().max() == 0
    assert batch.labels[padding].max() == 0
    assert batch.boxes[~padding].min() > 0
    assert batch.index.tolist() == [0, 1, 2, 3]
    assert batch.windows.tolist() == [[0, 0, 64, 48]] * 4
    assert batch.ranges.tolist() == [[0, inf]] * 4


def test_images_without_boxes_make_a_batch(coco):
    batch = batch_of(coco, Planner(Pyramid([1.0])), images=[0])
    assert batch.boxes.shape == (1, 8, 4)
    assert batch.states.unique().tolist() == [State.PADDING]


@pytest.mark.parametrize(("boxes", "padded"), [(1, 8), (8, 8), (9, 16)])
def test_box_counts_are_rounded_up(tmp_path, boxes, padded):
    store = make_store(tmp_path, [(64, 48)], [(0, k, 1, k + 5, 9, 0) for k in range(boxes)])
    write_image(store.path(0))
    batch = batch_of(store, Planner(Pyramid([1.0])))
    assert batch.states.shape == (1, padded)
    assert (batch.states == State.VALID).sum() == boxes


def test_tiles_have_one_canvas(coco):
    """Even a batch of small images: 64 x 48 here, 32 x 24 there."""
    for scale in (1.0, 0.5):
        planner = Planner(Pyramid([scale]), Tiles(70))
        assert planner.canvas == 70
        assert batch_of(coco, planner).images.shape == (4, 3, 96, 96)


def test_mirrored_views_say_so(coco):
    batch = batch_of(coco, Planner(Pyramid([1.0]), flip=BothSides()), images=[2])
    assert batch.flips.tolist() == [False, True]
    assert torch.equal(batch.images[0, :, :48], batch.images[1, :, :48].flip(2))


def with_trainer(data, **arguments):
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **arguments)
    return data


def data_of(store, kind=MultiScaleData, views=None, **arguments):
    views = views or Planner(Pyramid([1.0]), flip=RandomFlip())
    return kind(store, store, views, Planner(Pyramid([1.0])), **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MultiScaleData, ChipData])
def test_workers_change_nothing(coco, kind):
    views = Planner(Pyramid(PYRAMID), Tiles(48) if kind is ChipData else None, RandomFlip())
    alone, helped = (
        with_trainer(data_of(coco, kind, views, batch_size=3, test_batch_size=2, num_workers=n)) for n in (0, 2)
    )
    for loader in ("train_dataloader", "val_dataloader"):
        first, second = (list(getattr(data, loader)()) for data in (alone, helped))
        assert len(first) == len(second) > 1
        for a, b in zip(first, second, strict=True):
            for field in fields(a):
                assert torch.equal(getattr(a, field.name), getattr(b, field.name)), field.name


def test_loaders_follow_the_trainer(coco):
    data = with_trainer(data_of(coco, batch_size=3, num_workers=0), accumulate_grad_batches=4)
    assert data.num_train_batches() == len(data.train_dataloader()) == 4
    assert len(with_trainer(data_of(coco, batch_size=3, num_workers=0)).train_dataloader()) == 2
    assert [len(b) for b in data.train_dataloader()] == [3] * 4
    assert sorted(i for b in data.val_dataloader() for i in b.index.tolist()) == [0, 1, 2, 3]


def test_lightning_counts_batches_as_the_loader_expects(coco):
    """Counters of `TrainLoader`, which Lightning does not document."""
    seen = []

    class Counts(pl.LightningModule):
        def training_step(self, batch, number):
            current = self.trainer.fit_loop.epoch_loop.batch_progress.current
            seen.append((current.ready, current.started, current.processed, current.completed))

        def configure_optimizers(self):
            return None

    data = with_trainer(data_of(coco, batch_size=2, num_workers=0), max_epochs=1, enable_progress_bar=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        max_epochs=1,
        limit_val_batches=0,
        reload_dataloaders_every_n_epochs=1,
    )
    trainer.fit(Counts(), datamodule=data)
    assert seen == [(1, 1, 0, 0), (2, 2, 1, 1)]
    assert data.train_dataloader().state_dict() == {"epoch": 1, "done": 2, "batches": 2}


def test_data_without_a_trainer_or_images_says_so(coco):
    with pytest.raises(RuntimeError, match="has no trainer yet"):
        data_of(coco).train_dataloader()
    views = Planner(Pyramid([1.0]))
    with pytest.raises(ValueError, match="no images of train"):
        with_trainer(MultiScaleData(None, coco, views, views)).train_dataloader()
    with pytest.raises(ValueError, match="no images of val"):
        with_trainer(MultiScaleData(coco, None, views, views)).val_dataloader()


def test_chips_need_one_canvas(coco):
    with pytest.raises(ValueError, match=r"ChipData needs training views of one size.*MultiScaleData"):
        data_of(coco, ChipData)
    assert data_of(coco, ChipData, Planner(Pyramid([1.0]), Tiles(32)), together=2).grouping.together == 2


@pytest.mark.parametrize("name", ["batch_size", "test_batch_size"])
def test_empty_batches_are_refused(coco, name):
    with pytest.raises(ValueError, match="at least 1, got"):
        data_of(coco, **{name: 0})


COUNTED = [
    (0, 0, 0, 10, 40, 0),
    (0, 10, 10, 50, 50, 0),
    (0, 0, 0, 300, 300, 1),
    (1, 100, 100, 260, 110, 0),
]


def test_statistics(tmp_path):
    report = statistics(make_store(tmp_path, [(640, 480), (400, 500), (100, 100)], COUNTED))
    assert report["images"] == 3
    assert report["boxes"] == 3
    assert report["ignored_regions"] == 1
    assert report["images_without_boxes"] == 1
    assert report["classes"] == {"cat": 1, "dog": 2}
    assert report["percentiles"][0] == 0
    assert report["percentiles"][-1] == 100

    def ends(name):
        return report[name][0], report[name][-1]

    assert ends("image_width") == (100, 640)
    assert ends("image_height") == (100, 500)
    assert ends("box_width") == (10, 160)
    assert ends("box_height") == (10, 40)
    assert ends("box_size") == (20, 40)
    assert ends("box_aspect") == (0.0625, 4)  # height / width
    assert ends("box_size_by_long_side") == pytest.approx((20 / 640, 40 / 500), abs=1e-4)
    assert report["box_size"][3] == 40  # the median of 20, 40 and 40


def test_coarse_levels_fill_their_batches_with_more_views(tmp_path):
    store = make_store(tmp_path, [(100, 80)] * 20)
    looks = plan_epoch(store, Planner(Pyramid([2.0, 1.0, 0.5])), 0)
    batches = ByLevel(same_pixels=True)(looks, 2, np.random.default_rng(0))
    assert {(batch[0].view.level, len(batch)) for batch in batches} == {(0, 2), (1, 8), (2, 32)}
    assert all(len({look.view.level for look in batch}) == 1 for batch in batches)
    assert {look for batch in batches for look in batch} == set(looks)


def test_statistics_of_nothing(tmp_path):
    report = statistics(make_store(tmp_path, [(640, 480)]))
    assert report["boxes"] == 0
    assert report["box_size"] == []
    assert report["images_without_boxes"] == 1


def test_one_usual_pass_is_the_unit_of_pixels(tmp_path):
    store = make_store(tmp_path, [(1333, 800), (800, 1333), (1333, 800)], COUNTED)
    report = coverage(store, plan_epoch(store, Planner(Pyramid([[800, 1333]])), None), 0.5, 1.0)
    assert report["pixels_vs_800x1333"] == 1.0
    assert report["views_per_image"] == 1
    # Ignored regions are neither.
    assert (report["boxes_learned"], report["boxes_unlearned"]) == (3, 0)
    (level,) = report["levels"]
    assert level == {
        "level": 0,
        "valid_range": [0, None],
        "views": 3,
        "views_without_valid_boxes": 1,
        "boxes_learned": 3,
        "pixels_vs_800x1333": 1.0,
    }


def test_coverage_of_ranges(tmp_path):
    """Sizes are 20, 40 and 40: one resolution learns from the first, none from the others."""
    store = make_store(tmp_path, [(640, 480), (640, 480)], COUNTED)
    pyramid = Pyramid([2.0, 1.0], [[0, 30], [50, -1]])
    report = coverage(store, plan_epoch(store, Planner(pyramid), None), 0.5, 1.0)
    assert (report["boxes_learned"], report["boxes_unlearned"]) == (1, 2)
    assert report["views_per_image"] == 2
    first, second = report["levels"]
    assert (first["boxes_learned"], second["boxes_learned"]) == (1, 0)
    assert (first["valid_range"], second["valid_range"]) == ([0, 30], [50, None])
    assert first["pixels_vs_800x1333"] == pytest.approx(4 * second["pixels_vs_800x1333"])
    assert second["pixels_vs_800x1333"] == pytest.approx(640 * 480 / (800 * 1333))
    assert report["pixels_vs_800x1333"] == pytest.approx(5 * second["pixels_vs_800x1333"])


def test_a_box_in_several_tiles_is_learned_once(tmp_path):
    store = make_store(tmp_path, [(100, 50)], [(0, 40, 10, 60, 30, 0), (0, 0, 0, 100, 50, 0)])
    looks = plan_epoch(store, Planner(Pyramid([1.0]), Tiles(80, 0.5)), None)
    assert len(looks) == 2
    report = coverage(store, looks, 1.0, 1.0)
    assert (report["boxes_learned"], report["boxes_unlearned"]) == (1, 1)  # no tile holds the second one whole
    assert coverage(store, looks, 0.5, 1.0)["boxes_learned"] == 2


def test_damaged_images_are_found(tmp_path):
    store = make_store(tmp_path, [(64, 48)] * 3)
    for i in range(3):
        write_image(store.path(i))
    assert damaged_images(store) == []
    data = store.path(1).read_bytes()
    store.path(1).write_bytes(data[: len(data) // 2])
    assert Image.open(store.path(1)).size == (64, 48)  # the header says nothing
    (problem,) = damaged_images(store)
    assert problem.file == str(store.path(1))
    assert "damaged" in problem.reason


def test_ignored_regions_make_no_box(tmp_path):
    rows = [(0, 1, 1, 9, 9, 1), (1, 1, 1, 9, 9, 0), (1, 1, 1, 30, 30, 1)]
    report = statistics(make_store(tmp_path, [(64, 48)] * 2, rows))
    assert report["images_without_boxes"] == 1
    assert report["boxes_per_image"][-1] == 1
