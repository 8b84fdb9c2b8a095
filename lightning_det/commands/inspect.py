"""Checks a dataset, and reports what a strategy learns from it."""

import logging
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap
from lightning_det.config.data import build_data, keep_first, read_split
from lightning_det.config.module import build_module, own_priors
from lightning_det.data.datamodule import ViewData
from lightning_det.data.dataset import ViewDataset
from lightning_det.data.inspection import damaged_images
from lightning_det.data.opening import ImageError
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.trial import SAMPLE, sample
from lightning_det.detectors.focus import FocusHead
from lightning_det.inspection.advice import print_suggestion
from lightning_det.inspection.focus import look_perfectly
from lightning_det.inspection.pictures import draw_page
from lightning_det.inspection.probe import SIDE, Speed, measure_speed
from lightning_det.inspection.proposal import make_suggestion
from lightning_det.inspection.report import make_report, measure_anchors, sqrt_areas
from lightning_det.inspection.splits import Splits
from lightning_det.inspection.tables import print_report
from lightning_det.plotting.curves import plot_sizes
from lightning_det.protocols.detector import Detector
from lightning_det.runs.composition import run_folder, save_config, validate_run
from lightning_det.runs.mining import proposals_file, with_proposals
from lightning_det.runs.suggested_options import check_name, repeated_options, write_options
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import write_json

log = logging.getLogger("lightning_det")


def inspect(cfg: DictConfig) -> dict[str, Any]:
    """Inspects the dataset and the views of a configuration; the results are written to Hydra's run folder.

    Raises:
        ConfigError: ``write`` names an option that exists, or there is nothing to suggest.
    """
    cfg = validate_run(cfg)
    check_name(cfg.write)
    folder = run_folder()
    save_config(cfg, folder)
    splits = read_splits(cfg)
    store, count = splits.stores[cfg.split], len(cfg.dataset.anchor_sizes)
    file = None if cfg.proposals == "auto" else proposals_file(cfg, folder)
    inspected = with_proposals(store, file)
    data = build_data(cfg, inspected, None)
    looks = plan_epoch(inspected, data.train_views, cfg.seed, balance=data.balance)
    detector = untrained_detector(cfg, store.label_map)
    anchors = measure_anchors(store, data, detector, count, cfg.seed, own_priors(cfg))
    speed = probe(cfg, detector, store, data)
    tested = len(splits.stores.get("val", store))
    suggestion = make_suggestion(store, tested, detector, count, speed, data.reader(store), cfg.seed)
    sampled = sample(store, cfg.seed, SAMPLE) if len(store) else store
    seen = sampled if cfg.focus is not None else None
    report = make_report(splits, cfg.split, data, looks, anchors, suggestion, seen)
    pages, focus = {"views.png": (store, looks)}, None
    if len(store) and data.test_views.follows and detector is not None and isinstance(detector.focus, FocusHead):
        focus = look_perfectly(sampled, data.test_views, detector.focus)
        pages["focus.png"] = (sampled, focus.looks)
        report["focus"] = {"pixels_share": focus.share, "chips_per_image": focus.chips}
    write_json(folder / "inspect.json", report)
    title = f"object sizes, {cfg.split}; dashed: dataset.size_cuts"
    plot_sizes(sqrt_areas(store), folder / "sizes.png", cfg.dataset.size_cuts, title)
    for name, (images, shown) in pages.items():
        dataset = ViewDataset(images, data.visibility["min_visible"], data.visibility["min_side"])
        drawn = draw_page(dataset, shown, cfg.pictures)
        if drawn is not None:
            Image.fromarray(drawn).save(folder / name)
    print_report(report, splits.problems, advised=cfg.write is None)
    if cfg.proposals == "auto":
        print(
            "negative chips: not in these views and their pixels, because proposals=auto mines them when the training "
            "begins; proposals=FILE, of lightning-det mine, shows them"
        )
    if focus is not None:
        print(
            f"autofocus: a head that knew every object would look at {100 * focus.share:.0f} % of the pixels of the "
            f"pyramid, in {focus.chips:.2g} chips per image (focus.png)"
        )
    if suggestion is not None:
        print_suggestion(suggestion, write_options(cfg, suggestion), splits.problems, repeated_options())
    elif cfg.write is not None:
        raise ConfigError(f"write={cfg.write}: {cfg.split} has no boxes, so there is nothing to suggest")
    print(folder)
    return report


def read_splits(cfg: DictConfig) -> Splits:
    """Reads the inspected split and all others of the dataset.

    Raises:
        DatasetError: the inspected split cannot be read.
    """
    splits = Splits()
    for name in dict.fromkeys([cfg.split, "train", "val", "test"]):
        held_out = name == "val" and cfg.dataset.holdout is not None
        if name != cfg.split and cfg.dataset[name] is None and not held_out:
            continue
        try:
            store, problems = read_split(cfg, name)
        except DatasetError as error:
            if name == cfg.split:
                raise
            splits.add_unusable(name, str(error))
            continue
        problems += damaged_images(store) if cfg.decode else []
        splits.add(name, keep_first(store, cfg.dataset.limit if name == "train" else cfg.dataset.limit_val), problems)
    splits.compare_classes()
    return splits


def untrained_detector(cfg: DictConfig, labels: LabelMap) -> Detector | None:
    """Builds the configured detector. Inspection works without it: an error is logged, and the result is None."""
    try:
        return build_module(cfg, labels, learning=False).detector
    except ConfigError as error:
        log.warning("anchors are not measured: %s", error)
        return None


def probe(cfg: DictConfig, detector: Detector | None, store: AnnotationStore, data: ViewData) -> Speed | None:
    """Measures how fast the configured device trains the detector; None if that is not possible."""
    if detector is None or store.ignored.all():
        return None
    canvas = data.train_views.canvas
    device = "cuda" if cfg.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    try:
        return measure_speed(detector, store, canvas if isinstance(canvas, int) else SIDE, device)
    except (ImageError, RuntimeError) as error:  # a damaged image, which is listed, or views that do not fit
        log.warning("the time of a training is not estimated: %s", error)
        return None
