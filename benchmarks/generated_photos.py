"""Draws two datasets of large images with small objects, in COCO layout: boards with defects, and insects on leaves.

They stand for data of users that no rule of `inspect` was fitted to. `suggested.py` trains on them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Boxes = list[tuple[int, int, int, int, int]]
"""Class and ``xyxy`` of each object, pixels."""

COPPER = (60, 130, 75)
SILVER = (190, 190, 180)
HOLE = (20, 22, 20)
GROUND = (12, 62, 32)

DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1), (-1, 0), (0, -1))
"""Of the tracks on a board."""

INSECTS = (((40, 60, 20), 0.55), ((60, 40, 20), 0.22), ((235, 235, 225), 0.5))
"""Colour and width by length of each kind."""


class Kind(NamedTuple):
    """A dataset."""

    classes: tuple[str, ...]
    draw: Callable[[np.random.Generator], tuple[Image.Image, Boxes]]
    train: int
    """Number of images."""
    val: int


def noise(height: int, width: int, step: int, rng: np.random.Generator) -> np.ndarray:
    """Draws smooth colours, one at random every ``step`` pixels: (H, W, 3) float, 0 to 255."""
    small = rng.random((height // step + 2, width // step + 2, 3)) * 255
    drawn = Image.fromarray(small.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(drawn).astype(float)


def disc(x: int, y: int, radius: int) -> tuple[int, int, int, int]:
    """Returns the box of a disc."""
    return x - radius, y - radius, x + radius, y + radius


def board(rng: np.random.Generator) -> tuple[Image.Image, Boxes]:
    """Draws a board of about 1900 x 1450 pixels with up to six defects of 10 to 42 pixels."""
    width, height = int(rng.integers(1500, 2300)), int(rng.integers(1200, 1700))
    ground = noise(height, width, 90, rng) * 0.12
    ground += np.array([10, 70, 35]) + rng.normal(0, 4, (height, width, 1))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    tracks = [draw_track(pen, width, height, rng) for _ in range(45)]
    pads = []
    for _ in range(90):
        x, y = int(rng.integers(30, width - 30)), int(rng.integers(30, height - 30))
        pads.append((x, y, int(rng.integers(10, 18))))
        pen.ellipse(disc(*pads[-1]), fill=SILVER)
        pen.ellipse(disc(x, y, pads[-1][2] // 2), fill=HOLE)
    defects = [draw_defect(pen, tracks, pads, width, height, rng) for _ in range(int(rng.integers(1, 7)))]
    return image.filter(ImageFilter.GaussianBlur(0.7)), [box for box in defects if box is not None]


def draw_track(pen: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draws a track of copper and returns its corners."""
    x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
    corners = [(x, y)]
    for _ in range(5):
        right, down = DIRECTIONS[rng.integers(6)]
        length = int(rng.integers(60, 350))
        x, y = x + right * length, y + down * length
        corners.append((x, y))
    pen.line(corners, fill=COPPER, width=int(rng.integers(7, 13)), joint="curve")
    return corners


def draw_defect(
    pen: ImageDraw.ImageDraw,
    tracks: list[list[tuple[int, int]]],
    pads: list[tuple[int, int, int]],
    width: int,
    height: int,
    rng: np.random.Generator,
) -> tuple[int, int, int, int, int] | None:
    """Draws a pad without its hole, a bite out of a track, a short circuit or a spur; None too close to the border."""
    kind = int(rng.integers(4))
    if kind == 0:
        place = disc(*pads[rng.integers(len(pads))])
        pen.ellipse(place, fill=SILVER)
        return kind, *place
    corners = tracks[rng.integers(len(tracks))]
    start = int(rng.integers(len(corners) - 1))
    share = rng.random()
    x, y = (int(a * share + b * (1 - share)) for a, b in zip(corners[start], corners[start + 1], strict=True))
    if not (40 < x < width - 40 and 40 < y < height - 40):
        return None
    if kind == 1:
        reach = int(rng.integers(5, 9))
        pen.ellipse(disc(x, y, reach), fill=GROUND)
    elif kind == 2:
        reach = int(rng.integers(12, 22))
        pen.line((x - reach, y - reach, x + reach, y + reach), fill=COPPER, width=5)
        pen.line((x - reach, y + reach, x, y), fill=COPPER, width=4)
    else:
        reach = int(rng.integers(9, 16))
        tip = [(x - 4, y), (x + 4, y), (x + reach, y - reach), (x + reach - 3, y + reach // 2)]
        pen.polygon(tip, fill=COPPER)
    return kind, *disc(x, y, reach)


def leaf(rng: np.random.Generator) -> tuple[Image.Image, Boxes]:
    """Draws a leaf of 3000 x 3000 pixels with 6 to 39 insects of 22 to 60 pixels, and dirt of their size."""
    side = 3000
    ground = noise(side, side, 220, rng) * 0.25 + noise(side, side, 14, rng) * 0.12 + np.array([55, 105, 40])
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(26):
        x, y = rng.integers(0, side, 2)
        angle = rng.random() * 6.3
        vein = [(int(x + t * np.cos(angle) * 90), int(y + t * np.sin(angle) * 90)) for t in range(14)]
        pen.line(vein, fill=(120, 150, 85), width=int(rng.integers(3, 12)))
    for _ in range(60):
        x, y, extent = rng.integers(0, side), rng.integers(0, side), rng.integers(4, 30)
        pen.ellipse((int(x), int(y), int(x + extent), int(y + extent * 0.8)), fill=(90, 80, 40))
    return image, [draw_insect(image, rng) for _ in range(int(rng.integers(6, 40)))]


def draw_insect(image: Image.Image, rng: np.random.Generator) -> tuple[int, int, int, int, int]:
    """Draws an insect with legs and a head, at any angle."""
    kind, length = int(rng.integers(3)), int(rng.integers(22, 60))
    angle = np.degrees(rng.random() * 6.3)
    x, y = int(rng.integers(80, image.width - 80)), int(rng.integers(80, image.height - 80))
    colour, share = INSECTS[kind]
    patch = Image.new("RGBA", (2 * length, 2 * length))
    pen = ImageDraw.Draw(patch)
    for leg in (-0.5, 0.0, 0.5):
        middle = length + leg * length * 0.5
        pen.line((middle - 3, length * 0.4, middle + 3, length * 1.6), fill=(*colour, 255), width=2)
    half = length * share / 2
    pen.ellipse((length * 0.5, length - half, length * 1.5, length + half), fill=(*colour, 255))
    head = tuple(int(value * 0.8) for value in colour)
    pen.ellipse((length * 1.4, length * 0.88, length * 1.64, length * 1.12), fill=(*head, 255))
    patch = patch.rotate(float(angle), resample=Image.Resampling.BICUBIC)
    left, top, right, bottom = patch.getbbox() or (0, 0, *patch.size)
    image.paste(patch, (x - length, y - length), patch)
    return kind, x - length + left, y - length + top, x - length + right, y - length + bottom


KINDS = {
    "boards": Kind(("missing_hole", "mouse_bite", "short", "spur"), board, 70, 25),
    "insects": Kind(("aphid", "thrips", "whitefly"), leaf, 32, 10),
}


def write(kind: Kind, folder: Path) -> None:
    """Writes a dataset: ``train``, ``val`` and ``annotations/instances_*.json``."""
    rng = np.random.default_rng(kind.val + 11)
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(kind.classes)]
    for split, count in (("train", kind.train), ("val", kind.val)):
        (folder / split).mkdir()
        images: list[dict] = []
        annotations: list[dict] = []
        for number in range(count):
            image, boxes = kind.draw(rng)
            name = f"{split}_{number:03d}.jpg"
            image.save(folder / split / name, quality=88)
            images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
            for label, left, top, right, bottom in boxes:
                width, height = right - left, bottom - top
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
                    | {"bbox": [left, top, width, height], "area": width * height}
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
