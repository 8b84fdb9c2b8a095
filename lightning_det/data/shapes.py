"""A generated dataset with a real scale problem: small glyphs on plates, among look-alikes, with sizes of up to 16:1.

The class of an object is the glyph inside its plate; silhouette, colours and outline carry no information. On a plate
of 8 pixels, the glyph has 5 pixels, so small objects need a high resolution. The cloudy background causes false
positives.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lightning_det.annotations.problems import DatasetError, Problem
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.coco import Coco
from lightning_det.data.glyphs import CLASSES, DECOYS, draw_plate
from lightning_det.system.files import exclusive
from lightning_det.system.workload import cores, progress

VERSION = 1
"""Changes whenever the same arguments produce other images."""

SPLITS = ("train", "val", "test")

LARGEST_SIDE = 65_535
"""Pixels; a JPEG file cannot be larger."""

Box = tuple[int, int, int, int]
"""``xyxy``, pixels."""

PER_WORKER = 200
"""One more process is started for every so many images of a split."""


class Shapes:
    """Renders the dataset on first use, as JPEG files with COCO annotations, and reads it.

    Args:
        root: folder for generated sets; each set of arguments gets a folder of its own below it.
        train: images of the training split.
        val: images of the validation split, and of the test split.
        width: of the images, pixels.
        height: of the images, pixels.
        sizes: smallest and largest size of an object, sqrt(width * height) in pixels; drawn log-uniformly.
        objects: fewest and most objects per image.
        decoys: fewest and most look-alikes per image, which belong to no class.
        apart: whether objects are in one half of the image and look-alikes in the other.
        area: share of the image, a window at a random place, that all objects and look-alikes lie in.
        seed: of the images; independent of the training's seed.

    Raises:
        DatasetError: an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        train: int = 1200,
        val: int = 200,
        width: int = 256,
        height: int = 192,
        sizes: Sequence[float] = (8.0, 128.0),
        objects: Sequence[int] = (3, 8),
        decoys: Sequence[int] = (2, 4),
        apart: bool = False,
        area: float = 1.0,
        seed: int = 0,
    ):
        if not 1 <= min(width, height) <= max(width, height) <= LARGEST_SIDE or min(train, val) < 0:
            raise DatasetError(
                f"dataset.source: width and height must be 1 to {LARGEST_SIDE} pixels, and train and val 0 "
                f"images or more, got {width}, {height}, {train} and {val}"
            )
        for name, pair in (("sizes", sizes), ("objects", objects), ("decoys", decoys)):
            if len(pair) != 2:
                raise DatasetError(f"dataset.source.{name} must be two numbers, got {list(pair)}")
        if seed < 0:
            raise DatasetError(f"dataset.source.seed must be 0 or more, got {seed}")
        if not 4 <= sizes[0] <= sizes[1]:
            raise DatasetError(f"dataset.source.sizes must be (smallest, largest) with 4 <= smallest, got {sizes}")
        if not 0 <= objects[0] <= objects[1] or not 0 <= decoys[0] <= decoys[1]:
            raise DatasetError(f"dataset.source: objects and decoys are (fewest, most), got {objects} and {decoys}")
        if not 0 < area <= 1:
            raise DatasetError(f"dataset.source.area must be above 0 and at most 1, got {area}")
        self.counts = {"train": train, "val": val, "test": val}
        self.shape = (height, width)
        self.sizes = tuple(sizes)
        self.objects = tuple(objects)
        self.decoys = tuple(decoys)
        self.apart = apart
        self.area = area
        self.seed = seed
        content: list[Any] = [VERSION, self.counts, self.shape, self.sizes, self.objects, self.decoys, apart, seed]
        described = json.dumps(content if area == 1 else [*content, area])
        self.folder = Path(root) / hashlib.sha256(described.encode()).hexdigest()[:8]

    def read(self, split: str) -> tuple[AnnotationStore, list[Problem]]:
        """Reads the annotations of ``train``, ``val`` or ``test``, after rendering the dataset on first use.

        Raises:
            DatasetError: the split is unknown, or the folder cannot be written.
        """
        if split not in SPLITS:
            raise DatasetError(f"shapes has the splits {', '.join(SPLITS)}, not {split!r}")
        if not self.folder.exists():
            try:
                with exclusive(self.folder.with_name(f".{self.folder.name}.lock")):
                    if not self.folder.exists():  # of several jobs that start at once, the first renders for all
                        self._render()
            except OSError as error:
                raise DatasetError(f"cannot write the generated dataset: {error}; set dataset.root") from error
        return Coco(str(self.folder)).read(split)

    def _render(self) -> None:
        """Renders all splits into a temporary folder, then renames it, so a folder that exists is complete."""
        aside = self.folder.with_name(f".{self.folder.name}-{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "annotations").mkdir(parents=True)
        for split in SPLITS:
            content = self._render_split(aside / split, split)
            (aside / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        try:
            aside.rename(self.folder)
        except OSError:
            if not self.folder.exists():  # else a job on another machine has finished first
                raise
            shutil.rmtree(aside)

    def _render_split(self, folder: Path, split: str) -> dict[str, list[dict[str, Any]]]:
        """Writes the images of a split and returns their annotations as COCO's json."""
        folder.mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        count = self.counts[split]
        workers = min(cores(), count // PER_WORKER)
        # A separate generator, so later random numbers do not depend on whether the dataset exists.
        drawings = DataLoader(
            _Drawings(self, split, folder),
            batch_size=None,
            num_workers=workers if workers > 1 else 0,
            generator=torch.Generator(),
        )
        drawn = progress(drawings, f"rendering {split} images into {self.folder}", count, threshold=50)
        for number, (name, labels, boxes) in enumerate(drawn):
            images.append({"id": number + 1, "file_name": name, "width": self.shape[1], "height": self.shape[0]})
            for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number + 1,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def image(self, rng: np.random.Generator) -> tuple[np.ndarray, list[int], list[Box]]:
        """Draws one image.

        Returns:
            Pixels (H, W, 3) uint8, class of every object counted from 0, and its ``xyxy`` box, exact to the pixel.
        """
        height, width = self.shape
        canvas = clouds(rng, height, width)
        objects = int(rng.integers(self.objects[0], self.objects[1] + 1))
        decoys = int(rng.integers(self.decoys[0], self.decoys[1] + 1))
        left_is_object = bool(rng.integers(2))
        window = (0, 0, width, height) if self.area == 1 else self._draw_window(rng)
        middle = (window[0] + window[2]) // 2
        low, high = np.log(self.sizes)
        sizes = np.exp(rng.uniform(low, high, objects + decoys))
        taken: list[Box] = []
        labels: list[int] = []
        boxes: list[Box] = []
        # Large plates first: later they would find no room, and sizes would not be log-uniform.
        for number in np.argsort(-sizes):
            is_object = number < objects
            x1, y1, x2, y2 = window
            if self.apart:
                x1, x2 = (x1, middle) if is_object == left_is_object else (middle, x2)
            box = self._find_room(rng, sizes[number], (x1, y1, x2, y2), taken)
            if box is None:
                continue
            taken.append(box)
            names = CLASSES if is_object else DECOYS
            kind = int(rng.integers(len(names)))
            x1, y1, x2, y2 = box
            colour, alpha = draw_plate(rng, names[kind], x2 - x1, y2 - y1)
            canvas[y1:y2, x1:x2] += alpha[..., None] * (colour - canvas[y1:y2, x1:x2])
            if is_object:
                labels.append(kind)
                boxes.append(box)
        canvas += rng.normal(0, 3, (height, width, 1))
        return canvas.clip(0, 255).astype(np.uint8), labels, boxes

    def _draw_window(self, rng: np.random.Generator) -> Box:
        """A window of the image's proportions, with `area` of its pixels, at a random place."""
        height, width = (max(4, round(side * self.area**0.5)) for side in self.shape)
        x1 = int(rng.integers(0, self.shape[1] - width + 1))
        y1 = int(rng.integers(0, self.shape[0] - height + 1))
        return x1, y1, x1 + width, y1 + height

    def _find_room(self, rng: np.random.Generator, size: float, window: Box, taken: Sequence[Box]) -> Box | None:
        """A free box in a window for a plate of sqrt(width * height) ``size``; None after 40 tries."""
        left, top, right, bottom = window
        stretch = np.exp(rng.uniform(-0.125, 0.125))
        w = min(max(4, round(size * stretch)), right - left)
        h = min(max(4, round(size / stretch)), bottom - top)
        for _ in range(40):
            x1 = int(rng.integers(left, right - w + 1))
            y1 = int(rng.integers(top, bottom - h + 1))
            box = (x1, y1, x1 + w, y1 + h)
            if all(box[0] >= t[2] or t[0] >= box[2] or box[1] >= t[3] or t[1] >= box[3] for t in taken):
                return box
        return None


class _Drawings(Dataset[tuple[str, list[int], list[Box]]]):
    """Images of a split. Indexing draws one, writes its file, and returns file name, classes and boxes."""

    def __init__(self, source: Shapes, split: str, folder: Path):
        self.source, self.split, self.folder = source, split, folder

    def __len__(self) -> int:
        return self.source.counts[self.split]

    def __getitem__(self, number: int) -> tuple[str, list[int], list[Box]]:
        rng = np.random.default_rng((self.source.seed, SPLITS.index(self.split), number))
        pixels, labels, boxes = self.source.image(rng)
        name = f"{number:06d}.jpg"
        Image.fromarray(pixels).save(self.folder / name, quality=93, subsampling=0)
        return name, labels, boxes


def clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws a cloudy (1 / f) texture in random colours, (H, W, 3) float64 of 0 to 255."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    # Three independent layers are mixed into colours, so clouds differ in hue and brightness.
    layers = np.fft.irfft2(noise / frequency, s=(height, width))
    layers /= layers.std(axis=(1, 2), keepdims=True)
    base = rng.uniform(60, 195, 3)
    mixed = np.einsum("lhw,lc->hwc", layers, rng.normal(0, 1, (3, 3)) * rng.uniform(8, 26))
    return (base + mixed).clip(0, 255)
