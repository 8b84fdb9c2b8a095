"""Mines proposals for SNIPER's negative chips with a light network trained on positive chips (SNIPER, section 3.3)."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torchvision.ops import box_iou

from lightning_det.annotations import AnnotationStore, LabelMap
from lightning_det.annotations.proposals import load_proposals, save_proposals
from lightning_det.annotations.store import ProposalSet
from lightning_det.callbacks import Collector, Throughput
from lightning_det.callbacks.access import callbacks_of, find_callback
from lightning_det.checkpoint import load_checkpoint
from lightning_det.config.build import build
from lightning_det.config.data import build_data, build_planner
from lightning_det.config.module import portable_settings
from lightning_det.config.trainer import build_trainer
from lightning_det.evaluation.results import Results
from lightning_det.merging.nms import NMS
from lightning_det.modules.inference import Inference
from lightning_det.modules.module import DetectionModule
from lightning_det.protocols.detector import Detector
from lightning_det.runs.continuation import changed_settings, explain_restore_errors
from lightning_det.runs.resume import is_unstarted
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import write_json
from lightning_det.system.workload import progress

log = logging.getLogger("lightning_det")

FILE = "proposals.npz"
"""Name of the proposals in the folder of the run that mined them."""

COST = ".mining.json"
"""Ending of the file with the cost of mining, beside the proposals and in place of their ``.npz``."""

NETWORK = ".mining.ckpt"
"""Ending of the checkpoint of an interrupted training of the proposal network, beside the proposals too."""

LEARNED_AS = ("norm_weight_decay", "backbone_lr_scale", "backbone_weight_decay", "reference_batch")
"""Settings of the module that also hold for the training of the proposal network."""


class OfProposals(Inference):
    """Inference whose limit per megapixel holds for views of every size, as that of a proposal network does."""

    def per_view(self, height: int, width: int) -> int:
        """Most proposals of views in a canvas of this size."""
        return int(self._scale_limit(self.view_detections or 0, height * width))


def proposals_file(cfg: DictConfig, folder: Path) -> Path | None:
    """The file that ``cfg.proposals`` names, which may not have been mined yet; None without proposals.

    A resumed run uses the file of the run that it continues.

    Args:
        cfg: the whole configuration.
        folder: of this run.
    """
    if cfg.proposals != "auto":
        return None if cfg.proposals is None else Path(cfg.proposals)
    if cfg.resume is None:
        return folder / FILE
    if is_unstarted(cfg.resume):
        return Path(cfg.resume) / FILE
    if (folder / FILE).is_file():  # the folder may have been moved since
        return folder / FILE
    file = load_checkpoint(cfg.resume, "last")["hyper_parameters"]["settings"].get("proposals")
    return folder / FILE if file in (None, "auto") else Path(file)


def cost_file(proposals: Path) -> Path:
    """The file beside proposals that holds the cost of mining them."""
    return proposals.with_name(proposals.name.removesuffix(".npz") + COST)


def network_file(proposals: Path) -> Path:
    """The checkpoint of the network that is trained to mine these proposals."""
    return proposals.with_name(proposals.name.removesuffix(".npz") + NETWORK)


def with_proposals(store: AnnotationStore, file: Path | None) -> AnnotationStore:
    """Adds the proposals of a file, if any, to a store.

    Raises:
        DatasetError: the file is missing or was made for other images.
    """
    return store if file is None else replace(store, proposals=load_proposals(file, store))


def mine(cfg: DictConfig, detector: Detector, train: AnnotationStore, store: AnnotationStore, file: Path) -> None:
    """Trains the proposal network, runs it on every image of a store, and writes the proposals.

    ``detector`` itself is not trained, and random numbers drawn here do not shift those drawn afterwards.

    Args:
        cfg: the whole configuration.
        detector: a copy of its backbone and of a proposal network is trained.
        train: images to train on.
        store: images to mine.
        file: file to write; a checkpoint beside it continues an interrupted training.

    Raises:
        CapabilityError: the detector has no layers for a proposal network.
        ConfigError: its anchors cannot have these sizes.
    """
    cfg = mining_config(cfg, file)
    log.info("mining: %d epochs of the proposal network on positive chips", cfg.miner.epochs)
    with pl.utilities.seed.isolate_rng(), _marked():
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        try:
            network = deepcopy(detector.proposer(cfg.dataset.anchor_sizes))
        except ValueError as error:
            raise ConfigError(f"dataset.anchor_sizes: {error}") from error
        module = DetectionModule(
            network,
            LabelMap(["object"]),
            optimizer=build(cfg.optimizer, "optimizer"),
            schedule=build(cfg.schedule, "schedule"),
            inference=OfProposals(
                -1.0,
                1.0,
                sys.maxsize,  # views have limits, images have none
                NMS(cfg.miner.nms_iou),
                view_detections=cfg.miner.proposals,
                detections_per_megapixel=cfg.capacity.proposals_per_megapixel,
                fragments=None,
            ),
            **{name: cfg.module[name] for name in LEARNED_AS if name in cfg.module},
            settings=portable_settings(cfg),
        )
        data = build_data(cfg, train, store)
        last = network_file(file)
        trainer = build_trainer(cfg, file.parent)
        begun = last if is_resumable(last, module) else None
        with explain_restore_errors(cfg, begun):
            trainer.fit(module, datamodule=data, ckpt_path=begun)
        log.info("mining: proposals in %d images", len(store))
        collector = Collector()
        looking = build_trainer(cfg, file.parent, learning=False)
        callbacks_of(looking).append(collector)
        looking.validate(module, datamodule=data, verbose=False)
    if looking.is_global_zero:
        looked = int(sum(looking.num_val_batches)), len(data.val_dataloader())
        _write(cfg, file, store, trainer, collector, looked)
        last.unlink(missing_ok=True)
    looking.strategy.barrier()


@contextmanager
def _marked() -> Iterator[None]:
    """Marks what is logged, so that nobody takes it for a message about the training of the detector."""

    def mark(record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith("mining: "):
            record.msg = f"mining: {record.msg}"
        return True

    log.addFilter(mark)
    try:
        yield
    finally:
        log.removeFilter(mark)


def _write(
    cfg: DictConfig,
    file: Path,
    store: AnnotationStore,
    trainer: pl.Trainer,
    collector: Collector,
    looked: tuple[int, int],
) -> None:
    """Writes the proposals and their cost, and says how good they are.

    Args:
        cfg: of mining.
        file: for the proposals.
        store: images.
        trainer: of the network.
        collector: has its proposals.
        looked: number of batches of views that the network has looked at, and number of all.
    """
    results = collector.results
    assert results is not None, "the images have been looked at"
    proposals = group_by_image(results, len(store))
    if looked[0] < looked[1]:
        log.warning(
            "mining: looked at %d of %d batches of views (trainer.limit_train_batches=%s limits mining too), so %d of "
            "%d images have no proposals and get no negative chips, and others may lack those of coarser scales",
            *looked,
            cfg.trainer.limit_train_batches,
            *(len(store) - len(results.seen), len(store)),
        )
    save_cost(cost_file(file), trainer, collector)
    save_proposals(file, store, proposals, {**cfg.miner, "seed": cfg.seed})
    log.info(
        "mining: %.0f proposals per image, %.1f %% of the boxes found at IoU 0.5, in %s",
        len(proposals.boxes) / max(1, len(store)),
        100 * recall(store, proposals),
        file,
    )


def is_resumable(file: Path, module: DetectionModule) -> bool:
    """Whether an interrupted training of the proposal network can be resumed: its settings must be those given now.

    Args:
        file: its checkpoint, which may not exist.
        module: module to be trained.
    """
    if not file.exists():
        return False
    before = load_checkpoint(file)["hyper_parameters"]["settings"] or {}
    free = ("trainer", "data.num_workers", "data.keep_megabytes")  # these may change when a training is resumed
    changed = [k for k in changed_settings(before, module.hparams["settings"]) if not k.startswith(free)]
    if changed:
        log.warning("mining: starts over; %s was trained with other settings: %s", file, ", ".join(changed[:5]))
    return not changed


def save_cost(file: Path, trainer: pl.Trainer, collector: Collector) -> None:
    """Writes the cost of training the network and of running it on the images, see `Throughput.cost`."""
    throughput = find_callback(trainer, Throughput)
    cost = {} if throughput is None else throughput.cost()
    write_json(file, cost | {"inference_pixels": collector.pixels})


def mining_config(cfg: DictConfig, file: Path) -> DictConfig:
    """The configuration of the training whose proposals go to ``file``: few epochs, no validation, all sizes."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.trainer.max_epochs = cfg.miner.epochs
    cfg.trainer.check_val_every_n_epoch, cfg.trainer.val_check_interval = cfg.miner.epochs + 1, 1.0
    cfg.trainer.max_steps = -1  # the length of the detector's training, not of the network's
    cfg.trainer.limit_val_batches = cfg.trainer.limit_train_batches  # a pass over the images, short in a short trial
    cfg.logger = None
    kept = ("seeds", "nonfinite", "progress", "throughput", "last")
    cfg.callbacks = {name: node for name, node in (cfg.callbacks or {}).items() if name in kept}
    if "last" in cfg.callbacks:
        network = network_file(file)
        cfg.callbacks.last.update({"dirpath": str(network.parent), "filename": network.stem})
    if "progress" in cfg.callbacks:
        cfg.callbacks.progress.update({"validation": "proposing", "epochs": "mining"})
    scales = cfg.views.test.scales
    if build_planner(cfg, "test").follows:  # the findings of a head that the network does not have
        cfg.views.test.scales = {"_target_": "lightning_det.views.Pyramid", "resolutions": scales.resolutions}
    else:
        scales.valid_ranges = None
    if "repeat_threshold" in cfg.data:
        cfg.data.repeat_threshold = None  # it learns one class
    return cfg


def group_by_image(results: Results, images: int) -> ProposalSet:
    """Proposals by image, from results that are sorted by image and falling score already."""
    counts = np.bincount(results.images, minlength=images)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ProposalSet(offsets, results.boxes.astype(np.float32), results.scores.astype(np.float32))


def recall(store: AnnotationStore, proposals: ProposalSet, iou: float = 0.5) -> float:
    """Share of the boxes that some proposal overlaps with at least this IoU."""
    found = []
    for i in progress(range(len(store)), "comparing proposals with boxes", len(store), threshold=20_000):
        record = store.record(i)
        boxes = torch.from_numpy(record.boxes[~record.ignored]).float()
        if len(boxes):
            overlap = box_iou(boxes, torch.from_numpy(proposals.of(i)))
            found.append((overlap >= iou).any(dim=1))
    return float(torch.cat(found).float().mean()) if found else 0.0
