"""SSD: priors, matching, hard negatives, and parity with torchvision's."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import losses_of, make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.makers import regions, ssd, vgg16_features
from torch import nn
from torchvision import models
from torchvision.models.detection import ssd300_vgg16
from torchvision.ops import box_iou

from lightning_det.annotations.labels import LabelMap
from lightning_det.backbones import VGG16, dsod, ssd_tiny, tiny_backbone, torchvision_backbone
from lightning_det.callbacks.selection import figures
from lightning_det.detectors.priors import Priors, spread
from lightning_det.detectors.ssd import L2Norm
from lightning_det.detectors.torchvision_weights import SSD_CLASSES, load_torchvision_ssd
from lightning_det.modules import Constant, DetectionModule
from lightning_det.ops.boxes import decode, encode
from lightning_det.protocols.structures import State
from lightning_det.selection import HardNegativeSelector, HardSelector
from lightning_det.selection.priors import assign_best, label_priors
from lightning_det.system.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ssd_dsod.json").read_text())
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]


def maps_of(sides):
    return [torch.zeros(1, 1, n, n) for n in sides]


# Priors


@pytest.mark.parametrize(
    ("name", "side"), [("ssd300_voc", 300), ("dsod300_voc", 300), ("dsod300_coco", 300), ("grp_dsod320_voc", 320)]
)
def test_published_priors(name, side):
    case = GOLDEN["prior_boxes"][name]
    sizes = [*case["min_sizes_int_used"], case["max_sizes_int_used"][-1]]
    priors = Priors(sizes, case["aspect_ratios"], case["steps"])
    assert priors.per_cell == case["priors_per_cell"]
    boxes = priors((side, side), maps_of(case["feature_maps"])) / side
    assert len(boxes) == case["total"] == sum(case["count_per_map"])
    first_cell = torch.tensor(case["first_cell_priors_map0"])
    torch.testing.assert_close(boxes[: len(first_cell)], first_cell, atol=1e-5, rtol=0)
    starts = np.cumsum([0, *case["count_per_map"]])[:-1]
    firsts = torch.tensor(case["first_prior_of_each_map"])
    torch.testing.assert_close(boxes[starts], firsts, atol=1e-5, rtol=0)
    torch.testing.assert_close(boxes[-1], torch.tensor(case["last_prior"]), atol=1e-5, rtol=0)


def test_the_last_map_of_dsod():
    """12 of 16 priors lie outside the image at the published step, and none at half of it."""
    case = GOLDEN["prior_boxes"]["dsod300_voc"]
    outside = {}
    for step in (300, 150, None):
        steps = None if step is None else [*case["steps"][:-1], step]
        boxes = Priors([*case["min_sizes"], 315], RATIOS, steps)((300, 300), maps_of(case["feature_maps"]))[-16:]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        outside[step] = int(((centres < 0) | (centres > 300)).any(dim=1).sum())
    assert outside == {300: case["sixth_map_priors_with_centre_outside_image"], 150: 0, None: 0}


def test_priors_of_an_oblong_view():
    boxes = Priors([10, 20], [2.0])((40, 80), [torch.zeros(1, 1, 4, 8)])
    assert boxes.shape == (4 * 8 * 4, 4)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(centres[4 * 9], torch.tensor([15.0, 15.0]))  # row 1, column 1
    torch.testing.assert_close((boxes[:, 2:] - boxes[:, :2])[2], torch.tensor([200.0, 50.0]).sqrt())
    short = Priors([10, 20], [2.0], longest=12.0)((40, 80), [torch.zeros(1, 1, 4, 8)])
    assert (short[:, 2:] - short[:, :2]).max() == 12


def test_sizes_are_spread():
    assert spread(8, 128, 5) == pytest.approx([8, 16, 32, 64, 128, 256])


@pytest.mark.parametrize(
    "arguments", [([10],), ([10, 0],), ([10, 20, 30], [[2]]), ([10, 20], [2.0], [8, 16]), ([10, 20], [0])]
)
def test_priors_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ValueError, match="priors need"):
        Priors(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratios": [2.0, [3.0], [2.0]]}, "must be numbers, or a list for every map"),
        ({"longest": -5.0}, "must be above 0"),
        ({"steps": [8, -8]}, "must be above 0"),
    ],
)
def test_settings_of_priors_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Priors([10, 20, 30], **({"ratios": [2.0]} | options))


def test_sizes_of_objects_ascend():
    with pytest.raises(ValueError, match=r"smallest first, got \[8, 500, 128\]"):
        Priors(objects=[8, 500, 128], maps=3)


# Matching


def test_golden_matching():
    case = GOLDEN["ssd_matching"]
    labels, index, iou = label_priors(
        torch.tensor(case["priors"]),
        torch.tensor([case["gt"]]),
        torch.tensor([[0, 1, 2]]),
        torch.full((1, 3), State.VALID),
    )
    found = [int(i) if label > 0 else -1 for i, label in zip(index[0], labels[0], strict=True)]
    assert found == case["match_index(-1=bg)"]
    assert labels[0].tolist() == [g + 1 if g >= 0 else 0 for g in found]
    torch.testing.assert_close(iou[0], torch.tensor(case["iou"]).amax(dim=1), atol=1e-4, rtol=0)


def test_of_equal_priors_the_first_is_given():
    """``topk`` alone takes some of them, on every device others: the same cell 40 times, three boxes around it."""
    cells = torch.tensor([[10.0, 10.0, 14.0, 14.0]] * 40)
    boxes = torch.tensor([[[0.0, 0.0, 50.0, 50.0], [5.0, 5.0, 50.0, 50.0], [0.0, 0.0, 60.0, 60.0]]])
    given_boxes = assign_best(cells, boxes, torch.ones(1, 3, dtype=torch.bool))
    assert given_boxes[0, :3].tolist() == [1, 0, 2]  # by falling IoU
    assert (given_boxes[0, 3:] == -1).all()


def test_golden_codec():
    case = GOLDEN["ssd_box_codec"]
    prior, box = torch.tensor(case["prior"]), torch.tensor(case["gt"])
    target = encode(prior, box, (10.0, 5.0))
    torch.testing.assert_close(target, torch.tensor(case["target"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(decode(prior, target, (10.0, 5.0)), box, atol=1e-6, rtol=0)


def greedy(iou):
    """Pairs of the highest IoU, one after the other: prior -> box."""
    iou, given = iou.clone(), {}
    while iou.numel() and iou.max() > 1e-6:
        prior, box = divmod(int(iou.argmax()), iou.shape[1])
        given[prior] = box
        iou[prior], iou[:, box] = 0, 0
    return given


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), priors=st.integers(1, 30))
def test_every_box_gets_the_best_prior_that_is_left(seed, count, priors):
    rng = torch.Generator().manual_seed(seed)

    def random_boxes(*shape):
        corner = torch.rand(*shape, 2, generator=rng) * 30
        return torch.cat([corner, corner + 5 + torch.rand(*shape, 2, generator=rng) * 20], dim=-1)

    reference, boxes = random_boxes(priors), random_boxes(2, count)
    usable = torch.rand(2, count, generator=rng) < 0.8
    given_boxes = assign_best(reference, boxes, usable)
    for image in range(2):
        expected = greedy(box_iou(reference, boxes[image]) * usable[image])
        found = {p: b for p, b in enumerate(given_boxes[image].tolist()) if b >= 0}
        assert found == expected


def test_boxes_out_of_range_and_ignored_ones_hide_background():
    priors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 70, 70]])
    boxes = torch.tensor([[[0.0, 0, 10, 9], [20, 20, 30, 29], [39, 39, 60, 60], [0, 0, 0, 0]]])
    states = torch.tensor([[State.VALID, State.INVALID, State.IGNORED, State.PADDING]])
    labels, *_ = label_priors(priors, boxes, torch.tensor([[4, 4, 4, 0]]), states)
    assert labels.tolist() == [[5, -1, -1, 0]]


# Loss


class Given(nn.Module):
    """A detector's prediction, given."""

    def __init__(self, logits, deltas):
        super().__init__()
        self.logits, self.deltas = nn.Parameter(logits), nn.Parameter(deltas)


def test_golden_loss(monkeypatch):
    """Positives count once, where torchvision counts them twice in images short of negatives."""
    case = GOLDEN["hard_negative_mining_3to1"]
    logits = torch.tensor(case["conf_logits"], requires_grad=True)
    residual = torch.tensor(case["loc_residual(pred-target)"]).requires_grad_()
    targets = torch.tensor(case["targets"])
    model = ssd(ssd_tiny(), 2, [8, 64], HardNegativeSelector())
    priors = torch.tensor([[10.0 * i, 0, 10 * i + 8, 8] for i in range(8)])
    monkeypatch.setattr(model, "predict", lambda images, sizes: (priors, logits, residual))
    monkeypatch.setattr(
        "lightning_det.detectors.ssd.label_priors",
        lambda *_, **__: (targets, torch.zeros_like(targets), torch.zeros(targets.shape)),
    )
    monkeypatch.setattr("lightning_det.detectors.ssd.encode_where", lambda *_: torch.zeros_like(residual))
    losses = model.losses(make_batch(3, 16, 16, boxes=1, padded=1))
    assert sum(losses.values()).item() == pytest.approx(case["loss"], abs=1e-5)
    assert losses["box"].item() * case["num_pos"] == pytest.approx(case["loc_sum"], abs=1e-5)
    sum(losses.values()).backward()
    zero = (logits.grad == 0).all(dim=-1).nonzero().tolist()
    assert zero == case["grad_zero_rows"]
    model.box_weight = 2.0
    heavier = model.losses(make_batch(3, 16, 16, boxes=1, padded=1))
    assert heavier["class"].item() == pytest.approx(losses["class"].item())
    assert heavier["box"].item() == pytest.approx(2 * losses["box"].item())


def test_negatives_are_the_hardest_and_at_most_three_per_positive():
    labels = torch.tensor([[1, 0, 0, 0, 0, 0, -1], [1, 1, 0, 0, 0, -1, -1], [0] * 7])
    loss = torch.tensor([[0.1, 5, 1, 4, 3, 2, 9], [0.1, 0.1, 1, 2, 3, 9, 9], [9.0] * 7])
    index, chosen = HardNegativeSelector(3.0)(regions(labels, loss))
    assert index.tolist() == [list(range(7))] * 3
    assert [row.nonzero().flatten().tolist() for row in chosen] == [[0, 1, 3, 4], [0, 1, 2, 3, 4], []]


@pytest.mark.parametrize("ratio", [0, -1])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="ratio above 0"):
        HardNegativeSelector(ratio)


# Detectors


def detector(backbone=None, select=None, **settings):
    torch.manual_seed(0)
    return ssd(backbone or ssd_tiny(), 6, [8, 64], select or HardNegativeSelector(), **settings)


BACKBONES = {
    "ssd_tiny": lambda: ssd_tiny(),
    "ssd_tiny bn": lambda: ssd_tiny(norm="batch"),
    "tiny": lambda: tiny_backbone("pyramid", 8),
    "resnet18": lambda: torchvision_backbone("resnet18", "pyramid"),
    "dsod": lambda: dsod(
        stem_width=8, bottleneck=16, growth=8, blocks=(1, 1, 1, 1), second=16, halves=(16,), plain=(16,)
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("select", [HardNegativeSelector(), HardSelector(64, None, ranking="train")])
def test_every_parameter_learns(name, select):
    torch.manual_seed(0)
    model = detector(BACKBONES[name](), select, l2_norm=name == "dsod", head_norm="batch" if name == "dsod" else None)
    losses = model.losses(make_batch(2, 96, 128))
    assert set(losses) == {"class", "box"}
    sum(losses.values()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), parameter_name
    # Coarse maps may be without a selected prior; what all maps share learns.
    shared = next(model.backbone.children())
    shared = shared[0] if isinstance(shared, torch.nn.ModuleList) else shared
    assert all(p.grad.abs().sum() > 0 for p in shared.parameters())


@pytest.mark.parametrize("ratio", [1.0, 3.0, 9.0])
def test_losses_are_divided_by_the_positives_whatever_the_ratio_of_negatives(ratio):
    model = detector(select=HardNegativeSelector(ratio))
    losses = model.losses(make_batch(2, 96, 128, boxes=1))
    selected = model.selected
    positives = (selected.chosen & (selected.labels > 0)).sum()
    assert selected.chosen.sum() == positives * (1 + ratio)
    assert float(sum(losses.values()).detach()) == pytest.approx(
        float((selected.losses * selected.chosen).sum() / positives)
    )


@pytest.mark.parametrize("states", [[[0, 0], [0, 0]], [[1, 1], [0, 0]], [[3, 3], [2, 2]]])
def test_images_without_boxes_have_zero_loss_and_a_gradient(states):
    model = detector()
    batch = make_batch(2, 96, 128, boxes=2, padded=2)
    batch.states = batch.anchor_states = torch.tensor(states)
    losses = model.losses(batch)
    total = sum(losses.values())
    total.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert (total == 0) == (1 not in states[0])


def test_priors_are_ranked_by_the_step_itself():
    with pytest.raises(ValueError, match=r"selection\.priors\.ranking=train"):
        detector(select=HardSelector(64, None))


@pytest.mark.parametrize("select", [HardNegativeSelector(), HardSelector(64, None, ranking="train")])
def test_what_was_selected_is_kept_for_callbacks(select):
    model = detector(select=select)
    batch = make_batch(2, 96, 128)
    losses = model.losses(batch)
    selected = model.selected
    rows = selected.chosen.sum()
    assert 0 < rows < selected.chosen.numel()
    positives = ((selected.labels > 0) & selected.chosen).sum()
    total = (selected.losses * selected.chosen).sum() / torch.maximum(positives, rows / 4)
    torch.testing.assert_close(total, sum(losses.values()).detach())
    assert float(selected.candidates.nan_to_num(0.0).max()) >= float((selected.losses * selected.chosen).max())
    assert all(name.startswith("train/prior/") for name in figures(selected, batch.boxes.shape[1]))
    classes = batch.labels.gather(1, selected.objects) + 1
    assert (classes == selected.labels)[selected.labels > 0].all()


def test_ohem_may_select_background_alone():
    model = detector(select=HardSelector(64, None, ranking="train"))
    losses = model.losses(make_batch(2, 96, 128, boxes=0))
    assert 0 < losses["class"] < 20
    assert losses["box"] == 0


def test_a_step_lowers_the_loss_and_detections_are_sound():
    model = detector(ssd_tiny(norm="batch"))
    batch = make_batch(2, 96, 128)
    seen = losses_of(model, batch, steps=15, lr=0.01)
    assert seen[-1] < 0.8 * seen[0]
    with torch.no_grad():
        found = model.eval()(batch.images, batch.sizes, 0.02, 0.45, 50)
    assert found.boxes.shape == (2, 50, 4)
    assert found.valid.any()
    assert (found.boxes[found.valid][:, 2:] <= torch.tensor([128, 96])).all()
    assert torch.equal(found.scores, found.scores.sort(dim=1, descending=True).values)


def test_diverged_weights_neither_crash_nor_detect():
    model = detector()
    batch = make_batch(2, 96, 128)
    with torch.no_grad():
        model.regress[0].weight.fill_(torch.nan)
        model.classify[0].weight.fill_(torch.nan)
    assert torch.isnan(sum(model.losses(batch).values()))
    with torch.no_grad():
        found = model.eval()(batch.images, batch.sizes)
    assert torch.isfinite(found.boxes[found.valid]).all()


def test_priors_for_another_number_of_maps_are_refused():
    with pytest.raises(ValueError, match="priors are for 6 maps, the backbone makes 4"):
        ssd(ssd_tiny(), 2, [8], HardNegativeSelector(), prior_sizes=[30, 60, 111, 162, 213, 264, 315])


def test_l2_norm():
    case = GOLDEN["l2norm20"]
    layer = L2Norm(2)
    x = torch.tensor([case["x_channels"], [0, 0]]).float()[:, :, None, None]
    out = layer(x)[:, :, 0, 0]
    torch.testing.assert_close(out, torch.tensor([case["out_scale20"], case["zero_vector_out"]]).float())


# torchvision


@pytest.fixture(autouse=True)
def _without_classifier(monkeypatch):
    """Neither network uses VGG16's, whose numbers take seconds to draw."""
    monkeypatch.setattr(models, "vgg16", vgg16_features)
    monkeypatch.setattr(models.detection.ssd, "vgg16", vgg16_features)


def torchvision_ssd(classes):
    torch.manual_seed(0)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=classes).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "classification_head" in name and name.endswith("weight"):
                p.normal_(std=0.005)
    return model


def ours(classes):
    return ssd(
        VGG16(),
        classes,
        [21],
        HardNegativeSelector(),
        prior_sizes=[21, 45, 99, 153, 207, 261, 315],
        prior_ratios=RATIOS,
        prior_steps=[8, 16, 32, 64, 100, 300],
        prior_longest=300.0,
        mean=(0.48235, 0.45882, 0.40784),
        std=(1 / 255, 1 / 255, 1 / 255),
    )


@pytest.mark.slow
def test_detections_equal_torchvision(monkeypatch):
    reference, model = torchvision_ssd(21), ours(20).eval()
    reference.score_thresh = 0.7  # torchvision keeps 400 candidates of a class, which random weights would exceed
    assert load_torchvision_ssd(model, reference.state_dict(), 20, 4) == []
    batch = make_batch(2, 300, 300)
    predict, predicted = model.predict, []
    monkeypatch.setattr(model, "predict", lambda *arguments: predicted.append(predict(*arguments)) or predicted[-1])
    with torch.no_grad():
        expected = reference(list(batch.images.float() / 255))
        found = model(batch.images, batch.sizes, 0.7, 0.45, 200)
    ((priors, *_),) = predicted
    assert len(priors) == 8732
    for number, target in enumerate(expected):
        # torchvision keeps boxes that lie outside the image, without area.
        real = (target["boxes"][:, 2:] > target["boxes"][:, :2]).all(dim=1)
        scores, boxes, labels = (target[key][real] for key in ("scores", "boxes", "labels"))
        count = len(scores)
        assert 100 < count <= int(found.valid[number].sum())
        torch.testing.assert_close(found.scores[number, :count], scores, atol=1e-4, rtol=1e-4)
        # Boxes whose scores differ by rounding come in any order.
        same = (found.scores[number] - scores[:, None]).abs() < 1e-4
        same &= found.labels[number] + 1 == labels[:, None]
        same &= ((found.boxes[number] - boxes[:, None]).abs() < 1e-2).all(dim=-1)
        assert (same.sum(dim=1) == 1).all()


@pytest.mark.slow
def test_low_scores_equal_torchvision():
    """At SSD's own threshold: torchvision keeps 400 candidates of each class before NMS, this one 1,000 of all."""
    reference, model = torchvision_ssd(21), ours(20).eval()
    load_torchvision_ssd(model, reference.state_dict(), 20, 4)
    batch = make_batch(1, 300, 300, seed=3)
    with torch.no_grad():
        (expected,) = reference(list(batch.images.float() / 255))
        found = model(batch.images, batch.sizes, 0.01, 0.45, 200)
    real = (expected["boxes"][:, 2:] > expected["boxes"][:, :2]).all(dim=1)
    count = int(real.sum())
    assert 100 < count <= int(found.valid.sum()) == 200
    torch.testing.assert_close(found.scores[0, :count], expected["scores"][real], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_losses_and_gradients_equal_torchvision():
    reference, model = torchvision_ssd(21).train(), ours(20).train()
    load_torchvision_ssd(model, reference.state_dict(), 20, 4)
    for backbone in (reference.backbone, model.backbone):
        backbone.requires_grad_(False)  # only gradients of the heads are compared
    batch = make_batch(2, 300, 300, padded=5, seed=1)  # no box that two priors fit alike: rounding would choose
    targets = [{"boxes": b, "labels": n + 1} for b, n in zip(batch.boxes, batch.labels, strict=True)]
    expected, found = reference(list(batch.images.float() / 255), targets), model.losses(batch)
    torch.testing.assert_close(found["class"], expected["classification"], atol=0, rtol=1e-4)
    torch.testing.assert_close(found["box"], expected["bbox_regression"], atol=0, rtol=1e-4)
    for losses in (expected, found):
        sum(losses.values()).backward()
    for part, other in ((model.classify, "classification_head"), (model.regress, "regression_head")):
        for layer, theirs in zip(part, getattr(reference.head, other).module_list, strict=True):
            scale = theirs.weight.grad.abs().max().item()
            torch.testing.assert_close(layer.weight.grad, theirs.weight.grad, atol=1e-4 * scale, rtol=1e-3)


@pytest.mark.slow
def test_classes_of_torchvision_weights_are_found_by_name():
    reference = torchvision_ssd(91)
    names = ("dog", "person")
    model = ours(2)
    assert model.load_torchvision(reference.state_dict(), names) == "all layers"
    rows = [0, *(SSD_CLASSES.index(n) for n in names)]
    bias = reference.head.classification_head.module_list[1].bias.view(6, 91)[:, rows].flatten()
    assert torch.equal(model.classify[1].bias, bias)
    other = ours(1)
    assert "start fresh" in other.load_torchvision(reference.state_dict(), ["cell"])
    with pytest.raises(ValueError, match="no classification head"):
        other.load_torchvision({"weight": torch.zeros(1)}, ["cell"])


@pytest.mark.slow
def test_coco_weights_do_not_name_other_classes():
    """As many classes as COCO's, but others: the last layers start fresh instead of taking COCO's by position."""
    reference = torchvision_ssd(91)
    model = ours(90)
    before = model.classify[0].weight.detach().clone()
    assert "start fresh" in model.load_torchvision(reference.state_dict(), [f"thing {n}" for n in range(90)])
    assert torch.equal(model.classify[0].weight, before)


@pytest.mark.slow
def test_fresh_layers_are_drawn_as_in_caffe():
    """Uniform with variance 1 / inputs, whatever torchvision drew."""
    torch.manual_seed(0)
    model = ours(20)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 13 + 2 + 8 + 12
    for layer in layers:
        inputs = layer.weight[0].numel()
        assert layer.weight.abs().max().item() == pytest.approx((3 / inputs) ** 0.5, rel=0.02)
        assert layer.weight.std().item() == pytest.approx(inputs**-0.5, rel=0.1)
        assert not layer.bias.any()


@pytest.mark.slow
def test_views_too_small_for_vgg16_are_refused():
    network = VGG16().eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 268, 268))[-1].shape[-2:] == (1, 1)
        with pytest.raises(RuntimeError, match="Kernel size"):
            network.network(torch.zeros(1, 3, 267, 300))
        with pytest.raises(UserError, match="at least 268 pixels"):
            network(torch.zeros(1, 3, 267, 300))


@pytest.mark.slow
def test_published_parameters_of_ssd300():
    case = GOLDEN["ssd300_params"]
    for classes in (20, 80):
        model = ssd(
            VGG16(),
            classes,
            [],
            HardNegativeSelector(),
            prior_sizes=[30, 60, 111, 162, 213, 264, 315],
            prior_ratios=RATIOS,
        )
        count = sum(p.numel() for p in model.parameters())
        assert count in (case[f"{classes + 1}cls"], case[f"{classes + 1}cls"] + 512)


# Training


def test_accumulated_steps_follow_the_mean_of_micro_batches():
    """As in the released code: 32 micro-batches, each divided by its own positives, and the mean of their gradients."""
    batches = [make_batch(2, 96, 128, boxes=boxes, seed=boxes) for boxes in (1, 12)]
    expected, weights = [], []
    for batch in batches:
        model = detector()
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        sum(model.losses(batch).values()).backward()
        expected.append({name: p.grad for name, p in model.named_parameters()})
    labels = LabelMap(list("abcdef"), list(range(1, 7)))
    module = DetectionModule(detector(), labels, partial(torch.optim.SGD, lr=1.0, weight_decay=0.0), Constant())
    trainer = pl.Trainer(
        max_epochs=1, accumulate_grad_batches=2, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    module._steps_per_epoch = lambda: 1
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    for name, p in module.detector.named_parameters():
        mean = (expected[0][name] + expected[1][name]) / 2
        torch.testing.assert_close(weights[name] - p.detach(), mean, atol=2e-6, rtol=1e-4)
