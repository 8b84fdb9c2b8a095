"""Saves figures as PNG, or as SVG that takes its colours from a page; without matplotlib's global state."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from matplotlib import rc_context
from matplotlib.figure import Figure

from lightning_det.system.errors import one_line
from lightning_det.system.files import atomic_write

INK = "#1b1c1d"
"""Colour of text and axes; no data has it, so that an SVG can have another one."""

BLUE = "#3b82c4"
"""Colour of a single curve; it can be seen on light and on dark pages."""

STYLE: dict[Any, Any] = {  # a literal type of matplotlib's stubs names all keys
    **{f"{kind}.color": INK for kind in ("text", "xtick", "ytick")},
    **{f"axes.{part}color": INK for part in ("label", "edge")},
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lightning-det",
}

DARK = "<style>svg{color:#1b1c1d}@media(prefers-color-scheme:dark){svg{color:#e3e5e8}}</style>"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def styled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Lets a function that draws or saves a figure work in `STYLE`."""
    return rc_context(STYLE)(function)


def save_png(figure: Figure, file: Path) -> None:
    """Writes a PNG."""
    picture = io.BytesIO()
    styled(figure.savefig)(picture, dpi=120)
    with atomic_write(file, "wb") as stream:
        stream.write(picture.getvalue())


def to_svg(figure: Figure) -> str:
    """Renders a figure as SVG with a transparent background, whose ink is light where a reader prefers dark pages."""
    picture = io.StringIO()
    styled(figure.savefig)(picture, format="svg", transparent=True, metadata={"Date": None})
    text = picture.getvalue()
    start = text.index("<svg")
    end = text.index(">", start) + 1
    return text[start:end] + DARK + text[end:].replace(INK, "currentColor")


def label_text(name: str, width: int = 30) -> str:
    """A name as a label: on one line, cut off, and without what matplotlib reads as mathematics or hides."""
    return one_line(name, width).replace("$", r"\$").lstrip("_") or "-"
