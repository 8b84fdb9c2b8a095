"""The LightningModule that trains and runs any detector."""

from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.results import Merge, Results, Vote
from lightning_det.merging.nms import NMS
from lightning_det.modules import keys
from lightning_det.modules.groups import GroupSettings, parameter_groups, scale_rates
from lightning_det.modules.rates import Rates, keep_settings
from lightning_det.modules.schedules import Schedule
from lightning_det.ops.boxes import in_detection_range
from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import Batch
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.views.view import boxes_to_image, touches_cut, whole_in_a_tile


class TrainingData(Protocol):
    """The numbers of the data module on which the learning rate depends."""

    batch_size: int
    """Views per batch."""

    def num_train_batches(self) -> int:
        """Batches per epoch on this rank."""


PUBLISHED_VIEW = 1408 * 2016
"""Pixels of the largest canvas in the published pyramids for COCO. Views up to this size have the published limit of
detections."""


class Inference(NamedTuple):
    """How detections become results: the same in validation, evaluation and prediction."""

    score_threshold: float = 0.01
    """Detections need a greater score."""
    nms_iou: float = 0.5
    """NMS threshold per class within a view; 1 leaves duplicates to the merge."""
    max_detections: int = 100
    """Most detections per image; ``detections_per_megapixel`` raises it for large images."""
    merge: Merge = NMS()
    """Merges the views of an image."""
    vote: Vote | None = None
    """Moves boxes that the merge keeps by those that it removes; None: they stay."""
    view_detections: int | None = None
    """Most detections per view; None: as many as per image."""
    passes: int = 1
    """Number of times boxes are regressed; above 1 only for detectors with ``refines``."""
    detections_per_megapixel: float | None = None
    """Lowest limit per megapixel of images, and of views larger than `PUBLISHED_VIEW`: large ones hold more objects.

    None: the limits above hold for all."""
    fragments: float | None = 0.8
    """A detection that a cut of the image touches is removed if an uncut detection covers this share of it; None: all
    stay."""

    def per_view(self, height: int, width: int) -> int:
        """Most detections of views in a canvas of this size."""
        count = self.view_detections or self.max_detections
        return count if height * width <= PUBLISHED_VIEW else int(self._scale_limit(count, height * width))

    def per_image(self, store: AnnotationStore) -> np.ndarray:
        """(M,) int64, most detections of every image of a store."""
        return self._scale_limit(self.max_detections, store.widths.astype(np.int64) * store.heights)

    def _scale_limit(self, count: int, pixels: int | np.ndarray) -> np.ndarray:
        rate = (self.detections_per_megapixel or 0.0) / 1e6
        return np.maximum(count, np.ceil(rate * np.asarray(pixels)).astype(np.int64))

    def merge_views(self, results: Results, store: AnnotationStore) -> Results:
        """Merges the detections of views into detections of the images of a store."""
        return results.merge_views(self.merge, self.per_image(store), self.vote, self.fragments)


class DetectionModule(pl.LightningModule):
    """Trains and runs a detector; the detector itself knows nothing of Lightning.

    Args:
        detector: any `Detector`.
        labels: classes, kept in checkpoints.
        optimizer: makes an optimizer from parameter groups (a partial of ``torch.optim``).
        schedule: learning rate schedule.
        inference: settings of inference.
        settings: the configuration as plain data, kept in checkpoints.
        norm_weight_decay: weight decay of normalisation layers and biases; None takes the optimizer's.
        reference_batch: views per optimizer step that the optimizer's learning rate is meant for; the rate is scaled
            linearly to the actual number (Goyal et al. 2017). None takes the rate as it is.
        backbone_lr_scale: learning rate of the backbone, relative to that of the rest.
        backbone_weight_decay: weight decay of the backbone's weights; None takes the optimizer's.
        channels_last: memory format of convolutions; faster on CPU and GPU.
        compiled: whether backbone, neck and heads are compiled.
    """

    def __init__(
        self,
        detector: Detector,
        labels: LabelMap,
        optimizer: Callable[[Iterable], torch.optim.Optimizer] | None = None,
        schedule: Schedule | None = None,
        inference: Inference | None = None,
        settings: dict[str, Any] | None = None,
        norm_weight_decay: float | None = 0.0,
        reference_batch: int | None = None,
        backbone_lr_scale: float = 1.0,
        backbone_weight_decay: float | None = None,
        channels_last: bool = True,
        compiled: bool = False,
    ):
        super().__init__()
        self.detector: Detector = detector.to(memory_format=torch.channels_last) if channels_last else detector
        self.compiled = compiled
        if compiled:
            self.detector.compile_parts()
        self.labels = labels
        self.optimizer = optimizer
        self.schedule = schedule
        self.inference = inference or Inference()
        passes = self.inference.passes
        if passes < 1:
            raise ValueError(f"test.passes must be at least 1, got {passes}")
        if passes > 1 and not detector.refines:
            detector.lacks(
                f"more than one pass over its boxes (test.passes={passes})",
                "leave test=iterative out, or set test.passes=1",
            )
        self.groups = GroupSettings(norm_weight_decay, backbone_lr_scale, backbone_weight_decay)
        self.reference_batch = reference_batch
        # Plain data only: checkpoints must load with weights_only=True.
        self.save_hyperparameters({"settings": settings or {}, "labels": labels.to_dict()})

    def on_fit_start(self) -> None:
        """Refuses settings that work on GPUs only.

        Raises:
            ConfigError: several processes without GPUs cannot share the statistics of BatchNorm.
        """
        shared = any(isinstance(m, nn.SyncBatchNorm) for m in self.detector.modules())
        if shared and self.trainer.world_size > 1 and self.device.type == "cpu":
            raise ConfigError(
                "norm=sync shares statistics between GPUs, and this training has several processes on CPUs: set "
                "backbone.norm (and detector.head_norm) to batch or group"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Sums the detector's losses."""
        losses = self.detector.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        named = {keys.loss_term(name): value.detach() for name, value in losses.items()}
        self.log_dict(named, batch_size=len(batch))
        self.log(keys.LOSS, total.detach(), prog_bar=True, batch_size=len(batch))
        # Lightning divides "loss" by the accumulated batches; callbacks read the undivided value.
        return {"loss": total, keys.LOSS: total.detach()} | named

    def validation_step(self, batch: Batch, batch_idx: int) -> Results:  # type: ignore[override]  # Lightning takes any
        """Detections of the batch's views, in pixels of their images; callbacks collect and merge them."""
        return self.infer(batch)

    predict_step = validation_step

    @torch.no_grad()
    def infer(self, batch: Batch) -> Results:
        """Detects objects in views and keeps those whose size is in the view's valid range.

        The range applies to the sizes of detections, not of proposals, in pixels of the original image. The lower bound
        is exclusive, the upper inclusive (SNIP, section 6.1). Detections that a tile of the view shows whole are
        removed too.
        """
        settings = self.inference
        most = settings.per_view(*batch.images.shape[-2:])
        # In pixels of the view, and slightly wider: the exact range is applied below, in pixels of the image.
        ranges = batch.ranges * batch.scales[:, None] * batch.ranges.new_tensor([1 - 1e-5, 1 + 1e-5])
        thresholds = settings.score_threshold, settings.nms_iou
        found = self.detector(batch.images, batch.sizes, *thresholds, most, ranges, settings.passes)
        boxes = boxes_to_image(found.boxes.float(), batch)
        keep = found.valid & in_detection_range(boxes, batch.ranges) & ~whole_in_a_tile(boxes, batch)
        images = batch.index[:, None].expand_as(keep)
        return Results(
            images[keep].cpu().numpy(),
            boxes[keep].cpu().numpy(),
            found.scores[keep].float().cpu().numpy(),
            found.labels[keep].cpu().numpy(),
            batch.index.unique().cpu().numpy(),
            touches_cut(boxes, batch)[keep].cpu().numpy(),
        )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **arguments: Any) -> NoReturn:
        """Refuses what Lightning's method does: it cannot build a detector, and would run code that a file names.

        Raises:
            UserError: always; it names what loads a checkpoint.
        """
        raise UserError(
            f"lightning_det.load({str(checkpoint_path)!r}).module is the module of a checkpoint, built from its "
            f"settings; {cls.__name__}.load_from_checkpoint is not available"
        )

    def load_own(self, state_dict: Mapping[str, Tensor], labels: LabelMap) -> str:
        """Loads the weights of another training of this detector, perhaps for other classes.

        Args:
            state_dict: of the other training's module.
            labels: classes of the other training.

        Returns:
            How the layers that depend on the classes were initialised, in words.

        Raises:
            ValueError: the weights are of another detector.
        """
        weights = dict(state_dict)
        same = self.labels.names == labels.names
        prefixes = tuple(f"detector.{p}" for p in self.detector.class_layers)
        mine = self.state_dict()
        if not same:
            weights |= {name: tensor for name, tensor in mine.items() if name.startswith(prefixes)}
        # Trained BatchNorm has a step counter and frozen BatchNorm has none; the weights fit both.
        counter = "num_batches_tracked"
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith(counter)}
        weights |= {name: tensor for name, tensor in mine.items() if name.endswith(counter)}
        wrong = self.find_mismatches(weights)
        if wrong:
            raise ValueError(
                f"weights of another detector: {len(wrong)} tensors are missing or differ in shape, "
                f"such as {', '.join(wrong[:3])}; give the same detector and backbone"
            )
        self.load_state_dict(weights)
        return "all layers" if same else "the last layer starts fresh: its classes are others"

    def find_mismatches(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """Names of tensors that are missing in the module or in a ``state_dict``, or differ in shape."""
        mine = {name: tensor.shape for name, tensor in self.state_dict().items()}
        theirs = {name: tensor.shape for name, tensor in state_dict.items()}
        return sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trainable parameters in the groups that an optimizer is made from."""
        return parameter_groups(self.detector, self.groups)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Builds the optimizer, and a schedule that advances with every optimizer step.

        Raises:
            ConfigError: the optimizer rejects its settings.
            RuntimeError: the module was built for inference.
        """
        if self.optimizer is None or self.schedule is None:
            raise RuntimeError(
                "a module without optimizer and schedule cannot be trained: "
                "lightning_det.compose(['weights=RUN', ...]) builds one that starts from a trained detector"
            )
        trainer = self.trainer
        try:
            optimizer = self.optimizer(self.parameter_groups())
        except ValueError as error:
            raise ConfigError(f"optimizer: {error}") from error
        scale_rates(optimizer)
        if self.reference_batch is not None:
            views = self._data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
            for group in optimizer.param_groups:
                group["lr"] *= views / self.reference_batch
        # A resumed training uses the settings given now, not those of its checkpoint.
        optimizer.register_load_state_dict_pre_hook(keep_settings)
        limits = [n if n is not None and n > 0 else None for n in (trainer.max_epochs, trainer.max_steps)]
        scheduler = Rates(optimizer, self.schedule, self._steps_per_epoch(), *limits)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def _data(self) -> TrainingData:
        return self.trainer.datamodule  # type: ignore[attr-defined]  # a property that Lightning adds to the class later

    def _steps_per_epoch(self) -> int:
        """Optimizer steps per epoch.

        Lightning's ``estimated_stepping_batches`` is not used: it sets up the training loader and counts the batches of
        epoch 0 before a resumed run knows its epoch.
        """
        trainer = self.trainer
        batches = self._data.num_train_batches()
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return max(1, ceil(batches / trainer.accumulate_grad_batches))
