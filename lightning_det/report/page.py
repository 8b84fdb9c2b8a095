"""Renders the report: its content as plain data, and the template that lays it out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from lightning_det.report.embedding import Picture


class Fact(NamedTuple):
    """A name and its value, both as text."""

    name: str
    value: str


class Command(NamedTuple):
    """A command line that may come next."""

    purpose: str
    line: str


class Change(NamedTuple):
    """A setting that differs from the default."""

    key: str
    default: str
    here: str


@dataclass
class Page:
    """Content of a report. Texts are data: names may look like HTML, and are never read as such."""

    title: str
    kind: str
    """``training`` or ``evaluation``."""
    summary: str
    """What was trained or evaluated, in a sentence."""
    headline: Sequence[Fact]
    """The figures that matter most."""
    notes: Sequence[str] = ()
    """What a reader must know to read the figures rightly."""
    learning: Picture | None = None
    sizes: Picture | None = None
    size_rows: Sequence[dict[str, Any]] = ()
    """See `Evaluation.curve`."""
    class_rows: Sequence[dict[str, Any]] = ()
    """See `Diagnosis.per_class`; without a diagnosis, the first columns."""
    thresholds: str = ""
    """How the score thresholds of the classes were found."""
    curves: Picture | None = None
    confusion: Picture | None = None
    confusion_note: str = ""
    confused: Sequence[tuple[str, str, int, float]] = ()
    """See `Diagnosis.confused`."""
    key: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Colours of boxes in the pictures by what they mean."""
    worst: Sequence[Picture] = ()
    best: Sequence[Picture] = ()
    pictures_note: str = ""
    cost: Sequence[Fact] = ()
    overrides: Sequence[str] = ()
    """The options that were given on the command line."""
    changes: Sequence[Change] = ()
    settings: str = ""
    """The whole configuration as YAML."""
    commands: Sequence[Command] = ()


def render(page: Page) -> str:
    """Renders the report as HTML. Everything that is filled in is escaped, and the page forbids scripts."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": figure, "percent": percent}
    template, style = (files(__package__).joinpath(name).read_text("utf-8") for name in ("page.html", "page.css"))
    return environment.from_string(template).render(page=page, style=style)


def figure(value: float | None) -> str:
    """A figure between 0 and 1 with three decimals; a hyphen if it is undefined."""
    return "-" if value is None else f"{value:.3f}"


def percent(value: float) -> str:
    """A share as per cent, for the length of a bar."""
    return f"{100 * value:.1f}%"
