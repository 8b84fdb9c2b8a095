"""The contract of backbones."""

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, get_model
from torchvision.ops import FrozenBatchNorm2d

from lightning_det.backbones import timm_backbone, tiny_backbone, torchvision_backbone

PYRAMIDS = {
    "resnet18": [64, 128, 256, 512],
    "resnet34": [64, 128, 256, 512],
    "resnet50": [256, 512, 1024, 2048],
    "resnet101": [256, 512, 1024, 2048],
    "mobilenet_v3_large": [24, 40, 112, 960],
    "convnext_tiny": [96, 192, 384, 768],
}


def build(name, form, **options):
    if name == "tiny":
        return tiny_backbone(form, **options)
    options.setdefault("norm", None if name == "convnext_tiny" else "batch")
    return torchvision_backbone(name, form, **options)


@pytest.mark.parametrize("name", ["tiny", *PYRAMIDS])
@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_maps_are_as_announced(name, form):
    backbone = build(name, form).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(2, 3, 96, 160))
    assert [m.shape[1] for m in maps] == backbone.channels
    assert [(96 // m.shape[2], 160 // m.shape[3]) for m in maps] == [(s, s) for s in backbone.strides]
    if form == "pyramid":
        assert backbone.strides == [4, 8, 16, 32]
        assert backbone.channels == PYRAMIDS.get(name, [32, 64, 96, 128])
        assert backbone.roi_stage is None
    elif name == "tiny":
        assert backbone.strides == [8]
        assert backbone.roi_stage is None
    else:
        assert backbone.strides == [16]
        features = backbone.roi_stage.layers.eval()(torch.zeros(1, backbone.channels[0], 14, 14))
        assert features.shape[1:] == (backbone.roi_stage.channels, 7, 7)
        # The stage belongs to whoever takes it.
        assert not any(p is q for p in backbone.parameters() for q in backbone.roi_stage.layers.parameters())


def test_c4_and_its_stage_are_the_whole_network():
    network = get_model("resnet18")
    backbone = torchvision_backbone("resnet18", "c4")
    ours = sum(p.numel() for m in (backbone, backbone.roi_stage.layers) for p in m.parameters())
    assert ours == sum(p.numel() for n, p in network.named_parameters() if not n.startswith("fc"))


def test_tiny_is_tiny():
    for form in ("c4", "pyramid"):
        assert sum(p.numel() for p in tiny_backbone(form).parameters()) < 1e6


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("frozen", FrozenBatchNorm2d),
        ("batch", nn.BatchNorm2d),
        ("sync", nn.SyncBatchNorm),
        ("group", nn.GroupNorm),
    ],
)
@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v3_large"])
def test_norm_modes(name, norm, kind):
    backbone = build(name, "pyramid", norm=norm)
    norms = [m for m in backbone.modules() if isinstance(m, (FrozenBatchNorm2d, nn.GroupNorm, nn.BatchNorm2d))]
    norms += [m for m in backbone.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert norms
    assert all(isinstance(m, kind) for m in norms)


def test_frozen_norm_keeps_statistics():
    trained = torchvision_backbone("resnet18", "pyramid")
    trained.train()
    for _ in range(3):
        trained(torch.randn(2, 3, 64, 64))
    frozen = torchvision_backbone("resnet18", "pyramid", norm="frozen")
    frozen.load_state_dict({k: v for k, v in trained.state_dict().items() if "num_batches" not in k})
    image = torch.randn(1, 3, 64, 64)
    frozen.train()
    trained.eval()
    for a, b in zip(frozen(image), trained(image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_frozen_stages_neither_learn_nor_drift():
    backbone = torchvision_backbone("resnet18", "pyramid", frozen_stages=2).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    trainable = {n.split(".")[1] for n, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == {"2", "3"}
    for name, tensor in backbone.state_dict().items():
        if name.startswith(("stages.0", "stages.1")):
            assert torch.equal(tensor, before[name]), name


def test_pretrained_weights_by_enum_name(monkeypatch):
    torch.manual_seed(1)
    stored = get_model("resnet18").state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, *args, **kwargs: stored)
    backbone = torchvision_backbone("resnet18", "pyramid", weights="IMAGENET1K_V1")
    assert torch.equal(backbone.stages[0][0].weight, stored["conv1.weight"])
    assert torch.equal(backbone.stages[3][0][1].conv2.weight, stored["layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "COCO"}, "IMAGENET1K_V1, DEFAULT or null"),
        ({"weights": "DEFAULT", "norm": "group"}, "norm=group"),
        ({"norm": None}, "must be frozen, batch, sync or group"),
        ({"form": "fpn"}, "c4 or pyramid"),
        ({"frozen_stages": 5}, "frozen_stages must be 0 to 4"),
    ],
)
def test_impossible_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        torchvision_backbone("resnet18", **({"form": "pyramid"} | options))


def test_layer_norm_networks_have_no_norm_mode():
    with pytest.raises(ValueError, match="null: it has no BatchNorm"):
        torchvision_backbone("convnext_tiny", norm="batch")


@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_timm(form):
    pytest.importorskip("timm")
    backbone = timm_backbone("mobilenetv3_small_050", form, norm="frozen").eval()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert list(backbone.strides) == ([16] if form == "c4" else [4, 8, 16, 32])
    assert [64 // m.shape[2] for m in maps] == list(backbone.strides)
    assert any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules())
