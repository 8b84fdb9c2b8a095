"""Versions of ONNX's operators."""

from typing import TYPE_CHECKING

import torch

from lightning_det.system.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS = (17, 23)
"""The oldest that graphs are converted to, and the newest that torch's exporter writes."""

WRITTEN = 18
"""The oldest that torch's exporter writes."""


def convert(model: "ModelProto", opset: int) -> "ModelProto":
    """A graph in an opset and the format of its time, which the runtimes of that time read.

    Args:
        model: as torch has written it.
        opset: its version, or an older one.

    Raises:
        UserError: it cannot be converted.
    """
    import onnx

    if opset < WRITTEN:
        try:
            model = onnx.version_converter.convert_version(model, opset)
            _axes_as_attributes(model)
        except (RuntimeError, KeyError, onnx.checker.ValidationError) as error:
            reason = str(error).splitlines()[0]
            said = f"opset={opset}: the graph cannot be converted to it, nothing is written: {reason}"
            raise UserError(said) from error
    got = next(entry.version for entry in model.opset_import if not entry.domain)
    if got != opset:
        raise UserError(f"opset={opset}: torch {torch.__version__} writes opset {got} instead; nothing is written")
    oldest = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    model.ir_version = min(model.ir_version, oldest)
    # Notes of torch to itself, which the format knows from version 10 on.
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
    return model


def _axes_as_attributes(model: "ModelProto") -> None:
    """Gives reductions their axes as they had them before opset 18, which onnx's converter leaves out."""
    from onnx.helper import make_attribute
    from onnx.numpy_helper import to_array

    constants = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    constants |= {n.output[0]: to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"}
    for node in model.graph.node:
        if not node.op_type.startswith("Reduce") or node.op_type == "ReduceSum":
            continue
        kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
        if len(node.input) > 1:
            kept.append(make_attribute("axes", constants[node.input[1]].tolist()))
        del node.input[1:], node.attribute[:]
        node.attribute.extend(kept)
