"""Cascade R-CNN against plain loops over its stages, and against a single RoI head."""

import math
from functools import partial

import pytest
import torch
from helpers import make_batch
from support.all_detectors import faster_rcnn, rfcn
from support.makers import CASCADE, STAGES
from torch import nn
from torchvision.ops import box_iou

from lightning_det.detectors import CascadeHead, RoIHead
from lightning_det.detectors.predictor import Predictor
from lightning_det.detectors.rpn import Proposals
from lightning_det.protocols.structures import State
from lightning_det.selection import AllSelector, HardSelector, RandomSelector

THRESHOLDS, FACTORS, LOSS_WEIGHTS = STAGES["positive"], STAGES["box_weights"], STAGES["loss_weights"]
CLASSES = 2


class Fixed(Predictor):
    """The same deltas for all RoIs, and logits that depend on their width."""

    class_agnostic = True
    per_roi = True

    def __init__(self, deltas=(0.0, 0.0, 0.0, 0.0), classes=CLASSES):
        super().__init__()
        self.num_classes = classes
        self.deltas = nn.Parameter(torch.tensor(deltas))
        self.slopes = nn.Parameter(torch.linspace(-1, 1, classes + 1))
        self.seen = []

    def shared(self, maps):
        return None

    def forward(self, shared, rois):
        self.seen.append(rois)
        width = (rois[..., 2:3] - rois[..., :1]) / 20
        return width * self.slopes, self.deltas.expand(*rois.shape[:2], 1, 4)


MOVES = [(0.8, -0.4, 0.3, -0.2), (-0.6, 0.9, -0.5, 0.4), (1.2, 0.6, 0.9, -0.9)]
"""Deltas of the three stages."""


def cascade(select, moves=MOVES):
    head = CascadeHead(Fixed(), select, 1.0, THRESHOLDS, FACTORS, LOSS_WEIGHTS)
    for predictor, deltas in zip(head.predictors().values(), moves, strict=True):
        predictor.deltas = nn.Parameter(torch.tensor(deltas))
    return head


def scene():
    """A view of 100 x 100 pixels at twice the image's scale: objects in and out of range, a crowd, and proposals."""
    batch = make_batch(1, 100, 100, boxes=3, padded=4, classes=CLASSES, scale=2.0, ranges=(6.0, 23.7))
    batch.boxes[0] = torch.tensor([[10, 10, 50, 46], [60, 50, 99, 99], [0, 60, 30, 100], [0, 0, 0, 0]]).float()
    batch.labels[0] = torch.tensor([1, 0, 0, 0])
    batch.states[0] = torch.tensor([State.VALID, State.INVALID, State.IGNORED, State.PADDING])
    rois = [
        [12, 8, 50, 46],  # on the first object in all stages
        [10, 18, 54, 52],  # IoU 0.58: background from the second stage on
        [62, 52, 99, 95],  # on an object out of range, itself in range
        [0, 62, 20, 90],  # in the crowd
        [70, 2, 96, 30],  # background
        [20, 45, 67, 92],  # in range, until the first stage makes it larger
        [0, 0, 0, 0],  # padding
    ]
    boxes = torch.tensor([rois]).float()
    valid = torch.tensor([[True] * 6 + [False]])
    return batch, Proposals(boxes, valid.float(), valid)


def move(roi, deltas, factors, size=100.0):
    """R-CNN's box regression, and clipping."""
    x1, y1, x2, y2 = roi
    width, height = x2 - x1, y2 - y1
    x = (x1 + x2) / 2 + deltas[0] / factors[0] * width
    y = (y1 + y2) / 2 + deltas[1] / factors[0] * height
    width, height = width * math.exp(deltas[2] / factors[1]), height * math.exp(deltas[3] / factors[1])
    return [min(max(v, 0.0), size) for v in (x - width / 2, y - height / 2, x + width / 2, y + height / 2)]


def target(roi, box, factors):
    sides = [(b[2] - b[0], b[3] - b[1], (b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (roi, box)]
    (w, h, x, y), (bw, bh, bx, by) = sides
    return [
        factors[0] * (bx - x) / w,
        factors[0] * (by - y) / h,
        factors[1] * math.log(bw / w),
        factors[1] * math.log(bh / h),
    ]


def smooth_l1(errors):
    return sum(e * e / 2 if abs(e) < 1 else abs(e) - 0.5 for e in map(abs, errors))


def label(roi, batch, threshold):
    """1 + class, 0 or None for a RoI without loss, and its box."""
    size = math.sqrt(max(roi[2] - roi[0], 0) * max(roi[3] - roi[1], 0)) / batch.scales.item()
    low, high = batch.ranges[0].tolist()
    if not (low <= size < high and size > 0):
        return None, None
    best, own = 0.0, None
    for box, kind, state in zip(batch.boxes[0], batch.labels[0].tolist(), batch.states[0].tolist(), strict=True):
        iou = box_iou(torch.tensor([roi]), box[None]).item()
        if state in (State.VALID, State.INVALID) and iou > best:
            best, own = iou, (kind + 1, box.tolist())
    if best >= threshold:
        return own
    for box, state in zip(batch.boxes[0].tolist(), batch.states[0].tolist(), strict=True):
        width = min(roi[2], box[2]) - max(roi[0], box[0])
        height = min(roi[3], box[3]) - max(roi[1], box[1])
        area = (roi[2] - roi[0]) * (roi[3] - roi[1])
        if state == State.IGNORED and min(width, height) > 0 and width * height > 0.5 * area:
            return None, None
    return 0, None


def by_hand(batch, proposals, goes_on):
    """Losses of all stages when every labelled RoI carries loss, and the labels of each stage's proposals."""
    rois = [r for r, v in zip(proposals.boxes[0].tolist(), proposals.valid[0].tolist(), strict=True) if v]
    truth = [b for b, s in zip(batch.boxes[0].tolist(), batch.states[0].tolist(), strict=True) if s in (1, 2)]
    losses, seen = {}, []
    slopes = [-1.0, 0.0, 1.0]
    for stage, (threshold, factors, weight, deltas) in enumerate(
        zip(THRESHOLDS, FACTORS, LOSS_WEIGHTS, MOVES, strict=True), start=1
    ):
        labels = [label(r, batch, threshold) for r in rois]
        seen.append([kind for kind, _ in labels])
        kept = [(r, k, b) for r, (k, b) in zip(rois + truth, labels + [label(t, batch, threshold) for t in truth],
                                               strict=True) if k is not None]  # fmt: skip
        classification, box = 0.0, 0.0
        for roi, kind, own in kept:
            scores = [math.exp((roi[2] - roi[0]) / 20 * s) for s in slopes]
            classification -= math.log(scores[kind] / sum(scores))
            if kind:
                wanted = target(roi, own, factors)
                box += smooth_l1([d - t for d, t in zip(deltas, wanted, strict=True)])
        losses[f"roi_class_{stage}"] = weight * classification / len(kept)
        losses[f"roi_box_{stage}"] = weight * box / len(kept)
        rois = [move(r, deltas, factors) for r, (k, _) in zip(rois, labels, strict=True) if goes_on(k)]
    return losses, seen


class Ranking(AllSelector):
    """Selects everything, but asks for losses first."""

    ranking = HardSelector(100).ranking


@pytest.mark.parametrize(
    ("select", "goes_on"), [(AllSelector(), lambda kind: kind is not None), (Ranking(), lambda kind: True)]
)
def test_three_stages_by_hand(select, goes_on):
    batch, proposals = scene()
    expected, labels = by_hand(batch, proposals, goes_on)
    # The scene holds every case: a positive that is none later, an object out of range, a crowd, a RoI that moves out.
    assert labels[0] == [2, 2, 1, None, 0, 0]
    assert labels[1][:3] == [2, 0, 1]
    assert labels[1][-1] is None
    found, selected = cascade(select).losses([], proposals, batch)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-5)
    assert selected.kind == "roi"


def test_ground_truth_is_in_every_stage_and_does_not_go_on():
    batch, proposals = scene()
    head = cascade(AllSelector())
    head.losses([], proposals, batch)
    for number, predictor in enumerate(head.predictors().values()):
        (seen,) = predictor.seen
        assert torch.equal(seen[0, -4:], batch.boxes[0])
        assert seen.shape[1] == 7 + 4 * (number + 1)


def test_stages_get_moved_boxes_without_gradient():
    batch, proposals = scene()
    head = cascade(AllSelector())
    losses, _ = head.losses([], proposals, batch)
    (losses["roi_class_3"] + losses["roi_box_3"]).backward()
    first, second, third = head.predictors().values()
    assert first.deltas.grad is None or not first.deltas.grad.any()
    assert second.deltas.grad is None or not second.deltas.grad.any()
    assert third.deltas.grad.any()
    moved = torch.tensor([move(roi, MOVES[0], FACTORS[0]) for roi in proposals.boxes[0, :6].tolist()])
    torch.testing.assert_close(second.seen[0][0, :6], moved)


def test_selected_rois_go_on_unless_all_are_ranked():
    batch, proposals = scene()
    for select, counts in ((RandomSelector(3, 0.34), (3, 3, 3)), (HardSelector(3), (11, 11, 11))):
        torch.manual_seed(0)
        head = cascade(select)
        head.losses([], proposals, batch)
        # Ranking is in chunks of as many as are kept; the last call is the one with gradient.
        ranked = [p.seen[:-1] or p.seen for p in head.predictors().values()]
        assert tuple(sum(rois.shape[1] for rois in calls) for calls in ranked) == counts


def test_detections_by_hand():
    """The last stage's boxes, and the mean of all stages' probabilities."""
    head = cascade(AllSelector()).eval()
    roi = [20.0, 30.0, 60.0, 70.0]
    boxes = torch.tensor([[roi]])
    found = head.detect([], Proposals(boxes, torch.ones(1, 1), torch.ones(1, 1).bool()), torch.tensor([[100, 100]]),
                        0.0, 0.5, 10)  # fmt: skip
    scores = []
    for deltas, factors in zip(MOVES, FACTORS, strict=True):
        parts = [math.exp((roi[2] - roi[0]) / 20 * s) for s in (-1.0, 0.0, 1.0)]
        scores.append([p / sum(parts) for p in parts])
        roi = move(roi, deltas, factors)
    mean = [sum(s) / 3 for s in zip(*scores, strict=True)]
    assert found.valid.tolist() == [[True, True]]
    assert found.labels.tolist() == [[1, 0]]
    assert found.scores[0].tolist() == pytest.approx([mean[2], mean[1]], rel=1e-5)
    for box in found.boxes[0].tolist():
        assert box == pytest.approx(roi, rel=1e-5)


def test_a_second_pass_goes_through_all_stages_again():
    head = cascade(AllSelector()).eval()
    start = torch.tensor([[[20.0, 30.0, 60.0, 70.0]]])
    sizes = torch.tensor([[100, 100]])
    valid = torch.ones(1, 1, dtype=torch.bool)
    once = head.detect([], Proposals(start, valid.float(), valid), sizes, 0.0, 1.0, 10)
    again = head.detect([], Proposals(once.boxes[:, :1], valid.float(), valid), sizes, 0.0, 1.0, 10)
    twice = head.detect([], Proposals(start, valid.float(), valid), sizes, 0.0, 1.0, 10, passes=2)
    pooled = torch.cat([once.scores, again.scores], dim=1).sort(descending=True).values
    torch.testing.assert_close(twice.scores, pooled)


def test_detections_out_of_range_are_judged_by_their_last_box():
    head = cascade(AllSelector(), [(0.0, 0.0, 2.0, 2.0)] * 3).eval()
    proposals = Proposals(torch.tensor([[[30.0, 30, 60, 60], [40, 40, 50, 50]]]), torch.ones(1, 2),
                          torch.ones(1, 2).bool())  # fmt: skip
    sizes = torch.tensor([[100, 100]])
    sides = [30 * math.exp(2 / 5 + 2 / 10 + 2 / 15), 10 * math.exp(2 / 5 + 2 / 10 + 2 / 15)]
    found = head.detect([], proposals, sizes, 0.0, 0.5, 10, torch.tensor([[10.0, sides[1] + 0.1]]))
    assert found.valid.sum() == 2  # one box in two classes
    for x1, _, x2, _ in found.boxes[found.valid].tolist():
        assert x2 - x1 == pytest.approx(sides[1], rel=1e-5)


def test_one_stage_is_a_roi_head():
    batch, proposals = scene()
    one = CascadeHead(Fixed(MOVES[0]), AllSelector(), 1.0, [0.5], [[10.0, 5.0]], [1.0])
    head = RoIHead(Fixed(MOVES[0]), AllSelector(), 1.0)
    found, expected = one.losses([], proposals, batch)[0], head.losses([], proposals, batch)[0]
    assert {name.removesuffix("_1"): value for name, value in found.items()} == expected
    sizes = torch.tensor([[100, 100]])
    for mine, theirs in zip(*(h.detect([], proposals, sizes, 0.0, 0.5, 20) for h in (one, head)), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("make", [partial(faster_rcnn, "pyramid", **CASCADE), partial(faster_rcnn, **CASCADE),
                                  partial(rfcn, stages=STAGES)])  # fmt: skip
def test_stages_start_as_copies_and_share_nothing(make):
    model = make()
    first, *others = model.roi_head.predictors().values()
    for other in others:
        for mine, theirs in zip(first.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine is not theirs
    names = [n for n, _ in model.named_parameters()]
    assert [n for n in names if n.startswith(model.class_layers)] == [n for n in names if "classify." in n]
    sum(model.losses(make_batch(2, 96, 128)).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_diverged_weights_neither_crash_nor_detect(form):
    model = faster_rcnn(form, **CASCADE)
    batch = make_batch(2, 96, 128)
    with torch.no_grad():
        for predictor in model.roi_head.predictors().values():
            predictor.regress.weight.fill_(math.nan)
    assert torch.isnan(sum(model.losses(batch).values()))
    model.eval()
    with torch.no_grad():
        for passes in (1, 2):
            assert not model(batch.images, batch.sizes, passes=passes).valid.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive": [0.5, 0.6]}, "got 2, 3 and 3 items"),
        ({"positive": [], "box_weights": [], "loss_weights": []}, "got 0, 0 and 0 items"),
        ({"positive": [0.5, 0.6, 1.7]}, "above 0 and at most 1"),
        ({"box_weights": [[10.0], [20.0, 10.0], [30.0, 15.0]]}, "pairs of positive, finite numbers"),
        ({"box_weights": [[10.0, 0.0], [20.0, 10.0], [30.0, 15.0]]}, "pairs of positive, finite numbers"),
        ({"loss_weights": [1.0, -0.5, 0.25]}, "at least 0"),
        ({"loss_weights": [1.0, float("nan"), 0.25]}, "at least 0"),
    ],
)
def test_stages_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        CascadeHead(Fixed(), AllSelector(), 1.0, **STAGES | change)


def test_boxes_per_class_are_refused():
    with pytest.raises(ValueError, match=r"set detector\.class_agnostic=true"):
        faster_rcnn(stages=STAGES)
