"""Checks that a graph agrees with its detector, and describes it for its user."""

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lightning_det.annotations import LabelMap
from lightning_det.modules.module import Inference
from lightning_det.system.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

log = logging.getLogger("lightning_det")

TOLERANCE = 1e-4
"""Largest allowed difference of a score, and of a box coordinate as a share of the image's longer side."""


def describe(model: "ModelProto", labels: LabelMap, inference: Inference, resolutions: Sequence | None) -> None:
    """Adds classes, resolutions and thresholds to a graph, as JSON texts under ``metadata_props``.

    Args:
        model: the graph.
        labels: classes of the detector.
        inference: thresholds of the detector.
        resolutions: resolutions of the views at inference; None if views are not scaled by resolutions.
    """
    from onnx.helper import set_model_props

    about = {
        "classes": list(labels.names),
        "resolutions": resolutions,
        "score_threshold": inference.score_threshold,
        "nms_iou": inference.nms_iou,
        "max_detections": inference.max_detections,
    }
    set_model_props(model, {key: json.dumps(value) for key, value in about.items()})


def compare(model: "ModelProto", part: nn.Module, height: int, width: int) -> None:
    """Compares the outputs of onnxruntime and torch on three random images, two of them padded.

    Args:
        model: the graph.
        part: see `to_onnx`.
        height: of the images.
        width: of the images.

    Raises:
        UserError: the outputs differ by more than `TOLERANCE`.
    """
    import onnxruntime

    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=rng)
    sizes = torch.tensor([[height, width], [height // 2, width], [height, width // 2]])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
    with torch.no_grad():
        expected = part(images, sizes)
    boxes, scores = (np.abs(f - e.numpy()).max() for f, e in zip(found, expected, strict=True))
    boxes /= max(height, width)
    said = f"largest difference of a score {scores:.1e}, of a box {boxes:.1e} of the image's longer side"
    if not max(boxes, scores) <= TOLERANCE:  # NaN included
        raise UserError(
            f"the graph differs from the detector, nothing is written: {said}, at most {TOLERANCE:g} is allowed; "
            "if the weights are sound, try other versions of torch, onnxscript and onnxruntime"
        )
    log.info("onnxruntime %s and torch agree: %s", onnxruntime.__version__, said)
