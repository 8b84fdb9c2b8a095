"""A single-shot detector as a checked ONNX graph."""

from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from lightning_det.config import resolve
from lightning_det.config.data import build_planner
from lightning_det.deployment.onnx import NEEDED, canvas, to_onnx
from lightning_det.deployment.opsets import OPSETS
from lightning_det.deployment.verification import compare, describe
from lightning_det.runs.composition import run_folder
from lightning_det.runs.restore import restore_detector
from lightning_det.system.errors import ConfigError, UserError
from lightning_det.system.files import atomic_write


def export(cfg: DictConfig) -> None:
    """Exports the checkpoint of a configuration to ``output``, after comparing graph and detector."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}: pip install 'lightning-det[export]'")
    settings, module = restore_detector(cfg)
    part = module.detector.export_part()
    oldest, newest = OPSETS
    if not oldest <= cfg.opset <= newest:
        raise ConfigError(f"opset must be {oldest} to {newest}, got {cfg.opset}")
    output = Path(cfg.output) if cfg.output is not None else run_folder() / "model.onnx"
    if output.is_dir():
        raise ConfigError(f"output={cfg.output}: a folder; the graph is a file, such as {output / 'model.onnx'}")
    planner = build_planner(settings, "test")
    height, width = canvas(planner)
    model = to_onnx(part, height, width, dynamic=planner.canvas is None, opset=cfg.opset)
    describe(model, module.labels, module.inference, resolve(settings)["views"]["test"]["scales"].get("resolutions"))
    compare(model, part, height, width)
    with atomic_write(output, "wb") as stream:
        stream.write(model.SerializeToString())
    print(output)
