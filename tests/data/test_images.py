"""Every kind of image file becomes the picture that it shows."""

import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo
from support.folders import read_folder

import lightning_det
from lightning_det.annotations import LabelMap
from lightning_det.data import images, opening, sizes
from lightning_det.data.images import decode
from lightning_det.data.inspection import damaged_images
from lightning_det.data.opening import ImageError
from lightning_det.data.orientation import ORIENTATION
from lightning_det.data.sizes import decoded_size, image_size


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
    exif[ORIENTATION] = orientation
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
        assert Image.open(tmp_path / name).getexif()[ORIENTATION] == 6
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


def saved(path, kind):
    image = Image.new("RGB", (40, 30), "red")
    image = image.convert("1") if kind == "XBM" else image
    image.save(path, format=kind)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "IM", "TGA", "PCX", "SGI", "DDS", "ICO", "XBM"])
@pytest.mark.parametrize("name", ["1.jpg", "1.png"])
def test_only_listed_kinds_are_opened(tmp_path, monkeypatch, kind, name):
    """Whatever the name is: what Pillow opens beside them may be a program, or written for nobody's photographs."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("the file was run"))
    saved(tmp_path / name, kind)
    for function in (decode, image_size, decoded_size):
        with pytest.raises(
            ImageError, match=rf"{name}: not an image of a kind that is read \(BMP, GIF, JPEG, JPEG2000"
        ):
            function(tmp_path / name)
    store, problems = read_folder(tmp_path, LabelMap(["a"]))
    assert (len(store), len(problems)) == (0, 1)


def test_no_listed_kind_runs_anything():
    assert set(opening.FORMATS) == {"BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"}


def test_images_are_opened_in_one_place():
    """Only there the list of kinds is given."""
    root = Path(lightning_det.__file__).parent
    found = {p.name: p.read_text() for p in root.rglob("*.py")}
    calls = re.compile(r"Image\.open\(|imread\(|read_image\(|decode_image\(|decode_(?!jpeg)\w+\(|[^.\w]cv2\b")
    assert {name for name, text in found.items() if calls.search(text)} == {"opening.py"}
    assert found["opening.py"].count("Image.open(") == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((4, 5), 300_000, np.int32), "integer pixels of 32 bits"),
        (np.full((4, 5), 0.5, np.float32), "floating-point pixels"),
    ],
)
def test_numbers_without_a_largest_one_are_refused(tmp_path, values, reason):
    """They would all be white, or all black."""
    Image.fromarray(values).save(tmp_path / "x.tif")
    for function in (decode, image_size):
        with pytest.raises(ImageError, match=f"{reason}.*nobody says what is white; convert it to 8 or 16 bits"):
            function(tmp_path / "x.tif")


def test_colours_that_are_not_rgb_are_refused_by_name(tmp_path, picture):
    ImageCms.profileToProfile(
        Image.fromarray(picture), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    ).save(tmp_path / "x.tif")
    for function in (decode, image_size):
        with pytest.raises(ImageError, match="pixels of kind LAB; convert it to RGB"):
            function(tmp_path / "x.tif")


@pytest.mark.parametrize("suffix", ["png", "ppm", "jp2"])
def test_sixteen_bits_of_every_kind_keep_their_range(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / f"x.{suffix}")
    pixels = decode(tmp_path / f"x.{suffix}")
    assert np.abs(pixels[0].numpy().astype(float) - ramp / 257).max() <= 0.51
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_the_first_of_several_pictures_is_taken(tmp_path, picture):
    first, second = Image.fromarray(picture), Image.fromarray(255 - picture)
    for name in ("x.gif", "x.png", "x.webp", "x.tif"):
        options = {"lossless": True} if name == "x.webp" else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        same(tmp_path / name, picture, 4)
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    assert Image.open(tmp_path / "x.jpg").format == "MPO"
    same(tmp_path / "x.jpg", picture, 4)


def test_text_that_grows_in_a_png_is_refused(tmp_path, picture):
    text = PngInfo()
    text.add_text("a", "x" * 2**24, zip=True)
    Image.fromarray(picture).save(tmp_path / "x.png", pnginfo=text)
    assert (tmp_path / "x.png").stat().st_size < 10**5
    for function in (decode, image_size):
        with pytest.raises(ImageError, match="Decompressed data too large"):
            function(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
def test_broken_exif_never_ends_in_a_traceback(tmp_path, picture, suffix):
    """Pixels are read or the file is named; header and pixels agree on the size."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010E] = 6, "a picture"
    file = tmp_path / f"x.{suffix}"
    Image.fromarray(picture).save(file, exif=exif)
    whole = file.read_bytes()
    where = whole.index(b"a picture")
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(max(0, where - 40), where + 9, 2):
            content[place] = rng.integers(256)
        file.write_bytes(content)
        try:
            size = image_size(file)
            found.append(size == (lambda p: (p.shape[2], p.shape[1]))(decode(file)))
        except ImageError:
            continue
    assert len(found) > 30
    assert all(found)


def without_decoding(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded for a header"))


def test_exif_behind_the_pixels_of_a_png(tmp_path, picture, monkeypatch):
    """It counts wherever it stands, and is found without the pixels."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(picture).save(tmp_path / "x.png", exif=exif)
    content = (tmp_path / "x.png").read_bytes()
    start = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[start : start + 4])
    chunk, rest = content[start : start + length], content[:start] + content[start + length :]
    (tmp_path / "x.png").write_bytes(rest[:-12] + chunk + rest[-12:])
    same(tmp_path / "x.png", picture[::-1].transpose(1, 0, 2), 0.01)
    without_decoding(monkeypatch)
    assert image_size(tmp_path / "x.png") == (48, 64)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif", "ppm", "jp2"])
def test_headers_are_read_without_the_pixels(tmp_path, picture, monkeypatch, suffix):
    Image.fromarray(picture).save(tmp_path / f"x.{suffix}")
    without_decoding(monkeypatch)
    assert image_size(tmp_path / f"x.{suffix}") == (64, 48)


def test_a_damaged_png_is_found_by_its_checksums(tmp_path, picture):
    """And one whose checksums alone are wrong is none."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    content = bytearray((tmp_path / "x.png").read_bytes())
    middle = len(content) // 2
    (tmp_path / "x.png").write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(ImageError, match="damaged image"):
        image_size(tmp_path / "x.png")
    checksum = content.index(b"IEND") - 5
    (tmp_path / "x.png").write_bytes(content[:checksum] + bytes([content[checksum] ^ 1]) + content[checksum + 1 :])
    assert image_size(tmp_path / "x.png") == (64, 48)


class Watched:
    """Stands for `decode`, and knows how many images were being decoded at once, and by how many threads."""

    def __init__(self):
        self.now, self.most, self.names, self.lock = 0, 0, [], threading.Lock()

    def __call__(self, path):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.names.append(path.name)
        time.sleep(0.01)  # others may come in
        with self.lock:
            self.now -= 1
        return torch.zeros(3, 48, 64, dtype=torch.uint8)


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(sizes, "decode", Watched())
    return sizes.decode


def many(folder, picture, suffix="png", more=b"", count=24):
    for number in range(count):
        Image.fromarray(picture).save(folder / f"{number}.{suffix}")
        with (folder / f"{number}.{suffix}").open("ab") as file:
            file.write(more)


@pytest.mark.parametrize(("large", "most"), [(64 * 48, 1), (64 * 48 + 1, 8)])
def test_checks_decode_large_images_one_at_a_time(tmp_path, picture, monkeypatch, watched, large, most):
    many(tmp_path, picture)
    monkeypatch.setattr(sizes, "LARGE", large)
    store, _ = read_folder(tmp_path, LabelMap(["a"]))
    assert len(store) == 24
    assert damaged_images(store) == []
    assert len(watched.names) == 48
    assert watched.most <= most


def test_headers_without_an_end_are_decoded_one_at_a_time_too(tmp_path, picture, monkeypatch, watched):
    many(tmp_path, picture, "jpg", bytes(1000))
    monkeypatch.setattr(sizes, "LARGE", 64 * 48)
    found, problems = sizes.check_all(sorted(tmp_path.iterdir()), image_size, "")
    assert (set(found), problems) == ({(64, 48)}, {})
    assert (len(watched.names), watched.most) == (24, 1)


def test_large_images_that_are_damaged_do_not_stop_the_others(tmp_path, picture, monkeypatch):
    many(tmp_path, picture, count=5)
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(sizes, "LARGE", 1)
    found, problems = sizes.check_all(sorted(tmp_path.iterdir()), decoded_size, "")
    assert [size for size in found if size] == [(64, 48)] * 4
    assert list(problems) == [2]


def test_eight_of_the_smaller_images_need_a_gigabyte():
    """At 4 bytes a pixel in Pillow and 3 in arrays; those of most cameras are among them."""
    assert 12e6 < images.LARGE <= 2**30 / 8 / 7


def test_absurd_sizes_are_refused_before_decoding(tmp_path, picture, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "x.png")
    monkeypatch.setattr(opening, "MAX_PIXELS", 100)
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
