"""``python -m lightning_det.export checkpoint=FILE``: a single-shot detector as a checked ONNX graph."""

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lightning_det.annotations import LabelMap
from lightning_det.config.build import build_planner
from lightning_det.data.dataset import Collate
from lightning_det.detectors import SSD
from lightning_det.modules.module import Inference
from lightning_det.protocols.structures import STRIDE, ImageRecord
from lightning_det.runs.command import command, run_folder
from lightning_det.runs.restore import restored
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import atomic_write
from lightning_det.views.planner import Planner

if TYPE_CHECKING:
    from onnx import ModelProto

log = logging.getLogger("lightning_det")

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra ``export``."""

OPSETS = (17, 23)
"""The oldest that graphs are converted to, and the newest that torch's exporter writes."""

WRITTEN = 18
"""The oldest that torch's exporter writes."""

INPUTS = {"images": ("batch", 3, "height", "width"), "sizes": ("batch", 2)}
OUTPUTS = {"boxes": ("batch", "priors", 4), "scores": ("batch", "priors", "classes")}

TOLERANCE = 1e-4
"""Largest difference of a score, and of a box coordinate as a share of the image's longer side."""


class Candidates(nn.Module):
    """What is exported of a detector: the whole of it but NMS, whose number of detections depends on the image.

    Args:
        detector: in evaluation mode.
    """

    def __init__(self, detector: SSD):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """See `SSD.candidates`."""
        return self.detector.candidates(images, sizes)


def export(cfg: DictConfig) -> None:
    """Exports as the configuration says, to ``output``, after comparing graph and detector."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}: pip install 'lightning-det[export]'")
    settings, module = restored(cfg)
    if not isinstance(module.detector, SSD):
        raise ConfigError(
            f"checkpoint={cfg.checkpoint}: a {type(module.detector).__name__} has two stages, and what its second "
            "stage sees depends on the image; single-shot detectors (ssd, dsod, grp_dsod) can be exported"
        )
    oldest, newest = OPSETS
    if not oldest <= cfg.opset <= newest:
        raise ConfigError(f"opset must be {oldest} to {newest}, got {cfg.opset}")
    output = Path(cfg.output) if cfg.output is not None else run_folder() / "model.onnx"
    if output.is_dir():
        raise ConfigError(f"output={cfg.output}: a folder; the graph is a file, such as {output / 'model.onnx'}")
    planner = build_planner(settings, "test")
    height, width = canvas(planner)
    model = to_onnx(module.detector, height, width, dynamic=planner.canvas is None, opset=cfg.opset)
    describe(model, module.labels, module.inference, planner)
    check(model, module.detector, height, width)
    with atomic_write(output, "wb") as stream:
        stream.write(model.SerializeToString())
    print(output)


def canvas(planner: Planner) -> tuple[int, int]:
    """(height, width) that the batches of a planner have, for planners without one shape that of a 4:3 image."""
    nothing = np.zeros(0)
    view = planner(ImageRecord(640, 480, np.zeros((0, 4)), nothing, nothing))[0]
    fixed = Collate(planner.canvas).canvas
    height, width = fixed or (-(-side // STRIDE) * STRIDE for side in view.size)
    return height, width


def to_onnx(detector: SSD, height: int, width: int, dynamic: bool = True, opset: int = OPSETS[-1]) -> "ModelProto":
    """The graph of `Candidates`: inputs `INPUTS`, outputs `OUTPUTS`, any number of images.

    Args:
        detector: in evaluation mode, on the CPU.
        height: of the images.
        width: of the images.
        dynamic: whether the graph takes images of any other size too.
        opset: version of ONNX's operators; the version of the file's format is the one that came with it.

    Raises:
        UserError: the graph cannot be had in this version.
    """
    size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} if dynamic else {}
    batch = {0: torch.export.Dim.DYNAMIC}
    # Two images: torch would take a batch of one to be of one for good.
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    for chatty in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # what comes of an older version is looked at below
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch to itself
        program = torch.onnx.export(
            Candidates(detector).eval(),
            (images, torch.tensor([[height, width]] * 2)),
            dynamo=True,
            opset_version=max(opset, WRITTEN),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=(batch | size, batch),
            verbose=False,
        )
    model = of_version(program.model_proto, opset)
    # Torch names sizes by formulas; other shapes than those of inputs and outputs need none.
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, (INPUTS | OUTPUTS)[value.name], strict=True):
            if dim.dim_param:
                dim.dim_param = name
    return model


def of_version(model: "ModelProto", opset: int) -> "ModelProto":
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


def describe(model: "ModelProto", labels: LabelMap, inference: Inference, planner: Planner) -> None:
    """Adds to a graph what its user has to know, as json texts under ``metadata_props``."""
    from onnx.helper import set_model_props

    about = {
        "classes": list(labels.names),
        "resolutions": getattr(planner.scales, "resolutions", None),
        "score_threshold": inference.score_threshold,
        "nms_iou": inference.nms_iou,
        "max_detections": inference.max_detections,
    }
    set_model_props(model, {key: json.dumps(value) for key, value in about.items()})


def check(model: "ModelProto", detector: SSD, height: int, width: int) -> None:
    """Compares a graph in onnxruntime with its detector on three random images, of which two are padded.

    Args:
        model: the graph.
        detector: in evaluation mode, on the CPU.
        height: of the images.
        width: of the images.

    Raises:
        UserError: they differ by more than `TOLERANCE`.
    """
    import onnxruntime

    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=rng)
    sizes = torch.tensor([[height, width], [height // 2, width], [height, width // 2]])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
    with torch.no_grad():
        expected = detector.candidates(images, sizes)
    boxes, scores = (np.abs(f - e.numpy()).max() for f, e in zip(found, expected, strict=True))
    boxes /= max(height, width)
    said = f"largest difference of a score {scores:.1e}, of a box {boxes:.1e} of the image's longer side"
    if not max(boxes, scores) <= TOLERANCE:  # NaN included
        raise UserError(
            f"the graph differs from the detector, nothing is written: {said}, at most {TOLERANCE:g} is allowed; "
            "if the weights are sound, try other versions of torch, onnxscript and onnxruntime"
        )
    log.info("onnxruntime %s and torch agree: %s", onnxruntime.__version__, said)


main = command("export")(export)

if __name__ == "__main__":
    main()
