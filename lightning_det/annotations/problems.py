"""Problems of a dataset, and the decision whether to stop or to continue."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_det.system.errors import UserError, printable


@dataclass(frozen=True)
class Problem:
    """A record of a dataset that is wrong, and how it is handled."""

    file: str
    """The file that holds the record."""
    record: str
    """The record within it: annotation id, object number, line; "" for the whole file."""
    reason: str
    """Why the record is wrong."""
    action: str
    """How the record is handled: left out, clipped and so on."""
    harmless: bool = False
    """Whether the meaning of the record is certain: the action is then taken and reported whatever ``on_bad`` is.

    A problem that is not harmless stops a training, unless ``on_bad=skip``."""

    def __str__(self) -> str:
        where = f"{self.file}, {self.record}" if self.record else self.file
        return printable(f"{where}: {self.reason}").replace("\n", " ")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for json."""
        return asdict(self)


IMAGE_LEFT_OUT = "image left out"
MENTION_LEFT_OUT = "second mention left out"
BOX_LEFT_OUT = "box left out"
BOX_CLIPPED = "box clipped to the image"


class DatasetError(UserError):
    """The dataset cannot be used as it is."""


class NoSplitError(DatasetError):
    """The dataset has no split of this name."""


def refuse(problems: Sequence[Problem], what: str, shown: int = 20) -> None:
    """Stops if a dataset has problems that are not harmless.

    Args:
        problems: all problems of the dataset.
        what: the dataset, for the message.
        shown: how many problems the message lists.

    Raises:
        DatasetError: there are such problems; the message names them and a way to go on.
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
        f"Fix them (`lightning-det inspect` with the same dataset options lists them all),\n"
        f"or add dataset.on_bad=skip to go on {_way_on(problems)}."
        + f"\nIn any case: {summary(harmless)}."
        * bool(harmless)
    )


def _way_on(problems: Sequence[Problem]) -> str:
    """Says how a training continues with ``on_bad=skip``: which records are left out, clipped or corrected."""
    out = [p for p in problems if p.action.endswith("left out")]
    rest = [p for p in problems if not p.action.endswith("left out")]
    parts = [f"without these records ({summary(out)})"] * bool(out) + [f"with {summary(rest)}"] * bool(rest)
    return " and ".join(parts)


def summary(problems: Sequence[Problem]) -> str:
    """Lists how often each action was taken, such as ``3 x box left out``."""
    return ", ".join(f"{count} x {action}" for action, count in Counter(p.action for p in problems).items())
