"""The boxes that the detector proper and the anchors of a proposal network learn from under SNIP and SNIPER."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_batch, record
from support import makers
from support.two_stages import TakeAll
from support.two_stages import detector as faster_rcnn

from lightning_det.backbones import dsod, ssd_tiny
from lightning_det.data.dataset import Collate, Look, Sample
from lightning_det.protocols.structures import State
from lightning_det.selection import HardNegativeSelector
from lightning_det.views import Chips, IoUCrops, Pyramid, View
from lightning_det.views.targets import targets

# COCO's (conf/dataset/coco.yaml), at resolutions that are quick to train.
SCALES = [1.0, 0.5, 0.25]
SNIP = {"valid_ranges": [[0, 80], [40, 160], [120, -1]], "anchor_ranges": [[0, 80], [0, 160], [120, -1]]}
SNIPER = {"valid_ranges": [[0, 80], [32, 150], [120, -1]], "anchor_ranges": [[0, 80], [0, 150], [120, -1]]}
V, X, IGN = State.VALID, State.INVALID, State.IGNORED


def ssd():
    torch.manual_seed(0)
    return makers.ssd(ssd_tiny(), 6, [8, 64], HardNegativeSelector())


def small_dsod():
    torch.manual_seed(0)
    backbone = dsod(stem_width=8, bottleneck=16, growth=8, blocks=(1, 1, 1, 1), second=16, halves=(16,), plain=(16,))
    return makers.ssd(backbone, 6, [8, 64], HardNegativeSelector(), l2_norm=True, head_norm="batch")


def batch_of(image, *views, min_visible=0.5, min_side=1.0):
    """Views without their pixels."""
    samples = [
        Sample(Look(0, v), torch.zeros(3, *v.size, dtype=torch.uint8), targets(image, v, min_visible, min_side))
        for v in views
    ]
    return Collate()(samples)


def square(size):
    """An image with one box of a size, and its views at SNIP's three resolutions."""
    image = record(192, 192, [(20, 30, 20 + size, 30 + size)])
    return image, Pyramid(SCALES, **SNIP)(image, [], None)


SIZES = [
    # size, levels of the detector proper, levels of the anchors
    (20, [0], [0, 1]),
    (39.9, [0], [0, 1]),
    (40.1, [0, 1], [0, 1]),
    (100, [1], [1]),
    (140, [1, 2], [1, 2]),
    (159.9, [1, 2], [1, 2]),
    (160.1, [2], [2]),
]


@pytest.mark.parametrize("make", [ssd, small_dsod])
@pytest.mark.parametrize(("size", "levels", "_"), SIZES)
def test_single_shot_detectors_learn_the_valid_ranges(make, size, levels, _):
    """At the middle resolution of COCO's SNIP they learn [40, 160], not the anchors' [0, 160]."""
    image, views = square(size)
    model = make()
    learned = []
    for view in views:
        losses = model.losses(batch_of(image, view, view))
        assert (losses["box"] > 0) == (losses["class"] > 0)  # hard negatives are three per positive
        learned += [view.level] * bool(losses["box"] > 0)
    assert learned == levels


@pytest.mark.parametrize("form", ["c4", "pyramid"])
@pytest.mark.parametrize(("size", "rois", "anchors"), SIZES)
def test_a_proposal_network_learns_the_anchor_ranges(form, size, rois, anchors):
    image, views = square(size)
    rpn = faster_rcnn(form, (TakeAll(), TakeAll())).rpn
    learned = []
    for view in views:
        batch = batch_of(image, view)
        channels = rpn.head.cls_logits.in_channels
        strides = [16] if form == "c4" else [4, 8, 16, 32, 64]
        maps = [torch.rand(1, channels, *(-(-n // s) for n in batch.images.shape[2:])) for s in strides]
        losses = rpn.losses(rpn(maps, batch.images.shape[-2:]), batch)
        learned += [view.level] * bool(losses["rpn_box"] > 0)
    assert learned == anchors
    assert [v.level for v in views if batch_of(image, v).states[0, 0] == V] == rois


def test_states_of_both_kinds():
    """Sizes 20, 50, 100, 200; an ignored one of 100; one of 60 that is cut; one whose remains are too thin."""
    boxes = [(0, 0, 20, 20), (30, 0, 80, 50), (0, 60, 100, 160), (100, 0, 300, 200), (150, 250, 250, 350)]
    boxes += [(280, 280, 340, 340), (299.5, 210, 359.5, 270)]
    image = record(400, 400, boxes, ignored=[4])
    expected = [
        # states, anchor_states
        ([V, V, X, X, IGN, X, IGN], [V, V, X, X, IGN, X, IGN]),
        ([X, V, V, X, IGN, X, IGN], [V, V, V, X, IGN, X, IGN]),
        ([X, X, X, V, IGN, X, IGN], [X, X, X, V, IGN, X, IGN]),
    ]
    for view, (states, anchor_states) in zip(Pyramid(SCALES, **SNIP)(image, [], None), expected, strict=True):
        window = view._replace(window=(0, 0, 300, 300))
        found = targets(image, window)
        assert (found.states.tolist(), found.anchor_states.tolist()) == (states, anchor_states)
        assert found.states.dtype == found.anchor_states.dtype == np.int64
        batch = batch_of(image, window)
        assert batch.states[0, :7].tolist() == states
        assert batch.anchor_states[0, :7].tolist() == anchor_states
        assert batch.states[0, 7:].tolist() == batch.anchor_states[0, 7:].tolist() == [State.PADDING]


def test_lists_of_boxes_take_the_place_of_ranges():
    image = record(200, 200, [(0, 0, 50, 50), (50, 50, 90, 90), (100, 100, 180, 180)])
    view = View(1.0, (0, 0, 200, 200), (60.0, 100.0), (0.0, 45.0))
    for lists, states, anchors in (
        ({}, [X, X, V], [X, V, X]),
        ({"valid_boxes": (0,)}, [V, X, X], [V, X, X]),  # for both, unless there are two lists
        ({"valid_boxes": (0,), "anchor_boxes": ()}, [V, X, X], [X, X, X]),
        ({"valid_boxes": (), "anchor_boxes": (1, 2)}, [X, X, X], [X, V, V]),
        ({"anchor_boxes": (0, 2)}, [X, X, V], [V, X, V]),
    ):
        found = targets(image, view._replace(**lists))
        assert (found.states.tolist(), found.anchor_states.tolist()) == (states, anchors)


@pytest.mark.parametrize("labels", ["enclosed", "one_chip"])
@pytest.mark.parametrize("adopts", [False, True])
def test_chips_teach_both_parts(labels, adopts):
    """At the middle scale a box of 20 beside one of 60: for anchors alone. An orphan is learned by both parts."""
    orphan = (10, 400, 310, 410)
    image = record(640, 480, [(100, 100, 120, 120), (130, 130, 190, 190), *[orphan] * adopts])
    views = Pyramid([3.0, 1.667, [-1, 512]], **SNIPER)(image, [], None)
    found = Chips(512, 32, labels=labels)(image, views, np.random.default_rng(0))
    shown = {view.level: targets(image, view, 1.0, 5.0) for view in found}
    assert [view.level for view in found] == [0, 1, *[2] * adopts]
    assert (shown[0].states.tolist(), shown[0].anchor_states.tolist()) == ([V, V], [V, V])
    assert (shown[1].states.tolist(), shown[1].anchor_states.tolist()) == ([X, V], [V, V])
    if adopts:
        assert (shown[2].states.tolist(), shown[2].anchor_states.tolist()) == ([X, X, V], [X, X, V])
        assert (found[2].valid_boxes, found[2].anchor_boxes) == ((2,), (2,))


@pytest.mark.parametrize("make", [ssd, small_dsod])
@pytest.mark.parametrize("labels", ["enclosed", "one_chip"])
def test_single_shot_detectors_learn_the_valid_ranges_from_chips(make, labels):
    """Of boxes of 20 and 60 pixels the larger one alone: the class of the other one does not matter."""
    image = record(640, 480, [(100, 100, 120, 120), (130, 130, 190, 190)])
    views = Pyramid([3.0, 1.667, [-1, 512]], **SNIPER)(image, [], None)
    _, middle = Chips(192, 32, labels=labels)(image, views, np.random.default_rng(0))
    assert middle.level == 1
    batch = batch_of(image, middle, middle, min_visible=1.0)
    losses = []
    for classes in ([0, 1], [5, 1], [0, 5]):
        batch.labels[:, :2] = torch.tensor(classes)
        losses.append({name: value.item() for name, value in make().losses(batch).items()})
    first, other_small, other_large = losses
    assert first["box"] > 0
    assert first == other_small
    assert first["class"] != other_large["class"]


def test_iou_crops_list_boxes_for_both_parts():
    image = record(300, 300, [(100, 100, 120, 120), (130, 130, 190, 190)])
    view = Pyramid(SCALES, **SNIP)(image, [], None)[1]._replace(shape=(150, 150))
    seen = set()
    for seed in range(40):
        (crop,) = IoUCrops()(image, [view], np.random.default_rng(seed))
        seen.add((crop.valid_boxes, crop.anchor_boxes))
        assert 0 not in crop.valid_boxes
    assert ((1,), (0, 1)) in seen


def test_a_batch_without_states_for_anchors_has_one_state_per_box():
    batch = make_batch(2)
    assert batch.anchor_states is batch.states
    other = replace(batch, anchor_states=torch.full_like(batch.states, X))
    assert torch.equal(other.to("cpu").anchor_states, other.anchor_states)
    assert (other.anchor_states != other.states).any()
