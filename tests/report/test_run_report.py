"""The reports that real runs end with, of a dataset whose names try to run as scripts."""

import csv
import shutil
import subprocess

import numpy as np
import pytest
from helpers import read
from PIL import Image
from support.datasets import make_coco
from support.documents import Document
from support.in_process import run as run_command
from support.json_files import edit
from support.shared import made_once

from lightning_det.evaluation.thresholds import Thresholds
from lightning_det.runs.report_content import notes

EVIL = '<script>document.title="run"</script>'
SMALL = ("dataset.resolution=[48,64]", "dataset.anchor_sizes=[8,16,32]", "data.num_workers=0")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)


def rename(content):
    content["categories"][0]["name"] = EVIL


def train_and_evaluate(folder):
    """A training on one image, and the evaluation of it."""
    root = make_coco(folder / "coco")
    for split in ("train2017", "val2017"):
        edit(root, rename, split)
    options = ["dataset=coco", f"dataset.root={root}", "dataset.limit=2", *SMALL, f"hydra.run.dir={folder}/run"]
    few = ["trainer.max_epochs=2", "trainer.log_every_n_steps=1", "callbacks.pictures=null", "callbacks.report.worst=2"]
    outcome = run_command("train", *options, *few)
    assert outcome.code == 0, outcome.output + outcome.errors
    outcome = run_command("eval", f"checkpoint={folder}/run", f"hydra.run.dir={folder}/eval")
    assert outcome.code == 0, outcome.output + outcome.errors


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return made_once(tmp_path_factory, "reports", train_and_evaluate)[0]


def report_of(folder):
    return Document((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_both_reports_hold_all_sections(runs):
    for run in ("run", "eval"):
        found = {section["id"] for section in report_of(runs / run).of("section")}
        assert found == {"learning", "sizes", "classes", "curves", "confusion", "images", "cost", "settings", "next"}
        assert (runs / run / "report.html").stat().st_size < 10e6


@pytest.mark.slow
def test_the_report_has_the_figures_of_the_run(runs):
    for run in ("run", "eval"):
        metrics, text = read(runs / run / "metrics.json"), report_of(runs / run).text
        for name in ("AP", "AP50"):
            assert f"{name}{metrics[name]:.3f}" in text
        for name in metrics["per_class"]:
            assert name in text


@pytest.mark.slow
@pytest.mark.parametrize(("best", "better"), [(float(np.float32(0.830851359)), False), (0.8309, True), (None, False)])
def test_another_checkpoint_is_named_only_if_it_is_better(best, better):
    """The first is the same figure in 32 bits, which is the larger number."""
    metrics = {"steps": 9, "AP": 0.830851359, "best_AP": best}
    assert ("is better" in " ".join(notes(metrics, "run", 9, None))) == better


def test_a_class_name_never_runs(runs):
    for run in ("run", "eval"):
        document = report_of(runs / run)
        assert not document.of("script")
        assert EVIL in document.text
        assert f"checkpoint={runs}/run" in document.text


@pytest.mark.slow
def test_files_beside_the_report_agree(runs):
    """Numbers of the confusion matrix, of the images and of the thresholds are those of the detections."""
    folder = runs / "eval"
    with (folder / "confusion.csv").open(newline="") as stream:
        (_, *names), *rows = csv.reader(stream)
    assert names == [EVIL, "dog", "background"] == [row[0] for row in rows]
    matrix = np.array([row[1:] for row in rows], int)
    thresholds = Thresholds.read(folder)
    assert matrix[:2].sum(axis=1).tolist() == list(thresholds.boxes.values()) == [3, 2]  # one of the boxes is a crowd
    assert (thresholds.per_class, thresholds.images) == ({}, 4)  # so few boxes tell no threshold
    assert thresholds.measured_on == "val by best.ckpt"
    with (folder / "images.csv").open(newline="") as stream:
        images = list(csv.DictReader(stream))
    assert {row["image"] for row in images} == {f"{n}.jpg" for n in range(4)}
    errors = [sum(int(row[name]) for name in ("wrong class", "false", "missed")) for row in images]
    assert errors == sorted(errors, reverse=True)
    assert sum(int(row["right"]) for row in images) == np.trace(matrix)
    limits = thresholds.of(names[:2], 0.3)
    found = read(folder / "detections.json")
    kept = [d for d in found if d["score"] >= limits[{7: 0, 90: 1}[d["category_id"]]]]
    crowd = len(kept) - matrix[:, :2].sum()
    assert 0 <= crowd < len(kept) or not kept
    for name in ("confusion.png", "pr_curves.png", "worst.jpg"):
        assert np.asarray(Image.open(folder / name)).std() > 1
    with (folder / "pr_curves.csv").open(newline="") as stream:
        curves = list(csv.DictReader(stream))
    mean = np.mean([float(row["IoU 0.5"]) for row in curves if row["class"] == "all classes"])
    assert mean == pytest.approx(read(folder / "metrics.json")["AP50"], abs=1e-4)


@pytest.mark.slow
def test_a_limit_of_training_images_does_not_limit_the_evaluation(runs):
    assert read(runs / "eval/metrics.json")["images"] == 4
    assert "dataset.limit" in report_of(runs / "run").text


@pytest.mark.slow
def test_a_training_keeps_the_thresholds_of_its_best_checkpoint(runs):
    assert Thresholds.read(runs / "run").measured_on.startswith("the validation after step ")


@pytest.mark.slow
def test_a_run_that_goes_on_has_a_report_of_its_own_end(runs, tmp_path):
    """Nothing left to train: the report stays. Interrupted: there is none. At the end there is a new one."""
    run = tmp_path / "run"
    shutil.copytree(runs / "run", run)
    before = (run / "report.html").read_bytes()
    assert run_command("train", f"resume={run}").code == 0
    assert (run / "report.html").read_bytes() == before
    outcome = run_command("train", f"resume={run}", "trainer.max_epochs=3", "callbacks.report.worst=1")
    assert outcome.code == 0, outcome.errors
    steps = read(run / "metrics.json")["steps"]
    assert f"3 epochs, {steps} steps" in report_of(run).text
    assert len(report_of(run).of("input")) <= 1 + 6


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, with which a report is rendered")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_browser_renders_the_report(runs, tmp_path, width, scheme):
    """The title is not that of the script in a name, and the picture is that of the scheme that a reader prefers."""
    file = tmp_path / "page.png"
    without = ("gpu", "background-networking", "component-update", "sync", "dev-shm-usage")
    quiet = [f"--disable-{name}" for name in without]
    start = [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *quiet, f"--user-data-dir={tmp_path}/profile"]
    scheme_setting = f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    address = (runs / "run/report.html").as_uri()
    subprocess.run(
        [*start, scheme_setting, f"--window-size={width},2000", f"--screenshot={file}", address],
        check=True,
        capture_output=True,
        timeout=300,
    )
    picture = np.asarray(Image.open(file).convert("L"))
    assert (np.median(picture) < 80) == (scheme == "dark")
    assert len(np.unique(picture)) > 50
    if scheme == "light":
        done = subprocess.run([*start, "--dump-dom", address], check=True, capture_output=True, text=True, timeout=300)
        document = Document(done.stdout)
        assert not document.of("script")
        assert "<title>run" not in done.stdout.replace(f"<title>{runs}", "")
        assert EVIL in document.text
