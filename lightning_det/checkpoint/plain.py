"""Plain data of bounded size, and interpolations that name keys and nothing else."""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import grammar_parser
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser

DEPTH = 32
"""Levels that settings, or what else a checkpoint holds, may be nested."""

NODES = 20_000
"""Values that settings may hold, before and after their interpolations; a training's have some 300."""

TEXT = 10_000
"""Characters of a setting."""

INTERPOLATED = 300
"""Characters of a setting with an interpolation."""

KEY = re.compile(r"[\w /+-]{1,200}")
"""What a key of the settings looks like: nothing that OmegaConf reads as a path."""

SCALARS = (str, int, float, bool, type(None))


def check_plain(node: Any, key: str = "", left: list[int] | None = None, depth: int = DEPTH) -> None:
    """Refuses settings that are more than lists and dictionaries of texts and numbers, or too many of them.

    Args:
        node: the settings.
        key: of the node, for the message.
        left: values that may still come; shared by the whole walk, so that what is referred to often counts as often.
        depth: levels that may still come; what holds itself has no last one.

    Raises:
        ValueError: naming the key.
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
                raise ValueError(f"{_short(key)}: a key that is no short word")
            check_plain(value, f"{key}.{name}" if key else str(name), left, depth - 1)
    elif type(node) not in SCALARS:
        raise ValueError(f"{_short(key)}: a {type(node).__name__}, no plain data")
    elif type(node) is int and abs(node) >= 2**63:
        raise ValueError(f"{_short(key)}: a number of more than 64 bits")
    elif type(node) is str and len(node) > TEXT:
        raise ValueError(f"{_short(key)}: a text of more than {TEXT} characters")
    elif node == "???":
        raise ValueError(f"{_short(key)}: not set")


def check_keys_only(node: Any, key: str = "") -> None:
    """Refuses interpolations that do more than name a key of the settings: resolvers run code.

    Args:
        node: plain settings, see `check_plain`.
        key: of the node, for the message.

    Raises:
        ValueError: naming the key.
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
    """Keys that the interpolations of a text name, in OmegaConf's grammar; relative ones begin with dots.

    Raises:
        ValueError: an interpolation calls a resolver, or is put together by others.
    """
    if len(text) > INTERPOLATED:
        raise ValueError(f"an interpolation in more than {INTERPOLATED} characters")
    if "\\" in text:
        raise ValueError("an escaped interpolation")
    try:
        tree = grammar_parser.parse(text)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ValueError("an interpolation that cannot be read") from error
    found = []
    for node in _interpolations(tree):
        inner = node.getChild(0)
        if isinstance(inner, OmegaConfGrammarParser.InterpolationResolverContext):
            raise ValueError(f"{inner.getText()[:80]} calls a resolver; only keys of the settings may be named")
        name = inner.getText()[2:-1].strip()
        if "${" in name:
            raise ValueError(f"{inner.getText()[:80]} is put together by other interpolations")
        found.append(name)
    return found


def _interpolations(tree: Any) -> Iterator[Any]:
    """Outermost interpolations of a parsed text."""
    if isinstance(tree, OmegaConfGrammarParser.InterpolationContext):
        yield tree
        return
    for number in range(tree.getChildCount()):
        yield from _interpolations(tree.getChild(number))


def referenced_path(name: str, place: tuple[str, ...]) -> tuple[str, ...]:
    """Where the key of an interpolation leads.

    Args:
        name: see `references`.
        place: of the text.
    """
    steps = tuple(s for s in name.replace("[", ".").replace("]", "").split(".") if s)
    dots = len(name) - len(name.lstrip("."))
    return (*place[: len(place) - dots], *steps) if dots else steps


def follow(root: Any, place: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The node at a place and its place, or the first text or nothing on the way to it."""
    node, way = root, ()
    for step in place:
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        else:
            return (node if isinstance(node, str) else None), way
        way = (*way, step)
    return node, way


def key_references(text: Any, place: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Places that a value refers to; none for what calls resolvers, which only the user's own settings may."""
    if not isinstance(text, str) or "${" not in text:
        return []
    try:
        return [referenced_path(name, place) for name in references(text)]
    except ValueError:
        return []


def keep_references(node: Any, plain: Any) -> Any:
    """Settings with those interpolations that name keys only, as checkpoints keep them; others are resolved.

    Args:
        node: the settings, not resolved.
        plain: the same, resolved.
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
    """Refuses settings whose interpolations lead in a circle, or grow to more values than `NODES`.

    Args:
        root: all of the settings, not resolved.
        complete: whether every key that an interpolation names has to be there.

    Raises:
        ValueError: naming the key.
    """
    known: dict[tuple[str, ...], int | None] = {}

    def size(place: tuple[str, ...], node: Any) -> int:
        if place in known:
            if known[place] is None:
                raise ValueError(f"{_short('.'.join(place))}: its interpolations lead in a circle")
            return known[place]
        known[place] = None
        total = 1 + (len(node) // 100 if isinstance(node, str) else 0)
        if isinstance(node, dict | list):
            items = node.items() if isinstance(node, dict) else enumerate(node)
            total += sum(size((*place, str(name)), value) for name, value in items)
        for other in key_references(node, place):
            there, way = follow(root, other)
            if complete and way != other and not isinstance(there, str):
                raise ValueError(f"{_short('.'.join(place))}: refers to {'.'.join(other)[:100]}, which is not there")
            if way:  # a place that is not there is named when it is resolved
                total += size(way, there)
        if total > NODES:
            raise ValueError(f"{_short('.'.join(place))}: its interpolations grow to more than {NODES} values")
        known[place] = total
        return total

    try:
        size((), root)
    except RecursionError as error:
        raise ValueError("the settings' interpolations lead from one to the next too often") from error


def _short(key: str) -> str:
    text = f"settings.{key}" if key else "settings"
    return text if len(text) < 100 else f"{text[:97]}..."
