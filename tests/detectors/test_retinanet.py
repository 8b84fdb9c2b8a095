"""RetinaNet: torchvision's numbers on equal weights, and boxes from which nothing may be learned."""

import copy
from functools import partial

import pytest
import torch
from helpers import make_batch
from support import torchvision_parity as parity
from support.makers import retinanet
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.ops import sigmoid_focal_loss

from lightning_det.backbones import tiny_backbone
from lightning_det.detectors.torchvision_dense import CLASSES as COCO
from lightning_det.protocols.structures import State

CLASSES = 6
NAMES = [f"class {number}" for number in range(CLASSES)]
VERSIONS = {"1": retinanet_resnet50_fpn, "2": retinanet_resnet50_fpn_v2}
SETTINGS = {"1": {"source": "pyramid"}, "2": {"source": "backbone", "head_norm": "group", "box_loss": "giou"}}


def ours(version, num_classes=CLASSES):
    return retinanet(parity.backbone(), num_classes, [32, 64, 128, 256, 512], **SETTINGS[version])


def theirs(version, num_classes=CLASSES):
    return parity.reference(VERSIONS[version], num_classes)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_detections_and_losses_equal_torchvision(version):
    reference, detector = copy.deepcopy(theirs(version)), ours(version)
    assert detector.load_torchvision(reference.state_dict(), NAMES) == "all layers"
    parity.check_detections(reference, detector, max_detections=300)
    parity.check_losses(reference, detector, {"classification": "class", "bbox_regression": "box"})


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


@pytest.mark.parametrize(("width", "norm", "std"), [(256, None, 0.01), (64, None, 0.04), (64, "group", 0.01)])
def test_narrow_heads_start_with_greater_weights(width, norm, std):
    heads = retinanet(tiny_backbone("pyramid", 4), CLASSES, [8, 16, 32, 64, 128], width=width, finest=8, head_norm=norm)
    for layer in [*heads.classify.conv.modules(), *heads.regress.conv.modules()]:
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
    assert heads.classify.cls_logits.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("settings", [{"head_convs": 1}, {"head_norm": "group", "box_loss": "giou"}])
def test_every_parameter_gets_a_gradient_with_and_without_boxes(settings):
    model = small(**settings)
    assert len(model.classify.conv) == len(model.regress.conv) == settings.get("head_convs", 4)
    for boxes in (5, 0):
        model.zero_grad()
        losses = model.losses(make_batch(2, 96, 128, boxes=boxes, padded=8))
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert (losses["box"] > 0) == (boxes > 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_losses_and_their_gradients_equal_torchvision(gamma):
    model = small(gamma=gamma, alpha=0.3)
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, 50, CLASSES, generator=generator)).requires_grad_()
    classes = torch.randint(0, CLASSES, (2, 50), generator=generator)
    is_object, carries = torch.rand(2, 2, 50, generator=generator) < torch.tensor([0.3, 0.8])[:, None, None]
    targets = torch.nn.functional.one_hot(classes, CLASSES) * is_object[..., None]
    expected = sigmoid_focal_loss(logits, targets.float(), 0.3, gamma).sum(-1) * carries
    found = model.focal_losses(logits, classes, is_object, carries)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(losses.sum(), logits)[0] for losses in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


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
        ({"head_convs": 5}, "between 1 and 4"),
        ({"extra": -1}, "number of maps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    make = partial(retinanet, tiny_backbone("pyramid", 4), CLASSES)
    with pytest.raises(ValueError, match=message):
        make(**{"sizes": [8, 16, 32, 64, 128], "width": 16, "finest": 4, "extra": 1} | settings)
