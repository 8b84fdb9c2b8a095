"""Names of a package that are imported when they are first asked for."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes a package's ``__getattr__`` (PEP 562), so that importing the package imports none of its modules.

    Type checkers do not see these names: import them in an ``if TYPE_CHECKING`` as well.

    Args:
        package: its dotted name.
        homes: name of the module in the package that defines each name.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, found)  # so that this is called once
        return found

    return find
