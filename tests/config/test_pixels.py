"""Pixels are normalised as the backbone was trained, and checkpoints hold how."""

import pytest
import torch
from omegaconf import OmegaConf
from support.checks import accepted
from support.makers import vgg16_features

from lightning_det.annotations import LabelMap
from lightning_det.backbones import ssd
from lightning_det.backbones.contract import IMAGENET
from lightning_det.backbones.ssd import CAFFE
from lightning_det.config.module import build_module, without_weights
from lightning_det.runs.overlay import overlay_settings

LABELS = LabelMap(["cat"])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
LITE = ("backbone=efficientnet_lite0", "backbone.weights=null")


def built(composed, *options):
    """Mean and deviation in the settings of a checkpoint, after those of the detector are found to be the same."""
    module = build_module(accepted(composed("train", *options)), LABELS)
    node = module.hparams["settings"]["detector"]["preprocess"]
    buffers = module.detector.preprocess.mean, module.detector.preprocess.std
    for buffer, values in zip(buffers, (node["mean"], node["std"]), strict=True):
        assert torch.equal(buffer.flatten(), torch.tensor(values))
    return node["mean"], node["std"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], IMAGENET),
        ([*LITE], HALF),
        (["backbone=timm", "backbone.name=tf_efficientnet_lite0"], HALF),
        ([*LITE, "detector.preprocess.mean=[0.1,0.2,0.3]"], ([0.1, 0.2, 0.3], HALF[1])),
        ([*LITE, "detector.preprocess=null"], HALF),
        (["experiment=dsod300_voc0712", "dataset.root=x", "backbone.blocks=[1,1,1,1]"], CAFFE),
    ],
)
def test_the_backbone_decides_unless_the_user_does(composed, options, expected):
    pytest.importorskip("timm")
    assert built(composed, *options) == tuple(map(list, expected))


def test_vgg16_has_the_pixels_of_its_weights(composed, monkeypatch):
    monkeypatch.setattr(ssd, "named_weights", lambda name, weights: vgg16_features())
    monkeypatch.setattr(ssd.torchvision.models, "vgg16", vgg16_features)
    for weights, expected in {
        "null": CAFFE,
        "IMAGENET1K_V1": IMAGENET,
        "DEFAULT": IMAGENET,
        "IMAGENET1K_FEATURES": CAFFE,
    }.items():
        found = built(composed, "detector=ssd", "backbone=ssd_vgg16", f"backbone.weights={weights}")
        assert found == tuple(map(list, expected))


def test_a_checkpoint_decides_later(composed):
    """Also if the installed timm says something else by then."""
    pytest.importorskip("timm")
    cfg = accepted(composed("train", *LITE, "detector.preprocess.mean=[0.1,0.2,0.3]"))
    saved = build_module(cfg, LABELS).hparams["settings"]
    for options, mean in {(): [0.1, 0.2, 0.3], ("detector.preprocess.mean=[0.4,0.4,0.4]",): [0.4, 0.4, 0.4]}.items():
        now = composed("eval", "checkpoint=x", *options)
        merged = overlay_settings(saved, now, ["checkpoint", *(o.split("=")[0] for o in options)])
        node = build_module(merged, LABELS, learning=False).hparams["settings"]["detector"]["preprocess"]
        assert (node["mean"], node["std"]) == (mean, HALF[1])


def test_only_files_are_left_out_of_a_resumed_training():
    node = OmegaConf.create({"weights": "gone.pth", "width": 4})
    assert without_weights(node, files_only=True) == {"weights": None, "width": 4}
    node.weights = "IMAGENET1K_V1"
    assert without_weights(node, files_only=True) == node
    assert without_weights(node, files_only=False).weights is None
