import json
import logging

import pytest

from lightning_det.config.module import portable_settings
from lightning_det.runs.composition import overridden_keys
from lightning_det.runs.overlay import overlay_settings
from lightning_det.runs.replaced import replaced_settings, report_replaced


@pytest.fixture
def merged(composed):
    saved = json.loads(json.dumps(portable_settings(composed("train", "strategy=[multi_scale]"))))

    def merge(*overrides):
        cfg = composed("eval", "checkpoint=x", *overrides)
        return saved, overlay_settings(saved, cfg, overridden_keys()), overridden_keys()

    return merge


@pytest.mark.slow
def test_another_dataset_says_which_views_it_replaces(merged, caplog):
    caplog.set_level(logging.INFO)
    arguments = merged("dataset=yolo", "dataset.root=elsewhere", "test.nms_iou=0.4")
    assert replaced_settings(*arguments) == {
        "views.test.scales.resolutions": [[[192, 256]], [[640, 1066]]],
        "dataset.size_cuts": [[20.0, 56.0], [32.0, 96.0]],
    }
    report_replaced(*arguments)
    assert "dataset=yolo replaces settings" in caplog.text
    assert "views.test.scales.resolutions from [[192, 256]] to [[640, 1066]]; " in caplog.text


@pytest.mark.slow
def test_other_images_alone_replace_nothing(merged, caplog):
    caplog.set_level(logging.INFO)
    report_replaced(*merged("dataset.root=elsewhere", "dataset.pyramid=[1.0]"))
    report_replaced(*merged("dataset=shapes"))
    assert caplog.text == ""
