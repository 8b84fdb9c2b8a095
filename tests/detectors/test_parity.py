"""The same weights give torchvision's numbers."""

import copy
from functools import cache

import pytest
import torch
from helpers import make_batch
from support.makers import CASCADE, fpn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.ops import MultiScaleRoIAlign

from lightning_det.backbones import torchvision_backbone
from lightning_det.detectors.torchvision_weights import load_torchvision
from lightning_det.ops.roi_align import pack, roi_align
from lightning_det.protocols.selector import Selector
from lightning_det.protocols.structures import State
from lightning_det.selection import RandomSelector

CLASSES = 6


def load(detector, weights, class_rows=None):
    predictor, *_ = detector.roi_head.predictors().values()
    return load_torchvision(detector, weights, predictor.num_classes, class_rows)


def ours(num_classes=CLASSES, selectors=None, norm="batch", **settings):
    select = selectors or (RandomSelector(256, 0.5), RandomSelector(512, 0.25))
    return fpn(
        copy.deepcopy(backbone(norm)),
        num_classes,
        [32, 64, 128, 256, 512],
        [0.5, 1.0, 2.0],
        *select,
        **settings,
    )


@cache
def backbone(norm):
    """To be copied: its random weights take seconds."""
    return torchvision_backbone("resnet50", "pyramid", norm=norm)


@cache
def theirs(num_classes=CLASSES, size=(192, 256)):
    """Torchvision's detector with random weights and no resizing of its own; to be copied."""
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=num_classes + 1, min_size=min(size), max_size=max(size)
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "cls_score" in name or "rpn.head" in name:
                p.normal_(std=0.02)
        # BatchNorm statistics of real activations keep fifty random layers in range.
        for _ in range(5):
            model.backbone(torch.randn(2, 3, *size))
    return model


@pytest.fixture
def reference():
    made = copy.deepcopy(theirs())
    torch.manual_seed(0)
    return made


@pytest.mark.slow
def test_detections_equal_torchvision(reference):
    detector = ours()
    assert not load(detector, reference.state_dict())
    batch = make_batch(2, seed=3)
    reference.eval()
    detector.eval()
    with torch.no_grad():
        expected = reference(list(batch.images.float() / 255))
        found = detector(batch.images, batch.sizes)
    for number, target in enumerate(expected):
        valid = found.valid[number]
        assert valid.sum() == len(target["scores"]) > 20
        torch.testing.assert_close(found.scores[number][valid], target["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.boxes[number][valid], target["boxes"], atol=1e-4, rtol=1e-4)
        assert torch.equal(found.labels[number][valid] + 1, target["labels"])


@pytest.mark.slow
def test_proposals_equal_torchvision(reference):
    detector = ours().eval()
    load(detector, reference.state_dict())
    batch = make_batch(2, seed=4)
    reference.eval()
    with torch.no_grad():
        maps = detector.features(batch.images, batch.sizes).maps
        found = detector.rpn.propose(detector.rpn(maps, batch.images.shape[-2:]), batch.sizes)
        images, _ = reference.transform(list(batch.images.float() / 255))
        expected, _ = reference.rpn(images, reference.backbone(images.tensors))
    for boxes, valid, target in zip(found.boxes, found.valid, expected, strict=True):
        assert valid.sum() == len(target) > 500
        # As sets: each has its partner, whatever the order of equal scores.
        distance = torch.cdist(boxes[valid], target, p=1)
        assert distance.min(dim=1).values.max() < 1e-2
        assert distance.min(dim=0).values.max() < 1e-2


class Recorder(Selector):
    """Selects as its selector does and remembers the choice."""

    def __init__(self, selector):
        self.selector = selector
        self.choice = None

    def __call__(self, regions):
        index, chosen = self.selector(regions)
        self.choice = (index, chosen, regions.labels)
        return index, chosen


@pytest.mark.slow
def test_losses_equal_torchvision_for_the_same_selection(reference):
    recorders = Recorder(RandomSelector(256, 0.5)), Recorder(RandomSelector(512, 0.25))
    detector = ours(selectors=recorders)
    load(detector, reference.state_dict())
    batch = make_batch(2, boxes=4, seed=5)
    detector.train()
    detector.backbone.eval()  # BatchNorm over two images would amplify rounding
    losses = detector.losses(batch)

    # Proposals of almost equal scores may swap places between the two, so torchvision gets ours to select from.
    rpn_choice, roi_choice = recorders[0].choice, recorders[1].choice
    with torch.no_grad():
        maps = detector.features(batch.images, batch.sizes).maps
        proposals = detector.rpn.propose(detector.rpn(maps, batch.images.shape[-2:]), batch.sizes)
    kept = [b[v] for b, v in zip(proposals.boxes, proposals.valid, strict=True)]
    reference.rpn.filter_proposals = lambda *_: (kept, None)
    is_roi = torch.cat([proposals.valid, batch.states == State.VALID], dim=1)

    def rpn_sampler(matched):
        return masks(rpn_choice, matched, [torch.ones(len(m), dtype=torch.bool) for m in matched])

    def roi_sampler(matched):
        return masks(roi_choice, matched, is_roi)

    def masks(choice, matched, real):
        index, chosen, labels = choice
        positives, negatives = [], []
        for i, labels_i in enumerate(matched):
            picked = torch.zeros(labels.shape[1], dtype=torch.bool)
            picked[index[i][chosen[i]]] = True
            picked = picked[real[i]]
            # Both sides agree on every label before they agree on a loss.
            assert torch.equal((labels[i][real[i]] > 0), labels_i > 0)
            assert torch.equal((labels[i][real[i]] == 0), labels_i == 0)
            positives.append((picked & (labels_i > 0)).to(torch.uint8))
            negatives.append((picked & (labels_i == 0)).to(torch.uint8))
        return positives, negatives

    reference.train()
    reference.backbone.eval()
    reference.rpn.fg_bg_sampler = rpn_sampler
    reference.roi_heads.fg_bg_sampler = roi_sampler
    targets = [
        {"boxes": b[s == State.VALID], "labels": c[s == State.VALID] + 1}
        for b, c, s in zip(batch.boxes, batch.labels, batch.states, strict=True)
    ]
    expected = reference(list(batch.images.float() / 255), targets)
    pairs = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "roi_class": "loss_classifier",
        "roi_box": "loss_box_reg",
    }
    for name, other in pairs.items():
        assert expected[other] > 0
        torch.testing.assert_close(losses[name], expected[other], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(200, 304), (192, 256), (64, 96)])
def test_packed_roi_align_equals_multi_scale(shape):
    torch.manual_seed(0)
    height, width = shape
    strides = [4, 8, 16, 32]
    maps = [torch.randn(2, 5, -(-height // s), -(-width // s), requires_grad=True) for s in strides]
    corner = torch.rand(2, 40, 2) * torch.tensor([width, height]) * 0.9
    far = corner + torch.rand(2, 40, 2) * (torch.tensor([width, height]) - corner)
    rois = torch.cat([corner, far], dim=-1)
    rois[:, 0] = torch.tensor([0, 0, width, height])  # touches every border
    rois[:, 1] = torch.tensor([width - 9, height - 9, width, height])
    rois[:, 2] = 0  # padding
    pooled = roi_align(pack(maps, strides), rois, 7)
    reference = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    reference.scales = [1 / s for s in strides]
    reference.map_levels = None
    reference.setup_scales = None
    expected = reference({str(i): m for i, m in enumerate(maps)}, list(rois), [shape, shape])
    torch.testing.assert_close(pooled, expected, atol=2e-5, rtol=0)
    weight = torch.randn_like(pooled)
    ours_grad = torch.autograd.grad((pooled * weight).sum(), maps)
    their_grad = torch.autograd.grad((expected * weight).sum(), maps)
    for a, b in zip(ours_grad, their_grad, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_coco_rows_are_picked_by_class():
    reference = theirs(num_classes=90)
    detector = ours(num_classes=3)
    load(detector, reference.state_dict(), class_rows=[90, 1, 44])
    weight = reference.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(detector.roi_head.predictor.classify.weight, weight[[0, 90, 1, 44]])
    boxes = reference.roi_heads.box_predictor.bbox_pred.bias.view(91, 4)
    assert torch.equal(detector.roi_head.predictor.regress.bias.view(4, 4), boxes[[0, 90, 1, 44]])


@pytest.mark.slow
def test_other_classes_keep_a_fresh_last_layer(reference):
    detector = ours(num_classes=9)
    fresh = detector.roi_head.predictor.classify.weight.clone()
    left = load(detector, reference.state_dict())
    assert {n.rsplit(".", 1)[0] for n in left} == {"roi_head.predictor.classify", "roi_head.predictor.regress"}
    assert torch.equal(detector.roi_head.predictor.classify.weight, fresh)


@pytest.mark.slow
@pytest.mark.parametrize("class_rows", [None, [6, 2, 1]])
def test_every_stage_of_a_cascade_starts_from_torchvisions_head(reference, class_rows):
    detector = ours(num_classes=CLASSES if class_rows is None else 3, **CASCADE)
    fresh = detector.roi_head.stages[1].predictor.regress.weight.clone()
    left = load(detector, reference.state_dict(), class_rows)
    assert sorted(left) == [f"roi_head.stages.{n}.predictor.regress.{p}" for n in range(3) for p in ("bias", "weight")]
    rows = [0, *(class_rows or range(1, CLASSES + 1))]
    for stage in detector.roi_head.stages:
        theirs = reference.roi_heads
        assert torch.equal(stage.predictor.trunk.fc6.weight, theirs.box_head.fc6.weight)
        assert torch.equal(stage.predictor.classify.weight, theirs.box_predictor.cls_score.weight[rows])
        assert torch.equal(stage.predictor.regress.weight, fresh)
    names = [f"class {n}" for n in range(detector.roi_head.stages[0].predictor.num_classes)]
    words = detector.load_torchvision(reference.state_dict(), names)
    assert words.startswith("the last layer starts fresh" if class_rows else "all layers but the regression of boxes")


@pytest.mark.slow
def test_norm_layers_may_differ(reference):
    frozen = ours(norm="frozen")
    assert not load(frozen, reference.state_dict())
    without_counters = {n: t for n, t in reference.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert not load(ours(norm="batch"), without_counters)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), [("rename", "holds 'head.x'"), ("drop", "1 tensors are missing")])
def test_foreign_state_dict_is_refused(reference, change, message):
    weights = dict(reference.state_dict())
    if change == "rename":
        weights["head.x"] = torch.zeros(1)
    else:
        del weights["rpn.head.cls_logits.weight"]
    with pytest.raises(ValueError, match=message):
        load(ours(), weights)
