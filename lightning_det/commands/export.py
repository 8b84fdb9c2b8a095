"""A detector as a checked ONNX graph."""

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
from lightning_det.runs.composition import run_folder
from lightning_det.runs.restore import restore_detector
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import atomic_write


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
    print(output)


def _about(settings: DictConfig, granularity: int) -> dict[str, Any]:
    """Settings that a program with the graph needs to prepare images."""
    resolved = resolve(settings)
    preprocess = resolved["detector"].get("preprocess") or {}
    return {
        "resolutions": resolved["views"]["test"]["scales"].get("resolutions"),
        "multiple_of": granularity,
        "normalization": {key: value for key, value in preprocess.items() if not key.startswith("_")},
    }
