"""`load`: the detections of the commands, in a program, and nothing left behind."""

import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import annotations_of, read
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image
from support.in_process import run
from support.trained import trained_run

import lightning_det
from lightning_det import Truth, load
from lightning_det.data.coco import Coco
from lightning_det.data.opening import ImageError
from lightning_det.evaluation.thresholds import Thresholds
from lightning_det.modules import DetectionModule
from lightning_det.system.errors import ConfigError, UserError

TILES = ["test=[tiles]", "views.test.windows.size=64"]


@pytest.fixture(scope="module")
def folder(shapes_root, tmp_path_factory):
    return trained_run(tmp_path_factory, shapes_root)


def everything(folder, **given):
    """A detector that returns all that it has found."""
    return load(folder, score_threshold=0, **given)


@pytest.fixture(scope="module")
def detector(folder):
    return everything(folder)


@pytest.fixture(scope="module")
def images(folder):
    files = sorted((annotations_of(folder, "val").parents[1] / "val").glob("*.jpg"))
    assert len(files) == 8
    return files


def same(found, expected):
    """Equality of two lists of detections, bit by bit."""
    return len(found) == len(expected) and all(
        np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores) and np.array_equal(a.labels, b.labels)
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], TILES], ids=["whole", "tiles"])
def test_the_commands_find_and_measure_the_same(overrides, folder, images, tmp_path):
    images, source = images[:3], tmp_path / "images"
    source.mkdir()
    for file in images:
        shutil.copy(file, source)
    detector = everything(folder, overrides=overrides)
    given = [f"checkpoint={folder}", *overrides]
    outcome = run("predict", *given, f"source={source}", f"hydra.run.dir={tmp_path}/predict")
    assert outcome.code == 0, outcome.errors
    predicted = read(tmp_path / "predict/predictions.json")["images"]
    assert [image["file"] for image in predicted] == [file.name for file in images]
    found = detector(images)
    assert sum(map(len, found)) > 100
    for image, one in zip(predicted, found, strict=True):
        assert [d["box"] for d in image["detections"]] == one.boxes.tolist()
        assert [d["score"] for d in image["detections"]] == one.scores.tolist()
        assert [d["label"] for d in image["detections"]] == list(one.names)

    if not overrides:
        return
    plain = ["callbacks.report=null", "callbacks.pictures=null", f"dataset.limit_val={len(images)}"]
    outcome = run("eval", *given, *plain, f"hydra.run.dir={tmp_path}/eval")
    assert outcome.code == 0, outcome.errors
    store = Coco(str(images[0].parents[1])).read("val")[0].select(range(len(images)))
    names = store.label_map.names
    truths = [
        Truth(store.path(n), record.boxes, [names[label] for label in record.labels], record.ignored)
        for n, record in enumerate(store.records())
    ]
    metrics = read(tmp_path / "eval/metrics.json")
    evaluation = detector.evaluate(truths)
    assert evaluation.figures() == {name: metrics[name] for name in evaluation.figures()}
    assert evaluation.per_class() == metrics["per_class"]
    rows = [row for one, n in zip(found, range(len(store)), strict=True) for row in one.to_coco(store.source_id(n))]
    key = repr
    assert sorted(rows, key=key) == sorted(read(tmp_path / "eval/detections.json"), key=key)
    assert detector.evaluate(iter(truths)).figures() == pytest.approx(evaluation.figures(), abs=0.02, nan_ok=True)


def test_one_image_is_a_list_of_one(detector, images):
    (found,) = detector(str(images[0]))
    assert same(detector(images[0]), [found])
    assert (found.image, found.size) == (str(images[0]), (96, 128))
    assert len(found) == len(found.boxes) == len(found.names) == len(found.labels) > 10
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert (np.diff(found.scores) <= 0).all()
    assert set(found.names) <= set(found.classes) == set(detector.classes)
    assert repr(found).startswith(f"<{len(found)} detections in {images[0]}: ")
    assert "FasterRCNN on cpu for 6 classes: bar-h" in repr(detector)
    assert isinstance(detector.module, DetectionModule)
    assert detector([]) == []
    assert [(one.names, *one.boxes.tolist()) for one in found] == [
        ((name,), box) for name, box in zip(found.names, found.boxes.tolist(), strict=True)
    ]
    assert same([found[-1], found[0]], [found[[len(found) - 1]], found[:1]])


def test_kinds_of_images(detector, images, tmp_path):
    pixels = np.asarray(Image.open(images[0]))
    Image.fromarray(pixels).save(tmp_path / "same.png")
    (expected,) = detector(tmp_path / "same.png")
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    pillow = Image.open(tmp_path / "same.png")
    transparent = np.dstack([pixels, pixels[..., 0]])
    for image in (pixels, pixels[..., ::-1][..., ::-1], transparent, tensor, tensor / 255, pillow):
        assert same(detector(image), [expected])
    for batch in (np.stack([pixels, pixels]), torch.stack([tensor, tensor]), (pixels, tensor)):
        assert same(detector(batch), detector([pixels, pixels]))
    assert not same(detector(np.ascontiguousarray(pixels[..., ::-1])), [expected])


def test_streams_read_a_few_images_at_a_time(folder, images):
    """What a generator has made may change when it makes the next image."""
    detector = everything(folder, batch_size=1)
    expected = detector(images)
    made, buffer = [], np.zeros((96, 128, 3), np.uint8)

    def frames():
        for file in images:
            made.append(file)
            buffer[:] = np.asarray(Image.open(file))
            yield buffer

    stream = detector.stream(frames())
    assert same([next(stream)], expected[:1])
    assert len(made) == 4
    assert same(list(stream), expected[1:])
    assert same(detector(frames()), expected)
    assert same(list(detector.stream(images)), expected)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("none.jpg", "none.jpg: No such file"),
        (Path(), r"\.: a folder; give its images, such as sorted\("),
        (None, "image 0: a NoneType is no image; give a path, an array"),
        (b"\xff\xd8", "a bytes is no image"),
        (np.zeros((8, 8, 3)), "an array of float64; an array needs uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"channels first; give array.transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 2), np.uint8), r"an array \(8, 8, 2\); needed is \(H, W, 3\) RGB"),
        (np.zeros((0, 8, 3), np.uint8), r"an array \(0, 8, 3\)"),
        (torch.zeros(8, 8, 3), r"channels last; give tensor.permute\(2, 0, 1\)"),
        (torch.zeros(8, 8), r"a tensor \(8, 8\); needed is \(3, H, W\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "a tensor of torch.int64; needed is uint8, or float"),
        (torch.full((3, 8, 8), 255.0), r"a float tensor from 255 to 255; needed is \[0, 1\]"),
        (torch.full((3, 8, 8), torch.nan), "a float tensor from nan to nan"),
        (Image.new("F", (8, 8)), "floating-point pixels"),
        (Image.new("HSV", (8, 8)), "pixels of kind HSV; convert it to RGB"),
    ],
)
def test_what_is_no_image_is_refused(detector, image, said):
    with pytest.raises(ImageError, match=said):
        detector([image])
    with pytest.raises(ImageError, match=said):
        detector(image)


def test_ground_truth_is_checked(detector, images, caplog):
    image, box = images[0], [[1, 2, 30, 40]]
    for truth, said in (
        ((image, box, ["cat"]), "the detector does not know cat; it knows bar-h"),
        ((image, box, []), r"0 names need boxes \(0, 4\), got an array \(1, 4\)"),
        ((image, [[5, 5, 5, 9]], ["ring"]), "x1 < x2 and y1 < y2"),
        ((image, [[np.nan, 5, 5, 9]], ["ring"]), "x1 < x2 and y1 < y2"),
        (Truth(image, box, ["ring"], ignored=[True, False]), r"1 boxes need ignored \(1,\), got an array \(2,\)"),
        (Truth(image, box, ["ring"], ignored=[[True]]), r"1 boxes need ignored \(1,\), got an array \(1, 1\)"),
        (Truth(image, box, ["ring"], areas=[-5]), "areas must be square pixels"),
        (Truth(image, box, ["ring"], areas=[np.nan]), "areas must be square pixels"),
        (Truth(image, box, ["ring"], areas=["a"]), "areas must be a value per box"),
        ((image, box, [3]), "the detector does not know 3; it knows bar-h"),
        ((image, [["a", "b", "c", "d"]], ["ring"]), r"boxes must be numbers \(n, 4\)"),
        ((image, box), r"image 0: needed is a list of Truth\(image, boxes, names\)"),
        (None, r"image 0: needed is a list of Truth"),
        ((image, [[0.1, 0.1, 0.5, 0.5]], ["ring"]), "box 0: .*shares of the image instead of pixels"),
        ((image, [*box, [5000, 5, 5010, 9]], ["ring"] * 2), "box 1: .*lies outside the"),
        ((image, [*box, [5, 5, 50, 5000]], ["ring"] * 2), "box 1: .*reaches beyond the"),
    ):
        with pytest.raises(UserError, match=said):
            detector.evaluate([truth])
    with pytest.raises(UserError, match="there is no image to evaluate"):
        detector.evaluate([])
    with pytest.raises(UserError, match="needed is a list of Truth"):
        detector.evaluate(Truth(image, box, ["ring"]))
    assert detector.evaluate([(image, box, ["ring"])]).per_class()["ring"]["boxes"] == 1
    # As in a dataset: one of two identical boxes is left out, and one that reaches out a little is clipped.
    found = detector.evaluate([(image, [*box, *box, [-0.8, 2, 30, 40]], ["ring"] * 3)])
    assert found.per_class()["ring"]["boxes"] == 2
    assert "boxes to evaluate with: 1 x box clipped to the image, 1 x box left out (the first one" in caplog.text
    assert detector.evaluate([Truth(image, box, ["ring"], ignored=[True])]).figures()["AP"] is None
    assert detector.evaluate([Truth(image, box, ["ring"], areas=[10])]).figures()["AP_small"] is not None


@pytest.mark.slow
def test_thresholds_of_the_run_folder(folder, detector, images, tmp_path, caplog):
    whole = detector(images[0])[0]
    assert detector.limits == 0
    name = whole.names[0]
    middle = float(np.median(whole.scores))
    thresholds = Thresholds({name: middle}, 1.0, {name: 0.5}, {name: 20}, 8, "val")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    shutil.copy(folder / "checkpoints/best.ckpt", tmp_path / "run/checkpoints")
    thresholds.write(tmp_path / "run/thresholds.json")
    wanted = whole[(whole.scores >= middle) & (np.array(whole.names) == name)]
    assert 0 < len(wanted) < len(whole)
    with caplog.at_level(logging.INFO, "lightning_det"):
        own = load(tmp_path / "run/checkpoints/best.ckpt")
    assert "detections need the scores of" in caplog.text
    assert own.limits == thresholds
    assert same(own(images[0]), [wanted])
    # A measurement is of all detections.
    truth = [(images[0], [[1, 2, 30, 40]], ["ring"])]
    assert own.evaluate(truth).figures() == detector.evaluate(truth).figures()
    given = load(folder, thresholds=tmp_path / "run")
    assert same(given(images[0]), [wanted])
    given.limits = middle
    assert same(given(images[0]), [whole[whole.scores >= middle]])
    (tmp_path / "run/thresholds.json").unlink()
    assert load(tmp_path / "run").limits == 0.3
    Thresholds({}, None, {}, {"cat": 3}, 8, "val").write(tmp_path / "cats.json")
    with pytest.raises(ConfigError, match=r"cats.json: of other classes than the detector's, which are bar-h"):
        load(folder, thresholds=tmp_path / "cats.json")


@pytest.mark.slow
def test_settings_that_have_no_effect_are_refused(folder, tmp_path):
    for given, said in (
        ({"overrides": ["trainer.devices=2"]}, "trainer.devices beside a checkpoint: load does not read it"),
        ({"overrides": ["draw_threshold=0.5"]}, "draw_threshold"),
        ({"overrides": ["test.nms_io=0.5"]}, r"did you mean test.nms_iou\?"),
        ({"overrides": "test.nms_iou=0.5"}, "overrides must be a list of texts"),
        ({"test": ["tile"]}, "test=tile: there is no such option; did you mean tiles"),
        ({"test": "tiles"}, r"test must be a list of options, such as \['tiles'\]"),
        ({"test": [3]}, "test must be a list of options"),
        ({"overrides": ["hydra.run.dir=x"]}, "hydra.run.dir: of a command"),
        ({"score_threshold": "high"}, "score_threshold=high: needed is 0"),
        ({"score_threshold": 0.001}, r"overrides=\['test.score_threshold=0.001'\]"),
        ({"score_threshold": 0.5, "thresholds": "x"}, "give one of them"),
        ({"batch_size": 0}, "batch sizes must be at least 1"),
        ({"half": "no"}, "half='no': must be True or False"),
        ({"overrides": ["dataset.root=photos"]}, "dataset.root beside a checkpoint: load does not read it"),
        ({"device": "tpu"}, "device=tpu: "),
        ({"device": "cuda:77"}, "device=cuda:77: .*device='cpu' does without"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(folder, **given)
    with pytest.raises(UserError, match=r"none.json: no such file"):
        load(folder, thresholds=tmp_path / "none.json")
    with pytest.raises(ConfigError, match="no such checkpoint"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean .*trained_for_python\?"):
        load(f"{folder}s")
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load(tmp_path / "x.ckpt")


def test_lightnings_own_way_is_refused(folder):
    with pytest.raises(UserError, match=r"lightning_det.load\('x.ckpt'\).module is the module of a checkpoint"):
        DetectionModule.load_from_checkpoint("x.ckpt")
    module = load(folder).module
    with pytest.raises(RuntimeError, match=r"lightning_det.compose\(\['weights=RUN'"):
        module.configure_optimizers()


def test_half_precision_scores_nearly_the_same(folder, detector, images):
    found, expected = everything(folder, half=True)(images), detector(images)
    assert not same(found, expected)
    best = [[one.scores[0] for one in each] for each in (found, expected)]
    np.testing.assert_allclose(*best, rtol=0.05)


def test_nothing_is_left_behind(folder, images, tmp_path, monkeypatch, capfd):
    GlobalHydra.instance().clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["own", "--arguments"])
    loggers = logging.getLogger(), logging.getLogger("lightning_det"), logging.getLogger("pytorch_lightning")

    def state():
        generators = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002
        return generators, [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]

    before = state()
    variables = dict(os.environ)
    assert load(folder)(images[0])
    assert state() == before
    assert (dict(os.environ), sys.argv) == (variables, ["own", "--arguments"])
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_inside_another_hydra_app(folder, tmp_path):
    (tmp_path / "app.yaml").write_text("hydra:\n  job:\n    name: own\ntest: mine\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        whole = hydra_compose("app", overrides=["test=yours"], return_hydra_config=True)
        HydraConfig.instance().set_config(whole)
        hydra = GlobalHydra.instance().hydra
        try:
            tiles = load(folder, test=["tiles"], overrides=["views.test.windows.size=64"])
            assert tiles.settings.views.test.windows.size == 64
            assert GlobalHydra.instance().hydra is hydra
            assert OmegaConf.select(HydraConfig.get(), "job.name") == "own"
            assert hydra_compose("app").test == "mine"
        finally:
            HydraConfig.instance().cfg = None


@pytest.mark.slow
def test_in_threads(folder, detector, images):
    with ThreadPoolExecutor(3) as pool:
        options = [[], TILES, []]
        first, tiles, last = pool.map(lambda overrides: everything(folder, overrides=overrides)(images[:2]), options)
    assert same(first, last)
    assert same(first, detector(images[:2]))
    assert not same(first, tiles)


def test_importing_the_package_is_cheap():
    code = """
import os, sys, lightning_det
assert {"load", "compose", "Truth"} <= set(dir(lightning_det))
slow = {"torch", "numpy", "hydra", "pytorch_lightning"} & set(sys.modules)
print(sum(os.times()[:2]), *slow)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *slow = done.stdout.split()
    assert not slow
    assert float(seconds) < 0.3


def test_all_names_of_the_package():
    assert all(getattr(lightning_det, name).__name__ == name for name in lightning_det.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'detect'"):
        lightning_det.detect  # noqa: B018
