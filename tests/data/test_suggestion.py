"""What `inspect` suggests for other data than COCO, and the benchmark of chips."""

import json
import shutil
from itertools import pairwise, product
from math import inf
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import run_forked
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.in_process import run
from support.sizes import DRONE, coco_like, drone_like, make_store, of_store, random_store

from lightning_det.config import ConfigError, read_option
from lightning_det.config.data import check_order
from lightning_det.data.coco import Coco
from lightning_det.data.inspection import coverage
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.suggested_parts import round_pleasantly, suggest_cuts, suggest_focus
from lightning_det.data.suggestion import suggest
from lightning_det.data.trial import try_out
from lightning_det.views import Chips, LargeViews, Planner, Pyramid, SubImages, Tiles, View, Warp
from lightning_det.views.resolution import scale_factor

RESOLUTION = [800, 1333]


def record_of(width, height):
    return make_store([(width, height)], [[]]).record(0)


def steps_of(suggestion):
    """What the strategies build of a suggestion; every constructor checks what it is given."""
    snip, sniper = suggestion["snip"], suggestion["sniper"]
    train = Pyramid(sniper["scales"], sniper["valid_ranges"], sniper["anchor_ranges"])
    Pyramid(sniper["pyramid"], sniper["test_ranges"])
    whole = Pyramid(suggestion["pyramid"], snip["valid_ranges"], snip["anchor_ranges"])
    Pyramid(suggestion["pyramid"], snip["test_ranges"])
    return train, Chips(sniper["size"], sniper["stride"]), whole, SubImages(snip["sub_image"])


def bounds(ranges):
    return [(low, inf if high == -1 else high) for low, high in ranges]


def test_coco_gets_about_the_published_values():
    published = read_option("dataset/coco").dataset
    found = of_store(coco_like())
    sniper = found["sniper"]
    assert sniper["size"] == 512
    assert sniper["stride"] == 32
    assert sniper["min_side"] == 10
    assert sniper["scales"][-1] == [-1, 512]
    assert sniper["scales"][:-1] == pytest.approx([3, 1.667], rel=0.15)
    assert np.array(sniper["valid_ranges"]) == pytest.approx(np.array(published["sniper"]["valid_ranges"]), rel=0.1)
    assert np.array(sniper["anchor_ranges"]) == pytest.approx(np.array(published["sniper"]["anchor_ranges"]), rel=0.1)
    for key in ("snip", "sniper"):
        assert np.array(found[key]["test_ranges"]) == pytest.approx(np.array(published[key]["test_ranges"]), rel=0.35)
        assert set(found[key]) == set(published[key])
    assert np.array(found["pyramid"]) == pytest.approx(np.array(published["pyramid"]), rel=0.15)
    assert np.array(sniper["pyramid"]) == pytest.approx(np.array(published["sniper"]["pyramid"]), rel=0.15)
    assert found["snip"]["sub_image"] == pytest.approx(1000, rel=0.15)


def test_thin_objects_do_not_vanish():
    """Lines of text have the area of large objects, and the height of small ones."""
    given = np.full(99, 154.0), np.full(9, 2480), np.full(9, 3508), 8.0
    thick, thin = suggest(*given), suggest(*given, thin=20.0)
    assert scale_factor(2480, 3508, thick["sniper"]["scales"][0]) * 20 < 4
    assert thin["sniper"]["scales"][0] * 20 >= thin["sniper"]["min_side"] == 6
    assert scale_factor(2480, 3508, thin["resolution"]) * 20 == pytest.approx(4, abs=0.1)


def test_a_class_of_large_objects_keeps_its_scale():
    sizes = np.array([30.0] * 1000 + [700.0] * 14)
    given = sizes, np.full(9, 4000), np.full(9, 3000), 8.0
    labels = np.array([0] * 1000 + [1] * 14)
    assert len(suggest(*given)["sniper"]["scales"]) == 1
    kept = suggest(*given, labels=labels)["sniper"]
    assert kept["scales"][-1] == [-1, 320]
    assert kept["valid_ranges"][-1][0] < 700
    assert len(suggest(*given, labels=np.arange(1014) % 2)["sniper"]["scales"]) == 1  # of no class are most so large
    few = labels.copy()
    few[1003:] = 0  # three boxes teach nothing
    assert len(suggest(*given, labels=few)["sniper"]["scales"]) == 1


def test_scales_that_no_object_needs_are_left_out_in_the_middle_too():
    sizes = np.array([8.0] * 100 + [400.0] * 800)
    given = sizes, np.full(9, 1280), np.full(9, 720), 8.0
    every = suggest(*given)["sniper"]
    assert len(every["scales"]) == 4
    found = suggest(*given, without=[1, 2])["sniper"]
    assert found["scales"] == [every["scales"][0], every["scales"][3]]
    assert found["pyramid"] == [every["pyramid"][0], every["pyramid"][3]]
    for name in ("valid_ranges", "test_ranges"):
        finer, coarser = found[name]
        assert finer[0] == 0
        assert coarser[0] < finer[1]  # together they contain all sizes
        assert coarser[1] == -1


def test_focus_has_ascending_limits():
    for size in (0.01, 1, 3, 64, 500):
        limits = suggest_focus([1.0, 0.1], 320, [0, 10 * size])["limits"]
        assert limits == sorted(set(limits))
        assert limits[0] >= 1


def test_large_images_get_more_scales_and_images_without_variety_fewer():
    rng = np.random.default_rng(0)
    drone = suggest(np.exp(rng.uniform(np.log(20), np.log(1000), 5000)), np.full(9, 4000), np.full(9, 2250))
    assert len(drone["sniper"]["scales"]) == 4
    factors = [scale_factor(4000, 2250, s) for s in drone["sniper"]["scales"]]
    assert max(a / b for a, b in pairwise(factors)) < 2.4
    # Nothing is larger than 60 pixels: no coarser scale is needed, and one that learned nothing must not be tested.
    alike = suggest(rng.uniform(20, 60, 5000), np.full(9, 4000), np.full(9, 2250))
    assert alike["sniper"]["scales"] == [1.5]
    assert len(alike["sniper"]["pyramid"]) == 1
    for ranges in ("valid_ranges", "anchor_ranges", "test_ranges"):
        assert alike["sniper"][ranges] == [[0, -1]]
    assert len(alike["pyramid"]) == len(alike["snip"]["test_ranges"]) == 2
    few = np.where(np.arange(1000) < 30, 500.0, rng.uniform(20, 60, 1000))
    assert suggest(few, np.full(9, 4000), np.full(9, 2250))["sniper"]["scales"] == [1.5, 0.66, 0.29]
    # Objects of a tenth of the image at least are large enough in the whole image.
    large = suggest(rng.uniform(64, 300, 5000), np.full(9, 640), np.full(9, 480))
    assert large["sniper"]["scales"] == [[-1, 512]]
    assert large["snip"]["valid_ranges"] == large["sniper"]["test_ranges"] == [[0, -1]]
    assert large["snip"]["sub_image"] >= 640  # the only view stays whole


def test_images_of_mixed_size_are_tested_at_the_factors_of_training():
    large = [np.array([[0, 0, 0.7 * side, 0.7 * side]] * 9) for side in np.min(DRONE, axis=1)]
    cars = drone_like()
    found = of_store(make_store(DRONE, [np.concatenate([cars.record(n).boxes, b]) for n, b in enumerate(large)]))
    for pyramid in (found["sniper"]["pyramid"], found["pyramid"]):
        assert len(pyramid) == len(found["sniper"]["scales"])
        pairs = list(zip(found["sniper"]["scales"][:-1], pyramid[:-1], strict=True))
        for (width, height), (taught, tested) in product(DRONE, pairs):
            assert scale_factor(width, height, tested) == pytest.approx(scale_factor(width, height, taught), rel=0.05)
    # The whole image in a chip is tested as such; images of one size get their resolutions in pixels, as COCO's.
    assert found["sniper"]["pyramid"][-1] == found["sniper"]["scales"][-1] == [-1, 512]
    assert all(isinstance(resolution, list) for resolution in of_store(coco_like())["sniper"]["pyramid"])
    assert isinstance(found["resolution"], float)
    largest = max(width * height for width, height in DRONE)
    assert found["resolution"] ** 2 * largest < 1.3 * 2.8e6


def test_order_of_resolutions_is_that_of_the_images():
    large = make_store([(3000, 3000)] * 2, [[[100, 100, 130, 130]]] * 2)
    planner = Planner(Pyramid([1.0, 0.5, [-1, 512]]))
    check_order(planner, large, "views.train.scales")
    check_order(planner, make_store([(3000, 3000)] * 2 + [(640, 480)], [[], [], []]), "views.train.scales")
    with pytest.raises(ConfigError) as raised:
        check_order(planner, make_store([(640, 480)] * 2 + [(3000, 3000)], [[], [], []]), "views.train.scales")
    said = str(raised.value)
    assert said.startswith("views.train.scales: resolutions must be given from the finest to the coarsest")
    assert "in 2 of 3 images they are not, such as in 0 (640 x 480), whose factors are 1, 0.5, 0.8" in said
    with pytest.raises(ConfigError, match=r"whose factors are 0\.171, 0\.5"):
        check_order(Planner(Pyramid([[-1, 512], 0.5])), large, "views.train.scales")
    check_order(Planner(Warp()), large, "views.train.scales")
    for data in (drone_like(), coco_like(700)):
        found = of_store(data)
        for scales in (found["sniper"]["scales"], found["sniper"]["pyramid"], found["pyramid"]):
            check_order(Planner(Pyramid(scales)), data, "x")


def test_views_that_no_machine_can_hold_are_refused_before_they_are_made():
    store = make_store([(640, 480), (4000, 2250)], [[], []])
    with pytest.raises(ConfigError, match=r"1 \(4000 x 2250\) would be seen as one view of 32000 x 18000 pixels"):
        plan_epoch(store, Planner(Pyramid([8.0])), None)
    assert len(plan_epoch(store, Planner(Pyramid([8.0])), None, rendered=False)) == 2
    assert len(plan_epoch(store, Planner(Pyramid([8.0]), Tiles(4096)), None)) > 50


def test_the_resolution_of_single_scale_follows_small_objects():
    assert of_store(coco_like())["resolution"] == pytest.approx([800, 1333], rel=0.15)
    # Small in large images: as large as one view may be.
    short, cap = suggest(np.full(99, 10.0), np.full(9, 3000), np.full(9, 3000))["resolution"]
    assert short == pytest.approx(2.8e6**0.5, rel=0.05)
    assert cap >= short


def test_large_images_are_tested_in_tiles_that_hold_what_they_are_to_find():
    """Insects of 20 pixels in images of 3000 x 3000: whole views would have 56 megapixels."""
    rng = np.random.default_rng(0)
    store = random_store(3000, 3000, np.exp(rng.normal(np.log(18), 0.5, 700)), per_image=70)
    found = of_store(store)
    composed = OmegaConf.to_container(read_option("strategy/sniper").views.test.windows)
    assert composed.pop("_target_") == "lightning_det.views.LargeViews"
    windows = LargeViews(**composed)
    for key, pyramid in (("sniper", found["sniper"]["pyramid"]), ("snip", found["pyramid"])):
        scales = Pyramid(pyramid, found[key]["test_ranges"])
        record = store.record(0)
        whole = scales(record, [], None)
        assert whole[0].size[0] * whole[0].size[1] > 3e7
        views = windows(record, whole, None)
        assert max(view.size[0] * view.size[1] for view in views) <= 6e6
        assert {view.valid_range for view in views} == {view.valid_range for view in whole}
        for level, view in enumerate(whole):
            tiles = np.array([v.window for v in views if v.level == level])
            low, high = view.valid_range
            size = np.sqrt((record.boxes[:, 2:] - record.boxes[:, :2]).prod(axis=1))
            boxes = record.boxes[(size > low) & (size <= high)][:, None]
            assert ((boxes[..., :2] >= tiles[:, :2]) & (boxes[..., 2:] <= tiles[:, 2:])).all(axis=2).any(axis=1).all()
    inference = try_out(store, found, RESOLUTION)["sniper"]["inference"]
    assert inference["images_share_in_tiles"] == 1
    assert inference["views_per_image"] > 10
    assert inference["largest_view"] == pytest.approx([2048, 2048], abs=4)  # whole pixels of the image


def test_views_below_the_bound_stay_whole():
    windows = LargeViews(megapixels=1.0, size=512)
    small, large, warped = (View(s, (0, 0, 640, 480)) for s in (1.5, 2.0, 1.0))
    warped = warped._replace(shape=(3000, 3000))
    found = windows(record_of(640, 480), [small, large, warped], None)
    assert found[0] is small
    assert found[-1] is warped
    assert len(found) > 4
    assert Planner(Warp(), windows)(record_of(640, 480))[0].size == (300, 300)
    with pytest.raises(ValueError, match="megapixels"):
        LargeViews(megapixels=-1)


lengths = st.integers(8, 20_000)
images = st.lists(st.tuples(lengths, lengths), min_size=1, max_size=5)
logarithms = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20)


@pytest.mark.slow
@given(images, logarithms)
@settings(max_examples=200, deadline=None)
def test_every_suggestion_is_valid_and_complete(images, logarithms):
    widths, heights = np.array(images).T
    # From 1 pixel to the largest image.
    sizes = np.exp(np.array(logarithms) * np.log(np.sqrt(widths * heights).max()))
    found = suggest(sizes, widths, heights)
    steps_of(found)
    sniper = found["sniper"]
    assert sniper["size"] % 32 == 0
    assert 96 <= sniper["size"] <= 512
    ranges = bounds(sniper["valid_ranges"])
    assert ranges[0][0] == 0
    assert ranges[-1][1] == inf
    for (low, high), (next_low, next_high) in pairwise(ranges):
        assert low < next_low < high < next_high  # ascending, overlapping
    for (low, high), (wider_low, wider_high) in zip(ranges, bounds(sniper["test_ranges"]), strict=True):
        assert wider_low <= low
        assert high <= wider_high
    anchors = bounds(sniper["anchor_ranges"])
    assert [high for _, high in anchors] == [high for _, high in ranges]
    assert [low for low, _ in anchors] == [0] * (len(ranges) - 1) + [ranges[-1][0]]
    # On the median image scales go from the finest to the coarsest, which shows it in one chip.
    long, short = np.median([max(i) for i in images]), np.median([min(i) for i in images])
    for resolutions in (sniper["scales"], sniper["pyramid"], found["pyramid"]):
        factors = [scale_factor(long, short, r) for r in resolutions]
        # Rounding to whole pixels may make equals of the resolutions of images 10 pixels high.
        assert all(a > b or (a == b and short < 32) for a, b in pairwise(factors))
        assert len(factors) == 1 or factors[0] <= 4.3
    if len(sniper["scales"]) == len(found["pyramid"]):
        assert scale_factor(long, short, sniper["scales"][-1]) * long == pytest.approx(sniper["size"])
    else:
        assert sizes.max() < found["snip"]["valid_ranges"][-1][0]
    assert found == json.loads(json.dumps(found))


@given(st.integers(64, 3000), st.integers(64, 3000), logarithms, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_box_has_a_scale_or_counts_as_an_orphan(width, height, logarithms, seed):
    sizes = 2 * np.exp(np.array(logarithms) * np.log(min(width, height) / 2))
    store = random_store(width, height, sizes, seed)
    found = of_store(store)
    scales, chips, *_ = steps_of(found)
    planner = Planner(scales, chips)
    orphans = sum(chips.count_orphans(record, scales(record, [], None)) for record in store.records())
    tried = try_out(store, found, RESOLUTION)
    least = Chips(chips.size, found["sniper"]["stride"], min_side=found["sniper"]["min_side"])  # thinner boxes get none
    unlearned = sum(least.count_orphans(record, scales(record, [], None)) for record in store.records())
    assert tried["sniper"]["boxes_share_of_none"] == pytest.approx(unlearned / store.num_boxes)
    # Without lower bounds on what may be learned from: every box is in a chip, orphans at the coarsest scale.
    assert coverage(store, plan_epoch(store, planner, 0), 1.0, 0.0)["boxes_unlearned"] == 0
    long_side = (store.boxes[:, 2:] - store.boxes[:, :2]).max(axis=1)
    thick = (store.boxes[:, 2:] - store.boxes[:, :2]).min(axis=1) >= 2
    if (long_side < 1.8 * np.sqrt(store.areas)).all() and thick.all():  # no aspect beyond 3.2
        assert orphans == 0


def test_drone_has_what_is_suggested(drone, composed):
    store, _ = Coco(str(drone)).read("train2017")
    sizes = np.sqrt((store.boxes[:, 2:] - store.boxes[:, :2]).prod(axis=1))
    found = suggest(sizes, store.widths, store.heights, stride=8.0) | {"size_cuts": suggest_cuts(sizes)}
    dataset = OmegaConf.to_container(composed("train", "dataset=drone").dataset)
    assert {key: dataset[key] for key in found} == found


def test_a_suggestion_is_tried_by_planning_its_views():
    store = coco_like(1400)
    found = of_store(store)
    tried = try_out(store, found, RESOLUTION)
    scales, chips, whole, windows = steps_of(found)
    looks = plan_epoch(store, Planner(scales, chips), 0)
    assert tried["images"] == 200
    assert tried["sniper"]["views_per_image"] == len(looks) / 200
    levels = tried["sniper"]["levels"]
    assert sum(level["chips_per_image"] for level in levels) == pytest.approx(len(looks) / 200)
    assert [level["scale"] for level in levels] == found["sniper"]["scales"]
    sizes = np.sqrt(store.areas)
    for level, (low, high) in zip(levels, bounds(found["sniper"]["valid_ranges"]), strict=True):
        assert level["valid_range"] == [low, -1 if high == inf else high]
        assert level["boxes_share"] == pytest.approx(((sizes >= low) & (sizes < high)).mean(), abs=0.02)
    pixels = sum(height * width for height, width in (look.view.size for look in looks))
    assert tried["sniper"]["pixels_vs_800x1333"] == pytest.approx(pixels / (200 * 800 * 1333))
    assert tried["sniper"]["pixels_vs_resolution"] == pytest.approx(pixels / (200 * 800 * 1067))
    assert tried["snip"]["views_per_image"] == len(plan_epoch(store, Planner(whole, windows), 0)) / 200
    assert tried["snip"]["pixels_vs_800x1333"] > tried["sniper"]["pixels_vs_800x1333"]


def test_a_large_dataset_is_sampled(monkeypatch):
    store = coco_like(1400)
    found = of_store(store)
    monkeypatch.setattr("lightning_det.data.trial.SAMPLE", (50, 10_000))
    assert try_out(store, found, RESOLUTION)["images"] == 50
    monkeypatch.setattr("lightning_det.data.trial.SAMPLE", (2000, 100))
    assert try_out(store, found, RESOLUTION)["images"] == 14  # of 7 boxes
    monkeypatch.setattr("lightning_det.data.trial.SAMPLE", (2000, 3))
    assert try_out(store, found, RESOLUTION)["images"] == 1  # one at least, however many boxes it has
    assert try_out(store, found, RESOLUTION, 5) == try_out(store, found, RESOLUTION, 5)


@pytest.mark.parametrize(
    ("image", "boxes"),
    [
        pytest.param((640, 480), [[10, 10, 60, 60]], id="one_box"),
        pytest.param((640, 480), [[x, x, x + 20, x + 20] for x in range(0, 400, 20)], id="one_size"),
        pytest.param((640, 480), [[5, 5, 5.5, 5.5]], id="below_a_pixel"),
        pytest.param((64, 64), [[1, 1, 9, 9], [20, 20, 60, 60]], id="smaller_than_a_chip"),
        pytest.param((12, 9), [[1, 1, 3, 4]], id="thumbnail"),
        pytest.param((1, 1), [[0, 0, 1, 1]], id="one_pixel"),
        pytest.param((20_000, 50), [[x, 5, x + 12, 45] for x in range(0, 19_000, 500)], id="very_wide"),
        pytest.param((50, 20_000), [[5, 30, 45, 50], [0, 0, 50, 20_000]], id="very_high"),
    ],
)
def test_odd_data_gets_something_sensible(image, boxes):
    store = make_store([image, image], [boxes, []])
    found = of_store(store)
    steps_of(found)
    tried = try_out(store, found, RESOLUTION)
    assert 0 <= tried["sniper"]["boxes_share_of_none"] <= 1
    # Every image with boxes is seen, unless all of them are too thin for chips.
    assert tried["sniper"]["views_per_image"] >= 0.5 or tried["sniper"]["boxes_share_of_none"] == 1
    assert np.isfinite(json.loads(json.dumps(tried))["snip"]["pixels_vs_resolution"])


def test_without_boxes_there_is_no_suggestion():
    store = make_store([(640, 480)], [[]])
    assert of_store(store) is None
    assert suggest(np.array([]), np.array([]), np.array([])) is None
    # The sample of images may have none, while the dataset has.
    found = of_store(coco_like(700))
    tried = try_out(store, found, RESOLUTION)
    assert tried["sniper"]["views_per_image"] == 0
    assert tried["sniper"]["boxes_share_of_none"] == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (0.3, 0), (0.6, 1), (4.4, 4), (32, 32), (49.6, 50), (57, 55), (85.9, 85), (155.3, 160), (742, 750)],
)
def test_numbers_are_pleasant(value, expected):
    assert round_pleasantly(value) == expected
    assert isinstance(round_pleasantly(np.float64(value)), int)


def inspected(*arguments):
    """What the command prints."""
    outcome = run("inspect", *arguments)
    assert outcome.code == 0, outcome.output + outcome.errors
    return outcome.output


def hydra(value):
    """A value in Hydra's grammar of overrides."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{hydra(v)}' for key, v in value.items())}}}"
    return json.dumps(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes", "tiny_coco", "bccd"])
def test_what_inspect_prints_can_be_pasted(name, shapes_root, request, tmp_path):
    if name == "shapes":
        dataset = [f"dataset.root={shapes_root}", "dataset.source.train=24", "dataset.source.val=8"]
    else:
        request.getfixturevalue(name)
        dataset = ["experiment=bccd"] if name == "bccd" else [f"dataset={name}"]
    call = [*dataset, "decode=false", "pictures=1"]
    output = inspected(*call, f"hydra.run.dir={tmp_path}/first")
    first = json.loads((tmp_path / "first/inspect.json").read_text())["suggestion"]
    printed = output[output.index("# suggested settings") :].rstrip().rsplit("\n", 1)[0]  # the last line is the folder
    pasted = yaml.safe_load(printed)
    assert pasted == first["dataset"]
    overrides = [f"dataset.{key}={hydra(value)}" for key, value in pasted.items()]
    for strategy, key in (("sniper_no_negatives", "sniper"), ("snip", "snip")):
        inspected(*call, *overrides, f"strategy={strategy}", f"hydra.run.dir={tmp_path}/{strategy}")
        report = json.loads((tmp_path / strategy / "inspect.json").read_text())
        assert report["views_per_image"] == pytest.approx(first[key]["views_per_image"])
        assert report["pixels_vs_800x1333"] == pytest.approx(first[key]["pixels_vs_800x1333"])
        # Only what is too thin to be seen in a chip is not learned from.
        assert report["boxes_learned"] >= 0.98 * report["boxes"]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++", "no-such-compiler"])
def test_chip_mining_benchmark(compiler, tmp_path):
    file = tmp_path / "result.json"
    script = Path(__file__).parents[2] / "benchmarks/chip_mining.py"
    small = ("--images", 60, "--numpy-images", 20, "--repeats", 1, "--strides", 56)
    done = run_forked(script, *map(str, small), "--compiler", compiler, "--json", str(file))
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    cores = result["strides"]["56"]
    expected = {"lightning-det", "grid, numpy"}
    if shutil.which(compiler):
        expected.add("grid, C++")
        # Greedy choices break ties differently.
        assert cores["grid, C++"]["chips_per_image"] == pytest.approx(
            cores["lightning-det"]["chips_per_image"], rel=0.1
        )
    else:
        assert result["missing"] == {"grid, C++": f"no {compiler}"}
        assert f"no {compiler}" in done.stdout
    assert set(cores) == expected
    for row in cores.values():
        assert row["core_images_per_second"] > 0
        assert row["planner_images_per_second"] > 0
    assert cores["lightning-det"]["images"] == 60
    assert 5 < result["boxes_per_image"] < 9
