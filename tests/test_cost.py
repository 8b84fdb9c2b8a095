"""What trainings cost: the arithmetic of the page, and how operations and canvases are counted."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import cost
from cost_page import Assumptions, Recipe, cores, exchange, hours, page, views_per_second
from support.stores import make_store

from lightning_det.views import Planner, Pyramid, Warp

GIVEN = Assumptions(peak=1e12, utilization=(0.1, 0.5), price=2.0, loaded=1e6, inside=1e10, between=1e9)
RECIPE = Recipe("net", images=1000, epochs=4, views=2.5, pixels=2e5, operations=1e10, parameters=10**6, batch=4)


def test_time_is_operations_over_speed():
    assert RECIPE.total == 1000 * 4 * 2.5 * 1e10
    assert hours(RECIPE, 1, 0.1, GIVEN) == pytest.approx(1e14 / 1e11 / 3600)
    assert hours(RECIPE, 8, 0.5, GIVEN) == pytest.approx(1e14 / 5e11 / 8 / 3600)


def test_loading_keeps_up_with_the_views_of_all_gpus():
    assert views_per_second(RECIPE, 8, 0.5, GIVEN) == pytest.approx(8 * 5e11 / 1e10)
    assert cores(RECIPE, 8, 0.5, GIVEN) == pytest.approx(400 * 2e5 / 1e6)


def test_gradients_go_round_a_ring_once_to_add_and_once_to_share():
    step = 4 * 1e10 / 5e11
    assert exchange(RECIPE, 1, 0.5, GIVEN) == 0
    assert exchange(RECIPE, 8, 0.5, GIVEN) == pytest.approx(2 * 7 / 8 * 4e6 / 1e10 / step)
    assert exchange(RECIPE, 64, 0.5, GIVEN) == pytest.approx(2 * 63 / 64 * 4e6 / 1e9 / step)


def test_the_page_has_a_row_per_recipe_in_every_table():
    text = page([RECIPE, RECIPE._replace(name="other")], GIVEN, "today")
    assert text.count("\n| net") == text.count("\n| other") == 3
    assert "| net | 0.056 to 0.28 | 0.0069 to 0.035 | 0.00087 to 0.0043 | 0.11 to 0.56 |" in text
    assert "| net | 1,000 | 4 | 2.50 | 0.20 | 10 | 50 | 0.0001 |" in text
    assert "| net, 4 views per GPU | 400 | 80 |" in text


class Net(torch.nn.Module):
    """Stands for a module whose detector has one convolution."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.detector = self

    def losses(self, batch):
        return {"loss": self.layer(batch.images.float().requires_grad_()).sum()}


def test_operations_are_those_of_forward_and_backward():
    forward = 2 * 5 * 3 * 9 * 32 * 64
    assert cost.count(Net(), 32, 64, 3) == 3 * forward


def test_canvases_are_those_of_batches_of_one_view(tmp_path):
    store = make_store(tmp_path, [(640, 480), (100, 300)])
    planned = cost.canvases(store, Planner(Pyramid([[480, 640], 0.5])), 2)
    assert sorted(planned) == sorted(2 * [(480, 640), (256, 320), (640, 224), (160, 64)])
    assert set(cost.canvases(store, Planner(Warp((300, 300))), 1)) == {(300, 300)}


def test_recipes_are_counted_as_they_are_composed(monkeypatch):
    sample = Path(__file__).parent / "data/tiny_coco"
    monkeypatch.setattr(cost, "count", lambda module, height, width, classes: 7 + height * width)
    published = next(recipe for recipe in cost.RECIPES if recipe.name == "SSD300")
    found = cost.measure(published, sample)
    assert (found.images, found.epochs, found.views, found.pixels) == (16551, 232, 1, 90000)
    assert found.operations == 90007
