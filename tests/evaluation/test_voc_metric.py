"""VOC's average precision: by hand, and against the kit's own loop; all classes as one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scenes import make_results, make_store, scene

from lightning_det.annotations.labels import ANY_CLASS
from lightning_det.evaluation.coco import evaluate
from lightning_det.evaluation.measurable import undefined_figures
from lightning_det.evaluation.voc import LEVELS, voc_average_precision

BACKENDS = ["pycocotools", "faster-coco-eval"]


def both(store, results):
    """The figures of the first class by both metrics."""
    return [voc_average_precision(store, results, metric)[0] for metric in ("voc07", "voc")]


def test_a_case_by_hand(tmp_path):
    """Three objects; by descending score right, duplicate, on a difficult one, right, on nothing, right."""
    store = make_store(
        tmp_path,
        [[(0, 0, 50, 50, 0, 0), (200, 0, 50, 50, 0, 0)], [(0, 0, 40, 40, 0, 0)], [(0, 0, 90, 90, 0, 1)], []],
        classes=1,
    )
    rows = [
        (0, 0, 0, 50, 50, 0, 0.9),
        (0, 0, 0, 50, 40, 0, 0.8),
        (2, 0, 0, 90, 90, 0, 0.7),
        (1, 0, 0, 40, 36, 0, 0.6),
        (3, 0, 0, 40, 36, 0, 0.5),
        (0, 200, 0, 50, 50, 0, 0.4),
    ]
    # Recall and precision: 1/3 and 1, 1/3 and 1/2, 2/3 and 2/3, 2/3 and 2/4, 1 and 3/5.
    eleven = (4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11
    area = (1 + 2 / 3 + 3 / 5) / 3
    assert both(store, make_results(rows, range(4))) == pytest.approx([eleven, area], abs=1e-15)
    assert both(store, make_results(rows[::-1], range(4))) == pytest.approx([eleven, area], abs=1e-15)
    evaluation = evaluate(store, make_results(rows, range(4)), metric="voc07")
    assert evaluation.figures()["voc07_AP50"] == evaluation.per_class()["c0"]["voc07_AP50"] == pytest.approx(eleven)
    assert f"= {eleven:6.3f}  voc07_AP50" in evaluation.table().splitlines()[-1]


def test_the_object_of_highest_overlap_counts_not_the_best_free_one(tmp_path):
    store = make_store(tmp_path, [[(0, 0, 100, 100, 0, 0), (0, 0, 100, 80, 0, 0)]], classes=1)
    rows = [(0, 0, 0, 100, 100, 0, 0.9), (0, 0, 0, 100, 92, 0, 0.8)]
    assert both(store, make_results(rows, [0])) == pytest.approx([6 / 11, 0.5])
    assert evaluate(store, make_results(rows, [0])).ap(0.5) == pytest.approx(1)


def test_boxes_are_inclusive_pixels(tmp_path):
    """Rows 1 to 10 and rows 1 to 5 overlap by half; as lengths 9 and 4 they would not."""
    store = make_store(tmp_path, [[(0, 0, 10, 10, 0, 0)]], classes=1)
    assert both(store, make_results([(0, 0, 0, 10, 5, 0, 0.9)], [0])) == [1, 1]
    assert both(store, make_results([(0, 0, 0, 10, 4.9, 0, 0.9)], [0])) == [0, 0]


def test_the_fourth_recall_is_above_three_tenths(tmp_path):
    """MATLAB's 0:0.1:1 == [0 .1 .2 .3 .4 .5 .6 .7 .8 .9 1] is false in the fourth place alone."""
    assert [level == step / 10 for step, level in enumerate(LEVELS)] == [step != 3 for step in range(11)]
    store = make_store(tmp_path, [[(60 * n, 0, 50, 50, 0, 0) for n in range(10)]], classes=1)
    rows = [(0, 60 * n, 0, 50, 50, 0, 0.9) for n in range(10)]
    found = [both(store, make_results(rows[:count], [0]))[0] for count in (2, 3, 4, 6, 7)]
    assert found == pytest.approx([3 / 11, 3 / 11, 5 / 11, 7 / 11, 8 / 11])


def test_what_counts_neither_way(tmp_path):
    store = make_store(tmp_path, [[(0, 0, 50, 50, 0, 0), (100, 0, 50, 50, 0, 1), (200, 0, 50, 50, 0, 1)], []])
    store.labels[2] = ANY_CLASS
    rows = [(0, 100, 0, 50, 50, 0, 0.9), (0, 200, 0, 50, 50, 0, 0.8), (0, 0, 0, 50, 50, 0, 0.7)]
    assert both(store, make_results(rows, [0, 1])) == [1, 1]
    assert voc_average_precision(store, make_results(rows, [0, 1]), "voc").tolist() == [1, -1]
    assert voc_average_precision(store, make_results(rows[:1], [1]), "voc07").tolist() == [-1, -1]
    with pytest.raises(ValueError, match=r"test\.metric must be voc07 or voc, got 'coco'"):
        voc_average_precision(store, make_results(rows, [0]), "coco")


def kit(objects, detections, metric):
    """`VOCevaldet.m` and `VOCap.m`, line by line, on inclusive pixels (image, x1, y1, x2, y2, difficult | score)."""
    positives = sum(not row[5] for row in objects)
    taken, right, wrong = set(), [], []
    for image, *box, _ in sorted(detections, key=lambda row: -row[5]):
        largest, best = -np.inf, None
        for number, (other, *truth, _) in enumerate(objects):
            low, high = np.maximum(box[:2], truth[:2]), np.minimum(box[2:], truth[2:])
            width, height = high - low + 1
            if other == image and width > 0 and height > 0:
                areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, truth)]
                overlap = width * height / (sum(areas) - width * height)
                if overlap > largest:
                    largest, best = overlap, number
        hit = largest >= 0.5
        if hit and objects[best][5]:
            right, wrong = [*right, 0], [*wrong, 0]
            continue
        new = hit and best not in taken
        taken |= {best} if new else set()
        right, wrong = [*right, int(new)], [*wrong, int(not new)]
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    recall, precision = right / positives, right / np.maximum(right + wrong, 1)
    if metric == "voc07":
        return sum(max(precision[recall >= level], default=0) / 11 for level in LEVELS)
    recall, precision = [0, *recall, 1], [0, *precision, 0]
    for i in reversed(range(len(precision) - 1)):
        precision[i] = max(precision[i], precision[i + 1])
    steps = (i for i in range(1, len(recall)) if recall[i] != recall[i - 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in steps)


corner = st.integers(1, 12)
side = st.integers(0, 12)
places = st.tuples(st.integers(0, 1), corner, corner, side, side)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(places, st.booleans()), min_size=1, max_size=8).filter(lambda rows: not all(r[1] for r in rows)),
    st.lists(st.tuples(places, st.integers(1, 9)), max_size=12),
)
def test_figures_are_the_kits(tmp_path_factory, objects, found):
    """On random boxes of few pixels, so that overlaps of exactly one half, equal ones and equal scores occur."""
    objects = [((i, x, y, w, h), difficult) for (i, x, y, w, h), difficult in sorted(objects, key=lambda r: r[0][0])]
    images = [[(x - 1, y - 1, w + 1, h + 1, 0, d) for (i, x, y, w, h), d in objects if i == n] for n in (0, 1)]
    store = make_store(tmp_path_factory.getbasetemp(), images, classes=1)
    results = make_results([(i, x - 1, y - 1, w + 1, h + 1, 0, s / 10) for (i, x, y, w, h), s in found], [0, 1])
    truth, detections = ([(i, x, y, x + w, y + h, last) for (i, x, y, w, h), last in rows] for rows in (objects, found))
    for metric in ("voc07", "voc"):
        expected = kit(truth, detections, metric)
        assert voc_average_precision(store, results, metric)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_one_class_all_classes_as_one_are_that_class(tmp_path, backend):
    store, results = scene(tmp_path)
    store.labels[:], results.labels[:] = 0, 0
    figures = evaluate(store, results, backend=backend).figures()
    assert 0.05 < figures["AP"] < 0.95
    assert (figures["AP_class_agnostic"], figures["AP50_class_agnostic"]) == (figures["AP"], figures["AP50"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_classes_as_one(tmp_path, backend):
    """A truck that is taken for a car is found; its second detection, as a truck, is a false alarm."""
    store = make_store(tmp_path, [[(0, 0, 50, 50, 1, 0), (100, 0, 50, 50, 0, 0)]])
    rows = [(0, 0, 0, 50, 50, 0, 0.9), (0, 0, 0, 50, 50, 1, 0.8), (0, 100, 0, 50, 50, 0, 0.7)]
    figures = evaluate(store, make_results(rows[::2], [0]), backend=backend).figures()
    assert figures["AP_class_agnostic"] == figures["AP50_class_agnostic"] == pytest.approx(1)
    assert figures["AP"] < 0.5
    merged = evaluate(store, make_results(rows, [0]), curve=True, backend=backend).figures()
    assert merged["AP50_class_agnostic"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_undefined_figures_are_known(tmp_path):
    store = make_store(tmp_path, [[(0, 0, 20, 20, 0, 1)], [(0, 0, 20, 20, 0, 0)]])
    for seen in ([0], [1]):
        figures = evaluate(store, make_results([], seen), metric="voc").figures()
        expected = {name for name, value in figures.items() if value is None}
        assert set(undefined_figures(store, (32, 96), 100, np.array(seen), "voc")) == expected
        assert ("voc_AP50" in expected) == ("AP50_class_agnostic" in expected) == (seen == [0])
