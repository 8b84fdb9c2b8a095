"""SNIPER's chips: which windows of an image are seen at which scale, and which boxes drive them."""

import json
from collections import Counter
from dataclasses import replace
from itertools import groupby, pairwise
from math import ceil, inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.stores import make_store

from lightning_det.annotations.store import ProposalSet
from lightning_det.data.inspection import count_orphans, count_unlearned, coverage
from lightning_det.data.sampler import ByImage, TrainBatches, plan_epoch
from lightning_det.protocols.structures import ImageRecord, State
from lightning_det.views import Chips, Planner, Pyramid, RandomFlip, View, chip_windows, chips
from lightning_det.views.chip_windows import intervals
from lightning_det.views.cover import Chip, bits, count_positions, cover, find_spans, is_enclosable, position
from lightning_det.views.targets import targets
from lightning_det.views.view import in_learning_range

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "snip_sniper.json").read_text())
SCALES = [3.0, 1.667, [-1, 512]]
RANGES = [[0, 80], [32, 150], [120, -1]]
ANCHOR_RANGES = [[0, 80], [0, 150], [120, -1]]


def record(boxes=(), width=640, height=480, proposals=(), ignored=()):
    boxes = np.array(boxes, float).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    flags[list(ignored)] = True
    proposals = np.array(proposals, np.float32).reshape(-1, 4)
    return ImageRecord(width, height, boxes, np.arange(len(boxes)), flags, proposals)


def views_of(image, scales=SCALES, ranges=RANGES, anchor_ranges=ANCHOR_RANGES):
    return Pyramid(scales, ranges, anchor_ranges)(image, [], None)


def plan(image, seed=0, views=None, **arguments):
    return Chips(**arguments)(image, views_of(image) if views is None else views, np.random.default_rng(seed))


def encloses(view, boxes):
    """Which boxes a window encloses, original pixels."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    x1, y1, x2, y2 = view.window
    return (boxes[:, 0] >= x1) & (boxes[:, 1] >= y1) & (boxes[:, 2] <= x2) & (boxes[:, 3] <= y2)


def covered_by(found, level, boxes):
    """Which boxes a chip of a level encloses."""
    return np.any([np.zeros(len(boxes), bool), *(encloses(v, boxes) for v in found if v.level == level)], axis=0)


def levels(found):
    return [sum(view.level == level for view in found) for level in range(3)]


def all_positions(length, size, stride):
    """Where a chip may begin: on the grid, and flush with the end."""
    grid = [k * stride for k in range(ceil(length / stride) + 1) if k * stride < length - size]
    return [*grid, max(0.0, length - size)]


def all_sets(boxes, width, height, size, stride):
    """Every candidate chip as the row of boxes that it encloses: brute force over all positions."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    xs, ys = (np.array(all_positions(n, size, stride))[:, None] for n in (width, height))
    slack = 1e-6
    columns = (xs <= boxes[:, 0] + slack) & (boxes[:, 2] <= xs + size + slack)
    rows = (ys <= boxes[:, 1] + slack) & (boxes[:, 3] <= ys + size + slack)
    return (columns[:, None] & rows[None]).reshape(len(xs) * len(ys), len(boxes))


@st.composite
def canvases(draw):
    """A resized image, its boxes, and chips that may be larger or smaller than both."""
    width, height = draw(st.integers(4, 160)), draw(st.integers(4, 160))
    size = draw(st.integers(3, 90))
    stride = draw(st.integers(1, size - 1))
    fraction = draw(st.sampled_from([1, 4]))
    boxes = []
    for _ in range(draw(st.integers(0, 12))):
        x, y = (draw(st.integers(0, fraction * n - 1)) for n in (width, height))
        w, h = draw(st.integers(1, fraction * size + 2)), draw(st.integers(1, fraction * size + 2))
        boxes.append((x / fraction, y / fraction, min(width, (x + w) / fraction), min(height, (y + h) / fraction)))
    return boxes, width, height, size, stride


# The greedy cover, in pixels of the resized image


@pytest.mark.parametrize("case", GOLDEN["chip_candidates"])
def test_candidate_chips_of_the_reference(case):
    width, height, size, stride = (case[name] for name in ("width", "height", "size", "stride"))
    ours = [
        (position(i, width, size, stride), position(j, height, size, stride))
        for i in range(count_positions(width, size, stride))
        for j in range(count_positions(height, size, stride))
    ]
    assert len(ours) == len(set(ours))
    # The reference has corners that are part of the grid, one of them twice.
    assert len(ours) == case["count"] - 2
    if "chips" in case:
        # Its border chips are one pixel too large: ours are flush with the border.
        flush = {
            (
                max(0, width - size) if x2 == width - 1 else x1,
                max(0, height - size) if y2 == height - 1 else y1,
            )
            for x1, y1, x2, y2 in case["chips"]
        }
        assert set(ours) == flush


@pytest.mark.parametrize("case", GOLDEN["chip_generation"], ids=lambda case: case["id"])
def test_chips_of_the_reference(case):
    width, height, size = case["width"], case["height"], case["size"]
    # Inclusive corners: the continuous box ends one pixel later.
    boxes = np.clip(np.array(case["boxes"], float) + np.array([0, 0, 1, 1]), 0, [width, height] * 2)
    for seed in range(30):
        found = cover(boxes, width, height, size, case["stride"], np.random.default_rng(seed))
        assert [chip.gain for chip in found] == case["gains"]
        assert sorted({i for chip in found for i in chip.boxes}) == case["covered"]
        if case["unique"]:
            corners = [
                [chip.x, chip.y, min(chip.x + size, width) - 1, min(chip.y + size, height) - 1] for chip in found
            ]
            assert sorted(corners) == sorted(case["chips"])


def test_hand_checked_choice():
    boxes = [(0, 0, 2, 2), (2, 2, 4, 4), (3, 1, 6, 3), (8, 6, 10, 8)]
    for seed in range(20):
        found = cover(boxes, 10, 8, 4, 3, np.random.default_rng(seed))
        assert found[0] == Chip(0, 0, 2, [0, 1])
        assert {(c.x, c.y, c.gain) for c in found[1:]} == {(3, 0, 1), (6, 4, 1)}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(canvases(), st.integers(0, 3))
def test_every_chip_is_the_best_of_all_candidates(canvas, seed):
    boxes, width, height, size, stride = canvas
    sets = all_sets(boxes, width, height, size, stride)
    found = cover(boxes, width, height, size, stride, np.random.default_rng(seed))
    left = np.ones(len(boxes), bool)
    for chip in found:
        assert chip.gain == (sets & left).sum(axis=1).max() > 0
        # What it claims to enclose is what a candidate at its place encloses.
        assert chip.x in all_positions(width, size, stride)
        assert chip.y in all_positions(height, size, stride)
        inside = all_sets(boxes, width, height, size, stride)[
            all_positions(width, size, stride).index(chip.x) * len(all_positions(height, size, stride))
            + all_positions(height, size, stride).index(chip.y)
        ]
        assert chip.boxes == np.flatnonzero(inside).tolist()
        assert chip.gain == (inside & left).sum()
        left &= ~inside
    assert not (sets & left).any()
    gains = [chip.gain for chip in found]
    assert gains == sorted(gains, reverse=True)
    assert sum(gains) == sets.any(axis=0).sum()
    assert len(found) <= len(boxes)


@settings(max_examples=200, deadline=None)
@given(canvases())
def test_candidates_enclose_what_none_of_their_neighbours_does(canvas):
    """Along one axis: what a run of positions encloses is no part of what the positions beside it enclose."""
    boxes, width, _, size, stride = canvas
    low, high = ([box[i] for box in boxes] for i in (0, 2))
    along = [
        {n for n in range(len(boxes)) if x <= low[n] + 1e-6 and high[n] <= x + size + 1e-6}
        for x in all_positions(width, size, stride)
    ]
    stretches = [list(group) for _, group in groupby(range(len(along)), key=lambda k: along[k])]
    expected = [
        (first, last, sorted(along[first]))
        for first, *_, last in (stretch * 2 for stretch in stretches)
        if along[first]
        and (not first or not along[first] < along[first - 1])
        and (last + 1 == len(along) or not along[first] < along[last + 1])
    ]
    assert [
        (run.first, run.last, list(bits(run.boxes))) for run in find_spans(low, high, width, size, stride)
    ] == expected


@settings(max_examples=100, deadline=None)
@given(canvases(), st.integers(1, 4))
def test_a_cover_stops_at_small_gains(canvas, more_than):
    every = cover(*canvas, np.random.default_rng(0))
    some = cover(*canvas, np.random.default_rng(0), more_than)
    assert [(c.gain, c.boxes) for c in some] == [(c.gain, c.boxes) for c in every if c.gain > more_than]


@settings(max_examples=100, deadline=None)
@given(canvases(), st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_of_boxes_matters(canvas, shuffler):
    boxes, width, height, size, stride = canvas
    covered = {boxes[i] for chip in cover(*canvas, np.random.default_rng(0)) for i in chip.boxes}
    shuffled = [*boxes, *boxes[:3]]
    shuffler.shuffle(shuffled)
    found = cover(shuffled, width, height, size, stride, np.random.default_rng(0))
    assert {shuffled[i] for chip in found for i in chip.boxes} == covered
    # A chip that encloses a box encloses its duplicates.
    assert len(found) <= len(set(boxes))


@settings(max_examples=60, deadline=None)
@given(canvases())
def test_the_same_seed_gives_the_same_cover(canvas):
    first, again, other = (cover(*canvas, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert {i for chip in first for i in chip.boxes} == {i for chip in other for i in chip.boxes}
    assert first[:1] == [] or first[0].gain == other[0].gain


def test_ties_and_positions_are_drawn_at_random():
    """Two boxes far apart, each in many positions: both come first at times, and every position is drawn."""
    boxes = [(100, 100, 110, 110), (900, 100, 910, 110)]
    found = [cover(boxes, 1000, 512, 512, 100, np.random.default_rng(seed)) for seed in range(200)]
    assert {first.boxes[0] for first, _ in found} == {0, 1}
    firsts = Counter(c.x for pair in found for c in pair if c.boxes == [0])
    assert set(firsts) == {0, 100}
    assert min(firsts.values()) > 60
    assert {c.x for pair in found for c in pair if c.boxes == [1]} == {400, 488}


def test_a_box_a_pixel_out_of_the_chip_is_not_covered():
    for x in (0, 1):
        found = cover([(x, 0, x + 512, 300)], 1024, 512, 512, 32, np.random.default_rng(0))
        assert len(found) == (x == 0)


def test_nothing_to_cover():
    assert cover([], 100, 100, 10, 3, np.random.default_rng(0)) == []
    assert cover(np.zeros((0, 4)), 100, 100, 10, 3, np.random.default_rng(0)) == []
    # Larger than a chip: no chip, no exception.
    assert cover([(0, 0, 100, 100)], 100, 100, 10, 3, np.random.default_rng(0)) == []


# From the cover to windows of whole original pixels


@given(st.floats(0, 300), st.floats(1, 200), st.integers(1, 500), st.data())
def test_windows_are_whole_pixels_around_what_they_enclose(start, size, length, data):
    start = min(start, max(0.0, length - size))
    end = min(start + size, length)
    low = data.draw(st.floats(start, end))
    high = data.draw(st.floats(low, end))
    assume(high - low > 1e-3)
    found = intervals(*(np.array([value]) for value in (start, low, high, size, length)))
    assert [each.dtype for each in found] == [np.int64] * 2
    first, last = (int(each[0]) for each in found)
    assert 0 <= first <= low
    assert high <= last <= length
    assert last - first <= min(int(size + 1e-6) + 2, length)
    assert abs(first - start) <= 2
    if high - low <= int(size) - 1:
        assert last - first == min(int(size + 1e-6), length)


def test_a_box_as_long_as_a_chip_gets_two_more_pixels():
    """512 / 3 is 170.67: boxes of this length lie in 171 or 172 whole pixels, which are shrunk into the chip."""
    # At the coarsest scale only: elsewhere boxes are shorter than a chip by its stride.
    image = record([(32.5, 32.9, 203, 203.3)])
    (view,) = plan(image, views=views_of(image, [3.0], [[0, -1]], None), stride=1)
    assert view.window == (32, 32, 203, 204)
    assert view.scale == pytest.approx(512 / 172)
    assert max(view.size) <= 512
    assert targets(image, view, min_visible=1.0).states.tolist() == [State.VALID]


boxes_on_images = st.lists(
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), st.floats(1, 320), st.floats(1, 320)), max_size=10
)


def placed(rows, width, height):
    """Boxes of shares and sides, inside an image."""
    corners = [(x * width, y * height, w, h) for x, y, w, h in rows]
    return [(x, y, min(width, x + w), min(height, y + h)) for x, y, w, h in corners]


@settings(max_examples=120, deadline=None)
@given(
    boxes_on_images,
    st.integers(20, 700),
    st.integers(20, 700),
    st.sampled_from([32, 56, (56, 59)]),
    st.sampled_from([SCALES, [2.9, 0.9], [1.3]]),
    st.integers(0, 2),
)
def test_chips_enclose_every_box_of_their_scale(rows, width, height, stride, scales, seed):
    image = record(placed(rows, width, height), width, height)
    views = views_of(image, scales, RANGES[-len(scales) :], None)
    seen = []

    def spy(boxes, *arguments):
        found = cover(boxes, *arguments)
        seen.extend((c, np.array(boxes)[c.boxes], arguments) for c in found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chips, "cover", spy)
        found = plan(image, seed, views, stride=stride)
    assert len(found) == len(seen)
    used = {arguments[3] for _, _, arguments in seen}
    assert used <= ({56, 57, 58, 59} if isinstance(stride, tuple) else {stride})
    for view, (chip, inside, (canvas_width, canvas_height, size, _, _, _)) in zip(found, seen, strict=True):
        whole = views[view.level]
        x1, y1, x2, y2 = view.window
        assert all(isinstance(value, int) for value in view.window)
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert max(view.size) <= 512 == size
        assert (canvas_width, canvas_height) == (width * whole.scale, height * whole.scale)
        # The window encloses what its chip does, lies where it lies, and has its scale but for the rare extra pixels.
        assert encloses(view, inside / whole.scale + np.array([1, 1, -1, -1]) * 1e-9).all()
        assert max(abs(x1 - chip.x / whole.scale), abs(y1 - chip.y / whole.scale)) <= 2
        shrunk = view.scale / whole.scale
        assert 1 - 2 / (512 / whole.scale) <= shrunk <= 1
        if shrunk == 1:
            assert [x2 - x1, y2 - y1] == [min(int(512 / whole.scale + 1e-6), n) for n in (width, height)]
        listed = {"valid_boxes": view.valid_boxes, "anchor_boxes": view.anchor_boxes}
        assert view == whole._replace(scale=view.scale, window=view.window, **listed)
    drives = Chips(stride=stride).drives(image.boxes, views, max(used, default=32))
    for level, (view, driving) in enumerate(zip(views, drives, strict=True)):
        own = [v for v in found if v.level == level]
        assert len(own) <= driving.sum()
        covered = covered_by(found, level, image.boxes[driving])
        if level < len(views) - 1:
            assert covered.all()
        else:
            resized = image.boxes[driving] * view.scale
            sets = all_sets(resized, width * view.scale, height * view.scale, 512, max(used, default=32))
            assert (covered | ~sets.any(axis=0)).all()
        # No chip without a reason.
        assert all(encloses(v, image.boxes[driving]).any() for v in own)
    # The coarsest scale brings the whole image into one chip.
    if scales is SCALES:
        assert sum(v.level == 2 for v in found) == drives[2].any()
        assert all(v.window == (0, 0, width, height) for v in found if v.level == 2)


def test_an_image_that_fits_is_one_chip():
    image = record([(10, 20, 60, 80), (120, 60, 150, 90)], 160, 120)
    found = plan(image)
    assert [(v.level, v.window) for v in found] == [(0, (0, 0, 160, 120)), (1, (0, 0, 160, 120))]
    assert found[0].size == (360, 480)


@settings(max_examples=40, deadline=None)
@given(boxes_on_images, st.integers(0, 3))
def test_mirrored_boxes_have_mirrored_coverage(rows, seed):
    """Which boxes a chip of each scale encloses, not which chips."""
    image = record(placed(rows, 640, 480))
    # Quarters of a pixel: mirroring them is exact.
    boxes = np.round(image.boxes * 4) / 4
    mirrored = np.stack([640 - boxes[:, 2], boxes[:, 1], 640 - boxes[:, 0], boxes[:, 3]], axis=1)
    plans = []
    for rows in (boxes, mirrored):
        image = image._replace(boxes=rows)
        plans.append((rows, plan(image, seed), Chips().drives(rows, views_of(image), 32)))
    for level in range(3):
        first, second = (covered_by(found, level, rows) & drives[level] for rows, found, drives in plans)
        assert (first == second).all()


def test_the_same_seed_gives_the_same_chips():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 340, (20, 2))
    image = record(np.concatenate([corners, corners + rng.uniform(5, 130, (20, 2))], axis=1), proposals=scattered(4))
    assert plan(image, 4) == plan(image, 4)
    assert len({tuple(plan(image, seed)) for seed in range(5)}) == 5


# Which boxes drive chips


@pytest.mark.parametrize("case", GOLDEN["scale_chip_extraction"], ids=lambda case: case["id"])
def test_chips_per_scale_of_the_reference(case):
    image = record(case["boxes"], case["width"], case["height"])
    scales = [s if isinstance(s, list) or number < 2 else [-1, s] for number, s in enumerate(case["scales"])]
    ranges = [[max(0, low), high] for low, high in case["ranges"]]
    views = views_of(image, scales, ranges, None)
    for seed in range(20):
        found = plan(image, seed, views, size=case["size"], stride=case["stride"], orphans="drop")
        assert levels(found) == case["chips_per_scale"]


@pytest.mark.parametrize(
    ("size", "driven"),
    [
        (10, [0]),
        (31.99, [0]),
        (32, [0, 1]),
        (79.99, [0, 1]),
        (80, [1]),
        (119.99, [1]),
        (120, [1, 2]),
        (149.99, [1, 2]),
        (150, [2]),
        (400, [2]),
    ],
)
def test_lower_bounds_are_inside_and_upper_ones_outside(size, driven):
    box = np.array([[0.0, 0.0, size, size]])
    image = record(box)
    assert np.flatnonzero(Chips(stride=56).drives(box, views_of(image), 56)[:, 0]).tolist() == driven
    assert [level for level, n in enumerate(levels(plan(image, stride=56))) if n] == driven


@pytest.mark.parametrize(
    ("box", "driven"),
    [
        # (512 - 56 - 1) / 3 is 151.67: a longer one may lie between two candidates.
        ((0, 0, 151.6, 10), [0, 1]),
        ((0, 0, 151.7, 10), [1]),
        ((0, 0, 10, 151.7), [1]),
        ((0, 0, 272.9, 30), [1]),
        ((0, 0, 273, 30), []),
        ((0, 0, 30, 273), []),
        # At the coarsest scale any length will do.
        ((0, 0, 600, 30), [2]),
        ((0, 0, 2, 100), [0]),
        ((0, 0, 1.9, 100), []),
        ((0, 0, 100, 1.9), []),
    ],
)
def test_long_and_thin_boxes(box, driven):
    box = np.array([box], float)
    views = views_of(record(box), ranges=[[0, 80], [32, 150], [120, -1]])
    drop, coarsest = Chips(stride=56, orphans="drop"), Chips(stride=56)
    assert np.flatnonzero(drop.drives(box, views, 56)[:, 0]).tolist() == driven
    assert np.flatnonzero(coarsest.drives(box, views, 56)[:, 0]).tolist() == (driven or [2])


def test_thin_boxes_drive_chips_of_a_single_scale():
    """With one scale, which is the coarsest, the reference has no limit."""
    box = np.array([[0, 0, 1, 100.0]])
    assert Chips(orphans="drop").drives(box, views_of(record(box), [3.0], [[0, -1]], None), 32).tolist() == [[True]]


def test_thin_boxes_drive_chips_of_middle_scales():
    """The limit is one of the finest scale only."""
    box = np.array([[0, 0, 1, 100.0]])
    views = views_of(record(box), ranges=[[0, 80], [5, 150], [120, -1]])
    assert Chips(orphans="drop").drives(box, views, 32)[:, 0].tolist() == [False, True, False]


@given(st.floats(2, 200), st.floats(2, 200))
def test_every_box_that_is_not_long_is_driven_somewhere(width, height):
    box = np.array([[0, 0, width, height]])
    views = views_of(record(box))
    size = np.sqrt(width * height)
    limit = 511 - 32
    driven = Chips(orphans="drop").drives(box, views, 32)[:, 0]
    if max(width, height) < limit / 3:
        assert driven.any()
        assert driven.sum() == (1 + (32 <= size < 80) + (120 <= size < 150))


@pytest.mark.parametrize("resized", [1, 2.5])
def test_the_size_in_the_original_image_decides(resized):
    """Boxes of 79 and 81 pixels, on an image of any size and at any scale."""
    for side, level in ((79, 0), (81, 1)):
        image = record([(0, 0, side, side)], int(640 * resized), int(480 * resized))
        views = views_of(image, [1.5, 1.2, 1.0], [[0, 80], [80, 150], [150, -1]], None)
        assert [v.level for v in plan(image, views=views)] == [level]


# Orphans: boxes that are valid at no scale

SLIVERS = [(10, 10, 310, 20), (10, 10, 11, 200)]


@pytest.mark.parametrize("box", SLIVERS)
def test_orphans_go_to_the_coarsest_scale_or_nowhere(box):
    image = record([(5, 5, 9, 9), box, (300, 300, 400, 400)], ignored=[0])
    views = views_of(image)
    dropped = plan(image, orphans="drop")
    assert levels(dropped) == [0, 1, 0]
    found = plan(image)
    assert levels(found) == [0, 1, 1]
    assert [v.valid_boxes for v in found] == [None, (1,)]
    # However thin it is there: `min_side` says what is too thin to learn from.
    states = [targets(image, found[1], 1.0, side).states.tolist()[1:] for side in (0.5, 10.0)]
    assert states == [[State.VALID, State.INVALID], [State.IGNORED, State.INVALID]]
    assert Chips().count_orphans(image, views) == Chips(orphans="drop").count_orphans(image, views) == 1


def test_the_chip_of_an_orphan_still_teaches_what_is_in_range():
    image = record([SLIVERS[0], (300, 100, 500, 400), (20, 100, 60, 140)])
    found = plan(image)
    assert levels(found) == [1, 1, 1]
    # The second box is in range, the third one is too small there.
    assert found[-1].valid_boxes == (0, 1)
    assert plan(image, labels="one_chip")[-1].valid_boxes == (0, 1)
    # Without orphans nothing is listed.
    assert all(v.valid_boxes is None for v in plan(record(image.boxes[1:])))
    assert all(v.valid_boxes is None for v in plan(image, orphans="drop"))


@pytest.mark.parametrize("labels", ["enclosed", "one_chip"])
def test_orphans_are_those_of_the_rois(labels):
    """Too long for the finest scale, and too small for the middle one, except for anchors."""
    image = record([(10, 10, 210, 12), (300, 300, 420, 420)])
    assert Chips().count_orphans(image, views_of(image)) == 1
    middle, coarsest = plan(image, labels=labels)
    assert (middle.level, coarsest.level) == (1, 2)
    assert coarsest.valid_boxes == (0, 1)


def test_boxes_outside_all_ranges_are_orphans():
    image = record([(0, 0, 20, 20)])
    views = views_of(image, [2.0, 1.0], [[0, 10], [50, -1]], None)
    assert Chips().count_orphans(image, views) == 1
    assert [v.level for v in plan(image, views=views)] == [1]
    assert plan(image, views=views, orphans="drop") == []


def test_orphans_are_counted_for_the_widest_stride():
    image = record([(0, 0, 152, 10), (20, 20, 300, 30)])
    views = views_of(image, [3.0, 0.8], [[0, 80], [80, -1]], None)
    assert Chips(stride=(50, 54)).count_orphans(image, views) == 1
    assert Chips(stride=(50, 56)).count_orphans(image, views) == 2


LONG = [
    # Chips of 96 at factor 0.5, every 32: 192 pixels of the image, every 64.
    ((0, 0, 200, 40), "nowhere"),
    ((0, 0, 192, 40), "in range"),
    ((3, 0, 192, 40), "in range"),
    ((3, 0, 194, 40), "nowhere"),  # between two positions
    ((100, 100, 150, 280), "nowhere"),
    ((100, 193, 150, 383), "in range"),
    ((500, 0, 640, 30), "adopted"),  # of size 65: too long where it is in range
    ((449, 0, 640, 50), "in range"),  # flush with the border
]


@pytest.mark.parametrize("labels", ["enclosed", "one_chip"])
@pytest.mark.parametrize(("box", "fate"), LONG)
def test_long_boxes_at_a_coarsest_scale_of_several_chips(box, fate, labels):
    """A plain factor does not bring the whole image into one chip: what no chip encloses is counted."""
    image = record([box])
    views = views_of(image, [2.0, 1.0, 0.5], [[0, 30], [30, 80], [80, -1]], None)
    maker = Chips(96, 32, labels=labels)
    found = maker(image, views, np.random.default_rng(0))
    learned = [2] * (fate != "nowhere")
    assert [v.level for v in found] == learned
    assert maker.count_unlearned(image, views) == (fate == "nowhere")
    assert maker.count_orphans(image, views) == (fate != "in range")
    assert [targets(image, v, 1.0).states.tolist() for v in found] == [[State.VALID]] * len(learned)


@pytest.mark.parametrize("labels", ["enclosed", "one_chip"])
@pytest.mark.parametrize(
    ("box", "levels", "counts"),
    [
        # Pixels of the chip at scale 0.8: 8 are too few, 10.4 are not.
        ((10, 10, 310, 20), [], (1, 1)),
        ((10, 10, 310, 23), [2], (1, 0)),
        # 9 pixels at scale 3 are too few as well, and at every other scale.
        ((10, 10, 50, 13), [], (1, 1)),
        ((10, 10, 50, 14), [0], (0, 0)),
    ],
)
def test_boxes_that_teach_nothing_cost_no_chip(box, levels, counts, labels):
    image = record([box])
    maker = Chips(512, 56, labels=labels, min_side=10.0)
    views = views_of(image)
    found = maker(image, views, np.random.default_rng(0))
    assert [v.level for v in found] == levels
    assert (maker.count_orphans(image, views), maker.count_unlearned(image, views)) == counts
    assert [targets(image, v, 1.0, 10.0).states.tolist() for v in found] == [[State.VALID]] * len(levels)


@settings(max_examples=150, deadline=None)
@given(
    boxes_on_images,
    st.lists(st.tuples(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(20, 640), st.floats(1, 30)), max_size=6),
    st.integers(20, 700),
    st.integers(20, 700),
    st.sampled_from([SCALES, [2.0, 1.0, 0.5], [3.0, 1.667], [0.7]]),
    st.sampled_from([(512, 56), (512, (56, 59)), (96, 32)]),
    st.sampled_from([0.0, 4.0, 10.0]),
    st.sampled_from(["enclosed", "one_chip"]),
    st.sampled_from(["coarsest", "drop"]),
)
def test_every_box_is_learned_in_a_chip_or_counted(rows, long, width, height, scales, grid, min_side, labels, orphans):
    image = record(placed([*rows, *long], width, height), width, height)
    views = views_of(image, scales, RANGES[-len(scales) :], None)
    maker = Chips(*grid, labels=labels, orphans=orphans, min_side=min_side)
    found = maker(image, views, np.random.default_rng(0))
    learned = np.zeros(len(image.boxes), bool)
    for view in found:
        shown = targets(image, view, 1.0, min_side)
        valid = shown.source[shown.states == State.VALID]
        learned[valid] = True
        # Each chip has something to teach. (Where one chip has each box, another may have them all.)
        assert len(valid) or labels == "one_chip"
    unlearned, valid_nowhere = maker.count_unlearned(image, views), maker.count_orphans(image, views)
    assert (~learned).sum() <= unlearned <= valid_nowhere
    if isinstance(grid[1], int):
        assert learned[maker.drives(image.boxes, views, grid[1]).any(axis=0)].all()
    if orphans == "drop":
        assert unlearned == valid_nowhere


@given(canvases())
def test_what_chips_enclose_is_known_beforehand(canvas):
    boxes, width, height, size, stride = canvas
    x1, y1, x2, y2 = np.array(boxes, float).reshape(-1, 4).T
    known = is_enclosable(x1, x2, width, size, stride) & is_enclosable(y1, y2, height, size, stride)
    assert known.tolist() == all_sets(boxes, width, height, size, stride).any(axis=0).tolist()


def test_orphans_of_a_dataset(tmp_path):
    rows = [(0, 10, 10, 310, 20, 0), (0, 10, 10, 310, 20, 1), (0, 0, 0, 50, 50, 0), (2, 10, 10, 11, 200, 0)]
    store = make_store(tmp_path, [(640, 480)] * 3, rows)
    planner = Planner(Pyramid(SCALES, RANGES, ANCHOR_RANGES), Chips())
    assert count_orphans(store, planner) == 2
    assert count_unlearned(store, planner) == 0
    assert count_orphans(store, Planner(Pyramid(SCALES, RANGES))) == 0
    assert count_unlearned(store, Planner(Pyramid(SCALES, RANGES))) == 0
    report = coverage(store, plan_epoch(store, planner, 0), 1.0, 0.5)
    assert (report["boxes_learned"], report["boxes_unlearned"]) == (3, 0)
    dropping = Planner(Pyramid(SCALES, RANGES, ANCHOR_RANGES), Chips(orphans="drop"))
    report = coverage(store, plan_epoch(store, dropping, 0), 1.0, 0.5)
    assert (report["boxes_learned"], report["boxes_unlearned"]) == (1, 2)
    # Two slivers of 8 and 0.8 pixels at the coarsest scale.
    thick = Planner(Pyramid(SCALES, RANGES, ANCHOR_RANGES), Chips(min_side=5.0))
    assert (count_orphans(store, thick), count_unlearned(store, thick)) == (2, 1)
    report = coverage(store, plan_epoch(store, thick, 0), 1.0, 5.0)
    assert (report["boxes_learned"], report["boxes_unlearned"]) == (2, 1)


def test_annotations_may_leave_the_image_by_a_rounding():
    """Up to a pixel boxes stay as annotated; a window shows all there is of them."""
    image = record([(600, 400, 640.6, 480.9)])
    found = plan(image)
    assert levels(found) == [1, 1, 0]
    for view in found:
        assert view.window[2:] == (640, 480)
        assert targets(image, view, min_visible=1.0).states.tolist() == [State.VALID]
    whole = View(1.0, (0, 0, 640, 480))
    assert targets(image, whole, min_visible=1.0).states.tolist() == [State.VALID]
    # Its size is that of the part inside, for chips and targets alike: 80.0 and 80.4.
    edge = record([(560, 10, 640.8, 90)])
    views = views_of(edge, [3.0, 1.0], [[0, 80.2], [80.2, -1]], None)
    assert [v.level for v in plan(edge, views=views)] == [0]
    assert targets(edge, plan(edge, views=views)[0], min_visible=1.0).states.tolist() == [State.VALID]


# Negative chips


def crowd(count, x=400, y=300, side=30, spread=60, seed=0):
    """Proposals close to each other."""
    corners = np.random.default_rng(seed).integers(0, spread, (count, 2)) + np.array([x, y])
    return np.concatenate([corners, corners + side], axis=1)


def negatives_of(image, seed=0, **arguments):
    """What negative chips add to the positive ones of the same seed."""
    arguments = {"negatives": 99, "stride": 56} | arguments
    positives = plan(image, seed, **(arguments | {"negatives": 0}))
    found = plan(image, seed, **arguments)
    if arguments.get("labels") != "one_chip":
        assert found[: len(positives)] == positives
    return found[len(positives) :]


CASES = {case["id"]: case for case in GOLDEN["box_assignment"]}


@pytest.mark.parametrize("name", ["C05_neg_fine_25", "C07_neg_mid_10", "C08_neg_mid_11"])
@pytest.mark.parametrize("labels", ["enclosed", "one_chip"])
def test_negative_chips_of_the_reference(name, labels):
    case = CASES[name]
    image = record(case["boxes"], proposals=case["proposals"])
    for seed in range(10):
        found = negatives_of(image, seed, stride=case["stride"], labels=labels)
        assert [view.level for view in found] == [n["level"] for n in case["negatives"]]
        for view, expected in zip(found, case["negatives"], strict=True):
            assert np.flatnonzero(encloses(view, image.proposals)).tolist() == expected["proposals"]


@pytest.mark.parametrize(
    ("count", "side", "expected"),
    [(25, 30, [1]), (26, 30, [0, 1]), (10, 70, []), (11, 70, [1]), (10, 100, []), (11, 100, [1]), (11, 130, [1, 2])],
)
def test_a_chip_needs_more_proposals_than_the_threshold(count, side, expected):
    """More than 25 at the finest scale, which sizes below 80 reach, more than 10 at the others."""
    image = record([(10, 10, 40, 40)], proposals=crowd(count, 340, 240, side))
    assert [view.level for view in negatives_of(image)] == expected
    lenient = negatives_of(image, dense=(count - 1, count - 1))
    assert {view.level for view in lenient} == {0: {0, 1}, 1: {1}, 2: {1, 2}}[sum(side >= n for n in (80, 120))]
    assert negatives_of(image, dense=(count, count)) == []


def scattered(count=10, each=30):
    """Dense spots far apart, so that many chips qualify."""
    return np.concatenate([crowd(each, 50 + 180 * (n % 3), 200 * (n // 3), 20, 30, n) for n in range(count)])


def test_some_negative_chips_join_in_every_epoch():
    image = record([(600, 440, 630, 470)], proposals=scattered(8))
    pool = negatives_of(image)
    assert len(pool) > 6
    for n in (0, 1, 2, 5):
        assert len(negatives_of(image, negatives=n)) == n
    # The pool does not depend on how many are drawn from it.
    assert set(negatives_of(image, negatives=2)) < set(pool)
    drawn = [tuple(negatives_of(image, seed, negatives=2)) for seed in range(20)]
    assert len(set(drawn)) > 10
    kinds = {tuple(encloses(view, image.proposals).nonzero()[0]) for views in drawn for view in views}
    assert len(kinds) > 4


def test_negative_chips_of_all_scales_are_drawn_alike():
    image = record([(600, 440, 630, 470)], proposals=scattered(8))
    pool = Counter(view.level for view in negatives_of(image))
    drawn = Counter(view.level for seed in range(300) for view in negatives_of(image, seed, negatives=1))
    assert set(pool) == set(drawn) == {0, 1}
    assert drawn[0] / 300 == pytest.approx(pool[0] / pool.total(), abs=0.12)


PINNED = [(0, 0, 40, 40), (260, 260, 306, 306)]
"""At scale 1.667 the only chip that encloses both is the one at the origin."""


def test_a_proposal_is_covered_where_it_is_enclosed_or_where_it_is_touched():
    """Eleven proposals that reach over the border of a positive chip."""
    straddling = crowd(11, 296, 296, 100, 8)
    image = record(PINNED, proposals=straddling)
    assert plan(image, negatives=0)[-1].window == (0, 0, 307, 307)
    assert [view.level for view in negatives_of(image)] == [1]
    assert negatives_of(image, covered="touched") == []
    # A part of less than a pixel is no touch.
    beside = np.array([[306.5, 200, 406.5, 300]] * 11)
    assert [v.level for v in negatives_of(record(PINNED, proposals=beside), covered="touched")] == [1]
    beside[:, 0] -= 0.5
    assert negatives_of(record(PINNED, proposals=beside), covered="touched") == []
    # Unless there is no more of it.
    thin = np.array([[200.25, 100, 200.75, 300]] * 11)
    for covered in ("enclosed", "touched"):
        assert negatives_of(record(PINNED, proposals=thin), covered=covered) == []


def test_covered_proposals_count_at_other_scales_only():
    """Thirty proposals inside a chip of the middle scale, of which no chip of the finest shows anything."""
    image = record(PINNED, proposals=crowd(30, 170, 20, 40, 60))
    for covered in ("enclosed", "touched"):
        assert [view.level for view in negatives_of(image, covered=covered)] == [0]


def test_boxes_without_a_positive_chip_are_learned_from_in_negative_ones():
    """A box of 30 pixels drives no chip of the middle scale, but is valid there for the anchors."""
    image = record([(450, 350, 480, 380)], proposals=crowd(11, 400, 300, 70))
    for labels in ("enclosed", "one_chip"):
        (view,) = negatives_of(image, labels=labels)
        assert view.level == 1
        found = targets(image, view, min_visible=1.0)
        assert (found.states.tolist(), found.anchor_states.tolist()) == ([State.INVALID], [State.VALID])
    # It counts, as a proposal does.
    fewer = image._replace(proposals=image.proposals[:10])
    assert [view.level for view in negatives_of(fewer)] == [1]
    assert negatives_of(fewer._replace(boxes=fewer.boxes - 340)) == []


def test_images_without_boxes_contribute_on_request():
    image = record(proposals=crowd(30))
    assert plan(image) == []
    assert [view.level for view in plan(image, backgrounds=True)] == [0, 1]
    assert plan(image, backgrounds=True, negatives=0) == []
    assert plan(record(), backgrounds=True) == []
    ignored = record([(0, 0, 50, 50)], proposals=crowd(30), ignored=[0])
    assert plan(ignored) == []
    assert len(plan(ignored, backgrounds=True)) == 2


@settings(max_examples=30, deadline=None)
@given(boxes_on_images, st.integers(0, 3), st.sampled_from(["enclosed", "one_chip"]))
def test_without_proposals_there_are_positive_chips_only(rows, seed, labels):
    image = record(placed(rows, 640, 480))
    assert plan(image, seed, labels=labels) == plan(image, seed, labels=labels, negatives=0)


def test_negative_chips_leave_the_positive_ones_alone():
    image = record([(10, 10, 40, 40), (200, 200, 300, 300)])
    without = plan(image, 5)
    assert plan(image._replace(proposals=np.float32(crowd(40))), 5)[: len(without)] == without


def test_proposals_that_leave_the_image_by_a_rounding():
    """What a network finds at the border of a view lies beyond that of the image by a float32's last digit."""
    beyond = np.nextafter(np.float32(640), np.float32(641))
    image = record([(10, 10, 40, 40)], proposals=[(600, 440, beyond, 470)] * 30)
    found = negatives_of(image)
    assert [view.level for view in found] == [0, 1]
    assert [(v.window[2], v.window[2] - v.window[0]) for v in found] == [(640, 170), (640, 307)]


# Which boxes a chip learns from


def at(monkeypatch, *places):
    """Makes the cover choose chips at these places of the image, one list per scale."""
    queue = list(places)

    def choose(boxes, *_):
        return [Chip(x, y, 1, list(range(len(boxes)))) for x, y in queue.pop(0)]

    monkeypatch.setattr(chips, "cover", choose)


@pytest.mark.parametrize(
    "name", ["C01_one_chip_per_box", "C02_small_is_valid_at_mid_for_rpn", "C04_long_box_not_valid"]
)
def test_assigned_boxes_of_the_reference(name, monkeypatch):
    case = CASES[name]
    image = record(case["boxes"])
    views = views_of(image)
    places = [
        [(p["window"][0] * v.scale, p["window"][1] * v.scale) for p in case["positives"] if p["level"] == v.level]
        for v in views
    ]
    at(monkeypatch, *[p for p in places if p])
    found = plan(image, stride=case["stride"], labels="one_chip")
    assert [view.level for view in found] == [p["level"] for p in case["positives"]]
    for view, expected in zip(found, case["positives"], strict=True):
        assert np.abs(np.array(view.window) - expected["window"]).max() < 2
        assert list(view.anchor_boxes) == expected["valid"]
        in_range = in_learning_range(image.boxes, view.valid_range)
        assert list(view.valid_boxes) == [i for i in expected["valid"] if in_range[i]]


def test_a_box_in_two_chips_is_valid_in_one_or_in_both(monkeypatch):
    image = record([(0, 0, 5, 5), (50, 50, 80, 80)], ignored=[0])
    states = {}
    for labels in ("enclosed", "one_chip"):
        at(monkeypatch, [(0, 0), (96, 0)])
        found = plan(image, labels=labels)
        states[labels] = [targets(image, view, min_visible=1.0).states.tolist()[-1] for view in found]
    assert states == {"enclosed": [State.VALID, State.VALID], "one_chip": [State.VALID, State.INVALID]}


def test_the_chip_that_shows_most_of_a_box_has_it(monkeypatch):
    """Neither encloses it: the reference learns from the larger part, and leaves the other one alone."""
    image = record([(150, 50, 180, 80), (100, 50, 130, 80)])
    # Windows begin at 0 and at 102: the first one shows 20 columns of the first box, the second one all of it.
    at(monkeypatch, [(0, 0), (306, 0)])

    def fixed(start, *others):
        begin = start.round().astype(int)
        return begin, begin + 170

    monkeypatch.setattr(chip_windows, "intervals", fixed)
    assert [view.valid_boxes for view in plan(image, labels="one_chip")] == [(1,), (0,)]


def test_a_box_that_a_positive_chip_shows_is_no_negative_chips():
    """A small one, which reaches over the border of the positive chip, inside the negative chip beside it."""
    image = record([*PINNED, (295, 200, 325, 230)], proposals=crowd(11, 330, 290, 100, 8))
    *_, positive, negative = plan(image, labels="one_chip", negatives=9)
    assert positive.window == (0, 0, 307, 307)
    assert (positive.level, positive.anchor_boxes, positive.valid_boxes) == (1, (0, 1, 2), (0, 1))
    assert encloses(negative, image.boxes)[2]
    assert (negative.level, negative.anchor_boxes, negative.valid_boxes) == (1, (), ())
    # Where enclosed boxes are valid, it is the other way round.
    *_, positive, negative = (targets(image, v, 1.0).anchor_states.tolist() for v in plan(image, negatives=9))
    assert (positive[2], negative[-1]) == (State.INVALID, State.VALID)


@settings(max_examples=60, deadline=None)
@given(boxes_on_images, st.integers(0, 3), st.booleans())
@example([(0.1, 0.1, 61.0, 0.5)], 0, False)
def test_one_chip_of_a_scale_has_each_box(rows, seed, mined):
    proposals = scattered(4) if mined else ()
    image = record([(0, 0, 3, 3), *placed(rows, 640, 480)], proposals=proposals, ignored=[0])
    views = views_of(image)
    found = plan(image, seed, labels="one_chip")
    everywhere = plan(image, seed)
    nothing = {"valid_boxes": None, "anchor_boxes": None}
    assert [v._replace(**nothing) for v in found] == [v._replace(**nothing) for v in everywhere]
    drives = Chips().drives(image.boxes[1:], views, 32)
    for level in range(3):
        own = [view for view in found if view.level == level]
        for boxes in ([v.valid_boxes for v in own], [v.anchor_boxes for v in own]):
            listed = [i for each in boxes for i in each]
            assert len(listed) == len(set(listed))
            assert 0 not in listed
            # Boxes that drive chips of a scale are valid in one of them.
            enclosed = covered_by(found, level, image.boxes)
            assert {i + 1 for i in np.flatnonzero(drives[level]) if enclosed[i + 1]} <= set(listed)
    for view in found:
        states = targets(image, view, min_visible=1.0, min_side=0.0)
        assert set(states.source[states.states == State.VALID]) == set(view.valid_boxes)
        assert set(states.source[states.anchor_states == State.VALID]) == set(view.anchor_boxes)


# Epochs


def mined_store(tmp_path, count=6):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count - 1):
        corners = rng.uniform(0, 1, (5, 2)) * [400, 300]
        sides = rng.uniform(4, 180, (5, 2))
        rows += [(i, *corner, *(corner + side), 0) for corner, side in zip(corners, sides, strict=True)]
    store = make_store(tmp_path, [(640, 480)] * count, rows)
    proposals = np.tile(scattered(6), (count, 1)).astype(np.float32)
    offsets = np.arange(count + 1) * (len(proposals) // count)
    return replace(store, proposals=ProposalSet(offsets, proposals, np.ones(len(proposals), np.float32)))


def test_every_chip_of_an_epoch_is_visited_once(tmp_path):
    store = mined_store(tmp_path)
    planner = Planner(Pyramid(SCALES, RANGES, ANCHOR_RANGES), Chips(), RandomFlip())
    assert planner.canvas == 512
    looks = plan_epoch(store, planner, 3, 1)
    # The last image has no boxes, only proposals.
    assert {look.image for look in looks} == set(range(5))
    batches = list(TrainBatches(store, planner, 8, ByImage(4), 3, epoch=lambda: 1))
    visits = Counter(look for batch in batches for look in batch)
    assert set(visits) == set(looks)
    assert visits.total() - len(looks) == -len(looks) % 8


def test_epochs_differ_in_places_and_negative_chips_not_in_what_is_covered(tmp_path):
    store = mined_store(tmp_path)
    planner = Planner(Pyramid(SCALES, RANGES, ANCHOR_RANGES), Chips())
    epochs = [plan_epoch(store, planner, 0, epoch) for epoch in range(4)]
    assert all(a != b for a, b in pairwise(epochs))
    for image in range(5):
        views = [[look.view for look in looks if look.image == image] for looks in epochs]
        boxes = store.record(image).boxes
        drives = Chips().drives(boxes, views_of(store.record(image)), 32)
        for level in range(3):
            covered = [tuple(covered_by(found, level, boxes) & drives[level]) for found in views]
            assert len(set(covered)) == 1
        # Two of six or more dense spots, in every epoch.
        counts = {len(of) for of in views}
        assert max(counts) - min(counts) <= 2
    backgrounds = Planner(Pyramid(SCALES, RANGES, ANCHOR_RANGES), Chips(backgrounds=True))
    assert Counter(look.image for look in plan_epoch(store, backgrounds, 0))[5] == 2


def test_a_stride_is_drawn_per_image_and_epoch(monkeypatch):
    strides = []
    monkeypatch.setattr(chips, "cover", lambda boxes, w, h, size, stride, *_: strides.append(stride) or [])
    image = record([(10, 10, 40, 40)])
    for seed in range(60):
        plan(image, seed, stride=(56, 59))
    assert set(strides) == {56, 57, 58, 59}
    strides.clear()
    plan(image, stride=40)
    assert set(strides) == {40}


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 0}, "1 <= stride < size"),
        ({"stride": 512}, "1 <= stride < size"),
        ({"size": 32}, "1 <= stride < size"),
        ({"stride": (59, 56)}, "1 <= stride < size"),
        ({"negatives": -1}, "negatives >= 0"),
        ({"dense": (25,)}, "dense >= 0 twice"),
        ({"dense": (25, -1)}, "dense >= 0 twice"),
        ({"dense": (1, 2, 3)}, "dense >= 0 twice"),
        ({"min_side": -1.0}, "min_side >= 0"),
        ({"labels": "all"}, "labels must be enclosed or one_chip, got 'all'"),
        ({"orphans": "keep"}, "orphans must be coarsest or drop"),
        ({"covered": "enclosing"}, "covered must be enclosed or touched"),
    ],
)
def test_nonsense_chips_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Chips(**arguments)


def test_chips_are_for_training_on_all_resolutions():
    image = record([(10, 10, 40, 40)])
    with pytest.raises(ValueError, match="chips are for training"):
        Chips()(image, views_of(image), None)
    with pytest.raises(ValueError, match="draw=all"):
        Planner(Pyramid(SCALES, RANGES, draw="one"), Chips())
    with pytest.raises(ValueError, match="draw=all"):
        Chips()(image, views_of(image)[1:2], np.random.default_rng(0))


@pytest.mark.parametrize("labels", ["enclosed", "one_chip"])
@pytest.mark.parametrize("orphan", [(10, 10, 310, 20), (10, 100, 11, 290)])
def test_an_orphan_alone_is_valid_in_its_chip_of_the_coarsest_scale(orphan, labels):
    """Too thin for the finest scale, too small for the middle one's chips, though not for its anchors."""
    pyramid = Pyramid([3.0, 1.667, [-1, 512]], [(0, 80), (32, 150), (120, -1)], [(0, 80), (0, 150), (120, -1)])
    image = record([orphan])
    found = Planner(pyramid, Chips(512, 56, labels=labels))(image, np.random.default_rng(0))
    assert [(v.level, v.valid_boxes) for v in found] == [(2, (0,))]


def test_the_ranges_of_a_chip_are_those_of_its_view():
    image = record([(10, 10, 50, 50)])
    found = plan(image)
    assert [(v.valid_range, v.anchor_range) for v in found] == [((0, 80), (0, 80)), ((32, 150), (0, 150))]
    assert all(v.valid_boxes is None and not v.flip for v in found)
    assert views_of(image)[2].valid_range == (120, inf)
