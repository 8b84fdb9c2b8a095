"""Planners, geometry, and what views learn from."""

from math import inf, nan

import numpy as np
import pytest
import torch
from helpers import record
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sizes import make_store

from lightning_det.data.coco import Coco
from lightning_det.data.dataset import Collate, Look, Sample, render
from lightning_det.data.inspection import hidden_from_focus, in_several_ranges, larger_than_tiles
from lightning_det.ops.boxes import sqrt_area
from lightning_det.protocols.structures import State
from lightning_det.views import BothSides, Planner, Pyramid, RandomFlip, Tiles, View, Warp
from lightning_det.views.resolution import check_resolution, scale_factor
from lightning_det.views.targets import targets
from lightning_det.views.tiles import starts
from lightning_det.views.view import boxes_to_image, boxes_to_view, whole_in_a_tile


def batch_of(image, view):
    pixels = torch.zeros(3, image.height, image.width, dtype=torch.uint8)
    return Collate()([Sample(Look(0, view), render(pixels, view), targets(image, view))])


def test_scale_factors_of_the_reference(golden):
    for case in golden["scale_factors"]:
        assert scale_factor(case["width"], case["height"], case["bounds"]) == pytest.approx(case["scale"], abs=1e-6)


def test_a_number_is_a_plain_factor():
    assert scale_factor(640, 480, 1.667) == 1.667


@pytest.mark.parametrize(
    ("resolution", "words"),
    [
        ((-1, -1), "short side"),
        ((0, 0), "short side"),
        ((800, 0), "short side"),
        ((800,), "short side"),
        ((1, 2, 3), "short side"),
        ("640x480", "short side"),
        ("64", "short side"),
        (None, "short side"),
        (True, "short side"),
        ((inf, 800), "short side"),
        (0, "positive"),
        (-2.0, "positive"),
        (nan, "positive"),
        (inf, "positive"),
        (640, r"if pixels were meant, give \[640, 1067\].* or \[-1, 640\]"),
        (8.5, "if pixels were meant"),
        ((1333, 800), r"give \[800, 1333\]"),
    ],
)
def test_nonsense_resolutions_are_refused(resolution, words):
    with pytest.raises(ValueError, match=words):
        check_resolution(resolution)
    with pytest.raises(ValueError, match=words):
        Pyramid([resolution])


@pytest.mark.parametrize("resolution", [8, 0.01, 1.667, [-1, 512], [600, -1], [800, 1333], (480, 480)])
def test_resolutions_that_make_sense(resolution):
    check_resolution(resolution)


@pytest.mark.parametrize(
    ("resolutions", "wrong"),
    [
        ([1.0, 0.5, [-1, 512]], [False, False, True]),  # the smallest image is enlarged by the last one
        ([3.0, 1.667, [-1, 512]], [False, False, False]),
        ([1.0, [1500, 2500]], [False, True, True]),
    ],
)
def test_order_is_judged_on_actual_images(resolutions, wrong):
    assert Pyramid(resolutions).out_of_order([3000, 1100, 600], [3000, 1100, 400]) == wrong


def test_views_that_no_machine_can_hold_are_refused():
    with pytest.raises(ValueError, match=r"40000 x 40000 pixels"):
        Planner(Pyramid([1.0]), Tiles(40_000))
    with pytest.raises(ValueError, match=r"20000 x 30000 pixels"):
        Planner(Warp([30_000, 20_000]))


PYRAMID = [[1400, 2000], [800, 1200], [480, 800]]
RANGES = [[0, 80], [40, 160], [120, -1]]


def test_pyramid_has_one_view_per_resolution():
    views = Pyramid(PYRAMID, RANGES)(record(), [], None)
    assert [v.level for v in views] == [0, 1, 2]
    assert [v.size[0] for v in views] == [1400, 800, 480]
    assert [v.valid_range for v in views] == [(0, 80), (40, 160), (120, inf)]
    assert all(v.window == (0, 0, 640, 480) for v in views)


def test_one_resolution_at_random():
    pyramid = Pyramid(PYRAMID, draw="one")
    rng = np.random.default_rng(0)
    levels = [pyramid(record(), [], rng)[0].level for _ in range(300)]
    assert np.bincount(levels).min() > 70
    with pytest.raises(ValueError, match="draw=all"):
        pyramid(record(), [], None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolutions": PYRAMID[::-1]}, "finest to the coarsest"),
        ({"resolutions": []}, "finest to the coarsest"),
        ({"resolutions": PYRAMID, "valid_ranges": RANGES[:2]}, "as many valid_ranges"),
        ({"resolutions": PYRAMID, "anchor_ranges": RANGES[:2]}, "as many anchor_ranges"),
        ({"resolutions": [[800, 1200]], "valid_ranges": [[80, 40]]}, "lower < upper"),
        ({"resolutions": PYRAMID, "draw": "some"}, "all or one"),
    ],
)
def test_nonsense_pyramids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pyramid(**arguments)


def test_valid_ranges_of_snip(golden):
    """SNIP's ranges, with the exception of its proposal network at the middle resolution."""
    planner = Pyramid(PYRAMID, RANGES, anchor_ranges=[[0, 80], [0, 160], [120, -1]])
    for case in golden["snip_valid_ranges"]:
        image = record(boxes=[case["box_original_px"]])
        views = planner(image, [], None)
        inside = {
            name: v.valid_range[0] <= case["size"] < v.valid_range[1]
            for name, v in zip(("1400x2000", "800x1200", "480x800"), views, strict=True)
        }
        learned = {name: targets(image, v).states[0] == State.VALID for name, v in zip(inside, views, strict=True)}
        # An upper bound is excluded here and included in the case.
        edges = {80: "1400x2000", 160: "800x1200"}
        for name, expected in case["rcn_valid"].items():
            if edges.get(case["size"]) != name:
                assert inside[name] == expected, (case, name)
                assert learned[name] == expected, (case, name)
        if case["size"] != 160:
            valid = targets(image, views[1]).anchor_states[0] == State.VALID
            assert valid == case["rpn_valid_at_800x1200"]


boxes = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 70), st.integers(1, 30), st.integers(1, 30)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(
    boxes,
    st.floats(0.3, 4),
    st.booleans(),
    st.tuples(st.integers(0, 60), st.integers(0, 50), st.integers(8, 60), st.integers(8, 50)),
)
def test_boxes_go_to_the_view_and_back(rows, scale, flip, window):
    x, y, w, h = window
    view = View(scale, (x, y, x + w, y + h), flip=flip)
    image = record(120, 100, rows)
    batch = batch_of(image, view)
    moved = torch.from_numpy(boxes_to_view(image.boxes, view)).float()
    back = boxes_to_image(moved[None], batch)[0]
    assert torch.allclose(back, torch.from_numpy(image.boxes).float(), atol=1e-3)
    # Sizes scale with the views: the ratio that valid ranges of RoIs rely on.
    ratio = sqrt_area(moved) / batch.scales / sqrt_area(torch.from_numpy(image.boxes).float())
    assert torch.allclose(ratio, torch.ones(()), atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(8, 40),
    st.integers(8, 40),
    st.integers(6, 20),
    st.floats(0.5, 3),
    st.booleans(),
    st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_pixels_and_boxes_stay_together(x, y, side, scale, flip, corner):
    """A rectangle painted at a box is found where the view says, to half a pixel of the image."""
    image = record(80, 72, [(x, y, x + side, y + side)])
    pixels = torch.zeros(3, 72, 80, dtype=torch.uint8)
    pixels[:, y : y + side, x : x + side] = 255
    view = View(scale, (corner[0], corner[1], 80, 72), flip=flip)
    shown = render(pixels, view)
    assert tuple(shown.shape[1:]) == view.size
    found = targets(image, view).boxes[0]
    bright = shown[0] > 127
    rows, columns = bright.any(dim=1).nonzero().squeeze(1), bright.any(dim=0).nonzero().squeeze(1)
    painted = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    assert np.abs(painted - found).max() <= max(1.0, 0.5 * scale) + 1e-3


def test_flip_twice_is_the_identity():
    pixels = torch.randint(0, 256, (3, 10, 12), dtype=torch.uint8)
    view = View(1.0, (2, 1, 11, 9), flip=True)
    assert torch.equal(render(pixels, view).flip(2), render(pixels, view._replace(flip=False)))


def test_random_flip_keeps_the_views():
    views = [View(1.0, (0, 0, 4, 4), level=i) for i in range(200)]
    flipped = RandomFlip(0.5)(record(), views, np.random.default_rng(0))
    assert [v.level for v in flipped] == list(range(200))
    assert 70 < sum(v.flip for v in flipped) < 130
    assert not any(v.flip for v in RandomFlip(0.0)(record(), views, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="BothSides"):
        RandomFlip(0.5)(record(), views, None)


def test_both_sides():
    views = BothSides()(record(), [View(1.0, (0, 0, 4, 4)), View(2.0, (0, 0, 4, 4))], None)
    assert [(v.scale, v.flip) for v in views] == [(1, False), (1, True), (2, False), (2, True)]


@given(st.integers(1, 3000), st.integers(1, 600), st.floats(0, 0.9))
def test_starts_cover_everything_with_the_promised_overlap(length, tile, overlap):
    positions = starts(length, tile, overlap)
    tile = min(tile, length)
    assert positions[0] == 0
    assert positions[-1] == length - tile
    steps = np.diff(positions)
    assert (steps >= 0).all()
    # Rounding moves a tile by half a pixel at most.
    assert not len(steps) or steps.max() <= max(1.0, tile * (1 - overlap)) + 1


@settings(deadline=None)
@given(
    st.integers(30, 400),
    st.integers(30, 400),
    st.floats(0.4, 3),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1)),
)
def test_an_object_smaller_than_the_overlap_lies_whole_in_a_tile(width, height, scale, where):
    tiles = Tiles(96, 0.5)
    image = record(width, height)
    views = tiles(image, [View(scale, (0, 0, width, height))], None)
    side = where[2] * (0.5 * int(96 / scale) - 2)
    if side < 1 or side > min(width, height):
        return
    x, y = where[0] * (width - side), where[1] * (height - side)
    inside = [
        v.window[0] <= x and v.window[1] <= y and v.window[2] >= x + side and v.window[3] >= y + side for v in views
    ]
    assert any(inside)
    assert all(max(v.size) <= 96 for v in views)


def test_tiles_of_a_small_view_are_the_view():
    view = View(0.5, (0, 0, 640, 480))
    assert Tiles(512)(record(), [view], None) == [view]


def test_tiles_know_where_they_cut_the_image():
    view = View(1.0, (0, 0, 160, 60))
    left, right = Tiles(100)(record(160, 60), [view], None)
    assert (left.inner, right.inner) == ((False, False, True, False), (True, False, False, False))
    corner, *_ = Tiles(50)(record(160, 60), [view], None)
    assert corner.inner == (False, False, True, True)
    (whole,) = Tiles(200)(record(160, 60), [view], None)
    assert whole.inner == (False,) * 4


def test_the_whole_image_is_seen_beside_its_tiles():
    views = Tiles(100, whole=True)(record(250, 60), [View(2.0, (0, 0, 250, 60), (0.0, inf))], None)
    assert views[-1] == View(0.4, (0, 0, 250, 60), (20.0, inf), level=1, tiles=(7, 2, 50))
    assert views[-1].size == (24, 100)
    assert all(v.level == 0 for v in views[:-1])
    # Not where a view shows it whole already.
    planner = Planner(Pyramid([2.0, 0.4], [[0, 50], [30, -1]]), Tiles(100, whole=True))
    assert [v.level for v in planner(record(250, 60))].count(1) == 1
    assert Tiles(250, whole=True)(record(250, 60), [View(1.0, (0, 0, 250, 60))], None) == [View(1.0, (0, 0, 250, 60))]
    assert (len(views), views[1].window[2] - views[1].window[0]) == (7 * 2 + 1, 50)
    # It learns what is larger than the overlap, unless it is too small to be seen in it.
    (*_, wider) = Tiles(100, 0.5, whole=True)(record(250, 60), [View(2.0, (0, 0, 250, 60))], np.random.default_rng(0))
    assert wider.valid_range == (25, inf)
    # It learns and detects what the coarsest view does, or less.
    limited = Tiles(100, whole=True)(record(250, 60), [View(1.0, (0, 0, 250, 60), (80.0, 90.0))], None)
    assert limited[-1].valid_range == (80, 90)


def test_the_whole_image_shows_long_and_thin_objects():
    """A box of 700 x 16 pixels has the area of one of 106 x 106, which is smaller than the overlap of 128."""
    thin, small = (100, 100, 800, 116), (100, 300, 200, 400)
    tiles = Tiles(512, 0.25, whole=True)

    def learned(*boxes, ignored=()):
        image = record(2000, 1000, boxes, ignored=ignored)
        (*_, whole) = tiles(image, [View(1.0, (0, 0, 2000, 1000))], np.random.default_rng(0))
        states = targets(image, whole, min_side=1.0).states
        return whole.valid_range[0], (states == State.VALID).tolist()

    assert learned(small) == (128, [False])
    assert learned(small, thin) == (pytest.approx((700 * 16) ** 0.5), [False, True])
    assert learned(small, thin, ignored=[1]) == (128, [False, False])
    # At inference, what a tile shows whole is dropped whatever its size.
    (*_, whole) = tiles(record(2000, 1000), [View(1.0, (0, 0, 2000, 1000))], None)
    assert whole.valid_range == (8 / whole.scale, inf)


def test_a_view_of_just_the_size_of_a_tile_stays_whole():
    for width in range(520, 2000):
        planner = Planner(Pyramid([[-1, 512]]), Tiles(512, 0.25, whole=True))
        assert len(planner(record(width, width // 2))) == 1, width


@settings(deadline=None, max_examples=40)
@given(
    st.integers(20, 400),
    st.integers(20, 400),
    st.integers(30, 130),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.integers(0, 2**32),
)
def test_a_tile_shows_a_box_whole_where_one_does(width, height, tile, scale, overlap, seed):
    planner = Planner(Pyramid([scale]), Tiles(tile, overlap, whole=True))
    image = record(width, height)
    *tiles, whole = planner(image)
    corners = np.random.default_rng(seed).uniform(-2, [width + 2, height + 2], (2, 50, 2)).astype(np.float32)
    boxes = torch.from_numpy(np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1))[None]
    if not tiles:
        assert not whole_in_a_tile(boxes, batch_of(image, whole)).any()
        return
    assert not whole_in_a_tile(boxes, batch_of(image, tiles[0])).any()
    windows, inner = torch.tensor([v.window for v in tiles])[:, None], torch.tensor([v.inner for v in tiles])[:, None]
    margin = ((windows[..., 2:] - windows[..., :2]) / 64).repeat(1, 1, 2)
    beyond = torch.where(inner, (boxes - windows) * torch.tensor([1, 1, -1, -1]) - margin, inf)
    expected = (beyond > 0).all(dim=2).any(dim=0)
    # Tiles begin at whole pixels, half a pixel from even places at most.
    near = (beyond.abs() <= 0.6).any(dim=2).any(dim=0)
    found = whole_in_a_tile(boxes, batch_of(image, whole))[0]
    assert torch.equal(found[~near], expected[~near])


def test_it_is_said_that_autofocus_cannot_see_the_objects():
    """Boxes of 30 pixels, and scales that show them at 3 or 12; the size of a view of one scale does not matter."""
    store = make_store([(1000, 800)], [[(10, 10, 40, 40), (100, 100, 130, 130)]])
    said = hidden_from_focus(store, Planner(Pyramid([1.1, 0.1])))
    assert "shows half of the objects at 3.0 pixels or less" in said
    for resolutions in ([1.1, 0.4], [1.1, 0.4, 0.1], [0.1]):
        assert hidden_from_focus(store, Planner(Pyramid(resolutions))) == ""
    assert hidden_from_focus(make_store([(1000, 800)], [[]]), Planner(Pyramid([1.1, 0.1]))) == ""


def test_boxes_larger_than_a_tile_are_counted():
    boxes = [(0, 0, 100, 9), (0, 0, 101, 9), (0, 0, 9, 120), (0, 0, 99, 99), (0, 0, 200, 99)]
    image = record(250, 150, boxes, ignored=[4])
    view = View(1.0, (0, 0, 250, 150))
    assert Tiles(100).count_larger(image, [view]) == 2
    assert Tiles(100).count_larger(image, [view, view._replace(scale=0.9)]) == 1
    assert Tiles(100).count_larger(image, [view, view._replace(scale=0.4)]) == 0  # whole there
    assert Tiles(100).count_larger(record(250, 150), [view]) == 0


def test_it_is_said_that_boxes_are_larger_than_a_tile(coco_folder):
    coco = Coco(str(coco_folder)).read("train2017")[0]

    def said(*steps):
        return larger_than_tiles(coco, Planner(*steps))

    sides = (coco.boxes[:, 2:] - coco.boxes[:, :2]).max(axis=1)[~coco.ignored]
    share = f"{100 * (sides > 16).mean():.0f} % of the boxes are larger than a tile of 16 px: "
    assert (
        said(Pyramid([1.0]), Tiles(16))
        == f"{share}no view shows them whole; set views.train.windows.whole=true, or take larger tiles"
    )
    assert (
        said(Pyramid([1.0]), Tiles(16, whole=True))
        == f"{share}only the whole image, shrunk into one tile, shows them whole"
    )
    assert said(Pyramid([2.0, 1.0], draw="one"), Tiles(16)).endswith("take larger tiles")
    assert said(Pyramid([1.0]), Tiles(1000)) == said(Pyramid([1.0])) == ""


@pytest.mark.parametrize(
    ("ranges", "share"),
    [
        ([[0, 50], [30, -1]], "60 %"),  # sizes 30, 40 and 40 of five
        ([[0, 50], [40, -1]], ""),  # 40 and 40
        ([[0, 40], [40, -1]], ""),
        ([[0, -1], [0, -1]], ""),
        (None, ""),
    ],
)
def test_it_is_said_that_most_boxes_are_in_several_ranges(ranges, share):
    sides = np.array([[20.0], [30.0], [40.0], [40.0], [60.0]])
    boxes = np.concatenate([np.zeros((5, 2)), sides.repeat(2, axis=1)], axis=1)
    scales = [1.0, 0.5, 0.25][: 2 if ranges is None else len(ranges)]
    said = in_several_ranges(make_store([(100, 100)], [boxes]), Planner(Pyramid(scales, ranges)))
    assert said.startswith(f"{share} of the boxes are valid at several scales") if share else said == ""


def test_background_tiles_can_be_thinned_out():
    image = record(1000, 1000, [(10, 10, 20, 20)])
    view = [View(1.0, (0, 0, 1000, 1000))]
    assert len(Tiles(250, 0.0)(image, view, None)) == 16
    only = Tiles(250, 0.0, background=0.0)(image, view, np.random.default_rng(0))
    assert [t.window for t in only] == [(0, 0, 250, 250)]
    some = Tiles(250, 0.0, background=0.5)(image, view, np.random.default_rng(0))
    assert 3 < len(some) < 14


def test_planner_chains_its_steps():
    planner = Planner(Pyramid([2.0, 1.0]), Tiles(256), BothSides())
    views = planner(record(256, 256))
    assert planner.canvas == 256
    assert len(views) == 2 * (9 + 1)
    assert Planner(Pyramid([1.0])).canvas is None


def test_states_of_a_cut_view():
    image = record(
        200,
        100,
        [(10, 10, 30, 30), (90, 10, 110, 30), (96, 10, 116, 30), (150, 10, 170, 30), (0, 0, 100, 90), (1, 1, 5, 5)],
        ignored=[4],
    )
    found = targets(image, View(1.0, (0, 0, 100, 100), (6.0, 50.0)))
    # whole; half visible; a fifth visible; outside: not shown; ignored; too small for the range
    assert found.source.tolist() == [0, 1, 2, 4, 5]
    assert found.states.tolist() == [State.VALID, State.VALID, State.INVALID, State.IGNORED, State.INVALID]
    assert found.boxes[1].tolist() == [90, 10, 100, 30]
    whole = targets(image, View(1.0, (0, 0, 100, 100)), min_visible=1.0)
    assert whole.states.tolist()[:2] == [State.VALID, State.INVALID]


def test_boxes_thinner_than_a_view_pixel_are_ignored():
    image = record(640, 480, [(0, 0, 6, 100), (0, 0, 4, 100)])
    assert targets(image, View(0.2, (0, 0, 640, 480))).states.tolist() == [State.VALID, State.IGNORED]


def test_resizing_never_changes_which_range_a_box_is_in():
    image = record(640, 480, [(5, 5, 5 + 40, 5 + 40)])
    for scale in (0.3, 1.0, 2.7):
        view = View(scale, (0, 0, 640, 480), (40.0, 41.0))
        assert targets(image, view).states.tolist() == [State.VALID]
        assert targets(image, view._replace(valid_range=(39.0, 40.0))).states.tolist() == [State.INVALID]
