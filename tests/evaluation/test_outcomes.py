"""Outcomes, confusion and thresholds, against slower computations of the same."""

import numpy as np
import pytest
from support.scenes import make_results, make_store, scene

from lightning_det.evaluation.best_scores import best_threshold, best_thresholds
from lightning_det.evaluation.coco import evaluate
from lightning_det.evaluation.outcomes import Outcome, confusion_matrix, outcomes, rank_worst

BACKENDS = ["pycocotools", "faster-coco-eval"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    store, results = scene(tmp_path_factory.mktemp("scene"))
    return store, results, evaluate(store, results, curve=True)


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, w) * max(0.0, h)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def slowly(store, results, thresholds):
    """Kinds and partners of detections, one at a time in the order of their scores, and the objects left over."""
    kinds, rows = [Outcome.UNCOUNTED] * len(results), [-1] * len(results)
    order = [
        n for n in np.argsort(-results.scores, kind="stable") if results.scores[n] >= thresholds[results.labels[n]]
    ]
    taken = set()
    boxes = results.boxes.astype(float)
    for same in (True, False):
        for n in order:
            if kinds[n] not in (Outcome.UNCOUNTED, Outcome.FALSE) or (not same and kinds[n] == Outcome.UNCOUNTED):
                continue
            image = results.images[n]
            objects = [r for r in range(store.offsets[image], store.offsets[image + 1]) if not store.ignored[r]]
            objects = [r for r in objects if r not in taken and (store.labels[r] == results.labels[n]) == same]
            near = [(iou(boxes[n], store.boxes[r]), r) for r in objects]
            best = max((pair for pair in near if pair[0] >= 0.5), default=None)
            if best is not None:
                taken.add(best[1])
                kinds[n], rows[n] = (Outcome.RIGHT if same else Outcome.WRONG_CLASS), best[1]
            elif same:
                kinds[n] = Outcome.UNCOUNTED if in_crowd(store, boxes[n], image, results.labels[n]) else Outcome.FALSE
    every = np.flatnonzero(~store.ignored)
    return kinds, rows, [r for r in every if r not in taken]


def in_crowd(store, box, image, label):
    """Crowd regions of the class contain half of the box: COCO's overlap with them is the share of the detection."""
    for r in range(store.offsets[image], store.offsets[image + 1]):
        if store.ignored[r] and store.labels[r] == label:
            c = store.boxes[r]
            w, h = min(box[2], c[2]) - max(box[0], c[0]), min(box[3], c[3]) - max(box[1], c[1])
            if max(0, w) * max(0, h) / ((box[2] - box[0]) * (box[3] - box[1])) >= 0.5:
                return True
    return False


@pytest.mark.parametrize("low", [0.0, 0.4, 0.8])
def test_outcomes_are_those_of_a_loop_over_detections(measured, low):
    store, results, evaluation = measured
    thresholds = np.array([low, 0.5, 0.6, 0.0, 0.3])
    found = outcomes(store, results, evaluation.matches, thresholds)
    kinds, rows, missed = slowly(store, results, thresholds)
    assert found.kinds.tolist() == kinds
    assert found.rows.tolist() == rows
    assert found.missed.tolist() == missed
    assert {Outcome.RIGHT, Outcome.FALSE, Outcome.UNCOUNTED, Outcome.WRONG_CLASS} == set(kinds)


@pytest.mark.parametrize("pairs", [1, 7, 100])
def test_pairs_are_compared_in_parts(measured, monkeypatch, pairs):
    store, results, evaluation = measured
    whole = outcomes(store, results, evaluation.matches, np.zeros(5))
    monkeypatch.setattr("lightning_det.evaluation.outcomes.PAIRS", pairs)
    found = outcomes(store, results, evaluation.matches, np.zeros(5))
    for name in ("kinds", "rows", "missed"):
        assert np.array_equal(getattr(found, name), getattr(whole, name))


def test_both_backends_match_alike(measured):
    store, results, evaluation = measured
    fast = evaluate(store, results, curve=True, backend="faster-coco-eval")
    counted = evaluation.matches.counted
    assert np.array_equal(counted, fast.matches.counted)
    assert np.array_equal(evaluation.matches.rows[counted], fast.matches.rows[counted])
    np.testing.assert_allclose(evaluation.precision, fast.precision, atol=1e-9)


def test_matches_of_a_part_of_the_images(measured):
    """Rows are those of the whole store, whichever images were evaluated and whatever else was measured."""
    store, results, evaluation = measured
    some = results.share(1, 3)
    for backend in BACKENDS:
        part = evaluate(store, some, backend=backend).matches
        of_some = np.isin(results.images, some.seen)
        assert np.array_equal(part.counted, evaluation.matches.counted[of_some])
        assert np.array_equal(part.rows[part.counted], evaluation.matches.rows[of_some & evaluation.matches.counted])


def test_the_confusion_matrix_counts_every_object_and_every_detection(measured):
    store, results, evaluation = measured
    thresholds = np.full(5, 0.5)
    found = outcomes(store, results, evaluation.matches, thresholds)
    matrix = confusion_matrix(store, results, found)
    assert matrix[:-1].sum(axis=1).tolist() == evaluation.counts[:, 0].tolist()
    kept = (results.scores >= 0.5) & evaluation.matches.counted
    assert matrix[:, :-1].sum(axis=0).tolist() == np.bincount(results.labels[kept], minlength=5).tolist()
    assert np.trace(matrix) == (found.kinds == Outcome.RIGHT).sum()
    assert matrix[-1, -1] == 0
    counts = found.per_image(store, results)
    assert counts.sum(axis=0).tolist() == [
        np.trace(matrix),
        off_diagonal(matrix),
        matrix[-1].sum(),
        matrix[:, -1].sum(),
    ]


def off_diagonal(matrix):
    inner = matrix[:-1, :-1]
    return inner.sum() - np.trace(inner)


def test_a_scene_by_hand(tmp_path):
    """A cat is found, a cat is taken for a dog, a dog is found twice, one is missed, and a crowd is no matter."""
    objects = [(0, 0, 10, 10, 0, 0), (20, 0, 10, 10, 0, 0), (40, 0, 10, 10, 1, 0), (60, 0, 10, 10, 1, 0)]
    store = make_store(tmp_path, [[], [*objects, (0, 50, 100, 50, 1, 1)]])
    found = [(1, 1, 0, 10, 10, 0, 0.9), (1, 20, 0, 10, 10, 1, 0.8), (1, 40, 0, 10, 10, 1, 0.7)]
    found += [(1, 41, 0, 10, 10, 1, 0.6), (1, 30, 60, 10, 10, 1, 0.9), (1, 60, 0, 10, 10, 1, 0.1)]
    results = make_results(found, [0, 1])
    got = outcomes(store, results, evaluate(store, results).matches, np.full(2, 0.5))
    assert got.kinds.tolist() == [1, 2, 1, 3, 0, 0]
    assert got.rows.tolist() == [0, 1, 2, -1, -1, -1]
    assert got.missed.tolist() == [3]
    assert got.per_image(store, results).tolist() == [[0, 0, 0, 0], [2, 1, 1, 1]]
    assert confusion_matrix(store, results, got).tolist() == [[1, 1, 0], [0, 1, 1], [0, 1, 0]]


def test_images_are_ranked_by_errors():
    counts = np.array([[5, 0, 1, 1], [0, 0, 0, 0], [1, 0, 2, 0], [9, 0, 0, 0], [0, 3, 0, 0]])
    assert rank_worst(counts).tolist() == [4, 2, 0, 1, 3]


def test_nothing_was_found_or_annotated(tmp_path):
    for backend in BACKENDS:
        store = make_store(tmp_path, [[(0, 0, 10, 10, 0, 0)] * 12])
        nothing = make_results([], [0])
        evaluation = evaluate(store, nothing, backend=backend)
        thresholds = best_thresholds(store, nothing, evaluation, "val")
        assert (thresholds.per_class, thresholds.overall) == ({}, None)
        got = outcomes(store, nothing, evaluation.matches, thresholds.of(evaluation.names, 0.3))
        assert confusion_matrix(store, nothing, got).tolist() == [[0, 0, 12], [0, 0, 0], [0, 0, 0]]
        empty = make_store(tmp_path, [[]])
        false = make_results([(0, 0, 0, 5, 5, 1, 0.9)], [0])
        got = outcomes(empty, false, evaluate(empty, false, backend=backend).matches, np.zeros(2))
        assert confusion_matrix(empty, false, got).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_thresholds_maximise_f1(measured):
    """No other threshold does better, as outcomes count right detections."""
    store, results, evaluation = measured
    thresholds = best_thresholds(store, results, evaluation, "val")
    assert set(thresholds.per_class) == {"c0", "c1", "c2", "c4"}  # c3 is never found
    assert thresholds.boxes == dict(zip(evaluation.names, evaluation.counts[:, 0].tolist(), strict=True))

    def f1(label, threshold):
        limits = np.full(5, 2.0)
        limits[label] = threshold
        kinds = outcomes(store, results, evaluation.matches, limits).kinds
        right, every = (kinds == Outcome.RIGHT).sum(), (kinds != Outcome.UNCOUNTED).sum()
        return 2 * right / (every + evaluation.counts[label, 0])

    for name, threshold in thresholds.per_class.items():
        label = evaluation.names.index(name)
        assert f1(label, threshold) == pytest.approx(thresholds.f1[name])
        assert thresholds.f1[name] == max(f1(label, s) for s in results.scores[results.labels == label])


def test_a_class_with_few_boxes_has_no_threshold(tmp_path):
    boxes = [(20 * k, 0, 10, 10, 0, 0) for k in range(9)]
    store = make_store(tmp_path, [boxes])
    results = make_results([(0, 20 * k, 0, 10, 10, 0, 0.5 + k / 100) for k in range(9)], [0])
    thresholds = best_thresholds(store, results, evaluate(store, results), "val")
    assert (thresholds.per_class, thresholds.f1) == ({}, {})
    assert thresholds.overall == 0.5
    assert thresholds.boxes == {"c0": 9, "c1": 0}


@pytest.mark.parametrize(
    ("scores", "right", "boxes", "expected"),
    [
        ([0.9, 0.5, 0.1], [True, False, False], 1, (0.7, 1.0)),
        ([0.1, 0.9, 0.5], [True, False, True], 2, (0.1, 0.8)),
        ([0.5, 0.5], [True, False], 1, (0.5, 2 / 3)),  # both or none
        ([0.9, 0.5], [False, False], 3, None),
        ([], [], 3, None),
    ],
)
def test_a_threshold_by_hand(scores, right, boxes, expected):
    found = best_threshold(np.array(scores, float), np.array(right, bool), boxes)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_detections_beyond_the_limit_are_counted_by_no_backend(tmp_path):
    store, results = scene(tmp_path)
    for limit in (100, 2):
        slow, fast = (evaluate(store, results, max_detections=limit, backend=b).matches for b in BACKENDS)
        assert slow.counted.tolist() == fast.counted.tolist()
        assert slow.rows.tolist() == fast.rows.tolist()
    assert not fast.counted.all()
