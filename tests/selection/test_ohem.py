"""OHEM: which RoIs carry loss, and that nothing else changes."""

import json
from pathlib import Path

import pytest
import torch
from helpers import make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.makers import c4, fpn, regions, rfcn
from torch import nn
from torchvision.ops import box_iou

from lightning_det.backbones import tiny_backbone, torchvision_backbone
from lightning_det.detectors.predictor import Predictor
from lightning_det.detectors.roi_head import RoIHead, ranking_mode
from lightning_det.detectors.rpn import Proposals
from lightning_det.protocols.structures import State
from lightning_det.selection import AllSelector, HardNegativeSelector, HardSelector, RandomSelector
from lightning_det.selection.matching import label_rois

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ohem_rfcn.json").read_text())

SMALL = {"head_width": 32, "after_nms": (40, 40)}
ONE_MAP, PYRAMID = [16, 32, 64], [8, 16, 32, 64, 128]
MAKERS = {
    "c4": lambda s, **more: c4(tiny_backbone("c4"), 6, ONE_MAP, [1.0], *s, **SMALL, roi_size=3, **more),
    "fpn": lambda s, **more: fpn(tiny_backbone("pyramid"), 6, PYRAMID, [1.0], *s, **SMALL, roi_size=3, **more),
    "rfcn": lambda s, **more: rfcn(tiny_backbone("c4"), 6, ONE_MAP, [1.0], *s, **SMALL, roi_size=3, **more),
}


def detector(form="c4", select=None):
    torch.manual_seed(0)
    return MAKERS[form]((AllSelector(), select or HardSelector(8)))


def picked(index, chosen):
    return [row[ok].tolist() for row, ok in zip(index, chosen, strict=True)]


# Golden cases


class Fixed(Predictor):
    """A predictor whose outputs are its parameters, one row per RoI."""

    def __init__(self, logits, deltas, rois):
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.deltas = nn.Parameter(deltas)
        self.rois = rois

    def shared(self, maps):
        return maps

    def forward(self, shared, rois):
        row = (rois[0, :, None] == self.rois).all(dim=-1).long().argmax(dim=1)
        return self.logits[None, row], self.deltas[None, row, None]


def test_loss_selection_and_gradient():
    case = GOLDEN["ohem_loss_select_grad"]
    labels = torch.tensor(case["labels"])
    rois = torch.tensor([[100.0 * i, 0, 100 * i + 50, 50] for i in range(len(labels))])
    predictor = Fixed(torch.tensor(case["logits"]), torch.tensor(case["bbox_pred_of_label_class"]), rois)
    head = RoIHead(predictor, HardSelector(case["B"]), box_beta=1.0)
    objects = (labels > 0).nonzero().squeeze(1)
    batch = make_batch(1, 60, 600, boxes=len(objects), padded=len(objects))
    batch.boxes[0], batch.labels[0] = rois[objects], labels[objects] - 1
    everyone = torch.ones(1, len(rois), dtype=torch.bool)
    # The objects are candidates too; they are the RoIs of the case themselves, so NMS leaves one of each.
    losses, selected = head.losses([], Proposals(rois[None], torch.ones(1, len(rois)), everyone), batch)
    assert sum(losses.values()).item() == pytest.approx(case["train_loss"], abs=1e-5)
    kept = selected.boxes[0][selected.chosen[0]]
    assert (kept[:, 0] / 100).long().tolist() == case["selected_hardest_first"]
    torch.testing.assert_close(selected.candidates[0, :5], torch.tensor(case["total_loss"]), atol=1e-5, rtol=0)
    sum(losses.values()).backward()
    torch.testing.assert_close(predictor.logits.grad, torch.tensor(case["grad_logits"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(predictor.deltas.grad, torch.tensor(case["grad_bbox_pred"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "selected_class_agnostic(paper)"),
        ({"per_label": True}, "selected_class_wise(repo)"),
        ({"nms_iou": None}, "selected_no_nms(R-FCN style)"),
    ],
)
def test_duplicates(settings, expected):
    case = GOLDEN["ohem_nms_dedup"]
    rois, labels = torch.tensor([case["rois_exclusive"]]), torch.tensor([case["labels"]])
    found = HardSelector(case["B"], **settings)(regions(labels, [case["loss"]], rois))
    assert picked(*found) == [case[expected]]


def test_every_image_has_its_own_quota():
    case = GOLDEN["ohem_per_image_vs_global"]
    loss = torch.tensor(case["loss"]).view(2, 4)
    index, chosen = HardSelector(case["B"] // case["N"], None)(regions(torch.zeros(2, 4).long(), loss))
    assert chosen.all()
    assert (index + torch.tensor([[0], [4]])).flatten().tolist() == case["per_image_selected"]


def test_quota_of_rfcn():
    case = GOLDEN["rfcn_ohem_annotator"]
    labels, loss = torch.tensor(case["labels"]).view(2, 4), torch.tensor(case["loss"]).view(2, 4)
    index, chosen = HardSelector(case["quota"], nms_iou=None)(regions(labels, loss))
    left = torch.full_like(labels, -1).scatter(1, index, torch.where(chosen, labels.gather(1, index), -1))
    assert left.flatten().tolist() == case["labels_out"]


def test_pools_of_the_baseline_and_of_ohem():
    case = GOLDEN["roi_pool_rules"]
    ious = torch.tensor([case["max_iou"]])
    labels = (ious >= 0.5).long()
    pools = {
        "frcn": RandomSelector(64, 1.0, background_floor=0.1)(regions(labels, ious=ious)),
        "ohem": HardSelector(64, None)(regions(labels, [[1.0] * ious.shape[1]])),
    }
    for name, found in pools.items():
        rows = sorted(picked(*found)[0])
        positive, background = (case[key] for key in case if key.startswith((f"{name}_fg", f"{name}_bg")))
        assert [r for r in rows if labels[0, r]] == positive
        assert [r for r in rows if not labels[0, r]] == background


def test_iou_of_one_half_is_positive_and_none_is_background():
    rois = torch.tensor([[[0.0, 0, 10, 5], [0.0, 0, 10, 4.99], [20, 20, 30, 30]]])
    box = torch.tensor([[[0.0, 0, 10, 10]]])
    labels, _, ious = label_rois(rois, torch.ones(1, 3).bool(), box, torch.tensor([[4]]), torch.tensor([[State.VALID]]))
    assert labels.tolist() == [[5, 0, 0]]
    torch.testing.assert_close(ious, torch.tensor([[0.5, 0.499, 0.0]]))


# Selection


def greedy(boxes, loss, groups, usable, nms_iou, count):
    """Selection as the paper tells it, one RoI after the other."""
    iou = box_iou(boxes, boxes)
    kept = []
    for row in sorted((r for r in range(len(loss)) if usable[r]), key=lambda r: -loss[r]):
        if not any(groups[row] == groups[k] and iou[row, k] > nms_iou for k in kept):
            kept.append(row)
    return kept[:count]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 30), per_label=st.booleans(), nms_iou=st.sampled_from([0.3, 0.7])
)
def test_selection_is_the_greedy_one(seed, count, per_label, nms_iou):
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 24, 2, generator=rng) * 30
    boxes = torch.cat([corner, corner + 10 + torch.rand(2, 24, 2, generator=rng) * 20], dim=-1)
    labels = torch.randint(-1, 3, (2, 24), generator=rng)
    loss = torch.rand(2, 24, generator=rng)
    index, chosen = HardSelector(count, nms_iou, per_label)(regions(labels, loss, boxes))
    assert index.shape == chosen.shape == (2, min(count, 24))
    for image in range(2):
        groups = labels[image] if per_label else torch.zeros(24)
        expected = greedy(boxes[image], loss[image], groups, labels[image] >= 0, nms_iou, count)
        assert picked(index, chosen)[image] == expected


@pytest.mark.parametrize(("hard", "share"), [(0, 0.0), (1, 1.0)])
def test_there_is_no_quota_of_positives(hard, share):
    """If all objects are easier than the background none is learned from, and the other way round."""
    labels = torch.tensor([[1] * 10 + [0] * 10])
    loss = torch.where(labels > 0, float(hard), 1.0 - hard) + torch.arange(20) / 100
    index, _ = HardSelector(8, None)(regions(labels, loss))
    assert (labels.gather(1, index) > 0).float().mean() == share


def test_what_is_no_number_is_selected():
    """Training stops at losses that are not finite; a selection must not hide them."""
    index, chosen = HardSelector(2, None)(regions(torch.zeros(1, 4).long(), [[1.0, torch.nan, 3.0, 2.0]]))
    assert picked(index, chosen) == [[1, 2]]


@pytest.mark.parametrize("arguments", [{"count": 0}, {"nms_iou": 1.5}, {"nms_iou": -0.1}, {"ranking": "both"}])
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match=r"OHEM needs|ranking must"):
        HardSelector(**arguments)


# In a detector


@pytest.mark.parametrize("form", MAKERS)
def test_only_selected_rois_have_a_gradient(form):
    model = detector(form).eval()
    outputs = []

    def keep(module, inputs, output):
        if output[0].requires_grad:
            outputs.append([o for o in output if o.retain_grad() is None])

    model.roi_head.predictor.register_forward_hook(keep)
    batch = make_batch(2, 96, 128)
    losses = model.losses(batch)
    (losses["roi_class"] + losses["roi_box"]).backward()
    ((logits, deltas),) = outputs  # ranking leaves no graph, so that only the second pass is here
    selected = model.selected
    assert logits.shape[:2] == selected.chosen.shape == (2, 8)
    assert selected.chosen.all()
    hot = torch.nn.functional.one_hot(selected.labels, 7)
    torch.testing.assert_close(logits.grad, (logits.softmax(-1) - hot).detach() / 16, atol=1e-6, rtol=0)
    assert (deltas.grad[selected.labels == 0] == 0).all()
    assert (selected.labels > 0).any()
    for view, row in (selected.labels > 0).nonzero().tolist():
        place = int(selected.objects[view, row])
        assert batch.labels[view, place] + 1 == selected.labels[view, row]
        assert box_iou(selected.boxes[view, [row]], batch.boxes[view, [place]]) >= 0.5
    torch.testing.assert_close(losses["roi_class"] + losses["roi_box"], selected.losses.sum() / 16)
    # They are the hardest of those that NMS leaves, so the hardest of all.
    torch.testing.assert_close(
        selected.losses.amax(dim=1), selected.candidates.nan_to_num(-1).amax(dim=1), atol=1e-5, rtol=1e-5
    )


class Masked(HardSelector):
    """OHEM in one pass: every RoI goes through the head, and a mask takes the loss of the others away."""

    def __call__(self, regions):
        index, chosen = super().__call__(regions)
        shape = regions.labels.shape
        mask = torch.zeros(shape, dtype=torch.bool).scatter(1, index, chosen)
        return torch.arange(shape[1]).expand(shape), mask


@pytest.mark.parametrize("form", MAKERS)
def test_two_passes_have_the_gradient_of_one_masked_pass(form):
    batch = make_batch(2, 96, 128)
    gradients = []
    for select in (HardSelector(8), Masked(8)):
        model = detector(form, select).eval()
        sum(model.losses(batch).values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("form", MAKERS)
def test_ohem_adds_no_parameter(form):
    with_ohem, without = (
        {n: p.shape for n, p in detector(form, s).state_dict().items()} for s in (HardSelector(8), RandomSelector(8))
    )
    assert with_ohem == without


@pytest.mark.parametrize("form", MAKERS)
@pytest.mark.parametrize("states", [[[0, 0], [0, 0]], [[1, 1], [0, 0]], [[3, 3], [2, 2]]])
def test_images_without_boxes(form, states):
    model = detector(form)
    batch = make_batch(2, 96, 128, boxes=2, padded=2)
    batch.states = batch.anchor_states = torch.tensor(states)
    losses = model.losses(batch)
    assert all(torch.isfinite(v) for v in losses.values())
    assert model.selected.chosen.sum() == 16
    if states[1] == [0, 0]:
        assert (model.selected.labels[1] == 0).all()


def test_fewer_rois_than_the_quota():
    """All of them are used once, and the loss is their mean."""
    model = detector().eval()
    batch = make_batch(2, 96, 128, boxes=0, padded=2)
    maps = model.features(batch.images, batch.sizes).maps
    rois = torch.tensor([[[0.0, 0, 20, 20], [40, 40, 90, 90], [0, 0, 1, 1], [0, 0, 1, 1]]]).repeat(2, 1, 1)
    valid = torch.tensor([[True, True, False, False], [False] * 4])
    losses, selected = model.roi_head.losses(maps, Proposals(rois, valid.float(), valid), batch)
    assert selected.chosen.sum(dim=1).tolist() == [2, 0]
    logits, _ = model.roi_head.predictor(model.roi_head.predictor.shared(maps), rois)
    expected = -logits.log_softmax(-1)[0, :2, 0].mean()
    torch.testing.assert_close(losses["roi_class"], expected)
    assert losses["roi_box"] == 0


def test_ranking_is_in_chunks_and_in_the_mode_that_was_asked_for():
    for mode in ("eval", "train"):
        model = detector(select=HardSelector(8, ranking=mode)).train()
        calls = []
        model.roi_head.predictor.register_forward_hook(
            lambda module, inputs, output, calls=calls: calls.append(
                (inputs[1].shape[1], module.training, module.trunk.training, output[0].requires_grad)
            )
        )
        model.losses(make_batch(2, 96, 128))
        *ranked, last = calls
        training = mode == "train"
        assert {call[1:] for call in ranked} == {(training, training, False)}
        assert max(call[0] for call in ranked) == 8
        assert sum(call[0] for call in ranked) == 40 + 16  # proposals and padded boxes
        assert last == (8, True, True, True)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_ranking_leaves_statistics_alone(mode):
    """BatchNorm in the head of a "C4" detector learns from the selected RoIs only, once per step."""
    torch.manual_seed(0)
    backbone = torchvision_backbone("resnet18", "c4", norm="batch")
    select = (AllSelector(), HardSelector(4, ranking=mode))
    model = c4(backbone, 3, [32], [1.0], *select, roi_size=2, after_nms=(12, 12)).train()
    norms = [m for m in model.roi_head.modules() if isinstance(m, nn.BatchNorm2d)]
    inputs = []
    norms[0].register_forward_pre_hook(lambda module, x: inputs.append(x[0].detach()))
    model.losses(make_batch(2, 64, 64, classes=3))
    assert all(n.training and n.num_batches_tracked == 1 for n in norms)
    torch.testing.assert_close(norms[0].running_mean, 0.1 * inputs[-1].mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_layers_that_rois_share_keep_their_graph(mode):
    """BatchNorm in R-FCN's last stage runs once, with gradient, before RoIs are ranked."""
    torch.manual_seed(0)
    backbone = torchvision_backbone("resnet18", "c4", norm="batch")
    select = (AllSelector(), HardSelector(4, ranking=mode))
    model = rfcn(backbone, 3, [32], [1.0], *select, head_width=16, roi_size=3, after_nms=(12, 12)).train()
    sum(model.losses(make_batch(2, 64, 64, classes=3)).values()).backward()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(n.num_batches_tracked == 1 for n in norms)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_ranking_restores_modes_after_an_error():
    module = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())
    module[1].eval()

    def fail():
        with ranking_mode(module, "train"):
            assert module[1].training
            module[0](torch.randn(4, 2, 3, 3))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert [m.training for m in module.modules()] == [True, True, False]
    assert module[0].running_mean.eq(0).all()
    assert module[0].num_batches_tracked == 0


@pytest.mark.parametrize("form", MAKERS)
def test_no_roi_out_of_range_is_mined(form):
    model = detector(form)
    batch = make_batch(2, 96, 128, ranges=(0.0, 30.0))
    model.losses(batch)
    rois = model.selected.boxes[model.selected.chosen]
    assert len(rois) > 4
    assert ((rois[:, 2:] - rois[:, :2]).prod(dim=1).sqrt() < 30).all()


# Half-configured setups


@pytest.mark.parametrize("form", MAKERS)
def test_a_quota_that_takes_all_candidates_is_refused(form):
    detector(form, HardSelector(39))
    with pytest.raises(ValueError, match=r"keeps the 40 hardest RoIs of 40 proposals.*selection.rois.count"):
        detector(form, HardSelector(40))
    detector(form, RandomSelector(40))


def test_few_anchors_are_few_candidates():
    arguments = (tiny_backbone("c4"), 6, [16], [1.0], AllSelector())
    with pytest.raises(ValueError, match="keeps the 30 hardest RoIs of 30 proposals"):
        c4(*arguments, HardSelector(30), before_nms=(30, 30), after_nms=(40, 40))


def test_collective_statistics_cannot_be_ranked_with():
    """Ranks would wait for each other: they have different numbers of chunks."""
    backbone = torchvision_backbone("resnet18", "c4", norm="sync")
    with pytest.raises(ValueError, match=r"ranking=train cannot be used with backbone\.norm=sync"):
        c4(backbone, 3, [32], [1.0], AllSelector(), HardSelector(4, ranking="train"))


@pytest.mark.parametrize("form", MAKERS)
def test_the_box_loss_is_the_one_that_was_asked_for(form):
    torch.manual_seed(0)
    batch, losses = make_batch(2, 96, 128), []
    for beta in (0.01, 1.0):
        torch.manual_seed(0)
        model = MAKERS[form]((AllSelector(), AllSelector()), box_beta=beta).eval()
        losses.append(model.losses(batch)["roi_box"].item())
    assert losses[0] > 1.5 * losses[1]


@pytest.mark.parametrize("select", [HardSelector(8), HardNegativeSelector()])
def test_anchors_are_not_ranked_by_loss(select):
    with pytest.raises(ValueError, match=r"selection\.rois"):
        c4(tiny_backbone("c4"), 6, [16], [1.0], select, RandomSelector(8))


def test_selectors_that_rank_say_what_they_lack():
    labels = torch.tensor([[1, 0]])
    for select in (HardSelector(1), HardNegativeSelector()):
        with pytest.raises(ValueError, match="ranks regions by loss, and got no losses"):
            select(regions(labels))


def test_rois_can_be_selected_by_hard_negatives():
    """A selector that may keep all regions ranks them at once, in the mode that it names."""
    model = detector(select=HardNegativeSelector()).train()
    losses = model.losses(make_batch(2, 96, 128))
    assert all(torch.isfinite(v) for v in losses.values())
    positives = ((model.selected.labels > 0) & model.selected.chosen).sum(dim=1)
    assert (model.selected.chosen.sum(dim=1) <= 4 * positives).all()
    assert model.selected.candidates.shape == (2, 40 + 16)


def test_anchors_know_their_iou_with_objects():
    """A floor of backgrounds is a matter of the selector alone."""
    torch.manual_seed(0)
    select = RandomSelector(8, 0.5, background_floor=0.1)
    model = c4(tiny_backbone("c4"), 6, [16, 32], [1.0], select, AllSelector(), head_width=16, roi_size=3)
    assert all(torch.isfinite(v) for v in model.losses(make_batch(2, 96, 128)).values())
