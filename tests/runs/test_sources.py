"""What can be predicted: files, folders, patterns and lists; what cannot be read is named."""

import os
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from lightning_det.annotations import DatasetError, LabelMap
from lightning_det.config import ConfigError
from lightning_det.data.sources import find_files
from lightning_det.runs.inputs import CHECKS, check_inputs
from lightning_det.runs.sources import read_source
from lightning_det.system.errors import UserError

LABELS = LabelMap(["car", "bus"])


@pytest.fixture
def images(tmp_path):
    """a.jpg, a.png, sub/b.png and sub/deep/c.jpg below ``photos``, and a text file among them."""
    for name in ("a.jpg", "a.png", "sub/b.png", "sub/deep/c.jpg"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 10, 3), 90, np.uint8)).save(file)
    (tmp_path / "photos/notes.txt").write_text("hello")
    return tmp_path / "photos"


def names(found):
    return [found.name(file) for file in found.files]


def test_folders_with_and_without_their_subfolders(images):
    assert names(find_files([str(images)])) == ["a.jpg", "a.png", "sub/b.png", "sub/deep/c.jpg"]
    assert names(find_files([str(images)], recursive=False)) == ["a.jpg", "a.png"]
    assert names(find_files([str(images / "sub")])) == ["b.png", "deep/c.jpg"]


def test_names_are_relative_to_the_folder_of_all_sources(images):
    assert names(find_files([str(images / "sub/b.png")])) == ["b.png"]
    several = find_files([str(images / "a.jpg"), str(images / "sub/deep")])
    assert names(several) == ["a.jpg", "sub/deep/c.jpg"]
    assert several.root == images


def test_patterns(images, monkeypatch, caplog):
    assert names(find_files([f"{images}/*.jpg"])) == ["a.jpg"]
    assert names(find_files([f"{images}/**/*.png"])) == ["a.png", "sub/b.png"]
    monkeypatch.chdir(images)
    caplog.clear()
    assert names(find_files(["sub/*"])) == ["b.png"]  # folders and their files are not meant
    assert "sub/* also matches 1 folders, which are not looked into" in caplog.text
    (images / "a[1].jpg").write_bytes((images / "a.jpg").read_bytes())
    assert names(find_files(["a[1].jpg"])) == ["a[1].jpg"]  # a file of this name is no pattern


def test_patterns_leave_out_what_was_predicted(images):
    (images / "sub/predictions.json").touch()
    found = find_files([f"{images}/**/*"])
    assert names(found) == ["a.jpg", "a.png"]
    assert [str(problem) for problem in found.problems] == [f"{images}/sub: predicted, for it holds predictions.json"]
    assert names(find_files([f"{images}/sub/*.png"])) == ["b.png"]  # named itself


def test_a_list_in_a_text_file(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["# the best", "", "a.jpg", f"{images}/sub/b.png", "photos/a.png", "sub/deep", "nothing.jpg", "*.gif"]
    (images / "best.txt").write_text("\ufeff" + "\r\n".join(lines))
    found = find_files([str(images / "best.txt")])
    assert names(found) == ["a.jpg", "sub/b.png", "a.png", "sub/deep/c.jpg"]
    assert [str(problem) for problem in found.problems] == [
        f"{images}/best.txt, line 7: no such file: nothing.jpg",
        f"{images}/best.txt, line 8: no such file: *.gif",
    ]


def test_every_file_is_predicted_once(images, caplog):
    caplog.set_level("INFO")
    found = find_files([str(images), str(images / "a.jpg"), f"{images}/sub/../*.png"])
    assert names(found) == ["a.jpg", "a.png", "sub/b.png", "sub/deep/c.jpg"]
    assert "predicted once: 2 repetitions" in caplog.text


def test_images_and_videos_are_told_apart(images):
    (images / "clip.MP4").touch()
    found = find_files([str(images)])
    assert [file.name for file in found.videos] == ["clip.MP4"]
    assert len(found.images) == 4


def test_nothing_to_predict_is_explained(images, tmp_path):
    (tmp_path / "empty/below").mkdir(parents=True)
    (tmp_path / "list.txt").write_text("# nothing\n")
    for source, recursive, words in (
        ("nowhere", True, "nowhere: no such image, folder or video"),
        (f"{tmp_path}/*.bmp", True, "no file matches it as a pattern"),
        (f"{images}/*.txt", True, "no image .* and no video .* matches this pattern"),
        (f"{tmp_path}/empty", True, r"no image \(.jpg, .* and no video \(.mp4, .* in this folder$"),
        (f"{tmp_path}/empty", False, "recursive=true looks into its subfolders too"),
        (f"{tmp_path}/list.txt", True, "it needs one path per line"),
    ):
        with pytest.raises(DatasetError, match=words):
            find_files([source], recursive)


def test_what_cannot_be_read_is_left_out_and_named(images):
    (images / "b.jpg").write_bytes(b"no image")
    (images / "clip.mp4").write_text("no video")
    source = read_source([str(images)], True, LABELS)
    assert list(source.parts[0].store.files) == ["a.jpg", "a.png", "sub/b.png", "sub/deep/c.jpg"]
    assert len(source.parts) == 1
    assert [Path(p.file).name for p in source.problems] == ["b.jpg", "clip.mp4"]
    assert source.root == images
    with pytest.raises(UserError, match=r"no image and no video can be read:\n.*b.jpg: .*\n.*clip.mp4: not a video"):
        read_source([str(images / "b.jpg"), str(images / "clip.mp4")], True, LABELS)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("photo/a.jpg", "no such image, folder or video"),
        ("photos/*.gif", "no file matches this pattern"),
        ("photos/a.jpeg", "did you mean photos/a.jpg?"),
        ("https://example.org/a.jpg", "an address; download it first"),
    ],
)
def test_missing_sources_are_refused_before_a_folder_is_made(images, monkeypatch, source, words):
    monkeypatch.chdir(images.parent)
    with pytest.raises(ConfigError, match=f"source={source.replace('*', '[*]')}: .*{words.replace('?', '[?]')}"):
        CHECKS["predict"]["source"]("source", source)
    for there in ("photos", "photos/a.jpg", "photos/*.jpg", "photos/**/*.png"):
        CHECKS["predict"]["source"]("source", there)


@pytest.mark.parametrize("source", [None, "", [], ["photos", None], [["photos"]]])
def test_a_source_that_names_nothing_is_refused(images, monkeypatch, source):
    """An empty text would be the working directory with all that is in it."""
    monkeypatch.chdir(images.parent)
    with pytest.raises(ConfigError, match=r"source=.*: must be an image, a video, a folder, a pattern, or a list"):
        check_inputs(OmegaConf.create({"source": source}), "predict")
    check_inputs(OmegaConf.create({"source": ["photos"]}), "predict")
    check_inputs(OmegaConf.create({"source": "???"}), "predict")  # Hydra says that it is missing


def test_names_that_no_result_can_have_are_reported(images):
    odd = Path(os.fsdecode(os.fsencode(images) + b"/\xfc.png"))
    odd.write_bytes((images / "a.png").read_bytes())
    for source in (f"{images}/*.png", str(odd), str(images)):
        found = find_files([source])
        assert odd not in found.files
        assert [p.reason for p in found.problems] == [
            "'\\udcfc.png' is too long for a file name with a suffix more, or not UTF-8"
        ]


def test_lines_of_a_list_that_give_nothing_are_reported(images):
    (images / "empty").mkdir()
    listing = images / "few.txt"
    listing.write_text(f"a.jpg\n{'x' * 300}.jpg\nempty\n")
    found = find_files([str(listing)])
    assert names(found) == ["a.jpg"]
    assert [(p.record, p.reason[:13]) for p in found.problems] == [
        ("line 2", "no such file:"),
        ("line 3", "no image (.jp"),
    ]
