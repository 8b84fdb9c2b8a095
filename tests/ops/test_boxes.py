"""Box geometry."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from lightning_det.ops import boxes as ops

coordinate = st.floats(0, 1000, width=32)
side = st.floats(0.5, 500, width=32)
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
box_list = st.lists(box, min_size=1, max_size=8).map(lambda b: torch.tensor(b, dtype=torch.float32))


def iou(first, second):
    common, area_first, area_second = ops.intersections(first, second)
    return common / (area_first + area_second - common)


@given(box_list, box_list)
def test_intersections_equal_torchvision(first, second):
    assert torch.equal(iou(first, second), torchvision.ops.box_iou(first, second))


@given(box_list, box_list)
def test_decode_undoes_encode(references, boxes):
    count = min(len(references), len(boxes))
    references, boxes = references[:count].double(), boxes[:count].double()
    weights = (10.0, 5.0)
    # Beyond this ratio decoding is bounded on purpose.
    inside = (boxes[:, 2:] - boxes[:, :2]) / (references[:, 2:] - references[:, :2]) < 62
    decoded = ops.decode(references, ops.encode(references, boxes, weights), weights)
    error = (decoded - boxes).abs().amax(dim=1)[inside.all(dim=1)]
    assert (error < 1e-6).all()


def test_decoded_growth_is_bounded():
    reference = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    grown = ops.decode(reference, torch.tensor([[0.0, 0.0, 100.0, 100.0]]))
    assert torch.allclose(grown[:, 2:] - grown[:, :2], torch.tensor(1000.0))


def test_targets_of_the_reference_cases(golden):
    for case in golden["rcnn_label_and_target"]:
        # The cases use inclusive corners: the continuous box ends one pixel later.
        roi = torch.tensor([case["roi"]], dtype=torch.float64) + torch.tensor([0, 0, 1, 1])
        gt = torch.tensor([case["gt"]], dtype=torch.float64) + torch.tensor([0, 0, 1, 1])
        assert iou(roi, gt).item() == pytest.approx(case["iou"], abs=1e-6)
        assert ops.encode(roi, gt, (10.0, 5.0))[0].tolist() == pytest.approx(case["target"], abs=1e-6)


def test_smooth_l1_beta_is_sigma_three(golden):
    case = golden["smooth_l1_sigma3"]
    x = torch.tensor(case["x"])
    loss = torch.nn.functional.smooth_l1_loss(x, torch.zeros_like(x), beta=1 / 9, reduction="none")
    assert loss.tolist() == pytest.approx(case["loss"], abs=1e-6)


def test_encode_where_is_finite_on_padding():
    references = torch.zeros(3, 4, requires_grad=True)
    out = ops.encode_where(torch.tensor([False] * 3), references, torch.zeros(3, 4))
    assert torch.equal(out, torch.zeros(3, 4))
    out.sum().backward()
    assert torch.isfinite(references.grad).all()


@given(box_list)
def test_clip_keeps_boxes_inside(boxes):
    clipped = ops.clip(boxes[None] - 100, torch.tensor([[300, 200]]))[0]
    assert clipped.min() >= 0
    assert clipped[:, [0, 2]].max() <= 200
    assert clipped[:, [1, 3]].max() <= 300


def test_size_is_the_root_of_the_area():
    assert ops.sqrt_area(torch.tensor([[10.0, 10.0, 19.0, 14.0], [5.0, 5.0, 4.0, 9.0]])).tolist() == [6.0, 0.0]


def test_gather_boxes():
    boxes = torch.arange(24.0).view(2, 3, 4)
    picked = ops.gather_boxes(boxes, torch.tensor([[2, 0], [1, 1]]))
    assert np.array_equal(picked[0].numpy(), boxes[0, [2, 0]].numpy())
    assert np.array_equal(picked[1].numpy(), boxes[1, [1, 1]].numpy())


@given(box_list, st.data())
def test_giou_loss_equals_torchvision(boxes, data):
    others = torch.tensor(data.draw(st.lists(box, min_size=len(boxes), max_size=len(boxes))), dtype=torch.float32)
    others[::3] = boxes[::3]  # some pairs are equal
    mine, theirs = (boxes.clone().requires_grad_() for _ in range(2))
    found, expected = ops.giou_loss(mine, others), torchvision.ops.generalized_box_iou_loss(theirs, others)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_giou_loss_of_boxes_apart():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 2, 2]])
    others = torch.tensor([[3.0, 0, 4, 1], [2, 0, 4, 2], [0, 0, 2, 2]])
    torch.testing.assert_close(ops.giou_loss(boxes, others), torch.tensor([1 + 0.5, 1.0, 0.0]))
