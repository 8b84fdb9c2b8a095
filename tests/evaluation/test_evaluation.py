"""Figures against pycocotools' own summary, and against arguments that need no evaluator."""

import contextlib
import io
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.scenes import make_results, make_store, scene

from lightning_det.data.coco import Coco
from lightning_det.evaluation.coco import evaluate, octaves
from lightning_det.evaluation.figures import AGNOSTIC
from lightning_det.evaluation.files import coco_results, write_coco_results
from lightning_det.evaluation.measurable import explain_undefined, undefined_figures
from lightning_det.evaluation.results import Results
from lightning_det.merging.nms import NMS

BACKENDS = ["pycocotools", "faster-coco-eval"]


def perfect(store, images=None):
    """The annotations as detections, ignored regions left out."""
    images = range(len(store)) if images is None else images
    rows = []
    for i in images:
        record = store.record(i)
        for (x1, y1, x2, y2), label, ignored in zip(record.boxes, record.labels, record.ignored, strict=True):
            if not ignored:
                rows.append((i, x1, y1, x2 - x1, y2 - y1, label, 0.9))
    return make_results(rows, images)


@pytest.fixture(scope="module", name="scene")
def made_scene(tmp_path_factory):
    return scene(tmp_path_factory.mktemp("scene"))


def pycocotools_of_files(store, results, folder, size_cuts=None, use_classes=True):
    """What someone gets who writes COCO files and calls pycocotools."""
    annotations = [
        {
            "id": row + 1,
            "image_id": store.source_id(int(np.searchsorted(store.offsets, row, side="right") - 1)),
            "category_id": store.label_map.source_ids[store.labels[row]],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": store.areas[row],
            "iscrowd": int(store.ignored[row]),
        }
        for row, (x1, y1, x2, y2) in enumerate(store.boxes.tolist())
    ]
    truth = {
        "info": {},
        "images": [{"id": store.source_id(i)} for i in range(len(store))],
        "annotations": annotations,
        "categories": [
            {"id": i, "name": n} for i, n in zip(store.label_map.source_ids, store.label_map.names, strict=True)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    write_coco_results(folder / "found.json", store, results)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        run = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
        if size_cuts is not None:
            small, large = (cut**2 for cut in size_cuts)
            run.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        run.params.useCats = use_classes
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def test_the_twelve_figures_are_those_of_pycocotools(scene, tmp_path):
    store, results = scene
    figures = evaluate(store, results).figures()
    expected = pycocotools_of_files(store, results, tmp_path).stats
    assert 0.05 < figures["AP"] < 0.95
    assert min(figures.values()) > 0
    np.testing.assert_allclose(list(figures.values())[:12], expected, atol=1e-12)
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100"]
    assert list(figures) == [*names, "AR_small", "AR_medium", "AR_large", *AGNOSTIC]


def test_all_classes_as_one_are_those_of_pycocotools(scene, tmp_path):
    store, results = scene
    figures = evaluate(store, results, curve=True).figures()
    run = pycocotools_of_files(store, results, tmp_path, use_classes=False)
    np.testing.assert_allclose([figures[name] for name in AGNOSTIC], run.stats[:2], atol=1e-12)


def test_size_cuts_move_the_sizes(scene, tmp_path):
    store, results = scene
    figures = evaluate(store, results, size_cuts=(16, 50)).figures()
    expected = pycocotools_of_files(store, results, tmp_path, (16, 50)).stats
    np.testing.assert_allclose(list(figures.values())[:12], expected, atol=1e-12)
    usual = evaluate(store, results).figures()
    moved = {name for name in figures if figures[name] != usual[name]}
    assert moved == {f"{kind}_{size}" for kind in ("AP", "AR") for size in ("small", "medium", "large")}


@pytest.mark.slow
@pytest.mark.parametrize("most", [5, 100, 300])
def test_backends_agree(scene, most):
    store, results = scene
    ours, theirs = (evaluate(store, results, max_detections=most, curve=True, backend=b) for b in BACKENDS)
    np.testing.assert_allclose(theirs.precision, ours.precision, atol=1e-12, rtol=0)
    np.testing.assert_allclose(theirs.recall, ours.recall, atol=1e-12, rtol=0)
    np.testing.assert_array_equal(theirs.counts, ours.counts)
    assert theirs.figures() == pytest.approx(ours.figures(), abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_and_fewer_than_100_detections(scene, backend):
    """pycocotools' own summary says -1 here."""
    store, results = scene
    usual = evaluate(store, results, backend=backend)
    # There are no more than 100 detections per image.
    more = evaluate(store, results, max_detections=300, backend=backend).figures()
    assert more.pop("AR300") == usual.figures()["AR100"]
    assert more["AP"] == usual.ap()
    # A limit of 5 is the same as throwing all but the best five of each image and class away.
    order = np.lexsort((-results.scores, results.labels, results.images))
    group = results.images[order] * 5 + results.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(group, group)
    best = order[rank < 5]
    few = Results(results.images[best], results.boxes[best], results.scores[best], results.labels[best], results.seen)
    limited = evaluate(store, results, max_detections=5, backend=backend)
    assert limited.max_detections == (1, 5, 5)
    assert limited.ap() == pytest.approx(evaluate(store, few, backend=backend).ap(), abs=1e-12)
    assert 0 < limited.ap() < usual.ap()


def test_ap_by_hand(tmp_path):
    """Two of three objects found, one false alarm between them: precision 1 up to recall 1/3, 2/3 up to 2/3."""
    square = [(50 * k, 0, 20, 20, 0, 0) for k in range(3)]
    store = make_store(tmp_path, [square], classes=1)
    rows = [(0, 0, 0, 20, 20, 0, 0.9), (0, 300, 300, 20, 20, 0, 0.8), (0, 50, 0, 20, 20, 0, 0.7)]
    # COCO samples recall at 0, 0.01, ..., 1: 34 samples reach 1/3, 33 more reach 2/3.
    expected = (34 * 1 + 33 * 2 / 3) / 101
    for backend in BACKENDS:
        evaluation = evaluate(store, make_results(rows, [0]), backend=backend)
        assert evaluation.ap() == pytest.approx(expected)
        assert evaluation.ap(0.5) == pytest.approx(expected)
        assert evaluation.ar() == pytest.approx(2 / 3)
        assert evaluation.ar(limit=0) == pytest.approx(1 / 3)


def test_every_threshold_of_iou(tmp_path):
    """Ten objects found with IoU 0.525, 0.575, ..., 0.975: every threshold loses one more."""
    store = make_store(tmp_path, [[(120 * (k % 5), 120 * (k // 5), 100, 100, 0, 0) for k in range(10)]], classes=1)
    ious = [0.525 + 0.05 * k for k in range(10)]
    rows = [(0, 120 * (k % 5), 120 * (k // 5), 100, 100 * iou, 0, iou) for k, iou in enumerate(ious)]
    evaluation = evaluate(store, make_results(rows, [0]))
    # The best are found first, so precision is 1 up to the recall that is reached, which is sampled in hundredths.
    expected = [1 - 0.1 * k for k in range(10)]
    assert [evaluation.ap(0.5 + 0.05 * k) for k in range(10)] == pytest.approx(expected, abs=0.011)
    assert evaluation.ap() == pytest.approx(0.55, abs=0.011)
    assert evaluation.ar() == pytest.approx(0.55)


@pytest.mark.parametrize("backend", BACKENDS)
def test_perfect_detections(scene, backend):
    store, _ = scene
    evaluation = evaluate(store, perfect(store), curve=True, backend=backend)
    assert evaluation.ap() == pytest.approx(1)
    assert evaluation.ar() == pytest.approx(1)
    assert all(row["AP"] == pytest.approx(1) for row in evaluation.curve())


def test_crowds_are_neither_found_nor_missed(tmp_path):
    crowd = (0, 0, 400, 400, 0, 1)
    store = make_store(tmp_path, [[crowd, (500, 0, 50, 50, 0, 0)]], classes=1)
    best = (0, 500, 0, 50, 50, 0, 0.5)
    within = [(0, x, 10, 40, 40, 0, 0.9) for x in (10, 100, 200)]
    assert evaluate(store, make_results([*within, best], [0])).ap() == pytest.approx(1)
    elsewhere = [(0, 450, 420, 40, 40, 0, 0.9)]
    assert evaluate(store, make_results([*elsewhere, best], [0])).ap() == pytest.approx(0.5)


def test_batches_are_concatenated_not_averaged(scene):
    store, results = scene
    parts = []
    for i in range(len(store)):
        rows = results.of_image(i)
        parts.append(
            Results(
                results.images[rows], results.boxes[rows], results.scores[rows], results.labels[rows], np.array([i])
            )
        )
    whole = evaluate(store, Results.concatenate(reversed(parts))).figures()
    assert whole == pytest.approx(evaluate(store, results).figures(), abs=1e-12)
    per_image = [evaluate(store, part).ap() for part in parts]
    assert abs(np.mean([ap for ap in per_image if ap is not None]) - whole["AP"]) > 0.02


def test_curves_of_precision_over_recall(tmp_path, scene):
    """By hand: of four objects, the first, third and fourth detection are right."""
    store = make_store(tmp_path, [[(60 * k, 0, 50, 50, 0, 0) for k in range(4)]], classes=2)
    rows = [(0, x, 0, 50, 50, 0, score) for x, score in ((0, 0.9), (400, 0.8), (60, 0.7), (120, 0.6))]
    recall, precision = evaluate(store, make_results(rows, [0])).precision_recall(0.5)
    expected = [1] * 26 + [0.75] * 50 + [0] * 25  # from any recall on, the best precision still to come
    np.testing.assert_allclose(precision, [expected, [-1] * 101])
    np.testing.assert_allclose(recall, np.arange(101) / 100)
    # Areas below them are the AP of a class.
    whole = evaluate(*scene)
    for iou in (0.5, 0.75):
        areas = whole.precision_recall(iou)[1].mean(axis=1)
        np.testing.assert_allclose(areas, [whole.ap(iou, label=k) for k in range(5)])


def test_only_images_that_were_seen_count(scene):
    store, _ = scene
    half = list(range(0, len(store), 2))
    assert evaluate(store, perfect(store, half)).ap() == pytest.approx(1)
    # Seen without a detection, the others are missed.
    blind = perfect(store, half)
    blind.seen = np.arange(len(store))
    assert evaluate(store, blind).ar() < 0.8
    counted = evaluate(store, perfect(store, half)).counts[:, 0].sum()
    of_half = store.select(half)
    assert counted == (~of_half.ignored).sum()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_measure_is_undefined(tmp_path, backend):
    empty = make_store(tmp_path, [[], []])
    for results in (make_results([], [0, 1]), make_results([(0, 0, 0, 10, 10, 0, 0.9)], [0, 1]), Results()):
        evaluation = evaluate(empty, results, curve=True, backend=backend)
        assert set(evaluation.figures().values()) == {None}
        assert evaluation.table().count("= undefined") == 14
        assert evaluation.curve() == []
    crowds = make_store(tmp_path, [[(0, 0, 50, 50, 0, 1)]])
    figures = evaluate(crowds, make_results([(0, 0, 0, 50, 50, 0, 0.9)], [0]), backend=backend).figures()
    assert set(figures.values()) == {None}
    assert explain_undefined(empty) == "there are no boxes"
    assert explain_undefined(crowds) == "all 1 boxes are ignored ones (crowds, difficult objects)"


def test_undefined_figures_are_known_before(tmp_path):
    """Those that an evaluation of the same images leaves undefined."""
    crowd, small, large = (0, 0, 50, 50, 0, 1), (0, 0, 20, 20, 0, 0), (0, 0, 100, 100, 1, 0)
    store = make_store(tmp_path, [[crowd, small], [], [large], [crowd]])
    for seen in ([0], [1], [2], [3], [0, 1], [1, 3], [0, 2], [0, 1, 2, 3]):
        figures = evaluate(store, make_results([], seen), max_detections=5).figures()
        expected = [name for name, value in figures.items() if value is None]
        assert sorted(set(undefined_figures(store, (32, 96), 5, np.array(seen)))) == sorted(expected), seen
        assert bool(explain_undefined(store, np.array(seen))) == ("AP" in expected), seen
    assert explain_undefined(store, np.array([1, 3])) == "no box is in the 2 of 4 images that are looked at"


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_are_zero(tmp_path, backend):
    store = make_store(tmp_path, [[(0, 0, 20, 20, 0, 0)], []])
    figures = evaluate(store, make_results([], [0, 1]), backend=backend).figures()
    measured = {"AP", "AP50", "AP75", "AP_small", "AR1", "AR10", "AR100", "AR_small", *AGNOSTIC}
    assert {name: figures[name] for name in measured} == dict.fromkeys(measured, 0.0)
    assert {figures[name] for name in figures.keys() - measured} == {None}  # no medium, no large box


def test_an_image_without_boxes_can_only_add_false_alarms(tmp_path):
    store = make_store(tmp_path, [[(0, 0, 20, 20, 0, 0)], []])
    good = (0, 0, 0, 20, 20, 0, 0.5)
    assert evaluate(store, make_results([good], [0, 1])).ap() == pytest.approx(1)
    assert evaluate(store, make_results([good, (1, 0, 0, 20, 20, 0, 0.9)], [0, 1])).ap() == pytest.approx(0.5)


def test_classes_apart(tmp_path):
    store = make_store(tmp_path, [[(0, 0, 50, 50, 0, 0), (99, 0, 50, 50, 1, 0), (200, 0, 50, 50, 1, 1)]], classes=3)
    results = make_results([(0, 0, 0, 50, 50, 0, 0.9), (0, 99, 0, 50, 50, 2, 0.9)], [0])
    classes = evaluate(store, results).per_class()
    assert list(classes) == ["c0", "c1", "c2"]
    assert classes["c0"] == {"AP": pytest.approx(1), "AP50": pytest.approx(1), "boxes": 1}
    assert classes["c1"] == {"AP": 0, "AP50": 0, "boxes": 1}  # the crowd is no box
    assert classes["c2"] == {"AP": None, "AP50": None, "boxes": 0}
    assert evaluate(store, results).ap() == pytest.approx(0.5)  # of the classes that occur


@given(st.lists(st.floats(0.3, 400).map(lambda side: side**2), min_size=1, max_size=30))
def test_octaves_hold_every_box(areas):
    ranges = octaves(np.array(areas))
    for (low, high), (following, _) in pairwise(ranges):
        assert high == following
        assert high == 2 * low or low == 0
    held = [sum(low**2 <= area <= high**2 for low, high in ranges) for area in areas]
    assert min(held) >= 1
    # None is empty at either end.
    assert all(any(low**2 <= area <= high**2 for area in areas) for low, high in (ranges[0], ranges[-1]))


def test_the_curve_parts_the_boxes_by_size(tmp_path):
    sides = [5, 9, 12, 20, 70, 90, 300]
    store = make_store(tmp_path, [[(0, 0, s, s, 0, 0) for s in sides]], classes=1)
    # Those of 9 and 12 pixels are found.
    results = make_results([(0, 0, 0, s, s, 0, 0.9) for s in (9, 12)], [0])
    curve = evaluate(store, results, curve=True).curve()
    assert [(row["from"], row["to"], row["boxes"]) for row in curve] == [
        (4, 8, 1),
        (8, 16, 2),
        (16, 32, 1),
        (64, 128, 2),
        (256, 512, 1),
    ]  # none of 32 to 64, none of 128 to 256
    assert [row["AP"] for row in curve] == [0, pytest.approx(1), 0, 0, 0]
    assert evaluate(store, results).curve() == []


@settings(max_examples=20, deadline=None)
@given(sides=st.lists(st.floats(2, 400).map(lambda s: round(s) + 0.37), min_size=1, max_size=12))
def test_every_box_is_on_the_curve_once(tmp_path_factory, sides):
    store = make_store(tmp_path_factory.getbasetemp(), [[(0, 0, s, s, 0, 0) for s in sides]], classes=1)
    evaluation = evaluate(store, make_results([], [0]), curve=True, backend="faster-coco-eval")
    assert sum(row["boxes"] for row in evaluation.curve()) == len(sides)


def test_the_table_says_which_sizes_it_means(scene):
    store, results = scene
    evaluation = evaluate(store, results, size_cuts=(20, 56), max_detections=50)
    lines = evaluation.table().splitlines()
    assert len(lines) == 14
    for line, (name, value) in zip(lines, evaluation.figures().items(), strict=True):
        assert line.endswith(f"{value:6.3f}  {name}")
    sizes = {"small": "< 20 px", "medium": "20-56 px", "large": "> 56 px"}
    for size, text in sizes.items():
        assert sum(size in line and text in line for line in lines) == 2
    assert [line.split("maxDets=")[1].split()[0] for line in lines[:12]] == ["50"] * 6 + ["1", "10"] + ["50"] * 4
    assert "IoU=0.50 " in lines[1]
    assert "IoU=0.75 " in lines[2]


def test_unknown_backend(scene):
    with pytest.raises(ValueError, match="pycocotools or faster-coco-eval"):
        evaluate(*scene, backend="coco")


def test_results_file_is_read_by_pycocotools(coco_folder, tmp_path):
    """Ids in the file are the source's: categories 7 and 90, images 0, 10, 20, 30."""
    store, _ = Coco(str(coco_folder)).read("val2017")
    results = perfect(store)
    file = tmp_path / "detections.json"
    write_coco_results(file, store, results)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(coco_folder / "annotations" / "instances_val2017.json"))
        found = truth.loadRes(str(file))
        run = COCOeval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    assert run.stats[0] == pytest.approx(1)
    assert len(found.anns) == 5
    known = {(a["image_id"], a["category_id"], *a["bbox"]) for a in truth.anns.values() if not a["iscrowd"]}
    assert {(a["image_id"], a["category_id"], *a["bbox"]) for a in found.anns.values()} == known


def test_results_keep_ids_that_are_names(coco_folder):
    file = coco_folder / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    for entry in (*content["images"], *content["annotations"]):
        key = "id" if "file_name" in entry else "image_id"
        entry[key] = f"n{entry[key]}"
    file.write_text(json.dumps(content))
    store, _ = Coco(str(coco_folder)).read("val2017")
    rows = json.loads(json.dumps(coco_results(store, perfect(store))))
    assert {row["image_id"] for row in rows} == {"n10", "n20", "n30"}


def test_views_of_an_image_become_one_list(tmp_path):
    """The same object found in two views counts once, with its better score."""
    store = make_store(tmp_path, [[(0, 0, 40, 40, 0, 0)], [(0, 0, 40, 40, 0, 0)]], classes=1)
    first = make_results([(0, 0, 0, 40, 40, 0, 0.75), (1, 0, 0, 40, 40, 0, 0.5)], [0, 1])
    second = make_results([(0, 2, 0, 40, 40, 0, 0.8), (0, 200, 0, 40, 40, 0, 0.1)], [0])
    third = make_results([(1, 1, 0, 40, 40, 0, 0.7)], [1])
    views = Results.concatenate([first, Results(), second, third])
    merged = views.merge_views(NMS(0.5), 100)
    assert merged.images.tolist() == [0, 0, 1]
    np.testing.assert_allclose(merged.scores, [0.8, 0.1, 0.7], atol=1e-6)
    assert merged.boxes[0].tolist() == [2, 0, 42, 40]
    assert merged.seen.tolist() == [0, 1]
    # Unmerged, the second view of the first object is a false alarm.
    assert evaluate(store, merged).ap(0.5) == pytest.approx(1)
    assert evaluate(store, views.merge_views(NMS(1.0), 100)).ap(0.5) < 0.9
    limited = views.merge_views(NMS(0.5), 1)
    assert limited.images.tolist() == [0, 1]
    np.testing.assert_allclose(limited.scores, [0.8, 0.7], atol=1e-6)


def test_parts_without_detections(tmp_path):
    seen = [Results(seen=np.array([i])) for i in (3, 1, 3)]
    together = Results.concatenate(seen)
    assert len(together) == 0
    assert together.seen.tolist() == [1, 3]
    assert together.boxes.shape == (0, 4)
    assert together.merge_views(NMS(), 10).seen.tolist() == [1, 3]
    assert len(Results.concatenate([])) == 0
    one = make_results([(5, 0, 0, 10, 10, 0, 0.9)], [5])
    assert Results.concatenate([*seen, one]).of_image(5).tolist() == [0]


def test_boxes_on_the_edge_of_two_octaves_are_on_the_curve_once(tmp_path):
    boxes = make_store(tmp_path, [[(0, 0, s, s, 0, 0) for s in (8, 16, 20)]], classes=1)
    curve = evaluate(boxes, make_results([], [0]), curve=True).curve()
    assert [row["boxes"] for row in curve] == [1, 2]
