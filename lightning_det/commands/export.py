"""A detector as a checked ONNX graph."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lightning_det.config import resolve
from lightning_det.config.data import build_planner
from lightning_det.deployment.onnx import NEEDED, canvas, to_onnx
from lightning_det.deployment.opsets import OPSETS
from lightning_det.deployment.parts import Candidates, WithNMS
from lightning_det.deployment.verification import compare, describe
from lightning_det.modules.inference import Inference
from lightning_det.protocols.detector import Detector
from lightning_det.runs.composition import run_folder
from lightning_det.runs.restore import restore_detector
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import atomic_write

log = logging.getLogger("lightning_det")


@torch.no_grad()
def export(cfg: DictConfig) -> None:
    """Exports the checkpoint of a configuration to ``output``, after comparing graph and detector."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}: pip install 'lightning-det[export]'")
    settings, module = restore_detector(cfg)
    oldest, newest = OPSETS
    if not oldest <= cfg.opset <= newest:
        raise ConfigError(f"opset must be {oldest} to {newest}, got {cfg.opset}")
    output = Path(cfg.output) if cfg.output is not None else run_folder() / "model.onnx"
    if output.is_dir():
        raise ConfigError(f"output={cfg.output}: a folder; the graph is a file, such as {output / 'model.onnx'}")
    planner = build_planner(settings, "test")
    height, width = canvas(planner)
    dynamic, inference = planner.canvas is None, module.inference
    granularity = module.detector.granularity
    if dynamic:
        # Torch would fix an open size that is one multiple in the example.
        height, width = (max(2, -(-side // granularity)) * granularity for side in (height, width))
    detector = module.detector.for_canvas((height, width)).eval()
    detector.focus = None  # its results are no part of the graph
    with_nms = WithNMS(detector, inference, inference.per_view(height, width))
    part = with_nms if cfg.with_nms else Candidates(detector)
    part(torch.zeros(1, 3, height, width, dtype=torch.uint8), torch.tensor([[height, width]]))  # refuses early
    model = to_onnx(part, height, width, dynamic=dynamic, opset=cfg.opset)
    describe(model, module.labels, inference, _about(settings, granularity if dynamic else 1))
    compare(model, part, height, width)
    with atomic_write(output, "wb") as stream:
        stream.write(model.SerializeToString())
    _report_rest(settings, inference, module.detector, cfg.with_nms)
    print(output)


def _report_rest(settings: DictConfig, inference: Inference, detector: Detector, with_nms: bool) -> None:
    """Warns of steps of `predict` that the graph does not contain."""
    views, scales = settings.views.test, settings.views.test.scales
    several = len(scales.get("resolutions") or ()) > 1 or views.get("windows") or views.get("flip")
    if several or scales.get("valid_ranges") or inference.vote is not None:
        log.warning(
            "export: the graph detects objects of all sizes in one view. predict has several views or ranges of sizes "
            "(resolutions and valid_ranges in the graph's metadata) and merges what it finds (docs/export.md)"
        )
    if with_nms and inference.nms_iou >= 1 and not detector.nms_free:
        log.warning(
            "export: with_nms=true, but test.nms_iou=%g leaves duplicates to the merge, so the graph returns them; "
            "test.nms_iou=0.5 removes them in the graph",
            inference.nms_iou,
        )


def _about(settings: DictConfig, granularity: int) -> dict[str, Any]:
    """Settings that a program with the graph needs to prepare images."""
    resolved = resolve(settings)
    scales = resolved["views"]["test"]["scales"]
    preprocess = resolved["detector"].get("preprocess") or {}
    return {
        "resolutions": scales.get("resolutions"),
        "valid_ranges": scales.get("valid_ranges"),
        "multiple_of": granularity,
        "normalization": {key: value for key, value in preprocess.items() if not key.startswith("_")},
    }
