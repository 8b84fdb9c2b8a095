"""``python -m lightning_det.predict checkpoint=FILE source=IMAGES``: detections in images or a video."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from lightning_det.annotations import AnnotationStore, LabelMap, Problem
from lightning_det.callbacks.pictures import draw_detections
from lightning_det.config.build import build_data, build_trainer
from lightning_det.data.folder import PREDICTIONS, read_folder, without_boxes
from lightning_det.data.images import decode
from lightning_det.data.video import SUFFIXES as VIDEOS
from lightning_det.data.video import Video, write_video
from lightning_det.evaluation.results import Results
from lightning_det.runs.command import command, run_folder
from lightning_det.runs.restore import restored
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import write_json
from lightning_det.system.workload import progress

log = logging.getLogger("lightning_det")


def predict(cfg: DictConfig) -> None:
    """Predicts as the configuration says; pictures, or a video, and ``predictions.json`` go into ``output``."""
    settings, module = restored(cfg)
    output = Path(cfg.output) if cfg.output is not None else run_folder()
    source, labels = Path(cfg.source), module.labels
    if output.resolve() == source.resolve():
        raise ConfigError(f"output={cfg.output}: the folder of the images; pictures need another one")
    video = Video(source) if source.suffix.lower() in VIDEOS and not source.is_dir() else None
    store, problems = read_folder(source, labels) if video is None else (frames_of(video, labels), video.problems)
    for problem in problems:
        log.warning("left out: %s", problem)
    if len(store) == 0:
        raise UserError(f"{cfg.source}: no image that can be read")
    kind = "images" if video is None else "frames"
    log.info("%d %s", len(store), kind)

    trainer = build_trainer(settings, run_folder(), learning=False)
    parts = trainer.predict(module, datamodule=build_data(settings, None, store, video))
    results = module.inference.merged(Results.concatenate(parts), store)
    write_json(output / PREDICTIONS, summary(store, results, labels, problems, video))
    pictures = drawn(store, results, labels, cfg.draw_threshold, video)
    if video is None:
        for number, picture in enumerate(pictures):
            file = output / f"{store.files[number]}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
    else:
        write_video(output / f"{source.name}.mp4", pictures, video)
    above = int((results.scores >= cfg.draw_threshold).sum())
    counts = (len(results), len(store), kind, above, cfg.draw_threshold)
    log.info("%d detections in %d %s; %d of them with a score of at least draw_threshold=%g are drawn", *counts)
    print(output)


def frames_of(video: Video, labels: LabelMap) -> AnnotationStore:
    """The frames of a video as images of a store."""
    names = [f"{video.path.name} frame {number}" for number in range(len(video))]
    widths, heights = (np.full(len(video), side, np.int32) for side in (video.width, video.height))
    return without_boxes(video.path.parent, names, widths, heights, labels)


def drawn(
    store: AnnotationStore, results: Results, labels: LabelMap, threshold: float, video: Video | None
) -> Iterator[np.ndarray]:
    """Every image (H, W, 3) uint8 with its detections, in order, under a progress bar."""
    for number in progress(range(len(store)), "drawing", len(store), threshold=50):
        pixels = decode(store.path(number)) if video is None else video(number)
        yield draw_detections(pixels.permute(1, 2, 0).numpy(), results, number, labels.names, threshold)


def summary(
    store: AnnotationStore, results: Results, labels: LabelMap, problems: list[Problem], video: Video | None = None
) -> dict:
    """All detections by image, or by frame with its time in seconds; boxes are ``xyxy`` in pixels of the original."""
    order = np.argsort(-results.scores, kind="stable")
    found: dict[int, list[dict]] = defaultdict(list)
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


main = command("predict")(predict)

if __name__ == "__main__":
    main()
