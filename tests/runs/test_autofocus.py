"""AutoFocus by the real commands: it looks at all, some or none of the finer levels, and says what it needs."""

import re
import shutil

import pytest
import torch
from helpers import CHIPS, SMALL, annotations_of, read
from PIL import Image
from support.in_process import run
from support.shared import made_once
from torchvision.transforms.v2.functional import resize

from lightning_det import load
from lightning_det.data.images import decode

pytestmark = pytest.mark.slow

TRAINING = (*SMALL, *CHIPS[:4], "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "seed=3")
PLAIN = ("callbacks.report=null", "callbacks.pictures=null")
FOCUSED = ("test=[autofocus]", "views.test.scales.border=0")


def train(folder, *options):
    outcome = run("train", *TRAINING, f"hydra.run.dir={folder}", *options)
    assert outcome.code == 0, outcome.errors
    return outcome


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes_root):
    """A detector with a head for AutoFocus."""

    def make(folder):
        train(folder, "strategy=[sniper_no_negatives,flip,autofocus]", f"dataset.root={shapes_root}")

    return made_once(tmp_path_factory, "trained_for_autofocus", make)[0]


def evaluate(checkpoint, folder, *options):
    """Detections and figures."""
    outcome = run("eval", f"checkpoint={checkpoint}", *PLAIN, f"hydra.run.dir={folder}", *options)
    assert outcome.code == 0, outcome.errors
    return sorted(map(repr, read(folder / "detections.json"))), read(folder / "metrics.json")


def high_probability(checkpoint, images):
    """A probability that a tenth of the cells of the coarsest views reach."""
    module = load(checkpoint).module.eval()
    pixels = torch.stack([resize(decode(file), [48, 64], antialias=True) for file in images])
    with torch.no_grad():
        module.detector(pixels, torch.tensor([[48, 64]] * len(images)), 0.0, 1.0, 100)
        return float(module.detector.focus.probabilities(module.detector.observed()).quantile(0.9))


def test_thresholds_decide_how_much_is_looked_at(trained, tmp_path):
    """Everything is the whole pyramid, which SNIPER is tested on; nothing is its coarsest level."""
    found, pixels = {}, {}
    pyramid, whole = evaluate(trained, tmp_path / "pyramid")
    for name, thresholds in (("all", [0, 0]), ("middle", [1.1, 0]), ("none", [1.1, 1.1])):
        found[name], figures = evaluate(trained, tmp_path / name, *FOCUSED, f"dataset.focus.thresholds={thresholds}")
        pixels[name] = figures["pixels"]
    assert found["all"] == pyramid
    assert pixels["all"] == whole["pixels"]
    assert pixels["none"] < pixels["middle"] < pixels["all"]
    coarsest = "views.test.scales.resolutions=[[48,64]]", "views.test.scales.valid_ranges=[[45,-1]]"
    assert found["none"] == evaluate(trained, tmp_path / "coarsest", *coarsest)[0]


def test_programs_find_what_the_commands_find(trained, tmp_path):
    """With chips that cut the image."""
    images = sorted((annotations_of(trained, "val").parents[1] / "val").glob("*.jpg"))[:3]
    for file in images:
        shutil.copy(file, tmp_path)
    given = (
        *FOCUSED,
        f"dataset.focus.thresholds=[0,{high_probability(trained, images)}]",
        "views.test.scales.dilation=1",
    )
    outcome = run("predict", f"checkpoint={trained}", *given, f"source={tmp_path}", f"hydra.run.dir={tmp_path}/out")
    assert outcome.code == 0, outcome.errors
    (share,) = re.findall(r"looked at (\d+) % of the pixels of the whole pyramid", outcome.output)
    assert 5 <= int(share) < 95
    predicted = read(tmp_path / "out/predictions.json")["images"]
    found = load(trained, score_threshold=0, overrides=given)(images)
    assert sum(map(len, found)) > 20
    for image, one in zip(predicted, found, strict=True):
        assert [d["box"] for d in image["detections"]] == one.boxes.tolist()
        assert [d["score"] for d in image["detections"]] == one.scores.tolist()
    everything = load(trained, score_threshold=0, overrides=[*FOCUSED, "dataset.focus.thresholds=[0,0]"])(images)
    assert [one.boxes.tolist() for one in everything] != [one.boxes.tolist() for one in found]


def test_a_detector_without_the_head_says_how_to_get_one(trained, tmp_path, shapes_root):
    plain = tmp_path / "plain"
    same = (f"dataset.root={shapes_root}", "strategy=[sniper_no_negatives,flip]")
    train(plain, *same, "trainer.limit_train_batches=1", "trainer.limit_val_batches=0")
    outcome = run("eval", f"checkpoint={plain}", *PLAIN, *FOCUSED, f"hydra.run.dir={tmp_path}/eval")
    assert outcome.code == 2
    assert "strategy=[...,autofocus]" in outcome.errors
    outcome = run("train", *TRAINING, *same, *FOCUSED, f"hydra.run.dir={tmp_path}/refused")
    assert outcome.code == 2
    assert "strategy=[...,autofocus]" in outcome.errors
    added = train(
        tmp_path / "added",
        f"dataset.root={shapes_root}",
        "strategy=[sniper_no_negatives,flip,autofocus]",
        f"weights={plain}",
        "trainer.limit_train_batches=1",
        *FOCUSED,
    )
    assert "all layers; AutoFocus's head starts fresh" in added.output
    assert load(tmp_path / "added").module.detector.focus is not None


def test_a_sweep_draws_ap_against_cost(trained, tmp_path):
    evaluate(trained, tmp_path / "sweep", *FOCUSED, "sweep_thresholds=[1,0.02]", "dataset.limit_val=3")
    rows = read(tmp_path / "sweep/focus.json")
    assert [row["name"] for row in rows] == ["whole pyramid", "above 0.02", "above 1", "single scale"]
    pixels = [row["pixels"] for row in rows]
    assert pixels[0] >= pixels[1] > pixels[2] == 3 * 64 * 64  # canvases are multiples of 32
    assert pixels[3] == 3 * 96 * 128
    assert all(row["seconds"] > 0 for row in rows)
    assert Image.open(tmp_path / "sweep/focus.png").width > 900


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sweep_thresholds=[0.1]"], "add test=[autofocus]"),
        ([*FOCUSED, "sweep_thresholds=0.1"], "a list of probabilities"),
        ([*FOCUSED, "sweep_thresholds=[0]"], "a list of probabilities"),
    ],
)
def test_sweeps_that_mean_nothing_are_refused(trained, tmp_path, options, message):
    outcome = run("eval", f"checkpoint={trained}", *PLAIN, *options, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 2
    assert message in outcome.errors


def test_inspect_draws_what_a_perfect_head_would_look_at(tmp_path, shapes_root):
    chosen = ("strategy=[sniper_no_negatives,autofocus]", f"dataset.root={shapes_root}", *FOCUSED)
    chosen += ("dataset.sniper.scales=[1.0,0.05,0.02]",)  # the second shows objects at 0 to 3 pixels
    outcome = run("inspect", *TRAINING[:-1], *chosen, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 0, outcome.errors
    focus = read(tmp_path / "inspect.json")["focus"]
    assert 0.05 < focus["pixels_share"] <= 1
    assert focus["chips_per_image"] > 0
    assert f"would look at {100 * focus['pixels_share']:.0f} % of the pixels" in outcome.output
    assert Image.open(tmp_path / "focus.png").width > 400
    assert "AutoFocus decides where to look at the finest scale from the next one" in outcome.output
