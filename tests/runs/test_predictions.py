"""Files that `predict` leaves: pictures, crops, COCO results; and the scores from which detections are shown."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO

from lightning_det.annotations import LabelMap
from lightning_det.config import ConfigError
from lightning_det.data.folder import without_boxes
from lightning_det.evaluation.results import Results
from lightning_det.evaluation.thresholds import Thresholds
from lightning_det.plotting.colours import class_colour
from lightning_det.runs.coco_output import Ids, write_coco
from lightning_det.runs.drawings import Drawing, check_drawing, file_stems, write_drawings
from lightning_det.runs.predictions_file import say_counts, summarize
from lightning_det.runs.score_thresholds import shown_scores
from lightning_det.runs.sources import Part, Source
from lightning_det.system.errors import UserError

LABELS = LabelMap(["car", "traffic light/left"], [3, 10])
FILES = ["a.jpg", "a.png", "sub/b.bmp"]


@pytest.fixture
def source(tmp_path):
    """Three images of 60 x 40 pixels."""
    for file in FILES:
        (tmp_path / "in" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 60, 3), 100, np.uint8)).save(tmp_path / "in" / file)
    sizes = np.full(3, 60, np.int32), np.full(3, 40, np.int32)
    store = without_boxes(tmp_path / "in", FILES, *sizes, LABELS)
    return Source([Part(store, "", None)], [], tmp_path / "in")


@pytest.fixture
def results():
    """Two detections in the first image and one in the third."""
    boxes = np.array([[10, 10, 34, 30], [40.4, 5.5, 70, 20], [5, 5, 29, 29]], np.float32)
    scores, labels = np.array([0.5, 0.9, 0.2], np.float32), np.array([0, 1, 0])
    return Results(np.array([0, 0, 2]), boxes, scores, labels, np.arange(3))


def drawing(folder, **changes):
    return replace(Drawing(folder, pictures=True, crops=False, labels="auto", scale=1.0), **changes)


def files_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_pictures_are_named_like_their_images(source, results, tmp_path):
    write_drawings(source, [results], LABELS, drawing(tmp_path / "out"))
    assert files_in(tmp_path / "out") == ["pictures/a.jpg.jpg", "pictures/a.png.png", "pictures/sub/b.png"]
    picture = np.asarray(Image.open(tmp_path / "out/pictures/sub/b.png"))
    assert (picture[4, 5:29] == np.array(class_colour(0))).all()
    assert np.asarray(Image.open(tmp_path / "out/pictures/a.png.png")).shape == (40, 60, 3)  # nothing was found there
    write_drawings(source, [results], LABELS, drawing(tmp_path / "large", scale=3.0))
    assert Image.open(tmp_path / "large/pictures/a.png.png").size == (180, 120)


@pytest.mark.parametrize(
    ("files", "stems"),
    [
        (["a.jpg", "sub/a.jpg"], ["a", "sub/a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "A.JPG"], ["a.jpg", "A.JPG-2"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg.png-2"]),
        (["photo", "v1.2.jpg"], ["photo", "v1.2"]),
    ],
)
def test_names_do_not_collide(files, stems):
    assert file_stems(files) == stems


def test_crops_are_named_by_image_class_and_rank(source, results, tmp_path):
    write_drawings(source, [results], LABELS, drawing(tmp_path / "out", pictures=False, crops=True))
    assert files_in(tmp_path / "out") == [
        "crops/a.jpg_car_002.jpg",
        "crops/a.jpg_traffic-light-left_001.jpg",
        "crops/sub/b_car_001.png",
    ]
    assert Image.open(tmp_path / "out/crops/a.jpg_traffic-light-left_001.jpg").size == (20, 15)  # within the image
    assert Image.open(tmp_path / "out/crops/sub/b_car_001.png").size == (24, 24)


def test_the_folder_of_the_images_is_no_output(source, tmp_path):
    check_drawing(source, drawing(tmp_path / "in/out"))
    for folder in ("in", "in/sub", "in/sub/.."):
        with pytest.raises(ConfigError, match=f"output=.*{folder}: the folder of images"):
            check_drawing(source, drawing(tmp_path / folder))
    moved = replace(source.parts[0].store, root=tmp_path / "pictures")
    inside = Source([Part(moved, "", None)], [], tmp_path)
    with pytest.raises(ConfigError):
        check_drawing(inside, drawing(tmp_path))


def test_pictures_that_would_be_too_large_are_refused(source, tmp_path):
    wide = replace(source.parts[0].store, widths=np.full(3, 20_000, np.int32))
    large = source._replace(parts=[Part(wide, "", None)])
    check_drawing(large, drawing(tmp_path / "out", scale=1.0))
    with pytest.raises(ConfigError, match="draw_scale=3: too much for images of 20000 pixels; at most 1"):
        check_drawing(large, drawing(tmp_path / "out", scale=3.0))


def test_options_of_drawing():
    def options(**given):
        given = {"pictures": True, "crops": False, "draw_labels": "auto", "draw_scale": "auto"} | given
        return Drawing.of(OmegaConf.create(given), "out")

    assert options().scale is None
    assert options(draw_scale=2, draw_labels=False).scale == 2.0
    for wrong in ({"draw_scale": 0}, {"draw_scale": "big"}, {"draw_scale": True}, {"draw_scale": 100}):
        with pytest.raises(ConfigError, match=r"draw_scale=.*auto, or a number up to 16"):
            options(**wrong)
    for wrong in ({"crops": 3}, {"pictures": 12}, {"crops": "some"}):
        with pytest.raises(ConfigError, match=r"(crops|pictures)=(3|12|some): must be true or false"):
            options(**wrong)
    with pytest.raises(ConfigError, match="draw_labels=some: must be auto, true or false"):
        options(draw_labels="some")
    for unused in ({"draw_scale": 2}, {"draw_labels": True}):
        with pytest.raises(ConfigError, match="are for pictures"):
            options(pictures=False, **unused)
    assert not options(pictures=False).pictures


def test_predictions_json(source, results):
    content = summarize(source, [results], LABELS, np.array([0.4, 0.5]))
    assert content["thresholds"] == {"car": 0.4, "traffic light/left": 0.5}
    assert [image["file"] for image in content["images"]] == FILES
    assert [[d["score"] for d in image["detections"]] for image in content["images"]] == [
        pytest.approx([0.9, 0.5]),
        [],
        pytest.approx([0.2]),
    ]
    assert (content["videos"], content["problems"]) == ([], [])
    json.dumps(content)


# COCO results


def test_coco_results_with_numbered_images(source, results, tmp_path):
    twice = source._replace(parts=[*source.parts, *source.parts])
    write_coco(twice, [results, results], LABELS, tmp_path, None)
    truth = COCO(str(tmp_path / "coco_images.json"))
    found = truth.loadRes(str(tmp_path / "coco_results.json"))
    assert [truth.imgs[n]["file_name"] for n in sorted(truth.imgs)] == FILES * 2
    assert truth.cats[10]["name"] == "traffic light/left"
    rows = [(a["image_id"], a["category_id"], a["bbox"]) for a in found.anns.values()]
    assert rows[0] == (1, 3, [10, 10, 24, 20])
    assert [row[0] for row in rows] == [1, 1, 3, 4, 4, 6]


def annotations(file, images, categories):
    content = {
        "images": [{"id": n, "file_name": name} for n, name in images],
        "categories": [{"id": n, "name": name} for n, name in categories],
        "annotations": [],
    }
    file.write_text(json.dumps(content), encoding="utf-8-sig")  # as Windows writes it
    return Ids.read(file, LABELS)


def test_coco_results_with_the_ids_of_an_annotation_file(source, results, tmp_path, caplog):
    every = [(900, "a.jpg"), (901, "a.png"), (7, "b.bmp")]
    ids = annotations(tmp_path / "truth.json", every, [(1, "car"), (2, "traffic light/left")])
    write_coco(source, [results], LABELS, tmp_path, ids)
    rows = json.loads((tmp_path / "coco_results.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(900, 1), (900, 2), (7, 1)]
    assert not (tmp_path / "coco_images.json").exists()
    assert not caplog.records
    write_coco(source, [results], LABELS, tmp_path, annotations(tmp_path / "b.json", every[:2], [(1, "car")]))
    assert len(json.loads((tmp_path / "coco_results.json").read_text())) == 1
    assert "2 detections are left out, in 1 images and of 1 classes" in caplog.text
    assert "sub/b.bmp, traffic light/left" in caplog.text


def test_annotation_files_that_do_not_fit(source, results, tmp_path):
    with pytest.raises(UserError, match="has none of the images, such as a"):
        write_coco(source, [results], LABELS, tmp_path, annotations(tmp_path / "t.json", [(1, "x.jpg")], [(1, "car")]))
    with pytest.raises(UserError, match="has none of the detector's classes, which are car, traffic light/left"):
        annotations(tmp_path / "t.json", [(1, "a.jpg")], [(1, "bird")])
    for content in ("[]", "{}", "no json", '{"images": [{"id": 1}], "categories": []}'):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(UserError, match=r"t\.json: not an annotation file of COCO"):
            Ids.read(tmp_path / "t.json", LABELS)


# Thresholds and counts


def thresholds(per_class, overall=None, f1=None):
    return Thresholds(per_class, overall, f1 or {}, {"car": 50, "bicycle": 3}, 20, "val (shapes)")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/best.ckpt").touch()
    return tmp_path / "run"


def options(run, **given):
    return SimpleNamespace(**({"checkpoint": str(run), "thresholds": None, "draw_threshold": None} | given))


def test_thresholds_of_the_run(run, tmp_path, caplog):
    caplog.set_level("INFO")
    assert shown_scores(options(run), LABELS, 0.01).tolist() == [0.3, 0.3]
    assert "at least 0.3; no evaluation has left" in caplog.text
    thresholds({"car": 0.62}).write(run / "thresholds.json")
    for checkpoint in (run, run / "checkpoints/best.ckpt"):
        assert shown_scores(options(checkpoint), LABELS, 0.01).tolist() == [0.62, 0.3]
    assert "on val (shapes): car 0.62, others 0.30 (" in caplog.text
    assert "hardly learned" not in caplog.text
    thresholds({}, overall=0.45).write(tmp_path / "other.json")
    assert shown_scores(options(run, thresholds=str(tmp_path / "other.json")), LABELS, 0.01).tolist() == [0.45, 0.45]
    assert shown_scores(options(run, draw_threshold=0.1), LABELS, 0.01).tolist() == [0.1, 0.1]
    assert "at least draw_threshold=0.1" in caplog.text
    assert "drops candidates" not in caplog.text
    shown_scores(options(run, draw_threshold=0.001), LABELS, 0.01)
    assert "draw_threshold=0.001: the detector drops candidates below test.score_threshold=0.01" in caplog.text
    thresholds({"car": 0.1}, f1={"car": 0.05}).write(run / "thresholds.json")
    shown_scores(options(run), LABELS, 0.01)
    assert "hardly learned, by their F1 there: car 0.05" in caplog.text
    missed = Thresholds({}, None, {"car": 0.05}, {"car": 50, LABELS.names[1]: 50}, 8, "val")
    missed.write(run / "thresholds.json")
    shown_scores(options(run), LABELS, 0.01)
    assert "hardly learned, by their F1 there: traffic light/left 0.00, car 0.05" in caplog.text


def test_thresholds_that_do_not_fit(run, tmp_path):
    thresholds({}).write(tmp_path / "t.json")
    with pytest.raises(ConfigError, match=r"t\.json: of other classes than the detector's, which are bird"):
        shown_scores(options(run, thresholds=str(tmp_path / "t.json")), LabelMap(["bird"]), 0.01)
    for wrong in (-0.1, 1.5):
        with pytest.raises(ConfigError, match="must be from 0 to 1"):
            shown_scores(options(run, draw_threshold=wrong), LABELS, 0.01)
    with pytest.raises(ConfigError, match="draw_threshold and thresholds both"):
        shown_scores(options(run, draw_threshold=0.1, thresholds=str(run)), LABELS, 0.01)


def test_detections_above_the_thresholds_of_their_classes(results):
    assert results.above(np.array([0.5, 0.95])).scores.tolist() == [0.5]
    assert results.above(np.array([0.6, 0.1])).seen.tolist() == [0, 1, 2]


def test_counts(source, results, caplog):
    caplog.set_level("INFO")
    say_counts(source, [results], [results.above(np.array([0.3, 0.3]))], LABELS, 1.5)
    assert "3 images, 0.5 s per image; 2 detections are shown: car 1, traffic light/left 1;" in caplog.text
    assert caplog.text.endswith("predictions.json has all 3\n")
