"""Checks nodes with a ``_target_`` against the signature that they call."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from hydra.utils import get_object

from lightning_det.system.errors import ConfigError


def check_targets(node: Any, key: str = "") -> None:
    """Checks every node with a ``_target_`` against the signature of the object that it names.

    Raises:
        ConfigError: an argument is unknown or has the wrong type.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            check_targets(item, f"{key}[{number}]")
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        check_targets(value, f"{key}.{name}" if key else str(name))
    if "_target_" not in node:
        return
    known = parameters(locate(key, node["_target_"]))
    if known is None:
        return
    for name, value in node.items():
        if name.startswith("_"):
            continue
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"{key}.{name}: unknown{hint}; {node['_target_']} has {', '.join(known)}")
        annotation = known[name].annotation
        if value is None and known[name].default is None:
            continue
        if not _fits(value, annotation):
            raise ConfigError(f"{key}.{name}: must be {_describe(annotation)}, got {value!r}")


def locate(key: str, target: str) -> Any:
    """Imports the object that a ``_target_`` names.

    Args:
        key: key of the node, for the message.
        target: dotted path.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return get_object(target)
    except Exception as error:
        raise ConfigError(f"{key}._target_: cannot import {target} ({error})") from error


def parameters(function: Any) -> dict[str, inspect.Parameter] | None:
    """Returns parameters by name, with those that a constructor passes to base classes; None if all are allowed."""
    chain = [function]
    if inspect.isclass(function):
        chain = [vars(c)["__init__"] for c in function.__mro__ if "__init__" in vars(c)]
        if chain == [object.__init__]:
            return {}
    known: dict[str, inspect.Parameter] = {}
    for step in chain:
        try:
            found = inspect.signature(step, eval_str=True).parameters.values()
        except (TypeError, ValueError, NameError):
            return None
        named = (p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self")
        known = {p.name: p for p in named} | known
        if not any(p.kind == p.VAR_KEYWORD for p in found):
            return known
    return None


def _fits(value: Any, annotation: Any) -> bool:
    """Whether plain data fits a type annotation; anything fits a type that is not plain."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if origin is Literal:
        return value in arguments
    if annotation is None or annotation is type(None):
        return value is None
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # not NaN
    if origin in (list, Sequence):
        return isinstance(value, list) and all(_fits(v, arguments[0]) for v in value)
    if origin is tuple:
        if Ellipsis in arguments:
            return isinstance(value, list) and all(_fits(v, arguments[0]) for v in value)
        return isinstance(value, list) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if value is None:
        return annotation in (Any, object, inspect.Parameter.empty)
    # A node that makes an object, or a type that YAML does not have: the constructor checks it.
    return isinstance(value, Mapping) or not _is_plain(annotation)


def _is_plain(annotation: Any) -> bool:
    return annotation in (list, dict, tuple)


def _describe(annotation: Any) -> str:
    """Describes an annotation in the words of a config file."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(a) for a in arguments))
    if origin is Literal:
        return " or ".join(str(a) for a in arguments)
    if annotation is type(None):
        return "null"
    if origin in (list, Sequence, tuple):
        return f"a list of {_describe(arguments[0])}"
    if origin is Callable or (inspect.isclass(annotation) and annotation.__module__.startswith("lightning_det.")):
        return "a part, with a _target_"
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
