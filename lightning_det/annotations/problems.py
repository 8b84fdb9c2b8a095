"""What is wrong with a dataset, and what becomes of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lightning_det.system.errors import UserError, printable


@dataclass(frozen=True)
class Problem:
    """One finding."""

    file: str
    """The file that holds the record."""
    record: str
    """The record within it: annotation id, object number, line; "" for the whole file."""
    reason: str
    """What is wrong with it."""
    action: str
    """The record is left out or mended, as these words say."""
    harmless: bool = False
    """Whether that is done, counted and said whatever ``on_bad`` is, since what was meant is certain; a problem that is
    not harmless stops a training unless ``on_bad=skip``."""

    def __str__(self) -> str:
        where = f"{self.file}, {self.record}" if self.record else self.file
        return printable(f"{where}: {self.reason}").replace("\n", " ")

    def to_dict(self) -> dict[str, str]:
        """Plain data for json."""
        return asdict(self)


IMAGE_LEFT_OUT = "image left out"
MENTION_LEFT_OUT = "second mention left out"
BOX_LEFT_OUT = "box left out"
BOX_CLIPPED = "box clipped to the image"


class DatasetError(UserError):
    """The dataset cannot be used as it is."""


def refuse(problems: Sequence[Problem], what: str, shown: int = 20) -> None:
    """Stops when a dataset has problems that are not harmless, and names them.

    Raises:
        DatasetError: if there are any.
    """
    harmless = [p for p in problems if p.harmless]
    problems = [p for p in problems if not p.harmless]
    if not problems:
        return
    lines = [f"  {p}" for p in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  ... and {len(problems) - shown} more")
    raise DatasetError(
        f"{what} has {len(problems)} problem{'s' * (len(problems) > 1)}:\n" + "\n".join(lines) + "\n"
        f"Mend them (`python -m lightning_det.inspect` with the same dataset options lists them all),\n"
        f"or add dataset.on_bad=skip to go on {_way(problems)}."
        + f"\nIn any case: {summary(harmless)}."
        * bool(harmless)
    )


def _way(problems: Sequence[Problem]) -> str:
    """How a training goes on past problems: without some records, and with others that are mended."""
    out = [p for p in problems if p.action.endswith("left out")]
    rest = [p for p in problems if not p.action.endswith("left out")]
    parts = [f"without these records ({summary(out)})"] * bool(out) + [f"with {summary(rest)}"] * bool(rest)
    return " and ".join(parts)


def summary(problems: Sequence[Problem]) -> str:
    """How many records fall under each action."""
    return ", ".join(f"{count} x {action}" for action, count in Counter(p.action for p in problems).items())
