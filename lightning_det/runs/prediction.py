"""Images or the frames of a video to predict, and detections as data and as pictures."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lightning_det.annotations import AnnotationStore, LabelMap, Problem
from lightning_det.data.folder import read_folder, without_boxes
from lightning_det.data.images import decode
from lightning_det.data.video import SUFFIXES as VIDEOS
from lightning_det.data.video import Video, write_video
from lightning_det.evaluation.results import Results
from lightning_det.plotting.objects import draw_objects
from lightning_det.system.workload import progress


class Source(NamedTuple):
    """Images without annotations."""

    store: AnnotationStore
    problems: Sequence[Problem]
    """Files, or parts of a video, that cannot be read."""
    video: Video | None
    """Reads the frames if the images are those of a video."""


def read_source(path: Path, labels: LabelMap) -> Source:
    """Images of a folder, one image, or the frames of a video."""
    if path.suffix.lower() in VIDEOS and not path.is_dir():
        video = Video(path)
        return Source(frames_of(video, labels), video.problems, video)
    return Source(*read_folder(path, labels), None)


def frames_of(video: Video, labels: LabelMap) -> AnnotationStore:
    """The frames of a video as images of a store."""
    names = [f"{video.path.name} frame {number}" for number in range(len(video))]
    widths, heights = (np.full(len(video), side, np.int32) for side in (video.width, video.height))
    return without_boxes(video.path.parent, names, widths, heights, labels)


def write_pictures(source: Source, results: Results, labels: LabelMap, threshold: float, output: Path) -> None:
    """Draws detections with at least a score: a PNG per image, or an MP4 of the video."""
    pictures = draw(source, results, labels, threshold)
    if source.video is not None:
        write_video(output / f"{source.video.path.name}.mp4", pictures, source.video)
        return
    for number, picture in enumerate(pictures):
        file = output / f"{source.store.files[number]}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)


def draw(source: Source, results: Results, labels: LabelMap, threshold: float) -> Iterator[np.ndarray]:
    """Every image (H, W, 3) uint8 with its detections, in order, under a progress bar."""
    store, video = source.store, source.video
    for number in progress(range(len(store)), "drawing", len(store), threshold=50):
        pixels = decode(store.path(number)) if video is None else video(number)
        rows = results.of_image(number)
        rows = rows[results.scores[rows] >= threshold]
        found = results.boxes[rows], results.labels[rows], labels.names, results.scores[rows]
        yield draw_objects(pixels.permute(1, 2, 0).numpy(), *found)


def summarize(source: Source, results: Results, labels: LabelMap) -> dict[str, Any]:
    """All detections by image, or by frame with its time in seconds; boxes are ``xyxy`` in pixels of the original."""
    store, problems, video = source
    order = np.argsort(-results.scores, kind="stable")
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in order:
        found[int(results.images[row])].append(
            {
                "label": labels.names[results.labels[row]],
                "score": float(results.scores[row]),
                "box": [float(v) for v in results.boxes[row]],
            }
        )
    rest = {"problems": [p.to_dict() for p in problems]}
    sizes = [{"width": int(w), "height": int(h)} for w, h in zip(store.widths, store.heights, strict=True)]
    if video is None:
        images = [{"file": store.files[n]} | size | {"detections": found[n]} for n, size in enumerate(sizes)]
        return {"labels": list(labels.names), "images": images} | rest
    about = {"file": video.path.name} | sizes[0] | {"frames_per_second": float(video.rate)}
    frames = [{"frame": n, "time": time, "detections": found[n]} for n, time in enumerate(video.times)]
    return {"labels": list(labels.names), "video": about, "frames": frames} | rest
