"""Checks that a graph agrees with its detector, and describes it for its user."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_det.annotations import LabelMap
from lightning_det.deployment.parts import Part
from lightning_det.modules.inference import Inference
from lightning_det.system.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

log = logging.getLogger("lightning_det")

TOLERANCE = 1e-4
"""Largest allowed difference of a score, and of a box coordinate as a share of the image's longer side."""


UNDECIDED = 0.02
"""Largest allowed share of results without an equal in a graph with NMS. Rounding decides which of two boxes of nearly
equal scores is kept, or whether their overlap reaches the threshold."""


def describe(model: "ModelProto", labels: LabelMap, inference: Inference, about: Mapping[str, Any]) -> None:
    """Adds classes, thresholds and more to a graph, as JSON texts under ``metadata_props``.

    Args:
        model: the graph.
        labels: classes of the detector.
        inference: thresholds of the detector.
        about: further values by name.
    """
    from onnx.helper import set_model_props

    values = {
        "classes": list(labels.names),
        "score_threshold": inference.score_threshold,
        "nms_iou": inference.nms_iou,
        "max_detections": inference.max_detections,
        **about,
    }
    set_model_props(model, {key: json.dumps(value) for key, value in values.items()})


def compare(model: "ModelProto", part: Part, height: int, width: int) -> None:
    """Compares the results of onnxruntime and torch on three random images, two of them padded.

    Every result of the one needs an equal for the same image among those of the other. Only a graph with NMS may have
    some without, see `UNDECIDED`.

    Args:
        model: the graph.
        part: see `to_onnx`.
        height: of the images.
        width: of the images.

    Raises:
        UserError: the results differ by more than `TOLERANCE`, or onnxruntime lacks an operator.
    """
    import onnxruntime

    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=rng)
    sizes = torch.tensor([[height, width], [height // 2, width], [height, width // 2]])
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a kind for every cause, and no common one
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} cannot run the graph, nothing is written: {reason}; it may run an "
            "older opset, such as opset=21"
        ) from error
    found = [torch.from_numpy(x) for x in session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})]
    with torch.no_grad():
        expected = part(images, sizes)
    largest, alone, of = differences(found, expected, max(height, width))
    said = f"largest difference {largest:.1e}, of a score or as a share of the image's longer side"
    ranks = any(node.op_type == "NonMaxSuppression" for node in model.graph.node)
    if ranks:
        said += f"; rounding decided about {alone} of {of} results"
    if alone > (max(1, UNDECIDED * of) if ranks else 0):
        raise UserError(
            f"the graph differs from the detector, nothing is written: {alone} of {of} results have no equal; "
            f"{said}, at most {TOLERANCE:g} is allowed; if the weights are sound, try other versions of "
            "torch, onnxscript and onnxruntime"
        )
    log.info("onnxruntime %s and torch agree: %s", onnxruntime.__version__, said)


def differences(found: Sequence[Tensor], expected: Sequence[Tensor], side: float) -> tuple[float, int, int]:
    """Looks for an equal of every result, in its own place first and then anywhere in the same image.

    Args:
        found: boxes (B, N, ..., 4), scores (B, N, ...) and perhaps labels (B, N). Results with scores of 0 are padding.
        expected: the same by another program, perhaps with another N.
        side: pixels that a difference of 1 in boxes stands for.

    Returns:
        The largest difference between equals, the number of results of both programs without an equal, and the
        number of results of both programs. A difference counts as equal up to `TOLERANCE`; NaN equals nothing.
    """
    pairs = [_rows(results, side) for results in (found, expected)]
    largest, alone, of = 0.0, 0, 0
    for image in range(len(found[0])):
        first, second = (rows[image][known[image]] for rows, known in pairs)
        for own, other in ((first, second), (second, first)):
            nearest = _nearest(own, other)
            equal = nearest <= TOLERANCE
            alone += int((~equal).sum())
            of += len(own)
            largest = max([largest, *nearest[equal].tolist()])
    return largest, alone, of


def _rows(results: Sequence[Tensor], side: float) -> tuple[Tensor, Tensor]:
    """Results as rows (B, N, values), and which of them are none of padding (B, N)."""
    boxes, scores, *labels = results
    columns = [boxes / side, scores, *labels]
    rows = torch.cat([x.reshape(*x.shape[:2], -1).float() for x in columns], dim=2)
    return rows, ~(scores.reshape(*scores.shape[:2], -1) <= 0).all(dim=2)


def _nearest(rows: Tensor, others: Tensor) -> Tensor:
    """Largest difference (N,) of each row from the most similar one of the others."""
    nearest = torch.full((len(rows),), torch.inf)
    common = min(len(rows), len(others))
    nearest[:common] = (rows[:common] - others[:common]).abs().amax(dim=1)
    others = others[others.isfinite().all(dim=1)]
    moved = ~(nearest <= TOLERANCE) & rows.isfinite().all(dim=1)  # cdist passes over NaN
    if len(others) and moved.any():
        nearest[moved] = torch.cdist(rows[moved], others, p=torch.inf).amin(dim=1)
    return nearest
