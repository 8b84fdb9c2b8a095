"""Checks that settings are plain data of limited size, with interpolations that only name keys of the settings."""

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from omegaconf import grammar_parser
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser

Path: TypeAlias = tuple[str, ...]
"""The keys that lead to a value in nested settings; for list items, their number."""

DEPTH = 32
"""Maximum nesting depth of settings and other contents of a checkpoint."""

NODES = 20_000
"""Maximum number of values in settings, before and after interpolation. A training has some 300."""

TEXT = 10_000
"""Maximum length of a setting."""

INTERPOLATED = 300
"""Maximum length of a setting with an interpolation."""

KEY = re.compile(r"[\w /+-]{1,200}")
"""Valid keys of settings, none of which OmegaConf reads as a path."""

SCALARS = (str, int, float, bool, type(None))


def check_plain(node: Any, key: str = "", left: list[int] | None = None, depth: int = DEPTH) -> None:
    """Refuses settings that are not lists and dictionaries of texts and numbers, or that are too large.

    Args:
        node: the settings.
        key: of the node, for the message.
        left: how many more values are allowed, shared by the whole walk; an object counts each time it occurs.
        depth: how many more levels are allowed; this ends the walk of an object that contains itself.

    Raises:
        ValueError: the settings are refused; the message names the key.
    """
    left = [NODES] if left is None else left
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"{_short(key)}: more than {NODES} values")
    if type(node) in (dict, list):
        if depth == 0:
            raise ValueError(f"{_short(key)}: nested more than {DEPTH} levels deep")
        for name, value in node.items() if type(node) is dict else enumerate(node):
            if type(node) is dict and (type(name) is not str or not KEY.fullmatch(name)):
                raise ValueError(f"{_short(key)}: a key that is not a short word")
            check_plain(value, f"{key}.{name}" if key else str(name), left, depth - 1)
    elif type(node) not in SCALARS:
        raise ValueError(f"{_short(key)}: a {type(node).__name__}, not plain data")
    elif type(node) is int and abs(node) >= 2**63:
        raise ValueError(f"{_short(key)}: a number of more than 64 bits")
    elif type(node) is str and len(node) > TEXT:
        raise ValueError(f"{_short(key)}: a text of more than {TEXT} characters")
    elif node == "???":
        raise ValueError(f"{_short(key)}: not set")


def check_keys_only(node: Any, key: str = "") -> None:
    """Refuses interpolations that do more than name a key of the settings. Resolvers run code.

    Args:
        node: plain settings, see `check_plain`.
        key: of the node, for the message.

    Raises:
        ValueError: the settings are refused; the message names the key.
    """
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            check_keys_only(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str) and "${" in node:
        try:
            references(node)
        except ValueError as error:
            raise ValueError(f"{_short(key)}: {error}") from error


def references(text: str) -> list[str]:
    """Lists the keys in the interpolations of a text, by OmegaConf's grammar. Relative keys begin with dots.

    Raises:
        ValueError: an interpolation calls a resolver, or contains other interpolations.
    """
    if len(text) > INTERPOLATED:
        raise ValueError(f"an interpolation in more than {INTERPOLATED} characters")
    if "\\" in text:
        raise ValueError("an escaped interpolation")
    try:
        tree = grammar_parser.parse(text)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ValueError("an interpolation that cannot be parsed") from error
    found = []
    for node in _interpolations(tree):
        inner = node.getChild(0)
        if isinstance(inner, OmegaConfGrammarParser.InterpolationResolverContext):
            raise ValueError(f"{inner.getText()[:80]} calls a resolver; only keys of the settings may be named")
        name = inner.getText()[2:-1].strip()
        if "${" in name:
            raise ValueError(f"{inner.getText()[:80]} contains other interpolations")
        found.append(name)
    return found


def _interpolations(tree: Any) -> Iterator[Any]:
    """Yields the outermost interpolations of a parsed text."""
    if isinstance(tree, OmegaConfGrammarParser.InterpolationContext):
        yield tree
        return
    for number in range(tree.getChildCount()):
        yield from _interpolations(tree.getChild(number))


def referenced_path(name: str, path: Path) -> Path:
    """Finds the path of the key that an interpolation names.

    Args:
        name: see `references`.
        path: path of the text with the interpolation.
    """
    steps = tuple(s for s in name.replace("[", ".").replace("]", "").split(".") if s)
    dots = len(name) - len(name.lstrip("."))
    return (*path[: len(path) - dots], *steps) if dots else steps


def follow(root: Any, path: Path) -> tuple[Any, Path]:
    """Follows a path as far as it exists.

    Returns:
        The node and its path. If the path ends early: the text where it ends, such as an interpolation, or None.
    """
    way: Path = ()
    node = root
    for step in path:
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        else:
            return (node if isinstance(node, str) else None), way
        way = (*way, step)
    return node, way


def key_references(text: Any, path: Path) -> list[Path]:
    """Lists the paths that a value refers to; none if it calls a resolver, which only the user's settings may do.

    Args:
        text: the value.
        path: path of the value.
    """
    if not isinstance(text, str) or "${" not in text:
        return []
    try:
        return [referenced_path(name, path) for name in references(text)]
    except ValueError:
        return []


def keep_references(node: Any, plain: Any) -> Any:
    """Prepares settings for a checkpoint: interpolations that name keys are kept, all others are resolved.

    Args:
        node: the settings, not resolved.
        plain: the same settings, resolved.
    """
    if isinstance(node, dict) and isinstance(plain, dict):
        return {name: keep_references(value, plain[name]) for name, value in node.items()}
    if isinstance(node, list) and isinstance(plain, list):
        return [keep_references(*pair) for pair in zip(node, plain, strict=True)]
    try:
        check_keys_only(node)
    except ValueError:
        return plain
    return node


def check_references(root: dict[str, Any], complete: bool = False) -> None:
    """Refuses settings whose interpolations form a cycle, or expand to more than `NODES` values.

    Args:
        root: all settings, not resolved.
        complete: whether every key that an interpolation names must exist.

    Raises:
        ValueError: the settings are refused; the message names the key.
    """
    sizes: dict[Path, int] = {}
    entered: set[Path] = set()

    def count(path: Path, node: Any) -> int:
        """Counts the values of a node after it is resolved."""
        if path in sizes:
            return sizes[path]
        if path in entered:
            raise ValueError(f"{_short('.'.join(path))}: its interpolations lead in a circle")
        entered.add(path)
        total = 1 + (len(node) // 100 if isinstance(node, str) else 0)
        if isinstance(node, dict | list):
            items = node.items() if isinstance(node, dict) else enumerate(node)
            total += sum(count((*path, str(name)), value) for name, value in items)
        for other in key_references(node, path):
            target, way = follow(root, other)
            if complete and way != other and not isinstance(target, str):
                raise ValueError(f"{_short('.'.join(path))}: refers to {'.'.join(other)[:100]}, which is not there")
            if way:  # a missing key is named when the settings are resolved
                total += count(way, target)
        if total > NODES:
            raise ValueError(f"{_short('.'.join(path))}: its interpolations grow to more than {NODES} values")
        sizes[path] = total
        return total

    try:
        count((), root)
    except RecursionError as error:
        raise ValueError("the settings' interpolations lead from one to the next too often") from error


def _short(key: str) -> str:
    """Truncates a key for a message."""
    text = f"settings.{key}" if key else "settings"
    return text if len(text) < 100 else f"{text[:97]}..."
