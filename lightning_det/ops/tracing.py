"""Whether code runs to be exported or compiled."""

import torch


def is_exporting() -> bool:
    """Whether a graph for other programs is made of what runs (`torch.export`)."""
    # In compiled code, torch 2.11 answers the first question with yes.
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def is_compiling() -> bool:
    """Whether what runs becomes a part of a compiled graph of this program (`torch.compile`)."""
    return torch.compiler.is_compiling() and not is_exporting()
