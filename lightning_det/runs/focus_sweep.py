"""AP of AutoFocus against its cost, at several thresholds, beside the whole pyramid and a single scale."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.table import Table

from lightning_det.annotations.store import AnnotationStore
from lightning_det.callbacks import Evaluator
from lightning_det.config.data import build_data, build_planner
from lightning_det.config.trainer import build_trainer
from lightning_det.evaluation.figures import format_figure
from lightning_det.modules.module import DetectionModule
from lightning_det.plotting.cost import draw_cost
from lightning_det.plotting.figures import save_png
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import write_json

FILES = ("focus.json", "focus.png")
"""Figures and plot, in the run folder."""


def check_sweep(given: Any, settings: DictConfig) -> None:
    """Refuses ``sweep_thresholds`` that mean nothing.

    Raises:
        ConfigError: they are no list of probabilities, or inference is not AutoFocus's.
    """
    if given is None:
        return
    numbers = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
    if not numbers or not all(isinstance(t, int | float) and not isinstance(t, bool) and 0 < t <= 1 for t in given):
        raise ConfigError(f"sweep_thresholds={given}: a list of probabilities above 0, up to 1, such as [0.02,0.1,0.3]")
    if not build_planner(settings, "test").follows:
        raise ConfigError("sweep_thresholds are thresholds of AutoFocus: add test=[autofocus]")


def sweep_focus(
    thresholds: Sequence[float], settings: DictConfig, module: DetectionModule, store: AnnotationStore, folder: Path
) -> None:
    """Evaluates a detector at every threshold, with the whole pyramid and with a single scale, one after the other.

    Args:
        thresholds: each applies to all transitions between scales.
        settings: of the checkpoint, with the options of this command.
        module: the detector.
        store: the images.
        folder: for `FILES`.
    """
    rows = []
    for name, threshold, variant in _variants(thresholds, settings):
        test = variant.test
        evaluator = Evaluator(tuple(variant.dataset.size_cuts), test.max_detections, test.backend)
        trainer = build_trainer(variant, folder, learning=False)
        trainer.callbacks.append(evaluator)  # type: ignore[attr-defined]  # set late
        trainer.validate(module, datamodule=build_data(variant, None, store), verbose=False)
        assert evaluator.evaluation is not None, "a validation has one"
        figures = evaluator.evaluation.figures()
        rows.append(
            {
                "name": name,
                "threshold": threshold,
                "AP": figures["AP"],
                "AP50": figures["AP50"],
                "pixels": evaluator.pixels,
                "seconds": evaluator.seconds,
            }
        )
    if trainer.is_global_zero:
        write_json(folder / FILES[0], rows)
        save_png(draw_cost(rows, len(store)), folder / FILES[1])
        _print_table(rows, len(store))


def _variants(thresholds: Sequence[float], settings: DictConfig) -> Iterator[tuple[str, float | None, DictConfig]]:
    """Name, threshold and settings of every evaluation."""
    steps = len(settings.views.test.scales.thresholds)
    yield "whole pyramid", 0.0, _with(settings, {"thresholds": [0.0] * steps})
    for threshold in sorted(thresholds):
        yield f"above {threshold:g}", float(threshold), _with(settings, {"thresholds": [threshold] * steps})
    single = {"_target_": "lightning_det.views.Pyramid", "resolutions": [settings.dataset.resolution]}
    yield "single scale", None, _with(settings, single, replace=True)


def _with(settings: DictConfig, scales: dict[str, Any], replace: bool = False) -> DictConfig:
    """A copy of the settings with other ``views.test.scales``."""
    variant = settings.copy()
    with open_dict(variant):
        old = {} if replace else OmegaConf.to_container(settings.views.test.scales, resolve=True)
        variant.views.test.scales = {**old, **scales}  # type: ignore[dict-item]  # keys are strings
    return variant


def _print_table(rows: Sequence[dict[str, Any]], images: int) -> None:
    most = rows[0]["pixels"]
    table = Table("views", "AP", "AP50", "megapixels / image", "share", "s / image", title="AutoFocus")
    for row in rows:
        table.add_row(
            row["name"],
            format_figure(row["AP"]),
            format_figure(row["AP50"]),
            f"{row['pixels'] / images / 1e6:.3g}",
            f"{100 * row['pixels'] / most:.0f} %",
            f"{row['seconds'] / images:.3g}",
        )
    Console().print(table)
