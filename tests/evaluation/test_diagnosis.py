from dataclasses import replace

import numpy as np
import pytest
from support.scenes import make_results, make_store, scene

from lightning_det.evaluation.coco import evaluate
from lightning_det.evaluation.diagnosis import diagnose
from lightning_det.evaluation.outcomes import rank_worst
from lightning_det.plotting.errors import FALSE, MISSED, RIGHT, WRONG_CLASS, choose_window, draw_errors, marks_of


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory):
    store, results = scene(tmp_path_factory.mktemp("scene"))
    return diagnose(store, results, evaluate(store, results), "val")


def test_rows_of_classes_agree_with_the_thresholds(diagnosis):
    rows = {row["class"]: row for row in diagnosis.per_class()}
    for name, threshold in diagnosis.thresholds.per_class.items():
        row = rows[name]
        assert row["measured"]
        assert row["threshold"] == threshold
        assert row["F1"] == pytest.approx(diagnosis.thresholds.f1[name])
        assert row["F1"] == pytest.approx(2 / (1 / row["precision"] + 1 / row["recall"]))
    assert not rows["c3"]["measured"]  # is never found
    assert (rows["c3"]["precision"], rows["c3"]["recall"]) == (None, 0.0)


def test_the_worst_and_the_best_images(diagnosis):
    errors = diagnosis.counts[:, 1:].sum(axis=1)
    worst, best = diagnosis.worst(5), diagnosis.best(5)
    assert errors[worst].tolist() == sorted(errors, reverse=True)[:5]
    assert set(worst).isdisjoint(best)
    assert all(diagnosis.counts[n, 0] for n in best)
    assert errors[best].tolist() == sorted(errors[best])
    assert f"{diagnosis.counts[worst[0], 3]} missed" in diagnosis.describe(worst[0])
    assert sum(diagnosis.totals().values()) == diagnosis.counts.sum()


def test_confusions_are_counted(diagnosis):
    pairs = diagnosis.confused(3)
    inner = diagnosis.confusion[:-1, :-1] * (1 - np.eye(5, dtype=int))
    assert [number for *_, number, _ in pairs] == sorted(inner.flatten().tolist(), reverse=True)[:3]
    truth, detected, number, share = pairs[0]
    a, b = (diagnosis.evaluation.names.index(name) for name in (truth, detected))
    assert diagnosis.confusion[a, b] == number == pytest.approx(share * diagnosis.confusion[a].sum())


@pytest.fixture
def four(tmp_path):
    """A right detection, one of the wrong class, a false one and a missed object."""
    objects = [(10, 10, 40, 40, 0, 0), (110, 10, 40, 40, 0, 0), (210, 10, 40, 40, 1, 0)]
    store = make_store(tmp_path, [objects])
    found = [(0, 10, 10, 40, 40, 0, 0.9), (0, 110, 10, 40, 40, 1, 0.8), (0, 10, 110, 40, 40, 1, 0.7)]
    results = make_results(found, [0])
    return diagnose(store, results, evaluate(store, results), "val")


def test_detections_below_the_best_score_have_no_marks(four):
    assert four.thresholds.overall == pytest.approx(0.85)
    assert marks_of(four, 0).colours == [RIGHT, MISSED, MISSED]


def test_a_picture_shows_every_kind_of_error(four, monkeypatch):
    monkeypatch.setattr("lightning_det.evaluation.thresholds.Thresholds.of", lambda self, names, other: np.full(2, 0.5))
    found = diagnose(four.store, four.results, four.evaluation, "val")
    marks = marks_of(found, 0)
    assert marks.colours == [RIGHT, WRONG_CLASS, FALSE, MISSED]
    assert marks.captions == ["", "c1 0.80, is c0", "c1 0.70", "c1"]
    assert marks.dashed == [False, False, False, True]
    picture = draw_errors(np.full((480, 640, 3), 128, np.uint8), found, 0, 640)
    assert picture.shape == (480, 640, 3)
    colours = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert {RIGHT, WRONG_CLASS, FALSE, MISSED} <= colours


def test_of_a_large_image_the_part_with_most_errors_is_shown():
    boxes = np.array([[100, 100, 120, 120], [3000, 2000, 3020, 2020], [3100, 2050, 3120, 2070]], float)
    x, y, width, height = choose_window((2250, 4000), boxes, 500)
    assert (width, height) == (1000, 1000)
    for x1, y1, x2, y2 in boxes[1:]:
        assert x <= x1 < x2 <= x + width
        assert y <= y1 < y2 <= y + height
    assert choose_window((700, 900), boxes, 500) == (0, 0, 900, 700)
    assert choose_window((2250, 4000), boxes[:0], 500)[2:] == (1000, 1000)


def test_images_in_which_nothing_was_found_take_no_place_of_the_best(diagnosis):
    counts = np.array([[0, 0, 0, 0]] * 6 + [[20, 0, 1, 0], [15, 0, 1, 1]])
    other = replace(diagnosis, counts=counts, order=rank_worst(counts))
    assert other.best(6) == [6, 7]
    assert other.worst(6) == [7, 6]
