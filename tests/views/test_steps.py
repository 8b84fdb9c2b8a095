"""The contract of a planner's steps: defaults, what each step declares, and what planners make of it."""

import numpy as np
import pytest
from helpers import record

from lightning_det.views import (
    BothSides,
    Chips,
    Distort,
    IoUCrops,
    LargeViews,
    Planner,
    Pyramid,
    RandomFlip,
    Step,
    SubImages,
    Tiles,
    View,
    Warp,
)

DEFAULTS = {
    "canvas": None,
    "resolutions": (),
    "draws_one": False,
    "needs_all_resolutions": False,
    "keeps_shape": False,
    "uses_proposals": False,
    "whole": False,
    "loses_boxes": False,
}


class Halved(Step):
    """The whole image at half its scale in odd epochs."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, image, views, rng):
        return [View(self.scale, (0, 0, image.width, image.height))]

    def at(self, epoch):
        return Halved(0.5 if epoch % 2 else 1.0)


@pytest.mark.parametrize(
    ("step", "declared"),
    [
        (Halved(), {}),
        (Pyramid([2.0, [100, 200]]), {"resolutions": [2.0, [100, 200]]}),
        (Pyramid([1.0], draw="one"), {"resolutions": [1.0], "draws_one": True}),
        (Warp([30, 40]), {"canvas": (30, 40)}),
        (Tiles(64), {"canvas": 64, "loses_boxes": True}),
        (Tiles(64, whole=True), {"canvas": 64, "loses_boxes": True, "whole": True}),
        (SubImages(), {}),
        (
            Chips(64),
            {"canvas": 64, "loses_boxes": True, "needs_all_resolutions": True, "uses_proposals": True},
        ),
        (Chips(64, negatives=0), {"canvas": 64, "loses_boxes": True, "needs_all_resolutions": True}),
        (IoUCrops(), {"keeps_shape": True}),
        (LargeViews(), {"keeps_shape": True}),
        (RandomFlip(), {}),
        (BothSides(), {}),
        (Distort(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_steps_declare_what_differs_from_the_defaults(step, declared):
    assert isinstance(step, Step)
    assert {name: getattr(step, name) for name in DEFAULTS} == DEFAULTS | declared


def test_defaults_of_methods():
    step, image, view = SubImages(), record(boxes=[(0, 0, 9, 9)]), View(1.0, (0, 0, 640, 480))
    assert step.at(3) is step
    assert step.out_of_order([3, 4], [5, 6]) == [False, False]
    counts = (step.count_orphans, step.count_unlearned, step.count_larger)
    assert [count(image, [view]) for count in counts] == [0, 0, 0]


def test_any_step_may_change_with_the_epoch():
    planner = Planner(Halved(), Halved(), Halved(), Halved())
    steps = [[step.scale for step in planner.at(epoch).steps] for epoch in range(3)]
    assert steps == [[1.0] * 4, [0.5] * 4, [1.0] * 4]
    assert [step.scale for step in planner.steps] == [1.0] * 4
    assert Planner(Halved()).at(1).steps[0].scale == 0.5


def test_what_a_planner_says_of_its_steps():
    assert Planner(Pyramid([1.0])).canvas is None
    assert Planner(Warp([30, 40]), IoUCrops()).canvas == (30, 40)
    assert Planner(Pyramid([1.0]), Tiles(64)).canvas == 64
    assert Planner(Pyramid([1.0]), Chips(64)).uses_proposals
    assert not Planner(Pyramid([1.0]), Chips(64, negatives=0)).uses_proposals
    assert not Planner(Pyramid([1.0])).uses_proposals


def test_what_is_no_step_is_refused_by_name():
    with pytest.raises(ValueError, match=r"function is no planner step; derive it from lightning_det\.views\.Step"):
        Planner(lambda image, views, rng: views)
    with pytest.raises(ValueError, match="object is no planner step"):
        Planner(Halved(), flip=object())
    with pytest.raises(TypeError, match="abstract"):
        type("Silent", (Step,), {})()


def test_views_are_those_of_all_steps():
    planner = Planner(Halved(), Tiles(320, 0.0), BothSides())
    views = planner(record(), np.random.default_rng(0))
    assert len(views) == 2 * 2 * 2
    assert [v.flip for v in views] == [False, True] * 4
