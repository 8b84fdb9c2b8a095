"""The report of ``inspect``: its splits, the choice of its pictures, and ranges in words."""

import numpy as np
import pytest

from lightning_det.annotations import LabelMap, Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.annotations.strings import Strings
from lightning_det.data.dataset import Look
from lightning_det.inspection.pictures import _select_looks, cell_side
from lightning_det.inspection.report import sqrt_areas
from lightning_det.inspection.splits import UNUSABLE, Splits
from lightning_det.inspection.tables import range_text, scale_text
from lightning_det.views import View


def make_store(tmp_path, names, ignored=False):
    boxes, two = np.array([[0, 0, 4, 9], [0, 0, 2, 2]], float), np.array([0, 0], np.int32)
    arrays = (np.array([10], np.int32), np.array([10], np.int32), np.array([0, 2]), boxes, two)
    flags, areas = np.array([ignored, True]), np.array([36.0, 4.0])
    return AnnotationStore(tmp_path, Strings.pack(["a"]), Strings.pack(["1"]), *arrays, flags, areas, LabelMap(names))


def test_splits_share_problems_and_need_the_classes_of_train(tmp_path):
    splits, problem = Splits(), Problem("file", "", "bad", "box left out")
    splits.add("train", make_store(tmp_path, ["cat", "dog"]), [problem])
    splits.add("val", make_store(tmp_path, ["dog"], ignored=True), [problem])
    splits.add("test", make_store(tmp_path, ["cow"]), [])
    splits.compare_classes()
    assert splits.problems[0] == problem
    assert [(p.file, p.action) for p in splits.problems[1:]] == [("dataset.test", UNUSABLE)]
    assert [s["problems"] for s in splits.statistics.values()] == [1, 1, 0]
    assert [name for name, s in splits.statistics.items() if "nothing_to_learn" in s] == ["val"]


def test_sizes_leave_out_ignored_boxes(tmp_path):
    assert sqrt_areas(make_store(tmp_path, ["cat"])).tolist() == [6]


def test_pictures_are_of_every_level():
    view = View(1.0, (0, 0, 8, 8), (0.0, np.inf))
    looks = [Look(image, view._replace(level=level)) for level in (0, 1) for image in range(50)]
    selected = _select_looks(looks, 6)
    assert [look.image for look in selected] == sorted(look.image for look in selected)
    assert sorted(look.view.level for look in selected) == [0, 0, 0, 1, 1, 1]


def test_large_views_get_large_pictures():
    for side, expected in ((96, 400), (700, 700), (3000, 1000)):
        assert cell_side([Look(0, View(1.0, (0, 0, side, 50), (0.0, np.inf)))]) == expected
    assert cell_side([]) == 400


@pytest.mark.parametrize(
    ("low", "high", "text"), [(0, None, "all"), (0, -1, "all"), (8, None, "8 to inf px"), (0, 32, "0 to 32 px")]
)
def test_ranges_in_words(low, high, text):
    assert range_text(low, high) == text


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        (1.1, "x 1.1"),
        ([-1, 320], "long side 320 px"),
        ([480, -1], "short side 480 px"),
        ([480, 800], "short side 480 px, long side 800 px"),
    ],
)
def test_scales_in_words(scale, text):
    assert scale_text(scale) == text
