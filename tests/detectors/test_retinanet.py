"""RetinaNet: torchvision's numbers on equal weights, and boxes from which nothing may be learned."""

import copy
from functools import cache, partial

import pytest
import torch
from helpers import make_batch
from support.makers import retinanet
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from lightning_det.backbones import tiny_backbone, torchvision_backbone
from lightning_det.detectors.torchvision_retinanet import CLASSES as COCO
from lightning_det.protocols.structures import State

CLASSES = 6
SIZE = (128, 192)
NAMES = [f"class {number}" for number in range(CLASSES)]
VERSIONS = {"1": retinanet_resnet50_fpn, "2": retinanet_resnet50_fpn_v2}
SETTINGS = {"1": {"source": "pyramid"}, "2": {"source": "backbone", "head_norm": "group", "box_loss": "giou"}}


@cache
def backbone():
    """To be copied: its random weights take seconds."""
    return torchvision_backbone("resnet50", "pyramid", norm="batch")


def ours(version, num_classes=CLASSES):
    return retinanet(copy.deepcopy(backbone()), num_classes, [32, 64, 128, 256, 512], **SETTINGS[version])


@cache
def theirs(version, num_classes=CLASSES):
    """Torchvision's detector with random weights and no resizing of its own; classes count from 0."""
    torch.manual_seed(0)
    model = VERSIONS[version](
        weights=None, weights_backbone=None, num_classes=num_classes, min_size=min(SIZE), max_size=max(SIZE)
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "cls_logits" in name or "bbox_reg" in name:
                # Large shifts would move boxes out of the image; torchvision keeps such boxes without area.
                p.normal_(std=0.05 if "cls_logits" in name else 0.005)
        for _ in range(5):  # BatchNorm statistics of real activations keep fifty random layers in range
            model.backbone(torch.randn(2, 3, *SIZE))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_detections_and_losses_equal_torchvision(version):
    reference, detector = copy.deepcopy(theirs(version)), ours(version)
    assert detector.load_torchvision(reference.state_dict(), NAMES) == "all layers"
    batch = make_batch(2, *SIZE, seed=3)
    images = list(batch.images.float() / 255)
    detector.eval()
    with torch.no_grad():
        expected = reference(images)
        found = detector(batch.images, batch.sizes, max_detections=300)
    for number, target in enumerate(expected):
        valid = found.valid[number]
        assert valid.sum() == len(target["scores"]) > 20
        rows, expected_rows = (
            torch.cat([boxes, scores[:, None], labels[:, None]], dim=1)
            for boxes, scores, labels in (
                (found.boxes[number][valid], found.scores[number][valid], found.labels[number][valid]),
                (target["boxes"], target["scores"], target["labels"]),
            )
        )
        # As sets: each has its partner, whatever the order of nearly equal scores.
        distance = torch.cdist(rows, expected_rows, p=float("inf"))
        assert distance.min(dim=1).values.max() < 1e-3
        assert distance.min(dim=0).values.max() < 1e-3
        torch.testing.assert_close(found.scores[number][valid], target["scores"], atol=1e-4, rtol=0)

    # Torchvision divides image by image, so that only the loss of a single image is comparable.
    one = make_batch(1, *SIZE, seed=5)
    targets = [{"boxes": one.boxes[0, :5], "labels": one.labels[0, :5]}]
    assert (one.states[0, :5] == State.VALID).all()
    for model in (reference, detector):
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    expected = reference(list(one.images.float() / 255), targets)
    losses = detector.losses(one)
    for name, other in (("class", "classification"), ("box", "bbox_regression")):
        assert expected[other] > 0
        torch.testing.assert_close(losses[name], expected[other], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_weights_for_coco_go_by_name_and_others_start_fresh():
    weights = theirs("2", len(COCO)).state_dict()
    detector = ours("2", 2)
    assert detector.load_torchvision(weights, ["dog", "person"]) == "all layers"
    rows = weights["head.classification_head.cls_logits.bias"].view(9, len(COCO))
    picked = rows[:, [COCO.index("dog"), COCO.index("person")]]
    assert torch.equal(detector.classify.cls_logits.bias.view(9, 2), picked)
    fresh = ours("2", 2)
    before = fresh.classify.cls_logits.bias.clone()
    assert "starts fresh" in fresh.load_torchvision(weights, ["dog", "weed"])
    assert torch.equal(fresh.classify.cls_logits.bias, before)
    with_background = ours("2", len(COCO) - 1)
    with_background.load_torchvision(weights, [f"c{n}" for n in range(len(COCO) - 1)])
    assert torch.equal(with_background.classify.cls_logits.bias.view(9, -1), rows[:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), [("head", "it has no heads"), ("neck", "1 tensors are missing")])
def test_weights_of_other_detectors_are_refused(change, message):
    weights = dict(theirs("2").state_dict())
    prefix = "head." if change == "head" else "backbone.fpn.extra_blocks.p7.weight"
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}
    with pytest.raises(ValueError, match=message):
        ours("2").load_torchvision(weights, NAMES)


def small(**settings):
    torch.manual_seed(0)
    backbone = tiny_backbone("pyramid", 4, norm="group")
    return retinanet(backbone, CLASSES, [8, 16, 32, 64, 128], width=16, finest=4, extra=1, **settings)


@pytest.mark.parametrize("settings", [{}, {"head_norm": "group", "box_loss": "giou"}])
def test_every_parameter_gets_a_gradient_with_and_without_boxes(settings):
    model = small(**settings)
    for boxes in (5, 0):
        model.zero_grad()
        losses = model.losses(make_batch(2, 96, 128, boxes=boxes, padded=8))
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert (losses["box"] > 0) == (boxes > 0)


@pytest.mark.parametrize("state", [State.INVALID, State.IGNORED])
def test_anchors_on_boxes_that_nothing_may_be_learned_from_carry_no_loss(state):
    """Their logits get no gradient, and those far away get one."""
    model = small()
    batch = make_batch(1, 96, 128, boxes=1, padded=1)
    batch.boxes[0, 0] = torch.tensor([32.0, 32.0, 64.0, 64.0])
    batch.states = torch.full((1, 1), state)
    logits = []
    predict = model.predict

    def recorded(images, sizes):
        anchors, logit, deltas = predict(images, sizes)
        logits.append(logit)
        logit.retain_grad()
        return anchors, logit, deltas

    model.predict = recorded
    sum(model.losses(batch).values()).backward()
    anchors = torch.cat(predict(batch.images, batch.sizes)[0])
    learned = (logits[0].grad[0] != 0).any(dim=-1)
    on_it = ((anchors - batch.boxes[0, 0]).abs().sum(dim=1) < 8).nonzero().flatten()
    assert len(on_it)
    assert not learned[on_it].any()
    assert learned[anchors[:, 2] < 16].all()


def test_detections_outside_the_range_of_a_view_leave_their_places_to_others():
    model = small(prior=0.3).eval()
    batch = make_batch(2, 96, 128)
    ranges = torch.tensor([[20.0, 50.0], [0.0, 30.0]])
    with torch.no_grad():
        found = model(batch.images, batch.sizes, 0.0, 0.5, 50, ranges)
    sides = (found.boxes[..., 2:] - found.boxes[..., :2]).prod(dim=-1).sqrt()
    assert found.valid.all()
    assert ((sides > ranges[:, :1]) & (sides <= ranges[:, 1:])).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": [8, 16]}, "5 maps"),
        ({"finest": 64}, "have strides"),
        ({"positive": 0.3}, "lowest IoU"),
        ({"prior": 1.0}, "must be in"),
        ({"extra": -1}, "number of maps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    make = partial(retinanet, tiny_backbone("pyramid", 4), CLASSES)
    with pytest.raises(ValueError, match=message):
        make(**{"sizes": [8, 16, 32, 64, 128], "width": 16, "finest": 4, "extra": 1} | settings)
