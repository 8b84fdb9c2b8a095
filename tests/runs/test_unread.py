import logging

import pytest

from lightning_det.config import CONF
from lightning_det.runs.composition import overridden_keys, validate_run
from lightning_det.runs.unread import report_unreachable, report_unread, unread_settings

RECIPES = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


@pytest.fixture
def unread(composed):
    def find(*overrides):
        cfg = validate_run(composed("train", *overrides))
        return unread_settings(cfg, overridden_keys())

    return find


@pytest.mark.parametrize(
    ("detector", "key"),
    [
        ("rtdetr", "capacity.finest_stride=4"),
        ("ssd", "capacity.neck=32"),
        ("fcos", "capacity.before_nms=[100,50]"),
        ("fcos", "dataset.anchor_sizes=[8,16,32,64,128]"),
        ("retinanet", "capacity.rois=24"),
        ("faster_rcnn", "capacity.neck=32"),
        ("faster_rcnn_fpn", "capacity.focal_gamma=1"),
    ],
)
def test_a_size_of_a_part_that_the_detector_lacks_is_named(unread, detector, key):
    backbone = ["backbone=ssd_tiny"] if detector == "ssd" else []
    assert unread(f"detector={detector}", *backbone, key) == [key.partition("=")[0]]


@pytest.mark.parametrize(
    ("detector", "key"),
    [
        ("faster_rcnn", "capacity.head=64"),
        ("faster_rcnn_fpn", "capacity.neck=32"),
        ("faster_rcnn_fpn", "dataset.anchor_ratios=[0.5,1.0]"),
        ("rfcn", "capacity.rois=24"),
        ("retinanet", "capacity.focal_gamma=1"),
        ("fcos", "capacity.head_convs=1"),
        ("rtdetr", "capacity.queries=50"),
        ("cascade_rcnn", "capacity.proposals_per_megapixel=50"),
    ],
)
def test_a_size_that_the_detector_has_is_not_named(unread, detector, key):
    assert unread(f"detector={detector}", key) == []


def test_a_strategy_reads_its_own_sizes(unread):
    sizes = ["dataset.sniper.size=64", "dataset.tiles.size=64", "capacity.focus=32", "miner.epochs=1"]
    assert unread("strategy=[sniper,flip]", "proposals=auto", *sizes) == ["dataset.tiles.size", "capacity.focus"]
    assert unread("strategy=[tiles,flip]", *sizes) == ["dataset.sniper.size", "capacity.focus", "miner.epochs"]
    assert "capacity.focus" not in unread("strategy=[sniper_no_negatives,flip,autofocus]", *sizes)


def test_sizes_of_priors_take_the_place_of_anchor_sizes(unread):
    given = ["detector=ssd", "backbone=ssd_tiny", "dataset.anchor_sizes=[8,128]"]
    assert unread(*given) == []
    assert unread(*given, "detector.priors.sizes=[8,16,32,64,128,256]") == ["dataset.anchor_sizes"]


def test_a_stage_for_rois_takes_the_place_of_the_heads_layers(unread):
    given = ["detector=faster_rcnn", "capacity.head=64"]
    assert unread(*given, "backbone=resnet18") == ["capacity.head"]
    assert unread(*given, "backbone=resnet18", "detector.head_width=32") == ["capacity.head", "detector.head_width"]
    assert unread(*given, "backbone=tiny", "detector.head_width=32") == ["capacity.head"]
    assert unread("detector=rfcn", "backbone=resnet18", "capacity.head=64") == []


def test_ohem_reads_the_number_of_rois(unread):
    assert unread("strategy=[single_scale,ohem]", "capacity.rois=24") == []


def test_mining_reads_the_anchors_of_a_detector_without_any(unread):
    given = ["detector=fcos", "dataset.anchor_sizes=[8,16,32,64,128]"]
    assert unread(*given, "strategy=[sniper,flip]", "proposals=auto") == []
    assert unread(*given) == ["dataset.anchor_sizes"]


def test_the_kind_of_clipping_needs_a_value(unread):
    kind = "trainer.gradient_clip_algorithm=value"
    assert unread(kind) == []
    assert unread(kind, "trainer.gradient_clip_val=null") == ["trainer.gradient_clip_algorithm"]


def test_inference_leaves_out_no_tile(unread):
    tiles = ["strategy=[tiles,flip]", "views.train.windows.background=0.5"]
    assert unread(*tiles) == []
    assert unread(*tiles, "views.test.windows.background=0.5") == ["views.test.windows.background"]


@pytest.mark.parametrize(
    ("given", "key", "otherwise"),
    [
        (["strategy=[sniper_no_negatives,flip]"], "test.merge.iou=0.9", ["test.merge.method=linear"]),
        (
            ["strategy=[sniper_no_negatives,flip]", "test.merge.method=linear"],
            "test.merge.sigma=0.9",
            ["test.merge.method=gaussian"],
        ),
        (
            ["strategy=[single_scale,flip,ohem]", "selection.rois.nms_iou=null"],
            "selection.rois.per_label=true",
            ["selection.rois.nms_iou=0.7"],
        ),
        (
            ["strategy=[sniper_no_negatives,flip]"],
            "views.train.windows.dense=[1,1]",
            ["views.train.windows.negatives=1"],
        ),
        (["strategy=[snip,flip]", "detector=fcos"], "views.train.scales.anchor_ranges=null", ["detector=faster_rcnn"]),
        (
            ["strategy=[sniper,flip]", "detector=fcos", "proposals=null"],
            "views.train.scales.anchor_ranges=null",
            ["proposals=auto"],
        ),
    ],
)
def test_a_setting_that_another_one_switches_off_is_named(unread, given, key, otherwise):
    changed = {o.partition("=")[0] for o in otherwise}
    assert unread(*given, key) == [key.partition("=")[0]]
    assert unread(*(g for g in given if g.partition("=")[0] not in changed), *otherwise, key) == []


def test_settings_of_other_kinds_are_not_named(unread):
    assert unread("detector=rtdetr", "optimizer.lr=0.1", "dataset.limit=4", "seed=3") == []


def test_the_warning_names_all_of_them(composed, caplog):
    caplog.set_level(logging.WARNING)
    cfg = validate_run(composed("train", "detector=rtdetr", "capacity.roi=3", "capacity.head=8", "capacity.neck=32"))
    report_unread(cfg, overridden_keys())
    assert "no part of this run reads these settings: capacity.roi, capacity.head" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["capacity.rois=301"], "=301 is out of reach: a view has at most 300 proposals"),
        (["capacity.rois=768", "detector=faster_rcnn_fpn"], "'capacity.after_nms=[768,300]' gives it enough"),
        (
            ["capacity.rois=600", "detector=cascade_rcnn", "capacity.after_nms=[500,200]"],
            "capacity.after_nms=[600,200]",
        ),
        (["selection.rois.count=400", "strategy=[single_scale,ohem]"], "=400 is out of reach"),
        (["capacity.rois=300"], ""),
        (["capacity.rois=768", "capacity.after_nms=[768,300]"], ""),
        (["capacity.rois=768", "detector=retinanet"], ""),
        (["capacity.rois=768", "strategy=[single_scale,all_rois]"], ""),
        (["detector=rtdetr"], ""),
    ],
)
def test_more_rois_than_proposals_are_warned_of(composed, caplog, overrides, said):
    caplog.set_level(logging.WARNING)
    report_unreachable(validate_run(composed("train", *overrides)))
    assert said in caplog.text
    assert bool(said) == ("out of reach" in caplog.text)


@pytest.mark.parametrize("recipe", RECIPES)
def test_published_recipes_have_proposals_for_their_rois(composed, caplog, recipe):
    report_unreachable(composed("train", f"experiment={recipe}"))
    assert not caplog.text
