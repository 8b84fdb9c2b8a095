"""What SNIPER's chips teach: pixels and boxes of a chip, and the labels of its anchors and RoIs."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.makers import c4, fpn, regions
from support.two_stages import TakeAll, detector
from torchvision.ops import box_iou

from lightning_det.backbones import tiny_backbone
from lightning_det.data.dataset import Collate, Look, Sample, render
from lightning_det.detectors.roi_head import BOX_WEIGHTS, candidates
from lightning_det.detectors.rpn import RPN, Predictions, Proposals, within
from lightning_det.modules.schedules import MultiStep
from lightning_det.ops.boxes import decode, encode
from lightning_det.ops.nms import NMS
from lightning_det.protocols.structures import ImageRecord, State
from lightning_det.selection import AllSelector, RandomSelector
from lightning_det.selection.matching import BACKGROUND, SKIP, label_anchors, label_rois
from lightning_det.views import Chips, Pyramid, View
from lightning_det.views.targets import targets
from lightning_det.views.view import boxes_to_image, boxes_to_view

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sniper_labels.json").read_text())
SCALES = [3.0, 1.667, [-1, 512]]
RANGES = [[0, 80], [32, 150], [120, -1]]
ANCHOR_RANGES = [[0, 80], [0, 150], [120, -1]]
MIN_SIDE = 10.0
INCLUSIVE = np.array([0, 0, 1, 1])
"""What inclusive corners lack: the last pixel ends one pixel after it begins."""


def record(boxes=(), width=640, height=480, ignored=()):
    boxes = np.array(boxes, float).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    flags[list(ignored)] = True
    return ImageRecord(width, height, boxes, np.arange(len(boxes)), flags)


def views_of(image):
    return Pyramid(SCALES, RANGES, ANCHOR_RANGES)(image, [], None)


def chips_of(image, seed=0, **arguments):
    return Chips(**arguments)(image, views_of(image), np.random.default_rng(seed))


def batch_of(image, *views, pixels=None, min_visible=0.5, min_side=MIN_SIDE):
    """A batch of views of one image, grey where it has no pixels."""
    samples = [
        Sample(
            Look(0, v),
            torch.full((3, *v.size), 128, dtype=torch.uint8) if pixels is None else render(pixels, v),
            targets(image, v, min_visible, min_side),
        )
        for v in views
    ]
    return Collate(512)(samples)


def tensor(rows):
    return torch.tensor(np.asarray(rows, np.float32).reshape(1, -1, 4))


# Pixels and boxes


def edges(profile):
    """Where a bright bar begins and ends in a row of pixels, to fractions of one.

    The bar's integral is its length and the first moment gives its centre: both survive the resize, which spreads an
    edge over its neighbours but loses no light.
    """
    total = profile.sum()
    centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / total
    return centre - total / 2, centre + total / 2


def measured(pixels, box):
    """The edges of the bright rectangle near ``box`` in (h, w) pixels of 0 to 1."""
    x1, y1, x2, y2 = box
    # Through the middle third, where rows and columns are not dimmed by the other edges.
    rows, columns = (slice(int(a + (b - a) / 3), int(b - (b - a) / 3) + 1) for a, b in ((y1, y2), (x1, x2)))
    left, right = edges(pixels[rows].mean(axis=0))
    top, bottom = edges(pixels[:, columns].mean(axis=1))
    return left, top, right, bottom


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (641, 479), (333, 507), (1023, 767)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_pixels_are_where_boxes_say(level, width, height, flip):
    """To half a pixel of the chip, which is a sixth of an original one at the finest scale."""
    rng = np.random.default_rng(7 * level + width)
    low, high = ((12, 70), (40, 140), (130, 300))[level]
    checked = 0
    for seed in range(5):
        side = rng.integers(low, high, 2)
        corner = (rng.random(2) * ([width, height] - side)).astype(int)
        box = np.concatenate([corner, corner + side])
        image = record([box], width, height)
        painted = torch.zeros(3, height, width, dtype=torch.uint8)
        painted[:, box[1] : box[3], box[0] : box[2]] = 255
        chips = [v._replace(flip=flip) for v in chips_of(image, seed, stride=int(rng.integers(20, 60)))]
        for view in (v for v in chips if v.level == level):
            found = targets(image, view, 0.5, MIN_SIDE)
            (moved,) = found.boxes.tolist()
            pixels = render(painted, view)[0].numpy() / 255
            np.testing.assert_allclose(measured(pixels, moved), moved, atol=0.5)
            checked += 1
    assert checked


@pytest.mark.parametrize("flip", [False, True])
def test_cut_boxes_are_where_their_pixels_are(flip):
    """A box that leaves the chip to the left and at the bottom ends where the chip does."""
    image = record([(100, 100, 260, 260)])
    view = View(1.667, (150, 0, 457, 307), flip=flip)._replace(window=(150, 0, 457, 200))
    painted = torch.zeros(3, 480, 640, dtype=torch.uint8)
    painted[:, 100:260, 100:260] = 255
    (moved,) = targets(image, view, 0.5, MIN_SIDE).boxes.tolist()
    np.testing.assert_allclose(measured(render(painted, view)[0].numpy() / 255, moved), moved, atol=0.5)
    height, width = view.size
    assert moved[3] == height
    assert moved[2 if flip else 0] == (width if flip else 0)


def test_batches_are_512_pixels_wide_with_the_chip_top_left_and_nothing_beside_it():
    image = record([(20, 20, 60, 60), (500, 300, 640, 480)], 640, 480)
    white = torch.full((3, 480, 640), 255, dtype=torch.uint8)
    chips = chips_of(image)
    batch = batch_of(image, *chips, pixels=white)
    assert batch.images.shape == (len(chips), 3, 512, 512)
    values = detector().preprocess(batch.images, batch.sizes)
    for pixels, normal, view in zip(batch.images, values, chips, strict=True):
        height, width = view.size
        assert height <= 512
        assert width <= 512
        assert (pixels[:, :height, :width] == 255).all()
        for part in (pixels[:, height:], pixels[:, :, width:], normal[:, height:], normal[:, :, width:]):
            assert (part == 0).all()  # after the mean is subtracted, too


def test_golden_boxes_in_chips():
    """To a pixel of the chip: the reference rounds boxes, and begins them at a fraction of an original pixel."""
    for case in GOLDEN["chip_box_transform"]:
        x, y = map(round, case["corner"])
        scale = case["scale"]
        side = int(512 / scale)
        width, height = (640, 480)
        view = View(scale, (x, y, min(width, x + side), min(height, y + side)))
        box = np.array(case["box"]) + INCLUSIVE * (scale < 1)
        found = targets(record([box]), view, 0.5, MIN_SIDE)
        if not len(found.boxes):
            assert not case["kept"]
            continue
        # Inclusive corners of the chip; continuous ones of the original image, as the reference scales them.
        tolerance = 1 + scale * abs(np.array(case["corner"]) - [x, y]).max()
        np.testing.assert_allclose(found.boxes[0], np.array(case["in_chip"]) + INCLUSIVE, atol=tolerance)


@given(
    st.lists(st.tuples(*[st.floats(0, 600)] * 2, *[st.floats(1, 300)] * 2), min_size=1, max_size=12),
    st.integers(0, 2**16),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_what_a_chip_shows_of_its_boxes(rows, seed, flip):
    """All and only what intersects it, inside it, with its class; thin remains are ignored; nothing is lost."""
    boxes = np.array([(x, y, min(640, x + w), min(620, y + h)) for x, y, w, h in rows])
    image = record(boxes, 640, 620)
    for view in chips_of(image, seed):
        view = view._replace(flip=flip)
        found = targets(image, view, 0.5, MIN_SIDE)
        x1, y1, x2, y2 = view.window
        common = np.minimum(boxes[:, 2:], [x2, y2]) - np.maximum(boxes[:, :2], [x1, y1])
        assert found.source.tolist() == np.flatnonzero((common > 0).all(axis=1)).tolist()
        assert found.labels.tolist() == found.source.tolist()  # each box of the record has a class of its own
        height, width = view.size
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        thin = ((found.boxes[:, 2:] - found.boxes[:, :2]) < MIN_SIDE - 1e-3).any(axis=1)
        assert (found.states[thin] == State.IGNORED).all()
        clear = ((found.boxes[:, 2:] - found.boxes[:, :2]) > MIN_SIDE + 1e-3).all(axis=1)
        assert (found.states[clear] != State.IGNORED).all()


@pytest.mark.parametrize(("side", "state"), [(10, State.VALID), (9.99, State.IGNORED)])
def test_ten_pixels_are_just_enough(side, state):
    image = record([(100, 100, 100 + side, 150), (100, 100, 150, 100 + side)])
    found = targets(image, View(1.0, (0, 0, 512, 480)), 0.5, MIN_SIDE)
    assert found.states.tolist() == [state] * 2


def test_cut_boxes_stay_with_their_class_even_if_invalid():
    """Of the first, 16 % are seen; the second is also too large."""
    image = record([(150, 150, 200, 200), (160, 0, 640, 480)])
    found = targets(image, View(3.0, (0, 0, 170, 170), (0, 80)), 0.5, MIN_SIDE)
    np.testing.assert_allclose(found.boxes, [(450, 450, 510, 510), (480, 0, 510, 510)])
    assert found.states.tolist() == [State.INVALID] * 2
    assert found.labels.tolist() == [0, 1]


def test_mirroring_is_that_of_the_reference():
    for case in GOLDEN["flip"]:
        box = np.array([case["box"]]) + INCLUSIVE
        view = View(1.0, (0, 0, case["width"], 300), flip=True)
        assert (boxes_to_view(box, view) - INCLUSIVE).tolist() == [case["flipped"]]


def test_mirroring_twice_is_nothing():
    pixels = torch.randint(0, 256, (3, 100, 151), dtype=torch.uint8)
    view = View(1.7, (10, 20, 111, 90))
    boxes = np.array([[20.0, 30, 60, 80], [11, 20, 110, 90]])
    mirrored = view._replace(flip=True)
    # The pixels of the mirrored view, mirrored, and boxes there and back.
    assert torch.equal(render(pixels, mirrored).flip(2), render(pixels, view))
    again = View(1.0, (0, 0, view.size[1], view.size[0]), flip=True)
    np.testing.assert_allclose(boxes_to_view(boxes_to_view(boxes, mirrored), again), boxes_to_view(boxes, view))
    batch = replace(
        make_batch(1),
        sizes=torch.tensor([view.size]),
        windows=torch.tensor([view.window], dtype=torch.float32),
        flips=torch.tensor([True]),
    )
    torch.testing.assert_close(boxes_to_image(tensor(boxes_to_view(boxes, mirrored)), batch), tensor(boxes))


def test_no_number_of_boxes_is_too_large():
    image = record([(i % 40 * 4, i // 40 * 12, i % 40 * 4 + 4, i // 40 * 12 + 12) for i in range(480)])
    batch = batch_of(image, View(3.0, (0, 0, 170, 170)))
    assert batch.boxes.shape[1] >= 480
    assert (batch.states == State.VALID).sum() == 480


# Anchors


def golden_anchors():
    """All 21,504 of a chip, by row, column and shape; continuous corners: the inclusive right and bottom ones + 1."""
    base = np.array(GOLDEN["base_anchors"]) + INCLUSIVE
    shift = 16 * np.arange(32)
    shifts = np.stack(np.broadcast_arrays(shift[None], shift[:, None], shift[None], shift[:, None]), axis=-1)
    return torch.tensor((shifts[:, :, None] + base).reshape(-1, 4), dtype=torch.float32)


def golden_labels(boxes, states):
    """Labels (32, 32, 21) of the golden anchors for inclusive boxes of a chip."""
    boxes = tensor(np.array(boxes, float).reshape(-1, 4) + INCLUSIVE) if len(boxes) else torch.zeros(1, 1, 4)
    states = torch.tensor([states or [State.PADDING]])
    anchors = golden_anchors()
    labels, _, _ = label_anchors(anchors, boxes, states, positive=0.5, negative=0.4)
    return labels.masked_fill(~within(anchors, torch.tensor([[512, 512]]), 32), SKIP).view(32, 32, 21)


def test_anchors_beyond_the_border_carry_no_loss():
    labels = golden_labels([], [])
    assert (labels == BACKGROUND).sum() == 13388
    assert (labels == SKIP).sum() == 8116


def test_the_border_is_that_of_each_view():
    """Sizes are (height, width)."""
    anchors = torch.tensor([[-32, -32, 544, 544], [0, 0, 330, 50], [0, 0, 10, 545.0]])
    sizes = torch.tensor([[512, 512], [100, 300], [300, 100]])
    assert within(anchors, sizes, 32).tolist() == [[True, True, False], [False, True, False], [False, False, False]]


@pytest.mark.parametrize(("make", "form", "sizes"), [(c4, "c4", [32]), (fpn, "pyramid", [8] * 5)])
def test_detectors_label_anchors_as_told(make, form, sizes):
    arguments = (tiny_backbone(form, width=4), 3, sizes, [1.0], RandomSelector(), RandomSelector())
    told = make(*arguments, positive=0.5, negative=0.4, border=32, head_width=8).rpn
    assert (told.thresholds, told.border) == ({"positive": 0.5, "negative": 0.4, "ignore": 0.3}, 32)
    usual = make(*arguments, head_width=8).rpn
    assert (usual.thresholds, usual.border) == ({"positive": 0.7, "negative": 0.3, "ignore": 0.3}, None)
    for positive, negative in ([0.4, 0.5], [1.5, 0.5], [0.5, -0.1]):
        with pytest.raises(ValueError, match="positive and negative are"):
            make(*arguments, positive=positive, negative=negative)


@pytest.mark.parametrize("case", GOLDEN["rpn_anchor_labels"], ids=lambda case: case["id"])
def test_anchor_labels_of_the_reference(case):
    # Which boxes of the image the case lists in the chip, and whether they are valid there.
    in_chip = np.array(case["in_chip"]).reshape(-1, 4)
    moved = np.clip(np.round(np.array(case["boxes"]) * case["scale"]), 0, 511)
    rows = [int(np.flatnonzero((moved == box).all(axis=1))[0]) for box in in_chip]
    states = [State.VALID if row in case["valid"] else State.INVALID for row in rows]
    labels = golden_labels(case["in_chip"], states)
    positives = [[a, y, x] for y, x, a in torch.nonzero(labels == 1).tolist()]
    assert sorted(positives) == sorted(case["positives"])
    counts = [int((labels == value).sum()) for value in (1, BACKGROUND, SKIP)]
    assert counts == [case["n_pos"], case["n_neg"], case["n_ignore"]]


def test_a_remain_too_thin_to_see_hides_anchors_where_the_reference_learns_background():
    """Deliberately not the case of a tiny box: what is there is an object, if a small one."""
    case = next(c for c in GOLDEN["rpn_anchor_labels"] if "tiny" in c["id"])
    image = record(np.array(case["boxes"]))
    found = targets(image, View(3.0, (0, 0, 170, 170), (0, 80)), 0.5, MIN_SIDE)
    assert found.states.tolist() == [State.IGNORED, State.VALID]
    labels, _, _ = label_anchors(
        tensor([(150, 150, 156, 156), (140, 140, 170, 170), (300, 300, 420, 420)])[0],
        torch.from_numpy(found.boxes)[None],
        torch.from_numpy(found.states)[None],
    )
    assert labels.tolist() == [[SKIP, BACKGROUND, 1]]


@st.composite
def labelled_boxes(draw):
    """A few boxes of a 128-pixel view, valid and invalid."""
    count = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner, side = rng.integers(0, 90, (count, 2)), rng.integers(10, 80, (count, 2))
    boxes = np.concatenate([corner, np.minimum(corner + side, 128)], axis=1)
    return boxes, rng.choice([State.VALID, State.INVALID], count, p=[0.6, 0.4])


def grid_anchors():
    centres = np.arange(4, 128, 8)
    halves = [(s * r / 2, s / r / 2) for s in (16, 32, 64) for r in (0.7, 1, 1.4)]
    return tensor([(x - w, y - h, x + w, y + h) for y in centres for x in centres for w, h in halves])[0]


def ious(first, second):
    first, second = np.asarray(first, float)[:, None], np.asarray(second, float)[None]
    common = np.clip(np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]), 0, None)
    common = common.prod(axis=-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(axis=-1) for b in (first, second)]
    return common / (areas[0] + areas[1] - common)


@given(labelled_boxes())
@settings(max_examples=40, deadline=None)
def test_only_valid_boxes_make_positives_and_invalid_ones_silence(case):
    boxes, states = case
    anchors = grid_anchors()
    labels = label_anchors(anchors, tensor(boxes), torch.tensor(states)[None], 0.5, 0.4)[0][0].numpy()
    iou = ious(anchors, boxes)
    valid, invalid = iou[:, states == State.VALID], iou[:, states == State.INVALID]
    near = np.abs(np.concatenate([iou - 0.5, iou - 0.4, iou - 0.3], axis=1)).min(axis=1) < 1e-5
    hidden = (invalid > 0.3).any(axis=1)
    best = ((valid >= valid.max(axis=0, initial=0) - 1e-6) & (valid > 0)).any(axis=1)
    top = valid.max(axis=1, initial=0)
    assert (labels[hidden & ~near] == SKIP).all()
    assert (labels[~hidden & ~near & (top >= 0.5)] == 1).all()
    rest = ~hidden & ~near & ~best
    assert (labels[rest & (top < 0.4)] == BACKGROUND).all()
    assert (labels[rest & (top >= 0.4) & (top < 0.5)] == SKIP).all()
    # Every valid box has one unless its best anchors are silenced; rounding may break a tie.
    for column in valid.T[valid.max(axis=0, initial=0) > 0]:
        owners = column >= column.max() - 1e-6
        if not (hidden | near)[owners].any():
            assert (labels[owners] == 1).any()


def test_an_overlap_of_exactly_the_threshold_silences_nothing():
    anchors = tensor([(0, 0, 10, 3), (0, 0, 10, 3.01)])[0]
    labels, _, _ = label_anchors(anchors, tensor([(0, 0, 10, 10)]), torch.tensor([[State.INVALID]]))
    assert labels.tolist() == [[BACKGROUND, SKIP]]


def test_anchors_that_tie_for_a_box_are_all_positive():
    anchors = tensor([(0, 0, 16, 16), (16, 0, 32, 16), (40, 0, 56, 16)])[0]
    labels, _, _ = label_anchors(anchors, tensor([(11, 3, 21, 13)]), torch.tensor([[State.VALID]]), 0.5, 0.4)
    assert labels.tolist() == [[1, 1, BACKGROUND]]


def test_a_chip_draws_256_anchors_of_which_half_are_objects():
    labels = golden_labels([(150 + 3 * i, 150, 276 + 3 * i, 276) for i in range(60)], [State.VALID] * 60).view(1, -1)
    assert (labels == 1).sum() > 128
    index, chosen = RandomSelector(256, 0.5)(regions(labels))
    drawn = labels.gather(1, index)[chosen]
    assert (drawn == 1).sum() == 128
    assert len(drawn) == 256
    assert (drawn != SKIP).all()


def test_ignored_anchors_have_no_loss_and_no_gradient():
    model = detector(select=(TakeAll(), TakeAll()))
    model.rpn.border = 4.0
    batch = make_batch(1, 96, 128, boxes=3, padded=3)
    batch.states[0, 1:] = torch.tensor([State.INVALID, State.IGNORED])
    maps = model.features(batch.images, batch.sizes).maps
    predictions = model.rpn(maps, batch.images.shape[-2:])
    logits = [x.detach().requires_grad_() for x in predictions.logits]
    deltas = [x.detach().requires_grad_() for x in predictions.deltas]
    losses = model.rpn.losses(Predictions(predictions.anchors, logits, deltas), batch)
    sum(losses.values()).backward()
    anchors = torch.cat(predictions.anchors)
    labels, _, _ = label_anchors(anchors, batch.boxes, batch.states)
    labels = labels.masked_fill(~within(anchors, batch.sizes, 4.0), SKIP)
    gradient = torch.cat([x.grad for x in logits], dim=1)
    assert (labels == SKIP).any()
    assert (gradient[labels == SKIP] == 0).all()
    assert (gradient[labels != SKIP] != 0).all()
    moved = torch.cat([x.grad for x in deltas], dim=1).abs().sum(dim=-1)
    assert (moved[labels != 1] == 0).all()


@pytest.mark.parametrize(("labels", "chips"), [("one_chip", 1), ("enclosed", None)])
def test_boxes_are_valid_in_one_chip_or_in_all_that_enclose_them(labels, chips):
    """Of a scale; a middle object in two chips, driven by its neighbours at both sides."""
    boxes = [(0, 200, 30, 230), (120, 205, 150, 235), (200, 200, 250, 230), (270, 205, 300, 235)]
    image = record(boxes)
    for seed in range(10):
        views = [v for v in chips_of(image, seed, labels=labels) if v.level == 0]
        valid = np.zeros(len(boxes), int)
        enclosing = np.zeros(len(boxes), int)
        for view in views:
            found = targets(image, view, 1.0, MIN_SIDE)
            valid[found.source[found.states == State.VALID]] += 1
            x1, y1, x2, y2 = view.window
            enclosing += [(b[0] >= x1) and b[1] >= y1 and b[2] <= x2 and b[3] <= y2 for b in boxes]
        assert len(views) > 1
        assert valid.tolist() == ([chips] * len(boxes) if chips else enclosing.tolist())


def test_small_boxes_teach_the_anchors_of_the_middle_scale_but_drive_no_chip_of_it():
    image = record([(100, 100, 120, 120), (130, 130, 190, 190)])
    middle = [v for v in chips_of(image) if v.level == 1]
    assert len(middle) == 1
    found = targets(image, middle[0], 0.5, MIN_SIDE)
    assert found.anchor_states.tolist() == [State.VALID] * 2
    assert found.states.tolist() == [State.INVALID, State.VALID]
    assert not [v for v in chips_of(record([(100, 100, 120, 120)])) if v.level == 1]


# RoIs


def chip(level):
    """A chip of a level of the default pyramid."""
    scale = (3.0, 1.667, 0.8)[level]
    low, high = RANGES[level]
    side = round(512 / scale) if level else 170  # 3 * 171 are 513
    return View(scale, (0, 0, side, side), (low, inf if high < 0 else high), level=level)


def usable_rois(view, rois):
    """Whether RoIs in pixels of a chip may be learned from, as proposals and as ground truth."""
    image = record(width=1000, height=1000)
    rois = tensor(rois)
    count = rois.shape[1]
    batch = replace(
        batch_of(image, view), boxes=rois, labels=torch.zeros(1, count).long(), states=torch.full((1, count), 1)
    )
    ones = torch.ones(1, count)
    _, usable = candidates(Proposals(rois, ones, ones.bool()), batch)
    return usable[0, :count].tolist(), usable[0, count:].tolist()


@pytest.mark.parametrize("case", GOLDEN["rcnn_valid_range"], ids=lambda c: f"{c['roi'][2]}_at_{c['scale']}")
def test_ranges_of_rois_of_the_reference(case):
    assert usable_rois(chip(case["level"]), [case["roi"]]) == ([case["proposal"]], [case["truth"]])


@given(st.integers(0, 2), st.floats(5, 500), st.floats(0.3, 3))
@settings(max_examples=40, deadline=None)
def test_ranges_in_pixels_of_the_chip_are_those_of_original_pixels(level, side, ratio):
    view = chip(level)
    width, height = side * ratio**0.5, side / ratio**0.5
    low, high = view.valid_range
    original = side * view.window[2] / view.size[0]
    expected = low <= original < high
    if min(abs(original - low), abs(original - high)) > 1e-3:
        assert usable_rois(view, [(0, 0, width, height)]) == ([expected], [expected])


@pytest.mark.parametrize("case", GOLDEN["rcnn_label_and_target"], ids=lambda c: f"iou_{c['iou']}")
def test_labels_and_targets_of_rois_of_the_reference(case):
    roi, box = (tensor(np.array(case[name]) + INCLUSIVE) for name in ("roi", "gt"))
    labels, *_ = label_rois(roi, torch.tensor([[True]]), box, torch.tensor([[4]]), torch.tensor([[State.VALID]]))
    assert labels.tolist() == [[5 if case["positive"] else BACKGROUND]]
    assert ious(roi[0], box[0])[0, 0] == pytest.approx(case["iou"], abs=1e-6)
    np.testing.assert_allclose(encode(roi, box, BOX_WEIGHTS)[0, 0], case["target"], atol=1e-5)


@given(labelled_boxes(), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_targets_lead_back_to_the_box(case, seed):
    boxes = tensor(case[0])
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (len(case[0]), 2))
    rois = tensor(np.concatenate([corner, corner + rng.uniform(5, 80, corner.shape)], axis=1))
    torch.testing.assert_close(decode(rois, encode(rois, boxes, BOX_WEIGHTS), BOX_WEIGHTS), boxes, atol=1e-4, rtol=0)


def test_rois_take_the_class_of_valid_and_invalid_boxes_alike():
    boxes = tensor([(0, 0, 50, 50), (100, 0, 150, 50), (200, 0, 250, 50)])
    states = torch.tensor([[State.VALID, State.INVALID, State.IGNORED]])
    rois = tensor([(0, 0, 50, 45), (100, 0, 150, 45), (200, 0, 250, 45), (300, 0, 350, 50), (0, 0, 50, 24)])
    labels, *_ = label_rois(rois, torch.ones(1, 5).bool(), boxes, torch.tensor([[1, 2, 3]]), states)
    assert labels.tolist() == [[2, 3, SKIP, BACKGROUND, BACKGROUND]]


def test_the_visible_part_of_a_large_box_is_a_legal_small_positive():
    """A person of 300 pixels whose foot is in a chip of the finest scale: invalid for anchors, an object for RoIs."""
    image = record([(130, 0, 400, 480)])
    view = View(3.0, (0, 0, 170, 170), (0, 80))
    batch = batch_of(image, view)
    assert batch.states[0, 0] == State.INVALID
    assert usable_rois(view, batch.boxes[0, :1].numpy())[0] == [False]  # 40 x 170 are 82 pixels
    view = View(3.0, (0, 400, 170, 480), (0, 80))
    batch = batch_of(image, view)
    assert batch.states[0, 0] == State.INVALID
    rois, usable = candidates(Proposals(torch.zeros(1, 0, 4), torch.zeros(1, 0), torch.zeros(1, 0).bool()), batch)
    labels, *_ = label_rois(rois, usable, batch.boxes, batch.labels, batch.states)
    assert usable[0, 0]
    assert labels[0, 0] == 1


def test_all_rois_that_may_teach_do():
    labels = torch.tensor([[SKIP] * 5 + [BACKGROUND] * 290 + [3] * 5])
    index, chosen = AllSelector()(regions(labels))
    assert chosen.sum() == 295
    assert (labels.gather(1, index)[chosen] != SKIP).all()
    assert index[chosen].unique().numel() == 295


def rpn_of(after, nms_iou=0.7):
    model = RPN.__new__(RPN)
    torch.nn.Module.__init__(model)
    model.before_nms, model.after_nms = (1000, 1000), (after, after)
    model.nms, model.min_size = NMS(nms_iou), 1e-3
    return model


def test_what_is_out_of_range_does_not_compete():
    """A better proposal out of range suppresses nothing, and takes no place among the few that stay."""
    anchors = tensor([(0, 0, 100, 100), (0, 0, 95, 95), (200, 0, 300, 100), (300, 0, 350, 50)])[0]
    predictions = Predictions([anchors], [torch.tensor([[3.0, 2.0, 1.0, 0.0]])], [torch.zeros(1, 4, 4)])
    size = torch.tensor([[512, 512]])
    rpn = rpn_of(after=2)
    assert rpn.propose(predictions, size).boxes[0].tolist() == [anchors[0].tolist(), anchors[2].tolist()]
    found = rpn.propose(predictions, size, torch.tensor([[0.0, 100.0]]))  # the upper bound lies outside
    assert found.boxes[0].tolist() == [anchors[1].tolist(), anchors[3].tolist()]
    found = rpn.propose(predictions, size, torch.tensor([[95.0, 96.0]]))  # the lower one inside
    assert found.valid.tolist() == [[True, False]]
    assert found.boxes[0, 0].tolist() == anchors[1].tolist()


def test_what_is_out_of_range_takes_no_place_before_nms():
    anchors = tensor([(0, 0, 200, 200), (100, 0, 300, 200), (200, 0, 400, 200), (300, 0, 350, 50)])[0]
    predictions = Predictions([anchors], [torch.tensor([[3.0, 2.0, 1.0, 0.0]])], [torch.zeros(1, 4, 4)])
    rpn = rpn_of(after=2)
    rpn.before_nms = (2, 2)
    found = rpn.propose(predictions, torch.tensor([[512, 512]]), torch.tensor([[0.0, 100.0]]))
    assert found.boxes[found.valid].tolist() == [anchors[3].tolist()]
    assert found.scores.tolist() == [[0.5, 0.0]]


def test_boxes_of_flat_views_keep_a_positive_anchor():
    """The best anchors are higher than the view, and reach beyond it: without them others are positive."""
    model = detector(select=(TakeAll(), TakeAll()))
    model.rpn.border = 2.0
    batch = make_batch(1, 32, 256, boxes=2)
    batch.boxes[0, :2] = torch.tensor([(20.0, 0.0, 110.0, 32.0), (140.0, 0.0, 230.0, 32.0)])
    predictions = model.rpn(model.features(batch.images, batch.sizes).maps, batch.images.shape[-2:])
    anchors = torch.cat(predictions.anchors)
    usable = within(anchors, batch.sizes, 2.0)
    unmasked, _, _ = label_anchors(anchors, batch.boxes, batch.states)
    assert not (unmasked.eq(1) & usable).any()
    deltas = [x.detach().requires_grad_() for x in predictions.deltas]
    model.rpn.losses(predictions._replace(deltas=deltas), batch)["rpn_box"].backward()
    learns = torch.cat([x.grad for x in deltas], dim=1).abs().sum(dim=-1)[0] > 0
    assert learns.any()
    assert usable[0, learns].all()
    for box in batch.boxes[0, :2]:
        assert (box_iou(box[None], anchors[learns]) > 0.2).any()


def chip_detector():
    """A tiny detector that learns from all RoIs, with its normalisation fixed."""
    torch.manual_seed(0)
    select = (TakeAll(), AllSelector())
    few = {"head_width": 32, "roi_size": 3, "after_nms": (40, 40), "positive": 0.5, "negative": 0.4, "border": 32.0}
    return c4(tiny_backbone("c4"), 6, [16, 32, 64], [1.0], *select, **few).eval()


def one_in_range():
    """A view that learns from sizes below 40, with a box of 32 pixels and one that is too large."""
    batch = make_batch(1, 96, 128, boxes=2, padded=2, ranges=(0.0, 40.0))
    batch.boxes[0] = torch.tensor([[8.0, 8, 40, 40], [0, 0, 120, 90]])
    return batch


def proposed(boxes, valid=None):
    """Proposals, the first ``valid`` of them no padding."""
    count = len(boxes)
    return Proposals(tensor(boxes), torch.ones(1, count), torch.arange(count)[None] < (valid or count))


def roi_losses(model, batch, proposals):
    losses, _ = model.roi_head.losses(model.features(batch.images, batch.sizes).maps, proposals, batch)
    return losses


IN_RANGE = [(10, 10, 40, 42), (60, 50, 90, 80)]
OUT_OF_RANGE = [(0, 0, 118, 90), (20, 0, 128, 96), (64, 0, 128, 96)]


def test_neither_rois_out_of_range_nor_padding_change_a_loss():
    model, batch = chip_detector(), one_in_range()
    plain = roi_losses(model, batch, proposed(IN_RANGE))
    assert min(plain.values()) > 0
    for proposals in (proposed(IN_RANGE + OUT_OF_RANGE), proposed(IN_RANGE * 3, valid=2)):
        for name, value in roi_losses(model, batch, proposals).items():
            torch.testing.assert_close(value, plain[name])


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_rois_out_of_range_have_no_gradient(order):
    """Of all that the head sees of them, and what is in range has one."""
    model, batch = chip_detector(), one_in_range()
    seen = []

    def keep(module, inputs, output):
        output.retain_grad()
        seen.append(output)

    model.roi_head.predictor.trunk.register_forward_hook(keep)
    losses = roi_losses(model, batch, proposed([(IN_RANGE + OUT_OF_RANGE)[i] for i in order]))
    sum(losses.values()).backward()
    (features,) = seen
    # Proposals, then the two boxes.
    assert (features.grad.abs().sum(dim=1) > 0).tolist() == [*(i < 2 for i in order), True, False]


def test_every_roi_in_range_has_a_loss():
    """The mean over all of them, whatever their share of objects; here most lie on nothing."""
    model, batch = chip_detector(), one_in_range()
    rois = [IN_RANGE[0], *[IN_RANGE[1]] * 30]
    maps = model.features(batch.images, batch.sizes).maps
    logits, _ = model.roi_head.predictor(model.roi_head.predictor.shared(maps), tensor([*rois, (8, 8, 40, 40)]))
    label = int(batch.labels[0, 0]) + 1
    labels = torch.tensor([label, *[BACKGROUND] * 30, label])
    expected = torch.nn.functional.cross_entropy(logits[0], labels)
    torch.testing.assert_close(roi_losses(model, batch, proposed(rois))["roi_class"], expected)


def test_labels_of_what_is_out_of_range_do_not_matter():
    model, batch = chip_detector(), one_in_range()
    proposals = proposed(IN_RANGE + OUT_OF_RANGE)
    first = roi_losses(model, batch, proposals)
    batch.labels[0, 1] = (batch.labels[0, 1] + 1) % 6
    second = roi_losses(model, batch, proposals)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_step_proposes_in_range_only():
    """What the second stage gets in training, in pixels of the view at twice the scale."""
    model = chip_detector()
    batch = make_batch(2, 96, 128, boxes=2, padded=2, ranges=(10.0, 20.0), scale=2.0)
    got = []
    losses = model.roi_head.losses

    def spied(maps, proposals, batch):
        got.append(proposals)
        return losses(maps, proposals, batch)

    model.roi_head.losses = spied
    model.losses(batch)
    (proposals,) = got
    sides = (proposals.boxes[..., 2:] - proposals.boxes[..., :2]).prod(dim=-1).sqrt()[proposals.valid]
    assert len(sides) > 10
    assert sides.min() >= 20
    assert sides.max() < 40


# Learning rate


@pytest.mark.parametrize(("chips", "batch"), [(1_408_000, 128), (20_000, 16)])
def test_learning_rates_of_the_reference(chips, batch):
    case = GOLDEN["lr_schedule"]
    drop, total = int(case["drop"] * chips / batch), case["epochs"] * chips // batch
    schedule = MultiStep([drop], 0.1, warmup=case["warmup"], start=case["first"] / case["rate"], unit="steps")

    def rate(step):
        return case["rate"] * schedule(step, chips / batch, total)

    for step, expected in case["points"]:
        assert rate(step) == pytest.approx(expected, rel=1e-6)
    assert rate(drop - 1) == pytest.approx(case["rate"])
    assert rate(drop) == rate(total - 1) == pytest.approx(case["rate"] / 10)
