"""The LightningModule that trains and runs any detector."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NoReturn, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_det.annotations.labels import LabelMap
from lightning_det.data.following import Follow
from lightning_det.evaluation.results import Results
from lightning_det.modules import keys
from lightning_det.modules.groups import GroupSettings, parameter_groups, scale_rates
from lightning_det.modules.inference import Inference, detect
from lightning_det.modules.rates import Rates, keep_settings, report_doubts, steps_per_epoch
from lightning_det.modules.schedules import Schedule
from lightning_det.modules.step import Compiled, CompiledStep, keep_gradients, many_graphs, step_losses
from lightning_det.ops.nms import read_unsettled
from lightning_det.ops.nms_rounds import ROUNDS
from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import Batch
from lightning_det.system.errors import ConfigError, ImageError, UserError

log = logging.getLogger("lightning_det")

FOCUS_WEIGHTS = "detector.focus."

NO_FOCUS = (
    "test=[autofocus] needs a detector that was trained to find small objects in coarse views; train with "
    "strategy=[...,autofocus], or add it to a trained one: weights=RUN 'strategy=[...,autofocus]'"
)


class TrainingData(Protocol):
    """The numbers of the data module on which the learning rate depends."""

    batch_size: int
    """Views per batch."""

    def num_train_batches(self) -> int:
        """Batches per epoch on this rank."""


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
        compiled: ``parts`` compiles backbone, neck and heads; ``step`` compiles the losses of a training step as one
            graph, see `CompiledStep`; None compiles nothing.
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
        compiled: Compiled | None = None,
    ):
        super().__init__()
        self.detector: Detector = detector.to(memory_format=torch.channels_last) if channels_last else detector
        self.compiled = compiled
        if compiled == "parts":
            self.detector.compile_parts()
        self._losses = CompiledStep(detector) if compiled == "step" else partial(step_losses, detector)
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
        """Refuses settings that do not work together.

        Raises:
            ConfigError: several processes without GPUs cannot share the statistics of BatchNorm; or views of validation
                follow from what a head for it sees, and the detector has none.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # a property that Lightning adds later
        if data is not None and data.test_views.follows and self.detector.focus is None:
            raise ConfigError(NO_FOCUS)
        shared = any(isinstance(m, nn.SyncBatchNorm) for m in self.detector.modules())
        if shared and self.trainer.world_size > 1 and self.device.type == "cpu":
            raise ConfigError(
                "norm=sync shares statistics between GPUs, and this training has several processes on CPUs: set "
                "backbone.norm (and detector.head_norm) to batch or group"
            )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a training batch, to be summed: the detector's, and those of AutoFocus's head."""
        with self._compiling():
            return self._losses(batch)

    def _compiling(self) -> AbstractContextManager[None]:
        return many_graphs() if self.compiled == "parts" else nullcontext()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Sums the detector's losses.

        Raises:
            UserError: the detector cannot learn from an image, which the message names.
        """
        try:
            losses = self.losses(batch)
        except ImageError as error:
            store = self.trainer.datamodule and self.trainer.datamodule.train  # type: ignore[attr-defined]  # added later
            if store is None:  # a loop with loaders of its own
                raise
            raise UserError(f"{store.path(error.image)}: {error.reason}") from None
        total = torch.stack(list(losses.values())).sum()
        named = {keys.loss_term(name): value.detach() for name, value in losses.items()}
        self.log_dict(named, batch_size=len(batch))
        self.log(keys.LOSS, total.detach(), prog_bar=True, batch_size=len(batch))
        # Lightning divides "loss" by the accumulated batches; callbacks read the undivided value.
        return {"loss": total, keys.LOSS: total.detach()} | named

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Removes gradients, or zeroes them where CUDA graphs would overwrite those of an accumulation window."""
        if self.compiled == "step" and self.device.type == "cuda" and self.trainer.accumulate_grad_batches > 1:
            keep_gradients(self.detector.parameters())
        else:
            optimizer.zero_grad()

    def on_train_epoch_end(self) -> None:
        """Says if NMS without waiting was not exact."""
        unsettled = read_unsettled(self.detector)
        if unsettled and self.trainer.is_global_zero:
            log.warning(
                "epoch %d: NMS stopped after %d rounds in %d steps, before it was exact: a few of their proposals are "
                "duplicates, or missing. Detections are not affected",
                self.current_epoch + 1,
                ROUNDS,
                unsettled,
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> Results:  # type: ignore[override]  # Lightning takes any
        """Detections of the batch's views, in pixels of their images; callbacks collect and merge them."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # a property that Lightning adds later
        return self.infer(batch, data and data.follow)

    predict_step = validation_step

    @torch.no_grad()
    def infer(self, batch: Batch, follow: Follow | None = None) -> Results:
        """Detects objects in views, and in the views that follow from them.

        Args:
            batch: on the device of the detector.
            follow: makes the batches that follow a batch; None if none do.

        Raises:
            ConfigError: views follow from what a head for it sees, and the detector has none.
        """
        with self._compiling():
            found = detect(self.detector, batch, self.inference)
        if follow is None:
            return found
        head, logits = self.detector.focus, self.detector.observed()
        if head is None or logits is None:
            raise ConfigError(NO_FOCUS)
        later = follow(batch, head.probabilities(logits).float().cpu().numpy(), head.stride)
        parts = [self.infer(b.to(batch.images.device, non_blocking=True), follow) for b in later]
        return Results.concatenate([found, *parts])

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
        # AutoFocus's head may be added to a trained detector, and left out again.
        fresh = {n: t for n, t in mine.items() if n.startswith(FOCUS_WEIGHTS) and n not in weights}
        weights = {n: t for n, t in weights.items() if not n.startswith(FOCUS_WEIGHTS) or n in mine} | fresh
        wrong = self.find_mismatches(weights)
        if wrong:
            raise ValueError(
                f"weights of another detector: {len(wrong)} tensors are missing or differ in shape, "
                f"such as {', '.join(wrong[:3])}; give the same detector and backbone"
            )
        self.load_state_dict(weights)
        layers = "all layers" if same else "the last layer starts fresh: its classes are others"
        return f"{layers}; AutoFocus's head starts fresh" if fresh else layers

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
        per_epoch = self._steps_per_epoch()
        report_doubts(self.schedule, per_epoch, *limits)
        scheduler = Rates(optimizer, self.schedule, per_epoch, *limits)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def _data(self) -> TrainingData:
        return self.trainer.datamodule  # type: ignore[attr-defined]  # a property that Lightning adds to the class later

    def _steps_per_epoch(self) -> int:
        """Optimizer steps per epoch.

        Lightning's ``estimated_stepping_batches`` is not used: it sets up the training loader and counts the batches of
        epoch 0 before a resumed run knows its epoch.
        """
        trainer, batches = self.trainer, self._data.num_train_batches()
        return steps_per_epoch(batches, trainer.limit_train_batches, trainer.accumulate_grad_batches)
