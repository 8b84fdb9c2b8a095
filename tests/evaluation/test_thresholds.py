import json

import pytest

from lightning_det.evaluation.thresholds import THRESHOLDS, Thresholds
from lightning_det.system.errors import UserError

MEASURED = Thresholds({"cat": 0.25}, 0.5, {"cat": 0.8}, {"cat": 12, "<dog>": 3}, 7, "val of images")


def test_thresholds_return_from_their_file_and_from_a_run_folder(tmp_path):
    MEASURED.write(tmp_path / THRESHOLDS)
    assert Thresholds.read(tmp_path) == Thresholds.read(tmp_path / THRESHOLDS) == MEASURED


def test_classes_without_a_threshold_take_the_overall_one():
    assert MEASURED.of(["<dog>", "cat"], 0.3).tolist() == [0.5, 0.25]
    assert Thresholds({}, None, {}, {}, 0, "val").of(["cat"], 0.3).tolist() == [0.3]


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"thresholds\.json: no such file"):
        Thresholds.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": {"cat": 1.5}}, "per_class must map"),
        ({"per_class": [1]}, "per_class must map"),
        ({"overall": True}, "overall must be"),
        ({"boxes": {"cat": "x"}}, "boxes must map"),
        ({"images": None}, "images, measured_on"),
        ({"f1": None}, "f1 must map"),
    ],
)
def test_other_content_is_refused(tmp_path, change, message):
    file = tmp_path / "t.json"
    MEASURED.write(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        Thresholds.read(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000])
def test_files_that_hold_no_thresholds_are_refused(tmp_path, text):
    file = tmp_path / "t.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"t\.json"):
        Thresholds.read(file)
