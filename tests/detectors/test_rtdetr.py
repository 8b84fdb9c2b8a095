"""RT-DETR: the library's numbers on equal weights, boxes from which nothing may be learned, padding."""

import copy
import json
import sys
from functools import cache, partial
from unittest import mock

import pytest
import torch
from helpers import make_batch
from support.dispatched import DYNAMIC, Count
from support.makers import rtdetr
from torch import nn

from lightning_det.backbones import Backbone, resnet_vd, tiny_backbone
from lightning_det.backbones.ssd import ssd_tiny
from lightning_det.detectors import Normalize
from lightning_det.detectors.rtdetr_loss import Queries, set_losses, to_pixels, truth_of
from lightning_det.ops.assignment import solve
from lightning_det.protocols.structures import State
from lightning_det.system.errors import UserError

transformers = pytest.importorskip("transformers")
CLASSES = 6
NAMES = ["dog", "cat", "cow", "car", "cup", "bus"]


def small(**settings):
    torch.manual_seed(0)
    return rtdetr(tiny_backbone("pyramid", 4, norm="group"), CLASSES, head_norm="group", **settings)


# The library's folders.


@cache
def reference():
    """The library's detector with random weights in range."""
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", out_indices=[2, 3, 4]
    )
    config = transformers.RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        encoder_hidden_dim=32,
        d_model=32,
        decoder_in_channels=[32] * 3,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_layers=2,
        num_queries=20,
        id2label=dict(enumerate(NAMES)),
        label2id={name: number for number, name in enumerate(NAMES)},
    )
    model = transformers.RTDetrV2ForObjectDetection(config)
    with torch.no_grad():
        for name, p in model.model.named_parameters():
            if not name.startswith("backbone") and p.ndim > 1:
                p.normal_(std=p[0].numel() ** -0.5)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.fill_(1.0)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    reference().save_pretrained(path)
    return path


def like_reference(classes=CLASSES, **settings):
    settings = {"width": 32, "heads": 4, "layers": 2, "queries": 20, "points": 4} | settings
    pixels = Normalize([0.0] * 3, [1.0] * 3)
    return rtdetr(resnet_vd("resnet18_vd"), classes, preprocess=pixels, **settings).eval()


def targets_of(batch):
    truth = truth_of(batch)
    valid = batch.states == State.VALID
    return [{"class_labels": truth.labels[i][valid[i]], "boxes": truth.shares[i][valid[i]]} for i in range(len(batch))]


@torch.no_grad()
def test_predictions_and_losses_equal_the_library(folder):
    detector, library = like_reference(), copy.deepcopy(reference())
    assert detector.load_pretrained(folder, NAMES) == "all layers"
    batch = make_batch(2, 96, 128)
    found = detector._predict(batch.images, batch.sizes)
    patches = {"requires_backends": lambda *_: None, "linear_sum_assignment": one_assignment}
    with mock.patch.multiple("transformers.loss.loss_rt_detr", create=True, **patches):
        expected = library(batch.images / 255, labels=targets_of(batch))
    torch.testing.assert_close(found.logits[-1], expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, atol=1e-5, rtol=1e-4)
    losses = detector.losses(batch)
    for ours, theirs in (("class", "loss_vfl"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        torch.testing.assert_close(losses[ours], expected.loss_dict[theirs], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sum(losses.values()), expected.loss, atol=1e-4, rtol=1e-4)


def one_assignment(costs):
    """As scipy's, which the library takes and which need not be installed."""
    array = costs.numpy().T[None]
    columns = solve(array, array[0, :, 0][None] == array[0, :, 0][None])[0]
    order = columns.argsort()
    return columns[order], order


def test_weights_of_classes_go_by_name(folder):
    detector, theirs = like_reference(3), reference().state_dict()
    before = detector.network.enc_score_head.weight.clone()
    words = detector.load_pretrained(folder, ["bus", "tree", "dog"])
    assert words == "all layers, but in the last ones these classes start fresh, which it does not have: tree"
    after = detector.network.enc_score_head.weight
    assert torch.equal(after[[0, 2]], theirs["model.enc_score_head.weight"][[5, 0]])
    assert torch.equal(after[1], before[1])
    assert "start fresh" in like_reference(2).load_pretrained(folder, ["tree", "house"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 3}, r"decoder_layers is 2, here 3 \(capacity.decoder_layers\)"),
        ({"heads": 8}, r"decoder_attention_heads is 4, here 8 \(detector.heads\)"),
    ],
)
def test_folders_of_other_networks_are_refused(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        like_reference(**settings).load_pretrained(folder, NAMES)


def test_folders_that_do_not_fit_are_refused(folder, tmp_path):
    detector = like_reference()
    with pytest.raises(ValueError, match="cannot be read by transformers"):
        detector.load_pretrained(tmp_path, NAMES)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr"}))
    with pytest.raises(ValueError, match="of type detr, not rt_detr_v2"):
        detector.load_pretrained(tmp_path, NAMES)
    normalised = like_reference()
    normalised.preprocess = Normalize()
    with pytest.raises(ValueError, match=r"set detector.preprocess.mean=\[0.0, 0.0, 0.0\]"):
        normalised.load_pretrained(folder, NAMES)


# What may be learned.


def hand_made(states, boxes, queries, logits=None, labels=None):
    """Losses of one view of 100 x 100 pixels; ``queries`` are xyxy. Also their gradients in logits and boxes."""
    batch = make_batch(1, 100, 100, padded=len(boxes))
    batch.boxes, batch.states = torch.tensor([boxes]), torch.tensor([states])
    batch.labels = torch.tensor([labels or [0] * len(boxes)])
    corners = torch.tensor(queries) / 100
    shares = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    shares = shares[None, None].requires_grad_()
    scores = torch.zeros(1, 1, len(queries), 2) if logits is None else torch.tensor([[logits]])
    scores.requires_grad_()
    usable = torch.ones(1, len(queries), dtype=torch.bool)
    losses = set_losses(Queries(scores, shares, usable), batch.sizes, truth_of(batch))
    sum(x.sum() for x in losses).backward()
    return losses, (scores.grad[0, 0] != 0), (shares.grad[0, 0] != 0).any(dim=1)


NEAR, FAR = [10.0, 10.0, 40.0, 40.0], [60.0, 60.0, 90.0, 90.0]


def test_a_query_learns_class_and_box_of_its_object_and_others_background():
    queries = [[12.0, 10.0, 40.0, 40.0], FAR]
    losses, classes, boxes = hand_made([State.VALID, State.PADDING], [NEAR, [0.0] * 4], queries, labels=[1, 0])
    assert classes.all()
    assert boxes.tolist() == [True, False]
    iou = 28 / 30
    p = torch.tensor(0.5)
    matched = -iou * (iou * p.log() + (1 - iou) * (1 - p).log())
    background = -0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(losses.classification[0], matched + 3 * background)
    torch.testing.assert_close(losses.l1[0], torch.tensor(0.01 + 0.02))
    torch.testing.assert_close(losses.giou[0], torch.tensor(1 - iou), atol=1e-5, rtol=0)


def test_a_query_that_is_matched_with_an_invalid_box_carries_no_loss():
    losses, classes, boxes = hand_made([State.INVALID], [NEAR], [[12.0, 20.0, 70.0, 70.0], FAR])
    # The second is nearer to nothing; the first is the match, although less than half of it lies in the box.
    assert classes.any(dim=1).tolist() == [False, True]
    assert not boxes.any()
    assert losses.l1 == losses.giou == 0


@pytest.mark.parametrize("state", [State.INVALID, State.IGNORED])
def test_unmatched_queries_in_boxes_that_nothing_may_be_learned_from_carry_no_loss(state):
    """The second lies in the box by 60 percent, the third by 40."""
    queries = [NEAR, [22.0, 10.0, 52.0, 40.0], [28.0, 10.0, 58.0, 40.0], FAR]
    _, classes, boxes = hand_made([state], [NEAR], queries)
    assert classes.any(dim=1).tolist() == [False, False, True, True]
    assert not boxes.any()


def test_an_object_within_an_ignored_box_is_learned():
    _, classes, boxes = hand_made(
        [State.IGNORED, State.VALID], [[0.0, 0.0, 100.0, 100.0], NEAR], [NEAR, [12.0, 12.0, 42.0, 42.0], FAR]
    )
    assert classes.any(dim=1).tolist() == [True, False, False]
    assert not boxes[1:].any()


def test_invalid_boxes_take_queries_from_valid_ones():
    """One to one over both: the best query of the valid box belongs to the invalid one, where that costs less."""
    states, queries = [State.VALID, State.INVALID], [NEAR, [14.0, 14.0, 44.0, 44.0]]
    _, classes, boxes = hand_made(states, [[12.0, 12.0, 42.0, 42.0], NEAR], queries)
    assert classes.any(dim=1).tolist() == [False, True]
    assert boxes.tolist() == [False, True]


@pytest.mark.parametrize("boxes", [5, 0])
def test_every_parameter_gets_a_gradient_with_and_without_boxes(boxes):
    model = small()
    for state in (State.VALID, State.IGNORED):
        model.zero_grad()
        batch = make_batch(2, 96, 128, boxes=boxes, padded=8)
        batch.states[batch.states == State.VALID] = state
        losses = model.losses(batch)
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert (losses["l1"] > 0) == (boxes > 0 and state == State.VALID)


def test_more_objects_than_queries_are_refused_with_the_image_and_the_setting():
    batch = make_batch(2, 64, 64, boxes=6, padded=8)
    batch.index = torch.tensor([7, 31])
    batch.states[0, 3:] = State.PADDING
    with pytest.raises(UserError, match=r"image 31 of the training split.* 6 objects.* 5 queries.*capacity.queries"):
        small(queries=5).losses(batch)
    batch.states[1, 4:] = State.IGNORED
    small(queries=5).losses(batch)


# Shapes.


def test_nothing_waits_for_the_data_but_the_assignment():
    """All stages and views are matched at once, in one transfer."""
    model = small()
    sum(model.losses(make_batch(2, 96, 128)).values()).backward()  # some operators are called only once
    counts = {}
    for boxes in (0, 16):
        batch = make_batch(2, 96, 128, boxes)
        with Count() as counted:
            sum(model.losses(batch).values()).backward()
        counts[boxes] = counted.names
    assert counts[0] == counts[16]
    assert counts[0]["lightning_det.assign.default"] == 1
    assert not [n for n in counts[0] if "nonzero" in n or any(n.startswith(f"aten.{d}") for d in DYNAMIC)]


def pointwise(model):
    """No convolution sees beyond its cell, so padding can only come in by what is not a convolution."""
    for layer in model.network.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            kept = layer.weight.data[..., 1:2, 1:2].clone()
            layer.weight.data.zero_()[..., 1:2, 1:2] = kept
    return model


class Cells(Backbone):
    """A backbone whose cells see nothing but their own pixels."""

    channels, strides = (8, 8, 8), (8, 16, 32)

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 8, 1)

    def forward(self, images):
        return [nn.functional.avg_pool2d(self.mix(images).sin(), stride) for stride in self.strides]


def padded(batch, height, width):
    """The same views in a larger canvas."""
    images = nn.functional.pad(batch.images, (0, width - batch.images.shape[3], 0, height - batch.images.shape[2]))
    return images, batch.sizes


@torch.no_grad()
def test_padding_changes_nothing_but_what_convolutions_see_of_it():
    torch.manual_seed(0)
    exact = pointwise(rtdetr(Cells(), CLASSES)).eval()
    batch = make_batch(2, 96, 128)
    alone, beside = (exact.candidates(*x) for x in ((batch.images, batch.sizes), padded(batch, 192, 160)))
    for a, b in zip(alone, beside, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_no_query_comes_from_padding():
    """A view of 32 x 40 pixels in a canvas of 96 x 128: the centres of 20 + 4 + 1 cells lie in it."""
    model = small(queries=60).eval()
    batch = make_batch(2, 96, 128)
    batch.sizes[0] = torch.tensor([32, 40])
    queries = model._predict(batch.images, batch.sizes)
    assert queries.usable.sum(dim=1).tolist() == [25, 60]
    found = model(batch.images, batch.sizes, 0.0, max_detections=500)
    assert found.valid.sum(dim=1).tolist() == [25 * CLASSES, 60 * CLASSES]
    assert (found.boxes[0] <= torch.tensor([40.0, 32.0, 40.0, 32.0])).all()
    model.train().losses(batch)


@torch.no_grad()
def test_detections_respect_ranges_limits_and_thresholds():
    model = small(prior=0.3).eval()
    batch = make_batch(2, 96, 128)
    ranges = torch.tensor([[20.0, 50.0], [0.0, 12.0]])
    found = model(batch.images, batch.sizes, 0.0, 1.0, 30, ranges)
    sides = (found.boxes[..., 2:] - found.boxes[..., :2]).prod(dim=-1).sqrt()
    inside = (sides > ranges[:, :1]) & (sides <= ranges[:, 1:])
    assert found.valid.any(dim=1).all()
    assert inside[found.valid].all()
    assert (found.scores.diff(dim=1) <= 0).all()
    every = model(batch.images, batch.sizes, 0.0, 1.0, 1000)
    without = model(batch.images, batch.sizes, 0.0, 0.1, 1000)
    assert every.valid.sum() == 2 * 20 * CLASSES
    assert 0 < without.valid.sum() < every.valid.sum()
    some = float(every.scores.median())
    assert (model(batch.images, batch.sizes, some, 1.0, 1000).valid == (every.scores > some)).all()


def test_boxes_are_shares_of_the_view():
    shares = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    found = to_pixels(shares, torch.tensor([[100, 200]]))
    torch.testing.assert_close(found, torch.tensor([[[80.0, 30.0, 120.0, 70.0]]]))


def test_a_detector_without_memory_has_the_same_tensors():
    """Settings of a checkpoint are compared with its weights on one."""
    with torch.device("meta"):
        outline = small()
    assert {n: t.shape for n, t in outline.state_dict().items()} == {
        n: t.shape for n, t in small().state_dict().items()
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "must be >= 1"),
        ({"prior": 1.0}, "must be >= 1, prior"),
        ({"width": 18}, "multiple of 4 times heads"),
        ({"heads": 0}, "multiple of 4 times heads"),
        ({"expansion": 0.001}, "leave no channel"),
        ({"finest": 64}, "must double up to 32"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)
    small(expansion=1, feedforward=2)  # whole numbers will do
    with pytest.raises(ValueError, match="must double up to 32"):
        partial(rtdetr, ssd_tiny(widths=(8, 12, 16, 16, 16)), CLASSES)()


def test_without_transformers_the_error_names_the_extra():
    hidden = {name: None for name in sys.modules if name.startswith("transformers")}
    hidden["lightning_det.detectors.rtdetr_network"] = None
    with mock.patch.dict(sys.modules, hidden):
        with pytest.raises(ImportError, match=r"pip install 'lightning-det\[detr\]'"):
            small()
        with pytest.raises(ImportError, match=r"pip install 'lightning-det\[detr\]'"):
            resnet_vd("resnet18_vd")
