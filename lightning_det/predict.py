"""``python -m lightning_det.predict checkpoint=FILE source=IMAGES``: detections in images without annotations."""

import logging
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from lightning_det.annotations import AnnotationStore, LabelMap, Problem
from lightning_det.build import build_data, build_trainer
from lightning_det.callbacks.pictures import draw_detections
from lightning_det.cli import command, run_folder
from lightning_det.data.folder import read_folder
from lightning_det.data.images import decode, progress
from lightning_det.errors import UserError
from lightning_det.evaluation.results import Results
from lightning_det.files import write_json
from lightning_det.restore import restored

log = logging.getLogger("lightning_det")


def predict(cfg: DictConfig) -> None:
    """Predicts as the configuration says; pictures and ``predictions.json`` go into ``output``."""
    settings, module = restored(cfg)
    output = Path(cfg.output) if cfg.output is not None else run_folder()
    store, problems = read_folder(Path(cfg.source), module.labels)
    for problem in problems:
        log.warning("left out: %s", problem)
    if len(store) == 0:
        raise UserError(f"{cfg.source}: no image that can be read")
    log.info("%d images", len(store))

    trainer = build_trainer(settings, run_folder(), learning=False)
    parts = trainer.predict(module, datamodule=build_data(settings, None, store))
    results = module.inference.merged(Results.concatenate(parts))
    output.mkdir(parents=True, exist_ok=True)
    for number in progress(range(len(store)), "drawing", len(store), threshold=50):
        pixels = decode(store.path(number)).permute(1, 2, 0).numpy()
        drawn = draw_detections(pixels, results, number, module.labels.names, cfg.draw_threshold)
        picture = output / f"{store.files[number]}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(picture)
    content = summary(store, results, module.labels, problems)
    write_json(output / "predictions.json", content)
    log.info("%d detections in %d images", len(results), len(store))
    print(output)


def summary(store: AnnotationStore, results: Results, labels: LabelMap, problems: list[Problem]) -> dict:
    """All detections by image; boxes are ``xyxy`` in pixels of the original image."""
    order = np.argsort(-results.scores, kind="stable")
    by_image: dict[int, list[dict]] = {}
    for row in order:
        by_image.setdefault(int(results.images[row]), []).append(
            {
                "label": labels.names[results.labels[row]],
                "score": float(results.scores[row]),
                "box": [float(v) for v in results.boxes[row]],
            }
        )
    images = [
        {
            "file": store.files[number],
            "width": int(store.widths[number]),
            "height": int(store.heights[number]),
            "detections": by_image.get(number, []),
        }
        for number in range(len(store))
    ]
    return {"labels": list(labels.names), "images": images, "problems": [p.to_dict() for p in problems]}


main = command("predict")(predict)

if __name__ == "__main__":
    main()
