"""Warped images, SSD's random windows and its random colours."""

import colorsys
from math import inf

import numpy as np
import pytest
import torch
from helpers import make_batch, record
from hypothesis import given, settings
from hypothesis import strategies as st
from support.makers import c4, fpn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from lightning_det.backbones import tiny_backbone
from lightning_det.data.colours import distort
from lightning_det.data.dataset import OUTSIDE, Collate, Look, Sample, render
from lightning_det.protocols.structures import State
from lightning_det.selection import RandomSelector
from lightning_det.views import Distort, IoUCrops, Planner, Pyramid, RandomFlip, Tiles, View, Warp
from lightning_det.views.iou_crops import _iou
from lightning_det.views.targets import targets
from lightning_det.views.view import Distortion, boxes_to_image, boxes_to_view

PLAIN = Distortion(0.0, 1.0, 1.0, 0.0, True)


def drawn(image, seed=0, views=None, **options):
    views = views or Pyramid([[image.height, image.width]])(image, [], None)
    return IoUCrops(**options)(image, views, np.random.default_rng(seed))


# Warped images


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (300, 300), (17, 2000)])
def test_a_warped_image_fills_its_canvas(shape):
    height, width = shape
    image = record(width, height, [[0, 0, width, height], [width / 4, height / 2, width / 2, height]])
    (view,) = Warp([300, 320])(image, [], None)
    assert view.size == (300, 320)
    planner = Planner(Warp([300, 320]))
    pixels = torch.full((3, height, width), 200, dtype=torch.uint8)
    found = targets(image, view)
    batch = Collate(planner.canvas)([Sample(Look(0, view), render(pixels, view), found)])
    assert batch.images.shape == (1, 3, 300, 320)  # not a multiple of 32
    assert (batch.images == 200).all()
    torch.testing.assert_close(batch.boxes[0, :2], torch.tensor([[0.0, 0, 320, 300], [80, 150, 160, 300]]))
    back = boxes_to_image(batch.boxes, batch)[0, :2]
    torch.testing.assert_close(back, torch.tensor(image.boxes, dtype=torch.float32), rtol=1e-5, atol=1e-2)
    assert batch.scales[0] == pytest.approx(view.scale, rel=1e-6)


@pytest.mark.parametrize("size", [[300], [0, 300], [300, -1], [1, 2, 3]])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match="height, width"):
        Warp(size)


def test_warped_images_are_not_cut_at_a_scale():
    with pytest.raises(ValueError, match="Tiles cut views at their scale, and Warp has none"):
        Planner(Warp([300, 300]), Tiles(128))


@pytest.mark.slow
@pytest.mark.parametrize("make", [fpn, c4])
def test_two_stage_detectors_keep_anchors_in_place_on_odd_canvases(make):
    """At 100 x 180 the maps of stride 32 have 4 x 6 cells; their anchors are 32 pixels apart, not 25 and 30."""
    form = "pyramid" if make == fpn else "c4"
    arguments = (tiny_backbone(form, 8), 6, [8, 16, 32, 64, 128], [1.0], RandomSelector(16, 0.5), RandomSelector(16))
    model = make(*arguments).eval()
    batch = make_batch(1, 100, 180)
    seen = []
    model.rpn.anchors.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    model.losses(batch)
    with torch.no_grad():
        model(batch.images, batch.sizes)
    for (image_size, maps), anchors in seen:
        assert tuple(image_size) == (128, 192)
        for grid, of_map in zip(anchors, maps, strict=True):
            height, width = of_map.shape[-2:]
            centres = (grid[:, :2] + grid[:, 2:]).view(height, width, -1, 2) / 2
            steps = {*(centres[1:] - centres[:-1])[..., 1].unique().tolist()}
            assert steps in ({128 / height}, set())
            assert {*(centres[:, 1:] - centres[:, :-1])[..., 0].unique().tolist()} in ({192 / width}, set())
    assert len(seen) == 2


# Random windows


def test_windows_grow_as_by_zooming_out():
    """The same draws of a ratio and a place make the window that v2 pads the image to."""
    image = record(64, 48, [[8, 8, 24, 40]])
    zoom = v2.RandomZoomOut(fill=dict.fromkeys([torch.Tensor], OUTSIDE), side_range=(3.0, 3.0), p=1.0)
    pixels = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padding = zoom.make_params([pixels])["padding"]
    left, top, right, bottom = padding
    view = View(1.0, (-left, -top, 64 + right, 48 + bottom))
    padded = tvf.pad(pixels, padding)
    inside = torch.zeros_like(padded, dtype=torch.bool)
    inside[:, top : top + 48, left : left + 64] = True
    expected = torch.where(inside, padded, torch.tensor(OUTSIDE, dtype=torch.uint8)[:, None, None])
    assert torch.equal(render(pixels, view), expected)
    assert view.size == (144, 192)
    grown = [drawn(image, s, expand_probability=1.0, expansion=3.0, min_ious=[])[0] for s in range(300)]
    widths = np.array([x2 - x1 for (x1, _, x2, _) in (v.window for v in grown)])
    uncut = np.array([(x1 <= 0) & (x2 >= 64) & (y1 <= 0) & (y2 >= 48) for x1, y1, x2, y2 in (v.window for v in grown)])
    assert widths[uncut].min() >= 64
    assert widths.max() <= 3 * 64 + 1
    assert widths.max() > 2.8 * 64


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 100_000), count=st.integers(0, 6), flip=st.booleans())
def test_a_box_is_learned_from_when_its_centre_is_inside(seed, count, flip):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, [500, 400], (count, 2))
    image = record(640, 480, np.concatenate([corner, corner + rng.uniform(4, [140, 80], (count, 2))], axis=1))
    (view,) = drawn(image, seed, Pyramid([[192, 256]])(image, [], None))
    view = view._replace(flip=flip)
    assert view.size == (192, 256)
    assert all(isinstance(v, int) for v in view.window)
    x1, y1, x2, y2 = view.window
    assert x1 < x2
    assert y1 < y2
    centre = (image.boxes[:, :2] + image.boxes[:, 2:]) / 2
    inside = ((centre >= [x1, y1]) & (centre < [x2, y2])).all(axis=1)
    found = targets(image, view, min_side=0.0)
    learned = found.source[found.states == State.VALID]
    assert sorted(learned) == np.flatnonzero(inside).tolist()
    # Pixels go where boxes go: a painted box is where its target says, up to rounding.
    for source, box in zip(found.source, found.boxes, strict=True):
        pixels = torch.zeros(3, 480, 640, dtype=torch.uint8)
        a, b, c, d = image.boxes[source].round().astype(int)
        pixels[:, b:d, a:c] = 255
        bright = (render(pixels, view)[0] > 127 + (OUTSIDE[0] > 127)).nonzero()
        if len(bright) and min(box[2:] - box[:2]) > 6:
            measured = [*bright.amin(dim=0).flip(0).tolist(), *(bright.amax(dim=0).flip(0) + 1).tolist()]
            factor = max(view.size[0] / (y2 - y1), view.size[1] / (x2 - x1))
            np.testing.assert_allclose(measured, box, atol=1.5 + factor)


def test_parts_have_the_overlap_of_their_sampler():
    image = record(400, 300, [[40, 30, 360, 270]])
    crops = IoUCrops()
    rng = np.random.default_rng(0)
    window = np.array([0.0, 0, 400, 300])
    complete = 0
    for _ in range(100):
        parts = crops._parts(window, image.boxes, rng)
        sides = (parts[:, 2:] - parts[:, :2]) / [400, 300]
        assert (parts[:, :2] >= 0).all()
        assert (parts[:, 2:] <= [400 + 1e-9, 300 + 1e-9]).all()
        assert (sides.prod(axis=1) >= 0.09 - 1e-9).all()
        aspect = sides[:, 0] / sides[:, 1]
        assert (aspect >= 0.5 - 1e-9).all()
        assert (aspect <= 2 + 1e-9).all()
        if len(parts) == 6:
            complete += 1
            assert (_iou(parts, image.boxes)[:, 0] >= [0.1, 0.3, 0.5, 0.7, 0.9, 0]).all()
    assert 0 < complete < 100, complete  # 0.9 is not always found


def test_iou_of_parts():
    parts = np.array([[[0.0, 0, 10, 10], [5, 0, 15, 10]]])
    np.testing.assert_allclose(_iou(parts, np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])), [[[1, 0], [1 / 3, 0]]])


@pytest.mark.slow
def test_successful_samplers_are_equally_likely():
    """All samplers succeed here, so the uncut window has one share of as many as there are."""
    image = record(400, 300, [[0, 0, 400, 300]])
    for min_ious in ([], [0.05, 0.06], [0.05] * 6):
        views = [drawn(image, s, expand_probability=0.0, min_ious=min_ious)[0] for s in range(2000)]
        whole = np.mean([v.window == (0, 0, 400, 300) for v in views])
        assert whole == pytest.approx(1 / (len(min_ious) + 2), abs=0.03)


def test_failing_samplers_are_left_out():
    """No part has this IoU with so small an object: the free sampler and the uncut window remain."""
    image = record(400, 300, [[10, 10, 14, 14]])
    views = [drawn(image, s, expand_probability=0.0, min_ious=[0.9] * 8)[0] for s in range(1000)]
    assert np.mean([v.window == (0, 0, 400, 300) for v in views]) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("ignored", [(), (0,)])
def test_without_objects_windows_are_not_cut(ignored):
    image = record(400, 300, [[10, 10, 200, 200]] if ignored else [], ignored)
    views = [drawn(image, s, expand_probability=0.0)[0] for s in range(50)]
    assert {v.window for v in views} == {(0, 0, 400, 300)}
    assert {v.valid_boxes for v in views} == {(0,) if ignored else ()}
    if ignored:
        assert targets(image, views[0]).states.tolist() == [State.IGNORED]


def test_valid_ranges_hold_in_random_windows():
    image = record(400, 300, [[0, 0, 400, 300], [10, 10, 30, 30]])
    views = Pyramid([[300, 400]], valid_ranges=[[0, 100]])(image, [], None)
    (view,) = drawn(image, 0, views, expand_probability=0.0, min_ious=[])
    assert 0 not in view.valid_boxes
    assert view.valid_range == (0, 100)


def test_a_part_of_a_tile_stays_in_it():
    image = record(400, 300, [[210, 110, 290, 190]])
    tile = View(2.0, (200, 100, 300, 200), level=3)
    for seed in range(50):
        (view,) = drawn(image, seed, [tile], expand_probability=0.0)
        x1, y1, x2, y2 = view.window
        assert 200 <= x1 < x2 <= 300
        assert 100 <= y1 < y2 <= 200
        assert view.size == (200, 200)
        assert view.level == 3


@pytest.mark.parametrize("step", [IoUCrops(), Distort()])
def test_random_steps_are_not_for_inference(step):
    with pytest.raises(ValueError, match="for training"):
        step(record(), [], None)


@pytest.mark.parametrize(
    "options",
    [
        {"expansion": 0.5},
        {"max_aspect": 0.5},
        {"trials": 0},
        {"min_scale": 0},
        {"min_ious": [2]},
        {"expand_probability": 2},
    ],
)
def test_impossible_windows_are_refused(options):
    with pytest.raises(ValueError, match="IoUCrops"):
        IoUCrops(**options)


def test_a_window_may_show_no_pixel_of_the_image():
    pixels = torch.full((3, 20, 30), 200, dtype=torch.uint8)
    for window in [(-40, -40, -10, -10), (30, 20, 60, 50), (-500, -500, 500, 500)]:
        shown = render(pixels, View(1.0, window, shape=(8, 8), distortion=PLAIN._replace(brightness=0.1)))
        assert shown.shape == (3, 8, 8)
        assert (shown == torch.tensor(OUTSIDE)[:, None, None]).all()


def test_flipped_windows_outside_the_image():
    pixels = torch.full((3, 10, 10), 255, dtype=torch.uint8)
    shown = render(pixels, View(1.0, (-10, 0, 10, 10), flip=True))
    assert (shown[:, :, :10] == 255).all()
    assert (shown[:, :, 10:] == torch.tensor(OUTSIDE)[:, None, None]).all()
    box = boxes_to_view(np.array([[0.0, 0, 10, 10]]), View(1.0, (-10, 0, 10, 10), flip=True))
    np.testing.assert_allclose(box, [[0, 0, 10, 10]])


# Random colours


def pixels(seed=0):
    return torch.randint(0, 256, (3, 12, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def hsv(x):
    return np.array([colorsys.rgb_to_hsv(*p) for p in (x.flatten(1).T / 255.0).tolist()])


def test_no_change_of_colours_changes_nothing():
    assert torch.equal(distort(pixels(), PLAIN), pixels())


def test_brightness_is_added_and_contrast_multiplies():
    x = pixels().float()
    assert torch.equal(distort(pixels(), PLAIN._replace(brightness=20 / 255)).float(), (x + 20).clamp(0, 255))
    for first in (True, False):
        changed = distort(pixels(), PLAIN._replace(contrast=1.5, contrast_first=first))
        torch.testing.assert_close(changed.float(), (x * 1.5).clamp(0, 255), atol=0.51, rtol=0)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.3, 1.5])
def test_saturation_is_that_of_hsv(factor):
    before = hsv(pixels())
    before[:, 1] = (before[:, 1] * factor).clip(0, 1)
    expected = np.array([colorsys.hsv_to_rgb(*p) for p in before]).T.reshape(3, 12, 16) * 255
    changed = distort(pixels(), PLAIN._replace(saturation=factor))
    np.testing.assert_allclose(changed.numpy(), expected, atol=0.51)


def test_hue_is_turned():
    before = hsv(pixels())
    before[:, 0] = (before[:, 0] + 0.1) % 1
    expected = np.array([colorsys.hsv_to_rgb(*p) for p in before]).T.reshape(3, 12, 16) * 255
    changed = distort(pixels(), PLAIN._replace(hue=0.1))
    np.testing.assert_allclose(changed.numpy(), expected, atol=1.01)


def test_the_order_of_contrast_matters():
    change = PLAIN._replace(contrast=1.5, saturation=0.5)
    assert not torch.equal(distort(pixels(), change), distort(pixels(), change._replace(contrast_first=False)))


def test_grey_stays_grey():
    grey = torch.full((3, 4, 4), 77, dtype=torch.uint8)
    assert torch.equal(distort(grey, PLAIN._replace(saturation=1.5, hue=0.1)), grey)
    black = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert torch.equal(distort(black, PLAIN._replace(saturation=1.5, contrast=0.5, hue=0.1)), black)


def test_each_change_has_its_own_draw():
    step = Distort()
    view = View(1.0, (0, 0, 10, 10))
    rng = np.random.default_rng(0)
    changes = np.array([step(record(), [view], rng)[0].distortion for _ in range(2000)])
    unchanged = (changes[:, :4] == [0, 1, 1, 0]).mean(axis=0)
    np.testing.assert_allclose(unchanged, 0.5, atol=0.04)
    assert changes[:, 4].mean() == pytest.approx(0.5, abs=0.04)
    assert abs(np.corrcoef((changes[:, :4] == [0, 1, 1, 0]).T)[np.triu_indices(4, 1)]).max() < 0.1
    np.testing.assert_allclose(changes[:, :4].max(axis=0), [32 / 255, 1.5, 1.5, 0.1], rtol=0.02)
    np.testing.assert_allclose(changes[:, :4].min(axis=0), [-32 / 255, 0.5, 0.5, -0.1], rtol=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"hue": 100},
        {"brightness": -1},
        {"contrast": (-1, 1)},
        {"contrast": (1.5, 0.5)},
        {"saturation": (0.5, inf)},
        {"probability": 1.5},
    ],
)
def test_impossible_colours_are_refused(options):
    with pytest.raises(ValueError, match="Distort"):
        Distort(**options)


def test_only_the_image_changes_its_colours():
    view = View(1.0, (-10, 0, 10, 10), distortion=PLAIN._replace(brightness=0.2))
    shown = render(torch.full((3, 10, 10), 100, dtype=torch.uint8), view)
    assert (shown[:, :, :10] == torch.tensor(OUTSIDE)[:, None, None]).all()
    assert (shown[:, :, 10:] == 151).all()


def test_a_plan_with_everything_is_that_of_its_seed():
    planner = Planner(Warp([60, 80]), IoUCrops(), RandomFlip(), Distort())
    image = record(640, 480, [[10, 10, 300, 300]])
    plans = [planner(image, np.random.default_rng((3, 1, seed))) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert plans[0][0].size == (60, 80)
    assert planner.at(2).steps == planner.steps
    assert planner.canvas == (60, 80)
