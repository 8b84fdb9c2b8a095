"""Images of every kind become the pixels that the readers of files make."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lightning_det.annotations import LabelMap
from lightning_det.data.images import decode
from lightning_det.data.opening import ImageError
from lightning_det.evaluation.results import Results
from lightning_det.inference import engine
from lightning_det.inference.detections import ImageDetections, detections_of
from lightning_det.inference.pictures import picture_of
from lightning_det.system.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def pixels_of(image):
    return picture_of(image, 0).read()


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_pillow_images_are_turned_as_their_files(kind, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"image.{kind}"
    quality = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(PIXELS).save(file, exif=exif, **quality)
    expected = decode(file)
    with Image.open(file) as image:
        picture = picture_of(image, 0)
    assert (picture.height, picture.width) == tuple(expected.shape[1:]) == ((8, 6) if orientation > 4 else (6, 8))
    torch.testing.assert_close(picture.read(), expected, rtol=0, atol=8 if kind == "jpg" else 0)  # two decoders
    assert torch.equal(pixels_of(file), expected)
    # One that is turned already is not turned again.
    torch.testing.assert_close(pixels_of(ImageOps.exif_transpose(image_of(file))), picture.read(), rtol=0, atol=0)


def image_of(file):
    with Image.open(file) as image:
        image.load()
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_modes_of_pillow_are_those_of_files(mode, tmp_path):
    made = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    image = Image.fromarray(made) if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    file = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    image.save(file)
    assert torch.equal(pixels_of(image), decode(file))


def test_pixels_without_a_largest_value_are_refused(tmp_path):
    grey = Image.fromarray(PIXELS).convert("L")
    for mode in ("I", "F"):
        with pytest.raises(ImageError, match="of which nobody says what is white"):
            picture_of(grey.convert(mode), 0)
    made = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    Image.fromarray(made).save(tmp_path / "wide.png")
    with Image.open(tmp_path / "wide.png") as image:
        assert torch.equal(pixels_of(image), decode(tmp_path / "wide.png"))


def test_files_with_names_that_are_none_are_refused(tmp_path):
    for name, words in ((os.fsdecode(b"\xfc.png"), "not UTF-8"), ("x" * 300 + ".png", "File name too long")):
        with pytest.raises(ImageError, match=words):
            picture_of(tmp_path / name, 0)


def test_grey_and_transparent_arrays_and_tensors():
    grey, alpha = PIXELS[..., 0], PIXELS[..., :1]
    tensor = torch.from_numpy(grey.copy())[None]
    for image in (grey, grey[..., None], tensor, tensor / 255):
        assert torch.equal(pixels_of(image), tensor.expand(3, 6, 8))
    colour = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    for image in (PIXELS, np.dstack([PIXELS, alpha]), torch.cat([colour, colour[:1]]), (colour / 255).half().float()):
        assert torch.equal(pixels_of(image), colour)
    assert torch.equal(pixels_of((colour / 255).requires_grad_()), colour)


def test_pixels_are_in_memory_of_their_own():
    array = PIXELS.copy()
    kept = picture_of(array, 0).kept()
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    other = picture_of(tensor, 0).kept()
    expected = tensor.clone()
    array[:], tensor[:] = 0, 0
    assert torch.equal(kept.read(), expected)
    assert torch.equal(other.read(), expected)


def test_a_file_that_changes_is_noticed(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    picture = picture_of(tmp_path / "image.png", 0)
    Image.fromarray(PIXELS[:4]).save(tmp_path / "image.png")
    with pytest.raises(ImageError, match=r"image.png: changed while it was read"):
        picture.read()


def test_an_image_with_many_views_is_read_once(monkeypatch):
    """As long as few others come between them."""
    reads = []

    def reading(number):
        def read():
            reads.append(number)
            return torch.zeros(3, 10, 10, dtype=torch.uint8)

        return read

    pictures = [picture_of(np.zeros((10, 10), np.uint8), n)._replace(read=reading(n)) for n in range(4)]
    monkeypatch.setattr(engine, "KEPT", 250)
    recent = engine.Recent(pictures)
    for number in (0, 0, 1, 0, 2, 0, 1, 3, 0):
        assert recent(number).shape == (3, 10, 10)
    assert reads == [0, 1, 2, 1, 3, 0]


def found():
    labels = LabelMap(["cat", "dog"], [7, 90])
    boxes = np.array([[1, 2, 3, 5], [0, 0, 8, 8], [2, 2, 4, 4]], np.float32)
    results = Results(np.array([1, 0, 1]), boxes, np.array([0.25, 0.5, 0.75], np.float32), np.array([1, 0, 1]))
    pictures = [picture_of(PIXELS, number) for number in range(3)]
    return detections_of(results, engine.store_of(pictures, labels))


def test_detections_of_images():
    first, second, third = found()
    assert [image.image for image in (first, second, third)] == ["image 0", "image 1", "image 2"]
    assert (first.names, second.names, third.names) == (("cat",), ("dog", "dog"), ())
    assert second.scores.tolist() == [0.75, 0.25]
    assert second.to_coco(5) == [
        {"image_id": 5, "category_id": 90, "bbox": [2, 2, 2, 2], "score": 0.75},
        {"image_id": 5, "category_id": 90, "bbox": [1, 2, 2, 3], "score": 0.25},
    ]
    assert third.to_coco("x") == []
    assert second[second.scores < 0.5].boxes.tolist() == [[1, 2, 3, 5]]
    assert isinstance(second[:1], ImageDetections)
    assert (repr(second), repr(third)) == ("<2 detections in image 1: 2 dog>", "<0 detections in image 2>")
    assert second.size == (6, 8)


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_detections_for_supervision():
    supervision = pytest.importorskip("supervision")
    _, second, third = found()
    made = second.to_supervision()
    assert isinstance(made, supervision.Detections)
    assert made.xyxy.tolist() == second.boxes.tolist()
    assert made.confidence.tolist() == [0.75, 0.25]
    assert made.class_id.tolist() == [1, 1]
    assert made["class_name"].tolist() == ["dog", "dog"]
    assert len(third.to_supervision()) == 0


def test_supervision_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match=r"pip install 'lightning-det\[supervision\]'"):
        found()[0].to_supervision()
