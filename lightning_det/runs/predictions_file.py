"""The content of ``predictions.json``: all detections of `predict`."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_det.annotations import LabelMap
from lightning_det.evaluation.results import Results
from lightning_det.runs.sources import Source

log = logging.getLogger("lightning_det")


def summarize(source: Source, results: Sequence[Results], labels: LabelMap, thresholds: np.ndarray) -> dict[str, Any]:
    """All detections by image, or by frame with its time in seconds; boxes are ``xyxy`` in pixels of the original.

    Args:
        source: the images and videos.
        results: detections, one for each part of the source.
        labels: the classes.
        thresholds: (K,) scores from which detections are shown.
    """
    images: list[dict[str, Any]] = []
    videos: list[dict[str, Any]] = []
    for part, found in zip(source.parts, results, strict=True):
        listed = _by_image(found, labels)
        sizes = zip(part.store.widths.tolist(), part.store.heights.tolist(), strict=True)
        about = [{"width": width, "height": height} for width, height in sizes]
        if part.video is None:
            images += [{"file": part.store.files[n]} | size | {"detections": listed[n]} for n, size in enumerate(about)]
            continue
        frames = [{"frame": n, "time": time, "detections": listed[n]} for n, time in enumerate(part.video.times)]
        rate = {"frames_per_second": float(part.video.rate)}
        videos.append({"file": part.name} | about[0] | rate | {"frames": frames})
    return {
        "labels": list(labels.names),
        "thresholds": dict(zip(labels.names, thresholds.tolist(), strict=True)),
        "root": str(source.root),
        "images": images,
        "videos": videos,
        "problems": [problem.to_dict() for problem in source.problems],
    }


def _by_image(results: Results, labels: LabelMap) -> defaultdict[int, list[dict[str, Any]]]:
    """Detections of each image by falling score, as plain data."""
    listed: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in np.argsort(-results.scores, kind="stable"):
        name, score = labels.names[results.labels[row]], float(results.scores[row])
        listed[int(results.images[row])].append({"label": name, "score": score, "box": results.boxes[row].tolist()})
    return listed


def say_counts(
    source: Source, results: Sequence[Results], shown: Sequence[Results], labels: LabelMap, seconds: float
) -> None:
    """Logs how many images and videos were predicted, what was found in them, and how long an image took.

    Args:
        source: the images and videos.
        results: all detections, one for each part of the source.
        shown: those with at least the score threshold of their class.
        labels: the classes.
        seconds: that the detection took, from decoding to merging.
    """
    counts = np.bincount(np.concatenate([found.labels for found in shown]), minlength=len(labels))
    classes = [f"{labels.printable_names[k]} {counts[k]}" for k in np.argsort(-counts, kind="stable") if counts[k]]
    listed = ", ".join(classes[:10] + [f"and {len(classes) - 10} more classes"] * (len(classes) > 10)) or "none"
    videos = sum(part.video is not None for part in source.parts)
    images = sum(len(part.store) for part in source.parts if part.video is None)
    total = sum(len(part.store) for part in source.parts)
    parts = [_count(images, "image")] * (images > 0)
    parts += [f"{_count(total - images, 'frame')} of {_count(videos, 'video')}"] * (videos > 0)
    left_out = f", {len(source.problems)} left out" * bool(source.problems)
    log.info(
        "%s%s, %g s per image; %d detections are shown: %s; predictions.json has all %d",
        *(" and ".join(parts), left_out, float(f"{seconds / total:.2g}"), counts.sum(), listed, sum(map(len, results))),
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
