"""The configuration: its schema, and the checks that a run makes before it starts.

Nodes with a ``_target_`` are checked against the signature they call, so names, types and choices are written down
once, in the code. The dataclasses of `schema` describe the rest.
"""

from lightning_det.config.checks import SLOTS, check_sense, check_slots, option_file, resolved, validated
from lightning_det.config.schema import CONF, register_schema
from lightning_det.config.signatures import check_targets
from lightning_det.system.errors import ConfigError

__all__ = [
    "CONF",
    "SLOTS",
    "ConfigError",
    "check_sense",
    "check_slots",
    "check_targets",
    "option_file",
    "register_schema",
    "resolved",
    "validated",
]
