"""Every option composes, and what does not fit is named before a run starts."""

import json
import re

import pytest
import yaml
from helpers import SMALL
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue
from support.checks import accepted

from lightning_det.annotations import LabelMap
from lightning_det.commands.eval import evaluate_checkpoint
from lightning_det.config import (
    CONF,
    SLOTS,
    ConfigError,
    check_contradictions,
    check_slots,
    check_targets,
    check_values,
    read_option,
    resolve,
    validate,
)
from lightning_det.config.build import build
from lightning_det.config.data import build_data, build_planner, read_split, usable_split
from lightning_det.config.module import build_module, portable_settings
from lightning_det.data.coco import Coco
from lightning_det.runs.composition import chosen_options, overridden_keys, save_config, validate_run
from lightning_det.runs.messages import explain_composition
from lightning_det.runs.overlay import overlay_settings
from lightning_det.runs.resume import complete_overrides
from lightning_det.views import Pyramid, Tiles


def options(group):
    return [pytest.param(group, file.stem, id=f"{group}={file.stem}") for file in sorted((CONF / group).glob("*.yaml"))]


def groups():
    others = {"claim", "sweep", "shared"}  # of no run (test_claims.py, test_wandb_sweeps.py), or parts of options
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in others)


def choice(group, name):
    """The override that chooses an option, with what it demands."""
    lists = {"strategy": f"[{name}]", "test": f"[{name}]", "callbacks": f"[default,{name}]"}
    demanded = {
        ("backbone", "timm"): ["backbone.name=efficientnet_b0"],
        ("detector", name): ["backbone=resnet50"],  # a small backbone would make the detector small
    }
    if group == "backbone" and name.startswith(("dsod", "ssd", "grp_dsod")):
        demanded[group, name] = ["detector=ssd"]
    value = "[default]" if (group, name) == ("callbacks", "default") else lists.get(group, name)
    return [f"{group}={value}", *demanded.get((group, name), [])]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), [option for group in groups() for option in options(group)])
def test_every_option_passes_all_checks(composed, group, name):
    overrides = choice(group, name)
    cfg = composed("train", *overrides)
    cfg.dataset.root = "somewhere"
    cfg = accepted(cfg)
    # What the file says is what the run gets.
    file = CONF / group / f"{name}.yaml"
    is_global = file.read_text().startswith("# @package _global_")
    got = OmegaConf.create(OmegaConf.to_container(cfg if is_global else cfg[group], enum_to_str=True))
    given = {o.split("=", 1)[0].removeprefix("" if is_global else f"{group}.") for o in overrides}
    for key, value in plain_leaves(OmegaConf.to_container(OmegaConf.load(file))):
        if key not in given:
            assert OmegaConf.select(got, key) == value, key


def plain_leaves(node, path=""):
    """(dotted key, value) of everything without interpolation."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from plain_leaves(value, f"{path}{key}.")
        elif "${" not in str(value) and f"{path}{key}" != "defaults":
            yield f"{path}{key}", value


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "inspect", "eval", "predict", "export"])
def test_every_command_composes(composed, command):
    demanded = {"eval": ["checkpoint=x"], "predict": ["checkpoint=x", "source=y"], "export": ["checkpoint=x"]}
    cfg = validate_run(composed(command, *demanded.get(command, [])))
    assert resolve(cfg)["dataset"]["root"].endswith("shapes")


def test_commands_demand_what_they_need(composed):
    with pytest.raises(ConfigError, match=r"checkpoint: not set; give checkpoint="):
        accepted(composed("eval"))
    with pytest.raises(ConfigError, match=r"source: not set; give source="):
        accepted(composed("predict", "checkpoint=x"))


def test_subset_needs_no_other_part(composed):
    assert composed("subset", "root=a", "output=b").images == 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", ["[single_scale,flip]", "[multi_scale,flip]", "[tiles,flip]", "[multi_scale,tiles]"]
)
def test_strategies_go_together(composed, strategy):
    cfg = validate_run(composed("train", f"strategy={strategy}"))
    assert chosen_options()["strategy"] == strategy.strip("[]").split(",")
    planner = build_planner(cfg, "train")
    names = [type(step).__name__ for step in planner.steps]
    assert names == ["Pyramid"] + ["Tiles"] * ("tiles" in strategy) + ["RandomFlip"] * ("flip" in strategy)
    assert isinstance(planner.steps[0], Pyramid)
    assert len(planner.steps[0].resolutions) == (3 if "multi_scale" in strategy else 1)
    assert (planner.canvas is None) == ("tiles" not in strategy)


def test_tests_are_a_list_too(composed):
    cfg = accepted(composed("train", "test=[multi_scale,tiles,flip]"))
    assert [type(step).__name__ for step in build_planner(cfg, "test").steps] == ["Pyramid", "Tiles", "BothSides"]
    assert [type(step).__name__ for step in build_planner(cfg, "train").steps] == ["Pyramid", "RandomFlip"]


SHARPER = """# @package _global_
test:
  merge:
    sigma: 0.4
"""


@pytest.mark.slow
def test_options_that_share_a_block_do_not_change_each_others(composed, tmp_path):
    """Hydra reads a file once per composition: one that is in the list twice must not keep what was merged into it."""
    windows = composed("train", "strategy=[tiles]", "test=[tiles]", "views.train.windows.size=64").views.test.windows
    assert windows.size == 512
    file = tmp_path / "conf/strategy/sharper.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(SHARPER)
    own = [f"hydra.searchpath=[file://{tmp_path}/conf]", "strategy=[sniper,sharper]"]
    assert composed("train", *own).test.merge.sigma == 0.4
    assert composed("train", *own, "test=[soft_nms]").test.merge.sigma == 0.55
    scales = composed("train", "strategy=[multi_scale]", "test=[single_scale]").views
    assert (scales.train.scales.draw, len(scales.train.scales.resolutions)) == ("one", 3)
    assert (scales.test.scales.draw, len(scales.test.scales.resolutions)) == ("all", 1)


@pytest.mark.slow
def test_what_an_option_inherits_counts_as_its_own(composed):
    """A list of strategies is judged by all that its options set, and names the options that the user named."""
    with pytest.raises(ConfigError, match=r"sniper_no_negatives and single_scale both set views\.train\.scales"):
        validate_run(composed("train", "strategy=[sniper_no_negatives,single_scale]"))
    cfg = validate_run(composed("train", "strategy=[sniper_no_negatives,flip]"))
    assert chosen_options() == {"strategy": ["sniper_no_negatives", "flip"], "test": []}
    assert (cfg.views.train.windows.negatives, cfg.proposals) == (0, None)
    # Of the default's data module nothing is left, as with sniper itself.
    assert validate_run(composed("train", "strategy=[sniper]", "proposals=null")).data == cfg.data


def test_an_option_is_read_with_all_that_it_inherits(composed, searchpath, tmp_path):
    (tmp_path / "conf/strategy/more_warped.yaml").write_text(
        "# @package _global_\ndefaults:\n  - warped\nproposals: x\n"
    )
    for option in ("strategy/snip", "test/soft_nms"):
        assert read_option(option).test.merge._target_ == "lightning_det.merging.SoftNMS"
    assert read_option("backbone/dsod_32_12_16_05_pooled").backbone.growth == 16
    composed("train", searchpath)
    assert read_option("strategy/more_warped") == {
        "views": {"train": {"scales": {"_target_": "lightning_det.views.Warp", "size": [96, 128]}}},
        "proposals": "x",
    }


def test_strategies_that_set_the_same_slot_are_refused(composed):
    cfg = composed("train", "strategy=[single_scale,multi_scale]")
    with pytest.raises(ConfigError) as raised:
        validate_run(cfg)
    for part in ("single_scale", "multi_scale", "views.train.scales", "keep one"):
        assert part in str(raised.value)
    with pytest.raises(ConfigError, match=r"test=\[multi_scale,single_scale\].*views\.test\.scales"):
        validate_run(composed("train", "test=[multi_scale,single_scale]"))


def test_a_strategy_that_is_listed_twice_is_named_once(composed):
    with pytest.raises(ConfigError, match=r"^strategy=\[flip,flip\]: flip is in the list twice; name it once$"):
        validate_run(composed("train", "strategy=[flip,flip]"))


def test_different_slots_are_no_conflict():
    check_slots("strategy", ["multi_scale", "tiles", "flip"])
    check_slots("strategy", [])


def test_every_slot_exists(composed):
    cfg = composed("train")
    for slot in SLOTS:
        *parents, last = slot.split(".")
        node = OmegaConf.select(cfg, ".".join(parents)) if parents else cfg
        assert last in node, slot


@pytest.mark.slow
def test_settings_of_what_was_replaced_are_dropped(composed):
    whole = "data._target_=lightning_det.data.datamodule.MultiScaleData"
    cfg = composed("train", "strategy=[tiles]", whole)
    assert cfg.data.together == 4
    assert "together" not in validate_run(cfg).data
    assert cfg.data.together == 4  # a copy was cleared
    # Not what the user has asked for: it is refused.
    with pytest.raises(ConfigError, match=r"data\.together: unknown"):
        validate_run(composed("train", "strategy=[tiles]", whole, "data.together=2"))
    kept = validate_run(composed("train", "strategy=[tiles]", "data.batch_size=3"))
    assert (kept.data.together, kept.data.batch_size) == (4, 3)


def test_leftovers_are_only_dropped_in_slots(composed):
    cfg = composed("train", "+optimizer.lrr=1")
    with pytest.raises(ConfigError, match=r"optimizer\.lrr: unknown \(did you mean lr\?\)"):
        accepted(cfg)


WARPED = """# @package _global_
views:
  train:
    scales:
      _target_: lightning_det.views.Warp
      size: [96, 128]
"""


@pytest.fixture
def searchpath(tmp_path):
    """An override that names a folder with an option of its own."""
    file = tmp_path / "conf/strategy/warped.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(WARPED)
    return f"hydra.searchpath=[file://{tmp_path}/conf]"


def test_an_option_of_another_folder_fills_its_slot(composed, searchpath):
    scales = validate_run(composed("train", searchpath, "strategy=[warped,flip]")).views.train.scales
    # The pyramid's arguments are gone, as they are with the package's own strategy=[warp].
    assert scales == {"_target_": "lightning_det.views.Warp", "size": [96, 128]}


def test_an_option_of_another_folder_contradicts_others(composed, searchpath):
    with pytest.raises(ConfigError, match=r"multi_scale and warped both set views\.train\.scales"):
        validate_run(composed("train", searchpath, "strategy=[multi_scale,warped]"))


def test_a_run_that_goes_on_is_told_the_folder_again(composed, searchpath, tmp_path):
    cfg = composed("train", searchpath, "strategy=[warped,flip]", "seed=3")
    run = tmp_path / "run"
    run.mkdir()
    save_config(cfg, run)
    assert yaml.safe_load((run / "overrides.yaml").read_text()) == [searchpath, "strategy=[warped,flip]", "seed=3"]
    # The folder may come from elsewhere, and options call code: the user has to name them again.
    with pytest.raises(ConfigError, match=r"hydra\.searchpath=.*give the option again"):
        complete_overrides([f"resume={run}"])
    assert complete_overrides([f"resume={run}", searchpath])[:2] == ["strategy=[warped,flip]", "seed=3"]


VIEWS = "lightning_det.views."


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": f"{VIEWS}Tiles", "sise": 9},
            r"^x\.sise: unknown \(did you mean size\?\).*size, overlap, background",
        ),
        ({"_target_": f"{VIEWS}Tiles", "zzz": 9}, r"^x\.zzz: unknown; lightning_det\.views\.Tiles has size"),
        ({"_target_": f"{VIEWS}Tiles", "size": "big"}, r"^x\.size: must be an integer, got 'big'"),
        ({"_target_": f"{VIEWS}Tiles", "size": 9.5}, "must be an integer, got 9.5"),
        ({"_target_": f"{VIEWS}Tiles", "size": True}, "must be an integer, got True"),
        ({"_target_": f"{VIEWS}Tiles", "size": None}, "must be an integer, got None"),
        ({"_target_": f"{VIEWS}Tiles", "overlap": "half"}, "must be a number, got 'half'"),
        ({"_target_": f"{VIEWS}LargeViews", "megapixels": float("nan")}, "must be a number, got nan"),
        ({"_target_": f"{VIEWS}Pyramid", "draw": "some"}, r"x\.draw: must be all or one, got 'some'"),
        ({"_target_": f"{VIEWS}Pyramid", "resolutions": 3}, r"x\.resolutions: must be a list of .*, got 3"),
        ({"_target_": f"{VIEWS}Pyramid", "resolutions": [["a", 2]]}, r"x\.resolutions: must be a list of"),
        ({"_target_": f"{VIEWS}Pyramid", "valid_ranges": [[0, "big"]]}, r"a list of a list of a number or null"),
        ({"_target_": "lightning_det.modules.Cosine", "unit": "days"}, "must be epochs or steps or share, got 'days'"),
        ({"_target_": "lightning_det.modules.DetectionModule", "channels_last": "yes"}, "must be true or false"),
        ({"_target_": "lightning_det.modules.DetectionModule", "compiled": True}, "must be parts or step or null"),
        (
            {"_target_": "lightning_det.data.datamodule.ChipData", "batch_size": "x"},
            r"x\.batch_size: must be an integer",
        ),
        ({"_target_": "lightning_det.data.datamodule.ChipData", "batchsize": 2}, r"did you mean batch_size\?"),
        ({"_target_": "lightning_det.backbones.tiny_backbone", "norm": "layer"}, "frozen or batch or sync or group"),
        ({"_target_": "lightning_det.views.Tile"}, r"^x\._target_: cannot import lightning_det\.views\.Tile"),
        ({"_target_": "nowhere.Tiles"}, r"^x\._target_: cannot import nowhere\.Tiles"),
    ],
)
def test_settings_that_do_not_fit_are_named(node, message):
    with pytest.raises(ConfigError, match=message):
        check_targets({"x": node})


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": f"{VIEWS}Tiles", "size": 9, "overlap": 0},
        {"_target_": f"{VIEWS}Pyramid", "resolutions": [1.5, [800, 1333]], "valid_ranges": None},
        {"_target_": f"{VIEWS}Pyramid", "resolutions": [], "valid_ranges": [[0, 80], [40.5, -1]]},
        {"_target_": "lightning_det.modules.DetectionModule", "reference_batch": None, "norm_weight_decay": 1},
        {"_target_": "lightning_det.data.datamodule.ChipData", "together": 2, "batch_size": 2},
        {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
        {"_target_": "torch.optim.AdamW", "_partial_": True, "foreach": None},
        {"_target_": "pytorch_lightning.Trainer", "devices": "auto", "max_time": None, "precision": "bf16-mixed"},
    ],
)
def test_settings_that_fit_pass(node):
    check_targets({"x": node})


def test_nodes_are_checked_wherever_they_are():
    bad = {"_target_": f"{VIEWS}Tiles", "sise": 9}
    with pytest.raises(ConfigError, match=r"^a\.b\[1\]\.c\.sise: unknown"):
        check_targets({"a": {"b": [1, {"c": bad}]}})
    with pytest.raises(ConfigError, match=r"^a\.inner\.sise: unknown"):
        check_targets({"a": {"_target_": "lightning_det.views.Planner", "inner": bad}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=coco"], r"dataset\.root is not set: dataset\.root=DIR"),
        (["backbone=timm"], r"backbone\.name: not set; give backbone\.name="),
        (["trainer.max_epochs=many"], r"trainer\.max_epochs: must be an integer or null, got 'many'"),
        (["+trainer.max_epoch=3"], r"trainer\.max_epoch: unknown \(did you mean max_epochs\?\)"),
        (["backbone.norm=frozen"], r"backbone\.norm=frozen .*set backbone\.weights or weights"),
        (["detector=dsod", "backbone=dsod_tiny", "detector.head_norm=frozen"], r"detector\.head_norm=frozen keeps"),
        (
            ["detector=retinanet", "detector.neck=null"],
            r"^detector\.neck: must be a part, with a _target_",
        ),
        (["detector.rpn=null"], r"^detector\.rpn: must be a part, with a _target_"),
        (["data=null"], r"^data: must name a part \(_target_\), got None"),
        (["dataset.source=null"], r"^dataset\.source: must name a part"),
        (["views.test.scales=null"], r"^views\.test\.scales: must name a part"),
        (["selection.rois=null"], r"^selection\.rois: this detector needs a selector"),
        (["callbacks.pictures=false"], r"^callbacks\.pictures: must be null or name a part \(_target_\), got False"),
        (["detector.preprocess=false"], r"^detector\.preprocess: must be null or name a part"),
        (["test.vote=3"], r"^test\.vote: must be null or name a part"),
        (["optimizer.lr=[]"], r"^optimizer\.lr must be above 0.*, got an empty list"),
        (["detector.rpn.per_megapixel=nan"], r"^detector\.rpn\.per_megapixel: must be a number or null, got nan"),
        (["strategy=[sniper,flip]", "views.train.windows.negatives=0"], r"^proposals=auto is for negative chips"),
        (["strategy=[sniper_no_negatives,flip]", "proposals=FILE"], r"^proposals=FILE is for negative chips"),
    ],
)
def test_what_does_not_fit_is_refused(composed, overrides, message):
    cfg = composed("train", *overrides)
    with pytest.raises(ConfigError, match=message):
        accepted(cfg)


@pytest.mark.slow
def test_inference_draws_no_resolution_at_random(composed):
    with pytest.raises(ConfigError, match=r"views\.test\.scales\.draw=one is for training"):
        build_planner(composed("train", "test=[multi_scale]", "views.test.scales.draw=one"), "test")


@pytest.mark.slow
@pytest.mark.parametrize("given", ["optimizer=[]", "schedule=[]"])
def test_a_training_needs_an_optimizer_and_a_schedule(composed, given):
    with pytest.raises(ConfigError, match=rf"^{given[:-3]}=.*a training needs one"):
        validate_run(composed("train", given))


@pytest.mark.slow
def test_a_split_that_is_named_is_not_held_out_silently(composed):
    cfg = composed("train", "dataset.val=val")
    accepted(cfg)
    cfg.dataset.holdout = 0.2  # as an option, or a checkpoint, may say
    with pytest.raises(
        ConfigError, match=r"^dataset\.val=val and dataset\.holdout=0\.2 both.*add dataset\.holdout=null"
    ):
        accepted(cfg)


@pytest.mark.slow
def test_settings_of_what_the_detector_lacks_are_refused(composed):
    single, double = composed("train", "detector=ssd"), composed("train")
    for cfg, key in ((single, "selection.rois.count"), (double, "selection.priors.ratio")):
        with pytest.raises(ConfigError, match=rf"^{key}: detector .* has no {key.split('.')[1]}"):
            validate(cfg, {}, [key])
    validate(single, {}, ["selection.priors.ratio"])
    validate(double, {}, ["selection.rois.count", "selection.anchors.count"])


CONTRADICTIONS = [
    ({"backbone.norm": "frozen"}, r"norm=frozen .*set backbone\.weights or weights.*batch, sync or group"),
    ({"backbone.frozen_stages": 1}, r"frozen_stages=1 keeps random weights.*backbone\.frozen_stages=0"),
    ({"dataset.other_classes": "ignore"}, r"other_classes=ignore has no effect.*dataset\.classes=\[car,bus\]"),
    ({"trainer.sync_batchnorm": True}, r"trainer\.sync_batchnorm loses .*backbone\.norm=sync"),
    ({"dataset.size_cuts": [32]}, r"dataset\.size_cuts must be two ascending sizes.*\[32"),
    ({"dataset.size_cuts": [96, 32]}, r"dataset\.size_cuts must be two ascending sizes"),
    ({"dataset.size_cuts": [0, 32]}, r"dataset\.size_cuts must be two ascending sizes"),
    ({"test.detections_per_megapixel": -1.0}, r"test\.detections_per_megapixel must be 0 or more, or null"),
    ({"capacity.proposals_per_megapixel": float("inf")}, r"capacity\.proposals_per_megapixel must be 0 or more"),
    ({"capacity.focal_gamma": float("inf")}, r"capacity\.focal_gamma must be at least 0 and finite"),
    ({"detector.box_weight": -1.0}, r"detector\.box_weight must be at least 0 and finite"),
    ({"dataset.anchor_sizes": [8.0, -1.0]}, r"dataset\.anchor_sizes must be above 0 and finite"),
    ({"dataset.anchor_sizes": [8.0, float("inf")]}, r"dataset\.anchor_sizes must be above 0 and finite"),
    ({"dataset.anchor_ratios": [float("nan")]}, r"dataset\.anchor_ratios must be above 0 and finite"),
    ({"dataset.resolution": 640}, r"dataset\.resolution: .*if pixels were meant, give \[640, 1067\].*\[-1, 640\]"),
    ({"dataset.resolution": "640x480"}, r"dataset\.resolution: a resolution is a pair"),
    ({"dataset.resolution": [640]}, r"dataset\.resolution: a resolution is a pair"),
    ({"dataset.resolution": -1}, r"dataset\.resolution: a scale factor must be positive"),
    ({"dataset.resolution": float("nan")}, r"dataset\.resolution: a scale factor must be positive"),
    ({"dataset.resolution": [1333, 800]}, r"dataset\.resolution: .*give \[800, 1333\]"),
    ({"dataset.pyramid": [800, 1333]}, r"dataset\.pyramid: .*if pixels were meant"),
    ({"dataset.pyramid": 640}, r"dataset\.pyramid: must be a list of resolutions"),
    ({"dataset.sniper.scales": [3.0, 1.667, 512]}, r"dataset\.sniper\.scales: .*\[-1, 512\]"),
    ({"dataset.sniper.pyramid": [1400, 800]}, r"dataset\.sniper\.pyramid: .*if pixels were meant"),
    ({"test.backend": "coco"}, r"test\.backend must be pycocotools or faster-coco-eval, got 'coco'"),
    ({"test.metric": "voc12"}, r"test\.metric must be voc07 or voc, got 'voc12'"),
    ({"dataset.metric": "coco"}, r"dataset\.metric must be voc07 or voc, got 'coco'"),
]

SENSE = [
    {"backbone.norm": "frozen", "weights": "a.ckpt"},
    {"backbone.norm": "frozen", "resume": "a"},
    {"backbone.norm": "frozen", "backbone.weights": "DEFAULT", "backbone.frozen_stages": 2},
    {"backbone.norm": "frozen", "backbone.weights": "in1k"},
    {"backbone.norm": "group"},
    {"dataset.other_classes": "ignore", "dataset.classes": ["car"]},
    {"test.detections_per_megapixel": None, "capacity.proposals_per_megapixel": 0.0},
    {"dataset.resolution": 8, "dataset.pyramid": None, "dataset.sniper.scales": [1.0, [-1, 512]]},
    {"dataset.size_cuts": [10.5, 11]},
    {"test.backend": "faster-coco-eval"},
    {"test.metric": "voc"},
]


@pytest.mark.slow
def test_contradictions_are_refused(composed):
    cfg = composed("train")
    judge(resolve(cfg))
    for settings, message in CONTRADICTIONS:
        with pytest.raises(ConfigError, match=message):
            judge(with_settings(cfg, settings))
    for settings in SENSE:
        judge(with_settings(cfg, settings))


def judge(plain):
    check_contradictions(plain)
    check_values(plain)


def with_settings(cfg, settings):
    cfg = cfg.copy()
    for key, value in settings.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    return resolve(cfg)


def test_a_missing_environment_variable_is_named(composed, monkeypatch):
    monkeypatch.delenv("BCCD_ROOT")
    with pytest.raises(ConfigError) as raised:
        accepted(composed("train", "experiment=bccd"))
    assert "environment variable BCCD_ROOT is not set" in str(raised.value)
    assert "give dataset.root=" in str(raised.value)
    cfg = accepted(composed("train", "experiment=bccd", "dataset.root=elsewhere"))
    assert cfg.dataset.source.root == "elsewhere"


@pytest.mark.slow
def test_tiny_coco_is_that_of_the_checkout_unless_another_is_named(composed, monkeypatch, tmp_path):
    def root(*overrides):
        return resolve(accepted(composed("train", "dataset=tiny_coco", *overrides)))["dataset"]["source"]["root"]

    monkeypatch.setenv("TINY_COCO_ROOT", "larger")
    assert root() == "larger"
    monkeypatch.delenv("TINY_COCO_ROOT")
    monkeypatch.chdir(tmp_path)
    assert root() == str(CONF.parent / "tests/data/tiny_coco")
    monkeypatch.setattr("lightning_det.config.schema.CONF", tmp_path / "site/lightning_det/conf")  # of a wheel
    with pytest.raises(ConfigError, match=r"TINY_COCO_ROOT is not set; set it, or give dataset.*root="):
        root()
    assert root("dataset.root=larger") == "larger"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("dataset.rooot=x", ["did you mean dataset.root?", "dataset has the keys", "size_cuts"]),
        ("sed=1", ["did you mean seed?", "train has the keys", "trainer"]),
        ("test.max_detections=many", ["many", "max_detections"]),
        ("dataset.on_bad=ignore", ["ignore", "error", "skip"]),
        ("backbone=resnet49", ["resnet49", "resnet50"]),
        ("detector=null", ["a group takes the name of an option, such as detector=fcos"]),
        ("trainer.max_epoch=3", ["did you mean trainer.max_epochs?"]),
        ("/data/photos", ["/data/photos is no setting; these are KEY=VALUE, such as dataset.root=DIR"]),
    ],
)
def test_mistyped_overrides_are_explained(composed, override, parts):
    with pytest.raises(Exception) as raised:  # noqa: PT011
        composed("train", override)
    text = explain_composition(raised.value, "train")
    for part in parts:
        assert part in text


def test_an_option_that_is_not_there_is_explained(composed):
    with pytest.raises(MissingConfigException) as raised:
        composed("train", "dataset=mine")
    text = explain_composition(raised.value, "train")
    assert text.startswith("dataset=mine: there is no such option\ndataset has the options auto, coco,")
    assert "yolo" in text
    assert text.endswith("Options of your own are looked for in conf/ of the working directory")


@pytest.mark.parametrize(
    ("command", "override", "text"),
    [
        ("train", "strategy=[snipper,flip]", "strategy=snipper: there is no such option; did you mean sniper?\n"),
        ("train", "test=[softnms]", "test=softnms: there is no such option; did you mean soft_nms?\n"),
        ("train", "callbacks=[default,emma]", "callbacks=emma: there is no such option; did you mean ema?\n"),
        ("train", "detector=yolov8", "detector=yolov8: there is no such option\ndetector has the options"),
        ("train", "detector=fcoz", "detector=fcoz: there is no such option; did you mean fcos?\n"),
    ],
)
def test_misspelt_options_are_explained(composed, command, override, text):
    with pytest.raises(MissingConfigException) as raised:
        composed(command, override)
    assert explain_composition(raised.value, command).startswith(text)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("eval", "checkpoint is required: a run folder"),
        ("export", "checkpoint is required: a run folder"),
        ("subset", "root is required: "),
    ],
)
def test_settings_that_are_required_are_explained(composed, command, text):
    key = text.partition(" ")[0]
    with pytest.raises(MissingMandatoryValue) as raised:
        composed(command)[key]
    assert explain_composition(raised.value, command).startswith(text)


def test_what_the_user_has_set(composed):
    composed("train", "strategy=[tiles]", "seed=3", "+trainer.barebones=true", "dataset.root='a=b'")
    assert overridden_keys() == ["strategy", "seed", "trainer.barebones", "dataset.root"]
    assert chosen_options() == {"strategy": ["tiles"], "test": []}
    assert chosen_options(["backbone"]) == {"backbone": ["tiny"]}


def test_saved_configurations_are_plain(composed, tmp_path):
    cfg = accepted(composed("train", "dataset=coco", "dataset.root=there", "dataset.on_bad=skip"))
    save_config(cfg, tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    assert "${" not in text
    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert OmegaConf.to_container(saved) == resolve(cfg)
    assert saved.dataset.on_bad == "skip"
    assert saved.dataset.source.root == "there"


def test_parts_that_refuse_their_settings_name_their_node(composed):
    cfg = accepted(composed("train", "views.train.scales.resolutions=[0.5,1.0]"))
    with pytest.raises(ConfigError, match=r"views\.train\.scales: .*finest to the coarsest"):
        build_planner(cfg, "train")
    assert build(None, "views.train.windows") is None
    tiles = build(OmegaConf.create({"_target_": "lightning_det.views.Tiles", "size": 64}), "x", overlap=0.5)
    assert isinstance(tiles, Tiles)
    assert (tiles.size, tiles.overlap) == (64, 0.5)


def test_splits_that_do_not_exist(composed):
    cfg = accepted(composed("train", "dataset=voc", "dataset.root=x"))
    for split in ("test", "all"):
        with pytest.raises(ConfigError, match=rf"split must be one of this dataset's train, val, got '{split}'"):
            read_split(cfg, split)


def trained(composed, *overrides):
    """Settings as a checkpoint holds them."""
    saved = portable_settings(accepted(composed("train", *overrides)))
    return json.loads(json.dumps(saved))


@pytest.mark.slow
def test_without_overrides_a_checkpoint_keeps_its_settings(composed):
    saved = trained(composed, "strategy=[multi_scale]", "test.nms_iou=0.4", "trainer.max_epochs=99", "seed=5")
    merged = overlay_settings(saved, composed("eval", "checkpoint=x"), overridden_keys())
    assert merged.test.nms_iou == 0.4
    # Except what belongs to this run and this machine.
    assert merged.trainer.max_epochs == 5
    assert merged.seed == 0
    assert merged.logger is None
    assert merged.checkpoint == "x"
    own = {"trainer", "seed", "logger", "callbacks", "checkpoint"}
    kept = OmegaConf.to_container(merged)
    assert {k: v for k, v in kept.items() if k not in own} == {k: v for k, v in saved.items() if k not in own}


def test_keys_on_the_command_line_win(composed):
    saved = trained(composed, "test.nms_iou=0.4", "dataset.limit=7")
    cfg = composed(
        "eval",
        "checkpoint=x",
        "test.max_detections=300",
        "dataset.size_cuts=[20,60]",
        "data.num_workers=0",
        "views.test.scales.resolutions=[1.5,1.0]",
    )
    merged = overlay_settings(saved, cfg, overridden_keys())
    assert (merged.test.max_detections, merged.test.nms_iou) == (300, 0.4)
    assert merged.dataset.size_cuts == [20, 60]
    assert merged.data.num_workers == 0
    assert merged.data.batch_size == saved["data"]["batch_size"]
    assert build_planner(merged, "test").steps[0].resolutions == [1.5, 1.0]
    assert merged.views.train == saved["views"]["train"]


@pytest.mark.slow
def test_limits_of_images_are_no_matter_of_a_checkpoint(composed):
    saved = trained(composed, "dataset.limit=7", "dataset.limit_val=5")
    merged = overlay_settings(saved, composed("eval", "checkpoint=x"), overridden_keys())
    assert (merged.dataset.limit, merged.dataset.limit_val) == (None, None)
    merged = overlay_settings(saved, composed("eval", "checkpoint=x", "dataset.limit_val=3"), overridden_keys())
    assert (merged.dataset.limit, merged.dataset.limit_val) == (None, 3)
    with pytest.raises(ConfigError, match=r"dataset\.limit_val=3 evaluates on so many"):
        evaluate_checkpoint(composed("eval", "checkpoint=x", "dataset.limit=3"))


@pytest.mark.slow
def test_a_limit_is_of_the_images_that_it_names(composed, shapes_root):
    cfg = composed("train", f"dataset.root={shapes_root}", *SMALL, "debug=overfit", "dataset.limit=3")
    assert (cfg.dataset.val, cfg.dataset.limit_val) == ("train", 3)  # what is learned by heart is what is tested
    assert len(usable_split(cfg, "val")) == 24
    assert len(usable_split(cfg, "train", cfg.dataset.limit)) == 3
    assert len(usable_split(cfg, "train", 1000)) == 24
    cfg.dataset.limit_val = 0
    with pytest.raises(ConfigError, match=r"dataset\.limit_val must be at least 1, or null for all images, got 0"):
        accepted(cfg)


@pytest.mark.slow
def test_views_follow_the_resolution(composed):
    saved = trained(composed, "strategy=[multi_scale]", "test=[multi_scale]")
    merged = overlay_settings(
        saved, composed("eval", "checkpoint=x", "dataset.pyramid=[[300,400],[90,120]]"), overridden_keys()
    )
    for phase in ("train", "test"):
        assert resolve(merged)["views"][phase]["scales"]["resolutions"] == [[300, 400], [90, 120]]


@pytest.mark.slow
def test_the_trainer_is_this_machines(composed):
    saved = trained(composed, "trainer=ddp", "trainer.max_epochs=9")
    merged = overlay_settings(saved, composed("eval", "checkpoint=x"), overridden_keys())
    assert (merged.trainer.accelerator, merged.trainer.devices, merged.trainer.strategy) == ("cpu", 1, "auto")
    merged = overlay_settings(
        saved, composed("eval", "checkpoint=x", "trainer=gpu", "+trainer.barebones=true"), overridden_keys()
    )
    assert (merged.trainer.accelerator, merged.trainer.precision) == ("gpu", "bf16-mixed")
    assert merged.trainer.barebones is True


@pytest.mark.slow
def test_a_strategy_replaces_the_views_of_a_checkpoint(composed):
    """They are this command's, at the checkpoint's resolution."""
    saved = trained(composed, "strategy=[multi_scale,flip]", "test=[multi_scale]", "dataset.resolution=[100,120]")
    merged = overlay_settings(saved, composed("eval", "checkpoint=x", "strategy=[tiles]"), overridden_keys())
    steps = build_planner(merged, "test").steps
    assert [type(step).__name__ for step in steps] == ["Pyramid", "Tiles"]
    assert steps[0].resolutions == [[100, 120]]
    merged = overlay_settings(saved, composed("eval", "checkpoint=x", "test=[flip]"), overridden_keys())
    assert [type(step).__name__ for step in build_planner(merged, "test").steps] == ["Pyramid", "BothSides"]


@pytest.mark.slow
@pytest.mark.parametrize("options", ["[iterative]", "[voting]", "[iterative,voting]"])
def test_refinements_leave_the_rest_of_a_checkpoints_inference(composed, options):
    saved = trained(composed, "strategy=[sniper,flip]", "test.score_threshold=0.02")
    merged = overlay_settings(saved, composed("eval", "checkpoint=x", f"test={options}"), overridden_keys())
    assert merged.views.test == saved["views"]["test"]
    assert merged.test.merge == saved["test"]["merge"]
    assert (merged.test.score_threshold, merged.test.nms_iou, merged.test.view_detections) == (0.02, 1.0, 1000)
    assert merged.test.passes == (2 if "iterative" in options else 1)
    assert bool(merged.test.vote) == ("voting" in options)


@pytest.mark.slow
def test_views_of_a_test_replace_a_checkpoints_and_keep_its_merge(composed):
    saved = trained(composed, "strategy=[sniper,flip]", "test.max_detections=300")
    cfg = composed("eval", "checkpoint=x", "test=[single_scale,iterative]")
    merged = accepted(overlay_settings(saved, cfg, overridden_keys()))
    assert resolve(merged)["views"]["test"]["scales"]["valid_ranges"] is None
    assert merged.test.merge._target_.endswith("SoftNMS")
    assert (merged.test.max_detections, merged.test.passes) == (300, 2)


@pytest.mark.slow
def test_another_merge_replaces_a_checkpoints(composed):
    saved = trained(composed, "test.merge.iou=0.4")
    merged = accepted(overlay_settings(saved, composed("eval", "checkpoint=x", "test=[soft_nms]"), overridden_keys()))
    assert merged.test.merge._target_.endswith("SoftNMS")
    assert merged.test.nms_iou == 1.0


def test_voting_needs_voters(composed):
    with pytest.raises(ConfigError, match=r"test\.nms_iou=0\.5 leaves no candidates.*set test\.nms_iou=1"):
        accepted(composed("train", "test=[voting]", "test.nms_iou=0.5"))


@pytest.mark.parametrize("name", ["rfcn_r101_voc", "rfcn_r101_coco_ohem"])
def test_tests_of_an_experiment_can_be_refined(composed, name):
    cfg = accepted(composed("train", f"experiment={name}", "test=[voting]", "dataset.root=x"))
    assert (cfg.test.nms_iou, cfg.test.merge.iou, cfg.test.view_detections) == (1.0, 0.3, 1000)


@pytest.mark.slow
def test_another_dataset_comes_whole(composed):
    saved = trained(composed)
    cfg = composed("eval", "checkpoint=x", "dataset=voc", "dataset.root=there")
    merged = overlay_settings(saved, cfg, overridden_keys())
    dataset = resolve(merged)["dataset"]
    assert dataset["source"] == {"_target_": "lightning_det.data.voc.Voc", "root": "there", "classes": None}
    assert dataset["size_cuts"] == [32, 96]
    # Views refer to the dataset, the detector's anchors are learned.
    assert merged.detector.rpn.sizes == saved["detector"]["rpn"]["sizes"] == [8, 16, 32, 64, 128]
    assert resolve(merged)["views"]["test"]["scales"]["resolutions"] == [[600, 1000]]


@pytest.mark.parametrize("key", ["detector.num_classes", "module.settings", "data.seed"])
def test_arguments_of_the_program_are_refused(composed, key):
    cfg = composed("train", f"+{key}=3")
    with pytest.raises(ConfigError, match=rf"^{key} is set by the program itself"):
        build_data(cfg, None, None) if key == "data.seed" else build_module(cfg, LabelMap(["a"]))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "maps"), [("dsod_tiny", 4), ("ssd_tiny", 4), ("tiny", 4)])
def test_a_gated_pyramid_fits_any_backbone(composed, backbone, maps):
    cfg = accepted(composed("train", "detector=grp_dsod", f"backbone={backbone}"))
    detector = build_module(cfg, LabelMap(["a", "b"])).detector
    own = detector.backbone.channels
    assert len(own) == maps
    assert detector.neck.channels == [c + round(c / 2) for c in own[:-1]] + own[-1:]
    assert detector.priors.per_cell == [6] * maps


def test_the_published_grp_dsod_is_as_its_file_says(composed):
    head = (CONF / "detector" / "grp_dsod.yaml").read_text().split("\nbackbone:")[0]
    overrides = re.findall(r"\b[a-z_.]+=[^\s,]+(?:,[^\s,]+)*", head)
    assert len(overrides) == 5
    cfg = accepted(composed("train", "detector=grp_dsod", *overrides))
    detector = build_module(cfg, LabelMap(["a"])).detector
    assert detector.neck.channels == [1184, 513, 258, 258, 258, 256]
    assert detector.priors.per_cell == [8, 8, 8, 8, 6, 6]
    assert detector.priors.steps == [8, 16, 32, 64, 100, 320]


def test_mistakes_in_a_strategys_file_are_named(composed):
    cfg = composed("train")
    OmegaConf.update(cfg, "views.train.flip.probabilty", 0.1, force_add=True)  # as a user's own yaml would
    with pytest.raises(ConfigError, match="did you mean probability"):
        validate_run(cfg)


@pytest.mark.slow
def test_a_checkpoint_finds_its_dataset_where_the_user_says(composed):
    saved = trained(composed, "dataset=coco", "dataset.root=there")
    merged = overlay_settings(saved, composed("eval", "checkpoint=x", "dataset.root=here"), overridden_keys())
    assert resolve(merged)["dataset"]["source"]["root"] == "here"


@pytest.mark.slow
@pytest.mark.parametrize("override", ["test=[tiles]", "test=[single_scale]", "strategy=[multi_scale]"])
def test_what_was_trained_on_tiles_is_tested_otherwise(composed, coco_folder, override):
    store = Coco(str(coco_folder)).read("val2017")[0]
    saved = trained(composed, "strategy=[tiles]")
    merged = overlay_settings(saved, composed("eval", "checkpoint=x", override), overridden_keys())
    assert build_data(merged, None, store).val is store
