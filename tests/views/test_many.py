"""Plans of many images at once: those of each image alone."""

import numpy as np
import pytest

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views import Chips, Planner, Pyramid, RandomFlip, Step, View

SCALES = ([2.0, 1.0, [-1, 128]], [[0, 40], [24, 80], [60, -1]], [[0, 40], [0, 80], [60, -1]])


def images(count=60):
    """Images of several sizes, some without boxes, with ignored boxes, with boxes beyond the border, or mined."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        extent = np.array([[160, 120], [120, 160], [300, 200], [90, 70]][number % 4])
        boxes = 0 if number % 7 == 3 else int(rng.integers(1, 12))
        corners = rng.random((boxes, 2)) * extent * 0.8
        sides = np.exp(rng.uniform(np.log(3), np.log(90), (boxes, 2)))
        rows = np.concatenate([corners, corners + sides], axis=1) - (2 if number % 5 == 0 else 0)
        if number % 5:
            rows[:, 2:] = np.minimum(rows[:, 2:], extent)
        ignored = rng.random(boxes) < 0.2
        mined = rng.random((90 if number % 2 else 0, 2)) * extent * 0.9
        proposals = np.concatenate([mined, mined + 3 + 6 * rng.random(mined.shape)], axis=1).astype(np.float32)
        labels = np.zeros(boxes, np.int64)
        found.append(ImageRecord(*extent.tolist(), rows, labels, ignored, proposals))
    return found


def generators(count):
    return [np.random.default_rng((3, number)) for number in range(count)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"negatives": 0},
        {"negatives": 3, "dense": (4, 2), "backgrounds": True},
        {"stride": (20, 40), "orphans": "drop", "min_side": 5.0},
        {"labels": "one_chip", "covered": "touched", "dense": (4, 2)},
        {"labels": "one_chip", "orphans": "coarsest", "stride": 16, "negatives": 9, "dense": (1, 1)},
    ],
)
def test_chips_of_many_images_are_those_of_each(arguments):
    records = images()
    planner = Planner(Pyramid(*SCALES), Chips(size=128, **arguments), RandomFlip(0.5))
    together = planner.many(records, generators(len(records)))
    alone = [planner(record, rng) for record, rng in zip(records, generators(len(records)), strict=True)]
    assert together == alone
    assert sum(map(len, together)) > 2 * len(records)
    # The order of the images does not matter, nor who else is planned.
    some = [17, 3, 40, 4]
    assert planner.many([records[i] for i in some], [generators(60)[i] for i in some]) == [alone[i] for i in some]


@pytest.mark.parametrize("number", [3, 10])
def test_images_without_boxes_get_no_chips(number):
    record = images()[number]
    assert not len(record.boxes)
    assert Planner(Pyramid(*SCALES), Chips(size=128)).many([record] * 2, generators(2)) == [[], []]


def test_no_images_have_no_chips():
    assert Planner(Pyramid(*SCALES), Chips(size=128), RandomFlip(0.5)).many([], []) == []


def test_one_of_many_scales_is_drawn_for_each_image():
    records = images(40)
    pyramid = Pyramid(*SCALES, draw="one")
    together = Planner(pyramid).many(records, generators(40))
    assert together == [pyramid(*given) for given in zip(records, [[]] * 40, generators(40), strict=True)]
    assert {view.level for (view,) in together} == {0, 1, 2}


def test_views_of_one_image_are_no_others():
    """Equal views are made once; lists that a later step changes must not be the same."""
    first, second = Planner(Pyramid(*SCALES)).many([images()[0]] * 2, [None, None])
    assert first == second
    assert first is not second


class TwoSmall(Pyramid):
    """A step of one's own that changes what a class does with one image."""

    def __call__(self, image, views, rng):
        found = super().__call__(image, views, rng)
        return found if image.width > 100 else [view._replace(level=view.level - 1) for view in found[1:]]


def test_a_class_that_changes_one_call_changes_many():
    records = images()
    pyramid = TwoSmall(*SCALES)
    assert pyramid.many(records[2:4], [[], []], [None, None]) == [pyramid(r, [], None) for r in records[2:4]]
    assert [len(found) for found in pyramid.many(records[2:4], [[], []], [None, None])] == [3, 2]
    # Chips of images with different numbers of scales.
    planner = Planner(pyramid, Chips(size=128))
    together = planner.many(records, generators(60))
    assert together == [planner(record, rng) for record, rng in zip(records, generators(60), strict=True)]
    assert {view.level for found in together for view in found} == {0, 1, 2}


def test_what_is_drawn_needs_a_generator_for_each_image():
    record = images()[0]
    with pytest.raises(ValueError, match="chips are for training"):
        Planner(Pyramid(*SCALES), Chips()).many([record, record], [np.random.default_rng(0), None])


class Same(Step):
    """Counts its calls."""

    calls = 0

    def __call__(self, image, views, rng):
        self.calls += 1
        return [View(1.0, (0, 0, image.width, image.height))]


def test_a_step_is_called_for_each_image():
    step = Same()
    assert [view.window[2:] for (view,) in Planner(step).many(images(4), [None] * 4)] == [
        (160, 120), (120, 160), (300, 200), (90, 70)
    ]  # fmt: skip
    assert step.calls == 4
