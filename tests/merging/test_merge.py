"""From views to images."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_det.evaluation.results import Results
from lightning_det.merging.nms import NMS, keep_best, remove_fragments


def results(rows):
    """Rows of (image, x, score, label): 10-pixel squares."""
    images, x, scores, labels = (np.array(c) for c in zip(*rows, strict=True))
    boxes = np.stack([x, np.zeros(len(x)), x + 10, np.full(len(x), 10)], axis=1)
    return Results(
        images.astype(np.int64),
        boxes.astype(np.float32),
        scores.astype(np.float32),
        labels.astype(np.int64),
        np.unique(images),
    )


def test_duplicates_go_within_image_and_class_only():
    merged = results([(0, 0, 0.9, 1), (0, 1, 0.8, 1), (0, 1, 0.7, 2), (1, 1, 0.6, 1), (0, 50, 0.5, 1)]).merge_views(
        NMS(0.5), 100
    )
    kept = sorted(zip(merged.images.tolist(), (10 * merged.scores).round().tolist(), strict=True))
    assert kept == [(0, 5), (0, 7), (0, 9), (1, 6)]


def test_the_best_of_each_image_stay():
    merged = results([(i, 20 * k, 0.1 * k + 0.01 * i, 0) for k in range(5) for i in (2, 0)]).merge_views(NMS(0.5), 3)
    assert merged.images.tolist() == [0, 0, 0, 2, 2, 2]
    np.testing.assert_allclose(merged.scores, [0.4, 0.3, 0.2, 0.42, 0.32, 0.22], atol=1e-6)


def test_merging_is_idempotent_and_ignores_order():
    rng = np.random.default_rng(0)
    rows = [
        (int(rng.integers(3)), float(rng.uniform(0, 60)), float(rng.uniform()), int(rng.integers(2)))
        for _ in range(200)
    ]
    once = results(rows).merge_views(NMS(0.4), 100)
    again = once.merge_views(NMS(0.4), 100)
    shuffled = results([rows[i] for i in rng.permutation(200)]).merge_views(NMS(0.4), 100)
    for other in (again, shuffled):
        np.testing.assert_array_equal(once.scores, other.scores)
        np.testing.assert_array_equal(once.boxes, other.boxes)


def test_nothing_merges_to_nothing():
    empty = Results.concatenate([Results(), Results(seen=np.array([3, 1]))])
    merged = empty.merge_views(NMS(0.5), 10)
    assert len(merged) == 0
    assert merged.seen.tolist() == [1, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), max_size=60), st.integers(1, 5))
def test_keep_best_is_a_sort_per_image(rows, count):
    images = torch.tensor([r[0] for r in rows], dtype=torch.int64)
    scores = torch.tensor([float(r[1]) for r in rows])
    best = keep_best(scores, images, count)
    for image in range(4):
        expected = sorted(scores[images == image].tolist(), reverse=True)[:count]
        assert scores[best][images[best] == image].tolist() == expected


def test_merging_does_not_depend_on_an_images_number():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 560, (300, 2)).repeat(3, 0) + rng.uniform(-6, 6, (900, 2))
    boxes = np.concatenate([corner, corner + 20], 1).astype(np.float32)
    scores, labels, images = rng.random(900).astype(np.float32), np.arange(300).repeat(3) % 80, np.arange(300).repeat(3)

    def merged(images):
        return Results(images, boxes, scores, labels, np.unique(images)).merge_views(NMS(0.5), 100).scores

    np.testing.assert_array_equal(merged(images), merged(images + 4700))


def test_parts_of_what_another_view_shows_whole_go():
    rows = [
        # box, score, class, cut
        ((0, 0, 100, 100), 0.6, 0, False),
        ((0, 0, 50, 100), 0.9, 0, True),  # half of it
        ((50, 0, 110, 100), 0.9, 0, True),  # 83 % of it lie inside
        ((60, 0, 130, 100), 0.9, 0, True),  # 57 %
        ((0, 0, 40, 40), 0.9, 0, False),  # an object of its own: no border cut it
        ((0, 0, 50, 90), 0.9, 1, True),  # of another class
        ((300, 0, 350, 90), 0.9, 0, True),  # nothing shows it whole
    ]
    boxes, scores, labels, cut = (np.array(column) for column in zip(*rows, strict=True))
    images = np.zeros(len(rows), np.int64)

    def left(cut, fragments, images=images):
        found = Results(images, boxes.astype(np.float32), np.float32(scores), labels, np.unique(images), cut)
        merged = found.merge_views(NMS(1.0), 100, fragments=fragments)
        return sorted(boxes.tolist().index(box) for box in merged.boxes.tolist())

    assert left(cut, 0.8) == [0, 3, 4, 5, 6]
    assert left(cut, 0.5) == [0, 4, 5, 6]
    assert left(cut, None) == left(None, 0.8) == list(range(7))
    # A whole one that is hardly believed in takes none with it.
    scores[0] = 0.4
    assert left(cut, 0.8) == list(range(7))
    scores[0] = 0.6
    assert left(cut, 0.8, np.arange(len(rows))) == list(range(7))


@given(st.integers(0, 1000), st.sampled_from([0.3, 0.8]))
def test_parts_are_removed_group_by_group(seed, share):
    """Against a loop over pairs."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 20, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 20, (60, 2))], axis=1)
    scores, groups, cut = rng.uniform(0, 1, 60), rng.integers(0, 6, 60), rng.uniform(0, 1, 60) < 0.4
    covered = np.zeros(60, bool)
    for part in np.flatnonzero(cut):
        for whole in np.flatnonzero(~cut & (groups == groups[part]) & (scores >= scores[part] / 2)):
            sides = np.minimum(boxes[part, 2:], boxes[whole, 2:]) - np.maximum(boxes[part, :2], boxes[whole, :2])
            area = (boxes[part, 2:] - boxes[part, :2]).prod()
            covered[part] |= sides.clip(0).prod() >= share * area
    found = remove_fragments(*map(torch.from_numpy, (boxes, scores, groups, cut)), share)
    assert found.tolist() == np.flatnonzero(~covered).tolist()


def test_shares_of_the_ranks_are_the_whole():
    images = np.array([0, 1, 2, 5, 5])
    whole = Results(images, np.zeros((5, 4), np.float32), np.ones(5, np.float32), np.zeros(5, np.int64), np.arange(6))
    shares = [whole.share(rank, 4) for rank in range(4)]
    assert sorted(np.concatenate([s.images for s in shares])) == images.tolist()
    assert sorted(np.concatenate([s.seen for s in shares])) == list(range(6))
    cut = Results(images, whole.boxes, whole.scores, whole.labels, whole.seen, np.array([1, 0, 0, 1, 0], bool))
    assert [s.cut.tolist() for s in (cut.share(1, 4), cut.by_image())] == [[False, True, False], cut.cut.tolist()]
    assert Results.concatenate([whole, cut]).cut.tolist() == [False] * 5 + cut.cut.tolist()
