"""Asks a config node for the class of the object that it makes."""

from collections.abc import Mapping
from typing import Any

from lightning_det.config.signatures import locate


def makes(key: str, node: Mapping[str, Any], kind: type) -> bool:
    """Whether a node makes an object of a class, or of one derived from it.

    Args:
        key: of the node, for the message.
        node: with a ``_target_``.
        kind: the class.

    Raises:
        ConfigError: the target cannot be imported.
    """
    target = locate(key, node["_target_"])
    return isinstance(target, type) and issubclass(target, kind)
