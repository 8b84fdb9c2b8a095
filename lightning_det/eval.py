"""``python -m lightning_det.eval checkpoint=FILE``: COCO's figures of a trained detector."""

import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_det.annotations.labels import LONGEST
from lightning_det.callbacks import Evaluator, end_wandb_run, log_ap_by_size
from lightning_det.config.build import build, build_data, build_loggers, build_trainer, checkpoint_file, usable_split
from lightning_det.evaluation.coco import Evaluation, evaluate, shown, unmeasured
from lightning_det.evaluation.files import write_coco_results
from lightning_det.plotting.curves import plot_ap_by_size
from lightning_det.runs.command import command, run_folder, save_config
from lightning_det.runs.restore import relabelled, restored
from lightning_det.system.errors import ConfigError, one_line
from lightning_det.system.files import write_json

log = logging.getLogger("lightning_det")


def evaluate_checkpoint(cfg: DictConfig) -> dict[str, Any]:
    """Evaluates as the configuration says; results go into Hydra's run folder."""
    if cfg.dataset.limit is not None:
        raise ConfigError(
            f"dataset.limit={cfg.dataset.limit} is of images to learn from; dataset.limit_val={cfg.dataset.limit} "
            "evaluates on so many"
        )
    settings, module = restored(cfg)
    folder = run_folder()
    save_config(settings, folder)
    store = relabelled(usable_split(settings, cfg.split, settings.dataset.limit_val), module.labels)
    log.info("%s: %d images, %d boxes", cfg.split, len(store), store.num_boxes)
    if reason := unmeasured(store):
        log.warning("dataset.%s: %s, so there is nothing to measure and AP is undefined", cfg.split, reason)

    test, cuts = settings.test, tuple(settings.dataset.size_cuts)
    evaluator = Evaluator(cuts, test.max_detections, test.backend)
    trainer = build_trainer(settings, folder, learning=False)
    trainer.callbacks.append(evaluator)
    shown = settings.callbacks or {}
    for name, place in (("pictures", {"folder": str(folder / "pictures")}), ("wandb", {})):
        if shown.get(name) is not None:
            trainer.callbacks.append(build(shown[name], f"callbacks.{name}", **place))
    trainer.loggers = build_loggers(settings)
    with end_wandb_run(trainer):
        trainer.validate(module, datamodule=build_data(settings, None, store), verbose=False)
        return report(cfg, trainer, evaluator, folder) if trainer.is_global_zero else {}


def report(cfg: DictConfig, trainer: pl.Trainer, evaluator: Evaluator, folder: Path) -> dict[str, Any]:
    """Writes what an evaluation has found and prints its tables and, last, the run folder.

    Args:
        cfg: as composed for this command.
        trainer: after the validation.
        evaluator: has its detections.
        folder: of the run.
    """
    # Once more with the octaves of the curve, which training does without.
    store, results = trainer.datamodule.val, evaluator.results
    cuts, most = evaluator.size_cuts, evaluator.counted
    full = evaluate(store, results, cuts, most, curve=True, backend=evaluator.backend)
    log_ap_by_size(trainer, full.curve())
    write_coco_results(folder / "detections.json", store, results)
    plot_ap_by_size(full.curve(), folder / "ap_by_size.png", f"AP by object size, {cfg.split}")
    metrics = full.figures() | {
        "images": len(results.seen),
        "detections": len(results),
        "pixels": evaluator.pixels * trainer.world_size,
        "checkpoint": os.path.relpath(checkpoint_file(cfg.checkpoint).resolve(), folder.resolve()),
        "per_class": full.per_class(),
        "ap_by_size": full.curve(),
    }
    write_json(folder / "metrics.json", metrics)
    print_tables(full)
    print(folder)
    return metrics


def print_tables(evaluation: Evaluation) -> None:
    """AP by class and by size, and COCO's table."""
    console = Console()
    classes = Table("class", "boxes", "AP", "AP50", title="AP by class")
    for name, row in evaluation.per_class().items():
        if row["boxes"]:
            # As text: a name may look like rich's markup, or like one of its emojis.
            classes.add_row(Text(one_line(name, LONGEST)), str(row["boxes"]), shown(row["AP"]), shown(row["AP50"]))
    sizes = Table("sqrt(area), px", "boxes", "AP", "AP50", title="AP by object size")
    for row in evaluation.curve():
        sizes.add_row(f"{row['from']:g} - {row['to']:g}", str(row["boxes"]), f"{row['AP']:.3f}", f"{row['AP50']:.3f}")
    console.print(classes, sizes)
    print(evaluation.table())


main = command("eval")(evaluate_checkpoint)

if __name__ == "__main__":
    main()
