"""Learning rate schedules: pure functions of the optimizer step, so that a resumed run continues exactly."""

from bisect import bisect_right
from collections.abc import Sequence
from math import cos, pi
from typing import Literal

Unit = Literal["epochs", "steps"]


class Schedule:
    """Linear warm-up, then the decay that a subclass defines.

    Args:
        warmup: length of the warm-up; fractions of epochs are fine.
        start: factor of the learning rate at the first step.
        unit: unit of all lengths, ``epochs`` or optimizer ``steps``.
    """

    def __init__(self, warmup: float = 0.0, start: float = 0.001, unit: Unit = "epochs"):
        if warmup < 0 or not 0 < start <= 1:
            raise ValueError(f"schedule: needs warmup >= 0 and 0 < start <= 1, got {warmup} and {start}")
        if unit not in ("epochs", "steps"):
            raise ValueError(f"schedule.unit must be epochs or steps, got {unit!r}")
        self.warmup = warmup
        self.start = start
        self.unit = unit

    def __call__(self, step: int, steps_per_epoch: float, total_steps: int) -> float:
        """Factor of the learning rate at an optimizer step, counted from 0."""
        per_unit = steps_per_epoch if self.unit == "epochs" else 1
        warmup = round(self.warmup * per_unit)
        after = self.after(step, per_unit, total_steps)
        if step >= warmup:
            return after
        return after * (self.start + (1 - self.start) * step / warmup)

    def after(self, step: int, per_unit: float, total_steps: int) -> float:
        """Factor without warm-up; ``per_unit`` is the number of steps per unit."""
        raise NotImplementedError


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
        self.milestones = list(milestones)
        self.gamma = gamma

    def after(self, step: int, per_unit: float, total_steps: int) -> float:
        """``gamma`` to the power of the milestones passed."""
        return self.gamma ** bisect_right([round(m * per_unit) for m in self.milestones], step)
