"""``lightning-det NAME ARGUMENTS``: ``python -m lightning_det.NAME ARGUMENTS`` in fewer letters."""

import os
import sys
from difflib import get_close_matches
from typing import NoReturn

from lightning_det import __version__
from lightning_det.runs.help import command_names, describe


def main() -> NoReturn:
    """Runs the command that the first argument names; without arguments, lists the commands.

    The process is replaced by ``python -m lightning_det.NAME``. So everything that depends on the command line works
    the same: Lightning, which starts further ranks, launchers, folders named after the job, and Ctrl-C.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        sys.exit()
    if name == "--version":
        print(f"lightning-det {__version__}")
        sys.exit()
    if name not in command_names():
        near = get_close_matches(name, command_names(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(command_names())}"
        print(f"error: {name!a} is no command; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"lightning_det.{name}", *arguments])


def usage() -> str:
    """Lists the commands, each with the first line of its docstring. Imports nothing, which would take seconds."""
    width = max(map(len, command_names()))
    lines = [f"  {name:{width}}  {describe(name)[1]}" for name in command_names()]
    return "\n".join(["usage: lightning-det COMMAND [KEY=VALUE ...]", "", *lines, "", HELP])


HELP = "lightning-det COMMAND --help lists the options of a command; lightning-det --version names the version."


if __name__ == "__main__":
    main()
