"""An optimizer and its learning rates in a training that goes on: the settings are those given now."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_det.modules.schedules import Schedule


class Rates(LambdaLR):
    """Learning rates of a `Schedule`, of which a checkpoint keeps the place and nothing else.

    PyTorch's own would bring back the base rates of the checkpoint, and do the first step with the last rate of the
    schedule before. Where epochs have become longer or shorter, the place stays the same in epochs.

    Args:
        optimizer: with its own learning rates.
        schedule: factor of them.
        per_epoch: optimizer steps per epoch.
        epochs: of the whole training; None if they are not limited.
        steps: of the whole training; None if they are not limited.
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
        self.ahead = 0  # steps that the epochs done would have taken at their present length, less those they took

        def factor(step: int) -> float:
            bounds = [] if steps is None else [steps + self.ahead]
            bounds += [] if epochs is None else [per_epoch * epochs]
            place, total = step + self.ahead, min(bounds, default=per_epoch)
            if isinstance(schedule, Schedule) and schedule.unit == "steps":  # as they were done
                place, total = step, total - self.ahead
            return schedule(place, per_epoch, total)

        super().__init__(optimizer, factor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes to the place of a checkpoint."""
        done, before = state_dict["last_epoch"], state_dict.get("per_epoch", self.per_epoch)
        self.last_epoch, self._step_count = done, state_dict["_step_count"]
        self.ahead = round((done + state_dict.get("ahead", 0)) * self.per_epoch / before) - done
        self._last_lr = [rate * factor(done) for rate, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def keep_settings(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer loads instead of a checkpoint's state: that of the parameters, with its own settings.

    A hook for ``register_load_state_dict_pre_hook``.
    """
    pairs = zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    return {**state_dict, "param_groups": [{**own, "params": saved["params"]} for own, saved in pairs]}


def missing_state(make: Callable[..., torch.optim.Optimizer], state_dict: dict[str, Any], parameters: Sequence) -> str:
    """What a saved optimizer has kept nothing of, although one with other settings needs it; empty if it has it all.

    Tried out on the first parameter: a kind of optimizer says nowhere what it needs.

    Args:
        make: the optimizer, from parameters.
        state_dict: of the saved one.
        parameters: of the one to be made, as those of the saved one.
    """
    number = state_dict["param_groups"][0]["params"][0]
    if number not in state_dict["state"]:  # no step has been done
        return ""
    first = nn.Parameter(torch.zeros_like(parameters[0]))
    first.grad = torch.zeros_like(first)
    try:
        optimizer = make([first])
    except ValueError:  # is said when it is made to train
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
