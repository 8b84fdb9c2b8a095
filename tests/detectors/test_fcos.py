"""FCOS: torchvision's numbers on equal weights, and what every box means for a point."""

import copy
from functools import partial

import pytest
import torch
from helpers import losses_of, make_batch
from support import torchvision_parity as parity
from support.all_detectors import fcos as small
from support.makers import fcos
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn

from lightning_det.backbones import tiny_backbone
from lightning_det.detectors.fcos import centre_ness
from lightning_det.detectors.torchvision_dense import CLASSES as COCO
from lightning_det.protocols.structures import State
from lightning_det.selection.matching import BACKGROUND, SKIP
from lightning_det.selection.points import Points, label_points

CLASSES = 6
NAMES = [f"class {number}" for number in range(CLASSES)]
LOSSES = {"classification": "class", "bbox_regression": "box", "bbox_ctrness": "centre"}


def ours(num_classes=CLASSES, offset=0.0):
    return fcos(parity.backbone(), num_classes, offset=offset)


def theirs(num_classes=CLASSES):
    return parity.reference(fcos_resnet50_fpn, num_classes, box_bias=2.0)


@pytest.mark.slow
def test_detections_and_losses_equal_torchvision():
    """Losses of two views too, with boxes in whole pixels, whose sides are exactly at the limits of maps."""
    reference, detector = copy.deepcopy(theirs()), ours()
    assert detector.load_torchvision(reference.state_dict(), NAMES) == "all layers"
    parity.check_detections(reference, detector, score_threshold=0.2, nms_iou=0.6, max_detections=100)
    batch = make_batch(2, *parity.SIZE, seed=5)
    batch.boxes = batch.boxes.round()
    batch.boxes[0, 0] = torch.tensor([0.0, 0.0, 128.0, 128.0])
    parity.check_losses(reference, detector, LOSSES, batch)


@pytest.mark.slow
def test_weights_for_coco_go_by_name_and_others_start_fresh():
    weights = theirs(len(COCO)).state_dict()
    detector = ours(2)
    assert detector.load_torchvision(weights, ["dog", "person"]) == "all layers"
    picked = weights["head.classification_head.cls_logits.bias"][[COCO.index("dog"), COCO.index("person")]]
    assert torch.equal(detector.classify.cls_logits.bias, picked)
    before = detector.classify.cls_logits.bias.clone()
    assert "starts fresh" in detector.load_torchvision(weights, ["dog", "weed"])
    assert torch.equal(detector.classify.cls_logits.bias, before)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["points", "heads", "detector"])
def test_weights_that_do_not_fit_are_refused(change):
    detector = ours(offset=0.5 if change == "points" else 0.0)
    weights, message = {
        "points": (theirs().state_dict(), "detector.offset=0"),
        "heads": ({}, "torchvision's FCOS: it has no heads"),
        "detector": (parity.reference(retinanet_resnet50_fpn, CLASSES).state_dict(), "of another detector"),
    }[change]
    with pytest.raises(ValueError, match=message):
        detector.load_torchvision(weights, NAMES)


# Points of maps with strides 8 and 16 on a view of 128 x 128; the limit between the maps is 32.
LIMITS = (0.0, 32.0, float("inf"))


def grid():
    maps = []
    for stride, low, high in zip((8, 16), LIMITS, LIMITS[1:], strict=False):
        centres = (torch.arange(128 // stride) + 0.5) * stride
        places = torch.cartesian_prod(centres, centres).flip(1)
        maps.append((places, *(torch.full((len(places),), float(x)) for x in (stride, low, high))))
    return Points(*(torch.cat(parts) for parts in zip(*maps, strict=True)))


def labelled(*boxes, radius=1.5):
    """Labels and boxes of the points for boxes [x1, y1, x2, y2, state] of one view, and the points themselves."""
    points = grid()
    rows = torch.tensor(boxes, dtype=torch.float32)
    labels, index = label_points(points, rows[None, :, :4], rows[None, :, 4].long(), radius)
    return labels[0], index[0], points


def test_points_near_the_centre_are_positive_on_the_map_for_their_distances():
    labels, _, points = labelled([20.0, 24.0, 60.0, 56.0, State.VALID])
    positive = [(*place, stride) for place, stride in zip(points.places.tolist(), points.strides.tolist(), strict=True)]
    positive = {p for p, label in zip(positive, labels, strict=True) if label == 1}
    # Within 12 pixels of (40, 40), every side is nearer than 32. The coarse map takes two points from which a side is
    # farther; its own limit is 24 pixels from the centre.
    assert positive == {(36, 36, 8), (44, 36, 8), (36, 44, 8), (44, 44, 8), (24, 40, 16), (56, 40, 16)}


def test_each_map_takes_the_boxes_of_its_own_sizes():
    small_box, large_box = [40.0, 40.0, 56.0, 56.0], [8.0, 8.0, 120.0, 120.0]
    for box, stride in ((small_box, 8), (large_box, 16)):
        labels, _, points = labelled([*box, State.VALID])
        assert (labels == 1).any()
        assert (points.strides[labels == 1] == stride).all()


def test_a_point_belongs_to_the_smallest_box_and_a_radius_may_be_infinite():
    labels, index, points = labelled(
        [30.0, 30.0, 62.0, 62.0, State.VALID], [38.0, 38.0, 54.0, 54.0, State.VALID], radius=float("inf")
    )
    inside = ((points.places > 38) & (points.places < 54)).all(dim=1) & (points.strides == 8)
    assert torch.equal((labels == 1) & (index == 1), inside)
    around = ((points.places > 30) & (points.places < 62)).all(dim=1) & (points.strides == 8) & ~inside
    assert torch.equal((labels == 1) & (index == 0), around)


@pytest.mark.parametrize("box", [[20.0, 24.0, 60.0, 56.0], [8.0, 8.0, 120.0, 120.0]])
def test_points_that_an_invalid_box_would_teach_carry_no_loss(box):
    """Exactly the positives of the same box if it were valid, on the same map; all others are background."""
    positive, *_ = labelled([*box, State.VALID])
    labels, *_ = labelled([*box, State.INVALID])
    assert (positive == 1).any()
    assert torch.equal(labels == SKIP, positive == 1)
    assert torch.equal(labels == BACKGROUND, positive == BACKGROUND)


def test_valid_and_invalid_boxes_share_points_by_size():
    inner, outer = [38.0, 38.0, 54.0, 54.0], [30.0, 30.0, 62.0, 62.0]
    both, index, _ = labelled([*inner, State.VALID], [*outer, State.VALID])
    for states, learned in (((State.VALID, State.INVALID), 0), ((State.INVALID, State.VALID), 1)):
        labels, owner, _ = labelled([*inner, states[0]], [*outer, states[1]])
        assert torch.equal(owner, index)
        assert torch.equal(labels == 1, (both == 1) & (index == learned))
        assert torch.equal(labels == SKIP, (both == 1) & (index != learned))


def test_nothing_is_learned_in_an_ignored_box_where_its_objects_could_be():
    labels, _, points = labelled([30.0, 30.0, 60.0, 60.0, State.IGNORED])
    inside = ((points.places > 30) & (points.places < 60)).all(dim=1)
    # No object of 30 pixels is learned on the map for distances above 32.
    assert torch.equal(labels == SKIP, inside & (points.strides == 8))
    assert (inside & (points.strides == 16)).any()
    labels, _, points = labelled([2.0, 2.0, 126.0, 126.0, State.IGNORED])
    inside = ((points.places > 2) & (points.places < 126)).all(dim=1)
    assert torch.equal(labels == SKIP, inside)
    labels, *_ = labelled([2.0, 2.0, 126.0, 126.0, State.IGNORED], [40.0, 40.0, 56.0, 56.0, State.VALID])
    alone, *_ = labelled([40.0, 40.0, 56.0, 56.0, State.VALID])
    assert torch.equal(labels == 1, alone == 1)
    labels, *_ = labelled([2.0, 2.0, 126.0, 126.0, State.IGNORED], [40.0, 40.0, 56.0, 56.0, State.INVALID])
    assert torch.equal(labels == SKIP, inside)


def test_each_view_is_labelled_for_itself_however_many_boxes_there_are():
    batch = make_batch(3, 128, 128, boxes=40, padded=40)
    batch.states = torch.randint(0, 4, (3, 40), generator=torch.Generator().manual_seed(0))
    points = grid()
    labels, index = label_points(points, batch.boxes, batch.states, 1.5)
    for view in range(3):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(view))
        one = label_points(points, batch.boxes[view : view + 1, order], batch.states[view : view + 1, order], 1.5)
        assert torch.equal(one[0][0], labels[view])
        assert torch.equal(order[one[1][0]][labels[view] == 1], index[view][labels[view] == 1])


def test_centre_ness_is_1_in_the_centre_and_falls_towards_the_sides():
    distances = torch.tensor([[4.0, 6.0, 4.0, 6.0], [1.0, 6.0, 4.0, 6.0], [1.0, 1.0, 4.0, 9.0]])
    torch.testing.assert_close(centre_ness(distances), torch.tensor([1.0, 0.5, 1 / 6]))


@pytest.mark.parametrize("settings", [{}, {"offset": 0, "reach": 8, "radius": 1}])
def test_every_parameter_gets_a_gradient_with_and_without_boxes(settings):
    model = small(**settings)
    for boxes in (5, 0):
        model.zero_grad()
        losses = model.losses(make_batch(2, 96, 128, boxes=boxes, padded=8))
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert (losses["box"] > 0) == (losses["centre"] > 0) == (boxes > 0)


@pytest.mark.parametrize("state", [State.INVALID, State.IGNORED])
def test_logits_of_points_that_carry_no_loss_get_no_gradient(state):
    model = small()
    batch = make_batch(1, 96, 128, boxes=1, padded=1)
    batch.boxes[0, 0] = torch.tensor([32.0, 32.0, 64.0, 64.0])
    batch.states = torch.full((1, 1), state)
    kept = []

    def keep(layer, inputs, output):
        output.retain_grad()
        kept.append(output)

    model.classify.register_forward_hook(keep)
    sum(model.losses(batch).values()).backward()
    points, _ = model.predict(batch.images, batch.sizes)
    labels, _ = label_points(Points(*map(torch.cat, zip(*points, strict=True))), batch.boxes, batch.states, 1.5)
    learned = (kept[0].grad[0] != 0).any(dim=-1)
    assert (labels == SKIP).any()
    assert torch.equal(learned, labels[0] != SKIP)


def test_a_few_steps_learn_views_by_heart():
    torch.manual_seed(0)
    model, batch = small(), make_batch(2, 96, 128, boxes=3, padded=4)
    seen = losses_of(model, batch, steps=30, lr=0.02)
    assert seen[-1] < 0.6 * seen[0]


def test_detections_outside_the_range_of_a_view_leave_their_places_to_others():
    model = small(prior=0.3).eval()
    with torch.no_grad():
        model.regress.bbox_reg.bias.fill_(2.0)
    batch = make_batch(2, 96, 128)
    ranges = torch.tensor([[20.0, 50.0], [0.0, 30.0]])
    with torch.no_grad():
        found = model(batch.images, batch.sizes, 0.0, 0.5, 50, ranges)
    sides = (found.boxes[..., 2:] - found.boxes[..., :2]).prod(dim=-1).sqrt()
    assert found.valid.any(dim=1).all()
    inside = (sides > ranges[:, :1]) & (sides <= ranges[:, 1:])
    assert inside[found.valid].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reach": 0.0}, "must be positive"),
        ({"radius": 0.0}, "must be positive"),
        ({"offset": 1.0}, "in .0, 1."),
        ({"prior": 1.0}, "must be in"),
        ({"head_convs": 5}, "between 1 and 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    make = partial(fcos, tiny_backbone("pyramid", 4), CLASSES)
    with pytest.raises(ValueError, match=message):
        make(**{"width": 16, "finest": 4, "extra": 1} | settings)
