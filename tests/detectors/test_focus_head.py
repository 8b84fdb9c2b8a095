"""The head of AutoFocus beside every detector."""

from functools import partial

import pytest
import torch
from helpers import make_batch
from support.all_detectors import CLASSES, DETECTORS

from lightning_det.backbones import tiny_backbone
from lightning_det.detectors import FocusHead
from lightning_det.selection.focus import FOCUS, label_focus
from lightning_det.selection.matching import SKIP

KINDS = ["faster_rcnn", "cascade_rcnn", "rfcn", "ssd", "retinanet", "fcos", "rtdetr"]
LIMITS = (2.0, 24.0, 34.0)


@pytest.mark.parametrize("name", KINDS)
def test_it_learns_beside_every_detector_and_changes_nothing_about_it(name):
    torch.manual_seed(0)
    model = DETECTORS[name]()
    batch = make_batch(2, 96, 128, classes=CLASSES)
    torch.manual_seed(1)
    alone = model.losses(batch)
    assert model.observed() is None
    model.focus = FocusHead(model.backbone, 8, LIMITS)
    torch.manual_seed(1)
    losses = model.losses(batch)
    assert {name: loss.item() for name, loss in losses.items()} == {name: loss.item() for name, loss in alone.items()}
    logits = model.observed()
    assert model.observed() is None
    assert logits.shape == (2, 2, 96 // model.focus.stride, 128 // model.focus.stride)
    (loss,) = model.focus.losses(logits, batch).values()
    assert loss > 0
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.focus.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    with torch.no_grad():
        found = model.focus.probabilities(logits)
    assert bool(((found > 0) & (found < 1)).all())


def head():
    torch.manual_seed(0)
    return FocusHead(tiny_backbone("pyramid", 4, norm="group"), 8, LIMITS)


def test_it_reads_the_map_of_the_published_stride():
    assert head().stride == 16
    assert FocusHead(tiny_backbone("c4", 4), 8).stride == 8  # the only one


def test_its_loss_is_the_mean_over_the_labelled_cells():
    made = head()
    batch = make_batch(2, 64, 96, classes=CLASSES)
    logits = torch.randn(2, 2, 4, 6, requires_grad=True)
    labels = label_focus(batch.boxes, batch.states, batch.sizes, (4, 6), 16, LIMITS)
    (loss,) = made.losses(logits, batch).values()
    learned = labels != SKIP
    assert learned.any()
    assert (~learned).any()
    assert (labels == FOCUS).any()
    chosen = logits.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    torch.testing.assert_close(loss, -chosen[learned].mean())
    loss.backward()
    assert not logits.grad.permute(0, 2, 3, 1)[~learned].any()


def test_cells_that_nothing_is_known_about_give_a_loss_of_0():
    batch = make_batch(1, 32, 32, boxes=1, classes=CLASSES)
    batch.boxes[:, 0] = torch.tensor([0.0, 0.0, 30.0, 30.0])
    (loss,) = head().losses(torch.randn(1, 2, 2, 2), batch).values()
    assert float(loss) == 0


def test_a_few_steps_learn_a_view_by_heart():
    batch = make_batch(2, 96, 128, classes=CLASSES)
    model = DETECTORS["retinanet"]()
    model.focus = head()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        model.features(batch.images, batch.sizes)
        logits = model.observed()
        (loss,) = model.focus.losses(logits, batch).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    labels = label_focus(batch.boxes, batch.states, batch.sizes, tuple(logits.shape[-2:]), 16, LIMITS)
    known = labels != SKIP
    assert ((model.focus.probabilities(logits) > 0.5) == (labels == FOCUS))[known].float().mean() > 0.95


@pytest.mark.parametrize("limits", [(64, 5, 90), (5, 64, 60), (-1, 64, 90)])
def test_limits_that_do_not_ascend_are_refused(limits):
    with pytest.raises(ValueError, match="ascending"):
        partial(FocusHead, tiny_backbone("c4", 4), 8)(limits)
