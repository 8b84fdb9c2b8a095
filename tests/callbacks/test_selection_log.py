"""Figures and pictures of the RoIs that carry loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import make_batch
from PIL import Image

from lightning_det.callbacks import SelectionLog
from lightning_det.callbacks.selection import draw, figures
from lightning_det.plotting.colours import WHITE, class_colour
from lightning_det.protocols.detector import Detector, Selected

NAMES = ("cat", "dog")


def selected(candidates=None):
    """Two views of three RoIs: an object of class dog, background, and one place that was not filled."""
    rois = torch.tensor([[[10.0, 10, 30, 30], [60, 40, 100, 80], [0, 0, 5, 5]]] * 2)
    labels = torch.tensor([[2, 0, 1], [0, 0, 1]])
    objects = torch.tensor([[4, 0, 1], [0, 0, 2]])
    chosen = torch.tensor([[True, True, False], [True, False, False]])
    losses = torch.tensor([[3.0, 1.0, 50.0], [2.0, 70.0, 60.0]])
    return Selected(rois, labels, objects, chosen, losses, candidates, "roi")


def test_figures_are_of_what_was_selected():
    found = figures(selected(), 5)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {
            "train/roi/selected_per_view": 3 / 2,
            "train/roi/positive_share": 1 / 3,
            "train/roi/objects_per_view": 1 / 2,
            "train/roi/selected_loss_mean": 2.0,
            "train/roi/selected_loss_max": 3.0,
        }
    )
    found = figures(selected(torch.tensor([[3.0, 1.0, 0.5, torch.nan], [2.0, 1.5, torch.nan, torch.nan]])), 5)
    assert float(found["train/roi/candidate_loss_mean"]) == pytest.approx(8 / 5)
    assert float(found["train/roi/candidate_loss_max"]) == 3
    assert float(found["train/roi/selected_share"]) == pytest.approx(3 / 5)


def test_regions_of_one_object_count_as_one():
    """Of a view, 3 and 1 regions on two objects; of another, one that lies on none."""
    one = torch.ones(2, 4)
    regions = Selected(
        boxes=torch.rand(2, 4, 4),
        labels=torch.tensor([[1, 1, 1, 2], [0, 0, 0, 0]]),
        objects=torch.tensor([[6, 6, 6, 0], [0, 1, 2, 3]]),
        chosen=one.bool(),
        losses=one,
        candidates=None,
        kind="prior",
    )
    found = figures(regions, 7)
    assert float(found["train/prior/objects_per_view"]) == 1
    assert float(found["train/prior/positive_share"]) == 0.5


def test_figures_of_nothing():
    nothing = selected(torch.full((2, 4), torch.nan))._replace(chosen=torch.zeros(2, 3, dtype=torch.bool))
    assert all(float(value) == 0 for value in figures(nothing, 5).values())


def test_a_picture_shows_the_selected_and_names_the_hardest():
    batch = make_batch(2, 96, 128, boxes=0)
    batch.images.zero_()
    picture = draw(batch, selected(), 0, NAMES)
    picture, key = picture[: 4 * 96], picture[4 * 96 :]
    assert picture.shape == (4 * 96, 4 * 128, 3)
    assert (key == np.array(class_colour(1))).all(axis=2).any()
    coloured = (picture == np.array(class_colour(1))).all(axis=2)
    assert coloured[39, 40:120].all()  # the line above the object, solid
    white = (picture == np.array(WHITE)).all(axis=2)
    edge = white[159, 240:400]  # background is easier, and dashed
    assert 0.3 < edge.mean() < 0.8
    assert not picture[:20, :20].any()  # what was not chosen
    assert draw(batch, selected(), 1, NAMES)[159].max() == 0


class Stub:
    """What the callback sees of a module."""

    labels = SimpleNamespace(names=NAMES)

    def __init__(self, detector):
        self.detector = detector
        self.logged = []

    def log_dict(self, values, batch_size):
        self.logged.append((sorted(values), batch_size))


def test_pictures_come_with_the_first_batch_of_an_epoch(tmp_path):
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], global_step=0)
    module, callback = Stub(SimpleNamespace(selected=selected())), SelectionLog(tmp_path, 1)
    batch = make_batch(2, 96, 128)
    callback.on_train_batch_end(trainer, module, None, batch, 3)
    assert module.logged[0][1] == 2
    assert not list(tmp_path.iterdir())
    callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["selection_00.png"]
    assert Image.open(tmp_path / "selection_00.png").size[0] == 512


def test_detectors_that_select_nothing_log_nothing(tmp_path):
    module = Stub(Detector())
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], global_step=0)
    SelectionLog(tmp_path).on_train_batch_end(trainer, module, None, make_batch(1, 96, 128), 0)
    assert module.logged == []
