"""A training step as one compiled graph is the step that is not compiled."""

import logging
from dataclasses import fields
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from helpers import CHIPS, SMALL, make_batch
from support.all_detectors import CLASSES, DETECTORS, RANDOM
from support.all_detectors import SMALL as SMALL_PARTS
from support.makers import fpn
from support.modules import LABELS, Stub, data_of, trainer_in
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_det import compose
from lightning_det.backbones import tiny_backbone
from lightning_det.data.coco import Coco
from lightning_det.modules import Constant, DetectionModule, keys
from lightning_det.modules import step as steps
from lightning_det.modules.step import (
    MOST_GRAPHS,
    CompiledStep,
    keep_gradients,
    many_graphs,
    step_losses,
    with_few_counts,
)
from lightning_det.protocols.structures import State
from lightning_det.system.errors import CapabilityError, UserError


@pytest.fixture(autouse=True)
def compile_anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def learned(detector, losses, batch):
    """Losses and gradients of a step."""
    torch.manual_seed(1)
    detector.zero_grad()
    found = losses(batch)
    sum(found.values()).backward()
    gradients = {n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in found.items()}, gradients


def compare(make, backend, tolerance):
    torch.manual_seed(0)
    detector = make().to(memory_format=torch.channels_last)
    batch = make_batch(2, 96, 128, classes=CLASSES)
    expected = learned(detector, lambda batch: step_losses(detector, batch), batch)
    compiled = CompiledStep(detector, backend)
    for _ in range(3):
        losses, gradients = learned(detector, compiled, batch)
        torch.testing.assert_close(losses, expected[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(gradients, expected[1], rtol=tolerance, atol=tolerance)
    assert compiled.graphs == 1
    return detector


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["faster_rcnn ohem", "cascade_rcnn", "rfcn deformable ohem", "proposals", "ssd ohem", "grp_dsod", "fcos"]
)
def test_every_detector_is_one_graph(name):
    """Selection, NMS and ranking included; a graph break would be an error."""
    detector = compare(DETECTORS[name], "eager", 1e-6)
    if detector.selected is not None:
        assert detector.selected.chosen.any()


def pyramid():
    """With BatchNorm: torch's GroupNorm of channels-last maps is less exact than the compiler's."""
    settings = {"roi_size": 5, "neck_width": 16, **SMALL_PARTS}
    backbone = tiny_backbone("pyramid", 4, norm="batch")
    return fpn(backbone, CLASSES, [8, 16, 32, 64, 128], [0.5, 1.0, 2.0], *RANDOM, **settings)


@pytest.mark.slow
def test_the_compiler_computes_the_same():
    compare(pyramid, "inductor", 1e-5)


def test_sums_over_ranks_are_part_of_the_graph():
    """Two ranks, of which this is one; what the other one sends is nothing."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        compare(DETECTORS["proposals"], "eager", 1e-6)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_shapes_and_graphs_are_counted(caplog):
    detector = DETECTORS["proposals"]()
    compiled = CompiledStep(detector, "eager")
    caplog.set_level(logging.INFO, "lightning_det")
    for size, boxes in ((96, 5), (96, 16), (64, 5), (96, 9), (64, 16), (96, 20)):
        compiled(make_batch(2, size, 128, boxes, padded=boxes, classes=CLASSES))
    assert compiled.graphs == 5
    said = [r.getMessage().partition(" for ")[2] for r in caplog.records]
    assert said[0] == "2 views of 96 x 128 pixels with up to 8 boxes (graph 1)"
    assert said[-1] == "2 views of 96 x 128 pixels with up to 32 boxes (graph 5)"
    with mock.patch.object(steps, "MANY_GRAPHS", 6):
        compiled(make_batch(1, 96, 128, 5, padded=5, classes=CLASSES))
    assert "canvas_step" in caplog.records[-1].getMessage()


def test_compiled_parts_may_have_many_graphs(monkeypatch):
    """The compiler's own limit of 8 ends a training with an internal error."""
    seen = []

    def losses(batch):
        seen.append(torch._dynamo.config.recompile_limit)
        return {"one": batch.boxes.sum()}

    for compiled, limit in (("parts", MOST_GRAPHS), (None, torch._dynamo.config.recompile_limit)):
        module = DetectionModule(Stub(losses=losses), LABELS, compiled=compiled)
        module.losses(make_batch(1, 32, 32))
        assert seen.pop() == limit
        module.detector.register_forward_pre_hook(lambda *_: seen.append(torch._dynamo.config.recompile_limit))
        module.infer(make_batch(1, 32, 32))
        assert seen.pop() == limit

    def one_more(images):
        return images + 1

    part = torch.compile(one_more, backend="eager", fullgraph=True, dynamic=False)
    with many_graphs():
        for side in range(1, 11):
            part(torch.zeros(side))
    monkeypatch.setattr(steps, "MOST_GRAPHS", 10)
    with pytest.raises(UserError, match=r"more than 10 shapes.*canvas_step.*module.compiled=null"), many_graphs():
        part(torch.zeros(11))


@pytest.mark.parametrize(("count", "padded"), [(1, 1), (3, 4), (16, 16), (17, 32), (48, 64)])
def test_boxes_are_padded_to_powers_of_two(count, padded):
    batch = make_batch(2, 32, 32, count, padded=count)
    found = with_few_counts(batch)
    for field in fields(batch):
        before, after = getattr(batch, field.name), getattr(found, field.name)
        if field.name in ("boxes", "labels", "states", "anchor_states"):
            assert after.shape[:2] == (2, padded)
            assert torch.equal(after[:, :count], before)
        else:
            assert after is before
    assert (found.states[:, count:] == State.PADDING).all()
    assert (found.anchor_states[:, count:] == State.PADDING).all()


def test_what_is_no_graph_is_refused():
    with pytest.raises(
        CapabilityError, match=r"RTDETR does not have .*module.compiled=step.* on the host; set .*parts"
    ):
        DetectionModule(DETECTORS["rtdetr"](), LABELS, compiled="step")
    detector = Stub(losses=lambda batch: {"one": batch.boxes.sum()} if batch.boxes.any() else {})
    with pytest.raises(UserError, match=r"compiled=step: Stub.losses is not one graph: .*set module.compiled=parts"):
        CompiledStep(detector, "eager")(make_batch(1, 32, 32))


def test_gradients_are_kept_in_memory_of_their_own():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    keep_gradients(layer.parameters())
    memory = layer.weight.grad.data_ptr()
    assert not layer.weight.grad.any()
    layer(torch.ones(2)).sum().backward()
    assert layer.weight.grad.all()
    assert layer.weight.grad.data_ptr() == memory
    keep_gradients(layer.parameters())
    assert layer.weight.grad.data_ptr() == memory
    assert not layer.weight.grad.any()
    assert layer.bias.grad is None


TRAININGS = {
    "chips, OHEM, bfloat16, EMA, clipping and accumulation": (
        *("detector=faster_rcnn", "strategy=[sniper_no_negatives,flip,ohem]", *CHIPS, "callbacks=[default,ema]"),
        *("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1", "trainer.accumulate_grad_batches=2"),
    ),
    "whole images, batch statistics, AutoFocus": (
        *("detector=ssd", "backbone=ssd_tiny", "strategy=[single_scale,flip,autofocus]", "backbone.norm=batch"),
        "dataset.focus.limits=[4,24,48]",
    ),
}

MACHINE = (keys.VIEWS_PER_S, keys.MEMORY, keys.DATA_WAIT)
"""Figures of the machine."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAININGS)
def test_trainings_are_the_same(kind, shapes_root, tmp_path):
    """An epoch by the real trainer with all its callbacks; the graph is run operator by operator."""
    options = [*SMALL, f"dataset.root={shapes_root}", *TRAININGS[kind], "trainer.max_epochs=1", "data.num_workers=0"]
    found = {}
    for compiled in ("null", "step"):
        torch.manual_seed(0)
        parts = compose([*options, f"module.compiled={compiled}"], folder=tmp_path / compiled)
        if compiled == "step":
            parts.module._losses = CompiledStep(parts.module.detector, "eager")
        trainer = parts.trainer()
        trainer.fit(parts.module, datamodule=parts.datamodule)
        figures = {n: float(v) for n, v in trainer.callback_metrics.items() if n not in MACHINE}
        found[compiled] = parts.module.state_dict(), figures
    for name, value in found["null"][0].items():
        torch.testing.assert_close(found["step"][0][name], value, msg=lambda m, n=name: f"{n}: {m}")
    assert found["step"][1] == pytest.approx(found["null"][1], abs=1e-4, nan_ok=True)


def test_nms_that_was_not_exact_is_said_once_per_epoch(coco_folder, tmp_path, caplog):
    detector = DETECTORS["proposals"]()
    detector.rpn.head.requires_grad_(True)
    module = DetectionModule(detector, LABELS, lambda p: torch.optim.SGD(p, lr=1e-3), Constant())
    store = Coco(str(coco_folder)).read("train2017")[0]

    class Long(nn.Module):
        def forward(self, batch):
            detector.rpn.nms.unsettled += 1
            return detector.losses(batch)

    module._losses = Long()
    trainer_in(tmp_path, max_epochs=2, limit_train_batches=2).fit(module, datamodule=data_of(store))
    said = [r.getMessage() for r in caplog.records if "NMS" in r.getMessage()]
    assert [text[:62] for text in said] == [
        f"epoch {n}: NMS stopped after 16 rounds in 2 steps, before it was" for n in (1, 2)
    ]
