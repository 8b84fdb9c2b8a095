"""wandb's runs, read back from what they leave offline."""

import base64
import csv
import hashlib
import json
import os
import re
import runpy
import struct
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import wandb
import yaml
from helpers import CHIPS, FORKS, IMAGES, annotations_of, read, run_forked, start_forked
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
from support.shared import made_once
from wandb.proto.wandb_internal_pb2 import Record

from lightning_det.backbones.contract import IMAGENET
from lightning_det.callbacks import Evaluator, WandbLog, WandbMedia
from lightning_det.callbacks.wandb_workspace import STAGES, describe, make_workspace, panel_keys
from lightning_det.commands.dashboard import dashboard
from lightning_det.system.errors import ConfigError, UserError

BLOCK = 32768
PIECE = struct.Struct("<IHB")
"""Checksum, length and kind (1 a whole record, 4 the end of one) of a piece: LevelDB's log format."""


def records(file):
    """What wandb wrote to a run's file, in order; the last record of a killed run may be missing."""
    data = file.read_bytes()
    position, part, found = 7, b"", []
    while position + PIECE.size <= len(data):
        room = BLOCK - position % BLOCK
        if room < PIECE.size:
            position += room
            continue
        _, length, kind = PIECE.unpack_from(data, position)
        position += PIECE.size
        part += data[position : position + length]
        position += length
        if kind in (1, 4) and position <= len(data):
            found.append(Record.FromString(part))
            part = b""
    return found


def parts(folder):
    """Records of every part of a run, in order of time."""
    return [records(file) for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]


def run_of(part):
    return next(record.run for record in part if record.HasField("run"))


def exit_code(part):
    return next(record.exit.exit_code for record in part if record.HasField("exit"))


def rows(part):
    """What was logged together, by its keys; media are dictionaries."""
    for record in part:
        if record.HasField("history"):
            row = {}
            for item in record.history.item:
                *above, name = item.nested_key or [item.key]
                node = row.setdefault(above[0], {}) if above else row
                node[name] = json.loads(item.value_json)
            yield row


def steps(part):
    """The trainer's steps that figures were logged with."""
    return [row["trainer/global_step"] for row in rows(part)]


def last(part, key):
    return [row[key] for row in rows(part) if key in row][-1]


def known(*parts):
    return {key for part in parts for row in rows(part) for key in row}


def artifacts(part, kind):
    return [record.artifact for record in part if record.HasField("artifact") and record.artifact.type == kind]


class Media:
    """Tables and images that the last part of a run left in files, as they were logged last."""

    def __init__(self, folder):
        self.files = max(folder.glob("wandb/offline-run-*")) / "files"
        self.part = parts(folder)[-1]

    def table(self, key):
        content = read(self.files / last(self.part, key)["path"])
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

    def images(self, key):
        """Of each image: file, caption, and boxes (group to list) as wandb has them."""
        found = last(self.part, key)
        groups = found.get("all_boxes") or [{}] * found["count"]
        captions = found.get("captions") or [""] * found["count"]
        for file, caption, boxes in zip(found["filenames"], captions, groups, strict=True):
            content = {name: read(self.files / group["path"])["box_data"] for name, group in boxes.items()}
            yield SimpleNamespace(file=self.files / file, caption=caption, boxes=content)


def corners(box):
    return [box["position"][name] for name in ("minX", "minY", "maxX", "maxY")]


QUIET = {"WANDB_SILENT": "true", "WANDB_MODE": "offline"}  # the logger sets another mode, which is put back


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    # Of an earlier test in this process: a command's run would stay open in it when the command is killed.
    monkeypatch.delenv("WANDB_SERVICE", raising=False)


@pytest.mark.slow
def test_a_run_goes_on_in_its_folder(tmp_path):
    for part in range(2):
        log = WandbLog(str(tmp_path), project="p", offline=True)
        for step in range(3 * part, 3 * part + 3):
            log.log_metrics({"loss": 1.0 / (1 + step)}, step)
        log.experiment.finish(exit_code=1 - part)
        time.sleep(1.1)  # wandb names folders by the second
    first, second = parts(tmp_path)
    assert run_of(first).run_id == run_of(second).run_id == read(tmp_path / "wandb.json")["id"]
    assert run_of(second).resume  # so that `wandb sync` puts it behind the first
    assert (steps(first), steps(second)) == ([0, 1, 2], [3, 4, 5])
    assert (exit_code(first), exit_code(second)) == (1, 0)


def test_folders_have_runs_of_their_own(tmp_path, monkeypatch):
    logs = [WandbLog(str(tmp_path / name), project="p", offline=True) for name in "ab"]
    assert logs[0].version != logs[1].version
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert WandbLog(str(tmp_path / "c"), project="p", offline=True).version == "mine"
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert WandbLog(str(tmp_path / "c"), project="p", offline=True).version == "mine"


def test_other_ranks_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log = WandbLog(str(tmp_path), project="p", offline=True)
    log.log_metrics({"loss": 1.0}, 0)
    assert log.version is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of commands: what wandb keeps until it is uploaded stays among the tests' files."""
    folder = tmp_path_factory.mktemp("wandb")
    others = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return others | QUIET | {"WANDB_DATA_DIR": f"{folder}/data", "WANDB_CACHE_DIR": f"{folder}/cache"}


@pytest.fixture(scope="module")
def resumed(shapes_root, tmp_path_factory, environment):
    """The folder of a training with chips and OHEM that was killed after its first epoch and went on."""
    return made_once(tmp_path_factory, "resumed", partial(train_and_resume, shapes_root, environment))[0]


def train_and_resume(shapes_root, environment, folder):
    folder.mkdir()
    options = [f"dataset.root={shapes_root}", *IMAGES, *(o for o in CHIPS if not o.startswith("views."))]
    options += ["strategy=[sniper_no_negatives,ohem]", "capacity.rois=16", "capacity.before_nms=[300,100]"]
    options += [
        "trainer.max_epochs=3",
        "trainer.log_every_n_steps=1",
        "dataset.limit=8",
        "data.num_workers=0",
        "logger=wandb",
        "logger.wandb.log_model=true",
    ]
    options += ["+logger.csv._target_=lightning_det.callbacks.CSVLog", f"+logger.csv.save_dir={folder}"]
    said = folder / "said.txt"
    process = start_forked("train", [*options, f"hydra.run.dir={folder}"], said, said, env=environment)
    end = time.monotonic() + 200
    while not (folder / "checkpoints/last.ckpt").exists():
        assert process.is_alive(), said.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.join()
    done = run_forked("train", f"resume={folder}", env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def evaluated(resumed, environment, tmp_path_factory):
    """The folder of an evaluation that was logged."""
    return made_once(tmp_path_factory, "resumed/eval", partial(evaluate, resumed, environment))[0]


def evaluate(resumed, environment, folder):
    options = [f"checkpoint={resumed}/checkpoints/last.ckpt", "logger=wandb", f"hydra.run.dir={folder}"]
    options += ["callbacks.wandb.count=3", "callbacks.pictures.count=2"]
    done = run_forked("eval", *options, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def swept(shapes_root, tmp_path_factory, environment):
    """The folder of a sweep of single-shot detectors, of which the second diverges."""
    return made_once(tmp_path_factory, "swept", partial(sweep_rates, shapes_root, environment))[0] / "lr"


def sweep_rates(shapes_root, environment, folder):
    sweep = ["-m", "optimizer.lr=0.001,1e30", "logger=wandb", f"hydra.sweep.dir={folder}/lr"]
    small = [f"dataset.root={shapes_root}", *IMAGES, "debug=limit", "data.num_workers=0", "trainer.log_every_n_steps=1"]
    small += ["detector=ssd", "backbone=ssd_tiny", "callbacks.report=null"]
    done = run_forked("train", *sweep, *small, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.mark.slow
def test_a_killed_training_goes_on_in_its_run(resumed):
    # Of the first part wandb may have written no record yet; its folder names the run.
    ids = [folder.name.split("-")[-1] for folder in (resumed / "wandb").glob("offline-run-*")]
    _, second = parts(resumed)
    assert ids == [run_of(second).run_id] * 2
    done = sorted(set(steps(second)))
    assert done[0] > 0  # it goes on behind the checkpoint
    assert done == list(range(done[0], read(resumed / "metrics.json")["steps"] + 1))
    assert exit_code(second) == 0


@pytest.mark.slow
def test_figures_are_those_of_the_csv_log(resumed):
    """Loss terms, learning rate, AP by size, selected RoIs and throughput, row by row."""
    _, second = parts(resumed)
    own = {"_step", "_runtime", "_timestamp"}
    found = [{k: v for k, v in row.items() if k not in own} for row in rows(second)]
    found = [row for row in found if all(isinstance(v, int | float) for v in row.values())]
    with (resumed / "metrics.csv").open(newline="") as stream:
        expected = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]
    expected = [row for row in expected if row["step"] >= steps(second)[0]]
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row | {"step": row["trainer/global_step"]} == pytest.approx(
            other | {"trainer/global_step": other["step"]}
        )
    sums = [sum(row[f"train/{t}"] for t in TERMS) - row["train/loss"] for row in found if "train/loss" in row]
    assert np.abs(sums).max() < 1e-5


TERMS = ("rpn_objectness", "rpn_box", "roi_class", "roi_box")


@pytest.mark.slow
def test_the_configuration_is_resolved(resumed):
    _, second = parts(resumed)
    updates = [u for record in second if record.HasField("config") for u in record.config.update]
    found = {update.key: json.loads(update.value_json) for update in updates}
    expected = yaml.safe_load((resumed / "config.yaml").read_text())
    assert expected["detector"]["preprocess"]["mean"] is None  # the backbone's own, which it names itself
    expected["detector"]["preprocess"] |= {"mean": list(IMAGENET.mean), "std": list(IMAGENET.std)}
    assert found["settings"] == expected
    assert found["settings"]["views"]["test"]["scales"]["resolutions"] == [[192, 256], [96, 128], [48, 64]]
    assert found["labels"]["names"][0] == "bar-h"


@pytest.mark.slow
def test_tables_and_curves_are_those_of_the_figures(resumed, evaluated):
    """Of the last validation of the training, and of its evaluation."""
    evaluation = read(evaluated / "metrics.json")
    assert sum(row["boxes"] for row in evaluation["ap_by_size"]) > 0
    for folder in (resumed, evaluated):
        part, metrics = parts(folder)[-1], read(folder / "metrics.json")
        assert metrics["AP_large"] is None  # there is no such object
        for figure in ("AP", "AP50", "AP_small", "AP_medium", "AR100"):
            assert last(part, f"val/{figure}") == pytest.approx(metrics[figure])
        media = Media(folder)
        assert {row.pop("class"): row for row in media.table("val/per_class")} == metrics["per_class"]
        curves = {}
        for row in media.table("val/pr_curves_table"):
            curves.setdefault(row["class"], []).append((row["recall"], row["precision"]))
        curves = {name: np.array(curve) for name, curve in curves.items()}
        per_class = {name: row["AP50"] for name, row in metrics["per_class"].items() if row["boxes"]}
        areas = {name: curve[:, 1].mean() for name, curve in curves.items()}
        assert areas == pytest.approx({"all classes": metrics["AP50"]} | per_class)
        assert all(np.array_equal(curve[:, 0], np.linspace(0, 1, 101)) for curve in curves.values())
        octaves = [
            [row["from"], row["to"], row["boxes"], name, row[name]]
            for row in evaluation["ap_by_size"]
            for name in ("AP", "AP50")
        ]
        assert [list(row.values()) for row in media.table("val/ap_by_size_table")] == octaves


@pytest.mark.slow
def test_wandb_holds_what_the_report_holds(resumed, evaluated):
    """Thresholds, confusion, curves and errors are those of the files beside the report."""
    for folder in (resumed, evaluated):
        media = Media(folder)
        with (folder / "confusion.csv").open(newline="") as stream:
            (_, *names), *counts = csv.reader(stream)
        cells = {(row["Actual"], row["Predicted"]): row["nPredictions"] for row in media.table("val/confusion_table")}
        assert cells == {(row[0], name): int(n) for row in counts for name, n in zip(names, row[1:], strict=True)}
        with (folder / "pr_curves.csv").open(newline="") as stream:
            curves = list(csv.DictReader(stream))
        titles = {"": "IoU 0.5", "_75": "IoU 0.75", "_mean": "mean over IoU 0.5 to 0.95"}
        for key, title in titles.items():
            logged = [(row["class"], row["precision"]) for row in media.table(f"val/pr_curves{key}_table")]
            assert logged == [(row["class"], pytest.approx(float(row[title]), abs=1e-5)) for row in curves]
        with (folder / "images.csv").open(newline="") as stream:
            ranked = [row for row in csv.DictReader(stream) if any(row[n] != "0" for n in ERRORS)]
        worst = list(media.images("val/worst"))
        assert [image.caption.partition(":")[0] for image in worst] == [row["image"] for row in ranked[: len(worst)]]
        assert 0 < len(worst) <= 8
        for image, row in zip(worst, ranked, strict=False):
            groups = {name.replace("_", " "): len(boxes) for name, boxes in image.boxes.items()}
            assert groups == {name: int(row[name]) for name in ("right", *ERRORS) if row[name] != "0"}
    measured = read(evaluated / "thresholds.json")
    table = {row["class"]: row for row in Media(evaluated).table("val/thresholds")}
    assert {name for name, row in table.items() if row["measured"]} == set(measured["per_class"])
    for name, threshold in measured["per_class"].items():
        assert (table[name]["threshold"], table[name]["F1"]) == pytest.approx((threshold, measured["f1"][name]))


ERRORS = ("wrong class", "false", "missed")


@pytest.mark.slow
def test_boxes_are_those_of_the_files(evaluated):
    truth, found = read(annotations_of(evaluated, "val")), read(evaluated / "detections.json")
    names = {category["id"]: category["name"] for category in truth["categories"]}
    images = list(Media(evaluated).images("val/predictions"))
    assert len(images) == 3
    assert len(list((evaluated / "pictures").iterdir())) == 2
    assert sum(len(image.boxes.get("predictions", [])) for image in images) > 3
    shown = {i["id"] for i in truth["images"] if i["file_name"] in {image.caption for image in images}}
    assert sum(len(image.boxes["ground_truth"]) for image in images) == sum(
        not a["iscrowd"] and a["image_id"] in shown for a in truth["annotations"]
    )
    for image in images:
        assert Image.open(image.file).size == (128, 96)
        (number,) = (i["id"] for i in truth["images"] if i["file_name"] == image.caption)
        for group, content, least in (("ground_truth", truth["annotations"], 0), ("predictions", found, 0.1)):
            expected = [a for a in content if a["image_id"] == number and a.get("score", 1) >= least]
            shown = image.boxes.get(group, [])
            boxes = [(*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]) for a in expected]
            np.testing.assert_allclose([corners(b) for b in shown], boxes, atol=1e-3)
            assert [b["domain"] for b in shown] == ["pixel"] * len(expected)
            assert [b.get("scores", {}).get("score") for b in shown] == [
                None if "score" not in a else pytest.approx(a["score"]) for a in expected
            ]
            captions = [names[a["category_id"]] + (f" {a['score']:.2f}" if "score" in a else "") for a in expected]
            assert [b["box_caption"] for b in shown] == captions
            assert [list(names.values())[b["class_id"]] for b in shown] == [names[a["category_id"]] for a in expected]


@pytest.mark.slow
def test_chips_show_what_they_learn_from(resumed):
    """Valid boxes of a chip, moved back through its window, are annotated objects."""
    truth = read(annotations_of(resumed, "train"))
    files = {i["file_name"]: i["id"] for i in truth["images"]}
    chips = list(Media(resumed).images("train/views"))
    assert len(chips) == 8
    assert any(chip.boxes.get("valid") for chip in chips)
    assert any(chip.boxes.get("invalid") for chip in chips)
    for chip in chips:
        width, height = Image.open(chip.file).size
        assert max(width, height) == 64
        file, scale, *window = re.fullmatch(r"(\S+) x (\S+), window (\S+) (\S+) (\S+) (\S+)", chip.caption).groups()
        scale, (x1, y1, x2, y2) = float(scale), map(float, window)
        assert ((x2 - x1) * scale, (y2 - y1) * scale) == pytest.approx((width, height), abs=2)
        for box in chip.boxes.get("valid", []):
            moved = np.array(corners(box)) / scale + [x1, y1, x1, y1]
            boxes = [a["bbox"] for a in truth["annotations"] if a["image_id"] == files[file]]
            boxes = [np.clip((x, y, x + w, y + h), [x1, y1] * 2, [x2, y2] * 2) for x, y, w, h in boxes]
            assert min(np.abs(moved - other).max() for other in boxes) < 2


@pytest.mark.slow
def test_pictures_are_those_of_the_folder(resumed):
    media = Media(resumed)
    for name, count in (("val", 8), ("selection", 4)):
        files = sorted((resumed / "pictures").glob(f"{name}_*.png"))
        logged = list(media.images(f"{name}/pictures"))
        assert len(files) == len(logged) == count
        for file, image in zip(files, logged, strict=True):
            assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(image.file)))


@pytest.mark.slow
def test_checkpoints_are_artifacts_on_request(resumed, swept):
    _, second = parts(resumed)
    found = artifacts(second, "model")
    assert [a.name for a in found] == [f"model-{run_of(second).run_id}"] * 2
    assert [set(a.aliases) for a in found] == [{"last", "latest"}, {"best", "latest"}]
    for name, artifact in zip(("last", "best"), found, strict=True):
        (entry,) = artifact.manifest.contents
        content = (resumed / f"checkpoints/{name}.ckpt").read_bytes()
        assert entry.digest == base64.b64encode(hashlib.md5(content).digest()).decode()
        assert Path(entry.local_path).read_bytes() == content
    assert not artifacts(parts(swept / "0")[0], "model")


@pytest.mark.slow
def test_jobs_of_a_sweep_are_a_group(swept):
    """Runs of their own with names; the one that diverges is marked as failed."""
    runs = [parts(swept / job) for job in "01"]
    assert [len(found) for found in runs] == [1] * 2
    assert [exit_code(found[0]) for found in runs] == [0, 1]
    described = [run_of(found[0]) for found in runs]
    assert len({run.run_id for run in described}) == 2
    assert {run.run_group for run in described} == {f"{swept.parent.name}/lr"}
    overrides = [read(swept / job / "status.json")["overrides"] for job in "01"]
    assert [run.display_name for run in described] == [" ".join(job)[:128] for job in overrides]


@pytest.mark.slow
def test_the_dashboard_shows_what_is_logged(resumed, swept):
    """Every key of it is in a run of either kind of detector, but for those that only the other kind has."""
    named = {
        key for section in make_workspace("me", "p").sections for panel in section.panels for key in panel_keys(panel)
    }
    named -= {"^lr-", "val/AP_large", "val/AR_large"}  # there is no large object
    named -= {f"train/{name}" for name in STAGES}  # of a cascade
    two_stage, single_shot = known(parts(resumed)[-1]), known(parts(swept / "0")[0])
    for found in (two_stage, single_shot):
        assert any(re.match("^lr-", key) for key in found)
    assert {key for key in named - two_stage if not re.match(r"train/(prior/|class$|box$)", key)} == set()
    assert {key for key in named - single_shot if not re.match(r"train/(roi/|rpn_|roi_)", key)} == set()


@pytest.mark.slow
def test_the_dashboard_is_printed():
    done = run_forked("dashboard", "entity=me", "group=2026-11-26/noon", "dry_run=true")
    assert done.returncode == 0, done.stderr
    made = make_workspace("me", "lightning-det", "2026-11-26/noon")
    assert done.stdout.strip() == describe(made)
    sent = made._to_model().spec.model_dump(by_alias=True)["section"]  # what `save` would send
    sections = sent["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [line for line in done.stdout.split("\n") if line in TITLES]
    assert sent["runSets"][0]["filters"]["filters"][0]["value"] == "2026-11-26/noon"


TITLES = (
    "Average precision",
    "Losses and learning rate",
    "Classes and curves",
    "Errors",
    "Predictions",
    "Views and chips",
)
TITLES += ("Views and chips", "Selected RoIs and priors", "Throughput")


def test_the_dashboard_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ConfigError, match=r"pip install 'lightning-det\[dashboard\]'"):
        make_workspace("me", "p")


def test_a_dashboard_that_wandb_does_not_take(monkeypatch):
    def refuse(made):
        raise wandb.Error("No API key configured.")

    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refuse)
    settings = {"entity": "me", "project": "p", "group": None, "name": "n", "dry_run": False}
    with pytest.raises(UserError, match=r"me/p cannot be saved: No API key configured\. dry_run=true"):
        dashboard(OmegaConf.create(settings))
    assert dashboard(OmegaConf.create(settings | {"dry_run": True})).name == "n"


@pytest.mark.slow
def test_wandb_is_imported_by_those_who_log_to_it(tmp_path):
    """The process that commands are forked from has imported them all."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, lightning_det.commands.train, lightning_det.commands.eval\nsys.exit('wandb' in sys.modules)\n"
    )
    process = FORKS.Process(target=runpy.run_path, args=(str(script),))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_nothing_is_evaluated_once_more_for_no_logger():
    evaluator = Evaluator()
    evaluator.results = "of a validation"
    with mock.patch.object(Evaluator, "diagnose") as diagnose:
        WandbMedia().on_train_end(SimpleNamespace(callbacks=[evaluator], loggers=[], is_global_zero=True), None)
    diagnose.assert_not_called()
