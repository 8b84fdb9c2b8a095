"""How fast a training is, and whether it waits for its data."""

import logging
import sys
import time
from collections import deque
from typing import NamedTuple

import pytorch_lightning as pl
import torch

from lightning_det.modules import keys
from lightning_det.protocols.structures import Batch

log = logging.getLogger("lightning_det")


class Count(NamedTuple):
    """What a part of a training came to, of this rank."""

    seconds: float
    """In training steps, the wait for their data included."""
    waited: float
    """Of them for data, seconds."""
    views: int
    pixels: int
    """Of them, padding included."""

    def since(self, before: "Count") -> "Count":
        """What has been added."""
        return Count(*(now - then for now, then in zip(self, before, strict=True)))

    def after(self, before: "Count") -> "Count":
        """Both together."""
        return Count(*(now + then for now, then in zip(self, before, strict=True)))

    @property
    def share(self) -> float:
        """Of the time that went into waiting, 0 to 1."""
        return self.waited / self.seconds if self.seconds > 0 else 0.0


class HostWait:
    """Sums up the time between `start` and `stop`.

    Attributes:
        seconds: so far.
    """

    def __init__(self):
        self.seconds = 0.0
        self._started = 0.0

    def start(self) -> None:
        """A wait begins."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """It is over."""
        self.seconds += time.perf_counter() - self._started


class DeviceWait:
    """Sums up the time between `start` and `stop` in which a CUDA device had nothing to do.

    The host runs ahead of the device: while it waits for a batch, the device may still be busy with the last one, and
    that wait costs nothing. Events in the device's own queue see the rest, and nobody waits for them.
    """

    def __init__(self):
        self._seconds = 0.0
        self._started: torch.cuda.Event | None = None
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self) -> None:
        """A wait begins."""
        self._started = _event()

    def stop(self) -> None:
        """It is over."""
        self._pending.append((self._started, _event()))

    @property
    def seconds(self) -> float:
        """So far, as far as the device has come."""
        while self._pending and self._pending[0][1].query():
            first, last = self._pending.popleft()
            self._seconds += first.elapsed_time(last) / 1000
        return self._seconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Throughput(pl.Callback):
    """Logs what the training steps since the last log came to, every ``log_every_n_steps`` of the trainer.

    - ``train/views_per_s``: views over all ranks. A view is what a batch consists of: an image, or one of its chips;
    - ``train/data_wait``: share of the time in which rank zero waited for the next batch, 0 to 1. On CUDA, in which its
      device had nothing to do meanwhile;
    - ``train/memory_GB``: peak memory of rank zero in 10^9 bytes, on CUDA what torch allocated since the training
      began, elsewhere what was resident of the process since it began, loader workers not included.

    Validation and checkpoints are left out. Nothing waits for the device. Other callbacks of the training step belong
    before this one: what follows it counts as a wait.

    What the whole training came to is in `cost`; checkpoints keep it, for a training that goes on.

    Args:
        warn_above: share of an epoch from which on the log says, once, that the data is the bottleneck.
    """

    def __init__(self, warn_above: float = 0.3):
        if not 0 < warn_above <= 1:
            raise ValueError(f"warn_above is a share of the time, above 0 and at most 1, got {warn_above}")
        self.warn_above = warn_above
        self._before, self._memory_before = Count(0.0, 0.0, 0, 0), 0
        self._forget()

    def cost(self, trainer: pl.Trainer) -> dict[str, float]:
        """What the training has come to, all its starts together.

        Returns:
            ``views`` and their ``pixels`` (padding included) over all ranks, ``seconds`` in training steps, the share
            ``data_wait`` of them and the peak ``memory_GB``. Steps that an interruption lost do not count.
        """
        count = self._count().after(self._before)
        return {
            "views": trainer.world_size * count.views,
            "pixels": trainer.world_size * count.pixels,
            "seconds": round(count.seconds, 3),
            "data_wait": round(count.share, 4),
            "memory_GB": round(max(self._memory_before, self._memory) / 1e9, 3),
        }

    def state_dict(self) -> dict:
        """For checkpoints."""
        memory = max(self._memory_before, self._memory)
        return {"count": self._count().after(self._before)._asdict(), "memory": memory}

    def load_state_dict(self, state_dict: dict) -> None:
        """Undoes `state_dict`."""
        self._before, self._memory_before = Count(**state_dict["count"]), state_dict["memory"]

    def _forget(self, device: torch.device | None = None) -> None:
        self._wait = DeviceWait() if device is not None and device.type == "cuda" else HostWait()
        self._mark: float | None = None  # where the current step began; None: what went before is no training step
        self._seconds, self._views, self._pixels, self._memory = 0.0, 0, 0, 0
        self._window = self._epoch = Count(0.0, 0.0, 0, 0)
        self._logged_step = 0
        self._warned = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts anew."""
        self._forget(pl_module.device)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The wait for the first batch begins."""
        self._epoch = self._count()
        self._begin()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The wait for the next batch begins, where validation was within an epoch."""
        self._begin()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows is no training step."""
        self._mark = None

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """What goes on since the last step is no wait for data."""
        self._mark = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx) -> None:
        """The batch is there."""
        if self._mark is None:
            self._mark = time.perf_counter()
        else:
            self._wait.stop()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch: Batch, batch_idx) -> None:
        """Counts a step and logs a window."""
        self._seconds += time.perf_counter() - self._mark
        self._views += len(batch)
        self._pixels += len(batch) * batch.images.shape[-2:].numel()
        step = trainer.global_step
        # With accumulated batches several of them end in one step.
        if step != self._logged_step and step % max(1, trainer.log_every_n_steps) == 0:
            self._logged_step = step
            now = self._count()
            window, self._window = now.since(self._window), now
            self._memory = peak_memory(pl_module.device)
            shown = {
                keys.VIEWS_PER_S: trainer.world_size * window.views / window.seconds,
                keys.MEMORY: self._memory / 1e9,
            }
            pl_module.log_dict(shown, prog_bar=True, batch_size=len(batch))
            pl_module.log(keys.DATA_WAIT, window.share, batch_size=len(batch))
        self._begin()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says, once, that the data is the bottleneck."""
        self._memory = peak_memory(pl_module.device)
        share = self._count().since(self._epoch).share
        if share <= self.warn_above or self._warned or not trainer.is_global_zero:
            return
        self._warned = True
        log.warning(
            "epoch %d waited for data for %.0f %% of its training time; remedies: %s",
            trainer.current_epoch + 1,
            100 * share,
            "; ".join(remedies(trainer.datamodule, trainer.train_dataloader.num_workers)),
        )

    def _begin(self) -> None:
        self._mark = time.perf_counter()
        self._wait.start()

    def _count(self) -> Count:
        return Count(self._seconds, self._wait.seconds, self._views, self._pixels)


def remedies(data: pl.LightningDataModule, workers: int) -> list[str]:
    """What makes data come faster, by the configuration's keys, most effective first.

    Args:
        data: a `ViewData`.
        workers: processes of its training loader.
    """
    found = [f"more loader processes (data.num_workers, now {workers})"]
    together = getattr(data.grouping, "together", None)
    if together is not None and together < data.batch_size:
        found.append(f"more views per decoded image (data.together, now {together})")
    return [*found, "image files that are not much larger than what is trained on (dataset.resolution)"]


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: what torch allocated on a CUDA device, else what was resident of this process.

    0 where the system does not say (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
