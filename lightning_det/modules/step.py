"""The losses of a training step, computed operator by operator or as one compiled graph."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, Unsupported
from torch._dynamo.utils import counters

from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import Batch, State
from lightning_det.system.errors import UserError

log = logging.getLogger("lightning_det")

Compiled = Literal["parts", "step"]
"""How much of a training step is compiled: backbone, neck and heads, or all of it."""

MOST_GRAPHS = 256
"""Graphs of a step or of a part, one for each shape of a batch. The compiler's own limit is 8."""

MANY_GRAPHS = 8
FEWER = "; chips, tiles and strategy=warp have one shape of views, and +data.canvas_step=128 makes few of whole images"
"""Said of the graph of that number."""


def step_losses(detector: Detector, batch: Batch) -> dict[str, Tensor]:
    """Named losses of a detector and of its head `Detector.focus`, if it has one."""
    losses = detector.losses(batch)
    head, logits = detector.focus, detector.observed()
    return losses if head is None or logits is None else losses | head.losses(logits, batch)


@contextmanager
def many_graphs() -> Iterator[None]:
    """Lets the compiler make up to `MOST_GRAPHS` graphs of a function.

    Raises:
        UserError: there are more.
    """
    try:
        with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
            yield
    except FailOnRecompileLimitHit as error:
        raise UserError(
            f"module.compiled: views have more than {MOST_GRAPHS} shapes, each with a graph of its own{FEWER}; "
            "module.compiled=null compiles nothing"
        ) from error


class CompiledStep:
    """`step_losses` as one graph: features, targets, selection, NMS and losses, and their gradient.

    Shapes are constants of a graph, so every shape of a batch has a graph of its own. On a GPU, graphs run as CUDA
    graphs. They write into the same memory every time, so losses are copied, and ``Detector.selected`` and gradients
    hold until the next call; see `keep_gradients`.

    Args:
        detector: it is compiled when it is first called.
        backend: of `torch.compile`.

    Raises:
        CapabilityError: the losses of the detector are not one graph.
    """

    graphs: int
    """Graphs compiled so far."""

    def __init__(self, detector: Detector, backend: str = "inductor"):
        if detector.not_one_graph:
            detector.lacks(
                f"losses that are one graph (module.compiled=step): {detector.not_one_graph}",
                "set module.compiled=parts, or leave it out",
            )
        self.detector = detector
        self.graphs = 0
        # Random numbers are those of the operators, so what is selected does not depend on the compilation.
        inductor: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": True}
        if torch.__version__ < "2.14":
            inductor["cpp.simdlen"] = 1  # the vectorised code that torch 2.11 makes for CPUs reads other RoIs' labels
        options: Any = inductor if backend == "inductor" else None
        self._losses: Callable[[Detector, Batch], dict[str, Tensor]] = torch.compile(
            step_losses, fullgraph=True, dynamic=False, backend=backend, options=options
        )

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Computes the losses of a batch.

        Raises:
            UserError: the graph would break, which the message explains, or there are too many.
        """
        batch = with_few_counts(batch)
        before, start = _graphs(), time.perf_counter()
        torch.compiler.cudagraph_mark_step_begin()
        try:
            with many_graphs():
                losses = self._losses(self.detector, batch)
        except Unsupported as error:
            raise UserError(
                f"module.compiled=step: {type(self.detector).__name__}.losses is not one graph: "
                f"{str(error).splitlines()[0]}; set module.compiled=parts, or leave it out"
            ) from error
        if _graphs() > before:
            self.graphs += _graphs() - before
            self._say(batch, time.perf_counter() - start)
        return {name: value.clone() for name, value in losses.items()}

    def _say(self, batch: Batch, seconds: float) -> None:
        views, _, height, width = batch.images.shape
        log.info(
            "compiled the step in %.0f s for %d views of %d x %d pixels with up to %d boxes (graph %d)%s",
            seconds,
            views,
            height,
            width,
            batch.boxes.shape[1],
            self.graphs,
            FEWER if self.graphs == MANY_GRAPHS else "",
        )


def with_few_counts(batch: Batch) -> Batch:
    """The batch with padding boxes up to the next power of two, so that the number of boxes makes few shapes."""
    count = batch.boxes.shape[1]
    more = (1 << max(0, count - 1).bit_length()) - count
    if more == 0:
        return batch
    anchor_states = batch.anchor_states
    return replace(
        batch,
        boxes=F.pad(batch.boxes, (0, 0, 0, more)),
        labels=F.pad(batch.labels, (0, more)),
        states=F.pad(batch.states, (0, more), value=State.PADDING),
        anchor_states=None if anchor_states is None else F.pad(anchor_states, (0, more), value=State.PADDING),
    )


def keep_gradients(parameters: Iterable[Tensor]) -> None:
    """Zeroes gradients in memory of their own, to which those of the next steps are added.

    Otherwise the first gradient would lie in the memory of a CUDA graph, which its next run writes into.
    """
    kept = []
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.detach()
            kept.append(parameter.grad)
        elif parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    if kept:
        torch._foreach_zero_(kept)


def _graphs() -> int:
    return int(counters["stats"]["unique_graphs"])
