"""``--help``: a command's own options first, then the groups with theirs, from the comments in the yaml files.

Hydra's own help prints the whole configuration, and takes a second to compose it; ``--cfg job`` does that too.
"""

import ast
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]

WIDTH = 80
"""Characters in a line."""

LONGEST = 28
"""Characters of an option and its default that have their comment beside them."""

OF_RUNS = {
    "train": ("seed", "weights", "resume", "proposals"),
    "mine": ("seed", "weights"),
    "inspect": ("seed", "proposals"),
}
"""Options of ``base.yaml`` that commands read besides their own."""

OF_CHECKPOINTS = {
    "eval": ("dataset", "strategy", "test", "trainer", "logger", "callbacks"),
    "predict": ("strategy", "test", "trainer"),
    "export": ("test",),
}
"""Groups of ``base.yaml`` for commands whose settings come from a checkpoint. They have no defaults there."""

USED = (
    *("dataset.root=DIR", "dataset.limit=100", "trainer.max_epochs=3"),
    *("data.batch_size=4", "dataset.resolution=[480,640]", "hydra.run.dir=DIR"),
)
"""Settings of a training that most people need sooner or later, with values as examples."""

LISTS = ("strategy", "test", "callbacks")
"""Groups of which several options may be chosen."""


class Entry(NamedTuple):
    """A key of a yaml file, or an option of a group."""

    name: str
    value: str
    """As it is written."""
    comment: str


def command_names() -> list[str]:
    """Names of the commands: the modules at the root of the package."""
    return sorted(file.stem for file in PACKAGE.glob("*.py") if not file.stem.startswith("_"))


def describe(command: str) -> tuple[str, str]:
    """The arguments of a command, and what it does, from the first line of its module's docstring."""
    text = (PACKAGE / f"{command}.py").read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    arguments, does = re.fullmatch(r"``python -m lightning_det\.\w+ ?(.*?)``: (.*)", line).groups()  # type: ignore[union-attr]
    return arguments, does.replace("``", "`").rstrip(".")


def print_help(command: str, folders: Sequence[Path]) -> None:
    """Prints `help_text`, of which a pager such as ``head`` may read a part only."""
    try:
        print(help_text(command, folders), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end


def help_text(command: str, folders: Sequence[Path]) -> str:
    """The help of a command.

    Args:
        command: its name.
        folders: of configuration files, the package's last. Options of the first ones win.
    """
    file = folders[-1] / f"{command}.yaml"
    arguments, does = describe(command)
    entries = list(read_entries(file))
    options = [e for e in entries if not e.name.startswith(("defaults.", "hydra."))]
    groups = {e.name.removeprefix("defaults.").removeprefix("override "): e for e in entries if "defaults." in e.name}
    if "base" in groups:
        base = list(read_entries(folders[-1] / "base.yaml"))
        options += [e for e in base if e.name in OF_RUNS.get(command, ())]
        shared = {e.name.removeprefix("defaults."): e for e in base if e.name.startswith("defaults.")}
        chosen = {name: e._replace(value=groups[name].value) if name in groups else e for name, e in shared.items()}
        groups = {name: chosen[name] for name in OF_CHECKPOINTS.get(command, chosen)}
    intro = " ".join([f"{command}: {does}.", *first_comment(file.read_text(encoding="utf-8"))])
    parts = [f"usage: lightning-det {command} {arguments} [KEY=VALUE ...]".replace("  ", " ")]
    parts += [textwrap.fill(intro, WIDTH), options_text(options)]
    listed = {name: found for name in groups if (found := list(read_options(name, folders)))}
    parts += [group_text(name, groups[name], found, command not in OF_CHECKPOINTS) for name, found in listed.items()]
    return "\n\n".join([*parts, pointers(command, list(listed))])


def options_text(entries: Sequence[Entry]) -> str:
    """Options in two columns: ``KEY=DEFAULT``, and the comment, which may take several lines."""
    named = [(e.name if e.value == "???" else f"{e.name}={e.value}", e) for e in entries]
    column = max((len(name) for name, _ in named if len(name) <= LONGEST), default=0) + 4
    lines = ["Options, with their defaults:"]
    for name, entry in named:
        comment = f"required: {entry.comment}" if entry.value == "???" else entry.comment
        indent = f"  {name}".ljust(column) if len(name) <= LONGEST else " " * column
        if len(name) > LONGEST:
            lines.append(f"  {name}")
        lines += textwrap.wrap(comment, WIDTH, initial_indent=indent, subsequent_indent=" " * column) or [indent]
    return "\n".join(lines)


def group_text(name: str, group: Entry, options: Sequence[Entry], marked: bool) -> str:
    """A group with its options, one a line.

    Args:
        name: of the group.
        group: its entry in the list of defaults.
        options: of the group.
        marked: whether the default is.
    """
    default = re.findall(r"\w+", group.value) if marked else []
    column = max(len(o.name) for o in options) + 6
    lines = textwrap.wrap(f"{name}: {group.comment}".removesuffix(": "), WIDTH)
    for option in options:
        mark = "*" if option.name in default else " "
        lines.append(f"  {mark} {option.name:{column - 4}}{clause(option.comment, WIDTH - column)}".rstrip())
    return "\n".join(lines)


def pointers(command: str, groups: Sequence[str]) -> str:
    """Where the rest is."""
    lists = [name for name in groups if name in LISTS]
    marked = "" if command in OF_CHECKPOINTS else "; * marks the default"
    lines = [f"GROUP=OPTION chooses from a group{marked}."] if groups else []
    lines += [f"Lists: {', '.join(f'{name}=[A,B]' for name in lists)}."] if lists else []
    lines += ["-m KEY=A,B runs a sweep; --hydra-help lists further flags."]
    lines += [f"lightning-det {command} --cfg job prints the configuration of a command line;"]
    lines += ["each of its keys can be set: KEY=VALUE."]
    lines += textwrap.wrap(f"Often used: {', '.join(USED)}.", WIDTH) if command == "train" else []
    return "\n".join(lines)


def clause(text: str, width: int) -> str:
    """The first sentence of a text, as far as it fits: at best up to a comma, colon or parenthesis."""
    sentence = re.split(r"(?<=[.?])(?<!al\.) (?=[A-Z0-9\"])", text)[0].rstrip(".:")
    if len(sentence) <= width:
        return sentence
    ends = [m.start() for m in re.finditer(r"[,;:] | \(", sentence) if width / 3 <= m.start() <= width]
    return sentence[: ends[-1]] if ends else textwrap.shorten(sentence, width, placeholder=" ...")


def read_options(group: str, folders: Sequence[Path]) -> Iterator[Entry]:
    """The options of a group with the comment at the top of each, the user's own first."""
    seen: set[str] = set()
    for folder in folders:
        for file in sorted((folder / group).glob("*.yaml")):
            if file.stem not in seen:
                yield Entry(file.stem, "", " ".join(first_comment(file.read_text(encoding="utf-8"))))
            seen.add(file.stem)


def first_comment(text: str) -> Iterator[str]:
    """The lines of the comment at the top of a file, without Hydra's directives and indented examples."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        if not line.startswith(("# @", "#  ")):
            yield line.lstrip("# ")


def read_entries(file: Path) -> Iterator[Entry]:
    """The keys of a yaml file with the comment above or beside each, and the items of its list ``defaults``.

    Keys below others are dotted. Text is compared line by line: no parser of YAML keeps comments.
    """
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        body, _, beside = re.sub(r"(^|\s+)# ?", "\0", line, count=1).partition("\0")
        found = re.fullmatch(r"( *)(- )?([\w ]+)(?:: *(.*))?", body)
        if found:
            indent, name, value = len(found[1]), found[3], found[4] or ""
            parents = [p for p in parents if p[0] < indent]
            if value or found[2]:
                yield Entry(".".join([*(p[1] for p in parents), name]), value, " ".join(above) or beside)
            else:
                parents.append((indent, name))
        above = [*above, beside] if beside and not body else []
