"""Conversion of the exported part of a detector to an ONNX graph."""

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_det.data.dataset import Collate
from lightning_det.deployment.opsets import OPSETS, WRITTEN, convert
from lightning_det.deployment.parts import Part
from lightning_det.deployment.translations import translations
from lightning_det.ops.tracing import exporting
from lightning_det.protocols.structures import STRIDE, ImageRecord
from lightning_det.system.errors import UserError
from lightning_det.views.planner import Planner

if TYPE_CHECKING:
    from onnx import ModelProto

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra ``export``."""

INPUTS = {"images": ("batch", 3, "height", "width"), "sizes": ("batch", 2)}
RESULTS = ("batch", "candidates")
"""Names of the sizes of results that may be open; the others are classes or coordinates."""


def canvas(planner: Planner) -> tuple[int, int]:
    """(height, width) of a planner's batches; if they have no fixed shape, that of a 4:3 image."""
    nothing = np.zeros(0)
    view = planner(ImageRecord(640, 480, np.zeros((0, 4)), nothing, nothing))[0]
    fixed = Collate(planner.canvas).canvas
    height, width = fixed or (-(-side // STRIDE) * STRIDE for side in view.size)
    return height, width


def to_onnx(part: Part, height: int, width: int, dynamic: bool = True, opset: int = OPSETS[-1]) -> "ModelProto":
    """Converts a part of a detector to a graph with `INPUTS` for any number of images.

    Args:
        part: in evaluation mode, on the CPU.
        height: of the images.
        width: of the images.
        dynamic: whether the graph takes images of other sizes too, in multiples of the detector's ``granularity``.
        opset: version of ONNX's operators; it determines the version of the file format.

    Raises:
        UserError: the detector has an operator that ONNX lacks, or the graph cannot be converted to this version.
    """
    size = {2: _open("rows", part), 3: _open("columns", part)} if dynamic else {}
    batch = {0: torch.export.Dim.DYNAMIC}
    # Two images: torch would fix a batch size of one in the graph.
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    for chatty in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # `convert` reports what matters
    with warnings.catch_warnings(), exporting():
        warnings.simplefilter("ignore")  # from inside torch
        try:
            program = torch.onnx.export(
                part.eval(),
                (images, torch.tensor([[height, width]] * 2)),
                dynamo=True,
                opset_version=max(opset, WRITTEN),
                input_names=list(INPUTS),
                output_names=list(part.outputs),
                dynamic_shapes=(batch | size, batch),
                custom_translation_table=translations(),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(
                f"{type(part.detector).__name__} cannot be written as a graph, nothing is written: {_reason(error)}"
            ) from error
    if program is None:
        raise UserError("torch returned no graph; try another version of torch")
    model = convert(program.model_proto, opset)
    # Torch names dynamic sizes by formulas. Inputs and outputs get readable names; other shapes are optional.
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        names = INPUTS.get(value.name, RESULTS)
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if dim.dim_param:
                dim.dim_param = name
    return model


def _reason(error: BaseException) -> str:
    """The first line of the innermost error; torch wraps it in pages of hints."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _open(name: str, part: Part) -> Any:
    """An open size. Multiples keep the formulas of the sizes of feature maps short, and so the conversion."""
    granularity = part.detector.granularity
    return torch.export.Dim.DYNAMIC if granularity == 1 else granularity * torch.export.Dim(name)
