"""Anchors beside the boxes that they are to find."""

from dataclasses import replace
from math import sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.makers import c4, fcos, fpn, ssd
from support.sizes import coco_like, drone_like, make_store, of_store
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from lightning_det.annotations import LabelMap
from lightning_det.backbones import tiny_backbone
from lightning_det.data.anchors import boxes_in_views, misfit, reach, suggested_sizes
from lightning_det.data.sampler import plan_epoch
from lightning_det.detectors import SSD
from lightning_det.detectors.anchors import Anchors
from lightning_det.detectors.reach import best_ious, finest_stride, fit_sizes
from lightning_det.protocols.detector import Detector
from lightning_det.runs.data_report import report_boxes
from lightning_det.selection import HardNegativeSelector, RandomSelector
from lightning_det.views import Planner, Pyramid

SIZES = [32, 64, 128, 256, 512]


def detector(form="pyramid", sizes=SIZES):
    select = RandomSelector(64, 0.5), RandomSelector(32, 0.25)
    make = c4 if form == "c4" else fpn
    return make(tiny_backbone(form), 2, sizes, [0.5, 1.0, 2.0], *select, head_width=16, roi_size=3)


def single_shot(**options):
    return ssd(tiny_backbone("pyramid"), 2, [20, 160], HardNegativeSelector(3.0), **options)


def squares(size, count=300, seed=0):
    corners = np.random.default_rng(seed).uniform(0, 400, (count, 2))
    return np.concatenate([corners, corners + size], axis=1)


def all_anchors(model):
    """The anchors of a view of 640 x 640, as the detector makes them."""
    images = torch.zeros(1, 3, 640, 640, dtype=torch.uint8)
    sizes = torch.tensor([[640, 640]])
    if isinstance(model, SSD):
        return model.predict(images, sizes)[0]
    return torch.cat(model.rpn(model.features(images, sizes).maps, (640, 640)).anchors)


@pytest.mark.slow
@pytest.mark.parametrize("make", [detector, lambda: detector("c4"), single_shot], ids=["fpn", "c4", "ssd"])
def test_ious_are_those_of_the_actual_anchors(make):
    model = make().eval()
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(8), np.log(200), (200, 2)))
    # In the middle: close to the border the nearest anchor may lie beyond it.
    corners = rng.uniform(220, 420, (200, 2)) - sides / 2
    boxes = np.concatenate([corners, corners + sides], axis=1)
    with torch.no_grad():
        actual = box_iou(torch.from_numpy(boxes).float(), all_anchors(model)).max(dim=1).values.numpy()
    assert best_ious(boxes, model.anchor_shapes()) == pytest.approx(actual, abs=1e-4)


@pytest.mark.parametrize("form", ["pyramid", "c4"])
def test_objects_that_no_anchor_meets_are_said_with_what_would(form):
    model = detector(form)
    boxes = squares(14)
    found = reach(boxes, model)
    assert found.median_size == pytest.approx(14)
    assert found.missed == 1
    assert found.mean_iou < 0.25
    said = misfit(boxes, model, 5)
    assert "100 % of the boxes are met by no anchor at IoU 0.5" in said
    assert "median size is 14 px" in said
    if form == "pyramid":  # cells of 4 pixels; those of 16 pixels leave many boxes between them, whatever their size
        sizes = [int(s) for s in said.split("anchor_sizes=[")[1].split("]")[0].split(",")]
        assert len(sizes) == 5
        assert sizes == sorted(set(sizes))
        assert sizes[0] <= 16
        assert reach(boxes, detector(form, sizes)).missed < 0.1
    else:
        assert "raise the resolution" in said or "dataset.anchor_sizes=" in said


def test_boxes_that_anchors_meet_are_no_matter():
    assert misfit(squares(64), detector(), 5) == ""
    assert misfit(np.zeros((0, 4)), detector(), 5) == ""
    assert reach(np.zeros((0, 4)), detector()) is None


def test_detectors_without_anchors_are_left_alone():
    assert Detector().anchor_shapes() is None
    assert misfit(squares(14), Detector(), 5) == ""


def test_points_take_boxes_by_the_stride_of_their_map():
    """Reaching as far as published: 64 pixels at a stride of 8."""
    points = fcos(tiny_backbone("pyramid"), 2, width=16, finest=8)
    assert points.strides == [8, 16, 32, 64, 128]
    assert points.anchor_shapes() is None
    assert misfit(squares(14), points, 5) == ""
    assert finest_stride(points) == 8
    assert points.limits == [0, 64, 128, 256, 512, np.inf]


def test_priors_of_single_shot_detectors_count_too():
    said = misfit(squares(9), single_shot(), 2, besides=" detector.priors.sizes=null")
    assert "dataset.anchor_sizes=[" in said
    assert "] detector.priors.sizes=null" in said
    low, high = (int(s) for s in said.split("anchor_sizes=[")[1].split("]")[0].split(","))
    assert low < 12 < high


def test_as_many_sizes_are_fitted_as_the_detector_has():
    assert len(fit_sizes(detector("c4", [8, 16]), squares(40))) == 2
    assert len(fit_sizes(detector(), squares(40))) == 5
    assert min(abs(s - 40) for s in fit_sizes(detector(), squares(40))) < 12


def test_fitted_sizes_leave_no_gap():
    """Sizes of 18, 40 and 90 cover a wider range, but hardly met the cars of 26 pixels between them."""
    boxes = np.concatenate([squares(side, 20) for side in np.geomspace(10, 600, 30)])
    sizes = fit_sizes(detector(), boxes)
    between = np.concatenate([squares(side, 20) for side in np.geomspace(sizes[0], sizes[-1], 60)])
    assert (best_ious(between, detector(sizes=sizes).anchor_shapes()) >= 0.48).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.25, 1, 2, 3])
def test_anchors_of_tiny_objects_have_an_area(size):
    """Rounded to integers only, anchors of one pixel would have none, and no box would ever meet them."""
    cells = Anchors([[size], [8]], [0.1, 0.5, 1.0, 2.0]).cells
    assert all((cell[:, 2:] - cell[:, :2]).min() >= 2 for cell in cells)
    ordinary = AnchorGenerator(((8,), (32,)), ((0.5, 1.0, 2.0),) * 2).cell_anchors
    assert all(map(torch.equal, Anchors([[8], [32]]).cells, ordinary))


def test_coco_gets_about_the_published_anchors():
    store = coco_like(1400)
    sizes = suggested_sizes(store, of_store(store), detector(), 5)
    assert np.log2(np.array(sizes) / SIZES) == pytest.approx(np.zeros(5), abs=0.7)


def test_views_and_their_ranges_decide_what_has_to_be_met():
    """A car of 20 pixels is learned from where it is enlarged, and a large one where it is not."""
    store = make_store([(640, 480)], [[[100, 100, 120, 120], [200, 100, 500, 400]]])
    pyramid = Pyramid([2.0, 0.5], [[0, 80], [80, -1]])
    boxes = boxes_in_views(store, plan_epoch(store, Planner(pyramid), 0))
    sizes = sorted(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
    assert sizes == pytest.approx([40, 150])


def test_suggested_anchors_meet_the_objects_of_the_suggested_views():
    store = drone_like()
    found = of_store(store)
    sizes = suggested_sizes(store, found, detector(), 5)
    assert len(sizes) == 5
    boxes = boxes_in_views(store, plan_epoch(store, Planner(Pyramid([found["resolution"]])), 0))
    assert np.median(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))) < 27
    assert reach(boxes, detector(sizes=sizes)).missed < 0.5 * reach(boxes, detector()).missed
    assert sqrt(sizes[0] * sizes[-1]) < 100


def test_detectors_without_anchors_get_those_of_the_network_that_mines_for_them():
    store = drone_like()
    points = fcos(tiny_backbone("pyramid"), 2, width=16, finest=4)
    sizes = suggested_sizes(store, of_store(store), points, 4)
    network = points.proposer(sizes)
    assert len(sizes) == network.anchor_sizes == 4
    boxes = boxes_in_views(store, plan_epoch(store, Planner(Pyramid([of_store(store)["resolution"]])), 0))
    assert reach(boxes, network).mean_iou > 1.3 * reach(boxes, points.proposer(SIZES[:4])).mean_iou
    assert suggested_sizes(store, of_store(store), Detector(), 4) is None


def test_training_warns_once_and_names_the_remedy(caplog):
    sizes = np.full((40, 1), 14.0)
    corners = np.random.default_rng(0).uniform(0, 400, (40, 2))
    store = make_store([(640, 480)] * 2, [np.concatenate([corners, corners + sizes], axis=1)] * 2)
    visibility = {"min_visible": 0.5, "min_side": 1.0}
    data = SimpleNamespace(train_views=Planner(Pyramid([1.0])), visibility=visibility)
    cfg = OmegaConf.create({"seed": 0, "dataset": {"anchor_sizes": SIZES}, "detector": {}})
    with caplog.at_level("WARNING", logger="lightning_det"):
        report_boxes(cfg, detector(), store, data)
        report_boxes(cfg, detector(sizes=[8, 16, 32, 64, 128]), store, data)
    (said,) = caplog.messages
    assert "100 % of the boxes are met by no anchor" in said
    assert "dataset.anchor_sizes=[" in said


@pytest.mark.parametrize(("ranges", "level"), [([[0, 20]], None), ([[15, 30]], "INFO"), ([[20, 30]], "WARNING")])
def test_boxes_that_the_first_epoch_leaves_out_are_counted(caplog, ranges, level):
    sides = np.array([14.0, 14.0, 14.0, 16.0, 16.0, 16.0, 16.0])[:, None]
    boxes = np.concatenate([np.full((7, 2), 20.0), 20 + sides.repeat(2, axis=1)], axis=1)
    store = make_store([(640, 480)] * 2, [boxes] * 2)
    data = SimpleNamespace(
        train_views=Planner(Pyramid([1.0], ranges)), visibility={"min_visible": 0.5, "min_side": 1.0}
    )
    cfg = OmegaConf.create({"seed": 0, "dataset": {"anchor_sizes": SIZES}, "detector": {}})
    with caplog.at_level("INFO", logger="lightning_det"):
        report_boxes(cfg, detector(sizes=[8, 16, 32, 64, 128]), store, data)
    found = [(r.levelname, r.getMessage()) for r in caplog.records if "learns from" in r.getMessage()]
    if level is None:
        assert found == []
    else:
        ((said, message),) = found
        assert said == level
        assert f"no view learns from {6 if level == 'INFO' else 14} of 14 boxes in 2 images" in message


def test_classes_that_no_view_learns_from_are_named(caplog):
    """Their AP of 0 counts in the mean."""
    boxes = np.array([[20, 20, 36, 36], [20, 20, 36, 36], [100, 100, 300, 300.0]])
    store = make_store([(640, 480)] * 2, [boxes] * 2)
    store = replace(store, labels=np.array([0, 1, 1, 0, 0, 2], np.int32), label_map=LabelMap(["car", "van", "bus"]))
    data = SimpleNamespace(
        train_views=Planner(Pyramid([1.0], [[0, 30]])), visibility={"min_visible": 0.5, "min_side": 1.0}
    )
    cfg = OmegaConf.create({"seed": 0, "dataset": {"anchor_sizes": SIZES}, "detector": {}})
    report_boxes(cfg, detector(sizes=[8, 16, 32, 64, 128]), store, data)
    (said,) = [r.getMessage() for r in caplog.records if "any box" in r.getMessage()]
    assert "no view learns from any box of bus: AP" in said
