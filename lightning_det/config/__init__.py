"""The configuration: its schema, and the checks that a run makes before it starts.

Nodes with a ``_target_`` are checked against the signature that they call, so names, types and choices are written only
once, in the code. The dataclasses of `schema` describe the rest.
"""

from typing import TYPE_CHECKING

from lightning_det.config.schema import CONF, register_schema
from lightning_det.system.errors import ConfigError
from lightning_det.system.lazy import lazy_names

if TYPE_CHECKING:
    from lightning_det.config.contradictions import check_contradictions
    from lightning_det.config.options import SLOTS, check_slots, read_option
    from lightning_det.config.signatures import check_targets
    from lightning_det.config.validation import resolve, validate
    from lightning_det.config.values import check_values

__all__ = [
    "CONF",
    "SLOTS",
    "ConfigError",
    "check_contradictions",
    "check_slots",
    "check_targets",
    "check_values",
    "read_option",
    "register_schema",
    "resolve",
    "validate",
]

__getattr__ = lazy_names(
    __name__,
    {
        "SLOTS": "options",
        "check_contradictions": "contradictions",
        "check_slots": "options",
        "check_targets": "signatures",
        "check_values": "values",
        "read_option": "options",
        "resolve": "validation",
        "validate": "validation",
    },
)
