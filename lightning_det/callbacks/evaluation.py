"""COCO figures of every validation."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist

from lightning_det.evaluation.coco import COCO_CUTS, Backend, Evaluation, evaluate
from lightning_det.evaluation.results import Results
from lightning_det.modules import keys


class Collector(pl.Callback):
    """Collects the detections of a validation from all ranks and merges views.

    Attributes:
        results: of the last validation, on every rank.
        pixels: that this rank looked at for them, padding included.
    """

    def __init__(self):
        self.results: Results | None = None
        self.pixels = 0
        self._parts: list[Results] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the last validation."""
        self._parts, self.pixels = [], 0

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """Keeps the detections of a batch."""
        self._parts.append(outputs)
        self.pixels += len(batch) * batch.images.shape[-2:].numel()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merges what the ranks have, some perhaps nothing."""
        mine = Results.concatenate(self._parts).share(trainer.global_rank, trainer.world_size)
        self._parts = []
        # All views of an image are with one rank: it merges them, and little has to travel.
        self.results = Results.concatenate(_gather(pl_module.inference.merged(mine, trainer.datamodule.val))).by_image()


class Evaluator(Collector):
    """Evaluates every validation and logs ``val/AP`` and the other figures, those that are undefined left out.

    All ranks evaluate the whole, so that all can monitor it.

    Args:
        size_cuts: see `evaluate`.
        max_detections: see `evaluate`; where inference gives large images more, they count all.
        backend: see `evaluate`.

    Attributes:
        evaluation: the last one that this process has made.
        results: its detections, views merged.
        counted: most detections of an image that counted in it.
        report: plain data of the last one of the run, kept in checkpoints: ``figures`` (None where there was nothing to
            measure), ``per_class``, ``table`` and ``step``, after which it was made.
    """

    def __init__(
        self,
        size_cuts: Sequence[float] = COCO_CUTS,
        max_detections: int = 100,
        backend: Backend = "pycocotools",
    ):
        super().__init__()
        self.max_detections = self.counted = max_detections
        self.size_cuts = tuple(size_cuts)
        self.backend = backend
        self.evaluation: Evaluation | None = None
        self.report: dict[str, Any] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluates, except where Lightning merely tries out whether validation runs."""
        super().on_validation_epoch_end(trainer, pl_module)
        store = trainer.datamodule.val
        self.counted = int(pl_module.inference.per_image(store).max(initial=self.max_detections))
        self.evaluation = evaluate(store, self.results, self.size_cuts, self.counted, backend=self.backend)
        if not trainer.sanity_checking:
            figures = self.evaluation.figures()
            defined = {keys.validated(k): v for k, v in figures.items() if v is not None}
            pl_module.log_dict(defined, rank_zero_only=False, sync_dist=False)
            per_class, table = self.evaluation.per_class(), self.evaluation.table()
            self.report = {"figures": figures, "per_class": per_class, "table": table, "step": trainer.global_step}

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return self.report

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undoes `state_dict`."""
        self.report = state_dict


def is_undefined(trainer: pl.Trainer, name: str) -> bool:
    """Whether the last validation had nothing to measure for what is logged under a name, such as ``val/AP``."""
    reports = [c.report for c in trainer.callbacks if isinstance(c, Evaluator)]
    figures = reports[0].get("figures", {}) if reports else {}
    return any(keys.validated(figure) == name and value is None for figure, value in figures.items())


def _gather(mine: Results) -> list[Results]:
    """The results of all ranks, in rank order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everyone: list[Results | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
