"""Detections as pictures: annotated images and videos, and crops."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from lightning_det.annotations import LabelMap
from lightning_det.data.resizing import HUGE, for_picture
from lightning_det.data.video import write_video
from lightning_det.data.windows import Pixels
from lightning_det.evaluation.results import Results
from lightning_det.plotting.boxes import LabelMode
from lightning_det.plotting.colours import class_colour
from lightning_det.plotting.objects import draw_objects, enlargement
from lightning_det.runs.sources import Part, Source
from lightning_det.system.errors import ConfigError
from lightning_det.system.workload import progress

JPEGS = (".jpg", ".jpeg", ".jfif")
"""Suffixes of images whose pictures and crops are JPEG files too; those of others are PNG files, which lose nothing."""

LARGEST_SCALE = 16.0

LONGEST_SIDE = 30_000
"""Maximum length of an enlarged picture, pixels: JPEG ends at 65,535, and memory often earlier."""


@dataclass(frozen=True)
class Drawing:
    """The pictures to draw, and their folder."""

    folder: Path
    """Gets the folders ``pictures`` and ``crops``."""
    pictures: bool
    crops: bool
    labels: LabelMode
    """See `draw_boxes`."""
    scale: float | None
    """Factor by which pictures are resized; None: so that small objects can be seen, see `enlargement`, and huge
    pictures can be opened, see `for_picture`."""

    @classmethod
    def of(cls, cfg: DictConfig, folder: Path) -> "Drawing":
        """Reads the options of `predict`.

        Raises:
            ConfigError: a value is wrong; naming the key.
        """
        for key in ("pictures", "crops"):  # a number would count as true
            if cfg[key] is not True and cfg[key] is not False:
                raise ConfigError(f"{key}={cfg[key]}: must be true or false")
        labels, scale = cfg.draw_labels, cfg.draw_scale
        if labels not in (True, False, "auto"):
            raise ConfigError(f"draw_labels={labels}: must be auto, true or false")
        number = isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale <= LARGEST_SCALE
        if scale != "auto" and not number:
            raise ConfigError(f"draw_scale={scale}: must be auto, or a number up to {LARGEST_SCALE:g}")
        if not cfg.pictures and (labels, scale) != ("auto", "auto"):
            raise ConfigError("draw_labels and draw_scale are for pictures; leave them out beside pictures=false")
        return cls(folder, cfg.pictures, cfg.crops, labels, None if scale == "auto" else float(scale))


def file_stems(names: Sequence[str]) -> list[str]:
    """Names of files that are made of others: their paths without suffix, or with it where that is ambiguous.

    Args:
        names: relative paths, each once.

    Returns:
        A relative path without suffix for each; no two are the same, also where file systems ignore case.
    """
    without = [str(PurePath(name).with_suffix("")) for name in names]
    shared: dict[str, int] = defaultdict(int)
    for stem in without:
        shared[stem.casefold()] += 1
    taken: set[str] = set()
    stems = []
    for name, stem in zip(names, without, strict=True):
        chosen = stem if shared[stem.casefold()] == 1 else name
        number = 2
        while chosen.casefold() in taken:
            chosen, number = f"{name}-{number}", number + 1
        taken.add(chosen.casefold())
        stems.append(chosen)
    return stems


def check_drawing(source: Source, drawing: Drawing) -> None:
    """Checks that pictures can be drawn, before anything is predicted.

    Their folder must not hold images or videos to predict: the pictures would be inputs of the next prediction.

    Raises:
        ConfigError: naming the key.
    """
    output = drawing.folder
    place = Path(os.path.realpath(output))
    written = {place / "pictures", place / "crops"}
    for part in source.parts:
        longest = int(max(part.store.widths.max(), part.store.heights.max()))
        if drawing.scale is not None and drawing.scale > 1 and drawing.scale * longest > LONGEST_SIDE:
            most = max(1.0, LONGEST_SIDE / longest)
            given = f"draw_scale={drawing.scale:g}"
            raise ConfigError(f"{given}: too much for images of {longest} pixels; at most {most:.2g}")
        for name in part.store.files if part.video is None else [part.video.path.name]:
            file = Path(os.path.realpath(part.store.root / name))
            if file.parent == place or written.intersection(file.parents):
                raise ConfigError(f"output={output}: the folder of images to predict; pictures need another one")


def write_drawings(source: Source, shown: Sequence[Results], labels: LabelMap, drawing: Drawing) -> None:
    """Writes pictures, videos and crops.

    Args:
        source: the images and videos.
        shown: detections to draw, one for each part of the source.
        labels: the classes.
        drawing: what is drawn.
    """
    if not drawing.pictures and not drawing.crops:
        return
    names = [name for part in source.parts for name in (part.store.files if part.video is None else [part.name])]
    stems = iter(file_stems(names))
    for part, results in zip(source.parts, shown, strict=True):
        if part.video is not None:
            _draw_video(part, results, labels, drawing, next(stems))
            continue
        for number in progress(range(len(part.store)), "drawing", len(part.store), threshold=10):
            pixels = part.pixels(number)
            stem, rows = next(stems), _rows(results, number)
            suffix = ".jpg" if Path(part.store.files[number]).suffix.lower() in JPEGS else ".png"
            if drawing.crops:
                _write_crops(pixels, results, rows, labels, drawing.folder / "crops" / stem, suffix)
            if drawing.pictures:
                save(_draw(pixels, results, rows, labels, drawing), drawing.folder / "pictures" / f"{stem}{suffix}")


def _draw_video(part: Part, results: Results, labels: LabelMap, drawing: Drawing, stem: str) -> None:
    """Writes the video with its detections as an MP4 file, and crops of its frames."""
    video = part.video
    assert video is not None, "the part is a video"
    # All frames have the same size, so the key has all classes, and the scale suits the objects of all frames.
    key = [(labels.names[label], class_colour(label)) for label in np.unique(results.labels).tolist()]
    scale = enlargement(results.boxes, (video.width, video.height)) if drawing.scale is None else drawing.scale

    def frames() -> Iterator[np.ndarray]:
        for number in progress(range(len(video)), f"drawing {video.path.name}", len(video), threshold=10):
            pixels, rows = video(number), _rows(results, number)
            if drawing.crops:
                place = drawing.folder / "crops" / f"{stem}_frame{number:06d}"
                _write_crops(pixels, results, rows, labels, place, ".png")
            if drawing.pictures:
                yield _draw(pixels, results, rows, labels, drawing, scale, key)

    if drawing.pictures:
        write_video(drawing.folder / "pictures" / f"{stem}.mp4", frames(), video)
    else:
        list(frames())


def _rows(results: Results, image: int) -> np.ndarray:
    """Rows of an image by falling score."""
    rows = results.of_image(image)
    return rows[np.argsort(-results.scores[rows], kind="stable")]


def _draw(
    pixels: Pixels,
    results: Results,
    rows: np.ndarray,
    labels: LabelMap,
    drawing: Drawing,
    scale: float | None = None,
    key: Any = None,
) -> np.ndarray:
    boxes = results.boxes[rows].astype(float)
    scale = drawing.scale if scale is None else scale
    size = pixels.shape[2], pixels.shape[1]
    if scale is None and size[0] * size[1] < HUGE:
        scale = enlargement(boxes, size)
    picture, shrunk = for_picture(pixels, None if scale is None else min(1.0, scale))
    objects = boxes * shrunk, results.labels[rows], labels.names, results.scores[rows]
    return draw_objects(picture, *objects, drawing.labels, max(1.0, scale or 1.0), key)


def _write_crops(
    pixels: Pixels, results: Results, rows: np.ndarray, labels: LabelMap, place: Path, suffix: str
) -> None:
    """Writes ``IMAGE_CLASS_NUMBER.jpg`` or ``.png`` per detection; 1 is the one with the highest score."""
    height, width = pixels.shape[1:]
    for number, row in enumerate(rows, 1):
        x1, y1 = (int(v) for v in np.clip(np.floor(results.boxes[row, :2]), 0, [width - 1, height - 1]))
        x2, y2 = (int(v) for v in np.clip(np.ceil(results.boxes[row, 2:]), [x1 + 1, y1 + 1], [width, height]))
        name = re.sub(r"[^\w.-]+", "-", labels.names[results.labels[row]])[:60].strip("-.") or "object"
        save(
            pixels[:, y1:y2, x1:x2].permute(1, 2, 0).numpy(),
            place.with_name(f"{place.name}_{name}_{number:03d}{suffix}"),
        )


def save(picture: np.ndarray, file: Path) -> None:
    """Writes a picture (H, W, 3) uint8; JPEG keeps the resolution of colours, or thin lines would fade."""
    file.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if file.suffix == ".jpg" else {}
    Image.fromarray(picture).save(file, **options)
