"""Checkpoints of earlier versions are told apart by their settings."""

import pytest

from lightning_det.checkpoint.outdated import is_outdated, refuse_outdated, update_former
from lightning_det.system.errors import UserError

NOW = {
    "detector": {"_target_": "lightning_det.detectors.FasterRCNN.c4", "rpn": {"sizes": [8.0]}, "roi_size": 5},
    "module": {"_target_": "lightning_det.modules.DetectionModule"},
    "test": {"nms_iou": 0.5, "merge": {"_target_": "lightning_det.merging.NMS", "iou": 0.5}, "vote": None},
}
FLAT = {"_target_": "lightning_det.detectors.FasterRCNN.c4", "anchor_sizes": [8.0], "box_beta": 0.111111}
FLAT_SSD = {"_target_": "lightning_det.detectors.SSD.build", "prior_ratios": [2.0]}


@pytest.mark.parametrize(
    "change",
    [
        {"detector": FLAT},
        {"detector": FLAT_SSD},
        {"module": {"_target_": "lightning_det.modules.SSDModule"}},
        {"test": {"merge": {"_target_": "lightning_det.views.soft_nms.SoftNMS"}}},
    ],
)
def test_earlier_settings_are_refused_with_what_to_do(change):
    assert is_outdated(NOW | change)
    with pytest.raises(
        UserError, match=r"last.ckpt: this checkpoint was written by an earlier version .* train weights=last.ckpt"
    ):
        refuse_outdated(NOW | change, "last.ckpt")


@pytest.mark.parametrize(
    "change", [{}, {"detector": {"_target_": "mine.Detector", "anchor_sizes": [8]}}, {"test": None}]
)
def test_present_settings_and_parts_of_the_user_pass(change):
    assert not is_outdated(NOW | change)
    refuse_outdated(NOW | change, "last.ckpt")


def test_arguments_without_effect_on_a_trained_detector_are_dropped():
    backbone = {"_target_": "lightning_det.backbones.timm_backbone", "name": "resnet10t"}
    settings = {"backbone": backbone | {"pretrained": True}}
    update_former(settings)
    assert settings == {"backbone": backbone}
    detector = {"detector": {"_target_": "lightning_det.detectors.FCOS", "sizes": [8, 16], "radius": 1.5}}
    update_former(detector)
    assert detector == {"detector": {"_target_": "lightning_det.detectors.FCOS", "radius": 1.5}}
    others = {"backbone": {"_target_": "mine.net", "pretrained": True}}
    update_former(others)
    assert others["backbone"]["pretrained"]
    update_former({"backbone": None})


@pytest.mark.parametrize(("before", "now"), [(False, None), (True, "parts"), ("step", "step"), (None, None)])
def test_compilation_is_carried_over_under_its_present_name(before, now):
    settings = {"module": {"compiled": before}}
    update_former(settings)
    assert settings == {"module": {"compiled": now}}
    update_former({"module": None})
