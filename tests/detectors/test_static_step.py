"""A training step has the same operations at every batch size, none of which waits for the data."""

from functools import partial

import pytest
import torch
from helpers import make_batch
from support.all_detectors import CLASSES, DETECTORS
from support.dispatched import DYNAMIC, Count
from support.fake_gpu import losses_on_gpu
from support.makers import CASCADE, c4, fpn

from lightning_det.backbones import tiny_backbone
from lightning_det.protocols.selector import Regions
from lightning_det.selection import RandomSelector

DENSE = ("retinanet", "fcos")

FORMS = ("c4", "pyramid", "cascade", *DENSE)


def detector(form):
    if form in DENSE:
        return DETECTORS[form]()
    make, anchor_sizes = (c4, [16, 32, 64]) if form == "c4" else (fpn, [8, 16, 32, 64, 128])
    select = (RandomSelector(64, 0.5), RandomSelector(32, 0.25))
    small = {"head_width": 64, "roi_size": 5, "after_nms": (100, 50)}
    stages = CASCADE if form == "cascade" else {}
    backbone = tiny_backbone("c4" if form == "c4" else "pyramid")
    return make(backbone, 6, anchor_sizes, [0.5, 1.0, 2.0], *select, **small, **stages)


def step_operations(form, count, boxes=5, padded=16):
    torch.manual_seed(0)
    model = detector(form)
    batch = make_batch(count, 96, 128, boxes, padded)
    model.losses(batch)  # anchors are made once per shape
    with Count() as counted:
        sum(model.losses(batch).values()).backward()
    return counted.names


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_operations_do_not_grow_with_the_batch(form):
    per_size = {count: step_operations(form, count) for count in (1, 2, 8)}
    # Convolutions of one image take other kernels' helper operations; from two on counts are equal to the last.
    assert per_size[2] == per_size[8]
    assert abs(per_size[1].total() - per_size[8].total()) < 20
    assert per_size[8].total() < 3000


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_operations_do_not_depend_on_the_number_of_boxes(form):
    assert step_operations(form, 2, boxes=0) == step_operations(form, 2, boxes=16)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_waits_for_the_data_but_nms(form):
    names = step_operations(form, 4)
    found = [n for n in names if any(n.startswith(f"aten.{d}") for d in DYNAMIC)]
    assert not found
    assert names["lightning_det.nms_mask.default"] == (form not in DENSE)
    # Indices by a boolean mask would be dynamic as well: they show up as nonzero.
    assert not any("nonzero" in n for n in names)


@pytest.mark.parametrize("name", [n for n in DETECTORS if n != "rtdetr"])
def test_nothing_on_a_gpu_waits_for_the_data(name):
    """NMS included, with the operators that a GPU would run, which are as many for every batch."""
    found = {
        count: losses_on_gpu(DETECTORS[name], partial(make_batch, count, 96, 128, classes=CLASSES)) for count in (2, 8)
    }
    assert found[2].names == found[8].names
    assert found[8].mixed == {}
    assert not any("nms" in operator for operator in found[8].names)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_parts_compile_as_one_graph_each(form):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = detector(form).eval()
    batch = make_batch(2, 96, 128)
    with torch.no_grad():
        expected = model(batch.images, batch.sizes)
        model.compile_parts(backend="eager")  # fullgraph=True: a graph break is an error
        found = model(batch.images, batch.sizes)
    torch.testing.assert_close(found.boxes, expected.boxes)
    torch.testing.assert_close(found.scores, expected.scores)
    model.train()
    sum(model.losses(batch).values()).backward()


@pytest.mark.slow
def test_target_assignment_compiles_as_one_graph():
    from lightning_det.selection.matching import label_anchors, label_rois
    from lightning_det.selection.points import Points, label_points

    torch._dynamo.reset()
    batch = make_batch(2, 96, 128, padded=40)
    anchors = torch.rand(500, 4) * 50
    anchors[:, 2:] += anchors[:, :2] + 1
    compiled = torch.compile(label_anchors, fullgraph=True, backend="eager")
    for a, b in zip(
        compiled(anchors, batch.boxes, batch.states), label_anchors(anchors, batch.boxes, batch.states), strict=True
    ):
        assert torch.equal(a, b)
    points = Points(anchors[:, :2], *(torch.full((500,), limit) for limit in (8.0, 0.0, 64.0)))
    compiled = torch.compile(label_points, fullgraph=True, backend="eager")
    arguments = (points, batch.boxes, batch.states, 1.5)
    for a, b in zip(compiled(*arguments), label_points(*arguments), strict=True):
        assert torch.equal(a, b)
    rois = anchors.expand(2, -1, -1)
    usable = torch.ones(2, 500, dtype=torch.bool)
    arguments = (rois, usable, batch.boxes, batch.labels, batch.states)
    compiled = torch.compile(label_rois, fullgraph=True, backend="eager")
    for a, b in zip(compiled(*arguments), label_rois(*arguments), strict=True):
        assert torch.equal(a, b)
    select = RandomSelector(64, 0.25)
    labels, _, ious = label_rois(*arguments)
    labelled = Regions(rois, labels, ious, None)
    index, chosen = torch.compile(select.__call__, fullgraph=True, backend="eager")(labelled)
    assert index.shape == chosen.shape == (2, 64)
