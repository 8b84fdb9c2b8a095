"""The page of `matrix`: its tables written, and read again."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import NamedTuple

ALONE = "(none)"
"""In place of a test option: the inference of the run's own strategy."""

WORKS = "✓"

PAGE = """# What works with what
Every option of `strategy`, `detector` and `test` together, on `shapes`. {about}

`python benchmarks/matrix.py` makes this page again. A test repeats a part of it and fails when an outcome changes or an
option is added.

{works}: it works. A letter: it is refused with a message, [below](#refusals). Nothing else happened.

## Training
Two steps of `lightning-det train strategy=[ROW] detector=COLUMN`. `sniper` mined its proposals first, in the same
command. `suggested` stands for what is suggested for `shapes`, `[sniper_no_negatives,flip]`; for your own images,
`inspect write=NAME` writes it. Detectors have `backbone=tiny`{others}.

{training}

## Evaluation
The checkpoints of these trainings, evaluated with `test=[ROW]`. `{alone}` is the inference of the run's own strategy.
{merged}

{evaluation}

## Export
`lightning-det export` of the run of `strategy=[single_scale]`, compared in onnxruntime: images of open size, without
NMS. The graph depends on the detector, its classes, and the views and thresholds of inference. It does not depend on
how the detector was trained, so the runs of other strategies were not exported. [Export](export.md) describes fixed
sizes, NMS in the graph and older opsets.

{exports}

## Refusals
STRATEGY, TEST and DETECTOR stand for the options of row and column, and DETECTOR also for the detector's class.

{refusals}

## What was run
{run}
"""


@dataclass
class Matrix:
    """Outcomes: empty for what works, else the message of the refusal; None for what was not tried."""

    backbones: dict[str, str] = field(default_factory=dict)
    """By detector."""
    training: dict[str, dict[str, str]] = field(default_factory=dict)
    """By strategy and detector."""
    evaluation: dict[str, dict[str, dict[str, str | None]]] = field(default_factory=dict)
    """By test option, strategy and detector. Without a checkpoint nothing can be tried."""
    exports: dict[str, str] = field(default_factory=dict)
    """By detector."""


class Cell(NamedTuple):
    """A place in one of the tables."""

    table: str
    row: str
    column: str


def cells(matrix: Matrix) -> dict[Cell, str | None]:
    """Outcomes by the cells of the tables, with placeholders in the messages.

    A row of evaluations stands for all strategies whose outcomes do not differ. The rows of others name them.
    """
    found: dict[Cell, str | None] = {}
    for strategy, outcomes in matrix.training.items():
        for detector, outcome in outcomes.items():
            found[Cell("Training", strategy, detector)] = general(outcome, STRATEGY=strategy, DETECTOR=detector)
    for test, by_strategy in matrix.evaluation.items():
        for row, outcomes in _rows(test, by_strategy):
            for detector, outcome in outcomes.items():
                found[Cell("Evaluation", row, detector)] = general(outcome, TEST=test, DETECTOR=detector)
    for detector, outcome in matrix.exports.items():
        found[Cell("Export", "export", detector)] = general(outcome, DETECTOR=detector)
    return found


def _rows(
    test: str, by_strategy: Mapping[str, Mapping[str, str | None]]
) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """The rows of a test option, each with outcomes by detector, that of most strategies first."""
    groups: list[tuple[list[str], dict[str, str | None]]] = []
    for strategy, outcomes in by_strategy.items():
        fits = [g for g in groups if all(None in (a, outcomes[d]) or a == outcomes[d] for d, a in g[1].items())]
        names, known = fits[0] if fits else ([], dict.fromkeys(outcomes))
        names.append(strategy)
        known.update({d: outcome for d, outcome in outcomes.items() if outcome is not None})
        if not fits:
            groups.append((names, known))
    groups.sort(key=lambda group: -len(group[0]))
    for number, (names, known) in enumerate(groups):
        yield (f"{test} after {' and '.join(names)}" if number else test), known


def general(outcome: str | None, **names: str) -> str | None:
    """A message with placeholders for the names of options, and for the detector's class."""
    if outcome is None:
        return None
    outcome = re.sub(r"lightning_det\.detectors\.\w+|^\w+(?= does not have)", "DETECTOR", outcome)
    for placeholder, name in names.items():
        for part in (name, *name.split(",")):
            outcome = re.sub(rf"(?<={placeholder.lower()}=){re.escape(part)}(?![\w,])", placeholder, outcome)
    return outcome


def write(matrix: Matrix, about: str, run: str) -> str:
    """The page.

    Args:
        matrix: all outcomes.
        about: a sentence with date and duration.
        run: what was run, a paragraph.
    """
    outcomes = cells(matrix)
    messages = list(dict.fromkeys(m for m in outcomes.values() if m))
    letters = dict(zip(messages, _letters(), strict=False)) | {"": WORKS}
    tables: dict[str, list[str]] = {}
    columns = list(matrix.backbones)
    for name in ("Training", "Evaluation", "Export"):
        rows = dict.fromkeys(cell.row for cell in outcomes if cell.table == name)
        head = {"Training": "`strategy=`", "Evaluation": "`test=`", "Export": ""}[name]
        tables[name] = [f"| {head} | {' | '.join(f'`{c}`' for c in columns)} |", f"|---|{'---|' * len(columns)}"]
        for row in rows:
            found = (outcomes.get(Cell(name, row, c)) for c in columns)
            tables[name].append(f"| `{row}` | {' | '.join('' if o is None else letters[o] for o in found)} |")
    others = [f", `{d}` has `backbone={b}`" for d, b in matrix.backbones.items() if b != "tiny"]
    split = any(" after " in cell.row for cell in outcomes)
    return PAGE.format(
        about=about,
        works=WORKS,
        others="".join(others),
        alone=ALONE,
        merged="What came of it was the same for the checkpoints of all strategies"
        + (", except those that rows name." if split else "."),
        training="\n".join(tables["Training"]),
        evaluation="\n".join(tables["Evaluation"]),
        exports="\n".join(tables["Export"]),
        refusals="\n".join(f"- **{letters[m]}** {m}" for m in messages) or "None.",
        run=run,
    )


def read(page: str) -> dict[Cell, str]:
    """Outcomes by cell of a page; empty cells are left out."""
    messages = dict(re.findall(r"^- \*\*(\w+)\*\* (.+)$", page, flags=re.MULTILINE)) | {WORKS: ""}
    found = {}
    for section in page.split("\n## ")[1:]:
        table, *lines = section.splitlines()
        rows = [[part.strip(" `") for part in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        for row in rows[2:]:
            pairs = zip(rows[0][1:], row[1:], strict=True)
            found |= {Cell(table, row[0], column): messages[mark] for column, mark in pairs if mark}
    return found


def _letters() -> Iterable[str]:
    yield from ascii_lowercase
    yield from (first + second for first in ascii_lowercase for second in ascii_lowercase)
