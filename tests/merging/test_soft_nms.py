"""Soft-NMS of many groups at once, and the ranges of inference beside it."""

import importlib
import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_batch, run_forked
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.modules import LABELS, Stub, fixed

from lightning_det.config import read_option
from lightning_det.evaluation.results import Results
from lightning_det.merging import soft_nms
from lightning_det.merging.nms import NMS
from lightning_det.merging.soft_nms import SoftNMS
from lightning_det.modules.inference import Inference
from lightning_det.modules.module import DetectionModule
from lightning_det.protocols.structures import ImageRecord
from lightning_det.views import Pyramid

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "soft_nms.json").read_text())
METHODS = ["gaussian", "linear", "hard"]


def sequential(boxes, scores, method, sigma, iou, floor):
    """Final scores of one group, 0 for what went: one best box after the other, in float32 as ours."""
    final, left, waiting = np.zeros_like(scores), scores.copy(), scores > 0
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while waiting.any():
        best = np.flatnonzero(waiting)[left[waiting].argmax()]
        waiting[best], final[best] = False, left[best]
        low, high = np.maximum(boxes[best, :2], boxes[:, :2]), np.minimum(boxes[best, 2:], boxes[:, 2:])
        common = np.maximum(high - low, 0).prod(axis=1)
        touched = np.flatnonzero(waiting & (common > 0))
        share = common[touched] / (areas[touched] + areas[best] - common[touched])
        if method == "gaussian":
            factor = np.exp(share * share * np.float32(-1 / sigma))
        else:
            factor = np.where(share <= np.float32(iou), 1, 1 - share if method == "linear" else 0)
        lowered = left[touched] * factor
        waiting[touched[(lowered != left[touched]) & (lowered < floor)]] = False
        left[touched] = lowered
    return final


def final_scores(merge, boxes, scores, groups):
    """Scores by row, 0 for what went; says that rows come by group and falling score, and arguments stay."""
    arguments = [torch.from_numpy(array) for array in (boxes, scores, groups)]
    copies = [tensor.clone() for tensor in arguments]
    keep, kept = merge(*arguments)
    assert all(torch.equal(a, c) for a, c in zip(arguments, copies, strict=True))
    assert (keep.dtype, kept.dtype) == (torch.int64, torch.float32)
    assert len(set(keep.tolist())) == len(keep) == len(kept)
    order = list(zip(groups[keep.numpy()].tolist(), (-kept).tolist(), strict=True))
    assert order == sorted(order)
    final = np.zeros_like(scores)
    final[keep.numpy()] = kept.numpy()
    return final


def expected_scores(boxes, scores, groups, **settings):
    """What the sequential form makes of every group; of equal scores, the one comes first that began higher."""
    final = np.zeros_like(scores)
    order = np.argsort(-scores, kind="stable")
    for group in np.unique(groups):
        rows = order[groups[order] == group]
        final[rows] = sequential(boxes[rows], scores[rows], **settings)
    return final


# Cases of the reference


@pytest.mark.parametrize("case", GOLDEN["soft_nms"], ids=lambda case: case["id"])
def test_scores_of_the_reference(case):
    dets, expected = (np.array(case[name], np.float32) for name in ("dets", "expected"))
    # Inclusive corners: the continuous box ends one pixel later.
    boxes = dets[:, :4] + np.array([0, 0, 1, 1], np.float32)
    merge = SoftNMS(case["method"], case["sigma"], case["iou"], case["floor"])
    keep, kept = merge(torch.from_numpy(boxes), torch.from_numpy(dets[:, 4]), torch.zeros(len(dets), dtype=torch.int64))
    np.testing.assert_array_equal(dets[keep.numpy(), :4], expected[:, :4])
    np.testing.assert_allclose(kept.numpy(), expected[:, 4], rtol=0, atol=1e-6)


def test_cases_of_the_reference_do_not_touch_each_other():
    """All gaussian ones of a sigma as groups of one call."""
    cases = [c for c in GOLDEN["soft_nms"] if (c["method"], c["sigma"]) == ("gaussian", 0.55)]
    rows = np.array([(*row, number) for number, case in enumerate(cases) for row in case["dets"]])
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    boxes = torch.from_numpy(rows[:, :4].astype(np.float32)) + torch.tensor([0.0, 0, 1, 1])
    groups = torch.from_numpy(rows[:, 5].astype(np.int64))
    keep, kept = SoftNMS()(boxes, torch.from_numpy(rows[:, 4].astype(np.float32)), groups)
    for number, case in enumerate(cases):
        mine = groups[keep] == number
        np.testing.assert_allclose(kept[mine], [row[4] for row in case["expected"]], rtol=0, atol=1e-6)


# Any groups


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, -0.0, 0.0, 1e-30, 0.25, 1.0]), st.integers(-1, 2)), max_size=30),
    st.sampled_from([0, 1, 2**31 - 3, 2**31]),
    st.sampled_from([np.float32, np.float64]),
)
def test_rows_are_ordered_as_by_two_keys(rows, offset, dtype):
    scores = np.array([score for score, _ in rows], dtype)
    groups = np.array([group for _, group in rows], np.int64) + offset
    expected = np.lexsort((-np.maximum(scores, 0), groups))
    assert soft_nms._by_group(groups, np.maximum(scores, 0)).tolist() == expected.tolist()
    if (scores >= 0).all():
        assert soft_nms._by_group(groups, scores).tolist() == np.lexsort((-scores, groups)).tolist()


@st.composite
def workloads(draw):
    """Many groups of different sizes: ties, duplicates, boxes without area, and scores below the floor."""
    counts = draw(st.lists(st.one_of(st.integers(1, 6), st.integers(1, 90)), max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    extent, levels = draw(st.sampled_from([4, 12, 60])), draw(st.sampled_from([3, 1000]))
    total = sum(counts)
    corner = rng.integers(0, extent, (total, 2))
    side = rng.integers(draw(st.integers(0, 1)), extent // 2 + 1, (total, 2))
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    scores = (rng.integers(1, levels + 1, total) / levels).astype(np.float32)
    scores = np.where(rng.random(total) < 0.1, np.float32(0.0004), scores)
    # Group numbers are neither dense nor in order.
    groups = np.repeat(rng.permutation(3 * len(counts))[: len(counts)].astype(np.int64) * 7, counts)
    order = rng.permutation(total)
    return boxes[order], scores[order], groups[order]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(
    work=workloads(),
    chunk=st.sampled_from([1, 50, 200_000]),
    sigma=st.sampled_from([0.1, 0.55]),
    iou=st.sampled_from([0.0, 0.3, 0.6]),
    floor=st.sampled_from([0.001, 0.2]),
)
def test_groups_come_out_as_one_by_one(method, work, chunk, sigma, iou, floor):
    values = {"method": method, "sigma": sigma, "iou": iou, "floor": floor}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_nms, "CHUNK", chunk)
        final = final_scores(SoftNMS(**values), *work)
    np.testing.assert_allclose(final, expected_scores(*work, **values), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(work=workloads())
def test_scores_only_fall_and_the_best_stays(method, work):
    boxes, scores, groups = work
    final = final_scores(SoftNMS(method), boxes, scores, groups)
    assert (final <= scores).all()
    for group in np.unique(groups):
        mine = groups == group
        assert final[mine].sum() <= scores[mine].sum()
        assert final[mine].max() == scores[mine].max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [33, 200])
def test_groups_larger_than_a_compaction(method, count):
    """Crowded ones, in which most boxes go, beside small ones that are done at once."""
    rng = np.random.default_rng(0)
    counts = [count, 1, count - 1, 3, 40]
    corner = rng.uniform(0, 30, (sum(counts), 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 40, corner.shape)], axis=1).astype(np.float32)
    scores = rng.random(len(boxes)).astype(np.float32)
    groups = np.repeat(np.arange(len(counts)), counts)
    values = {"method": method, "sigma": 0.55, "iou": 0.3, "floor": 0.01}
    final = final_scores(SoftNMS(**values), boxes, scores, groups)
    np.testing.assert_allclose(final, expected_scores(boxes, scores, groups, **values), rtol=0, atol=2e-6)
    assert 0 < (final == 0).sum() < len(final)


@pytest.mark.parametrize("sigma", [1e-4, 1e-3, 5e-3])
def test_a_sharp_decay_is_still_a_number(sigma):
    """Its factor is 0 in float32, also of what is done already."""
    boxes = np.array([(0, 0, 10, 10)] * 3 + [(20 * i, 50, 20 * i + 10, 60) for i in range(5)], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], np.float32)
    final = final_scores(SoftNMS(sigma=sigma), boxes, scores, np.zeros(8, np.int64))
    np.testing.assert_array_equal(final, np.where(np.isin(np.arange(8), [1, 2]), 0, scores))


def test_nothing_and_a_single_box():
    empty = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    keep, kept = SoftNMS()(*empty)
    assert (keep.shape, kept.shape) == ((0,), (0,))
    assert (keep.dtype, kept.dtype) == (torch.int64, torch.float32)
    keep, kept = SoftNMS()(torch.tensor([[1.0, 2, 4, 5]]), torch.tensor([0.3]), torch.tensor([7]))
    assert keep.tolist() == [0]
    assert kept.tolist() == [np.float32(0.3)]


def test_hard_is_non_maximum_suppression():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (300, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + rng.uniform(5, 40, (300, 2))], 1).astype(np.float32))
    scores, groups = torch.from_numpy(rng.random(300).astype(np.float32)), torch.from_numpy(np.arange(300) % 3)
    keep, kept = SoftNMS("hard", iou=0.4, floor=1e-6)(boxes, scores, groups)
    expected, _ = NMS(0.4)(boxes, scores, groups)
    assert sorted(keep.tolist()) == sorted(expected.tolist())
    assert torch.equal(kept, scores[keep])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "soft"}, "must be gaussian, linear or hard, got 'soft'"),
        ({"sigma": 0}, "needs sigma > 0"),
        ({"iou": -0.1}, "0 <= iou <= 1"),
        ({"iou": 1.1}, "0 <= iou <= 1"),
        ({"floor": 0}, "floor > 0, got 0.55, 0.3 and 0"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftNMS(**arguments)


# Images and classes


def results(rows):
    """Rows of (image, x, score, label): 10-pixel squares."""
    images, x, scores, labels = (np.array(c) for c in zip(*rows, strict=True))
    boxes = np.stack([x, np.zeros(len(x)), x + 10, np.full(len(x), 10)], axis=1).astype(np.float32)
    return Results(images, boxes, scores.astype(np.float32), labels, np.unique(images))


def test_classes_and_images_do_not_touch_but_views_of_an_image_do():
    first = results([(0, 0, 0.9, 0), (0, 0, 0.8, 1), (1, 0, 0.7, 0)])
    second = results([(0, 0, 0.6, 0), (1, 50, 0.5, 0)])  # another view
    apart = {(0, 0): [0.9], (0, 1): [0.8], (1, 0): [0.7]}
    for parts, expected in (
        ([first], apart),
        ([first, second], apart | {(0, 0): [0.9, 0.6 * np.exp(-1 / 0.55)], (1, 0): [0.7, 0.5]}),
    ):
        merged = Results.concatenate(parts).merge_views(SoftNMS(), 100)
        found = {key: merged.scores[(merged.images == key[0]) & (merged.labels == key[1])] for key in expected}
        assert len(merged) == sum(map(len, expected.values()))
        for key, scores in expected.items():
            np.testing.assert_allclose(found[key], scores, rtol=1e-6)
        assert merged.seen.tolist() == [0, 1]


def test_the_most_per_image_are_counted_after_the_scores_fell():
    """The duplicate had a higher score than the third, and has no longer."""
    rows = [(0, 0, 0.9, 0), (0, 0, 0.8, 0), (0, 50, 0.3, 0), (1, 0, 0.2, 0)]
    merged = results(rows).merge_views(SoftNMS(), 2)
    assert merged.images.tolist() == [0, 0, 1]
    np.testing.assert_allclose(merged.scores, [0.9, 0.3, 0.2], rtol=1e-6)


# Ranges of inference


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("case", GOLDEN["test_time_valid_range"], ids=lambda c: f"{c['det'][2:]}_in_{c['range']}")
def test_ranges_of_the_reference(case, scale):
    """Of detections in original pixels, whatever the scale of the view."""
    low, high = case["range"]
    batch = make_batch(1, 400, 500, ranges=(max(0.0, low), high if high > 0 else inf), scale=scale)
    module = DetectionModule(Stub(fixed([[scale * x for x in case["det"]]])), LABELS)
    assert len(module.infer(batch)) == case["kept"]


def test_a_perfect_detector_returns_every_size():
    """Ranges of inference overlap: nothing falls between two scales."""
    sniper = read_option("dataset/coco").dataset.sniper
    resolutions, ranges = (OmegaConf.to_container(sniper[name]) for name in ("pyramid", "test_ranges"))
    image = ImageRecord(1500, 1500, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool))
    views = Pyramid(resolutions, ranges)(image, [], None)
    sizes = np.arange(1, 1001)
    found = []
    for view in views:
        height, width = view.size
        batch = make_batch(1, 32, 32, boxes=0, ranges=view.valid_range)  # the stub looks at no pixel
        batch.sizes = torch.tensor([[height, width]])
        batch.windows = torch.tensor([view.window], dtype=torch.float32)
        boxes = np.stack([np.zeros(1000), np.zeros(1000), sizes, sizes], axis=1) * (width / image.width)
        stub = Stub(fixed(boxes.tolist(), scores=[0.9] * 1000))
        module = DetectionModule(stub, LABELS, inference=Inference(max_detections=1000))
        found.append(module.infer(batch).boxes[:, 2].round().astype(int))
    assert set(np.concatenate(found).tolist()) == set(sizes.tolist())
    # As the ranges say, with both ends where a rounding decides.
    assert set(range(33, 90)) <= set(found[0].tolist()) & set(found[1].tolist())
    assert set(range(76, 180)) <= set(found[1].tolist()) & set(found[2].tolist())
    assert max(found[0]) <= 90
    assert min(found[1]) >= 32
    assert max(found[1]) <= 180
    assert min(found[2]) >= 75


# The option and the benchmark


def test_the_option_is_what_sniper_says():
    option = OmegaConf.to_container(read_option("test/soft_nms").test.merge)
    module, name = option.pop("_target_").rsplit(".", 1)
    merge = getattr(importlib.import_module(module), name)(**option)
    assert isinstance(merge, SoftNMS)
    assert vars(merge) == {"method": "gaussian", "sigma": 0.55, "iou": 0.3, "floor": 0.001}


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    """And fails where the loops come to other scores."""
    file = tmp_path / "result.json"
    sizes = ["--large", "2", "--boxes", "120", "--small", "30", "--repeats", "1"]
    done = run_forked(ROOT / "benchmarks" / "soft_nms.py", *sizes, "--json", str(file), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert result["workloads"]["large"]["boxes"] == 240
    assert result["workloads"]["small"]["groups"] == 30
    for work in result["workloads"].values():
        assert set(work["ratios"]) == {"torch loop", "numpy loop", "hard NMS"}
        assert min(work["seconds"].values()) > 0
        assert 0 < work["kept"] <= work["boxes"]
