"""Versions of ONNX's operators (opsets), and conversion of graphs to older ones."""

from typing import TYPE_CHECKING

import torch

from lightning_det.system.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSETS = (17, 23)
"""The oldest opset that graphs are converted to, and the newest that torch's exporter writes."""

WRITTEN = 18
"""The oldest opset that torch's exporter writes."""


KEPT = "lightning_det.kept"
"""Domain of operators that the converter leaves alone."""


def convert(model: "ModelProto", opset: int) -> "ModelProto":
    """Converts a graph to an opset and the oldest file format that allows it, for runtimes of that time.

    Args:
        model: graph as torch has written it.
        opset: the graph's own opset or an older one.

    Raises:
        UserError: the graph cannot be converted.
    """
    import onnx

    if opset < WRITTEN:
        try:
            model = _convert(model, opset)
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
    # Torch's internal notes, which older file formats than version 10 do not allow.
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
    return model


def _convert(model: "ModelProto", opset: int) -> "ModelProto":
    """Converts the operators that differ. onnx's converter also refuses some that are the same in both versions."""
    import onnx

    for node in model.graph.node:
        if _is_older(node):
            node.domain = KEPT
    model.opset_import.append(onnx.helper.make_opsetid(KEPT, 1))
    converted = onnx.version_converter.convert_version(model, opset)
    for node in converted.graph.node:
        if node.domain == KEPT:
            node.domain = ""
    kept = [entry for entry in converted.opset_import if entry.domain != KEPT]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    return converted


def _is_older(node: "NodeProto") -> bool:
    """Whether a node means the same before opset 18, which added axes, reductions and numbers of parts."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Pad":
        return len(node.input) <= 3
    if node.op_type == "Split":
        return "num_outputs" not in attributes
    return node.op_type == "ScatterND" and ("reduction" not in attributes or attributes["reduction"].s == b"none")


def _axes_as_attributes(model: "ModelProto") -> None:
    """Turns the axes of reductions into attributes, as before opset 18; onnx's converter does not."""
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
