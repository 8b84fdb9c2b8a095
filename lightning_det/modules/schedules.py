"""Learning rate schedules: pure functions of the optimizer step, so that a resumed run continues exactly."""

from bisect import bisect_right
from collections.abc import Sequence
from math import cos, pi
from typing import Literal

Unit = Literal["epochs", "steps", "share"]

LONG = 1 / 3
"""Share of a training from which a warm-up is doubtful: the rate falls again before it has been of use."""


class Schedule:
    """Linear warm-up, then the decay that a subclass defines.

    Args:
        warmup: length of the warm-up; fractions of epochs are fine.
        start: factor of the learning rate at the first step.
        unit: unit of all lengths: ``epochs``, optimizer ``steps``, or ``share`` of the whole training. Epochs of
            different strategies differ in length, so only the last one makes them comparable.
    """

    def __init__(self, warmup: float = 0.0, start: float = 0.001, unit: Unit = "epochs"):
        if warmup < 0 or not 0 < start <= 1:
            raise ValueError(f"schedule: needs warmup >= 0 and 0 < start <= 1, got {warmup} and {start}")
        if unit not in ("epochs", "steps", "share"):
            raise ValueError(f"schedule.unit must be epochs, steps or share, got {unit!r}")
        if unit == "share" and warmup >= 1:
            raise ValueError(f"schedule.warmup is a share of the training (schedule.unit=share), below 1, got {warmup}")
        self.warmup = warmup
        self.start = start
        self.unit = unit

    def __call__(self, step: int, steps_per_epoch: float, total_steps: int) -> float:
        """Factor of the learning rate at an optimizer step, counted from 0."""
        per_unit = self.per_unit(steps_per_epoch, total_steps)
        warmup = round(self.warmup * per_unit)
        after = self.after(step, per_unit, total_steps)
        if step >= warmup:
            return after
        return after * (self.start + (1 - self.start) * step / warmup)

    def after(self, step: int, per_unit: float, total_steps: int) -> float:
        """Factor without warm-up; ``per_unit`` is the number of steps per unit."""
        raise NotImplementedError

    def per_unit(self, steps_per_epoch: float, total_steps: int) -> float:
        """Number of steps per unit."""
        return {"epochs": steps_per_epoch, "steps": 1, "share": total_steps}[self.unit]

    def doubts(self, steps_per_epoch: float, total_steps: int) -> list[str]:
        """Lists warnings about a training of so many steps: its warm-up takes more than the share `LONG`."""
        warmup = round(self.warmup * self.per_unit(steps_per_epoch, total_steps))
        if warmup <= LONG * total_steps:
            return []
        return [
            f"schedule.warmup={self.warmup:g} (unit: {self.unit}) takes {warmup} steps, and the training has "
            f"{total_steps}, so the rate reaches optimizer.lr late or never. Epochs of chips and tiles have many "
            "steps; schedule.unit=share schedule.warmup=0.1 is a tenth of any training"
        ]


class Constant(Schedule):
    """No decay."""

    def after(self, step: int, per_unit: float, total_steps: int) -> float:
        """Always 1."""
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 to ``final`` over the whole training (SGDR, equation 5, without restarts).

    Args:
        final: factor at the end.
        warmup: see `Schedule`.
        start: see `Schedule`.
        unit: see `Schedule`.
    """

    def __init__(self, final: float = 0.0, warmup: float = 0.0, start: float = 0.001, unit: Unit = "epochs"):
        super().__init__(warmup, start, unit)
        self.final = final

    def after(self, step: int, per_unit: float, total_steps: int) -> float:
        """Falls from 1 to ``final``."""
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * min(1.0, step / max(1, total_steps))))


class MultiStep(Schedule):
    """Multiplies by ``gamma`` at each milestone.

    Args:
        milestones: in units, ascending; fractions of epochs are fine, as in SNIPER's 5.33.
        gamma: the factor.
        warmup: see `Schedule`.
        start: see `Schedule`.
        unit: see `Schedule`.
    """

    def __init__(
        self,
        milestones: Sequence[float],
        gamma: float = 0.1,
        warmup: float = 0.0,
        start: float = 0.001,
        unit: Unit = "epochs",
    ):
        super().__init__(warmup, start, unit)
        if list(milestones) != sorted(milestones):
            raise ValueError(f"schedule.milestones must ascend, got {list(milestones)}")
        if unit == "share" and any(m >= 1 for m in milestones):
            raise ValueError(f"schedule.milestones are shares of the training, below 1, got {list(milestones)}")
        self.milestones = list(milestones)
        self.gamma = gamma

    def after(self, step: int, per_unit: float, total_steps: int) -> float:
        """``gamma`` to the power of the milestones passed."""
        return self.gamma ** bisect_right([round(m * per_unit) for m in self.milestones], step)

    def doubts(self, steps_per_epoch: float, total_steps: int) -> list[str]:
        """Lists these warnings, and one if milestones are not reached."""
        per_unit = self.per_unit(steps_per_epoch, total_steps)
        late = [m for m in self.milestones if round(m * per_unit) >= total_steps]
        said = (
            f"schedule.milestones: {late} (unit: {self.unit}) are not reached in the {total_steps} steps of the "
            "training, so the rate does not fall there"
        )
        return super().doubts(steps_per_epoch, total_steps) + ([said] if late else [])
