"""Optimizer and learning rates of a resumed training: they keep the settings given now."""

import logging
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_det.modules.schedules import Schedule

log = logging.getLogger("lightning_det")


class Rates(LambdaLR):
    """Learning rates of a `Schedule`; a checkpoint stores only the position in it.

    PyTorch's ``LambdaLR`` would restore the base rates of the checkpoint, and take the first step at the last rate of
    the old schedule. If the length of epochs has changed, the position in epochs stays the same, and so does the share
    of the training that is done: of its epochs, or of its steps where ``steps`` ends it.

    Args:
        optimizer: its learning rates are the base rates.
        schedule: factor of the base rates.
        per_epoch: optimizer steps per epoch.
        epochs: number of epochs of the whole training; None without a limit.
        steps: number of optimizer steps of the whole training; None without a limit.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        per_epoch: int,
        epochs: int | None = None,
        steps: int | None = None,
    ):
        self.per_epoch = per_epoch
        self.ahead = 0  # steps that the finished epochs would take at the present length, minus those taken

        def factor(step: int) -> float:
            last = None if steps is None else steps + self.ahead
            limit = _total(per_epoch, epochs, last)
            place, total = step + self.ahead, per_epoch if limit is None else limit
            if isinstance(schedule, Schedule) and schedule.unit == "steps":  # counts the steps taken
                place, total = step, total - self.ahead
            elif self.ahead and steps is not None and limit == last:
                total = round(place * steps / step)  # the share of the steps that is done, at this place in epochs
            return schedule(place, per_epoch, total)

        super().__init__(optimizer, factor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moves to the position stored in a checkpoint."""
        done, before = state_dict["last_epoch"], state_dict.get("per_epoch", self.per_epoch)
        self.last_epoch, self._step_count = done, state_dict["_step_count"]
        self.ahead = round((done + state_dict.get("ahead", 0)) * self.per_epoch / before) - done
        self._last_lr = [rate * factor(done) for rate, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def steps_per_epoch(batches: int, limit: float, accumulated: int) -> int:
    """Optimizer steps per epoch.

    Warns if the last one has fewer batches than the others: Lightning divides its losses by the full number too.

    Args:
        batches: number of batches per epoch.
        limit: ``trainer.limit_train_batches``: a number if it is an int, otherwise a share.
        accumulated: number of batches of a step.
    """
    used = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if left := used % accumulated:
        log.warning(
            "trainer.limit_train_batches=%s: the last step of an epoch has %d of %d accumulated batches, so its "
            "gradients are smaller; a multiple of trainer.accumulate_grad_batches avoids that",
            *(limit, left, accumulated),
        )
    return max(1, ceil(used / accumulated))


def report_doubts(schedule: Schedule, per_epoch: int, epochs: int | None, steps: int | None) -> None:
    """Warns if the warm-up or a milestone of a schedule does not fit into the training. Arguments: see `Rates`."""
    total = _total(per_epoch, epochs, steps)
    if total is not None and isinstance(schedule, Schedule):  # and not a function of the user's own
        for doubt in schedule.doubts(per_epoch, total):
            log.warning("%s", doubt)


def _total(per_epoch: int, epochs: int | None, steps: int | None) -> int | None:
    """Optimizer steps of the whole training; None without a limit."""
    bounds = [n for n in (steps, None if epochs is None else per_epoch * epochs) if n is not None]
    return min(bounds, default=None)


def keep_settings(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Puts an optimizer's own settings into the state that it is about to load from a checkpoint.

    A hook for ``register_load_state_dict_pre_hook``.
    """
    pairs = zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    return {**state_dict, "param_groups": [{**own, "params": saved["params"]} for own, saved in pairs]}


def missing_state(make: Callable[..., torch.optim.Optimizer], state_dict: dict[str, Any], parameters: Sequence) -> str:
    """Name of a state that an optimizer with new settings needs and a saved one lacks; empty if none is missing.

    Optimizers do not declare the states they need, so a step on the first parameter tries it out.

    Args:
        make: builds the new optimizer from parameters.
        state_dict: of the saved optimizer.
        parameters: of the new optimizer, in the order of the saved one.
    """
    number = state_dict["param_groups"][0]["params"][0]
    if number not in state_dict["state"]:  # no step has been taken
        return ""
    first = nn.Parameter(torch.zeros_like(parameters[0]))
    first.grad = torch.zeros_like(first)
    try:
        optimizer = make([first])
    except ValueError:  # wrong settings are reported when the training builds its optimizer
        return ""
    optimizer.load_state_dict(
        {
            "state": {0: state_dict["state"][number]},
            "param_groups": [{**optimizer.state_dict()["param_groups"][0], "params": [0]}],
        }
    )
    try:
        optimizer.step(lambda: 0.0)
    except KeyError as error:
        return str(error.args[0])
    return ""
