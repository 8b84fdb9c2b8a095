"""Labels of anchors and RoIs."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from lightning_det.protocols.structures import State
from lightning_det.selection.matching import BACKGROUND, SKIP, label_anchors, label_rois

V, X, IGN, P = State.VALID, State.INVALID, State.IGNORED, State.PADDING


def boxes(*rows):
    return torch.tensor([rows], dtype=torch.float32)


def states(*row):
    return torch.tensor([row])


SQUARE = (0, 0, 100, 100)
# IoU with SQUARE: 1, 0.5, 0.3 exactly, 0.29, 0
ANCHORS = torch.tensor([[0, 0, 100, 100], [0, 0, 100, 50], [0, 0, 100, 30], [0, 0, 100, 29], [200, 200, 300, 300.0]])


def test_thresholds():
    labels, index, _ = label_anchors(ANCHORS, boxes(SQUARE), states(V))
    assert labels[0].tolist() == [1, SKIP, SKIP, BACKGROUND, BACKGROUND]
    assert index[0].tolist() == [0] * 5


def test_best_anchor_of_a_box_is_positive_however_low():
    labels, _, _ = label_anchors(ANCHORS, boxes((0, 0, 100, 1)), states(V))
    # The anchors of heights 29 and 30 overlap it best: the smaller one wins.
    assert labels[0].tolist() == [0, 0, 0, 1, 0]


def test_the_best_usable_anchor_of_a_box_is_positive():
    """The best one of all reaches too far beyond a flat view: the next one takes its place."""
    (anchors,) = boxes((-5, -5, 65, 40), (20, 0, 80, 30), (50, 0, 110, 30), (200, 0, 260, 30))
    box = boxes((0, 0, 60, 30))  # IoU 0.57, 0.5, 0.09 and 0
    assert label_anchors(anchors, box, states(V))[0].tolist() == [[1, SKIP, BACKGROUND, BACKGROUND]]
    usable = torch.tensor([[False, True, True, True]])
    labels, index, _ = label_anchors(anchors, box, states(V), usable=usable)
    assert labels.tolist() == [[SKIP, 1, BACKGROUND, BACKGROUND]]
    assert index[0, 1] == 0
    assert (label_anchors(anchors, box, states(V), usable=usable & False)[0] == SKIP).all()


def test_a_box_without_any_anchor_makes_no_positive():
    labels, _, _ = label_anchors(ANCHORS, boxes((500, 500, 520, 520)), states(V))
    assert labels[0].tolist() == [0] * 5


def test_invalid_boxes_silence_anchors_above_the_threshold_only():
    labels, _, _ = label_anchors(ANCHORS, boxes(SQUARE), states(X))
    # IoU exactly 0.3 is not above 0.3.
    assert labels[0].tolist() == [SKIP, SKIP, BACKGROUND, BACKGROUND, BACKGROUND]


def test_invalid_boxes_silence_would_be_positives():
    labels, _, _ = label_anchors(ANCHORS, boxes(SQUARE, (0, 0, 100, 90)), states(V, X))
    assert labels[0, 0] == SKIP


def test_ignored_regions_silence_what_lies_inside_them():
    person_in_crowd = torch.tensor([[10, 10, 20, 20.0], [90, 90, 110, 110.0], [300, 300, 310, 310.0]])
    labels, _, _ = label_anchors(person_in_crowd, boxes(SQUARE), states(IGN))
    # A quarter of the second one lies inside: below the threshold.
    assert labels[0].tolist() == [SKIP, BACKGROUND, BACKGROUND]


def test_padding_is_no_box():
    labels, _, _ = label_anchors(ANCHORS, boxes(SQUARE, SQUARE), states(P, P))
    assert labels[0].tolist() == [0] * 5


def test_rois_take_the_class_of_valid_and_invalid_boxes():
    rois = boxes(SQUARE, (0, 0, 100, 50), (0, 0, 100, 49), (200, 200, 300, 300), (400, 400, 500, 500))
    gt = boxes(SQUARE, (200, 200, 300, 300), (400, 400, 500, 500))
    usable = torch.tensor([[True, True, True, True, True]])
    labels, index, _ = label_rois(rois, usable, gt, torch.tensor([[3, 4, 5]]), states(V, X, IGN))
    assert labels[0].tolist() == [4, 4, BACKGROUND, 5, SKIP]
    assert index[0, :4].tolist() == [0, 0, 0, 1]


def test_unusable_rois_are_skipped():
    labels, *_ = label_rois(boxes(SQUARE), torch.tensor([[False]]), boxes(SQUARE), torch.tensor([[0]]), states(V))
    assert labels.tolist() == [[SKIP]]


def test_positive_rois_inside_a_crowd_stay_positive():
    labels, *_ = label_rois(
        boxes((10, 10, 20, 20)),
        torch.tensor([[True]]),
        boxes(SQUARE, (10, 10, 20, 21)),
        torch.tensor([[0, 1]]),
        states(IGN, V),
    )
    assert labels.tolist() == [[2]]


corner = st.integers(0, 60)
side = st.integers(4, 60)
random_boxes = st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=40).map(
    lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)
)


@settings(deadline=None)
@given(random_boxes, random_boxes, st.booleans())
def test_labels_equal_torchvision_matcher(anchors, gt, padded):
    """On valid boxes alone the rules are torchvision's; more boxes than a chunk and padding change nothing.

    Except for boxes that no anchor touches: torchvision makes all anchors positives of these.
    """
    gt = gt[box_iou(gt, anchors).amax(dim=1) > 0]
    assume(len(gt))
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    expected = matcher(box_iou(gt, anchors))
    state = torch.full((len(gt),), V)
    if padded:
        gt = torch.cat([gt, torch.zeros(5, 4)])
        state = torch.cat([state, torch.zeros(5, dtype=state.dtype)])
    labels, index, _ = label_anchors(anchors, gt[None], state[None])
    positive = expected >= 0
    assert torch.equal(labels[0] == 1, positive)
    assert torch.equal((labels[0] == SKIP), expected == Matcher.BETWEEN_THRESHOLDS)
    assert torch.equal(index[0][positive], expected[positive])
