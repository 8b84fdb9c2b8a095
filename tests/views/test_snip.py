"""SNIP: which resolution learns from which sizes, from when on, and the windows of the finest one."""

import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import make_store
from support.two_stages import detector

from lightning_det.data.dataset import Collate, Look, Sample
from lightning_det.data.inspection import count_orphans
from lightning_det.data.sampler import plan_epoch
from lightning_det.detectors.roi_head import candidates
from lightning_det.detectors.rpn import Proposals
from lightning_det.modules.schedules import MultiStep
from lightning_det.protocols.structures import ImageRecord, State
from lightning_det.selection import AllSelector
from lightning_det.views import Planner, Pyramid, RandomFlip, Step, SubImages, View
from lightning_det.views.resolution import scale_factor
from lightning_det.views.targets import targets

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "snip_sniper.json").read_text())
PYRAMID = [[1400, 2000], [800, 1200], [480, 800]]
RANGES = [[0, 80], [40, 160], [120, -1]]
ANCHOR_RANGES = [[0, 80], [0, 160], [120, -1]]


def record(boxes=(), width=640, height=480, ignored=()):
    boxes = np.array(boxes, float).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    flags[list(ignored)] = True
    return ImageRecord(width, height, boxes, np.arange(len(boxes)), flags)


def batch_of(image, view):
    """One view without its pixels."""
    return Collate()([Sample(Look(0, view), torch.zeros(3, *view.size, dtype=torch.uint8), targets(image, view))])


def as_proposals(boxes):
    """Every box of (B, N, 4) as a proposal."""
    ones = torch.ones(boxes.shape[:2])
    return Proposals(boxes, ones, ones.bool())


def usable_at(image, view):
    """Whether the boxes of an image may be learned from as RoIs of a view, as proposals and as ground truth."""
    batch = batch_of(image, view)
    _, usable = candidates(as_proposals(batch.boxes), batch)
    as_proposal, as_truth = usable[0].chunk(2)
    count = len(image.boxes)
    return as_proposal[:count].tolist(), as_truth[:count].tolist()


# Ranges


@pytest.mark.parametrize("case", GOLDEN["snip_valid_ranges"], ids=lambda case: f"size_{case['size']}")
def test_valid_ranges_of_the_paper(case):
    """Of the detector proper at every resolution (RoIs: proposals and ground truth alike), of anchors at the middle."""
    image = record([case["box"]])
    views = Pyramid(PYRAMID, RANGES, ANCHOR_RANGES)(image, [], None)
    for view, expected in zip(views, case["rcn"], strict=True):
        # Upper bounds are part of the range in the case, and not here: 160 is one.
        ours = expected and case["size"] < view.valid_range[1]
        assert usable_at(image, view) == ([ours], [ours])
        assert targets(image, view).states.tolist() == [State.VALID if ours else State.INVALID]
    ours = case["rpn_middle"] and case["size"] < 160
    assert targets(image, views[1]).anchor_states.tolist() == [State.VALID if ours else State.INVALID]


@pytest.mark.parametrize(
    ("size", "rois", "anchors"),
    [
        (39.9, [0], [0, 1]),
        (40.1, [0, 1], [0, 1]),
        (79.9, [0, 1], [0, 1]),
        (80.1, [1], [1]),
        (119.9, [1], [1]),
        (120.1, [1, 2], [1, 2]),
        (159.9, [1, 2], [1, 2]),
        (160.1, [2], [2]),
        (470, [2], [2]),
    ],
)
def test_every_size_is_learned_at_some_resolution(size, rois, anchors):
    image = record([(3, 5, 3 + size, 5 + size)])
    views = Pyramid(PYRAMID, RANGES, ANCHOR_RANGES)(image, [], None)
    assert [v.level for v in views if usable_at(image, v) == ([True], [True])] == rois
    assert [v.level for v in views if targets(image, v).states[0] == State.VALID] == rois
    assert [v.level for v in views if targets(image, v).anchor_states[0] == State.VALID] == anchors


@pytest.mark.parametrize("size", [40, 80, 120, 160])
def test_lower_bounds_are_inside_and_upper_ones_outside(size):
    image = record([(0, 0, size, size)])
    views = Pyramid(PYRAMID, RANGES)(image, [], None)
    expected = [low <= size < (inf if high == -1 else high) for low, high in RANGES]
    assert [targets(image, view).states[0] == State.VALID for view in views] == expected


@pytest.mark.parametrize("factor", [0.5, 1, 1.7, 3])
def test_the_size_of_the_image_changes_no_range(factor):
    """The same box in a smaller or larger image, which is then resized by another factor."""
    for size, levels in ((60, [0, 1]), (100, [1]), (140, [1, 2])):
        image = record([(0, 0, size, size)], int(640 * factor), int(480 * factor))
        views = Pyramid(PYRAMID, RANGES)(image, [], None)
        assert [v.level for v in views if targets(image, v).states[0] == State.VALID] == levels
        assert [v.level for v in views if usable_at(image, v)[1] == [True]] == levels


@pytest.mark.parametrize("case", GOLDEN["scale_factors"])
def test_scale_factors_of_the_reference(case):
    assert scale_factor(case["width"], case["height"], case["bounds"]) == pytest.approx(case["scale"], abs=1e-6)


@pytest.mark.parametrize(
    ("resolutions", "ranges", "message"),
    [
        ([[-1, 512], 1.667, 3.0], None, "finest to the coarsest"),
        ([1.667, [-1, 512], 3.0], None, "finest to the coarsest"),
        ([[-1, 512], [-1, 900]], None, "finest to the coarsest"),
        ([[800, 1200], [1400, 2000]], None, "finest to the coarsest"),
        ([3.0, 1.667], [[0, 80], [32, 150], [120, -1]], "2 resolutions need as many valid_ranges"),
        ([3.0, 1.667], [[0, 80], [150, 32]], "lower < upper"),
        ([3.0, 1.667], [[0, 80], [-1, 150]], "0 <= lower"),
    ],
)
def test_scales_in_the_wrong_order_and_ranges_that_do_not_fit_are_refused(resolutions, ranges, message):
    with pytest.raises(ValueError, match=message):
        Pyramid(resolutions, ranges)


def test_a_list_of_scales_is_taken_as_it_is():
    """Plain factors, and a long side for the last one: no dataset has scales of its own."""
    views = Pyramid([2.5, 1.25, [-1, 384]])(record(), [], None)
    assert [v.scale for v in views] == [2.5, 1.25, 0.6]
    assert [v.size for v in views] == [(1200, 1600), (600, 800), (288, 384)]


def test_schedule_of_the_reference():
    case = GOLDEN["lr_schedule"]
    start = case["warmup_lr"] / case["base_lr"]
    per_epoch = 11_000
    schedule = MultiStep([case["drop_epoch"]], case["drop_factor"], case["warmup_steps"] / per_epoch, start)
    for step, rate in case["points"]:
        assert case["base_lr"] * schedule(step, per_epoch, 7 * per_epoch) == pytest.approx(rate, rel=1e-9)
    drop = int(case["drop_epoch"] * per_epoch)
    assert [schedule(step, per_epoch, 7 * per_epoch) for step in (drop - 1, drop)] == pytest.approx([1, 0.1])


# What carries loss


def roi_losses(size, level, labels=0, extra=()):
    """Losses of the second stage on proposals around one object of an image, and the gradient of its layers."""
    image = record([(100, 100, 100 + size, 100 + size), *extra])
    view = Pyramid(PYRAMID, RANGES)(image, [], None)[level]
    batch = batch_of(image, view)
    batch.labels[0, : 1 + len(extra)] = labels
    head = detector(select=(AllSelector(), AllSelector())).roi_head
    maps = [torch.randn(1, 64, *(n // 8 for n in batch.images.shape[2:]), generator=torch.manual_seed(0))]
    shifts = torch.tensor([[0, 0, 0, 0], [2, 0, 2, 0], [0, 3, 0, 3], [-2, -2, 2, 2.0]])
    losses, _ = head.losses(maps, as_proposals(batch.boxes[:, :1] + shifts[None]), batch)
    sum(losses.values()).backward()
    gradient = sum(p.grad.abs().sum().item() for p in head.parameters())
    return {name: value.item() for name, value in losses.items()}, gradient


@pytest.mark.parametrize(("level", "learns"), [(0, False), (1, True), (2, False)])
def test_an_object_of_100_pixels_is_learned_at_the_middle_resolution_only(level, learns):
    losses, gradient = roi_losses(100, level)
    assert set(losses) == {"roi_class", "roi_box"}
    for value in (*losses.values(), gradient):
        assert (value > 0) == learns


def test_labels_of_what_is_out_of_range_change_no_loss():
    """A second, small object, whose RoIs do not qualify at the middle resolution."""
    small = [(300, 300, 320, 320)]
    first, second, alone = (
        roi_losses(100, 1, labels, extra)[0]
        for labels, extra in ((torch.tensor([2, 0]), small), (torch.tensor([2, 5]), small), (2, ()))
    )
    assert first == second == alone
    assert first != roi_losses(100, 1, torch.tensor([3, 0]), small)[0]


def test_roi_losses_are_means_over_what_is_in_range():
    """Proposals of other sizes beside those in range change neither sum nor count."""
    image = record([(100, 100, 200, 200)])
    batch = batch_of(image, Pyramid(PYRAMID, RANGES)(image, [], None)[1])
    head = detector(select=(AllSelector(), AllSelector())).roi_head
    maps = [torch.randn(1, 64, *(n // 8 for n in batch.images.shape[2:]), generator=torch.manual_seed(0))]
    inside = batch.boxes[:, :1] + torch.tensor([[0, 0, 4, 4], [-9, 0, 0, 0.0]])
    outside = torch.tensor([[[0, 0, 20, 20], [50, 50, 90, 90], [0, 0, 700, 700.0]]])
    expected, _ = head.losses(maps, as_proposals(inside), batch)
    both, _ = head.losses(maps, as_proposals(torch.cat([outside, inside], dim=1)), batch)
    for name, value in expected.items():
        torch.testing.assert_close(both[name], value)


# Warm epochs


def shown(planner, image, epoch, seed=0):
    """Pixels of an epoch's views, states of the boxes for anchors, and for the detector proper with usable RoIs."""
    views = planner.at(epoch)(image, np.random.default_rng(seed))
    pixels = [(v.scale, v.window, v.flip, v.level) for v in views]
    found = [targets(image, v) for v in views]
    rois = [(f.states.tolist(), usable_at(image, v)[1]) for f, v in zip(found, views, strict=True)]
    return pixels, [f.anchor_states.tolist() for f in found], rois


ALL_SIZES = [(0, 0, 20, 20), (50, 0, 110, 60), (120, 0, 220, 100), (230, 0, 370, 140), (0, 150, 300, 450)]


@pytest.mark.parametrize("windows", [None, SubImages(1000)])
def test_warm_epochs_are_plain_multi_scale(windows):
    """Published: one epoch for the proposal network, three for the RoIs."""
    image = record(ALL_SIZES)
    plain = Planner(Pyramid(PYRAMID), windows, RandomFlip())
    warm = Planner(Pyramid(PYRAMID, RANGES, ANCHOR_RANGES, warm_epochs=[1, 3]), windows, RandomFlip())
    cold = Planner(Pyramid(PYRAMID, RANGES, ANCHOR_RANGES), windows, RandomFlip())
    for seed in range(5):
        assert shown(warm, image, 0, seed) == shown(plain, image, 0, seed)
        for epoch in (1, 2):
            pixels, anchors, rois = shown(warm, image, epoch, seed)
            # Whole images: which windows the finest resolution needs depends on what its RoIs learn from.
            assert (pixels, rois) == (shown(plain, image, epoch, seed)[0], shown(plain, image, epoch, seed)[2])
            if windows is None:
                assert anchors == shown(cold, image, epoch, seed)[1] != shown(plain, image, epoch, seed)[1]
        for epoch in (3, 4):
            assert shown(warm, image, epoch, seed) == shown(cold, image, epoch, seed)


@pytest.mark.parametrize(
    ("warm_epochs", "rois", "anchors"),
    [
        ([0, 0], [(0, 80), (40, 160)], [(0, 80), (0, 160)]),
        ([1, 0], [(0, 80), (40, 160)], [(0, inf), (0, inf)]),
        ([0, 1], [(0, inf), (0, inf)], [(0, 80), (0, 160)]),
        ([1, 1], [(0, inf), (0, inf)], [(0, inf), (0, inf)]),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_anchors_and_rois_warm_up_apart(warm_epochs, rois, anchors, own):
    """With anchor ranges of their own, or with those of the RoIs."""
    pyramid = Pyramid(PYRAMID[:2], RANGES[:2], ANCHOR_RANGES[:2] if own else None, warm_epochs=warm_epochs)
    views = pyramid.at(0)(record(), [], None)
    assert [v.valid_range for v in views] == rois
    if not own:
        anchors = [(40, 160) if a == (0, 160) else a for a in anchors]
    assert [v.ranges[1] for v in views] == anchors
    # The pyramid itself stays as it is, for other epochs and for inference.
    assert pyramid(record(), [], None) == pyramid.at(1)(record(), [], None)
    assert [v.valid_range for v in pyramid(record(), [], None)] == [(0, 80), (40, 160)]


@pytest.mark.parametrize("warm_epochs", [[1], [1, 2, 3], [-1, 0]])
def test_nonsense_warm_epochs_are_refused(warm_epochs):
    with pytest.raises(ValueError, match="warm_epochs are epochs for anchors and for RoIs"):
        Pyramid(PYRAMID, warm_epochs=warm_epochs)


def test_epochs_without_ranges_need_ranges():
    with pytest.raises(ValueError, match=r"warm_epochs=\[0, 2\] are epochs without ranges, and there are none"):
        Pyramid(PYRAMID, warm_epochs=[0, 2])


def test_only_training_warms_up(tmp_path):
    store = make_store(tmp_path, [(640, 480)])
    planner = Planner(Pyramid(PYRAMID, RANGES, warm_epochs=[2, 2]))
    cold = [(0, 80), (40, 160), (120, inf)]
    for epoch, expected in ((0, [(0, inf)] * 3), (1, [(0, inf)] * 3), (2, cold)):
        assert [look.view.valid_range for look in plan_epoch(store, planner, 0, epoch)] == expected
        assert [look.view.valid_range for look in plan_epoch(store, planner, None, epoch)] == cold


class Corner(Step):
    """A step with the defaults of all members."""

    def __call__(self, image, views, rng):
        return [View(1.0, (0, 0, 4, 4))]


def test_other_scales_need_no_epochs():
    planner = Planner(Corner(), flip=RandomFlip(0.0))
    assert planner.at(3)(record(), np.random.default_rng(0)) == [View(1.0, (0, 0, 4, 4))]


# Sub-images


def windows_of(image, scale=1.0, size=100, seed=0, valid_range=(0.0, 80.0), draws=50):
    """The windows of the finest view."""
    whole = (0, 0, image.width, image.height)
    views = [View(scale, whole, valid_range), View(0.3 * scale, whole, (40.0, inf), level=1)]
    found = SubImages(size, draws)(image, views, np.random.default_rng(seed))
    assert found[-1] == views[1]
    assert all(v._replace(window=whole) == views[0] for v in found[:-1])
    return [v.window for v in found[:-1]]


def enclosing(windows, boxes):
    """(W, n) which windows enclose which boxes."""
    windows, boxes = np.array(windows).reshape(-1, 1, 4), np.array(boxes, float).reshape(1, -1, 4)
    return ((windows[..., :2] <= boxes[..., :2]) & (boxes[..., 2:] <= windows[..., 2:])).all(axis=2)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), st.floats(1, 120), st.floats(1, 120)), max_size=12),
    st.integers(30, 400),
    st.integers(30, 400),
    st.floats(0.6, 3),
    st.sampled_from([1, 50]),
    st.integers(0, 2),
)
def test_windows_enclose_every_small_object(rows, width, height, scale, draws, seed):
    rows = [(x * width, y * height, w, h) for x, y, w, h in rows]
    image = record([(x, y, min(width, x + w), min(height, y + h)) for x, y, w, h in rows], width, height)
    sides = image.boxes[:, 2:] - image.boxes[:, :2]
    small = np.sqrt(sides.prod(axis=1)) < 80
    windows = windows_of(image, scale, 100, seed, draws=draws)
    assert len(windows) <= small.sum()
    assert bool(windows) == small.any()
    side = int(100 / scale)
    for x1, y1, x2, y2 in windows:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(side, width), min(side, height))
        assert max(View(scale, (x1, y1, x2, y2)).size) <= 100
        assert all(isinstance(value, int) for value in (x1, y1, x2, y2))
    # What is longer than a window, or so close to it that whole pixels do not do, is shown as well as it can be.
    fits = (sides <= np.minimum([width, height], side) - 1).all(axis=1)
    inside = enclosing(windows, image.boxes[small & fits])
    assert inside.any(axis=0).all()
    if fits[small].all():
        assert inside.any(axis=1).all()


def test_views_of_windows_have_the_promised_size():
    image = record([(600, 400, 620, 420), (10, 10, 30, 30)])
    (view, *_) = Pyramid(PYRAMID, RANGES)(image, [], None)
    found = SubImages(1000)(image, [view], np.random.default_rng(0))
    # 1000 / 2.9167 = 342.86 pixels of the image, rounded down.
    assert {v.size for v in found} == {(998, 998)}
    assert {v.window[2] - v.window[0] for v in found} == {342}


def test_a_cluster_needs_one_window():
    cluster = [(500 + 7 * i, 300 + 5 * i, 510 + 7 * i, 312 + 5 * i) for i in range(9)]
    for seed in range(20):
        (window,) = windows_of(record(cluster, 1000, 800), size=300, seed=seed)
        assert enclosing([window], cluster).all()


def test_windows_are_drawn_at_random():
    image = record([(400, 300, 410, 310)], 1000, 800)
    assert len({windows_of(image, size=300, seed=seed)[0] for seed in range(20)}) > 15
    assert windows_of(image, seed=3) == windows_of(image, seed=3)


def test_two_far_clusters_need_two_windows_and_the_larger_one_comes_first():
    near = [(10 + i, 10, 20 + i, 20) for i in range(2)]
    far = [(700 + i, 600, 710 + i, 610) for i in range(6)]
    for seed in range(20):
        first, second = windows_of(record(near + far, 1000, 800), size=500, seed=seed, draws=200)
        assert enclosing([first], far).all()
        assert enclosing([second], near).all()


def test_a_whole_image_that_fits_stays_whole():
    assert windows_of(record([(10, 10, 20, 20)], 90, 100)) == [(0, 0, 90, 100)]
    ((x1, y1, x2, y2),) = windows_of(record([(10, 10, 20, 20)], 90, 101))
    assert (x1, x2, y2 - y1) == (0, 90, 100)


@pytest.mark.parametrize("boxes", [[], [(0, 0, 90, 90)], [(0, 0, 20, 20)]])
@pytest.mark.parametrize("side", [90, 400])
def test_without_small_objects_the_finest_resolution_is_not_seen(boxes, side):
    """The last one is ignored."""
    image = record(boxes, side, side, ignored=[0] if boxes == [(0, 0, 20, 20)] else [])
    assert windows_of(image) == []


@pytest.mark.parametrize(("size", "seen"), [(39.9, False), (40, True), (79.9, True), (80, False)])
def test_small_objects_are_those_of_the_range(size, seen):
    image = record([(200, 200, 200 + size, 200 + size)], 500, 400)
    assert bool(windows_of(image, valid_range=(40.0, 80.0))) == seen


@pytest.mark.parametrize("box", [(10, 10, 390, 22), (10, 10, 22, 390), (0, 0, 400, 400)])
def test_an_object_longer_than_a_window_is_shown_once(box):
    """Its centre, at least."""
    image = record([box, (390, 390, 395, 395)], 400, 400)
    windows = windows_of(image, valid_range=(0.0, inf))
    assert len(windows) == 2
    middle = [*np.add(box[:2], box[2:]) / 2, *np.add(box[:2], box[2:]) / 2]
    assert enclosing(windows[:1], [middle]).all()
    assert enclosing(windows[1:], [(390, 390, 395, 395)]).all()


def test_coarser_views_stay_whole_and_keep_their_order():
    image = record([(10, 10, 30, 30), (600, 400, 620, 420)])
    views = Pyramid(PYRAMID, RANGES)(image, [], None)
    found = Planner(Pyramid(PYRAMID, RANGES), SubImages(500))(image, np.random.default_rng(0))
    assert [v.level for v in found] == [0, 0, 1, 2]
    assert found[2:] == views[1:]
    assert Planner(Pyramid(PYRAMID), SubImages(500)).canvas is None


def test_windows_teach_what_they_enclose():
    image = record([(10, 10, 30, 30), (600, 400, 620, 420), (200, 100, 500, 400)])
    planner = Planner(Pyramid(PYRAMID, RANGES, ANCHOR_RANGES), SubImages(1000))
    for seed in range(10):
        views = planner(image, np.random.default_rng(seed))
        found = [targets(image, v, min_visible=1.0) for v in views]
        learned = {i for f in found for i in f.source[f.states == State.VALID]}
        assert learned == {0, 1, 2}
        # The large one is cut by windows, and keeps its class there.
        assert all(f.states[f.source == 2] != State.VALID for f, v in zip(found, views, strict=True) if v.level < 2)


def test_sub_images_have_no_orphans(tmp_path):
    store = make_store(tmp_path, [(640, 480)], [(0, 1, 1, 600, 9, 0)])
    assert count_orphans(store, Planner(Pyramid(PYRAMID, RANGES), SubImages())) == 0


@pytest.mark.parametrize("arguments", [{"size": 0}, {"draws": 0}])
def test_nonsense_sub_images_are_refused(arguments):
    with pytest.raises(ValueError, match="size >= 1 and draws >= 1"):
        SubImages(**arguments)


def test_sub_images_are_for_training():
    with pytest.raises(ValueError, match="sub-images are for training"):
        Planner(Pyramid(PYRAMID), SubImages())(record())
