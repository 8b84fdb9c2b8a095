"""What a perfect head of AutoFocus would look at."""

import pytest
from support.stores import make_store

from lightning_det.backbones import tiny_backbone
from lightning_det.detectors import FocusHead
from lightning_det.inspection.focus import look_perfectly
from lightning_det.views import BothSides, FocusPyramid, Planner, Pyramid

RESOLUTIONS = [2.0, 1.0, 0.5]
HEAD = FocusHead(tiny_backbone("pyramid", 4), 8, (2.0, 24.0, 34.0))


def planner(flip=None):
    return Planner(FocusPyramid(RESOLUTIONS, None, [0.5, 0.5], [48, 48]), flip=flip)


def test_only_small_objects_are_looked_at_closer(tmp_path):
    """Of 30 pixels, 15 in the coarsest view and 30 in the next, where it is large enough; and of 200 pixels."""
    store = make_store(tmp_path, [(640, 480)] * 2, [(0, 100, 100, 130, 130, 0), (1, 200, 200, 400, 400, 0)])
    found = look_perfectly(store, planner(), HEAD)
    assert [(look.image, look.view.level) for look in found.looks] == [(0, 2), (0, 1), (1, 2)]
    x1, y1, x2, y2 = found.looks[1].view.window
    assert x1 <= 100 <= 130 <= x2
    assert y1 <= 100 <= 130 <= y2
    assert found.chips == 0.5
    chip = (x2 - x1) * (y2 - y1)
    assert found.share == pytest.approx((2 * 320 * 240 + chip) / (2 * 640 * 480 * (4 + 1 + 0.25)))


def test_small_objects_everywhere_take_all_pixels(tmp_path):
    boxes = [(0, x, y, x + 10, y + 10, 0) for y in range(0, 470, 20) for x in range(0, 630, 20)]
    store = make_store(tmp_path, [(640, 480)], boxes)
    found = look_perfectly(store, planner(BothSides()), HEAD)
    assert sorted(look.view.window for look in found.looks) == [(0, 0, 640, 480)] * 6
    assert found.share == pytest.approx(1)  # of the pyramid and its mirror image
    whole = Planner(Pyramid(RESOLUTIONS), flip=BothSides())(store.record(0))
    assert sorted(look.view._replace(border=0.0) for look in found.looks) == sorted(whole)
