"""Whether code runs to be exported or compiled."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_exporting = False


@contextmanager
def exporting() -> Iterator[None]:
    """Makes `is_exporting` true. An exporter may trace as a compiler does, and torch 2.11 does not tell them apart."""
    global _exporting
    _exporting = True
    try:
        yield
    finally:
        _exporting = False


def is_exporting() -> bool:
    """Whether what runs becomes a graph for other programs: in `exporting`, or by `torch.export` that is not strict."""
    return _exporting or (torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling())


def is_compiling() -> bool:
    """Whether what runs becomes a part of a compiled graph of this program (`torch.compile`)."""
    return torch.compiler.is_compiling() and not is_exporting()
