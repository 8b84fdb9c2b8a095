"""Images that are read part by part show the same pixels as when they are decoded."""

import pickle
import warnings
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightning_det.data import images, sizes, windows
from lightning_det.data.dataset import render
from lightning_det.data.images import decode
from lightning_det.data.opening import ImageError
from lightning_det.data.resizing import HUGE, for_picture, resize_part
from lightning_det.data.sizes import decoded_size, image_size
from lightning_det.data.windows import TiffWindows, open_pixels, open_windows
from lightning_det.views.view import View

HEIGHT, WIDTH = 90, 130


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    """Images of this size count as large; blocks have to be smaller."""
    for module in (images, sizes, windows):
        monkeypatch.setattr(module, "LARGE", HEIGHT * WIDTH)


def noise(*shape: int, high: int = 256, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, high, shape).astype(kind)


def write(path: Path, bands: np.ndarray, **profile: object) -> Path:
    """Writes a TIFF file of bands (n, h, w)."""
    count, height, width = bands.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        shape = {"width": width, "height": height, "count": count, "dtype": bands.dtype}
        with rasterio.open(path, "w", **{"driver": "GTiff"} | shape | profile) as file:
            file.write(bands)
    return path


def rgb(path: Path, **profile: object) -> Path:
    return write(path, noise(3, HEIGHT, WIDTH), photometric="RGB", **profile)


TILES = {"tiled": True, "blockxsize": 32, "blockysize": 16}

READ_BY_PARTS = {
    "tiles": lambda path: rgb(path, **TILES),
    "strips": lambda path: rgb(path, blockysize=8),
    "planes": lambda path: rgb(path, interleave="band", **TILES),
    "deflate": lambda path: rgb(path, compress="deflate", predictor=2, **TILES),
    "lzw": lambda path: rgb(path, compress="lzw", blockysize=4),
    "big": lambda path: rgb(path, BIGTIFF="YES", **TILES),
    "grey": lambda path: write(path, noise(1, HEIGHT, WIDTH), **TILES),
    "transparent": lambda path: write(path, noise(4, HEIGHT, WIDTH), photometric="RGB", alpha="YES", **TILES),
    "infrared": lambda path: write(path, noise(4, HEIGHT, WIDTH), photometric="RGB", alpha="NO", **TILES),
}
"""Large files in small blocks, as remote sensing has them."""


def turned(path: Path) -> Path:
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(path, tiffinfo={274: 6}, strip_size=WIDTH * 24)
    return path


def of_pillow(path: Path, mode: str) -> Path:
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).convert(mode).save(path, strip_size=WIDTH * 24)
    return path


DECODED = {
    "turned": turned,
    "palette": lambda path: of_pillow(path, "P"),
    "cmyk": lambda path: of_pillow(path, "CMYK"),
    "two_colours": lambda path: of_pillow(path, "1"),
    "16_bits": lambda path: write(path, noise(1, HEIGHT, WIDTH, high=65536, kind=np.uint16), **TILES),
    "white_is_zero": lambda path: write(path, noise(1, HEIGHT, WIDTH), photometric="MINISWHITE", **TILES),
    "one_block": lambda path: rgb(path, blockysize=HEIGHT, compress="deflate"),
    "premultiplied": lambda path: write(
        path, noise(4, HEIGHT, WIDTH), photometric="RGB", alpha="PREMULTIPLIED", **TILES
    ),
    "small": lambda path: write(path, noise(3, HEIGHT - 1, WIDTH), photometric="RGB", **TILES),
}
"""Files that only Pillow shows right, or that would be decoded completely at the first part."""


@pytest.mark.parametrize("kind", READ_BY_PARTS)
def test_parts_equal_those_of_the_decoded_image(tmp_path, kind):
    path = READ_BY_PARTS[kind](tmp_path / "image.tif")
    found, whole = open_pixels(path), decode(path)
    assert isinstance(found, TiffWindows)
    assert found.shape == tuple(whole.shape)
    assert found.nbytes == whole.nbytes
    for rows, columns in [(slice(0, 90), slice(0, 130)), (slice(17, 50), slice(31, 97)), (slice(89, 90), slice(0, 1))]:
        assert torch.equal(found[:, rows, columns], whole[:, rows, columns])
    assert torch.equal(found[:, :, :], whole)
    assert found[:, 5:5, :].shape == (3, 0, WIDTH)
    assert found[:, 95:99, :].shape == (3, 0, WIDTH)
    assert decoded_size(path) == (WIDTH, HEIGHT)
    for view in (
        View(1.0, (-20, 10, 60, 70)),
        View(0.4, (0, 0, WIDTH, HEIGHT), flip=True),
        View(2.0, (70, 40, 130, 90)),
    ):
        assert torch.equal(render(found, view), render(whole, view))


@pytest.mark.parametrize("kind", DECODED)
def test_other_files_are_decoded(tmp_path, kind):
    path = DECODED[kind](tmp_path / "image.tif")
    assert open_windows(path) is None
    assert torch.equal(open_pixels(path)[:, :, :], decode(path))


def test_files_beside_an_image_do_not_change_it(tmp_path):
    path = rgb(tmp_path / "image.tif", **TILES)
    whole = decode(path)
    write(tmp_path / "image.tif.msk", noise(1, HEIGHT, WIDTH))
    (tmp_path / "image.tif.aux.xml").write_text("<PAMDataset><PAMRasterBand band='1'><ColorInterp>Blue</ColorInterp>")
    (tmp_path / "image.tif.ovr").write_bytes(b"II*\0")
    assert torch.equal(open_pixels(path)[:, :, :], whole)


def test_a_damaged_block_is_an_error_that_names_the_file(tmp_path):
    path = rgb(tmp_path / "image.tif", compress="deflate", **TILES)
    content = bytearray(path.read_bytes())
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_2_3", "TIFF", bidx=1))
    content[offset : offset + 60] = bytes(60)
    path.write_bytes(content)
    found = open_windows(path)
    assert found is not None
    assert found[:, :16, :32].shape == (3, 16, 32)  # the first block is fine
    with pytest.raises(ImageError, match=r"image\.tif: damaged image \(.+"):
        found[:, 48:60, 64:80]
    with pytest.raises(ImageError, match=r"image\.tif: damaged"):
        decoded_size(path)
    path.unlink()
    with pytest.raises(ImageError, match=r"image\.tif: No such file"):
        open_windows(path)


def test_without_rasterio_files_are_decoded(tmp_path, monkeypatch):
    path = rgb(tmp_path / "image.tif", **TILES)
    monkeypatch.setattr(windows, "find_spec", lambda name: None)
    assert isinstance(open_pixels(path), torch.Tensor)


def _sum(found: TiffWindows, queue) -> None:
    queue.put(int(found[:, 20:60, 30:90].sum()))


def test_every_process_opens_the_file_for_itself(tmp_path):
    found = open_windows(rgb(tmp_path / "image.tif", compress="lzw", **TILES))
    expected = int(found[:, 20:60, 30:90].sum())
    queue = get_context("fork").Queue()
    children = [get_context("fork").Process(target=_sum, args=(found, queue)) for _ in range(3)]
    for child in children:
        child.start()
    assert int(found[:, 20:60, 30:90].sum()) == expected
    assert [queue.get(timeout=60) for _ in children] == [expected] * 3
    for child in children:
        child.join()
    assert torch.equal(pickle.loads(pickle.dumps(found))[:, :, :], found[:, :, :])


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_images_are_decoded_with_the_same_pixels(tmp_path, monkeypatch, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"image.{kind}"
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(path, exif=exif)
    large = decode(path)
    monkeypatch.setattr(images, "LARGE", 10**9)
    assert torch.equal(large, decode(path))
    assert decode(path).is_contiguous()


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(0, 30),
)
def test_huge_parts_are_shrunk_as_pillow_shrinks_with_a_reducing_gap(height, width, down, across, corner):
    pixels = torch.from_numpy(noise(3, height + corner, width + corner))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_det.data.resizing.HUGE", 0)
        patch.setattr("lightning_det.data.resizing.ROWS", 7)
        found = resize_part(pixels, slice(corner, height + corner), slice(corner, width + corner), (down, across))
    whole = Image.fromarray(pixels[:, corner:, corner:].permute(1, 2, 0).contiguous().numpy())
    expected = np.asarray(whole.resize((across, down), Image.Resampling.BILINEAR, reducing_gap=2.0))
    factors = height // (2 * down), width // (2 * across)
    if max(factors) >= 2:
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
    else:
        assert found.shape == (3, down, across)


def test_shrinking_in_two_steps_changes_little():
    y, x = np.mgrid[:600, :800]
    pixels = torch.from_numpy(
        np.stack([127 + 100 * np.sin(x / 40), 127 + 100 * np.cos(y / 30), x / 4]).astype(np.uint8)
    )
    once = resize_part(pixels, slice(0, 600), slice(0, 800), (75, 100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_det.data.resizing.HUGE", 0)
        twice = resize_part(pixels, slice(0, 600), slice(0, 800), (75, 100))
    assert HUGE > 5e7
    assert (once.int() - twice.int()).abs().max() <= 2


def test_pictures_of_huge_images_are_shrunk_by_a_whole_number(monkeypatch):
    pixels = torch.from_numpy(noise(3, 101, 67))
    picture, scale = for_picture(pixels)
    assert scale == 1
    assert np.array_equal(picture, pixels.permute(1, 2, 0).numpy())
    monkeypatch.setattr("lightning_det.data.resizing.HUGE", 101 * 67 // 5)
    picture, scale = for_picture(pixels)
    assert scale == 1 / 3
    assert picture.shape == (34, 23, 3)
    block = pixels[:, 30:33, 60:63].double().mean(dim=(1, 2)).numpy()
    assert np.abs(picture[10, 20] - block).max() < 1
    half, scale = for_picture(pixels, 0.5)
    assert (half.shape, scale) == ((50, 34, 3), 0.5)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA", "transparent colour", "16 bits", "interlaced"])
def test_large_png_files_have_the_same_pixels(tmp_path, monkeypatch, mode):
    path, content = tmp_path / "image.png", noise(HEIGHT, WIDTH, 4)
    image = Image.fromarray(content, "RGBA")
    if mode == "transparent colour":
        image.convert("RGB").save(path, transparency=(1, 2, 3))
    elif mode == "16 bits":
        write(path, noise(3, HEIGHT, WIDTH, high=65536, kind=np.uint16), driver="PNG")
    elif mode == "interlaced":
        write(path, noise(3, HEIGHT, WIDTH), driver="PNG", interlace="ON")
    else:
        image.convert(mode).save(path)
    large = decode(path)
    monkeypatch.setattr(images, "LARGE", 10**9)
    assert torch.equal(large, decode(path))


@pytest.mark.parametrize("compress", [None, "deflate"])
@pytest.mark.parametrize("large", [True, False])
def test_files_with_holes_are_refused(tmp_path, monkeypatch, compress, large):
    """Pillow reads other bytes there, GDAL zeros."""
    path = tmp_path / "image.tif"
    profile = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 3, "dtype": "uint8", "sparse_ok": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, **TILES, compress=compress) as file:
            file.write(noise(3, 16, 32), window=((16, 32), (32, 64)))
    if not large:
        monkeypatch.setattr(windows, "LARGE", 10**9)
    for read in (open_pixels, decode, image_size):
        with pytest.raises(ImageError, match=r"image\.tif: a sparse TIFF"):
            read(path)


def test_a_name_that_is_no_text_is_left_to_pillow(tmp_path):
    path = rgb(tmp_path / "image.tif", **TILES)
    odd = path.rename(tmp_path / b"\xff.tif".decode(errors="surrogateescape"))
    assert open_windows(odd) is None


@pytest.mark.parametrize("size", [(2, 2), (3, 7), (300, 1), (1, 1)])
def test_a_view_of_one_pixel_is_a_mean(size):
    height, width = size
    pixels = torch.from_numpy(noise(3, *size))
    found = resize_part(pixels, slice(0, height), slice(0, width), (1, 1))
    assert found.shape == (3, 1, 1)
    if max(size) <= 2:
        assert (found.flatten().double() - pixels.double().mean(dim=(1, 2))).abs().max() < 1
    corner = render(torch.full((3, 300, 300), 9, dtype=torch.uint8), View(0.5, (298, 298, 428, 428)))
    assert corner[:, 0, 0].tolist() == [9, 9, 9]
