"""``train resume=RUN_FOLDER``: the options of a run that goes on are those it was started with."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

MULTIRUN = ("-m", "--multirun")


def completed(arguments: Sequence[str]) -> list[str]:
    """The command line of a run that goes on: what it was started with, what is given now, and its folder.

    What is given now wins. Without ``resume=FOLDER``, or where the folder does not say how it was started, and in
    multiruns, the arguments stay as they are.

    Args:
        arguments: after the name of the command.
    """
    given = {override_key(a): a.split("=", 1)[1] for a in arguments if "=" in a and not a.startswith("-")}
    folder = Path(given.get("resume", "").strip("'\"") or "?")
    file = folder / ".hydra" / "overrides.yaml"
    if not file.is_file() or any(flag in arguments for flag in MULTIRUN):
        return list(arguments)
    # A run that started from weights has left them behind, and one that went on before is the same run.
    left = {*given, "weights", "resume"}
    first = [o for o in yaml.safe_load(file.read_text()) or [] if override_key(o) not in left]
    place = [] if "hydra.run.dir" in given else [f"hydra.run.dir={json.dumps(str(folder.resolve()))}"]
    return [*first, *arguments, *place]


def override_key(override: str) -> str:
    """The dotted key that an override sets."""
    return override.split("=", 1)[0].lstrip("+~")
