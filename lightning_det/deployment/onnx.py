"""The exported part of a detector as an ONNX graph."""

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lightning_det.data.dataset import Collate
from lightning_det.deployment.opsets import OPSETS, WRITTEN, convert
from lightning_det.protocols.structures import STRIDE, ImageRecord
from lightning_det.system.errors import UserError
from lightning_det.views.planner import Planner

if TYPE_CHECKING:
    from onnx import ModelProto

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra ``export``."""

INPUTS = {"images": ("batch", 3, "height", "width"), "sizes": ("batch", 2)}
OUTPUTS = {"boxes": ("batch", "priors", 4), "scores": ("batch", "priors", "classes")}


def canvas(planner: Planner) -> tuple[int, int]:
    """(height, width) that the batches of a planner have, for planners without one shape that of a 4:3 image."""
    nothing = np.zeros(0)
    view = planner(ImageRecord(640, 480, np.zeros((0, 4)), nothing, nothing))[0]
    fixed = Collate(planner.canvas).canvas
    height, width = fixed or (-(-side // STRIDE) * STRIDE for side in view.size)
    return height, width


def to_onnx(part: nn.Module, height: int, width: int, dynamic: bool = True, opset: int = OPSETS[-1]) -> "ModelProto":
    """The graph of the exported part of a detector: inputs `INPUTS`, outputs `OUTPUTS`, any number of images.

    Args:
        part: see `Detector.export_part`; in evaluation mode, on the CPU.
        height: of the images.
        width: of the images.
        dynamic: whether the graph takes images of any other size too.
        opset: version of ONNX's operators; the version of the file's format is the one that came with it.

    Raises:
        UserError: the graph cannot be converted to this version.
    """
    size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} if dynamic else {}
    batch = {0: torch.export.Dim.DYNAMIC}
    # Two images: torch would take a batch of one to be of one for good.
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    for chatty in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # an older version is checked below
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.onnx.export(
            part.eval(),
            (images, torch.tensor([[height, width]] * 2)),
            dynamo=True,
            opset_version=max(opset, WRITTEN),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=(batch | size, batch),
            verbose=False,
        )
    if program is None:
        raise UserError("torch has made no graph; try another version of torch")
    model = convert(program.model_proto, opset)
    # Torch names sizes by formulas; other shapes than those of inputs and outputs need none.
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, (INPUTS | OUTPUTS)[value.name], strict=True):
            if dim.dim_param:
                dim.dim_param = name
    return model
