"""The contract of backbones."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, get_model
from torchvision.ops import FrozenBatchNorm2d

from lightning_det.backbones import timm_backbone, tiny_backbone, torchvision_backbone
from lightning_det.backbones.norms import set_norm

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("norm", ["batch", "sync", "group", "frozen"])
def test_frozen_stages_neither_learn_nor_drift(norm):
    backbone = torchvision_backbone("resnet18", "pyramid", norm=norm, frozen_stages=2).train()
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
        ({"weights": "COCO"}, "IMAGENET1K_V1, DEFAULT, a file or null"),
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


@pytest.mark.parametrize("form", ["pyramid", "c4"])
def test_transformers_of_timm_are_refused(form):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"maps of the same stride.*take a convolutional network"):
        timm_backbone("vit_tiny_patch16_224", form)


# Norms


FAMILIES = [
    *("resnet18", "mobilenet_v3_small", "densenet121", "regnet_y_400mf", "efficientnet_b0", "shufflenet_v2_x0_5"),
    *("mnasnet0_5", "mobilenet_v2"),
    *("timm:tf_efficientnet_lite0", "timm:mobilenetv3_small_050", "timm:regnety_002", "timm:densenet121"),
    *("timm:mixnet_s", "timm:ghostnet_050", "timm:hrnet_w18_small", "timm:resnetv2_34", "timm:cspresnet50"),
    *("timm:res2net50_26w_4s", "timm:xception41", "timm:fastvit_t8"),
]


def network_of(name):
    """A network in eval mode whose BatchNorms have seen something."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        network = pytest.importorskip("timm").create_model(name.removeprefix("timm:"), features_only=True)
    else:
        network = get_model(name, weights=None)
        network = nn.Sequential(*list(network.children())[:-2]) if name.startswith("resnet") else network
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.0)
            nn.init.normal_(norm.bias, std=0.1)
    return network.eval()


@torch.no_grad()
def maps_of(network):
    maps = network(torch.linspace(-2, 2, 2 * 3 * 64 * 64).sin().reshape(2, 3, 64, 64))
    return maps if isinstance(maps, list) else [maps]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_norm_modes_keep_all_that_is_not_norm(name):
    network = network_of(name)
    expected = maps_of(network)
    layers = [m for m in network.modules() if not isinstance(m, nn.BatchNorm2d)]
    for mode in ("batch", "frozen", "sync", "group"):
        other = set_norm(deepcopy(network), mode)
        kinds = [type(m) for m in other.modules()]
        assert [type(m) for m in layers] == [k for k in kinds if not issubclass(k, NORMS[mode])]
        assert sum(issubclass(k, NORMS[mode]) for k in kinds) == sum(
            isinstance(m, nn.BatchNorm2d) for m in network.modules()
        )
        if mode != "group":
            for a, b in zip(maps_of(other), expected, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=1e-5)
        # Weights of the one load into the other, whatever a layer holds besides its norm.
        names = set(other.state_dict())
        assert {n for n in network.state_dict() if not n.endswith(UNSHARED[mode])} == names


NORMS = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "sync": nn.SyncBatchNorm, "group": nn.GroupNorm}
COUNTER, STATISTICS = "num_batches_tracked", ("running_mean", "running_var")
UNSHARED = {"batch": (), "sync": (), "frozen": (COUNTER,), "group": (COUNTER, *STATISTICS)}


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "timm:mobilenetv3_small_050", "timm:regnety_002"])
def test_group_norm_calls_every_activation(name):
    """As many calls, of the same kinds and in the same order, as in the network with BatchNorm."""

    def called(network):
        calls = []
        for m in network.modules():
            if not list(m.children()):
                m.register_forward_hook(lambda m, *_: calls.append(type(m)))
        maps_of(network)
        return [k for k in calls if not issubclass(k, (nn.BatchNorm2d, nn.GroupNorm))]

    network = network_of(name)
    group = set_norm(deepcopy(network), "group")
    assert called(group) == called(network)


class Followed(nn.BatchNorm2d):
    """As timm's: layers behind the norm, inside it."""

    def __init__(self, channels, scale=1.0, **options):
        super().__init__(channels, **options)
        self.drop = nn.Dropout(0.5)
        self.act = nn.ReLU(inplace=True)
        self.scale = scale

    def forward(self, x):
        return self.act(self.drop(super().forward(x))) * self.scale


def test_a_norm_that_holds_layers_goes_on_with_them_in_training():
    norm = set_norm(Followed(4), "group").train()
    torch.manual_seed(0)
    out = norm(torch.randn(2, 4, 8, 8))
    assert (out >= 0).all()
    assert (out == 0).float().mean() > 0.6
    assert not norm.eval()(torch.randn(2, 4, 8, 8)).lt(0).any()


class Gated(nn.BatchNorm2d):
    """Equals a plain one until it has learned."""

    def __init__(self, channels):
        super().__init__(channels)
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return super().forward(x) * self.gate


@pytest.mark.parametrize(
    ("norm", "modes", "message"),
    [
        (lambda: Followed(4, scale=2.0), ("frozen", "sync", "group"), r"cannot replace .*Followed"),
        (lambda: Gated(4), ("frozen", "sync", "group"), r"cannot replace .*Gated"),
        (lambda: nn.BatchNorm1d(4), ("frozen", "group"), "has .*BatchNorm1d too; take batch or sync"),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), ("frozen",), "BatchNorm2d of this network keeps none"),
    ],
)
def test_norms_that_cannot_be_replaced_are_refused_by_name(norm, modes, message):
    for mode in modes:
        with pytest.raises(ValueError, match=f"norm={mode} .*{message}"):
            set_norm(nn.Sequential(norm()), mode)


def test_what_a_norm_has_is_kept():
    norm = Followed(4, affine=False, eps=0.25, momentum=0.7).double()
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    sync = set_norm(deepcopy(norm), "sync")
    assert (sync.eps, sync.momentum, sync.running_var.dtype, sync.weight) == (0.25, 0.7, torch.float64, None)
    frozen = set_norm(deepcopy(norm), "frozen").eval()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(frozen(x.clone()), norm.eval()(x.clone()))
    group = set_norm(deepcopy(norm), "group")
    assert (group.eps, group.weight) == (0.25, None)
    still = nn.BatchNorm2d(8).requires_grad_(False)
    assert not any(p.requires_grad for mode in ("sync", "group") for p in set_norm(deepcopy(still), mode).parameters())


def test_a_norm_with_two_names_stays_one():
    shared = nn.BatchNorm2d(4)
    network = nn.ModuleDict({"a": nn.Sequential(shared, shared), "b": shared})
    set_norm(network, "group")
    assert isinstance(network["b"], nn.GroupNorm)
    assert network["a"][0] is network["a"][1] is network["b"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("convnext_pico", {"norm": "frozen"}, "norm for convnext_pico must be null: it has no BatchNorm, got frozen"),
        ("convnext_pico", {"norm": "batch"}, "must be null"),
        ("regnety_002", {"norm": "group", "weights": "DEFAULT"}, "norm=group cannot use the weights"),
        ("regnety_002", {"norm": "layer"}, "norm must be frozen, batch, sync or group"),
    ],
)
def test_norms_that_do_not_suit_a_network_of_timm_are_refused(name, options, message):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        timm_backbone(name, **options)
