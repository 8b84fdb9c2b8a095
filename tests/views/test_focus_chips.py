"""AutoFocus: FocusChips and FocusPixels of the reference code, and what holds for all of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import record
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_det.data.dataset import Collate, Look, Sample
from lightning_det.protocols.structures import State
from lightning_det.selection.focus import FOCUS, label_focus
from lightning_det.selection.matching import BACKGROUND, SKIP
from lightning_det.views import BothSides, FocusPyramid, LargeViews, Planner, Pyramid, Tiles
from lightning_det.views.focus_chips import focus_chips, rectangles
from lightning_det.views.targets import targets
from lightning_det.views.view import View, near_border

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "autofocus.json").read_text())
LIMITS = (5.0, 64.0, 90.0)
RESOLUTIONS = [[1400, 2000], [800, 1280], [480, 512]]
RANGES = [[0, 90], [32, 180], [75, -1]]


# FocusPixels.


def labels_of(boxes, states=None, size=(512, 512), shape=(32, 32), stride=16, limits=LIMITS):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    states = torch.full(boxes.shape[:2], State.VALID) if states is None else torch.tensor([states])
    return label_focus(boxes, states, torch.tensor([size]), shape, stride, limits)[0]


@pytest.mark.parametrize("case", GOLDEN["focus_pixel_labels"], ids=lambda case: case["id"])
def test_golden_labels(case):
    labels = labels_of(case["gt_chip_px"], limits=(case["dc_low"], case["small"], case["dc_high"]))
    if "order" in case["id"]:  # there the later box wins; here the small one does, as in the paper
        first = labels_of(case["gt_chip_px"][:1])
        assert bool((labels[first == FOCUS] == FOCUS).all())
        assert int((first == FOCUS).sum()) > case["n_pos"]
        return
    assert (labels == FOCUS).nonzero().tolist() == case["pos_cells_rc"]
    assert (labels == SKIP).nonzero().tolist() == case["ignore_cells_rc"]


@pytest.mark.parametrize(
    ("side", "label"), [(4, SKIP), (6, FOCUS), (63, FOCUS), (64, SKIP), (89, SKIP), (90, BACKGROUND), (200, BACKGROUND)]
)
def test_the_size_in_the_view_decides(side, label):
    assert int(labels_of([[160, 160, 160 + side, 160 + side]])[10, 10]) == label


def test_states_decide_only_about_ignored_boxes_and_padding():
    box = [100.0, 100.0, 130.0, 130.0]
    expected = labels_of([box])
    assert torch.equal(labels_of([box], [State.INVALID]), expected)
    assert torch.equal(labels_of([box], [State.IGNORED]) == SKIP, expected == FOCUS)
    assert bool((labels_of([box], [State.PADDING]) == BACKGROUND).all())


def test_cells_in_the_padding_are_not_learned():
    labels = labels_of([[280.0, 90.0, 300.0, 100.0]], size=(100, 300))
    assert bool((labels[7:] == SKIP).all())  # the seventh row of cells begins at 112
    assert bool((labels[:, 19:] == SKIP).all())
    assert int(labels[6, 18]) == FOCUS
    assert int(labels[0, 0]) == BACKGROUND


# FocusChips.


@pytest.mark.parametrize("case", GOLDEN["focus_chips"], ids=lambda case: case["id"])
def test_golden_chips(case):
    """The chips of one view, and the same as windows of an image that the view shows at ``cscale``."""
    cells = np.zeros((case["map_h"], case["map_w"]))
    for y1, x1, y2, x2, probability in case["on_rects_y0x0y1x1_prob"]:
        cells[int(y1) : int(y2), int(x1) : int(x2)] = probability
    size = (case["im_height"], case["im_width"])
    least = case["min_chip_cells"]
    chips = focus_chips(cells, size, 16, case["threshold"], case["dilation"], least)
    assert (chips / case["cscale"]).tolist() == case["chips"]
    width, height = (round(side / case["cscale"]) for side in (size[1], size[0]))
    pyramid = FocusPyramid([1.0, case["cscale"]], None, [case["threshold"]], [16 * least], case["dilation"])
    view = View(case["cscale"], (0, 0, width, height), level=1, shape=size)
    assert [list(map(float, v.window)) for v in pyramid.follow(record(width, height), view, cells, 16)] == case["chips"]


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    on=st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), max_size=12),
    dilation=st.sampled_from([1, 3, 5]),
    least=st.integers(1, 12),
    extra=st.integers(0, 3),
)
def test_chips_cover_what_is_on_and_never_overlap(size, on, dilation, least, extra):
    rows, columns = (-(-side // 16) for side in size)
    cells = np.zeros((rows + extra, columns + extra))
    for y, x in on:
        cells[int(y * rows), int(x * columns)] = 1.0
    cells[rows:] = cells[:, columns:] = 1.0  # padding, which nothing may be found in
    chips = focus_chips(cells, size, 16, 0.5, dilation, least)
    assert len(chips) <= len(on)
    height, width = size
    shown = np.zeros(size, int)
    for x1, y1, x2, y2 in chips:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert x2 - x1 >= min(16 * least, width)
        assert y2 - y1 >= min(16 * least, height)
        shown[y1:y2, x1:x2] += 1
    assert shown.max() <= 1
    reach = dilation // 2
    for y, x in on:
        row, column = int(y * rows), int(x * columns)
        left, top = max(0, column - reach) * 16, max(0, row - reach) * 16
        assert shown[top : (row + reach + 1) * 16, left : (column + reach + 1) * 16].all()


@settings(max_examples=100, deadline=None)
@given(
    boxes=st.lists(st.tuples(*[st.floats(0, 460)] * 2, *[st.floats(4, 120)] * 2), min_size=1, max_size=8),
    dilation=st.sampled_from([1, 3]),
)
def test_a_perfect_head_sees_every_small_box_whole(boxes, dilation):
    corners = [[x, y, min(512.0, x + w), min(512.0, y + h)] for x, y, w, h in boxes]
    cells = (labels_of(corners) == FOCUS).numpy().astype(float)
    chips = focus_chips(cells, (512, 512), 16, 0.5, dilation, 6)
    for x1, y1, x2, y2 in corners:
        if LIMITS[0] < np.sqrt((x2 - x1) * (y2 - y1)) < LIMITS[1]:
            assert any(c[0] <= x1 and c[1] <= y1 and x2 <= c[2] and y2 <= c[3] for c in chips)


def test_thresholds_of_everything_and_of_nothing():
    cells = np.random.default_rng(0).random((20, 30))
    assert focus_chips(cells, (310, 475), 16, 0.0, 3, 4).tolist() == [[0, 0, 475, 310]]
    assert focus_chips(cells, (310, 475), 16, 1.1, 3, 4).tolist() == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=7))
def test_rectangles_are_those_of_a_flood_fill(rows):
    left = {(y, x) for y, row in enumerate(rows) for x, on in enumerate(row) if on}
    expected = []
    while left:
        component = {left.pop()}
        reached = list(component)
        while reached:
            y, x = reached.pop()
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            component |= near
            reached += near
        ys, xs = zip(*component, strict=True)
        expected.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    assert sorted(rectangles(torch.tensor(rows)).tolist()) == sorted(expected)


# The pyramid.


def look(planner, image, probability):
    """All views of an image, if every cell has a probability."""
    views = planner(image)
    for view in views:
        height, width = view.size
        cells = np.full((-(-height // 16), -(-width // 16)), probability)
        views += [] if view.flip else planner.follow(image, view, cells, 16)
    return views


@pytest.mark.parametrize("flip", [None, BothSides()])
@pytest.mark.parametrize("size", [(640, 480), (333, 517), (3000, 2000)])
def test_threshold_0_shows_the_whole_pyramid(size, flip):
    image = record(*size)
    focus = FocusPyramid(RESOLUTIONS, RANGES, [0.0, 0.0])
    seen = look(Planner(focus, LargeViews(), flip), image, 0.0)
    whole = Planner(Pyramid(RESOLUTIONS, RANGES), LargeViews(), flip)(image)
    assert sorted(v._replace(border=0.0) for v in seen) == sorted(whole)


def test_nothing_is_looked_at_where_nothing_is_likely():
    assert [v.level for v in look(Planner(FocusPyramid(RESOLUTIONS, RANGES)), record(), 0.01)] == [2]
    assert [v.level for v in look(Planner(FocusPyramid(RESOLUTIONS, RANGES)), record(), 0.1)] == [2, 1]


def test_chips_have_the_scale_and_range_of_their_level_and_know_where_they_cut():
    image = record(640, 480)
    pyramid = FocusPyramid(RESOLUTIONS, RANGES, [0.5, 0.5], [160, 128], 1, 7.0)
    (coarse,) = pyramid(image, [], None)
    cells = np.zeros((24, 32))
    cells[0, 0] = 1.0
    (chip,) = pyramid.follow(image, coarse, cells, 16)
    assert (chip.window, chip.level, chip.valid_range) == ((0, 0, 160, 160), 1, (32.0, 180.0))
    assert chip.scale == pytest.approx(800 / 480)
    assert (chip.inner, chip.border) == ((False, False, True, True), 7.0)
    finer = np.zeros((17, 17))
    finer[8, 8] = 1.0
    (inside,) = pyramid.follow(image, chip, finer, 16)
    x1, y1, x2, y2 = inside.window
    assert 0 < x1 < x2 < 160
    assert 0 < y1 < y2 < 160
    assert (inside.level, inside.inner) == (0, (True,) * 4)
    assert pyramid.follow(image, inside, np.ones((40, 40)), 16) == []


def test_tiles_of_a_chip_are_cut_where_the_chip_is():
    chip = View(1.0, (100, 0, 900, 600), inner=(True, False, True, False))
    tiles = LargeViews(0.1, 400, 0.25)(record(1000, 600), [chip], None)
    assert {t.inner[0] for t in tiles} == {t.inner[2] for t in tiles} == {True}
    assert not tiles[0].inner[1]
    assert not tiles[-1].inner[3]


@pytest.mark.parametrize("case", GOLDEN["focus_stacking_border_rule"], ids=lambda case: str(case["det"]))
def test_golden_border_rule(case):
    x1, y1, x2, y2 = case["chip"]
    inner = (x1 > 0, y1 > 0, x2 < case["im_w"], y2 < case["im_h"])
    view = View(1.0, (x1, y1, x2, y2), inner=inner, border=10.0)
    image = record(case["im_w"], case["im_h"])
    batch = Collate()([Sample(Look(0, view), torch.zeros(3, *view.size, dtype=torch.uint8), targets(image, view))])
    assert bool(near_border(torch.tensor([[case["det"]]]).float(), batch)) != case["kept"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolutions": [[480, 512]]}, "at least two resolutions"),
        ({"thresholds": [0.1]}, "one of thresholds for every one"),
        ({"least": [100, 100, 100]}, "one of least for every one"),
        ({"thresholds": [-0.1, 0.1]}, "thresholds >= 0"),
        ({"thresholds": [float("nan"), 0.1]}, "thresholds >= 0"),
        ({"dilation": 2}, "odd dilation"),
        ({"border": -1.0}, "border >= 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FocusPyramid(**{"resolutions": RESOLUTIONS} | arguments)


def test_it_is_for_inference():
    with pytest.raises(ValueError, match="for inference"):
        FocusPyramid(RESOLUTIONS)(record(), [], np.random.default_rng(0))


def test_tiles_that_add_the_whole_image_do_not_follow():
    """Its level is none of the pyramid's."""
    with pytest.raises(ValueError, match="Tiles add a view of the whole image, which FocusPyramid has already"):
        Planner(FocusPyramid(RESOLUTIONS, RANGES), Tiles(64, whole=True))
    Planner(FocusPyramid(RESOLUTIONS, RANGES), Tiles(64))
