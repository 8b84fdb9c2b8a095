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
    """Runs the command that the first argument names; without arguments, lists the commands.

    The process is replaced by ``python -m lightning_det.NAME``. So everything that depends on the command line works
    the same: Lightning, which starts further ranks, launchers, folders named after the job, and Ctrl-C.
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
    """Lists the commands, each with the first line of its docstring. Imports nothing, which would take seconds."""
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
