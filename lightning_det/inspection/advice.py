"""Prints a suggestion: what each strategy would cost, the recommended one with its reasons, and what to do next."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_det.annotations.problems import Problem
from lightning_det.inspection.duration import estimate
from lightning_det.inspection.figures import Figures
from lightning_det.inspection.proposal import Suggestion
from lightning_det.inspection.splits import UNUSABLE
from lightning_det.inspection.tables import range_text, scale_text
from lightning_det.inspection.writing import suggestion_yaml

LONG = 15
"""Minutes from which the report says how to shorten the training."""

BUSY = 0.7
"""Seconds of processors per second below which the machine was busy while its speed was measured."""

SLOWED = (
    "Other programs took most of the processors while this was measured. As long as they do, the training takes longer "
    "than estimated. On an idle machine, inspect measures more exactly, and may suggest more epochs."
)

SHORTER = "To shorten it: fewer trainer.max_epochs, {}dataset.limit=IMAGES, or trainer=gpu."


def print_suggestion(
    suggestion: Suggestion, written: Sequence[Path], problems: Sequence[Problem], repeated: str = ""
) -> None:
    """Prints a suggestion.

    Args:
        suggestion: what to print.
        written: files that hold it; empty if it was not written, so that it is printed as yaml.
        problems: of the dataset; the next command says how to train without the records that they stop it at.
        repeated: options for the next commands, such as the detector that the suggestion is for, with a leading space.
    """
    console = Console()
    print_scales(console, suggestion)
    print_costs(console, suggestion.figures)
    recommended = suggestion.recommended
    console.print(Text(f"recommended: strategy=[{','.join(recommended.strategy)}]"))
    for reason in recommended.reasons:
        console.print(Text(f"- {reason}"))
    if recommended.minutes is not None and recommended.minutes > LONG:
        whole = recommended.strategy[0] == "single_scale"
        console.print(Text(f"- {SHORTER.format('a lower dataset.resolution, ' if whole else '')}"))
    speed = suggestion.figures.speed
    if speed is not None and speed.own < BUSY:
        console.print(Text(f"- {SLOWED}"))
    if not written:
        print("# suggested settings of the dataset; write=NAME puts them into conf/dataset/NAME.yaml")
        print(suggestion_yaml(suggestion))
    for file in written:
        print(f"written: {relative(file)}")
    if written:
        name = written[0].stem
        print(f"next: {next_command(name, problems, repeated)}")
        look = f"lightning-det inspect dataset={name} strategy=suggested{repeated}"
        print(f"or look first: {look}  # draws what the detector will see")


def relative(file: Path) -> Path:
    """Returns a shorter path of a file below the working directory, and any other one as it is."""
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def next_command(name: str, problems: Sequence[Problem], repeated: str = "") -> str:
    """Returns the command that trains on an option of ``dataset`` as suggested, whatever records are broken."""
    stops = any(not p.harmless and p.action != UNUSABLE for p in problems)
    without = " dataset.on_bad=skip  # without the records listed above" if stops else ""
    return f"lightning-det train dataset={name} strategy=suggested{repeated}{without}"


def print_scales(console: Console, suggestion: Suggestion) -> None:
    """Prints the scales of SNIPER, with what they learn from and what they are tested on."""
    table = Table("scale", "learns from sizes", "of the boxes", "chips per image", title="suggested for SNIPER")
    sniper = suggestion.tried["sniper"]
    for row in sniper["levels"]:
        counts = (f"{100 * row['boxes_share']:.1f} %", f"{row['chips_per_image']:.2f}")
        table.add_row(scale_text(row["scale"]), range_text(*row["valid_range"]), *counts)
    console.print(table)
    left_out = sniper["boxes_share_of_none"]
    if left_out:
        console.print(f"{100 * left_out:.2f} % of the boxes are learned from at no scale")
    height, width = sniper["inference"]["largest_view"]
    tiles = (
        f"; {100 * sniper['inference']['images_share_in_tiles']:.0f} % of the images have views that are cut into tiles"
    )
    console.print(
        f"It is tested on {sniper['inference']['views_per_image']:.2f} views per image, the largest {width} x {height} "
        f"pixels{tiles if sniper['inference']['images_share_in_tiles'] else ''}"
    )


def print_costs(console: Console, figures: Figures) -> None:
    """Prints what an epoch of each strategy costs."""
    title = "an epoch with these settings" + ("" if figures.speed is None else ", minutes estimated on this machine")
    table = Table("strategy", "views per image", "megapixels", "minutes", "validation", title=title)
    for name, cost in figures.costs.items():
        seconds = estimate(figures, cost)
        minutes = ("", "") if seconds is None else (f"{seconds.epoch / 60:.1f}", f"{seconds.validation / 60:.1f}")
        table.add_row(name, f"{cost.train.views:.1f}", f"{cost.train.megapixels * figures.images:.0f}", *minutes)
    console.print(table)
