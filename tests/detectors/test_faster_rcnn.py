"""The detector on every kind of batch that data can produce."""

import dataclasses
import math

import pytest
import torch
from helpers import make_batch
from support.makers import c4, fpn
from support.two_stages import TakeAll, detector

from lightning_det.backbones import tiny_backbone, torchvision_backbone
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.roi_head import candidates
from lightning_det.detectors.rpn import Proposals
from lightning_det.protocols.selector import Ranking, Selection, Selector
from lightning_det.protocols.structures import State
from lightning_det.selection import RandomSelector


@pytest.mark.slow
@pytest.mark.parametrize("form", ["c4", "pyramid"])
@pytest.mark.parametrize(
    "states",
    [
        [[1, 1, 1], [1, 1, 1]],
        [[0, 0, 0], [0, 0, 0]],  # no boxes at all
        [[1, 1, 0], [0, 0, 0]],  # one image without boxes
        [[2, 2, 2], [3, 3, 3]],  # nothing to learn from
        [[1, 2, 3], [3, 2, 1]],
    ],
)
def test_every_mixture_of_states_trains(form, states):
    model = detector(form)
    batch = make_batch(2, 96, 128, boxes=3, padded=3)
    batch.states = batch.anchor_states = torch.tensor(states)
    losses = model.losses(batch)
    assert set(losses) == {"rpn_objectness", "rpn_box", "roi_class", "roi_box"}
    assert all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_beta_and_weight_of_the_proposals_box_loss():
    """The gradient of smooth L1 is weight * clamp(error / beta, -1, 1)."""
    model = detector(select=(TakeAll(), TakeAll()))
    batch = make_batch(2, 96, 128, boxes=3, padded=3)
    maps, canvas = model.features(batch.images, batch.sizes)
    predictions = model.rpn(maps, canvas)
    slopes = {}
    for beta, weight in ((1 / 9, 1.0), (1.0, 3.0)):
        model.rpn.box_beta, model.rpn.box_weight = beta, weight
        deltas = [d.detach().requires_grad_() for d in predictions.deltas]
        model.rpn.losses(predictions._replace(deltas=deltas), batch)["rpn_box"].backward()
        slopes[beta] = deltas[0].grad
    usual = slopes[1 / 9] / slopes[1 / 9].abs().max()  # some box errors are above 1/9
    errors = slopes[1.0] / slopes[1 / 9].abs().max() / 3  # cut off at 1
    assert 1 / 9 < errors.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(usual, (9 * errors).clamp(-1, 1))
    assert ((usual.abs() > 0) & (usual.abs() < 0.99)).sum() > 5


@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_large_views_have_more_proposals(form):
    model = detector(form).eval()
    model.rpn.per_megapixel = 8000.0
    found = {}
    for height, width in ((64, 64), (128, 256)):
        batch = make_batch(1, height, width)
        maps = model.features(batch.images, batch.sizes).maps
        predictions = model.rpn(maps, (height, width))
        found[width] = model.rpn.propose(predictions, batch.sizes, canvas=(height, width)).boxes.shape[1]
        assert model(batch.images, batch.sizes).boxes.shape[1] == 100
    # Of 50 for views up to 6,250 pixels; shapes follow from the canvas alone.
    assert found == {64: 50, 256: 263}
    assert model.rpn.counts((128, 256)) == (math.ceil(1000 * 263 / 50), 263)
    assert model.rpn.train().counts((128, 256)) == (2000, 100)
    model.rpn.eval().per_megapixel = None
    assert model.rpn.counts((3000, 3000)) == (1000, 50)


def test_published_views_keep_their_proposals():
    """SNIPER's largest view of COCO has 2.8 megapixels, and 300 proposals."""
    rpn = detector().rpn.eval()
    rpn.per_megapixel, rpn.before_nms, rpn.after_nms = 100.0, (12000, 6000), (2000, 300)
    assert rpn.counts((1408, 1984)) == (6000, 300)
    assert rpn.counts((3600, 6400)) == (46_080, 2304)


def test_losses_of_a_background_batch():
    batch = make_batch(2, 96, 128, boxes=0)
    losses = detector().losses(batch)
    assert losses["rpn_box"] == losses["roi_box"] == 0
    assert losses["rpn_objectness"] > 0
    assert losses["roi_class"] > 0


@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_padding_changes_nothing(form):
    """Neither more box slots nor other views in the batch touch a view's own losses."""
    model = detector(form, (TakeAll(), TakeAll())).eval()  # BatchNorm fixed: views stay apart
    model.rpn.before_nms = model.rpn.after_nms = (100, 100)
    one = make_batch(1, 96, 128, boxes=4, padded=4)
    slots = make_batch(1, 96, 128, boxes=4, padded=4)
    pad = torch.zeros(1, 9)
    slots.boxes = torch.cat([slots.boxes, torch.zeros(1, 9, 4)], dim=1)
    slots.labels = torch.cat([slots.labels, pad.long()], dim=1)
    slots.states = slots.anchor_states = torch.cat([slots.states, pad.long()], dim=1)
    parts = {f.name: getattr(one, f.name) for f in dataclasses.fields(one)}
    twice = dataclasses.replace(one, **{name: torch.cat([p, p]) for name, p in parts.items() if p is not None})
    expected = model.losses(one)
    for other in (slots, twice):
        for name, value in model.losses(other).items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


def test_detections_ignore_the_canvas():
    """A view in the corner of a larger canvas gives the same detections, all inside it."""
    model = detector().eval()
    batch = make_batch(1, 96, 128)
    noisy = torch.randint(0, 256, (1, 3, 160, 192), dtype=torch.uint8)
    clean = torch.zeros_like(noisy)
    noisy[:, :, :96, :128] = clean[:, :, :96, :128] = batch.images
    with torch.no_grad():
        found = model(noisy, batch.sizes, score_threshold=0.0)
        expected = model(clean, batch.sizes, score_threshold=0.0)
    assert torch.equal(found.boxes, expected.boxes)
    assert found.boxes[..., [0, 2]].max() <= 128
    assert found.boxes[..., [1, 3]].max() <= 96


def test_detections_are_sorted_padded_and_thresholded():
    model = detector().eval()
    batch = make_batch(3, 96, 128)
    with torch.no_grad():
        found = model(batch.images, batch.sizes, score_threshold=0.15, max_detections=7)
    assert found.boxes.shape == (3, 7, 4)
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()
    assert (found.scores[found.valid] > 0.15).all()
    assert (found.scores[~found.valid] == 0).all()
    assert found.labels[found.valid].max() < 6


@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_diverged_weights_neither_crash_nor_detect(form):
    """torchvision's RoIAlign reads memory at NaN coordinates; the loss must say NaN instead."""
    model = detector(form)
    batch = make_batch(2, 96, 128)
    with torch.no_grad():
        model.rpn.head.bbox_pred.weight.fill_(math.nan)
        model.roi_head.predictor.regress.weight.fill_(math.nan)
    assert torch.isnan(sum(model.losses(batch).values()))
    model.eval()
    with torch.no_grad():
        for passes in (1, 2):
            assert not model(batch.images, batch.sizes, passes=passes).valid.any()


def test_rois_outside_the_valid_range_do_not_qualify():
    batch = make_batch(1, 100, 100, boxes=2, padded=3, scale=2.0, ranges=(20.0, 40.0))
    # On a view of twice the scale: sizes 10, 20, 30 and 40 original pixels.
    sides = torch.tensor([20.0, 40.0, 60.0, 80.0])
    proposals = torch.stack([torch.zeros(4), torch.zeros(4), sides, sides], dim=1)[None]
    batch.boxes[0, :2] = torch.tensor([[0.0, 0.0, 60.0, 60.0], [0.0, 0.0, 90.0, 90.0]])
    valid = torch.tensor([[True, True, True, True]])
    rois, usable = candidates(Proposals(proposals, torch.ones(1, 4), valid), batch)
    assert rois.shape == (1, 7, 4)
    assert usable[0].tolist() == [False, True, True, False, True, False, False]


def test_learning_strategies_get_losses_on_request():
    """A selector that ranks gets the losses that training would use, without gradient."""
    asked = {}

    class Hardest(Selector):
        ranking = Ranking("train", 8)

        def __call__(self, regions):
            asked["losses"] = regions.losses
            top, index = asked["losses"].masked_fill(regions.labels < 0, -1).topk(8, dim=1)
            asked["chosen"] = top
            return Selection(index, top >= 0)

    model = detector(select=(TakeAll(), Hardest()))
    losses = model.losses(make_batch(2, 96, 128))
    assert not asked["losses"].requires_grad
    selected = losses["roi_class"] + losses["roi_box"]
    torch.testing.assert_close(selected.detach(), asked["chosen"].mean(), atol=1e-5, rtol=1e-5)


def test_normalize_equals_torchvision_and_masks():
    images = torch.randint(0, 256, (2, 3, 8, 10), dtype=torch.uint8)
    with pytest.raises(ValueError, match="mean and std are three numbers each"):
        Normalize([])
    out = Normalize()(images, torch.tensor([[8, 10], [5, 7]]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(out[0], expected[0])
    torch.testing.assert_close(out[1, :, :5, :7], expected[1, :, :5, :7])
    assert (out[1, :, 5:] == 0).all()
    assert (out[1, :, :, 7:] == 0).all()


@pytest.mark.slow
def test_c4_uses_the_last_stage_per_roi():
    select = (RandomSelector(32, 0.5), RandomSelector(8, 0.25))
    backbone = torchvision_backbone("resnet18", "c4")
    model = c4(backbone, 3, [32, 64, 128], [1.0], *select, after_nms=(20, 10))
    assert model.roi_head.predictor.trunk.size == 14
    assert model.roi_head.predictor.strides == [16]
    names = [n for n, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    assert any(n.startswith("roi_head.predictor.trunk.stage") for n in names)
    sum(model.losses(make_batch(2, 96, 128, classes=3)).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("form", "make", "sizes", "message"),
    [("pyramid", c4, [32], "use form=c4"), ("pyramid", fpn, [8, 16], "needs 5 sizes")],
)
def test_parts_that_do_not_fit_are_refused(form, make, sizes, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_backbone(form), 3, sizes, [1.0], RandomSelector(), RandomSelector())


def test_invalid_boxes_carry_no_loss_in_the_rpn():
    """Moving an invalid box changes which anchors are silent, never the regression."""
    model = detector(select=(TakeAll(), TakeAll())).eval()
    batch = make_batch(1, 96, 128, boxes=2, padded=2)
    batch.states[0, 1] = State.INVALID
    alone = make_batch(1, 96, 128, boxes=2, padded=2)
    alone.states[0, 1] = State.PADDING
    with_invalid, without = model.losses(batch), model.losses(alone)
    assert not torch.equal(with_invalid["rpn_objectness"], without["rpn_objectness"])
