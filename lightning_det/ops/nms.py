"""Non-maximum suppression of a whole batch, with a fixed output shape.

torchvision's kernel is faster on a CPU; its work depends on the data, so the host waits for it. On GPUs and in compiled
graphs, suppression is done in rounds (`nms_rounds`), which wait for nothing.
"""

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from lightning_det.ops.largest import largest
from lightning_det.ops.nms_rounds import join_groups, split_groups, suppress_in_rounds
from lightning_det.ops.tracing import is_compiling

MOST_PAIRS = 2**31
"""Pairs of boxes of a batch up to which they are compared at once; each takes a byte. With more, the kernel is used."""

GPU_CHUNK = 4096
"""Boxes per kernel call on a GPU; an image with more boxes gets its own call. The kernel's last part is sequential, and
its time per box grows with the number of boxes (on an H200 0.24 microseconds with 8,700 boxes, 0.82 with 32,768)."""


@torch.library.custom_op("lightning_det::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS within each group of each image, by torchvision's kernel.

    It is a custom operator, because its work depends on the data but the shape of its output does not.

    Args:
        boxes: (B, N, 4) float, ``xyxy``.
        scores: (B, N) float.
        groups: (B, N) int64, small non-negative numbers; boxes of different groups never suppress each other.
        usable: (B, N) bool; unusable boxes neither survive nor suppress.
        iou_threshold: a box is removed when its IoU with a better one of its group is greater than this; at 1 none is.

    Returns:
        (B, N) bool, True for the survivors.
    """
    if iou_threshold >= 1:
        return usable.clone()
    keep = torch.zeros_like(usable)
    per_call = 1 if boxes.device.type == "cpu" else max(1, GPU_CHUNK // max(1, boxes.shape[1]))
    for start in range(0, boxes.shape[0], per_call):
        part = slice(start, start + per_call)
        chosen = usable[part].flatten().nonzero().squeeze(1)
        if chosen.numel() == 0:
            continue
        # Groups of different images must not meet: image-major group numbers.
        images = torch.arange(usable[part].shape[0], device=boxes.device)[:, None]
        numbers = (images * (groups.max() + 1) + groups[part]).flatten()[chosen]
        survivors = _suppress(boxes[part].flatten(0, 1)[chosen], scores[part].flatten()[chosen], numbers, iou_threshold)
        keep[part].view(-1)[chosen[survivors]] = True
    return keep


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    if boxes.device.type == "cpu":
        return nms_of_groups(boxes.float(), scores.float(), groups, iou_threshold)
    # Offsets in double precision: in single precision they would round IoUs that lie near the threshold.
    boxes = boxes.double()
    offsets = groups.to(boxes) * (boxes.max() + 1)
    return torchvision.ops.nms(boxes + offsets[:, None], scores.double(), iou_threshold)


def nms_of_groups(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS by a call of torchvision's kernel for each group, for CPUs.

    Not ``batched_nms``: for up to 1,000 boxes it adds an offset per group to their coordinates, which costs digits of
    float32 that decide near the threshold; for more boxes it reads all of them once per group.

    Args:
        boxes: (N, 4) float ``xyxy``.
        scores: (N,) float.
        groups: (N,) int64; boxes of different groups never suppress each other.
        iou_threshold: as in `nms_mask`.

    Returns:
        Indices (K,) of the survivors, in no particular order.
    """
    order = torch.argsort(groups, stable=True)
    counts = torch.unique_consecutive(groups[order], return_counts=True)[1]
    starts, lengths = counts.cumsum(0) - counts, counts.tolist()
    parts = zip(boxes[order].split(lengths), scores[order].split(lengths), starts.tolist(), strict=True)
    keep = [torch.ops.torchvision.nms(b, s, iou_threshold) + start for b, s, start in parts if len(b) > 1]
    return order[torch.cat([starts[counts == 1], *keep])]


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(usable)


def best_after_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Finds the ``count`` best survivors of each image.

    Where suppression is done in rounds, the host waits once to learn whether they sufficed. If not, the kernel does it.

    Args:
        boxes: (B, N, 4) float, ``xyxy``.
        scores: (B, N) float.
        groups: (B, N) int64, as in `nms_mask`.
        usable: (B, N) bool.
        iou_threshold: as in `nms_mask`.
        count: how many to return at most.

    Returns:
        ``index`` (B, K) int64 and ``valid`` (B, K) bool with K = min(count, N), by falling score, survivors first.
    """
    return _best(_exact_mask(boxes, scores, groups, usable, iou_threshold, None), scores, count)


class NMS(nn.Module):
    """NMS in a part of a detector. In training, it waits for nothing but torchvision's kernel on the CPU.

    Args:
        iou_threshold: as in `nms_mask`.
    """

    unsettled: Tensor
    """() int64 on the device: calls in training whose rounds did not suffice, so that a few boxes survived or were
    removed wrongly. See `read_unsettled`."""

    def __init__(self, iou_threshold: float):
        super().__init__()
        self.iou_threshold = iou_threshold
        self.register_buffer("unsettled", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(
        self,
        boxes: Tensor,
        scores: Tensor,
        groups: Tensor,
        usable: Tensor,
        count: int,
        lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Finds the ``count`` best survivors of each image, see `best_after_nms`.

        Args:
            boxes: as in `best_after_nms`, like the next three.
            scores: see above.
            groups: see above.
            usable: see above.
            count: how many to return at most.
            lengths: numbers of consecutive boxes that are a group each, if ``groups`` is so. Only boxes of a group are
                compared then.
        """
        if not self.training or _kernel_suits(boxes):
            return _best(_exact_mask(boxes, scores, groups, usable, self.iou_threshold, lengths), scores, count)
        keep, unsettled = _mask_in_rounds(boxes, scores, groups, usable, self.iou_threshold, lengths)
        self.unsettled += unsettled
        return _best(keep, scores, count)


def read_unsettled(network: nn.Module) -> int:
    """Number of calls of `NMS` in training, since this was last asked, whose rounds did not suffice.

    Args:
        network: its parts are looked through; the host waits once.
    """
    counts = [part.unsettled for part in network.modules() if isinstance(part, NMS)]
    total = int(torch.stack(counts).sum()) if counts else 0
    for count in counts:
        count.zero_()
    return total


def _kernel_suits(boxes: Tensor) -> bool:
    """Whether the kernel is the better choice: for a CPU without compilation, and for exported graphs."""
    return boxes.device.type == "cpu" and not is_compiling()


def _exact_mask(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    usable: Tensor,
    iou_threshold: float,
    lengths: Sequence[int] | None,
) -> Tensor:
    """Greedy NMS, see `nms_mask`; ``lengths`` as in `NMS`."""
    longest = max(lengths) if lengths else boxes.shape[1]
    pairs = len(boxes) * len(lengths or (0,)) * longest**2
    if not (_kernel_suits(boxes) or torch.compiler.is_compiling() or pairs > MOST_PAIRS):
        keep, unsettled = _mask_in_rounds(boxes, scores, groups, usable, iou_threshold, lengths)
        if not unsettled:
            return keep
    return nms_mask(boxes, scores, groups, usable, iou_threshold)


def _mask_in_rounds(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    usable: Tensor,
    iou_threshold: float,
    lengths: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    """See `suppress_in_rounds`; arguments as in `NMS`."""
    boxes, scores = boxes.float(), scores.float()
    if iou_threshold >= 1:
        return usable.clone(), usable.new_zeros(())
    if lengths is None:
        return suppress_in_rounds(boxes, scores, groups, usable, iou_threshold)
    boxes, scores, usable = (split_groups(x, lengths) for x in (boxes, scores, usable))
    keep, unsettled = suppress_in_rounds(boxes, scores, None, usable, iou_threshold)
    return join_groups(keep, lengths), unsettled


def _best(keep: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Positions of the best of the boxes to keep, and which of them are, see `best_after_nms`."""
    top, index = largest(scores.masked_fill(~keep, -torch.inf), count)
    return index, top > -torch.inf
