"""Which strategy is recommended for which figures, and how the recommendation is written."""

import time
from dataclasses import replace

import numpy as np
import pytest
import yaml
from support.sizes import coco_like, drone_like, make_store, random_store
from torch import nn

from lightning_det.annotations.problems import Problem
from lightning_det.data import dataset, images
from lightning_det.data.coco import Coco
from lightning_det.data.inspection import in_several_ranges
from lightning_det.data.memory import Reader
from lightning_det.data.voc import Voc
from lightning_det.inspection import probe
from lightning_det.inspection.advice import SLOWED, next_command, print_suggestion
from lightning_det.inspection.costs import Cost, Pass, epoch_costs
from lightning_det.inspection.duration import AROUND, MINUTES, estimate
from lightning_det.inspection.figures import Figures
from lightning_det.inspection.probe import (
    Speed,
    fastest,
    measure_images,
    own_share,
    random_batch,
    seconds_in_queue,
)
from lightning_det.inspection.proposal import make_suggestion
from lightning_det.inspection.recommendation import recommend, unneeded_views
from lightning_det.inspection.splits import UNUSABLE
from lightning_det.inspection.writing import comments, dataset_yaml, strategy_yaml, suggestion_yaml
from lightning_det.views import Chips, Planner, Pyramid, Tiles


def cost_of(views, megapixels, largest, tested, decoded=1.0, tested_largest=2.8):
    """A strategy's cost, with images that are kept in memory."""
    train = Pass(views, megapixels, largest, megapixels, decoded, 0.0)
    return Cost(train, Pass(max(1.0, tested / tested_largest), tested, tested_largest, tested, 1.0, 0.0))


FIGURES = Figures(
    images=100,
    val_images=40,
    without_boxes=0,
    boxes_per_image=10.0,
    crowd=0.1,
    crowded=10.0,
    object_share=0.02,
    median_size=27.0,
    small_size=20.0,
    relative_size=0.015,
    seen=18.0,
    stride=8.0,
    factor=0.9,
    single=0.5,
    finest=1.2,
    unlearned=0.01,
    scales=2,
    object_tiles=0.1,
    costs={
        "single_scale": cost_of(1.0, 2.8, 2.8, 2.8),
        "tiles": cost_of(60.0, 4.0, 0.0655, 4.0, tested_largest=0.0655),
        "sniper_no_negatives": cost_of(6.0, 0.4, 0.0655, 3.5),
    },
    speed=Speed(1.0, 0.3, 0.05, 0.001, 0.005, 0.01),
    workers=0,
)


def chosen(**changes):
    return recommend(replace(FIGURES, **changes)).strategy[0]


def test_small_objects_on_background_get_chips():
    found = recommend(FIGURES)
    assert found.strategy == ("sniper_no_negatives", "flip")
    said = " ".join(found.reasons)
    for figure in ("10.0 boxes", "2 % of the pixels", "27 px", "1.5 % of the long side", "18 px", "1.2 times", "10 %"):
        assert figure in said, figure


def test_objects_that_are_large_in_their_images_get_one_view():
    assert chosen(scales=1, single=0.9) == "single_scale"
    assert chosen(scales=1, single=0.9, without_boxes=90) == "single_scale"


def test_one_view_must_show_the_large_images_well_too():
    found = recommend(replace(FIGURES, scales=1))
    assert found.strategy[0] == "tiles"
    assert "not the large ones" in " ".join(found.reasons)
    for single, warned in ((0.5, False), (0.9, True)):
        figures = replace(FIGURES, scales=1, single=single)
        assert bool(unneeded_views(figures, Planner(Pyramid([1.0]), Chips(64)))) == warned
    said = " ".join(recommend(replace(FIGURES, scales=1, single=0.8)).reasons)
    assert "shown at 0.8 times" in said


def test_objects_that_are_too_long_for_chips_get_whole_images():
    assert chosen(unlearned=0.09) == "sniper_no_negatives"
    found = recommend(replace(FIGURES, unlearned=0.56))
    assert found.strategy[0] == "single_scale"
    assert "leave out 56 % of the boxes" in " ".join(found.reasons)


def test_chips_with_more_pixels_than_the_image_are_not_chosen():
    costs = {**FIGURES.costs, "sniper_no_negatives": cost_of(6.0, 3.0, 0.0655, 3.5)}
    assert chosen(costs=costs) == "sniper_no_negatives"  # the image has 16 megapixels at their scale
    assert chosen(costs=costs, single=1.2) == "tiles"  # 2.8
    small = costs | {"single_scale": cost_of(1.0, 0.4, 0.4, 0.4)}
    assert chosen(costs=small, single=1.2) == "single_scale"
    assert chosen(costs=small) == "tiles"  # images are too large for that


def test_images_without_boxes_are_shown_by_tiles():
    assert chosen(without_boxes=9) == "sniper_no_negatives"
    found = recommend(replace(FIGURES, without_boxes=30))
    assert found.strategy[0] == "tiles"
    assert "30 of 100 images have no boxes" in " ".join(found.reasons)
    views = found.settings["views"]
    assert views["test"] == {"scales": {"resolutions": [0.9]}}
    assert views["train"] == {"scales": {"resolutions": [0.9]}, "windows": {"background": 0.11}}
    few, all_of_them = recommend(replace(FIGURES, without_boxes=30)), figures_with_boxes_everywhere()
    assert few.settings["trainer"]["max_epochs"] > recommend(all_of_them).settings["trainer"]["max_epochs"]
    assert recommend(all_of_them).settings["views"]["train"]["windows"] == {"background": 1.0}


def figures_with_boxes_everywhere():
    return replace(FIGURES, without_boxes=30, object_tiles=0.95)


def test_objects_everywhere_get_tiles():
    def chips(megapixels):
        return {**FIGURES.costs, "sniper_no_negatives": cost_of(90.0, megapixels, 0.0655, 3.5)}

    dear = recommend(replace(FIGURES, costs=chips(4.5)))
    assert dear.strategy[0] == "sniper_no_negatives"
    assert "the rest is background" not in " ".join(dear.reasons)
    found = recommend(replace(FIGURES, costs=chips(6.0)))
    assert found.strategy[0] == "tiles"
    assert "150 % of the pixels of tiles" in " ".join(found.reasons)


@pytest.mark.parametrize("images", [1, 12, 90, 3000, 100_000])
@pytest.mark.parametrize("seconds", [1e-3, 1.0, 60.0])
@pytest.mark.parametrize("scales", [1, 2])
def test_every_length_is_possible_and_ends_with_a_validation(images, seconds, scales):
    figures = replace(
        FIGURES, images=images, scales=scales, single=0.9, speed=Speed(seconds, seconds / 3, 0.01, 0.001, 0.005, 0.01)
    )
    found = recommend(figures)
    length, batch = found.settings["trainer"], found.settings["data"]["batch_size"]
    assert length["max_epochs"] % length["check_val_every_n_epoch"] == 0
    assert length["max_epochs"] >= 1
    assert 1 <= batch <= 8
    cost = figures.costs[found.strategy[0]]
    steps = length["max_epochs"] * cost.train.views * images / batch
    assert steps >= 200
    assert steps <= 4500 or length["max_epochs"] == 1
    training = length["max_epochs"] * estimate(figures, cost).epoch / 60
    assert found.minutes >= training
    assert training <= 8 or steps <= 450 or length["max_epochs"] == 1


def test_a_machine_of_unknown_speed_gets_a_length_too():
    found = recommend(replace(FIGURES, speed=None))
    assert found.minutes is None
    assert found.settings["trainer"]["max_epochs"] > 1
    assert "min" not in found.reasons[-1]


def test_the_number_of_epochs_is_kept_where_a_validation_does_not_divide_it():
    """An epoch of 92 steps: 300 steps are 3 epochs, which two validations would cut to 2."""
    slow = replace(FIGURES, images=90, val_images=1, speed=Speed(100.0, 0.01, 0.05, 0.001, 0.005, 0.01))
    costs = {**FIGURES.costs, "sniper_no_negatives": cost_of(8.2, 0.4, 0.0655, 0.1)}
    assert recommend(replace(slow, costs=costs)).settings["trainer"] == {"max_epochs": 3, "check_val_every_n_epoch": 1}
    dear = replace(slow, speed=Speed(100.0, 12000.0, 0.05, 0.001, 0.005, 0.01), costs=costs)
    assert recommend(dear).settings["trainer"] == {"max_epochs": 3, "check_val_every_n_epoch": 3}


def test_the_announced_steps_are_those_of_whole_batches():
    costs = {**FIGURES.costs, "sniper_no_negatives": cost_of(500 / 30, 1.7, 0.11, 3.5)}
    found = recommend(replace(FIGURES, images=30, costs=costs))
    assert f"have {100 * found.settings['trainer']['max_epochs']} steps of 5 views" in found.reasons[-1]


def test_crowded_images_keep_all_of_their_detections():
    assert "test" not in recommend(FIGURES).settings
    assert recommend(replace(FIGURES, crowd=2.0, crowded=200.0)).settings["test"]["max_detections"] == 300
    # An image of 12 megapixels has 1200 anyway, and the limit is a number, not one per megapixel.
    assert recommend(replace(FIGURES, crowd=1.25, crowded=1500.0)).settings["test"]["max_detections"] == 2200


def test_a_training_waits_for_its_loader_or_computes_beside_it():
    cost = Cost(Pass(6.0, 0.4, 0.0655, 0.5, 5.0, 2.0), Pass(4.0, 3.5, 1.0, 4.0, 1.5, 0.5))
    figures = replace(FIGURES, speed=Speed(1.0, 0.3, 0.1, 0.002, 0.01, 0.4))
    compute, cut = 100 * 0.4, 100 * (6 * 0.002 + 0.5 * 0.01)
    alone = estimate(figures, cost)
    assert alone.epoch == pytest.approx(compute + 100 * 2 * 0.1 + cut)
    assert alone.start == pytest.approx(AROUND + 100 * (5 - 2) * 0.1)
    assert alone.validation == pytest.approx(40 * (3.5 * 0.3 + 1.5 * 0.1 + 4 * 0.002 + 4 * 0.01) + 8 * (0.1 + 0.4))
    assert estimate(replace(figures, workers=4), cost).epoch == pytest.approx(compute)
    slow = replace(figures, workers=4, speed=Speed(0.01, 0.3, 0.1, 0.002, 0.01, 0.4))
    assert estimate(slow, cost).epoch == pytest.approx((100 * 2 * 0.1 + cut) / 4)


@pytest.mark.parametrize("decode", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("again", [0.0, 6.0])
def test_the_time_of_decoding_and_validation_is_part_of_the_announced_minutes(decode, again):
    chips = FIGURES.costs["sniper_no_negatives"]
    chips = chips._replace(train=chips.train._replace(decoded=6.0, again=again))
    figures = replace(FIGURES, speed=Speed(0.3, 0.1, decode, 0.001, 0.005, 0.01))
    found = recommend(replace(figures, images=30, costs={**FIGURES.costs, "sniper_no_negatives": chips}))
    length = found.settings["trainer"]
    fewest = 300 * 8 / (30 * 6)  # epochs of 300 steps
    assert found.minutes <= 1.35 * MINUTES or length["max_epochs"] <= 1.15 * fewest
    start, epoch, validation = estimate(replace(figures, images=30), chips)
    count = length["max_epochs"] // length["check_val_every_n_epoch"]
    assert 60 * found.minutes == pytest.approx(start + length["max_epochs"] * epoch + count * validation)


def suggestion_of(store, speed=None):
    return make_suggestion(store, 10, None, 5, speed, Reader(), 0)


def test_photographs_get_what_docs_choosing_says(drone, bccd):
    cars, cells = Coco(str(drone)).read("train2017")[0], Voc(str(bccd)).read("train")[0]
    assert suggestion_of(cars).recommended.strategy == ("sniper_no_negatives", "flip")
    assert suggestion_of(cells).recommended.strategy == ("single_scale", "flip")


def test_chips_and_ranges_are_warned_of_where_whole_images_do(bccd):
    ranged = Pyramid([1.0, 0.5], [[0, 80], [40, -1]])
    cells = suggestion_of(Voc(str(bccd)).read("train")[0]).figures
    for planner in (Planner(ranged), Planner(ranged, Chips(320, 20)), Planner(Pyramid([1.0]), Chips(320, 20))):
        assert "SNIPER has 7 AP less" in unneeded_views(cells, planner)
        assert unneeded_views(suggestion_of(drone_like()).figures, planner) == ""
    for planner in (Planner(Pyramid([1.0])), Planner(Pyramid([1.0, 0.5])), Planner(Pyramid([1.0]), Tiles(320, 0.2))):
        assert unneeded_views(cells, planner) == ""


def test_borders_of_ranges_amid_the_sizes_are_warned_of(bccd):
    """The two sets of ranges that ``claim=sniper experiments=[blood_cells_pretrained]`` compares."""
    store = Voc(str(bccd)).read("train")[0]
    amid, moved = [[0, 120], [80, 200], [150, -1]], [[0, 60], [40, 200], [150, -1]]
    assert in_several_ranges(store, Planner(Pyramid([1.0, 0.5, 0.3], amid))).startswith("81 % of the boxes")
    assert in_several_ranges(store, Planner(Pyramid([1.0, 0.5, 0.3], moved))) == ""


def test_real_sizes_get_the_strategies_that_suit_them():
    assert suggestion_of(drone_like()).recommended.strategy[0] == "sniper_no_negatives"
    rng = np.random.default_rng(0)
    cells = random_store(640, 480, rng.uniform(80, 130, 300), per_image=12)
    assert suggestion_of(cells).recommended.strategy[0] == "single_scale"
    crowd = random_store(800, 600, np.exp(rng.uniform(np.log(8), np.log(400), 3000)), per_image=300)
    assert suggestion_of(crowd).recommended.strategy[0] == "tiles"
    insects = random_store(3000, 3000, rng.uniform(20, 80, 300), per_image=10)
    assert suggestion_of(insects).recommended.strategy[0] == "sniper_no_negatives"
    assert suggestion_of(make_store([(640, 480)], [[]])) is None


def test_costs_are_those_of_planned_views():
    store = coco_like(70)
    settings = suggestion_of(store).dataset
    costs = epoch_costs(store, settings, 2.0, Reader())
    train = {name: cost.train for name, cost in costs.items()}
    assert train["single_scale"].views == train["multi_scale"].views == 1
    assert train["tiles"].views > 1
    assert train["tiles"].largest <= settings["tiles"]["size"] ** 2 / 1e6
    assert train["sniper_no_negatives"].largest == pytest.approx(settings["sniper"]["size"] ** 2 / 1e6, rel=0.01)
    assert train["snip"].megapixels > train["sniper_no_negatives"].megapixels


def test_decoding_is_counted_as_the_loader_decodes():
    rng = np.random.default_rng(0)
    store = random_store(3000, 3000, rng.uniform(20, 80, 300), per_image=10)
    settings = suggestion_of(store).dataset
    image = 3 * 3000**2
    nothing, all_of_them, half = (
        epoch_costs(store, settings, 0.8, Reader(0, kept * image))["sniper_no_negatives"] for kept in (0, 30, 15)
    )
    assert nothing.train.views / 2 < nothing.train.again <= nothing.train.decoded <= nothing.train.views
    assert (all_of_them.train.decoded, all_of_them.train.again) == (1.0, 0.0)
    assert half.train.again == pytest.approx(nothing.train.again / 2, rel=0.2)
    assert epoch_costs(store, settings, 0.8, Reader(2, 15 * image))["sniper_no_negatives"].train.decoded > 1.5
    assert all_of_them.test.decoded == 1.0
    assert 1.0 < epoch_costs(store, settings, 0.8, Reader())["tiles"].train.decoded < 101 / 3


def test_loading_is_measured_on_the_images_of_the_dataset(coco_folder, monkeypatch):
    store = Coco(str(coco_folder)).read("train2017")[0]
    decode, cut, resize, draw = measure_images(store, 32)
    assert decode > 0
    assert cut > 0
    assert resize >= 0
    assert draw > 0
    monkeypatch.setattr(dataset, "open_pixels", lambda path: compute(0.05) or images.decode(path))
    slow, same, *_ = measure_images(store, 32)
    assert slow >= 0.05
    assert same < 0.05


def compute(seconds):
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass


def test_time_that_other_programs_take_is_not_counted_on_processors():
    def act():
        compute(0.02)
        time.sleep(0.1)

    assert 0.02 <= fastest(act, patience=0.0) < 0.1
    assert fastest(act, patience=0.0, on_cores=False) >= 0.12


def test_what_is_written_can_be_read_and_every_key_has_its_figure():
    found = suggestion_of(drone_like(), Speed(1.0, 0.3, 0.05, 0.001, 0.005, 0.01))
    own = {"root": "photos: mine", "source": {"annotations": "{split}.json"}}
    text = dataset_yaml(found, "yolo", own, "lightning-det inspect dataset=yolo")
    content = yaml.safe_load(text)
    assert content.pop("defaults") == ["yolo"]
    assert content == own | found.dataset
    assert yaml.safe_load(suggestion_yaml(found)) == found.dataset
    assert {key for key in comments(found) if "." not in key} == set(found.dataset)
    strategy = yaml.safe_load(strategy_yaml(found, "mine", "a command"))
    assert strategy.pop("defaults") == ["/strategy/sniper_no_negatives", "/strategy/flip", "_self_"]
    assert strategy == found.recommended.settings


def test_the_measured_batch_is_one_to_learn_from():
    batch = random_batch(2, 64)
    assert batch.boxes.shape == (2, 8, 4)
    assert batch.boxes.min() >= 0
    assert batch.boxes.max() <= 64
    assert (batch.boxes[..., 2:] > batch.boxes[..., :2]).all()
    assert fastest(lambda: nn.Linear(2, 2), patience=0.0) > 0


@pytest.mark.parametrize("own", [0.3, 0.9])
def test_an_estimate_on_a_busy_machine_says_so(own, capsys):
    print_suggestion(suggestion_of(drone_like(), Speed(1.0, 0.3, 0.05, 0.001, 0.005, 0.01, own)), (), [])
    assert (SLOWED in " ".join(capsys.readouterr().out.split())) == (own < 0.5)


@pytest.mark.parametrize(
    ("problems", "option"),
    [
        ([], False),
        ([Problem("a.xml", "object 1", "box over the border", "box clipped", harmless=True)], False),
        ([Problem("dataset.test", "", "no such split", UNUSABLE)], False),
        ([Problem("a.xml", "object 1", "box has no area", "box left out")], True),
    ],
)
def test_the_next_command_trains_in_spite_of_broken_records(problems, option):
    found = next_command("mine", problems)
    assert found.startswith("lightning-det train dataset=mine strategy=suggested")
    assert ("dataset.on_bad=skip" in found) == option


def test_a_busy_machine_is_known_by_the_time_in_the_queue(monkeypatch):
    """A training with two threads gets a second of processors per second and more on a machine that others use too."""
    begun = time.perf_counter(), time.process_time()
    while time.process_time() - begun[1] < 0.05:
        pass
    spent = time.process_time() - begun[1]
    for queued, share in ((0.0, 1.0), (spent, 0.5), (3 * spent, 0.25)):
        monkeypatch.setattr(probe, "seconds_in_queue", lambda queued=queued: 7.0 + queued)
        assert own_share(*begun, 7.0) == pytest.approx(share, abs=0.1)
    assert own_share(begun[0] - 1.0, begun[1], None) < 0.5  # not Linux: the clock says it, for one thread


def test_the_queue_of_linux_is_read():
    before = seconds_in_queue()
    if before is None:
        pytest.skip("only Linux says how long threads waited for a processor")
    after = seconds_in_queue()
    assert after is not None
    assert after >= before >= 0
