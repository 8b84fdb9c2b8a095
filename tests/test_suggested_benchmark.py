"""The benchmark of suggestions draws datasets that can be read, and treats its arms alike."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_det.data.coco import Coco

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from generated_photos import KINDS, write
from suggested import arms


@pytest.mark.parametrize("name", KINDS)
def test_drawn_images_have_small_objects_inside(name, tmp_path):
    write(KINDS[name]._replace(train=2, val=1), tmp_path / name)
    store, problems = Coco(str(tmp_path / name)).read("train")
    assert not problems
    assert sorted(store.label_map.names) == sorted(KINDS[name].classes)
    assert len(store) == 2 <= store.num_boxes
    sizes = np.sqrt((store.boxes[:, 2:] - store.boxes[:, :2]).prod(axis=1))
    assert sizes.min() > 5
    assert sizes.max() < 90
    assert min(store.widths.min(), store.heights.min()) >= 1200


def test_arms_are_treated_alike(composed):
    cfg = composed("train", "trainer.max_epochs=5", "capacity.rois=128", "schedule.warmup=0.25")
    costs = {"single_scale": {"train": {"megapixels": 2.0}}}
    suggestion = {
        "figures": {"costs": costs, "object_tiles": 0.2},
        "recommended": {"settings": {"data": {"batch_size": 5}}},
        "dataset": {"tiles": {"size": 400}},
    }
    found = arms({"suggestion": suggestion}, {"cost": {"pixels": 200_000_000}}, cfg)
    warmup = ["schedule.unit=share", "schedule.warmup=0.05"]
    samples = ["capacity.rois=640", "capacity.after_nms=[640,300]", "selection.anchors.count=1280"]
    assert found["single_scale"] == (100, ["data.batch_size=1", *samples, *warmup])
    steps, settings = found["tiles"]
    assert steps == 250  # of five tiles of 0.16 megapixels
    tiles = ["data.batch_size=5", "views.train.windows.background=0.25", "data.together=1"]
    assert settings == [*tiles, *warmup]
