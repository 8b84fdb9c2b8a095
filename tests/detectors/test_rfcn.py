"""R-FCN: position-sensitive pooling, the dilated stage, deformable layers, and the detector made of them."""

import json
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import losses_of, make_batch
from support.makers import rfcn
from torch import nn

from lightning_det.backbones import tiny_backbone, torchvision_backbone
from lightning_det.backbones.atrous import DeformableConv, deform, dilate
from lightning_det.detectors.position_sensitive import PositionSensitive
from lightning_det.ops.position_sensitive import deformable_ps_roi_pool, ps_roi_align, ps_roi_pool
from lightning_det.selection import AllSelector, HardSelector, RandomSelector

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ohem_rfcn.json").read_text())

POOLINGS = {"align": ps_roi_align, "classic": ps_roi_pool, "deformable": deformable_ps_roi_pool}


def golden_map():
    """4 channels of 4 x 4, value = 100 c + 4 y + x."""
    return (100 * torch.arange(4)[:, None] + torch.arange(16)).float().view(1, 4, 4, 4)


WHOLE = torch.tensor([[[0.0, 0, 4, 4]]])  # inclusive corners 0 and 3


# Pooling


@pytest.mark.parametrize(
    ("pooling", "arguments", "roi", "expected"),
    [
        (ps_roi_pool, {}, (0, 0, 4, 4), "ps_pool"),
        (ps_roi_pool, {}, (0, 0, 3, 3), "ps_pool_roi2(overlapping bins)"),
        (ps_roi_align, {"samples": 2}, (0, 0, 4, 4), "ps_roi_align_sr2(roi [0,0,4,4])"),
        (ps_roi_align, {"samples": 4}, (0, 0, 4, 4), "ps_roi_align_sr4"),
        (deformable_ps_roi_pool, {}, (0, 0, 4, 4), "deformable_ps_no_trans_spp4"),
    ],
)
def test_golden_bins(pooling, arguments, roi, expected):
    case = GOLDEN["ps_roi_pooling"]
    pooled = pooling(golden_map(), torch.tensor([[roi]]).float(), 2, 1, **arguments)
    assert pooled.shape == (1, 1, 1, 2, 2)
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor(case[expected]))
    if expected == "ps_pool":
        assert pooled.mean() == case["ps_pool_vote_mean"]


def test_golden_shift():
    case = GOLDEN["ps_roi_pooling"]
    offsets = torch.zeros(1, 1, 1, 2, 2, 2)
    offsets[:, :, :, 0] = 1  # x; a tenth of a RoI of 4 cells
    pooled = deformable_ps_roi_pool(golden_map(), WHOLE, 2, 1, offsets)
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor(case["deformable_ps_trans_x=1_std0.1"]))
    moved = deformable_ps_roi_pool(golden_map(), WHOLE, 2, 1, offsets.flip(3)) - deformable_ps_roi_pool(
        golden_map(), WHOLE, 2, 1
    )
    # Along y: every row of cells is 4 more; at most 0.4 cells down, less where samples were clamped to the map.
    assert (moved > 0.4).all()
    assert (moved <= 4 * 0.4 + 1e-4).all()


@pytest.mark.parametrize("pooling", POOLINGS.values())
def test_constant_maps_stay_constant(pooling):
    rois = torch.tensor([[[0.0, 0, 64, 48], [13, 7, 29, 44], [50, 40, 64, 48]]])
    pooled = pooling(torch.full((1, 18, 6, 8), 7.0), rois, 3, 8)
    assert pooled.shape == (1, 3, 2, 3, 3)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 7.0))


@pytest.mark.parametrize("pooling", POOLINGS.values())
def test_channels_of_a_bin_belong_to_it(pooling):
    """Permuting the groups of channels permutes bins and output channels alike."""
    torch.manual_seed(0)
    maps, rois = torch.randn(2, 3 * 9, 7, 9), random_rois(2, 5, 72, 56)
    order = torch.randperm(27)
    pooled = pooling(maps, rois, 3, 8)
    alone = torch.zeros_like(maps)
    alone[:, 1 * 9 + 2 * 3 + 0] = maps[:, 1 * 9 + 2 * 3 + 0]  # class 1, row 2, column 0
    only = pooling(alone, rois, 3, 8)
    assert only[:, :, 1, 2, 0].equal(pooled[:, :, 1, 2, 0])
    only[:, :, 1, 2, 0] = 0
    assert (only == 0).all()
    # A map that is the same for all groups but for its value: each bin gets its own group's.
    values = order.float()[None, :, None, None].expand(2, -1, 7, 9).contiguous()
    expected = order.float().view(3, 3, 3).expand(2, 5, -1, -1, -1)
    torch.testing.assert_close(pooling(values, rois, 3, 8), expected)


def random_rois(batch, count, width, height, seed=0):
    rng = torch.Generator().manual_seed(seed)
    limit = torch.tensor([width, height])
    a, b = (torch.rand(batch, count, 2, generator=rng) * limit for _ in range(2))
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], dim=-1)


def round_up(value):
    return floor(value + 0.5)


def classic_by_hand(maps, roi, k, stride):
    """py-R-FCN's kernel in Python, for exclusive right and lower edges."""
    channels, height, width = maps.shape
    x1, y1, x2, y2 = (round_up(v) / stride for v in roi)
    sizes = max(x2 - x1, 0.1) / k, max(y2 - y1, 0.1) / k
    out = np.zeros((channels // k**2, k, k))
    for c, i, j in np.ndindex(*out.shape):
        low_y, high_y = floor(np.float32(i * sizes[1] + y1)), ceil(np.float32((i + 1) * sizes[1] + y1))
        low_x, high_x = floor(np.float32(j * sizes[0] + x1)), ceil(np.float32((j + 1) * sizes[0] + x1))
        cells = maps[
            (c * k + i) * k + j, max(low_y, 0) : min(max(high_y, 0), height), max(low_x, 0) : min(max(high_x, 0), width)
        ]
        out[c, i, j] = cells.mean() if cells.size else 0
    return out


def deformable_by_hand(maps, roi, k, stride, offsets=None, samples=4):
    """The kernel of Deformable ConvNets v1 in Python."""
    channels, height, width = maps.shape
    x1, y1, x2, y2 = (round_up(v) / stride for v in roi)
    roi_width, roi_height = max(x2 - x1, 0.1), max(y2 - y1, 0.1)
    x1, y1 = x1 - 0.5, y1 - 0.5
    out = np.zeros((channels // k**2, k, k))
    for c, i, j in np.ndindex(*out.shape):
        shift = np.zeros(2) if offsets is None else offsets[c * len(offsets) // len(out), :, i, j] * 0.1
        total = count = 0
        for a, b in np.ndindex(samples, samples):
            x = x1 + j * roi_width / k + shift[0] * roi_width + b * roi_width / k / samples
            y = y1 + i * roi_height / k + shift[1] * roi_height + a * roi_height / k / samples
            if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                continue
            x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
            x0, y0 = floor(x), floor(y)
            plane = maps[(c * k + i) * k + j]
            for yy, wy in ((y0, 1 - y + y0), (min(y0 + 1, height - 1), y - y0)):
                for xx, wx in ((x0, 1 - x + x0), (min(x0 + 1, width - 1), x - x0)):
                    total += wy * wx * plane[yy, xx]
            count += 1
        out[c, i, j] = total / count if count else 0
    return out


@pytest.mark.parametrize("seed", range(4))
def test_pooling_follows_the_published_kernels(seed):
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 2 * 9, 6, 8, generator=rng)
    rois = random_rois(2, 6, 64, 48, seed)
    rois[0, 0] = torch.tensor([0.0, 0, 64, 48])
    rois[0, 1] = torch.tensor([40.0, 30, 64, 48])  # at the right and lower border, which torchvision's pooling cuts
    rois[1, 0] = torch.tensor([20.0, 20, 20.2, 20.2])  # smaller than a cell
    offsets = torch.randn(2, 6, 2, 2, 3, 3, generator=rng) * 3
    classic, plain = ps_roi_pool(maps, rois, 3, 8), deformable_ps_roi_pool(maps, rois, 3, 8)
    shifted = deformable_ps_roi_pool(maps, rois, 3, 8, offsets)
    agnostic = deformable_ps_roi_pool(maps, rois, 3, 8, offsets[:, :, :1])
    for image, roi in np.ndindex(2, 6):
        arguments = maps[image].numpy(), rois[image, roi].tolist(), 3, 8
        own = offsets[image, roi].numpy()
        np.testing.assert_allclose(classic[image, roi], classic_by_hand(*arguments), atol=1e-5)
        np.testing.assert_allclose(plain[image, roi], deformable_by_hand(*arguments), atol=1e-5)
        np.testing.assert_allclose(shifted[image, roi], deformable_by_hand(*arguments, own), atol=1e-5)
        np.testing.assert_allclose(agnostic[image, roi], deformable_by_hand(*arguments, own[:1]), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS.values())
def test_pooling_has_the_gradient_of_its_values(pooling):
    torch.manual_seed(0)
    maps = torch.randn(1, 4, 5, 6, requires_grad=True)
    rois = torch.tensor([[[3.0, 5, 40, 37], [10, 0, 48, 40]]])
    weights = torch.randn(1, 2, 1, 2, 2)
    (pooling(maps, rois, 2, 8) * weights).sum().backward()
    step = torch.randn_like(maps)
    with torch.no_grad():
        change = ((pooling(maps + step, rois, 2, 8) - pooling(maps, rois, 2, 8)) * weights).sum()
    # Pooling is linear in the map.
    torch.testing.assert_close((maps.grad * step).sum(), change, atol=1e-4, rtol=1e-4)


def test_shifts_have_a_gradient():
    torch.manual_seed(0)
    maps = torch.randn(1, 4, 9, 9).cumsum(-1)
    offsets = (torch.randn(1, 1, 1, 2, 2, 2) * 0.3).requires_grad_()
    rois = torch.tensor([[[9.0, 9, 60, 60]]])

    def value(o):
        return deformable_ps_roi_pool(maps, rois, 2, 8, o).sum()

    value(offsets).backward()
    for place in np.ndindex(2, 2, 2):
        nudge = torch.zeros_like(offsets)
        nudge[0, 0, 0][place] = 1e-2
        with torch.no_grad():
            slope = (value(offsets + nudge) - value(offsets - nudge)) / 2e-2
        torch.testing.assert_close(offsets.grad[0, 0, 0][place], slope.float(), atol=0.05, rtol=0.05)


# The last stage


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v3_large"])
def test_a_dilated_stage_is_the_old_one_at_every_second_cell(name):
    torch.manual_seed(0)
    stage, _ = torchvision_backbone(name, "c4").roi_stage
    for module in stage.modules():
        # Squeeze and excitation looks at the whole map, which has four times as many cells.
        if type(module).__name__ == "SqueezeExcitation":
            module.forward = lambda x: x
    stage = stage.eval()
    x = torch.randn(1, next(m for m in stage.modules() if isinstance(m, nn.Conv2d)).in_channels, 14, 18)
    with torch.no_grad():
        before = stage(x)
        after = dilate(stage)(x)
    assert after.shape[2:] == x.shape[2:]
    torch.testing.assert_close(after[:, :, ::2, ::2], before, atol=1e-4, rtol=1e-4)
    assert all(m.stride == (1, 1) for m in stage.modules() if isinstance(m, nn.Conv2d))


def test_a_stage_that_cannot_be_dilated_is_refused():
    stage, _ = torchvision_backbone("convnext_tiny", "c4", norm=None).roi_stage
    with pytest.raises(ValueError, match="2 x 2 convolution of stride 2"):
        dilate(stage)


def test_a_stage_that_pools_cannot_be_dilated():
    stage = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.AvgPool2d(2))
    with pytest.raises(ValueError, match="halves the resolution by pooling, which dilation cannot replace"):
        dilate(stage)


def test_golden_deformable_convolution():
    case = GOLDEN["deform_conv"]
    conv = nn.Conv2d(1, 1, 3, bias=False)
    layer = DeformableConv(conv, groups=1)
    x = torch.arange(25.0).view(1, 1, 5, 5)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3))
        torch.testing.assert_close(layer(x)[0, 0], torch.tensor(case["zero_offset"]))
        layer.offset.bias[1::2] = 0.5  # (dy, dx) per tap
        torch.testing.assert_close(layer(x)[0, 0], torch.tensor(case["offset(dy=0,dx=+0.5 every tap)"]))


def test_deformable_convolutions_start_as_plain_ones():
    torch.manual_seed(0)
    stage, _ = torchvision_backbone("resnet50", "c4").roi_stage
    dilate(stage).eval()
    x = torch.randn(1, 1024, 6, 7)
    with torch.no_grad():
        before = stage(x)
        deform(stage, 3)
        torch.testing.assert_close(stage(x), before, atol=1e-4, rtol=1e-4)
    layers = [m for m in stage.modules() if isinstance(m, DeformableConv)]
    assert [m.offset.out_channels for m in layers] == [72, 72, 72]
    assert [m.conv.dilation for m in layers] == [(1, 1), (2, 2), (2, 2)]
    stage(x).sum().backward()
    assert all(m.offset.weight.grad.abs().sum() > 0 for m in layers)


def test_deformable_layers_that_there_are_not_are_refused():
    stage, _ = torchvision_backbone("resnet50", "c4").roi_stage
    with pytest.raises(ValueError, match="deformable_convs must be 0 to 3"):
        deform(stage, 4)
    stage, _ = torchvision_backbone("mobilenet_v3_large", "c4").roi_stage
    with pytest.raises(ValueError, match="without grouped convolutions"):
        deform(stage, 1)
    with pytest.raises(ValueError, match="no last stage with convolutions to deform; take a ResNet"):
        detector(deformable_convs=1)


# The detector


def detector(select=None, backbone=None, **settings):
    torch.manual_seed(0)
    select = select or (AllSelector(), RandomSelector(16))
    small = {"head_width": 32, "roi_size": 3, "after_nms": (40, 40)}
    return rfcn(backbone or tiny_backbone("c4"), 6, [16, 32, 64], [1.0], *select, **small | settings)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("select", [RandomSelector(16), HardSelector(16, nms_iou=None), AllSelector()])
def test_every_parameter_learns(pooling, select):
    model = detector((AllSelector(), select), pooling=pooling)
    losses = model.losses(make_batch(2, 96, 128))
    assert set(losses) == {"rpn_objectness", "rpn_box", "roi_class", "roi_box"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_step_lowers_the_loss():
    model = detector(pooling="deformable", select=(AllSelector(), AllSelector()))
    batch = make_batch(2, 96, 128)
    seen = losses_of(model, batch, steps=12, lr=0.02)
    assert seen[-1] < 0.8 * seen[0]


@pytest.mark.slow
def test_features_keep_their_stride():
    """Views are padded to 608 x 1024 first."""
    model = detector(backbone=torchvision_backbone("resnet50", "c4"))
    with torch.no_grad():
        maps = model.eval().features(torch.zeros(1, 3, 600, 1000, dtype=torch.uint8), torch.tensor([[600, 1000]])).maps
        scores, boxes = model.roi_head.predictor.shared(maps)
    assert maps[0].shape[2:] == scores.shape[2:] == boxes.shape[2:] == (38, 64)
    assert scores.shape[1] == 9 * 7
    assert boxes.shape[1] == 9 * 4


def test_published_channels():
    """1,029 score maps and 196 box maps for VOC's 20 classes and 7 x 7 bins."""
    model = rfcn(tiny_backbone("c4"), 20, [16], [1.0], AllSelector(), AllSelector(), pooling="deformable")
    predictor = model.roi_head.predictor
    layers = (predictor.classify, predictor.regress, predictor.shift_classify, predictor.shift_regress)
    assert [m.out_channels for m in layers] == [1029, 196, 2058, 98]


def test_scores_are_votes_of_the_bins():
    predictor = detector().roi_head.predictor
    maps = [torch.randn(1, 63, 8, 8, requires_grad=True), torch.randn(1, 36, 8, 8)]
    rois = torch.tensor([[[0.0, 0, 64, 64]]])
    bins = ps_roi_align(maps[0], rois, 3, 8)
    logits, deltas = predictor(maps, rois)
    torch.testing.assert_close(logits, bins.mean(dim=(-2, -1)))
    assert deltas.shape == (1, 1, 1, 4)
    (gradient,) = torch.autograd.grad(logits[0, 0, 2], maps[0])
    per_channel = gradient[0].sum(dim=(1, 2))
    expected = torch.zeros(63)
    expected[18:27] = 1 / 9
    torch.testing.assert_close(per_channel, expected)


def test_boxes_are_the_same_for_all_classes():
    model = detector().eval()
    batch = make_batch(1, 96, 128)
    found = model(batch.images, batch.sizes, 0.0, 1.0, 1000)
    boxes = found.boxes[found.valid]
    # 40 proposals with 6 classes each.
    assert len(boxes) > 40
    assert len(boxes.unique(dim=0)) <= 40


def test_deformable_pooling_starts_unshifted():
    model = detector(pooling="deformable").eval()
    batch = make_batch(1, 96, 128)
    predictor, rois = model.roi_head.predictor, random_rois(1, 8, 128, 96)
    maps = model.features(batch.images, batch.sizes).maps
    shared = predictor.shared(maps)
    logits, deltas = predictor(shared, rois)
    plain = deformable_ps_roi_pool(shared[0], rois, 3, 8).mean(dim=(-2, -1))
    torch.testing.assert_close(logits, plain)
    with torch.no_grad():
        predictor.shift_classify.bias.fill_(2.0)
    shifted, same = predictor(predictor.shared(maps), rois)
    assert not torch.allclose(shifted, logits)
    torch.testing.assert_close(same, deltas)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_diverged_weights_neither_crash_nor_detect(pooling):
    model = detector(pooling=pooling)
    batch = make_batch(2, 96, 128)
    with torch.no_grad():
        model.rpn.head.bbox_pred.weight.fill_(torch.nan)
        model.roi_head.predictor.regress.weight.fill_(torch.nan)
    assert torch.isnan(sum(model.losses(batch).values()))
    with torch.no_grad():
        for passes in (1, 2):
            assert not model.eval()(batch.images, batch.sizes, passes=passes).valid.any()


@pytest.mark.parametrize("precision", ["autocast", "true"])
def test_half_precision_moves_no_coordinate(precision):
    """Deformable layers and pooling far from the origin, where bfloat16 knows whole cells only."""
    torch.manual_seed(0)
    layer = DeformableConv(nn.Conv2d(4, 4, 3, padding=1), groups=1)
    nn.init.constant_(layer.offset.bias, 3.3)
    x = torch.randn(1, 4, 6, 300)
    maps, rois = torch.arange(300.0).expand(1, 4, 20, 300) / 64, torch.tensor([[[2005.0, 8, 2331, 99]]])
    exact = layer(x), *(pool(maps, rois, 2, 8) for pool in POOLINGS.values())
    if precision == "true":
        layer, x = layer.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        half = layer(x), *(pool(maps.bfloat16(), rois, 2, 8) for pool in POOLINGS.values())
    for a, b in zip(exact, half, strict=True):
        torch.testing.assert_close(b.float(), a, atol=0.03, rtol=0.02)


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="align, classic or deformable"):
        PositionSensitive(nn.Identity(), 8, 2, 16, pooling="max")


def test_pretrained_layers_are_those_of_the_backbone():
    """conv5 keeps its weights where R-FCN makes it an image-level stage."""
    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None)
    torch.manual_seed(3)
    model = detector(backbone=torchvision_backbone("resnet18", "c4"))
    weights = model.state_dict()
    names = [n for n in network.state_dict() if n.startswith("layer4.")]
    assert len(names) > 20
    for name in names:
        ours = f"roi_head.predictor.trunk.0.0.{name.removeprefix('layer4.')}"
        assert torch.equal(weights[ours], network.state_dict()[name]), name
