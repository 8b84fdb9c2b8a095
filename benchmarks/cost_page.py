"""Time, money and limits of trainings on GPUs, computed from what a recipe's steps take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

GPUS = (1, 8, 64)

NODE = 8
"""GPUs of a machine."""


class Recipe(NamedTuple):
    """A training, as counted."""

    name: str
    images: int
    """Of the training split."""
    epochs: int
    views: float
    """Views per image and epoch, mean."""
    pixels: float
    """Pixels of a view's canvas, mean."""
    operations: float
    """Of a training step, per view: forward and backward, two per multiplication with addition."""
    parameters: int
    """Numbers whose gradients are exchanged."""
    batch: int
    """Views per GPU and step."""

    @property
    def total(self) -> float:
        """Operations of the whole training."""
        return self.images * self.epochs * self.views * self.operations


@dataclass(frozen=True)
class Assumptions:
    """What is taken as given."""

    peak: float = 989e12
    """Operations per second of an H100 or H200 in bfloat16, dense (NVIDIA's data sheet)."""
    utilization: tuple[float, float] = (0.05, 0.25)
    """Shares of the peak that a step reaches: a low and a high one."""
    price: float = 3.0
    """Of an hour of a GPU, dollars."""
    loaded: float = 22e6
    """Pixels of views that a core decodes, resizes and batches per second: 130 images of 320 x 534, or 590 chips of
    192 x 192 (benchmarks/results/loader.md)."""
    inside: float = 450e9
    """Bytes per second that a GPU sends and receives within a machine (NVLink)."""
    between: float = 50e9
    """Bytes per second of a machine to others (400 Gbit/s)."""


def hours(recipe: Recipe, gpus: int, share: float, given: Assumptions) -> float:
    """Hours of a training, if computing is its only limit."""
    return recipe.total / (given.peak * share * gpus) / 3600


def views_per_second(recipe: Recipe, gpus: int, share: float, given: Assumptions) -> float:
    """Views that the GPUs take per second."""
    return given.peak * share * gpus / recipe.operations


def cores(recipe: Recipe, gpus: int, share: float, given: Assumptions) -> float:
    """Processor cores that load the views as fast as the GPUs take them."""
    return views_per_second(recipe, gpus, share, given) * recipe.pixels / given.loaded


def exchange(recipe: Recipe, gpus: int, share: float, given: Assumptions) -> float:
    """Time of exchanging gradients in 32 bits relative to that of computing them, in a ring, if they do not overlap."""
    if gpus == 1:
        return 0.0
    width = given.inside if gpus <= NODE else given.between
    sent = 2 * (gpus - 1) / gpus * 4 * recipe.parameters
    return sent / width / (recipe.batch * recipe.operations / (given.peak * share))


def time_table(recipes: Sequence[Recipe], given: Assumptions) -> list[str]:
    """Hours and money by number of GPUs."""
    low, high = given.utilization
    rows = [
        "| recipe | " + " | ".join(f"{n} GPU{'s' * (n > 1)}, hours" for n in GPUS) + " | dollars |",
        "|---|" + "---:|" * (len(GPUS) + 1),
    ]
    for recipe in recipes:
        spans = [f"{_two(hours(recipe, n, high, given))} to {_two(hours(recipe, n, low, given))}" for n in GPUS]
        paid = [given.price * hours(recipe, 1, share, given) for share in (high, low)]
        rows.append(f"| {recipe.name} | " + " | ".join(spans) + f" | {_two(paid[0])} to {_two(paid[1])} |")
    return rows


def count_table(recipes: Sequence[Recipe]) -> list[str]:
    """What was counted."""
    rows = [
        "| recipe | images | epochs | views per image, epoch | Mpixel per view | GFLOPs per view | per Mpixel "
        "| EFLOPs in all |",
        "|---|" + "---:|" * 7,
    ]
    for r in recipes:
        mega = r.pixels / 1e6
        rows.append(
            f"| {r.name} | {r.images:,} | {r.epochs} | {r.views:.2f} | {mega:.2f} | {r.operations / 1e9:,.0f} "
            f"| {r.operations / 1e9 / mega:,.0f} | {_two(r.total / 1e18)} |"
        )
    return rows


def limit_table(recipes: Sequence[Recipe], given: Assumptions) -> list[str]:
    """What loading and the network have to keep up with at the high share."""
    high = given.utilization[1]
    rows = [
        "| recipe | views per second, 8 GPUs | cores that load them | exchange / computation, 8 GPUs | 64 GPUs |",
        "|---|" + "---:|" * 4,
    ]
    for r in recipes:
        shares = [f"{_two(100 * exchange(r, gpus, high, given))} %" for gpus in GPUS[1:]]
        rate = views_per_second(r, NODE, high, given)
        rows.append(
            f"| {r.name}, {r.batch} views per GPU | {_two(rate)} | {_two(cores(r, NODE, high, given))} "
            f"| {shares[0]} | {shares[1]} |"
        )
    return rows


def _two(value: float) -> str:
    """A number with two digits that count, and without an exponent."""
    digits = f"{value:.1e}"
    rounded = float(digits)
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:.2g}"


def page(recipes: Sequence[Recipe], given: Assumptions, origin: str) -> str:
    """The whole page.

    Args:
        recipes: as counted.
        given: the assumptions.
        origin: date, sample and software of the counts.
    """
    low, high = (f"{100 * share:g} %" for share in given.utilization)
    wire = f"{given.inside / 1e9:g} GB/s within a machine of eight GPUs and {given.between / 1e9:g} GB/s"
    parts = [
        f"""\
# What a training costs

Time and money of the published recipes on H100 or H200 GPUs: calculated, not measured. `python benchmarks/cost.py`
writes this page ({origin}).

## Time and money
The ranges assume that a step reaches {high} to {low} of the bfloat16 peak, {given.peak / 1e12:.0f} TFLOP/s. They count
computation only; evaluations come on top. An hour of a GPU costs {given.price:g} dollars.
""",
        *time_table(recipes, given),
        """
On an H200, the step of this repository reaches 8 % operator by operator and 18 % as one graph: R50-FPN, 16 images of
512 x 512 in 0.031 s. RetinaNet, and the chips of SNIPER with R101-C4, reach 24 %
([measured](../benchmarks/results/gpu.md)). MLPerf's Mask R-CNN, with operators written for it, reaches some 30 %.

## What was counted
Operations are those of convolutions and matrix products of the forward and backward pass, two per multiplication with
addition, as torch counts them. Views are those that the recipe's planner makes of a sample of COCO in two epochs.
SNIPER has two negative chips per image on top, the most that an epoch has.
""",
        *count_table(recipes),
        f"""
## Other limits
At {high} of the peak. A core loads {given.loaded / 1e6:g} megapixels of views per second
([measured](../benchmarks/results/loader.md) on small photographs; larger ones take longer to decode). Gradients have
32 bits and are exchanged by ring all-reduce, at {wire}
between machines. DDP overlaps the exchange with the backward pass, so shares well below 100 % cost little.
""",
        *limit_table(recipes, given),
        """
Where more cores are needed than a machine has, the loader sets the pace.
""",
    ]
    return "\n".join(parts)
