"""Every kind of image file becomes the picture that it shows."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_det.data import images
from lightning_det.data.images import ImageError, decode, image_size


@pytest.fixture(scope="module")
def picture():
    """Coarse blocks survive JPEG; no two sides or corners look alike."""
    blocks = np.random.default_rng(0).integers(0, 256, (3, 4, 3))
    return np.kron(blocks, np.ones((16, 16, 1))).astype(np.uint8)


def same(path, expected, tolerance):
    pixels = decode(path)
    assert pixels.dtype == torch.uint8
    assert image_size(path) == (pixels.shape[2], pixels.shape[1])
    found = pixels.permute(1, 2, 0).numpy()
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < tolerance


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif"])
def test_formats(tmp_path, picture, suffix):
    path = tmp_path / f"x.{suffix}"
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}
    Image.fromarray(picture).save(path, **options.get(suffix, {}))
    same(path, picture, 4)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_grey(tmp_path, picture, suffix):
    grey = Image.fromarray(picture).convert("L")
    grey.save(tmp_path / f"x.{suffix}")
    same(tmp_path / f"x.{suffix}", np.repeat(np.asarray(grey)[..., None], 3, axis=2), 3)


def test_cmyk(tmp_path, picture):
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "x.jpg", quality=95, subsampling=0)
    same(tmp_path / "x.jpg", picture, 4)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path, picture, suffix):
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / f"x.{suffix}")
    same(tmp_path / f"x.{suffix}", np.repeat(grey[..., None], 3, axis=2), 0.01)


def test_palette_and_transparency(tmp_path, picture):
    image = Image.fromarray(picture)
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    same(tmp_path / "p.png", picture, 4)
    image.putalpha(128)
    image.save(tmp_path / "a.png")
    same(tmp_path / "a.png", picture, 0.01)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, picture, suffix, orientation):
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(picture).save(path, exif=exif, **({"quality": 95, "subsampling": 0} if suffix == "jpg" else {}))
    turns = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: picture[::-1].transpose(1, 0, 2),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: picture[:, ::-1].transpose(1, 0, 2),
    }
    same(path, turns[orientation], 4)


def test_orientation_that_only_xmp_states(tmp_path, picture):
    """Pillow knows it, torchvision does not; with no word of it in Exif, and with other words there."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'
    for name, exif in (("a.jpg", None), ("b.jpg", Image.Exif())):
        if exif is not None:
            exif[0x010E] = "a picture"
        more = {} if exif is None else {"exif": exif}
        Image.fromarray(picture).save(tmp_path / name, quality=95, subsampling=0, xmp=xmp, **more)
        assert Image.open(tmp_path / name).getexif()[images.ORIENTATION] == 6
        same(tmp_path / name, picture[::-1].transpose(1, 0, 2), 4)


def test_bad_files_are_named(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "whole.jpg")
    Image.fromarray(picture[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: int(len(whole) * 0.9)])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(picture).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:120])
    for name, reason in [
        ("cut.jpg", "damaged image"),
        ("cut.png", "damaged image"),
        ("empty.jpg", "the file is empty"),
        ("text.png", "not an image"),
        ("none.jpg", "No such file"),
        ("float.tif", "floating-point pixels"),
    ]:
        with pytest.raises(ImageError, match=f"{name}: .*{reason}"):
            decode(tmp_path / name)


def test_absurd_sizes_are_refused_before_decoding(tmp_path, picture, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="64 x 48 pixels are more than 100"):
        decode(tmp_path / "x.png")
    with pytest.raises(ImageError, match="more than 100"):
        image_size(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_cut_off_file_has_no_size(tmp_path, picture, suffix):
    """Readers look at headers only, and shall find these all the same."""
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(picture).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-80])
    with pytest.raises(ImageError, match=f"x.{suffix}: damaged image"):
        image_size(path)
    # Cameras put more behind the end.
    path.write_bytes(whole + bytes(1000))
    assert image_size(path) == (64, 48)


@pytest.mark.parametrize("function", [decode, image_size])
def test_pipes_and_devices_are_not_opened(tmp_path, function):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "endless.jpg"):
        with pytest.raises(ImageError, match=f"{name}: not a regular file"):
            function(tmp_path / name)
