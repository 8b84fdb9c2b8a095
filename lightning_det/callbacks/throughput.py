"""Measures the speed of a training, its wait for data and its memory."""

import logging
import sys
import time
from collections import deque
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_det.data.datamodule import ViewData
from lightning_det.modules import keys
from lightning_det.protocols.structures import Batch

log = logging.getLogger("lightning_det")


class Count(NamedTuple):
    """Time of a part of a training on this rank, and its views and pixels over all ranks."""

    seconds: float
    """Seconds spent in training steps, including the wait for their data."""
    waited: float
    """Seconds of them spent waiting for data."""
    views: int
    pixels: int
    """Pixels of the views, padding included."""

    def since(self, before: "Count") -> "Count":
        """The difference from an earlier count."""
        return Count(
            self.seconds - before.seconds,
            self.waited - before.waited,
            self.views - before.views,
            self.pixels - before.pixels,
        )

    def after(self, before: "Count") -> "Count":
        """The sum with the count of an earlier part."""
        return Count(
            self.seconds + before.seconds,
            self.waited + before.waited,
            self.views + before.views,
            self.pixels + before.pixels,
        )

    @property
    def share(self) -> float:
        """Share of the time spent waiting, 0 to 1."""
        return self.waited / self.seconds if self.seconds > 0 else 0.0


class HostWait:
    """Sums up the time between `start` and `stop`.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def start(self) -> None:
        """A wait begins."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """The wait is over."""
        self.seconds += time.perf_counter() - self._started


class DeviceWait:
    """Sums up the time between `start` and `stop` in which a CUDA device was idle.

    The host runs ahead of the device: while it waits for a batch, the device may still be busy with the last one, and
    that wait costs nothing. Events in the device's own queue measure the rest without making the host wait.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._started: torch.cuda.Event | None = None
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self) -> None:
        """A wait begins."""
        self._started = _event()

    def stop(self) -> None:
        """The wait is over."""
        if self._started is not None:
            self._pending.append((self._started, _event()))

    @property
    def seconds(self) -> float:
        """The sum over the waits that the device has completed."""
        while self._pending and self._pending[0][1].query():
            first, last = self._pending.popleft()
            self._seconds += first.elapsed_time(last) / 1000
        return self._seconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Throughput(pl.Callback):
    """Logs speed, wait for data and memory of the training steps since the last log.

    Figures, every ``log_every_n_steps`` of the trainer:

    - ``train/views_per_s``: views over all ranks. A view is what a batch consists of: an image, or one of its chips;
    - ``train/data_wait``: share of the time that rank zero spent waiting for the next batch, 0 to 1. On CUDA only the
      time in which its device was idle counts;
    - ``train/memory_GB``: peak memory of rank zero since the training began, 10^9 bytes: on CUDA the memory that torch
      allocated, elsewhere the resident memory of the process without its loader workers.

    Validation and checkpoints do not count. The host never waits for the device. The time of later callbacks counts as
    waiting, so this callback should be the last one.

    The totals of the training are in `cost`; checkpoints keep them for a resumed training.

    Args:
        warn_above: if a larger share of an epoch is spent waiting, a warning says, once, that data is the bottleneck.
    """

    def __init__(self, warn_above: float = 0.3):
        if not 0 < warn_above <= 1:
            raise ValueError(f"warn_above is a share of the time, above 0 and at most 1, got {warn_above}")
        self.warn_above = warn_above
        self._before, self._memory_before = Count(0.0, 0.0, 0, 0), 0
        self._forget()

    def cost(self) -> dict[str, float]:
        """Totals of the training over all its starts, which may have had other numbers of ranks.

        Returns:
            ``views`` and their ``pixels`` (padding included) of rank zero times the number of ranks, ``seconds`` in
            training steps, the share ``data_wait`` of them and the peak ``memory_GB``. Steps lost by an interruption do
            not count.
        """
        count = self._count().after(self._before)
        return {
            "views": count.views,
            "pixels": count.pixels,
            "seconds": round(count.seconds, 3),
            "data_wait": round(count.share, 4),
            "memory_GB": round(max(self._memory_before, self._memory) / 1e9, 3),
        }

    def state_dict(self) -> dict:
        """Returns the state for checkpoints."""
        memory = max(self._memory_before, self._memory)
        return {"count": self._count().after(self._before)._asdict(), "memory": memory}

    def load_state_dict(self, state_dict: dict) -> None:
        """Undoes `state_dict`."""
        self._before, self._memory_before = Count(**state_dict["count"]), state_dict["memory"]

    def _forget(self, device: torch.device | None = None) -> None:
        self._wait = DeviceWait() if device is not None and device.type == "cuda" else HostWait()
        self._mark: float | None = None  # start of the current step; None: the step does not follow a wait for data
        self._seconds, self._views, self._pixels, self._memory = 0.0, 0, 0, 0
        self._window = self._epoch = Count(0.0, 0.0, 0, 0)
        self._logged_step = 0
        self._warned = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resets all counts."""
        self._forget(pl_module.device)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The wait for the first batch begins."""
        self._epoch = self._count()
        self._begin()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The wait for the next batch begins, if the validation was within an epoch."""
        self._begin()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops measuring: validation is not a training step."""
        self._mark = None

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Stops measuring: writing a checkpoint is not waiting for data."""
        self._mark = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The wait for the batch is over."""
        if self._mark is None:
            self._mark = time.perf_counter()
        else:
            self._wait.stop()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Counts a step and logs the figures when they are due."""
        if self._mark is not None:
            self._seconds += time.perf_counter() - self._mark
        self._views += trainer.world_size * len(batch)
        self._pixels += trainer.world_size * len(batch) * batch.images.shape[-2:].numel()
        step = trainer.global_step
        # Several accumulated batches belong to one step.
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if step != self._logged_step and step % max(1, every) == 0:
            self._logged_step = step
            now = self._count()
            window, self._window = now.since(self._window), now
            self._memory = peak_memory(pl_module.device)
            shown = {
                keys.VIEWS_PER_S: window.views / window.seconds,
                keys.MEMORY: self._memory / 1e9,
            }
            pl_module.log_dict(shown, prog_bar=True, batch_size=len(batch))
            pl_module.log(keys.DATA_WAIT, window.share, batch_size=len(batch))
        self._begin()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warns, once, if the data is the bottleneck."""
        self._memory = peak_memory(pl_module.device)
        share = self._count().since(self._epoch).share
        if share <= self.warn_above or self._warned or not trainer.is_global_zero:
            return
        self._warned = True
        data: ViewData = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it in `fit`
        loader: DataLoader = trainer.train_dataloader  # type: ignore[assignment]  # no collection: `ViewData` has one
        log.warning(
            "epoch %d waited for data for %.0f %% of its training time; remedies: %s",
            trainer.current_epoch + 1,
            100 * share,
            "; ".join(remedies(data, loader.num_workers)),
        )

    def _begin(self) -> None:
        self._mark = time.perf_counter()
        self._wait.start()

    def _count(self) -> Count:
        return Count(self._seconds, self._wait.seconds, self._views, self._pixels)


def remedies(data: ViewData, workers: int) -> list[str]:
    """Lists remedies for slow data with their keys of the configuration, most effective first.

    Args:
        data: of the training.
        workers: processes of its training loader.
    """
    found = [f"more loader processes (data.num_workers, now {workers})"]
    together = data.grouping.together
    if together is not None and together < data.batch_size:
        found.append(f"more views per decoded image (data.together, now {together})")
    return [*found, "image files that are not much larger than what is trained on (dataset.resolution)"]


def peak_memory(device: torch.device) -> int:
    """Measures peak memory in bytes: allocated by torch on a CUDA device, else resident memory of this process.

    0 if the system does not report it (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
