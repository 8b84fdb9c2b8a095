"""LightningModules, schedules and callbacks, in real trainings of a few steps."""

import json
import re
from math import ceil, inf, isnan
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import make_batch, record
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from support.makers import c4, fpn, rfcn, ssd
from support.modules import LABELS, Stub, data_of, fixed, ten, trainer_in
from torch import nn
from torchvision.ops import box_iou

from lightning_det.annotations import LabelMap
from lightning_det.backbones import ssd_tiny, tiny_backbone, torchvision_backbone
from lightning_det.callbacks import Evaluator, Pictures, StopOnNonFinite
from lightning_det.callbacks.nonfinite import NonFiniteLossError
from lightning_det.callbacks.pictures import draw_comparison
from lightning_det.checkpoint import load_checkpoint
from lightning_det.data.coco import Coco
from lightning_det.data.datamodule import MultiScaleData
from lightning_det.data.dataset import Collate, Look, Sample
from lightning_det.detectors.predictor import Predictor
from lightning_det.detectors.rpn import Proposals
from lightning_det.evaluation.results import Results
from lightning_det.modules import Constant, Cosine, MultiStep
from lightning_det.modules.groups import GroupSettings, parameter_groups
from lightning_det.modules.inference import Inference
from lightning_det.modules.module import DetectionModule
from lightning_det.modules.rates import report_doubts, steps_per_epoch
from lightning_det.plotting.colours import GREY, class_colour
from lightning_det.protocols.structures import Detections
from lightning_det.selection import HardNegativeSelector, RandomSelector
from lightning_det.system.errors import ConfigError, ImageError, UserError
from lightning_det.views import BothSides, Planner, Pyramid, Tiles
from lightning_det.views.targets import targets
from lightning_det.views.view import View, boxes_to_view


@pytest.fixture
def store(coco_folder):
    return Coco(str(coco_folder)).read("train2017")[0]


def test_warmup_is_linear():
    schedule = Constant(warmup=10, start=0.1, unit="steps")
    factors = [schedule(step, 7, 100) for step in range(15)]
    assert factors[0] == pytest.approx(0.1)
    np.testing.assert_allclose(np.diff(factors[:11]), 0.09)
    assert factors[10:] == [1.0] * 5


def test_lengths_are_in_epochs_or_steps():
    epochs, steps = MultiStep([1.5, 2], warmup=0.5), MultiStep([60, 80], warmup=20, unit="steps")
    assert [epochs(s, 40, 120) for s in range(120)] == [steps(s, 40, 120) for s in range(120)]
    # Whoever counts in steps does not care how long an epoch is.
    assert [steps(s, 3, 120) for s in range(120)] == [steps(s, 40, 120) for s in range(120)]


def test_a_share_of_the_training_is_one_of_its_steps():
    share, steps = MultiStep([0.5, 0.75], warmup=0.25, unit="share"), MultiStep([60, 90], warmup=30, unit="steps")
    for per_epoch in (3, 40, 1000):  # epochs of whole images, of chips, of tiles
        assert [share(s, per_epoch, 120) for s in range(120)] == [steps(s, 40, 120) for s in range(120)]
    with pytest.raises(ValueError, match="share of the training"):
        Cosine(warmup=1.0, unit="share")
    with pytest.raises(ValueError, match="shares of the training"):
        MultiStep([8, 11], unit="share")


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (Cosine(warmup=0.25), "schedule.warmup=0.25 (unit: epochs) takes 100 steps, and the training has 212"),
        (Constant(warmup=80, unit="steps"), "takes 80 steps"),
        (MultiStep([0.8], warmup=0.5, unit="share"), "takes 106 steps"),
        (MultiStep([100, 212, 250], unit="steps"), "[212, 250] (unit: steps) are not reached in the 212 steps"),
        (MultiStep([8, 11], warmup=0.07), "[8, 11] (unit: epochs) are not reached"),
        (Cosine(warmup=0.1), ""),
        (Constant(warmup=70, unit="steps"), ""),
        (MultiStep([0.5, 0.99], warmup=0.3, unit="share"), ""),
    ],
)
def test_a_long_warmup_and_milestones_after_the_end_are_said(caplog, schedule, said):
    report_doubts(schedule, 400, None, 212)
    report_doubts(schedule, 400, 1, 212)
    assert caplog.text.count(said or "schedule.") == (2 if said else 0)


def test_schedules_of_unknown_length_raise_no_doubts(caplog):
    report_doubts(Constant(warmup=0.25), 400, None, None)
    report_doubts(lambda step, per_epoch, total: 1.0, 400, 1, 1)
    assert not caplog.text
    report_doubts(Constant(warmup=0.5), 400, 1, None)
    assert "takes 200 steps, and the training has 400" in caplog.text


def test_published_rates_of_dsod_in_epochs(composed):
    """VOC 2007 + 2012 has 16,551 images, so 130 steps of 4 x 32 per epoch; the rates are published."""
    golden = {0: 0.1, 19999: 0.1, 20000: 0.01, 45000: 0.001, 79999: 1e-4, 99969: 1e-5}
    cfg = composed("train", "experiment=dsod300_voc0712")
    images = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches
    assert images == cfg.module.reference_batch == 128
    per_epoch = ceil(16551 / images)
    total = cfg.trainer.max_epochs * per_epoch
    schedule = MultiStep(cfg.schedule.milestones, warmup=cfg.schedule.warmup)
    rates = [cfg.optimizer.lr * schedule(step, per_epoch, total) for step in golden]
    assert rates == pytest.approx(list(golden.values()), rel=1e-9)
    assert total == pytest.approx(100_000, rel=1e-3)


def test_published_rates_of_sniper_in_epochs(composed):
    """A published epoch shows images and mirror images, in 11,000 steps of 128 chips: two epochs here."""
    golden = {0: 0.004, 1100: 0.12, 58629: 0.12, 58630: 0.012, 76999: 0.012}  # 8 GPUs add their gradients: 8 x 0.015
    cfg = composed("train", "experiment=sniper_r101_coco")
    assert (cfg.data.batch_size, cfg.module.reference_batch, cfg.trainer.max_epochs) == (16, 16, 2 * 7)
    assert cfg.miner.epochs == 2 * 2
    schedule = MultiStep(cfg.schedule.milestones, warmup=cfg.schedule.warmup, start=cfg.schedule.start)
    rates = [8 * cfg.optimizer.lr * schedule(step, 5500, 77_000) for step in golden]
    assert rates == pytest.approx(list(golden.values()), rel=1e-2)


def test_published_losses_of_sniper(composed):
    cfg = composed("train", "experiment=sniper_r101_coco")
    rpn = cfg.detector.rpn
    assert (rpn.box_beta, rpn.box_weight, rpn.min_size, rpn.border) == (1, 3, 3, 32)
    assert (rpn.positive, rpn.negative, cfg.detector.roi_head.box_beta) == (0.5, 0.4, 1)
    assert cfg.detector.class_agnostic
    assert cfg.selection.rois._target_.endswith("AllSelector")


def test_cosine_falls_from_one_to_final():
    schedule = Cosine(final=0.2)
    factors = [schedule(step, 10, 80) for step in range(81)]
    assert factors[0] == 1
    assert factors[40] == pytest.approx(0.6)
    assert factors[80] == pytest.approx(0.2)
    assert (np.diff(factors) < 0).all()
    assert schedule(100, 10, 80) == pytest.approx(0.2)
    assert Cosine()(80, 10, 80) == pytest.approx(0)


def test_milestones_may_be_fractions_of_epochs():
    schedule = MultiStep([5.33, 7], gamma=0.1)
    factors = [schedule(step, 100, 800) for step in (0, 532, 533, 699, 700, 799)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_decay_begins_during_warmup():
    schedule = MultiStep([5], gamma=0.5, warmup=10, start=0.1, unit="steps")
    assert schedule(4, 1, 20) == pytest.approx(0.1 + 0.9 * 0.4)
    assert schedule(5, 1, 20) == pytest.approx(0.5 * (0.1 + 0.9 * 0.5))


@given(
    st.sampled_from([Constant, Cosine, lambda **a: MultiStep([2, 3.5], **a)]),
    st.floats(0, 3),
    st.floats(0.001, 1),
    st.integers(1, 50),
    st.integers(0, 400),
)
def test_factors_are_at_most_one(make, warmup, start, per_epoch, step):
    assert 0 <= make(warmup=warmup, start=start)(step, per_epoch, 5 * per_epoch) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(warmup=-1), "warmup >= 0"),
        (lambda: Cosine(start=0), "0 < start <= 1"),
        (lambda: Cosine(start=1.5), "0 < start <= 1"),
        (lambda: Constant(unit="minutes"), "epochs, steps or share, got 'minutes'"),
        (lambda: MultiStep([11, 8]), "must ascend"),
    ],
)
def test_nonsense_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def detector(classes=2, form="c4", width=4, seed=0):
    make, sizes = (c4, [8, 16, 32]) if form == "c4" else (fpn, [4, 8, 16, 32, 64])
    select = (RandomSelector(32, 0.5), RandomSelector(16, 0.25))
    torch.manual_seed(seed)
    return make(
        tiny_backbone(form, width), classes, sizes, [1.0], *select, head_width=16, roi_size=3, after_nms=(40, 40)
    )


def sgd(lr=0.1, **arguments):
    return lambda groups: torch.optim.SGD(groups, lr=lr, **arguments)


def test_norms_and_biases_do_not_decay():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.GroupNorm(1, 2))
    weights, vectors = parameter_groups(module, GroupSettings(0.0))
    assert {id(p) for p in weights["params"]} == {id(module[0].weight), id(module[3].weight)}
    assert "weight_decay" not in weights
    assert vectors["weight_decay"] == 0
    assert len(vectors["params"]) == 6
    (one,) = parameter_groups(module, GroupSettings(None))
    assert len(one["params"]) == 8
    optimizer = torch.optim.SGD(parameter_groups(module, GroupSettings(0.0)), lr=0.1, weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0]


def test_frozen_parameters_are_not_optimised():
    model = detector()
    model.backbone.stages[0].requires_grad_(False)
    chosen = {id(p) for group in parameter_groups(model, GroupSettings(0.0)) for p in group["params"]}
    assert chosen == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(chosen) < len(list(model.parameters()))


def test_a_backbone_that_does_not_differ_makes_no_groups():
    model = detector()
    assert len(parameter_groups(model, GroupSettings(None))) == 1
    assert len(parameter_groups(model, GroupSettings(0.0))) == 2
    assert not any("name" in group for group in parameter_groups(model, GroupSettings(0.0)))


def test_groups_of_a_backbone_hold_every_parameter_once():
    model = detector()
    groups = {g["name"]: g for g in parameter_groups(model, GroupSettings(0.0, 0.1, 0.5))}
    assert list(groups) == ["heads", "heads_norms", "backbone", "backbone_norms"]
    assert [g["lr_scale"] for g in groups.values()] == [1, 1, 0.1, 0.1]
    assert [g.get("weight_decay") for g in groups.values()] == [None, 0, 0.5, 0]
    found = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    inside = {id(p) for name in ("backbone", "backbone_norms") for p in groups[name]["params"]}
    assert inside == {id(p) for p in model.backbone.parameters()}


@pytest.mark.parametrize("make", [c4, rfcn])
def test_the_stage_in_the_head_belongs_to_the_backbone(make):
    backbone = torchvision_backbone("resnet18", "c4")
    stage = {id(p) for p in backbone.roi_stage.layers.parameters()}
    select = (RandomSelector(32, 0.5), RandomSelector(16, 0.25))
    model = make(backbone, 2, [8, 16, 32], [1.0], *select, head_width=16, roi_size=3, after_nms=(40, 40))
    _, inside = parameter_groups(model, GroupSettings(None, 0.1))
    assert {id(p) for p in inside["params"]} == stage | {id(p) for p in model.backbone.parameters()}


def test_a_frozen_backbone_cannot_differ():
    model = detector()
    model.backbone.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"module\.backbone_lr_scale .* no effect"):
        parameter_groups(model, GroupSettings(0.0, 0.1))


class Rates(pl.Callback):
    """Learning rates that optimizer steps were taken with."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append({group["lr"] for group in optimizer.param_groups})


@pytest.mark.parametrize(
    ("arguments", "steps", "rate"),
    [
        ({}, 2, 0.1 * 2 / 16),
        ({"accumulate_grad_batches": 2}, 1, 0.1 * 4 / 16),
        ({"max_epochs": 2}, 4, 0.1 * 2 / 16),
    ],
)
def test_learning_rates_are_meant_for_a_number_of_views(store, tmp_path, arguments, steps, rate):
    rates = Rates()
    module = DetectionModule(Stub(), LABELS, sgd(), Constant(), reference_batch=16)
    trainer_in(tmp_path, callbacks=[rates], **arguments).fit(module, datamodule=data_of(store))
    assert [r for of_step in rates.rates for r in of_step] == pytest.approx([rate] * steps)


def test_learning_rates_stay_as_they_are_without_a_reference(store, tmp_path):
    rates = Rates()
    schedule = Cosine(final=0.1, warmup=0.5)
    module = DetectionModule(Stub(), LABELS, sgd(0.03), schedule)
    trainer = trainer_in(tmp_path, max_epochs=3, callbacks=[rates])
    trainer.fit(module, datamodule=data_of(store, batch_size=1))
    assert trainer.global_step == 12
    # The same for all parameters, and step by step what the schedule says: 4 steps per epoch, 12 altogether.
    assert {len(of_step) for of_step in rates.rates} == {1}
    expected = [0.03 * schedule(step, 4, 12) for step in range(12)]
    assert [rate for of_step in rates.rates for rate in of_step] == pytest.approx(expected)


class ByName(pl.Callback):
    """Learning rates of every optimizer step, by the name of the group."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})


def test_the_ratio_of_learning_rates_holds_through_warm_up_and_decay(store, tmp_path):
    model, schedule = Stub(), Cosine(final=0.1, warmup=0.5)
    model.backbone = nn.Linear(2, 2)
    rates = ByName()
    settings = {"norm_weight_decay": None, "reference_batch": 2, "backbone_lr_scale": 0.1}
    module = DetectionModule(model, LABELS, sgd(0.03), schedule, **settings)
    trainer = trainer_in(tmp_path, max_epochs=3, callbacks=[rates])
    trainer.fit(module, datamodule=data_of(store, batch_size=1))
    expected = [0.03 / 2 * schedule(step, 4, 12) for step in range(12)]  # one view a step instead of two
    assert [r["heads"] for r in rates.rates] == pytest.approx(expected)
    assert [r["backbone"] for r in rates.rates] == pytest.approx([rate / 10 for rate in expected])


class Asked(Constant):
    """Keeps what it is told about the length of the training."""

    def __call__(self, step, steps_per_epoch, total_steps):
        self.lengths = (steps_per_epoch, total_steps)
        return super().__call__(step, steps_per_epoch, total_steps)


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [
        ({"max_epochs": 3}, (5, 15)),
        ({"max_epochs": 3, "limit_train_batches": 2}, (2, 6)),
        ({"max_epochs": 3, "limit_train_batches": 100}, (5, 15)),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, (2, 4)),
        ({"max_epochs": 3, "max_steps": 7}, (5, 7)),
        ({"max_epochs": -1, "max_steps": 7}, (5, 7)),
        ({"max_epochs": 1, "accumulate_grad_batches": 4}, (2, 2)),
    ],
)
def test_schedules_know_how_long_training_lasts(store, tmp_path, arguments, lengths):
    """Ten views in batches of two: 5 batches, or 8 where four make a step."""
    schedule = Asked()
    module = DetectionModule(Stub(), LABELS, sgd(), schedule)
    trainer = trainer_in(tmp_path, limit_val_batches=0, **arguments)
    trainer.fit(module, datamodule=data_of(ten(store)))
    assert schedule.lengths == lengths
    assert trainer.global_step == lengths[1]


def test_detections_grow_with_the_area_of_views_and_images(store):
    some = store.select(range(2))
    some.widths[:], some.heights[:] = [684, 4000], [547, 2250]
    inference = Inference(detections_per_megapixel=100.0)
    assert inference.per_image(some).tolist() == [100, 900]
    assert [inference.per_view(*canvas) for canvas in ((1408, 2016), (3600, 6400))] == [100, 2304]
    inference = inference._replace(view_detections=1000)
    assert [inference.per_view(*canvas) for canvas in ((1408, 1984), (3600, 6400))] == [1000, 2304]
    assert Inference().per_image(some).tolist() == [100, 100]
    # 150 detections apart from each other in each of them.
    rows = np.arange(300)
    corners = np.stack([rows % 150 * 10.0, np.zeros(300)], axis=1)
    boxes = np.concatenate([corners, corners + 5], axis=1).astype(np.float32)
    views = Results(rows // 150, boxes, np.linspace(1, 0.5, 300, dtype=np.float32), 0 * rows, np.arange(2))
    assert np.bincount(inference.merge_views(views, some).images).tolist() == [100, 150]
    assert np.bincount(Inference().merge_views(views, some).images).tolist() == [100, 100]


def test_a_view_of_a_large_image_has_as_many_detections_as_the_image():
    """In one batch: an image of 3 megapixels, shown at a twentieth of its size, and a part of it."""
    corners = torch.arange(400) * 2.0
    boxes = torch.stack([corners, 0 * corners, corners + 1, 0 * corners + 1], dim=1).tolist()
    scores = torch.linspace(0.5, 0.9, 400)  # the best ones last
    batch = make_batch(2, 75, 100)
    batch.windows = torch.tensor([[0, 0, 2000, 1500], [0, 0, 200, 150]], dtype=torch.float32)

    def found(**settings):
        inference = Inference(nms_iou=1.0, **settings)
        results = DetectionModule(Stub(fixed(boxes, scores.tolist())), LABELS, inference=inference).infer(batch)
        counts = np.bincount(results.images).tolist()
        assert [results.scores[results.images == i].min() for i in (0, 1)] == pytest.approx(
            [float(scores[400 - count]) for count in counts]
        )
        return counts

    assert found(detections_per_megapixel=100.0) == [300, 100]
    assert found(detections_per_megapixel=100.0, max_detections=20) == [300, 20]
    assert found(detections_per_megapixel=100.0, view_detections=50) == [50, 50]
    assert found() == [100, 100]


def test_a_step_with_fewer_batches_than_others_is_said(caplog):
    for batches, limit, accumulated, steps in ((8, 1.0, 4, 2), (8, 4, 4, 1), (3, 8, 3, 1), (8, 0.01, 4, 1)):
        assert steps_per_epoch(batches, limit, accumulated) == steps
    assert not caplog.text
    assert steps_per_epoch(8, 6, 4) == 2
    assert "trainer.limit_train_batches=6: the last step of an epoch has 2 of 4 accumulated batches" in caplog.text


def test_no_accumulation_window_is_short(store, tmp_path):
    """Lightning divides every loss by the length of a full window, the last one's too."""

    class Windows(pl.Callback):
        def __init__(self):
            self.batches, self.lengths = 0, []

        def on_train_batch_start(self, *_):
            self.batches += 1

        def on_before_zero_grad(self, *_):
            self.lengths.append(self.batches)
            self.batches = 0

    windows = Windows()
    module = DetectionModule(Stub(), LABELS, sgd(), Constant())
    trainer = trainer_in(tmp_path, max_epochs=2, accumulate_grad_batches=4, callbacks=[windows])
    data = data_of(ten(store))
    trainer.fit(module, datamodule=data)
    assert data.num_train_batches() == 8
    assert trainer.global_step == 4
    assert windows.lengths[1:] == [4] * 3


def test_the_loss_is_the_sum_and_every_part_is_logged(store, tmp_path):
    module = DetectionModule(detector(), LABELS, sgd(0.01), Constant())
    trainer = trainer_in(tmp_path, limit_train_batches=1)
    trainer.fit(module, datamodule=data_of(store))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
    total = logged.pop("train/loss")
    assert set(logged) == {"train/rpn_objectness", "train/rpn_box", "train/roi_class", "train/roi_box"}
    assert total == pytest.approx(sum(logged.values()), rel=1e-5)


def test_detections_outside_the_valid_range_go():
    """Sizes in original pixels: above the lower bound, not above the upper."""
    sides = [10, 10.01, 15, 20, 20.01]
    batch = make_batch(2, 96, 128, ranges=(10.0, 20.0), scale=2.0)  # a view pixel is half an original one
    module = DetectionModule(Stub(fixed([(0, 0, 2 * s, 2 * s) for s in sides])), LABELS)
    results = module.infer(batch)
    assert results.images.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(results.boxes[:3, 2], [10.01, 15, 20], atol=1e-5)
    # Long thin boxes count by area.
    thin = DetectionModule(Stub(fixed([(0, 0, 8, 60), (0, 0, 2, 80)])), LABELS).infer(batch)
    assert thin.boxes.tolist() == [[0, 0, 4, 30]] * 2


class AsGiven(Predictor):
    """A predictor that gives each proposal the score of its place, and leaves boxes where they are.

    Args:
        scores: (R,) of the one class.
        kinds: sets of deltas per RoI.
    """

    def __init__(self, scores, kinds):
        super().__init__()
        self.scores, self.kinds = scores, kinds

    def shared(self, maps):
        return None

    def forward(self, shared, rois):
        logits = torch.full((*rois.shape[:2], 2), 0.0)
        small = rois[..., 2] - rois[..., 0] < 50
        logits[..., 1] = torch.where(small, *self.scores).logit()
        return logits, torch.zeros(*rois.shape[:2], self.kinds, 4)


@pytest.mark.parametrize("count", [1200, 5000])  # more than `view_detections`, than the candidates of the heads
@pytest.mark.parametrize("nms_iou", [0.5, 1.0])
@pytest.mark.parametrize(("make", "passes"), [("ssd", 1), ("by class", 1), ("for all", 1), ("by class", 2)])
def test_what_is_out_of_range_takes_no_place(make, passes, nms_iou, count):
    """Many of score 0.9 out of range, and one of 0.8 in range, which they would push out or suppress."""
    boxes = torch.tensor([[0.0, 0.0, 96.0, 90.0]]).repeat(count, 1)
    boxes[:, 3] += torch.linspace(0, 5, count)
    boxes = torch.cat([boxes, torch.tensor([[10.0, 10.0, 30.0, 30.0]])])[None]
    if make == "ssd":
        scores = torch.tensor([0.9] * count + [0.8])[None, :, None]
        model = ssd(ssd_tiny(widths=(4, 4, 4)), 1, [8, 64], HardNegativeSelector())
        model.candidates = lambda images, sizes: (boxes, scores)
    else:
        model = detector(classes=1)
        proposals = Proposals(boxes, torch.ones(boxes.shape[:2]), torch.ones(boxes.shape[:2], dtype=torch.bool))
        model.rpn.propose = lambda *_, **__: proposals
        model.roi_head.predictor = AsGiven(torch.tensor([0.8, 0.9]), 2 if make == "by class" else 1)
    inference = Inference(nms_iou=nms_iou, view_detections=100, passes=passes)
    module = DetectionModule(model.eval(), LABELS, inference=inference)
    batch = make_batch(1, 96, 128, ranges=(5.0, 40.0), scale=2.0)
    results = module.infer(batch)
    assert results.boxes[:1].tolist() == [[5, 5, 15, 15]]
    assert results.scores == pytest.approx([0.8] * (1 if nms_iou < 1 else passes))
    everything = module.infer(make_batch(1, 96, 128, scale=2.0))
    assert (everything.scores > 0.85).any()


@pytest.mark.slow
@given(st.integers(0, 500), st.booleans())
@settings(max_examples=15, deadline=None)
def test_tiles_give_one_detection_per_object(seed, flipped):
    """A detector that finds in each view what it shows of every object, as surely as the whole of it."""
    rng = np.random.default_rng(seed)
    big = rng.integers(0, [184, 106])
    objects = [(*big, big[0] + 200, big[1] + 150, 0)]
    for _ in range(60):
        x, y = rng.integers(0, [356, 228])
        if all(x > q[2] or x + 28 < q[0] or y > q[3] or y + 28 < q[1] for q in objects):
            objects.append((x, y, x + 28, y + 28, 1))
    objects = np.array(objects, float)
    planner = Planner(Pyramid([1.0]), Tiles(128, 0.25, whole=True), BothSides() if flipped else None)
    image = record(384, 256, objects[:, :4])
    found = []
    for view in planner(image):
        batch = Collate(128)(
            [Sample(Look(0, view), torch.zeros(3, *view.size, dtype=torch.uint8), targets(image, view))]
        )
        clipped = np.clip(boxes_to_view(objects[:, :4], view), 0, view.size[::-1] * 2)
        shown = (clipped[:, 2:] - clipped[:, :2] >= 3).all(axis=1)
        labels = objects[shown, 4].astype(int).tolist()
        stub = Stub(fixed(clipped[shown], [0.95] * len(labels), labels))
        found.append(DetectionModule(stub, LABELS).infer(batch))
    found = Results.concatenate(found)
    merged = found.merge_views(Inference().merge, 100, fragments=0.5)
    assert sorted(merged.labels) == sorted(objects[:, 4])
    for label in (0, 1):
        truth = torch.from_numpy(objects[objects[:, 4] == label, :4]).float()
        assert box_iou(truth, torch.from_numpy(merged.boxes[merged.labels == label])).amax(dim=1).min() > 0.9
    assert len(found.merge_views(Inference().merge, 100)) > len(objects)


def test_what_a_tile_shows_whole_is_found_there():
    """A box around neighbours, which only the shrunk image takes for one object, and what no tile shows whole."""
    *tiles, whole = Planner(Pyramid([1.0]), Tiles(128, 0.25, whole=True))(record(384, 256))
    boxes = np.array([(4, 140, 79, 188), (4, 100, 79, 191), (60, 40, 260, 190), (90, 10, 132, 52)], float)

    def kept(view):
        image = record(384, 256, boxes)
        batch = Collate(128)(
            [Sample(Look(0, view), torch.zeros(3, *view.size, dtype=torch.uint8), targets(image, view))]
        )
        found = DetectionModule(Stub(fixed(boxes_to_view(boxes, view))), LABELS).infer(batch)
        return [int(np.abs(boxes - box).max(axis=1).argmin()) for box in found.boxes]

    assert kept(tiles[0]) == [0, 1, 2, 3]
    # Tiles show the first and the last whole; the second ends where its tile does.
    assert kept(whole) == kept(whole._replace(flip=True)) == [1, 2]
    assert kept(whole._replace(tiles=None)) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [50, 100, 250])
def test_what_a_tile_shows_whole_takes_no_place(count):
    """Many small objects of higher score beside one that no tile shows whole."""
    whole = Planner(Pyramid([1.0]), Tiles(128, 0.25, whole=True))(record(384, 256))[-1]
    boxes = np.array([(4, 4, 20, 20 + n / count) for n in range(count)] + [(60, 40, 260, 190)], float)
    scores = [0.9] * count + [0.8]

    class Limited(Stub):
        def forward(self, images, sizes, score_threshold, nms_iou, max_detections, *options):
            found = super().forward(images, sizes, score_threshold, nms_iou, max_detections, *options)
            return Detections(*(value[:, :max_detections] for value in found))

    sample = Sample(Look(0, whole), torch.zeros(3, *whole.size, dtype=torch.uint8), targets(record(384, 256), whole))
    kept = DetectionModule(Limited(fixed(boxes_to_view(boxes, whole), scores)), LABELS).infer(Collate(128)([sample]))
    assert np.abs(kept.boxes - boxes[-1]).max() < 1


def test_without_ranges_everything_stays():
    batch = make_batch(1, 96, 128)
    found = [(0, 0, 1, 1), (0, 0, 128, 96)]
    results = DetectionModule(Stub(fixed(found, labels=[0, 1])), LABELS).infer(batch)
    assert results.boxes.tolist() == [[0, 0, 1, 1], [0, 0, 128, 96]]
    assert results.labels.tolist() == [0, 1]


def test_detections_are_in_pixels_of_the_image():
    batch = make_batch(2, 96, 128)
    batch.windows = torch.tensor([[100.0, 50, 164, 98]]).repeat(2, 1)  # 64 x 48, shown twice as large
    batch.flips = torch.tensor([False, True])
    batch.index = torch.tensor([5, 3])
    results = DetectionModule(Stub(fixed([(10, 20, 30, 60)])), LABELS).infer(batch)
    # The mirrored view's box lies at 128 - 30 to 128 - 10.
    assert results.boxes.tolist() == [[105, 60, 115, 80], [149, 60, 159, 80]]
    assert results.images.tolist() == [5, 3]
    assert results.seen.tolist() == [3, 5]


def test_images_without_detections_were_seen():
    batch = make_batch(3, 96, 128)
    results = DetectionModule(Stub(fixed([(0, 0, 9, 9)], scores=[0.005])), LABELS).infer(batch)
    assert len(results) == 0
    assert results.seen.tolist() == [0, 1, 2]
    lower = DetectionModule(
        Stub(fixed([(0, 0, 9, 9)], scores=[0.005])), LABELS, inference=Inference(score_threshold=0.001)
    )
    assert len(lower.infer(batch)) == 3


def test_own_weights():
    source, target = (DetectionModule(detector(seed=s), LABELS) for s in (0, 1))
    assert target.load_own(source.state_dict(), LABELS) == "all layers"
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


@pytest.mark.parametrize("names", [["cat", "dog", "hen"], ["dog", "cat"]])
def test_other_classes_keep_a_fresh_last_layer(names):
    source = DetectionModule(detector(seed=0), LABELS)
    target = DetectionModule(detector(len(names), seed=1), LabelMap(names))
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    assert "starts fresh" in target.load_own(source.state_dict(), LABELS)
    for name, tensor in target.state_dict().items():
        last = name.startswith(("detector.roi_head.predictor.classify.", "detector.roi_head.predictor.regress."))
        assert torch.equal(tensor, before[name] if last else source.state_dict()[name]), name


def test_source_ids_are_no_difference_between_classes():
    source, target = (DetectionModule(detector(seed=s), LABELS) for s in (0, 1))
    assert target.load_own(source.state_dict(), LabelMap(["cat", "dog"])) == "all layers"


@pytest.mark.parametrize("other", [{"form": "pyramid"}, {"width": 8}])
def test_weights_of_another_detector_are_refused(other):
    module = DetectionModule(detector(), LABELS)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"weights of another detector: \d+ tensors .* such as detector\.\w+"):
        module.load_own(DetectionModule(detector(**other), LABELS).state_dict(), LABELS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_checkpoints_are_plain_data(store, tmp_path):
    chosen = {"dataset": {"root": "x", "size_cuts": [32, 96]}, "weights": None}
    module = DetectionModule(detector(), LABELS, sgd(0.01), Cosine(), settings=chosen)
    trainer = trainer_in(tmp_path, max_steps=1)
    trainer.fit(module, datamodule=data_of(store))
    assert trainer.global_step == 1
    file = tmp_path / "one.ckpt"
    trainer.save_checkpoint(file)
    content = torch.load(file, weights_only=True)
    saved = content["hyper_parameters"]
    assert LabelMap.from_dict(saved["labels"]) == LABELS
    assert saved["settings"] == json.loads(json.dumps(chosen))
    assert load_checkpoint(file)["hyper_parameters"] == saved

    restored = DetectionModule(detector(seed=1), LABELS)
    restored.load_state_dict(content["state_dict"])
    batch = make_batch(2, 48, 64)
    first, second = module.eval().infer(batch), restored.eval().infer(batch)
    assert len(first) > 0
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.boxes, second.boxes)


def infinite_on(image, value=inf):
    return lambda batch: {
        "good": torch.tensor(1.0),
        "bad": torch.where((batch.index == image).any(), value, 2.0),
    }


@pytest.mark.parametrize("value", [inf, float("nan")])
@pytest.mark.parametrize(("batch_size", "validated"), [(1, True), (2, True), (4, True), (4, False)])
def test_a_loss_that_is_no_number_ends_the_run(store, tmp_path, batch_size, validated, value):
    """Whether more batches or a validation follow or not, before anything is evaluated or saved."""
    evaluator = Evaluator()
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="last", save_on_train_epoch_end=True)
    module = DetectionModule(Stub(losses=infinite_on(3, value)), LABELS, sgd(), Constant())
    callbacks = [evaluator, StopOnNonFinite(str(tmp_path / "run")), saving]
    trainer = trainer_in(
        tmp_path, callbacks=callbacks, enable_checkpointing=True, limit_val_batches=1.0 if validated else 0
    )
    with pytest.raises(NonFiniteLossError) as raised:
        trainer.fit(module, datamodule=data_of(store, batch_size))
    text = str(raised.value)
    assert "epoch 1" in text
    assert "bad" in text
    assert "good = 1" in text
    file = tmp_path / "run" / "nonfinite-rank0.pt"
    assert str(file) in text
    content = torch.load(file, weights_only=True)
    index = content["batch"]["index"].tolist()
    assert len(index) == batch_size
    assert 3 in index
    assert content["images"] == [str(store.path(i)) for i in index]
    assert all(name in text for name in content["images"])
    assert content["losses"]["train/bad"] == value or isnan(value)
    assert content["losses"]["train/good"] == 1
    assert evaluator.evaluation is None
    assert not list(tmp_path.glob("checkpoints/*"))


def test_weights_that_are_no_numbers_are_not_saved(store, tmp_path):
    """A gradient may be NaN where the loss is finite."""
    module = DetectionModule(Stub(losses=infinite_on(99)), LABELS, sgd(), Constant())
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="last", save_on_train_epoch_end=True)
    breaking = Breaking()
    callbacks = [StopOnNonFinite(str(tmp_path / "run")), breaking, saving]
    trainer = trainer_in(tmp_path, max_epochs=3, callbacks=callbacks, enable_checkpointing=True, limit_val_batches=0)
    with pytest.raises(NonFiniteLossError, match="holds NaN or infinite values"):
        trainer.fit(module, datamodule=data_of(store))
    content = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=False)
    assert content["epoch"] == 0
    assert all(value.isfinite().all() for value in content["state_dict"].values())


class Breaking(pl.Callback):
    """Breaks a weight in the second epoch, before it is saved."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            next(pl_module.parameters()).data.fill_(float("nan"))


def test_finite_losses_end_nothing(store, tmp_path):
    module = DetectionModule(Stub(losses=infinite_on(99)), LABELS, sgd(), Constant())
    trainer = trainer_in(tmp_path, max_epochs=2, callbacks=[StopOnNonFinite(str(tmp_path / "run"))])
    trainer.fit(module, datamodule=data_of(store))
    assert trainer.current_epoch == 2
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_learned_from_is_named_by_its_file(store, tmp_path):
    def refuse(batch):
        raise ImageError(2, "shows too much")

    module = DetectionModule(Stub(losses=refuse), LABELS, sgd(), Constant())
    with pytest.raises(UserError, match=rf"^{re.escape(str(store.path(2)))}: shows too much$"):
        trainer_in(tmp_path).fit(module, datamodule=data_of(store))


class Oracle(DetectionModule):
    """Finds every box, a bit beside where it is: differently in every view, and now and then of the wrong class."""

    def __init__(self, store):
        super().__init__(Stub(), LABELS)
        self.store = store

    def infer(self, batch, follow=None):
        self.detector.found = lambda images, sizes: self.found(batch)
        return super().infer(batch)

    def found(self, batch):
        count = 4
        boxes, scores = torch.zeros(len(batch), count, 4), torch.zeros(len(batch), count)
        labels = torch.zeros(len(batch), count, dtype=torch.int64)
        for row, image in enumerate(batch.index.tolist()):
            record = self.store.record(image)
            flip = bool(batch.flips[row])
            view = View(1.0, (0, 0, record.width, record.height), flip=flip)
            n = len(record.boxes)
            moved = record.boxes + np.arange(n)[:, None] * (0.7 if flip else 0.3)
            boxes[row, :n] = torch.from_numpy(boxes_to_view(moved, view))
            scores[row, :n] = 0.9 - 0.1 * torch.arange(n) - 0.03 * image - 0.05 * flip
            labels[row, :n] = torch.from_numpy(record.labels) if image != 1 else 1
        return boxes, scores, labels


@pytest.mark.parametrize("flip", [None, BothSides()])
def test_figures_do_not_depend_on_the_batches(store, tmp_path, flip):
    seen = []
    for size in (1, 2, 3, 8):
        evaluator = Evaluator(size_cuts=(10, 16), metric="voc07")
        trainer = trainer_in(tmp_path, callbacks=[evaluator])
        trainer.validate(Oracle(store), datamodule=data_of(store, test_batch_size=size, flip=flip), verbose=False)
        figures = evaluator.evaluation.figures()
        logged = {n.removeprefix("val/"): float(v) for n, v in trainer.callback_metrics.items()}
        assert logged == pytest.approx({name: figure for name, figure in figures.items() if figure is not None})
        assert evaluator.results.seen.tolist() == [0, 1, 2, 3]
        # Views of an object were merged: one detection per box.
        assert len(evaluator.results) == store.num_boxes
        seen.append(figures)
    assert 0.1 < seen[0]["AP"] < 0.9
    # All boxes have an area of 150.5: medium to these cuts, small to COCO's.
    assert (seen[0]["AP_small"], seen[0]["AP_medium"], seen[0]["AP_large"]) == (None, seen[0]["AP"], None)
    assert all(figures == seen[0] for figures in seen)


def test_every_validation_starts_anew(store, tmp_path):
    evaluator = Evaluator()
    trainer = trainer_in(tmp_path, callbacks=[evaluator])
    module, data = Oracle(store), data_of(store)
    for _ in range(2):
        trainer.validate(module, datamodule=data, verbose=False)
        assert len(evaluator.results) == store.num_boxes


def test_pictures(store, tmp_path):
    pictures = Pictures(str(tmp_path / "pictures"), count=3)
    trainer = trainer_in(tmp_path, callbacks=[pictures, Evaluator()])
    trainer.validate(Oracle(store), datamodule=data_of(store), verbose=False)
    files = sorted((tmp_path / "pictures").iterdir())
    assert [f.name for f in files] == ["val_00.png", "val_01.png", "val_02.png"]
    for file in files:
        # 64 x 48 enlarged nine times, twice beside each other, between titles and, if there are boxes, a key.
        width, height = Image.open(file).size
        assert width == 2 * 576 + 6
        assert 432 + 20 <= height < 432 + 60


def test_pictures_need_an_evaluator(store, tmp_path):
    trainer = trainer_in(tmp_path, callbacks=[Pictures(str(tmp_path / "pictures"))])
    trainer.validate(Oracle(store), datamodule=data_of(store), verbose=False)
    assert not (tmp_path / "pictures").exists()


def test_truth_is_left_and_detections_are_right(store):
    box = np.array([[40, 30, 60, 44]], np.float32)
    results = Results(np.array([3]), box, np.array([0.6], np.float32), np.array([1]), np.array([3]))
    nothing = draw_comparison(store, Results(seen=np.array([3])), 3, 0.3)
    shown = draw_comparison(store, results, 3, 0.3)
    assert shown.shape == nothing.shape
    assert shown.shape[1] == 2 * 576 + 6
    key, shown, nothing = shown[432 + 20 :], shown[: 432 + 20], nothing[: 432 + 20]
    changed = np.argwhere((shown != nothing).any(axis=2))
    assert len(changed) > 100
    # Nine times as large: 40 to 60, 30 to 44, with lines around and a caption above.
    (top, left), (bottom, right) = changed.min(axis=0) - (20, 582), changed.max(axis=0) - (20, 582)
    assert (left, right, bottom) == pytest.approx((360, 540, 396), abs=4)
    assert 245 < top < 266
    np.testing.assert_array_equal(
        draw_comparison(store, results, 3, 0.7), draw_comparison(store, Results(seen=results.seen), 3, 0.7)
    )

    def has(part, colour):
        return (part == np.array(colour)).all(axis=2).any()

    truth, found = shown[20:, :576], shown[20:, 582:]
    assert has(truth, class_colour(0))
    assert has(truth, GREY)  # the crowd
    assert has(found, class_colour(1))
    assert not has(found, class_colour(0))
    assert all(has(key, colour) for colour in (class_colour(0), class_colour(1), GREY))


@pytest.mark.parametrize("change", [{"norm": "frozen"}, {"frozen_stages": 1}])
def test_own_weights_go_into_frozen_layers(change):
    def module(**options):
        backbone = tiny_backbone("c4", 4, **options)
        select = (RandomSelector(8), RandomSelector(8))
        return DetectionModule(c4(backbone, len(LABELS), [8], [1.0], *select, roi_size=3, head_width=16), LABELS)

    assert module(**change).load_own(module().state_dict(), LABELS) == "all layers"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_epoch_is_trained_whole_and_validated(store, tmp_path, seed):
    class Counts(pl.Callback):
        trained = planned = validated = 0

        def on_train_batch_end(self, *_):
            self.trained += 1

        def on_validation_end(self, *_):
            self.validated += 1

        def on_train_epoch_end(self, trainer, _):
            self.planned += len(trainer.train_dataloader)

    counts = Counts()
    # With one resolution at random per image, epochs differ in their number of batches.
    many = store.select([k % 4 for k in range(37)])
    views = Planner(Pyramid([1.0, 0.75, 0.5], draw="one"))
    data = MultiScaleData(many, store, views, Planner(Pyramid([1.0])), batch_size=4, num_workers=0, seed=seed)
    trainer = trainer_in(tmp_path, max_epochs=6, callbacks=[counts])
    trainer.fit(DetectionModule(Stub(), LABELS, sgd(), Constant()), datamodule=data)
    assert (counts.validated, counts.trained) == (6, counts.planned)


def test_a_trainer_that_counts_batches_once_is_refused(store, tmp_path):
    trainer = trainer_in(tmp_path, reload_dataloaders_every_n_epochs=0)
    with pytest.raises(ValueError, match="reload_dataloaders_every_n_epochs=1"):
        trainer.fit(DetectionModule(Stub(), LABELS, sgd(), Constant()), datamodule=data_of(store))


def test_statistics_shared_by_processes_without_gpus_are_refused():
    class Trained(DetectionModule):
        trainer = SimpleNamespace(world_size=2, datamodule=None)

    Trained(Stub(), LABELS).on_fit_start()
    shared = Trained(Stub(), LABELS)
    shared.detector.norm = nn.SyncBatchNorm(2)
    with pytest.raises(ConfigError, match=r"several processes on CPUs: set backbone\.norm"):
        shared.on_fit_start()
    shared.trainer.world_size = 1
    shared.on_fit_start()
