"""Evaluates every validation with COCO's figures."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist

from lightning_det.annotations.store import AnnotationStore
from lightning_det.callbacks.access import find_callback, module_of, val_store
from lightning_det.evaluation.best_scores import best_thresholds
from lightning_det.evaluation.coco import Backend, evaluate
from lightning_det.evaluation.diagnosis import Diagnosis, diagnose
from lightning_det.evaluation.figures import COCO_CUTS, Evaluation, Metric
from lightning_det.evaluation.results import Results
from lightning_det.modules import keys
from lightning_det.protocols.structures import Batch


class Collector(pl.Callback):
    """Collects the detections of a validation from all ranks, and merges them per image.

    Attributes:
        results: of the last validation, on every rank; None before the first one.
        pixels: of the views that all ranks evaluated for it, padding included. A rank without an image of its own does
            not count.
        image_seconds: time of inference per image on this rank: in the detector, and merging. Loading images does not
            count, unless views follow from what was seen; the first batch, which warms the device up, does. None before
            the first validation.
        seconds: that this rank took for it, from loading the images to merging their detections.
    """

    def __init__(self) -> None:
        self.results: Results | None = None
        self.pixels = 0
        self.image_seconds: float | None = None
        self.seconds = 0.0
        self._start = 0.0
        self._parts: list[Results] = []
        self._pixels = 0
        self._seconds = self._mark = 0.0

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts an empty collection."""
        self._parts, self._pixels, self._seconds = [], 0, 0.0
        self._start = time.perf_counter()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Starts the clock of a batch."""
        self._mark = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the detections of a batch."""
        self._seconds += time.perf_counter() - self._mark  # the device is done: detections are in memory
        self._parts.append(outputs)
        self._pixels += outputs.pixels

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merges the detections of all ranks. Some ranks may have none."""
        self._mark = time.perf_counter()
        mine = Results.concatenate(self._parts).share(trainer.global_rank, trainer.world_size)
        self._parts = []
        # One rank has all views of an image and merges them before the exchange, so little is sent.
        merged = module_of(pl_module).inference.merge_views(mine, val_store(trainer))
        self.image_seconds = (self._seconds + time.perf_counter() - self._mark) / max(1, len(mine.seen))
        everyone = Results.concatenate(gather_results(replace(merged, pixels=self._pixels if len(mine.seen) else 0)))
        self.results, self.pixels = everyone.by_image(), everyone.pixels
        self.seconds = time.perf_counter() - self._start


class Evaluator(Collector):
    """Evaluates every validation, and logs ``val/AP`` and all other figures that are defined.

    Every rank evaluates all detections, so that callbacks on any rank can monitor the figures.

    Args:
        size_cuts: see `evaluate`.
        max_detections: see `evaluate`. Where inference allows more for large images, all of them count.
        backend: see `evaluate`.
        metric: see `evaluate`.

    Attributes:
        evaluation: the last evaluation of this process.
        results: its detections, with views merged.
        counted: maximum number of detections per image in the evaluation.
        report: the last evaluation of the run as plain data, kept in checkpoints: ``figures`` (None if undefined),
            ``per_class``, ``table``, the ``thresholds`` (see `Thresholds`; on rank zero) and the optimizer ``step``
            after which it was made.
    """

    def __init__(
        self,
        size_cuts: Sequence[float] = COCO_CUTS,
        max_detections: int = 100,
        backend: Backend = "pycocotools",
        metric: Metric | None = None,
    ):
        super().__init__()
        self.max_detections = self.counted = max_detections
        self.size_cuts = tuple(size_cuts)
        self.backend = backend
        self.metric: Metric | None = metric
        self.evaluation: Evaluation | None = None
        self.report: dict[str, Any] = {}
        self._diagnosis: Diagnosis | None = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluates. Lightning's sanity check is not logged."""
        super().on_validation_epoch_end(trainer, pl_module)
        store, results = val_store(trainer), self.results
        assert results is not None, "the collector has made them"
        self.counted = int(module_of(pl_module).inference.per_image(store).max(initial=self.max_detections))
        self.evaluation = self._evaluate(store, results)
        if not trainer.sanity_checking:
            figures = self.evaluation.figures()
            defined = {keys.validation(k): v for k, v in figures.items() if v is not None}
            pl_module.log_dict(defined, rank_zero_only=False, sync_dist=False)
            per_class, table = self.evaluation.per_class(), self.evaluation.table()
            self.report = {"figures": figures, "per_class": per_class, "table": table, "step": trainer.global_step}
            if trainer.is_global_zero:
                measured_on = f"the validation after step {trainer.global_step}"
                thresholds = best_thresholds(store, results, self.evaluation, measured_on)
                self.report["thresholds"] = asdict(thresholds)

    def diagnose(self, store: AnnotationStore, measured_on: str = "the last validation") -> Diagnosis:
        """Evaluates the last detections once more, by octaves of object size too, which validations leave out.

        A second call returns the same diagnosis, as long as there was no other validation.

        Args:
            store: the images of the validation.
            measured_on: see `Thresholds`.
        """
        results = self.results
        if results is None:
            raise RuntimeError("the validation has left no detections")
        if self._diagnosis is None or self._diagnosis.results is not results:
            full = self._evaluate(store, results, curve=True)
            self._diagnosis = diagnose(store, results, full, measured_on)
        return self._diagnosis

    def _evaluate(self, store: AnnotationStore, results: Results, curve: bool = False) -> Evaluation:
        return evaluate(store, results, self.size_cuts, self.counted, curve, self.backend, self.metric)

    def state_dict(self) -> dict[str, Any]:
        """The state for checkpoints."""
        return self.report

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state of a checkpoint."""
        self.report = state_dict


def is_undefined(trainer: pl.Trainer, name: str | None) -> bool:
    """Whether a figure was undefined in the last validation: there was nothing to measure.

    Args:
        trainer: of the run.
        name: that the figure is logged under, such as ``val/AP``.
    """
    evaluator = find_callback(trainer, Evaluator)
    figures = evaluator.report.get("figures", {}) if evaluator is not None else {}
    return any(keys.validation(figure) == name and value is None for figure, value in figures.items())


def gather_results(mine: Results) -> list[Results]:
    """The results of all ranks, in rank order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everyone = [mine] * dist.get_world_size()  # each is replaced
    dist.all_gather_object(everyone, mine)
    return everyone
