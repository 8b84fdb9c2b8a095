"""Iterative box regression and box voting."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.makers import c4, fpn, rfcn
from torchvision.ops import box_iou

from lightning_det.backbones import tiny_backbone
from lightning_det.detectors.predictor import Predictor
from lightning_det.detectors.roi_head import BOX_WEIGHTS, RoIHead
from lightning_det.detectors.rpn import Proposals
from lightning_det.evaluation.results import Results
from lightning_det.merging import voting
from lightning_det.merging.nms import NMS
from lightning_det.merging.soft_nms import SoftNMS
from lightning_det.merging.voting import BoxVoting
from lightning_det.selection import RandomSelector

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ohem_rfcn.json").read_text())


def results(boxes, scores, labels=None, images=None):
    count = len(boxes)
    zeros = np.zeros(count, np.int64)
    return Results(
        zeros if images is None else np.array(images),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        zeros if labels is None else np.array(labels),
        np.unique(zeros if images is None else images),
    )


def test_golden_votes():
    case = GOLDEN["box_voting"]
    merged = results(case["candidates"], case["scores"]).merge_views(NMS(0.3), 100, BoxVoting(0.5))
    kept = sorted(case["nms_keep"], key=lambda k: -case["scores"][k])
    expected = [case["voted"][str(k)] for k in kept]
    np.testing.assert_allclose(merged.boxes, [e["box"] for e in expected], atol=1e-5)
    np.testing.assert_allclose(merged.scores, [e["score"] for e in expected])
    other = results(case["candidates"], case["scores"]).merge_views(NMS(0.3), 100, BoxVoting(0.8))
    np.testing.assert_allclose(other.boxes[0], case["detectron_0.8_box0"][1], atol=1e-5)


class Recognises(Predictor):
    """A predictor of one class that knows two RoIs."""

    def __init__(self, rois, scores, deltas):
        super().__init__()
        self.rois, self.deltas = (
            torch.tensor(rois),
            torch.tensor(deltas) * torch.tensor(BOX_WEIGHTS).repeat_interleave(2),
        )
        self.logits = torch.tensor([[0.0, np.log(s / (1 - s))] for s in scores]).float()
        self.calls = []

    def shared(self, maps):
        return maps

    def forward(self, shared, rois):
        self.calls.append(rois.shape[1])
        row = torch.cdist(rois[0], self.rois).argmin(dim=1)
        return self.logits[None, row], self.deltas[None, row, None]


def test_golden_iteration():
    """Each box has the score of the RoI that it came from, and both passes vote."""
    case = GOLDEN["iterative_bbox"]
    predictor = Recognises(
        [*case["proposal"], *case["R1"]], [case["score1"], case["score2"]], [*case["delta1"], *case["delta2"]]
    )
    head = RoIHead(predictor, RandomSelector(), box_beta=1 / 9)
    proposals = Proposals(torch.tensor([case["proposal"]]), torch.ones(1, 1), torch.ones(1, 1).bool())
    sizes = torch.tensor([[200, 200]])
    found = head.detect([], proposals, sizes, 0.05, 1.0, 100, passes=2)
    assert found.valid.sum() == 2
    torch.testing.assert_close(found.boxes[0, :2], torch.tensor([case["R2"][0], case["R1"][0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.scores[0, :2], torch.tensor([case["score2"], case["score1"]]))
    assert predictor.calls == [1, 1]
    merged = results(found.boxes[0, :2].numpy(), found.scores[0, :2].numpy()).merge_views(NMS(0.3), 100, BoxVoting(0.5))
    np.testing.assert_allclose(merged.boxes, [case["voted"]], atol=1e-3)
    assert merged.scores[0] == pytest.approx(case["final_score"])
    once = head.detect([], proposals, sizes, 0.05, 1.0, 100)
    torch.testing.assert_close(once.boxes[0], torch.tensor(case["R1"]), atol=1e-3, rtol=0)


def detector(form):
    torch.manual_seed(0)
    select = (RandomSelector(), RandomSelector())
    if form == "rfcn":
        return rfcn(tiny_backbone("c4"), 3, [16, 32], [1.0], *select, head_width=32, roi_size=3, after_nms=(30, 30))
    make, sizes, backbone = {
        "c4": (c4, [16, 32], "c4"),
        "fpn": (fpn, [8, 16, 32, 64, 128], "pyramid"),
    }[form]
    return make(tiny_backbone(backbone), 3, sizes, [1.0], *select, head_width=32, roi_size=3, after_nms=(30, 30))


@pytest.mark.parametrize("form", ["c4", "fpn", "rfcn"])
def test_every_two_stage_detector_iterates(form):
    model = detector(form).eval()
    batch = make_batch(2, 96, 128)
    one, two, three = (model(batch.images, batch.sizes, 0.01, 1.0, 1000, passes=n) for n in (1, 2, 3))
    assert one.valid.sum() > 0
    # What a later pass adds was made of what an earlier one found.
    assert three.valid.sum() > two.valid.sum()
    for found in (one, two, three):
        assert torch.equal(found.scores, found.scores.sort(dim=1, descending=True).values)
        assert (found.boxes[found.valid] >= 0).all()
        assert (found.boxes[..., 2][found.valid] <= 128).all()
    few = model(batch.images, batch.sizes, 0.01, 0.5, 7, passes=2)
    assert few.boxes.shape == (2, 7, 4)


def voted_one_by_one(kept, boxes, scores, groups, iou):
    out = []
    for k in kept.tolist():
        near = (groups == groups[k]) & (box_iou(boxes[k : k + 1], boxes)[0] >= iou)
        out.append((boxes[near].double() * scores[near, None]).sum(0) / scores[near].sum())
    return torch.stack(out).float() if out else boxes[:0]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 60), pairs=st.sampled_from([1, 17, 10**6]))
def test_votes_are_weighted_means_within_groups(seed, count, pairs):
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=rng) * 20
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=rng) * 10], dim=1)
    scores = torch.rand(count, generator=rng) * 0.9 + 0.1
    groups = torch.randint(0, 4, (count,), generator=rng) * 7
    kept, _ = NMS(0.4)(boxes, scores, groups)
    before = boxes.clone(), scores.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voting, "PAIRS", pairs)
        moved = BoxVoting(0.5)(kept, boxes, scores, groups)
    assert moved.shape == (len(kept), 4)
    torch.testing.assert_close(moved, voted_one_by_one(kept, boxes, scores, groups, 0.5), atol=1e-4, rtol=1e-5)
    assert torch.equal(boxes, before[0])
    assert torch.equal(scores, before[1])


def test_a_box_at_the_threshold_votes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    moved = BoxVoting(0.5)(torch.tensor([0]), boxes, torch.tensor([0.5, 0.5]), torch.tensor([0, 0]))
    assert moved.tolist() == [[0, 0, 10, 7.5]]


def test_voting_works_with_soft_nms_and_other_images_do_not_vote():
    rows = results(
        [(0, 0, 10, 10), (0, 0, 10, 8), (0, 0, 10, 6), (0, 0, 10, 6)], [0.9, 0.6, 0.6, 0.6], [0, 0, 1, 0], [0, 0, 0, 1]
    )
    merged = rows.merge_views(SoftNMS(method="hard", iou=0.5), 100, BoxVoting(0.5))
    by_place = {(i, n): b for i, n, b in zip(merged.images, merged.labels, merged.boxes.tolist(), strict=True)}
    assert by_place[0, 0] == pytest.approx([0, 0, 10, (0.9 * 10 + 0.6 * 8) / 1.5])
    assert by_place[0, 1] == by_place[1, 0] == [0, 0, 10, 6]


@pytest.mark.parametrize("iou", [0, -1, 1.1])
def test_impossible_thresholds_are_refused(iou):
    with pytest.raises(ValueError, match=r"test\.vote\.iou"):
        BoxVoting(iou)
