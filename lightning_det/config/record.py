"""Checks the options in the record of a run folder: they come from a file, like a checkpoint's settings."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException
from omegaconf import grammar_parser
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser

from lightning_det.system.errors import ConfigError

BYTES = 2**20
"""Maximum size of a record, bytes."""

OPTIONS = 1000
"""Maximum number of options in a record."""

READ_ONLY = ("oc.env",)
"""Resolvers that a record may call, because they only read."""

WRITTEN = ("dirpath", "filename", "folder", "save_dir", "default_root_dir", "output")
"""Last parts of keys, in the nodes of `WRITERS`, that name an output file or folder."""

WRITERS = ("callbacks", "logger", "trainer", "output")

OWN_CALLS = {"callbacks": "lightning_det.callbacks.", "logger": "lightning_det.callbacks."}


def read_record(file: Path) -> list[str] | None:
    """Reads the options in a run folder's record; None if the file was cut off before the first option.

    Raises:
        ConfigError: the record is not a list of options.
    """
    wrong = (
        f"{file}: damaged (not the options of a run, one a line), so that it is not known with which this one was "
        "started; give these options along with resume=RUN_FOLDER/checkpoints/last.ckpt"
    )
    try:
        if file.stat().st_size > BYTES:
            raise ConfigError(wrong)
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(wrong) from error
    if content is None:
        return None
    if not isinstance(content, list) or len(content) > OPTIONS or not all(type(o) is str for o in content):
        raise ConfigError(wrong)
    return content


def check_record(overrides: Iterable[str], file: str | Path, sweep: bool = False) -> None:
    """Refuses options in a run or sweep folder that could run code, or write somewhere else.

    Args:
        overrides: options of the folder, without those that the user gives again.
        file: the folder.
        sweep: whether they belong to a sweep: its options may have several values, a launcher and a sweeper.

    Raises:
        ConfigError: an option is refused; the message names it, and says how to allow it.
    """
    for text in overrides:
        if reason := _objection(text, Path(file), sweep):
            raise ConfigError(
                f"{file} says that its run was started with {text!r:.300}, which {reason}. A folder may come from "
                "anywhere, so this is not taken over: if you know and trust it, give the option again"
            )


def _objection(text: str, folder: Path, sweep: bool) -> str | None:
    """Says why an option is refused; None if it is accepted."""
    if len(text) > 10_000 or not text.isprintable():
        return "is no option"
    try:
        override = OverridesParser.create().parse_override(text)
        value = override.value()
    except (HydraException, RecursionError, ValueError) as error:
        return f"cannot be read ({str(error).splitlines()[0]:.100})"
    key = override.key_or_group
    if sweep and key in ("hydra/launcher", "hydra/sweeper") and re.fullmatch(r"\w+", str(value)):
        return None
    if key.startswith("hydra"):
        return "says where options are looked for, and options may call any code"
    if override.package is not None or not re.fullmatch(r"[\w.]+(/\w+)*", key):
        return "puts an option in another place"
    if override.is_sweep_override():
        if not sweep:
            return "is a sweep"
        value = value.list if isinstance(value, ChoiceSweep) else []  # other values are numbers, or names of options
    if "." not in key and not override.is_delete() and _is_path_of_option(override, value):
        return "names an option by a path"
    return _of_value(key, value, folder)


def _is_path_of_option(override: Override, value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    free = ("weights", "resume", "proposals", "seed")
    return override.key_or_group not in free and any(
        isinstance(n, str | QuotedString) and ("/" in str(n) or ".." in str(n)) for n in names
    )


def _of_value(key: str, value: Any, folder: Path) -> str | None:
    """Says why a value, or one inside it, is refused; None if it is accepted."""
    from lightning_det.config.parts import PARTS, PLACES  # torch, which takes seconds

    if isinstance(value, dict):
        found = (_of_value(f"{key}.{name}", inner, folder) for name, inner in value.items())
        return next((reason for reason in found if reason), None)
    if isinstance(value, list):
        return next((reason for inner in value if (reason := _of_value(key, inner, folder))), None)
    *above, last = key.split(".")
    text = value.text if isinstance(value, QuotedString) else value
    if last == "_target_":
        slot = ".".join(above)
        own = OWN_CALLS.get(above[0]) if above else None
        if text in PARTS.get(slot, ()) or (own and re.fullmatch(rf"{re.escape(own)}[A-Z]\w+", str(text))):
            return None
        return f"calls {text!s:.100} at {slot}, which is no part of lightning-det there"
    if last.startswith("_"):
        return "says how something is called"
    writes = above and above[0] in WRITERS and last in WRITTEN and text is not None
    if writes and not Path(str(text)).resolve().is_relative_to(folder.resolve()):
        return "says where something is written, not in its folder"
    if key in PLACES and text is not None and not PLACES[key][0](text):
        return f"is not {PLACES[key][1]}"
    return _of_interpolations(text) if isinstance(text, str) and "${" in text else None


def _of_interpolations(text: str) -> str | None:
    """Says why a text is refused: its interpolations may only name keys and read the environment; None if accepted."""
    if len(text) > 300:
        return "has a long interpolation"
    try:
        left = [grammar_parser.parse(text)]
    except (OmegaConfBaseException, RecursionError):
        return "has an interpolation that cannot be read"
    while left:
        node = left.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationContext):
            inner = node.getChild(0)
            name = inner.getText()[2:].split(":")[0].strip()
            resolves = isinstance(inner, OmegaConfGrammarParser.InterpolationResolverContext)
            if "${" in inner.getText()[2:] or (resolves and name not in READ_ONLY):
                return f"calls a resolver ({inner.getText()[:80]})"
        left += [node.getChild(number) for number in range(node.getChildCount())]
    return None
