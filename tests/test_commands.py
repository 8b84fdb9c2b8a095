"""The real commands on small generated images and on real ones; one of each is a process, as a user starts it."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from helpers import CHIPS, SMALL, annotations_of, read, run_forked
from PIL import Image
from pycocotools.coco import COCO
from support import in_process
from support.shared import made_once

from lightning_det.annotations import DatasetError
from lightning_det.data.subset import CocoLayout, cut_split

pytestmark = pytest.mark.slow

BRIEF = (
    "debug=limit",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "data.batch_size=2",
    "data.test_batch_size=2",
    "callbacks.pictures.count=1",
    "callbacks.selection.count=1",
    "callbacks.report=null",
)
"""Two steps on two views each, and a validation of two images: what a command does is the same as in a long run."""

FEW = ("dataset.source.train=8", "dataset.source.val=2")
"""Images for such a command, all of which mining would look at."""

PLAIN = ("callbacks.report=null", "callbacks.pictures=null")
"""An evaluation without what takes longer than the rest of it."""

SIZES = ("small", "medium", "large")
FIGURES = ["AP", "AP50", "AP75", "AR1", "AR10", "AR100", *(f"{kind}_{size}" for kind in ("AP", "AR") for size in SIZES)]


def run(command, *overrides, code=0):
    """Output of a command in this process, which must exit with ``code``."""
    outcome = in_process.run(command, *overrides)
    assert outcome.code == code, outcome.output + outcome.errors
    return outcome.output if code == 0 else outcome.errors


def evaluate(*overrides):
    """The same of an evaluation, without its chart, which takes longer than the rest; one test looks at it."""
    with mock.patch("lightning_det.runs.evaluation_report.save_png"):
        return run("eval", *overrides, *PLAIN)


def start(command, *overrides, code=0, cwd=None):
    """The same of a command in a process of its own."""
    result = run_forked(command, *overrides, cwd=cwd)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stderr


def last_line(output):
    return Path(output.rstrip().splitlines()[-1])


@pytest.fixture(scope="module")
def small(shapes_root):
    return [f"dataset.root={shapes_root}", *SMALL]


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A run folder, and what training printed."""

    def train(folder):
        pictures = ("callbacks.pictures.count=8", "callbacks.selection.count=4")
        return start("train", *small, *pictures, "trainer.max_epochs=3", f"hydra.run.dir={folder}")

    return made_once(tmp_path_factory, "trained", train)


def test_train_leaves_everything_in_the_run_folder(trained):
    folder, output = trained
    assert last_line(output) == folder
    assert "Average Precision" in output
    assert "size=small  (< 20 px)" in output
    for file in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "metrics.csv", "train.log"):
        assert (folder / file).is_file()
    assert len(list((folder / "pictures").glob("val_*.png"))) == 8
    assert len(list((folder / "pictures").glob("selection_*.png"))) == 4
    metrics = read(folder / "metrics.json")
    assert set(FIGURES) <= set(metrics)
    assert metrics["epochs"] == 3
    assert metrics["epoch_losses"][-1] == metrics["loss"] < metrics["epoch_losses"][0]
    assert (folder / "train.log").read_text().count("epoch ") == 3
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["views"]["train"]["scales"]["resolutions"] == [[96, 128]]  # resolved
    assert "hydra" not in config


@pytest.mark.parametrize(
    ("steps", "settings", "said"),
    [
        (2, [], "there are no figures: the training ended at step 2, "),
        (4, [], "the figures are those of step 3: the training ended at step 4, "),
        (4, ["trainer.val_check_interval=2", "trainer.check_val_every_n_epoch=null"], None),
        (2, ["trainer.limit_val_batches=0"], None),
    ],
)
def test_a_training_that_ends_without_a_validation_says_so(steps, settings, said, small, recwarn, tmp_path):
    """An epoch has three steps."""
    few = ["dataset.source.train=6", "dataset.source.val=2", "data.batch_size=2", "callbacks.pictures=null"]
    few += ["callbacks.selection=null"]
    limits = [f"trainer.max_steps={steps}", "trainer.max_epochs=-1", f"hydra.run.dir={tmp_path}"]
    output = run("train", *small, *few, *limits, *settings)
    assert ("the training ended at" in output) == (said is not None)
    assert (said or "") in output
    assert f"epoch {(steps - 1) // 3 + 1} " in output
    assert "/-2" not in output
    assert not any("monitored key" in str(warning.message) for warning in recwarn)  # of Lightning, about best.ckpt


def test_checkpoints_hold_plain_data(trained):
    content = torch.load(trained[0] / "checkpoints/last.ckpt", weights_only=True)
    assert content["hyper_parameters"]["labels"]["names"][0] == "bar-h"


def test_eval_repeats_the_figures_of_training(trained, tmp_path):
    folder, _ = trained
    given = [f"checkpoint={folder}/checkpoints/last.ckpt", "test.metric=voc"]
    output = start("eval", *given, f"hydra.run.dir={tmp_path}")
    assert last_line(output) == tmp_path
    metrics, before = read(tmp_path / "metrics.json"), read(folder / "metrics.json")
    assert {k: metrics[k] for k in FIGURES} == pytest.approx({k: before[k] for k in FIGURES}, abs=1e-6)
    assert list(metrics["per_class"]) == ["bar-h", "bar-v", "plus", "cross", "ring", "triangle"]
    assert metrics["voc_AP50"] == pytest.approx(np.mean([row["voc_AP50"] for row in metrics["per_class"].values()]))
    assert metrics["voc_AP50"] == pytest.approx(metrics["AP50"], abs=0.05)
    assert "voc_AP50</th>" in (tmp_path / "report.html").read_text()
    assert sum(row["boxes"] for row in metrics["ap_by_size"]) == sum(r["boxes"] for r in metrics["per_class"].values())
    assert Image.open(tmp_path / "ap_by_size.png").size[0] > 300
    detections = read(tmp_path / "detections.json")
    assert len(detections) == metrics["detections"]
    assert len(COCO(str(annotations_of(tmp_path, "val"))).loadRes(detections).anns) == len(detections)


def test_eval_with_other_views(trained, tmp_path):
    folder, _ = trained
    for number, test in enumerate(("[multi_scale,flip]", "[tiles]")):
        out = tmp_path / str(number)
        given = [f"checkpoint={folder}", f"test={test}", "split=test", "dataset.limit_val=3"]
        evaluate(*given, f"hydra.run.dir={out}")
        views = yaml.safe_load((out / "config.yaml").read_text())["views"]["test"]
        assert len(views["scales"]["resolutions"]) == (3 if number == 0 else 1)
        assert (views["windows"] is not None) == (number == 1)
        assert read(out / "metrics.json")["images"] == 3


def test_predict_a_folder_with_a_damaged_image(trained, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(source / "a.jpg")
    Image.fromarray(pixels[:50, :70, 0]).save(source / "sub/b.png")
    (source / "c.jpg").write_bytes(b"no image")
    Image.fromarray(pixels).save(source / "d.bmp")
    (source / "d.bmp").write_bytes((source / "d.bmp").read_bytes()[:-50])  # its header is whole
    (source / "e.heic").touch()
    printed = start("predict", f"checkpoint={trained[0]}", f"source={source}", f"output={output}", cwd=tmp_path)
    assert last_line(printed) == output
    content = read(output / "predictions.json")
    scores = [d["score"] for image in content["images"] for d in image["detections"]]
    shown = sum(score >= 0.3 for score in scores)
    assert re.search(rf"2 images, 2 left out, \S+ s per image; {shown} detections are shown: ", printed)
    assert f"predictions.json has all {len(scores)}\n" in printed
    assert [i["file"] for i in content["images"]] == ["a.jpg", "sub/b.png"]
    assert [Path(problem["file"]).name for problem in content["problems"]] == ["c.jpg", "d.bmp"]
    assert "no images or videos by their names: 1 x .heic" in printed
    for file, size in {"a.jpg": (120, 90), "sub/b.png": (70, 50)}.items():
        width, height = Image.open(output / "pictures" / file).size
        assert width % size[0] == 0
        assert height >= size[1] * width // size[0]  # the colour key is below


def test_predict_one_image(trained, tmp_path):
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    run("predict", f"checkpoint={trained[0]}", f"source={tmp_path}/white.png", f"hydra.run.dir={tmp_path}/out")
    assert (tmp_path / "out/pictures/white.png").is_file()


def test_resume_goes_on_where_training_stopped(small, trained, tmp_path):
    folder, _ = trained
    run("train", *small, "trainer.max_epochs=4", f"resume={folder}", f"hydra.run.dir={tmp_path}")
    before, after = read(folder / "metrics.json"), read(tmp_path / "metrics.json")
    assert after["epochs"] == 4
    assert after["steps"] == before["steps"] // 3 * 4
    assert after["epoch_losses"][:3] == before["epoch_losses"]
    assert len(after["epoch_losses"]) == 4


def test_a_used_folder_is_refused_and_nothing_in_it_changes(trained, small):
    folder, _ = trained
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    for command, options in {"train": [*small, "seed=1"], "eval": [f"checkpoint={folder}"]}.items():
        message = start(command, *options, f"hydra.run.dir={folder}", code=2)
        assert f"error: {folder} holds a run that has ended (checkpoints/best.ckpt, " in message
        assert f"go on with it (train resume={folder}), another folder (hydra.run.dir={folder}-2), or" in message
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before


def test_what_is_not_there_is_said_before_anything_is_done(trained, tmp_path, monkeypatch):
    """No data is rendered and no folder made."""
    monkeypatch.setenv("LIGHTNING_DET_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    for command, options, words in (
        (
            "train",
            ["resume=runs/first"],
            "resume=runs/first: no such checkpoint or run folder; did you mean runs/frst?",
        ),
        ("predict", [f"checkpoint={trained[0]}", "source=nowhere"], "source=nowhere: no such image, folder or video"),
        ("eval", ["checkpoint=nowhere"], "checkpoint=nowhere: no such checkpoint"),
    ):
        (tmp_path / "runs/frst").mkdir(parents=True, exist_ok=True)
        message = run(command, *options, code=2)
        assert message == f"error: {words}\n"
    assert [f.name for f in tmp_path.iterdir()] == ["runs"]


def test_resume_needs_the_run_folder_alone(small, tmp_path):
    """Its options come back, its logs go on, and what is given now wins."""
    folder = tmp_path / "a run"
    options = ["detector=ssd", "backbone=ssd_tiny", "optimizer.lr=0.003", "trainer.log_every_n_steps=1"]
    run("train", *small, *options, *BRIEF, "trainer.max_epochs=2", f"hydra.run.dir='{folder}'")
    before = (folder / "metrics.csv").read_text().splitlines()
    log = (folder / "train.log").read_text()
    assert last_line(run("train", f"resume='{folder}'", "trainer.max_epochs=3")) == folder
    assert read(folder / "metrics.json")["epochs"] == 3
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["optimizer"]["lr"] == 0.003
    assert config["trainer"]["max_epochs"] == 3
    assert (folder / "metrics.csv").read_text().splitlines()[: len(before)] == before
    assert len((folder / "metrics.csv").read_text().splitlines()) > len(before)
    assert (folder / "train.log").read_text().startswith(log)
    assert [p.name for p in tmp_path.iterdir()] == ["a run"]
    # Once more, from what the second part left.
    run("train", f"resume='{folder}'", "trainer.max_epochs=4")
    assert read(folder / "metrics.json")["epochs"] == 4
    assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["lr"] == 0.003


def test_weights_of_a_checkpoint_start_another_training(small, trained, tmp_path, coco_folder):
    arguments = ("dataset=coco", f"dataset.root={coco_folder}", "trainer.max_epochs=1", "dataset.resolution=[96,128]")
    run(
        "train",
        *arguments,
        "dataset.anchor_sizes=[8,16,32,64,128]",
        *BRIEF,
        f"weights={trained[0]}",
        f"hydra.run.dir={tmp_path}",
    )
    assert "the last layer starts fresh" in (tmp_path / "train.log").read_text()


def test_sweep_over_lists_of_strategies(small, tmp_path):
    start(
        "train",
        "-m",
        "strategy=[single_scale],[multi_scale,flip]",
        *BRIEF,
        *small,
        f"hydra.sweep.dir={tmp_path}",
    )
    first, second = (yaml.safe_load((tmp_path / job / "config.yaml").read_text()) for job in "01")
    assert first["views"]["train"]["scales"]["draw"] == "all"
    assert first["views"]["train"]["flip"] is None
    assert second["views"]["train"]["scales"]["draw"] == "one"
    assert second["views"]["train"]["flip"]["probability"] == 0.5
    assert read(tmp_path / "1" / "metrics.json")["steps"] > 0


def test_learning_strategies_times_detectors_train_resume_and_evaluate(small, tmp_path):
    """One multirun; a job of each detector goes on and is evaluated with the bells and whistles."""
    # What only chips have belongs to one of the three strategies.
    chips = [o for o in CHIPS if not o.startswith("views.")]
    rois = ["capacity.after_nms=[60,30]", "capacity.rois=16"]
    run(
        "train",
        "-m",
        "detector=faster_rcnn,rfcn",
        "strategy=random_sampling,ohem,[sniper,ohem]",
        "miner.epochs=1",
        *rois,
        *BRIEF,
        "trainer.log_every_n_steps=1",
        *small,
        *FEW,
        *chips,
        f"hydra.sweep.dir={tmp_path}",
    )
    for job in range(6):
        metrics = read(tmp_path / str(job) / "metrics.json")
        assert metrics["steps"] > 0
        assert np.isfinite(metrics["loss"])
        pictures = {p.name.split("_")[0] for p in (tmp_path / str(job) / "pictures").iterdir()}
        assert pictures == {"selection", "val"}
        columns = (tmp_path / str(job) / "metrics.csv").read_text().splitlines()[0].split(",")
        assert "train/roi/positive_share" in columns
        assert ("train/roi/candidate_loss_mean" in columns) == (job % 3 > 0)
    for job in (1, 5):
        resumed = tmp_path / f"resumed-{job}"
        settings = yaml.safe_load((tmp_path / str(job) / "config.yaml").read_text())
        assert settings["selection"]["rois"]["_target_"].endswith("HardSelector")
        options = ["strategy=ohem"] if job == 1 else ["strategy=[sniper,ohem]", "detector=rfcn", "miner.epochs=1"]
        first = read(tmp_path / str(job) / "metrics.json")
        more = [f"resume={tmp_path}/{job}", "trainer.max_epochs=2", f"hydra.run.dir={resumed}"]
        run("train", *options, *rois, *BRIEF, *small, *FEW, *chips, *more)
        again = read(resumed / "metrics.json")
        assert again["epoch_losses"][: len(first["epoch_losses"])] == first["epoch_losses"]
        assert again["steps"] > first["steps"]
        test = ["test=[multi_scale,iterative,voting]", "dataset.limit_val=2", f"hydra.run.dir={tmp_path}/eval-{job}"]
        evaluate(f"checkpoint={resumed}", *test)
        assert np.isfinite(read(tmp_path / f"eval-{job}" / "metrics.json")["AP"])


def test_ablation_of_dsod_is_a_sweep(small, tmp_path):
    """Four networks from one command; one of them goes on and is evaluated."""
    network = ["detector=dsod", "backbone=dsod_tiny", "strategy=[single_scale,iou_crops,distort,flip]"]
    network += ["backbone.blocks=[1,1,1,1]", *FEW]
    switches = ["backbone.stem=dsod,densenet", "backbone.prediction=dense,plain"]
    run("train", "-m", *small, *network, *switches, *BRIEF, f"hydra.sweep.dir={tmp_path}")
    sizes = []
    for job in range(4):
        metrics = read(tmp_path / str(job) / "metrics.json")
        assert metrics["steps"] > 0
        assert np.isfinite(metrics["loss"])
        weights = torch.load(tmp_path / str(job) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        sizes.append(sum(w.numel() for w in weights.values()))
    assert len(set(sizes)) == 4
    more = ["backbone.stem=densenet", f"resume={tmp_path}/2", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/more"]
    run("train", *small, *network, *BRIEF, *more)
    first, again = read(tmp_path / "2/metrics.json"), read(tmp_path / "more/metrics.json")
    assert again["epoch_losses"][: len(first["epoch_losses"])] == first["epoch_losses"]
    assert again["steps"] > first["steps"]
    test = ["test=[multi_scale,soft_nms]", "dataset.limit_val=2", f"hydra.run.dir={tmp_path}/eval"]
    evaluate(f"checkpoint={tmp_path}/more", *test)
    assert np.isfinite(read(tmp_path / "eval/metrics.json")["AP"])


LARGE = ("capacity.after_nms=[30,10]", "capacity.rois=8")  # few RoIs, for a network of full size
LARGE += ("capacity.head=64", "capacity.neck=32", "callbacks.best=null")  # and one checkpoint
GROUP_NORM = ("backbone.norm=group", "detector.head_norm=group", "backbone.checkpointed=true")


@pytest.mark.parametrize(
    "overrides",
    [
        ("detector=faster_rcnn_fpn", "strategy=[tiles,flip]", "views.train.windows.size=64"),
        ("backbone=resnet18", "detector=faster_rcnn_fpn", "optimizer=sgd", "schedule=multistep", *LARGE),
        ("backbone=resnet18", "detector=faster_rcnn", "backbone.norm=group", *LARGE),
        ("backbone=mobilenet_v3_large", "detector=faster_rcnn_fpn", *LARGE),
        ("detector=faster_rcnn_fpn", "trainer.precision=bf16-mixed"),
        ("backbone=convnext_tiny", "detector=faster_rcnn_fpn", "module.compiled=null", *LARGE),
        ("strategy=[snip,flip]", "dataset.snip.sub_image=128", "views.train.scales.warm_epochs=[0,1]"),
        ("strategy=[snip,all_rois]", "detector=faster_rcnn_fpn", "dataset.snip.sub_image=128"),
        ("strategy=[sniper_no_negatives,flip,all_rois]", "detector=faster_rcnn_fpn", "detector.rpn.border=8"),
        ("strategy=[sniper_no_negatives,flip]", "views.train.windows.labels=one_chip", "test=[single_scale,flip]"),
        ("backbone=timm", "backbone.name=resnet10t", "detector=faster_rcnn_fpn", *LARGE),
        ("callbacks=[default,ema,early_stopping]", "trainer.accumulate_grad_batches=2", "module.reference_batch=16"),
        ("logger=tensorboard", "data.num_workers=1"),
        ("detector=faster_rcnn_fpn", "strategy=[ohem]", "capacity.rois=32", "test=[multi_scale,iterative,voting]"),
        ("detector=rfcn", "strategy=[ohem,flip]", "selection.rois.nms_iou=null", "test=[soft_nms,voting,flip]"),
        ("detector=deformable_rfcn", "backbone=resnet18", "detector.deformable_convs=2", *LARGE),
        ("detector=rfcn", "strategy=[sniper_no_negatives,ohem]", "capacity.rois=16", "test=[iterative]"),
        ("detector=ssd", "backbone=ssd_tiny", "strategy=[warp,iou_crops,distort,flip]", "test=[warp,flip]"),
        ("detector=dsod", "backbone=dsod_tiny", "strategy=[sniper_no_negatives,ohem]"),
        ("detector=fcos", "strategy=[sniper,flip]", "miner.epochs=1"),
        ("detector=dsod", "backbone=dsod_tiny", "strategy=[snip,flip]", "dataset.snip.sub_image=128", *GROUP_NORM),
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_compositions_train_and_evaluate(small, tmp_path, overrides):
    run("train", *small, *BRIEF, *FEW, *overrides, f"hydra.run.dir={tmp_path}")
    metrics = read(tmp_path / "metrics.json")
    assert metrics["steps"] > 0
    assert np.isfinite(metrics["loss"])
    evaluate(f"checkpoint={tmp_path}", f"hydra.run.dir={tmp_path}/eval", "dataset.limit_val=2")
    if "logger=tensorboard" in overrides:
        assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.fixture(scope="module")
def twelve(small):
    """Images to mine in."""
    return [*small, "dataset.source.train=12", "dataset.source.val=4"]


@pytest.fixture(scope="module")
def mined(twelve, tmp_path_factory):
    """A run of SNIPER that mined its negative chips."""
    options = [*twelve, *CHIPS, "strategy=[sniper,flip]", "trainer.max_epochs=2"]
    return made_once(tmp_path_factory, "mined", lambda folder: run("train", *options, f"hydra.run.dir={folder}"))[0]


def test_sniper_mines_trains_and_goes_on(twelve, mined, tmp_path):
    lines = (mined / "train.log").read_text().splitlines()
    order = [next(i for i, line in enumerate(lines) if word in line) for word in ("mining: 2 epochs", "epoch 1 of 2")]
    assert order == sorted(order)
    assert not (mined / "proposals.mining.ckpt").exists()
    with np.load(mined / "proposals.npz", allow_pickle=False) as file:
        assert len(file["offsets"]) == 13
        assert file["offsets"][-1] == len(file["boxes"]) == len(file["scores"]) > 12
    settings = yaml.safe_load((mined / "config.yaml").read_text())
    assert settings["proposals"] == "auto"
    metrics = read(mined / "metrics.json")
    assert metrics["cost"]["pixels"] == metrics["cost"]["views"] * 64**2 > 0
    mining = metrics["mining"]
    assert 0 < mining["pixels"] == mining["views"] * 64**2  # two epochs of positive chips
    assert mining["inference_pixels"] == 12 * (192 * 256 + 96 * 128 + 64 * 64)  # 48 is padded to 64
    evaluate(f"checkpoint={mined}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/eval")
    evaluated = read(tmp_path / "eval/metrics.json")
    assert evaluated["pixels"] == 4 * (192 * 256 + 96 * 128 + 64 * 64)
    assert {k: evaluated[k] for k in FIGURES} == pytest.approx({k: read(mined / "metrics.json")[k] for k in FIGURES})

    more = ["strategy=[sniper,flip]", f"resume={mined}", "trainer.max_epochs=3", f"hydra.run.dir={tmp_path}/more"]
    run("train", *twelve, *CHIPS, *more)
    assert read(tmp_path / "more/metrics.json")["epochs"] == 3
    assert not (tmp_path / "more/proposals.npz").exists()  # it goes on with the first run's
    more = read(tmp_path / "more/metrics.json")
    assert more["mining"] == mining
    assert more["cost"]["views"] > metrics["cost"]["views"]
    assert "mining" not in (tmp_path / "more/train.log").read_text()


def test_proposals_serve_later_runs_and_are_refused_for_other_images(twelve, mined, tmp_path):
    file = f"proposals={mined}/proposals.npz"
    run("train", *twelve, *CHIPS, "strategy=sniper", file, *BRIEF, f"hydra.run.dir={tmp_path}/reuse")
    assert "mining" not in (tmp_path / "reuse/train.log").read_text()
    run("inspect", *twelve, *CHIPS, "strategy=sniper", file, f"hydra.run.dir={tmp_path}/inspect")
    with_negatives = read(tmp_path / "inspect/inspect.json")
    run("inspect", *twelve, *CHIPS[:-1], "strategy=sniper_no_negatives", f"hydra.run.dir={tmp_path}/positive")
    positives = read(tmp_path / "positive/inspect.json")
    assert positives["views_per_image"] < with_negatives["views_per_image"] <= positives["views_per_image"] + 2
    assert positives["boxes_unlearned"] <= with_negatives["boxes"] - with_negatives["boxes_learned"]
    other = [o if "source.train" not in o else "dataset.source.train=30" for o in twelve]
    message = run("train", *other, *CHIPS, "strategy=sniper", file, f"hydra.run.dir={tmp_path}/other", code=1)
    assert "made for other images" in message
    assert "Traceback" not in message


def test_mine_writes_the_file_that_train_would(twelve, mined, tmp_path):
    """Mining draws its own random numbers, so both make the same proposals."""
    output = start(
        "mine", *twelve, *CHIPS, "strategy=[sniper,flip]", f"output={tmp_path}/p.npz", f"hydra.run.dir={tmp_path}/m"
    )
    assert last_line(output) == tmp_path / "p.npz"
    with np.load(tmp_path / "p.npz") as one, np.load(mined / "proposals.npz") as two:
        assert sorted(one) == sorted(two)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    # Other files of proposals in the folder have costs of their own.
    costs = [read(file) for file in (tmp_path / "p.mining.json", mined / "proposals.mining.json")]
    assert costs[0]["pixels"] == costs[1]["pixels"] > 0
    assert not (tmp_path / "p.mining.ckpt").exists()


def test_mistakes_in_callbacks_come_before_mining(twelve, tmp_path):
    wrong = ["callbacks=[default,ema]", "callbacks.ema.decay=1.0"]
    message = run("train", *twelve, *CHIPS, "strategy=[sniper,flip]", *wrong, f"hydra.run.dir={tmp_path}", code=2)
    assert "callbacks.ema: decay is a share" in message
    assert "mining" not in message


def test_mining_in_a_part_of_the_images_is_said(twelve, tmp_path):
    limits = ["trainer.limit_train_batches=1", "data.test_batch_size=1", "miner.epochs=1", "test.nms_iou=0.1"]
    output = start("mine", *twelve, *CHIPS, *limits, "strategy=[sniper,flip]", f"hydra.run.dir={tmp_path}")
    assert "so 11 of 12 images have no proposals and get no negative chips" in output
    assert "mine: without effect here: test.nms_iou; settings of miner take their place" in output
    with np.load(tmp_path / "proposals.npz") as file:
        assert (np.diff(file["offsets"]) > 0).sum() == 1


def test_a_run_that_was_interrupted_after_mining_goes_on(twelve, mined, tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("proposals.npz", "overrides.yaml"):
        shutil.copy(mined / name, tmp_path / "old")
    resume = ["strategy=sniper", f"resume={tmp_path}/old", *BRIEF, f"hydra.run.dir={tmp_path}/new"]
    run("train", *twelve, *CHIPS, *resume)
    assert "mining" not in (tmp_path / "new/train.log").read_text()
    assert read(tmp_path / "new/metrics.json")["epochs"] == 2  # as it was started with


def test_two_ranks_mine_and_share_the_chips_of_an_epoch(small, tmp_path):
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4", "miner.epochs=1"]
    start("train", *small, *CHIPS, *BRIEF, "strategy=sniper", *ranks, f"hydra.run.dir={tmp_path}/run")
    assert (tmp_path / "run/proposals.npz").exists()
    assert read(tmp_path / "run/metrics.json")["epochs"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["trainer.max_epoch=3"], 2, ["trainer.max_epoch", "did you mean trainer.max_epochs"]),
        (["optimiser=sgd"], 2, ["did you mean optimizer"]),
        (["trainer=cpux"], 2, ["trainer=cpux: there is no such option", "gpu"]),
        (["trainer.max_epochs=many"], 2, ["trainer.max_epochs: must be an integer or null, got 'many'"]),
        (["seed=x"], 2, ["seed", "Integer"]),
        (["strategy=[single_scale,multi_scale]"], 2, ["single_scale and multi_scale both set views.train.scales"]),
        (["dataset=coco"], 2, ["dataset.root is not set"]),
        (["dataset=coco", "dataset.root=nowhere"], 1, ["nowhere/annotations/instances_train2017.json"]),
        (["backbone.norm=frozen"], 2, ["backbone.norm=frozen", "weights"]),
        (["resume=nowhere"], 2, ["resume=nowhere: no such checkpoint or run folder"]),
        (["weights=nowhere"], 2, ["weights=nowhere: no such file, and no weights of torchvision"]),
        (["proposals=auto"], 2, ["proposals=auto", "strategy=sniper"]),
        (["strategy=sniper", "proposals=nowhere.npz"], 2, ["nowhere.npz: No such file"]),
        (["strategy=sniper", "views.train.windows.labels=all"], 2, ["labels", "enclosed or one_chip"]),
        (["strategy=[ohem,random_sampling_bg01]"], 2, ["ohem and random_sampling_bg01 both set selection.rois"]),
        (["strategy=ohem", "selection.rois.positive_share=0.5"], 2, ["positive_share: unknown", "nms_iou"]),
        (["strategy=ohem", "capacity.rois=300"], 2, ["300 hardest RoIs of 300", "selection.rois.count"]),
        (["detector=rfcn", "backbone=convnext_tiny"], 2, ["2 x 2 convolution", "ResNet"]),
        (["detector=ssd", "strategy=all_rois"], 2, ["strategy=all_rois selects rois", "has not"]),
        (["detector=ssd", "backbone=ssd_vgg16"], 1, ["at least 268 pixels", "warp"]),
        (["strategy=[warp,tiles]"], 2, ["Tiles", "single_scale instead of warp"]),
        (["data._target_=lightning_det.data.datamodule.ChipData"], 2, ["ChipData needs training views of one size"]),
    ],
)
def test_mistakes_are_explained_without_a_traceback(small, tmp_path, arguments, code, words):
    arguments = [*(() if "dataset=coco" in arguments else small), *arguments]
    message = run("train", *arguments, f"hydra.run.dir={tmp_path}", code=code)
    assert all(word in message for word in words), message
    assert "Traceback" not in message


def test_damaged_images_are_named_before_training(small, tmp_path, coco_folder):
    (coco_folder / "train2017/2.jpg").write_bytes(b"")
    arguments = ["dataset=coco", f"dataset.root={coco_folder}", *BRIEF, f"hydra.run.dir={tmp_path}/run"]
    message = run("train", *arguments, code=1)
    assert "2.jpg: the file is empty" in message
    assert "dataset.on_bad=skip" in message
    run("train", *arguments, "dataset.on_bad=skip", "dataset.resolution=[96,128]")
    assert "1 x image left out" in (tmp_path / "run/train.log").read_text()


def test_inspect_counts_what_each_view_learns(small, tmp_path):
    output = start(
        "inspect", *small, "strategy=[multi_scale,flip]", "views.train.scales.draw=all", f"hydra.run.dir={tmp_path}"
    )
    assert last_line(output) == tmp_path
    report = read(tmp_path / "inspect.json")
    assert (report["images"], report["problems"], report["views_per_image"]) == (24, [], 3)
    assert report["boxes_learned"] + report["boxes_unlearned"] == report["boxes"]
    assert [level["views"] for level in report["levels"]] == [24, 24, 24]
    pixels = (192 * 256 + 96 * 128 + 48 * 64) / (800 * 1333)
    assert report["pixels_vs_800x1333"] == pytest.approx(pixels, rel=1e-6)
    for picture in ("views.png", "sizes.png"):
        assert Image.open(tmp_path / picture).size[0] > 500


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_every_layout_from_inspection_to_prediction(layout, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = request.getfixturevalue(f"{layout}_folder")
    given = [f"dataset={layout}", f"dataset.root={root}", "dataset.resolution=[96,128]"]
    run("inspect", *given, f"hydra.run.dir={tmp_path}/inspect")
    run("train", *given, *BRIEF, f"hydra.run.dir={tmp_path}/train")
    evaluate(f"checkpoint={tmp_path}/train", f"hydra.run.dir={tmp_path}/eval")
    ids = {d["category_id"] for d in read(tmp_path / "eval/detections.json")}
    assert ids <= ({7, 90} if layout == "coco" else {0, 1})
    run("predict", f"checkpoint={tmp_path}/train", f"source={root}", f"output={tmp_path}/out")


def test_tiny_coco_learns(tiny_coco, tmp_path):
    run(
        "train",
        "dataset=tiny_coco",
        "trainer.max_epochs=2",
        "callbacks.report=null",
        "dataset.resolution=[128,213]",
        f"hydra.run.dir={tmp_path}",
    )
    losses = read(tmp_path / "metrics.json")["epoch_losses"]
    assert losses[1] < losses[0]


def test_bccd_experiment_runs_and_inspect_names_its_bad_boxes(bccd, tmp_path):
    run("inspect", "experiment=bccd", f"hydra.run.dir={tmp_path}/inspect", "decode=false")
    problems = read(tmp_path / "inspect/inspect.json")["problems"]
    assert sorted(Path(p["file"]).stem for p in problems) == ["BloodImage_00338", "BloodImage_00343"]
    run("train", "experiment=bccd", *BRIEF, f"hydra.run.dir={tmp_path}/train")
    coarse = ("split=test", "views.test.scales.resolutions=[[60,80]]")
    evaluate(f"checkpoint={tmp_path}/train", *coarse, f"hydra.run.dir={tmp_path}/eval")
    assert read(tmp_path / "eval/metrics.json")["images"] == 72


def test_dsod_experiment_on_blood_cells(bccd, tmp_path):
    run("train", "experiment=dsod_bccd", *BRIEF, f"hydra.run.dir={tmp_path}/train")
    few = ("split=test", "dataset.limit_val=3")
    evaluate(f"checkpoint={tmp_path}/train", *few, f"hydra.run.dir={tmp_path}/eval")
    assert read(tmp_path / "eval/metrics.json")["images"] == 3


def test_subset_is_a_dataset(tiny_coco, tmp_path):
    start("subset", f"root={tiny_coco}", f"output={tmp_path}/few", "images=3")
    given = ("dataset=coco", f"dataset.root={tmp_path}/few", "strategy=[sniper,flip]")
    output = run("inspect", *given, f"hydra.run.dir={tmp_path}/inspect")
    assert "negative chips: not in these views and their pixels, because proposals=auto mines them" in output
    report = read(tmp_path / "inspect/inspect.json")
    assert (report["images"], report["problems"]) == (3, [])
    assert "exists already" in run("subset", f"root={tiny_coco}", f"output={tmp_path}/few", code=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file_name": "../../stolen.txt"}, "must be a path below"),
        ({"file_name": None}, "must be a path below"),
        ({"file_name": "absent.jpg"}, "no file absent.jpg in"),
        ({"file_name": f"{'x' * 300}.jpg"}, "no file x"),
    ],
)
def test_subset_copies_nothing_from_elsewhere(tiny_coco, tmp_path, change, words):
    layout = CocoLayout(tmp_path / "source/deep", "{split}.json", "{split}")
    layout.root.mkdir(parents=True)
    (tmp_path / "stolen.txt").write_text("secret")
    content = json.loads((tiny_coco / "annotations/instances_train2017.json").read_text())
    content["images"] = [content["images"][0] | change]
    (layout.root / "train.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf"train.json, images\[0\]: .*{words}"):
        cut_split(layout, tmp_path / "out", "train", 5, 0)
    assert not (tmp_path / "out").exists()


def test_the_wheel_works_outside_the_checkout(small, tmp_path):
    checkout = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(checkout)], check=True
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    command = [sys.executable, "-m", "lightning_det.train", *small, *BRIEF, "hydra.run.dir=run"]
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    assert read(tmp_path / "run/metrics.json")["steps"] == 2
    used = yaml.safe_load((tmp_path / "run/.hydra/hydra.yaml").read_text())["hydra"]["runtime"]["config_sources"]
    assert str(tmp_path / "site/lightning_det/conf") in [source["path"] for source in used]
