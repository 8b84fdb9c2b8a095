"""Weights of a backbone from a file: what fits is loaded, and said."""

import logging
import re
from itertools import product

import pytest
import torch
from safetensors.torch import save_file
from support.makers import vgg16_features
from torch import nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d
from transformers import RTDetrResNetBackbone, RTDetrResNetConfig

from lightning_det.backbones import (
    VGG16,
    dsod,
    resnet_vd,
    ssd,
    ssd_tiny,
    timm_backbone,
    tiny_backbone,
    torchvision_backbone,
)
from lightning_det.backbones.weight_files import is_file
from lightning_det.system.errors import UserError


@pytest.fixture
def resnet():
    """A classification network whose statistics are not those of a fresh one."""
    torch.manual_seed(1)
    network = get_model("resnet18")
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.1)
    return network


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "lightning_det")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records]


def with_prefix(tensors, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(("kind", "form"), [("pth", "pyramid"), ("safetensors", "c4")])
def test_files_of_torchvision(tmp_path, resnet, said, kind, form):
    file = tmp_path / f"x.{kind}"
    {"pth": torch.save, "safetensors": save_file}[kind](resnet.state_dict(), file)
    backbone = torchvision_backbone("resnet18", form, weights=str(file)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = nn.Sequential(*list(resnet.eval().children())[:-3])(image)  # up to stride 16
        torch.testing.assert_close(backbone(image)[2 if form == "pyramid" else 0], x)
        last = backbone.stages[3] if form == "pyramid" else backbone.roi_stage.layers.eval()
        torch.testing.assert_close(last(x), resnet.layer4(x))
    assert said() == [("INFO", f"backbone.weights={file}: all 40 layers loaded; not used from the file: 1 (fc)")]


def test_names_may_have_a_prefix_and_layers_may_be_missing(tmp_path, resnet, said):
    tensors = with_prefix({n: t for n, t in resnet.state_dict().items() if "layer4" not in n}, "module.encoder.")
    torch.save(tensors, tmp_path / "x.pt")
    backbone = torchvision_backbone("resnet18", weights=str(tmp_path / "x.pt"))
    assert torch.equal(backbone.stages[2][0][1].conv2.weight, resnet.layer3[1].conv2.weight)
    ((level, words),) = said()
    assert level == "WARNING"
    assert "30 of 40 layers loaded; 10 start fresh (layer4.0.conv1, layer4.0.bn1, layer4.0.conv2, ...)" in words
    assert "not used from the file: 1 (module.encoder.fc)" in words


def test_files_of_timm_have_the_names_of_the_whole_network(tmp_path, said):
    timm = pytest.importorskip("timm")
    network = timm.create_model("convnext_atto")
    torch.save(network.state_dict(), tmp_path / "x.pth")  # stages.0.blocks; the extractor calls it stages_0.blocks
    backbone = timm_backbone("convnext_atto", weights=str(tmp_path / "x.pth")).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = network.eval().forward_intermediates(image, intermediates_only=True)
        for ours, theirs in zip(backbone(image), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert "all 68 layers loaded" in said()[0][1]


OWN = {
    "tiny": lambda **settings: tiny_backbone("pyramid", width=4, **settings),
    "ssd_tiny": lambda **settings: ssd_tiny(widths=(4, 8), **settings),
    "dsod": lambda **settings: dsod(
        stem_width=4, bottleneck=4, growth=4, blocks=(1, 1, 1, 1), second=8, halves=(8,), plain=(8,), **settings
    ),
    "resnet18": lambda **settings: torchvision_backbone("resnet18", **settings),
}


@pytest.mark.parametrize(
    ("name", "norm"), [("resnet18", "batch"), *product(("tiny", "ssd_tiny", "dsod"), ("batch", "group", "frozen"))]
)
def test_backbones_of_our_own_detectors(tmp_path, said, name, norm):
    """Those of a training, whatever the detector around them; each norm takes what it has trained itself."""
    torch.manual_seed(1)
    trained = OWN[name](norm=norm) if norm != "frozen" else OWN[name](norm="batch")
    tensors = with_prefix(trained.state_dict(), "detector.backbone.") | {"detector.head.weight": torch.zeros(2)}
    torch.save(tensors, tmp_path / "x.pth")
    backbone = OWN[name](norm=norm, weights=str(tmp_path / "x.pth"))
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[key]), key
    ((level, words),) = said()
    assert level == "INFO"
    assert words.endswith("layers loaded; not used from the file: 1 (detector.head)")
    assert any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules()) == (norm == "frozen")


def test_resnet_vd_takes_a_file_by_the_names_of_its_library(tmp_path, said):
    made = RTDetrResNetBackbone(
        RTDetrResNetConfig(depths=[2] * 4, hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    )
    torch.save(with_prefix(made.state_dict(), "model.backbone.model."), tmp_path / "x.pt")
    backbone = resnet_vd("resnet18_vd", weights=str(tmp_path / "x.pt")).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)[-1], made.eval()(image).feature_maps[-1])
    ((level, words),) = said()
    assert level == "INFO"
    assert re.search(r"all \d+ layers loaded$", words)


def test_vgg16_takes_a_classifier_or_its_own(tmp_path, said, monkeypatch):
    monkeypatch.setattr(ssd.torchvision.models, "vgg16", vgg16_features)
    classifier, file = vgg16_features(), tmp_path / "x.pth"
    torch.save(classifier.state_dict() | {"classifier.0.bias": torch.zeros(2)}, file)
    backbone = VGG16(weights=str(file))
    assert torch.equal(backbone.network.features[0].weight, classifier.features[0].weight)
    assert torch.equal(backbone.network.extra[0][5].weight, classifier.features[28].weight)
    torch.save(with_prefix(backbone.state_dict(), "detector.backbone."), file)
    again = VGG16(weights=str(file))
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in backbone.state_dict().items())
    first, second = (words for _, words in said())
    assert first.endswith("all 13 layers loaded; not used from the file: 1 (classifier.0)")
    assert second.endswith("all 24 layers loaded")


def fine(**changes):
    return get_model("resnet18").state_dict() | changes


@pytest.mark.parametrize(
    ("tensors", "norm", "words"),
    [
        (
            lambda: {"a.weight": torch.zeros(1)},
            "batch",
            r"none of its 1 tensors \(a.weight\) fit this backbone's",
        ),
        (
            lambda: get_model("mobilenet_v3_small").state_dict(),
            "batch",
            "of its 244 tensors .* it is of another network",
        ),
        (
            lambda: fine(**{"conv1.weight": torch.zeros(64, 4, 7, 7)}),
            "batch",
            r"conv1.weight has the shape \(64, 4, 7, 7\)",
        ),
        (lambda: fine(**{"conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}), "batch", "conv1.weight holds NaN"),
        (lambda: fine(**{"bn1.bias": torch.zeros(64, dtype=torch.int64)}), "batch", "bn1.bias holds torch.int64"),
        (fine, "group", "backbone.norm=group cannot use the weights"),
        (
            lambda: {n: t for n, t in fine().items() if "running" not in n},
            "frozen",
            r"norm=frozen keeps statistics, which it lacks for 20 layers \(bn1, layer1.0.bn1, layer1.0.bn2, ...\)",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, tensors, norm, words):
    torch.save(tensors(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=words):
        torchvision_backbone("resnet18", norm=norm, weights=str(tmp_path / "x.pth"))


class Runs:
    def __reduce__(self):
        return print, ("it ran",)


def test_a_file_is_data(tmp_path, capsys):
    torch.save({"conv1.weight": Runs()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds more than tensors and plain data"):
        torchvision_backbone("resnet18", weights=str(tmp_path / "x.pth"))
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.pth").read_bytes())
    with pytest.raises(UserError, match=r"x.safetensors: cannot be read as weights"):
        torchvision_backbone("resnet18", weights=str(tmp_path / "x.safetensors"))
    assert capsys.readouterr().out == ""


def test_names_and_files_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("IMAGENET1K_V1", "DEFAULT", "in1k", "augreg_in21k_ft_in1k", "resnet18.a1_in1k"):
        assert not is_file(name)
    for name in ("x.pth", "x.safetensors", "x.pt", "folder/x", "run", "last.ckpt"):
        assert is_file(name)
    with pytest.raises(ValueError, match=r"backbone.weights=x.pth: no such file"):
        torchvision_backbone("resnet18", weights="x.pth")
    with pytest.raises(ValueError, match=r"backbone.weights must be a file or null.*got 'DEFAULT'"):
        tiny_backbone(weights="DEFAULT")
    with pytest.raises(ValueError, match=r"resnet10t has c3_in1k, DEFAULT, a file or null, got 'TYPO'"):
        timm_backbone("resnet10t", weights="TYPO")


@pytest.mark.parametrize("weights", ["DEFAULT", "c3_in1k", "resnet10t.c3_in1k"])
def test_weights_of_timm_by_name(monkeypatch, weights):
    timm = pytest.importorskip("timm")
    made = []
    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, pretrained=False, **rest: made.append((name, pretrained)) or create(name, **rest),
    )
    timm_backbone("resnet10t", weights=weights)
    name = "resnet10t" if weights == "DEFAULT" else "resnet10t.c3_in1k"
    assert made[-1] == (name, True)
