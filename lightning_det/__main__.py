"""``lightning-det NAME ARGUMENTS``: ``python -m lightning_det.NAME ARGUMENTS`` in fewer letters."""

import ast
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Becomes the command that the first argument names; without one, lists the commands.

    The process is replaced by ``python -m lightning_det.NAME``. So everything that looks at how a command was started
    works as with that: Lightning, which starts further ranks, launchers, folders named after the job, and Ctrl-C.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        sys.exit()
    if name not in commands():
        near = get_close_matches(name, commands(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(commands())}"
        print(f"error: {name!a} is no command; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"lightning_det.{name}", *arguments])


def commands() -> Sequence[str]:
    """Names of the commands: the modules at the root of the package."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))


def usage() -> str:
    """The commands with a line each, the first of their docstrings. Nothing is imported: that takes seconds."""
    width = max(map(len, commands()))
    lines = [f"  {name:{width}}  {summary(Path(__file__).with_name(f'{name}.py'))}" for name in commands()]
    return "\n".join(["usage: lightning-det COMMAND [KEY=VALUE ...]", "", *lines, "", HELP])


HELP = "lightning-det COMMAND --help shows the settings of a command."


def summary(file: Path) -> str:
    """The first line of a command's docstring, without the command itself."""
    line = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return re.sub(r"^``.*?``: ", "", line)


if __name__ == "__main__":
    main()
