"""Reports a loss that explodes without becoming NaN, with the layer whose activations grew."""

import logging
from collections.abc import Mapping
from math import isfinite, sqrt
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_det.callbacks.access import module_of
from lightning_det.modules import keys
from lightning_det.protocols.structures import Batch

log = logging.getLogger("lightning_det")

GROWN = 10.0
"""Factor from which on activations count as grown."""


class ReportExplosion(pl.Callback):
    """Warns once when the loss has been a large multiple of its first value; the training goes on.

    The largest loss stays on the device and is read every ``trainer.log_every_n_steps`` batches, when losses are logged
    anyway. The largest activation of every layer is measured in two steps only: the first one, and the one after the
    explosion was noticed. Compiled detectors are not measured. The first of several ranks looks at its own batches; the
    weights are those of all.

    Args:
        factor: the multiple. A first value below 1 counts as 1.
    """

    def __init__(self, factor: float = 1e6):
        if not factor > 1:
            raise ValueError(f"factor must be above 1, got {factor}")
        self.factor = factor
        self.reported = False
        self.first: tuple[float, dict[str, float]] | None = None
        """The first loss, and the largest absolute activation of every layer in that step, in forward order."""
        self._started: tuple[Tensor, Meter] | None = None
        self._peak: Tensor | None = None
        self._exploded: str = ""
        self._meter: Meter | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Begins to measure in the first step, and in the one after an explosion was noticed."""
        if trainer.is_global_zero and ((self.first is None and self._started is None) or self._exploded):
            module = module_of(pl_module)
            self._meter = Meter(None if module.compiled else module.detector)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keeps the largest loss, and reads it when losses are logged."""
        if not trainer.is_global_zero:
            return
        loss = outputs[keys.LOSS]
        self._peak = loss if self._peak is None else torch.maximum(self._peak, loss)
        if self._meter is not None:
            self._meter.stop()
            if self._exploded:
                self._report(self._meter.read())
            else:
                self._started = loss, self._meter
            self._meter = None
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if (batch_idx + 1) % every == 0:
            self._compare(f"epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the losses of the last batches."""
        self._compare(f"epoch {trainer.current_epoch + 1}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports an explosion that no further step has measured."""
        if self._exploded:
            self._report({})

    def state_dict(self) -> dict[str, Any]:
        """The first step, for a resumed training to compare with, and whether the warning has been given."""
        self._settle()
        loss, activations = self.first or (None, {})
        return {"loss": loss, "activations": activations, "reported": self.reported}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        if state_dict["loss"] is not None:
            self.first = state_dict["loss"], state_dict["activations"]
        self.reported = state_dict["reported"]

    def _settle(self) -> None:
        """Moves the figures of the first step to the host, once."""
        if self._started is not None:
            loss, meter = self._started
            self.first, self._started = (float(loss), meter.read()), None

    def _compare(self, place: str) -> None:
        self._settle()
        if self.reported or self._exploded or self._peak is None or self.first is None:
            return
        peak, self._peak = float(self._peak), None
        if peak > self.factor * max(self.first[0], 1.0):
            self._exploded = (
                f"the loss exploded: up to {place} it reached {peak:.3g}; it began with {self.first[0]:.3g}"
            )

    def _report(self, activations: Mapping[str, float]) -> None:
        before = {} if self.first is None else self.first[1]
        log.warning(
            "%s%s. Usual remedies: a lower optimizer.lr, a longer schedule.warmup, trainer.gradient_clip_val",
            self._exploded,
            growth_in_words(before, activations),
        )
        self._exploded, self.reported = "", True


class Meter:
    """Measures the largest absolute output of every layer without parts, until it is stopped.

    Args:
        network: its layers are measured; None measures nothing.
    """

    def __init__(self, network: nn.Module | None):
        self._largest: dict[str, Tensor] = {}
        layers = [] if network is None else [(n, m) for n, m in network.named_modules() if not any(m.children())]
        self._hooks = [layer.register_forward_hook(self._hook(name)) for name, layer in layers]

    def stop(self) -> None:
        """Removes all hooks."""
        for hook in self._hooks:
            hook.remove()

    def read(self) -> dict[str, float]:
        """The largest absolute output of every layer, in the order in which they were first called."""
        if not self._largest:
            return {}
        return dict(zip(self._largest, torch.stack(list(self._largest.values())).tolist(), strict=True))

    def _hook(self, name: str) -> Any:
        def keep(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                low, high = torch.aminmax(output.detach())
                largest = torch.maximum(high, -low).float()
                known = self._largest.get(name)
                self._largest[name] = largest if known is None else torch.maximum(known, largest)

        return keep


def growth_in_words(before: Mapping[str, float], now: Mapping[str, float]) -> str:
    """Says in which layer activations began to grow, and in which they grew most; empty if nothing was measured.

    They began to grow in the first layer whose growth is at least the square root of the largest: the layers after it
    multiply what it gives them.

    Args:
        before: largest activations of the first step, by layer.
        now: the same of a later step, in the order of its forward pass.
    """
    growth = {name: _ratio(value, before[name]) for name, value in now.items() if name in before}
    if not growth:
        return ""
    most = max(growth, key=lambda name: growth[name])
    if growth[most] < GROWN:
        return "; the activations of no layer have grown tenfold since"
    begun = next(name for name, factor in growth.items() if factor >= sqrt(growth[most]))
    words = [f"{growth[name]:.2g} times in {name}, to {now[name]:.3g}" for name in dict.fromkeys((begun, most))]
    return f"; activations grew since, {' and '.join(words)}"


def _ratio(now: float, before: float) -> float:
    """How much an activation grew; infinite if it is not finite any more."""
    return now / max(before, 1e-12) if isfinite(now) else float("inf")
