"""Tries every strategy, detector and test option together, and writes what came of it into docs/matrix.md.

    python benchmarks/matrix.py                                          # everything, in 20 minutes
    python benchmarks/matrix.py --detectors fcos ssd --page part.md      # a part, into another file

Options are the files of ``conf/strategy``, ``conf/detector`` and ``conf/test``. Trainings and exports are the
commands themselves, in this process, on a few small generated images. A run is evaluated with every test option as
``eval`` does, without its report. Runs of a detector whose checkpoints agree in all that ``eval`` reads are evaluated
once.
"""

import argparse
import contextlib
import io
import json
import math
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matrix_page import ALONE, Matrix, cells, write
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from support import composing, in_process  # noqa: E402  # of the tests: commands in this process, composed quickly
from train_step import hardware  # noqa: E402

from lightning_det.annotations import LabelMap  # noqa: E402
from lightning_det.callbacks import Evaluator  # noqa: E402
from lightning_det.checkpoint import load_checkpoint  # noqa: E402
from lightning_det.config import CONF, resolve  # noqa: E402
from lightning_det.config.composition import Origin, compose, composed_from  # noqa: E402
from lightning_det.config.data import build_data, usable_split  # noqa: E402
from lightning_det.config.module import build_module  # noqa: E402
from lightning_det.config.trainer import build_trainer  # noqa: E402
from lightning_det.modules import keys  # noqa: E402
from lightning_det.runs.overlay import OF_THIS_RUN, READ, UNREAD  # noqa: E402
from lightning_det.runs.restore import merged_settings, relabel  # noqa: E402
from lightning_det.system.errors import explain_error  # noqa: E402

COMBINATIONS = ("sniper,ohem", "snip,flip,ohem", "sniper_no_negatives,autofocus", "warp,iou_crops,distort,flip")
"""Lists of strategies that are tried beside the single ones."""

BACKBONES = ("tiny", "resnet18")
"""Small ones, the smallest first. A detector gets the first one that it can be trained with."""

STEPS = 2

IMAGES = (
    *("dataset.source.train=4", "dataset.source.val=2", "dataset.source.width=96", "dataset.source.height=64"),
    *("dataset.source.sizes=[8,32]", "dataset.resolution=[64,96]", "dataset.pyramid=[[128,192],[64,96],[32,48]]"),
    *("dataset.tiles.size=64", "dataset.snip.sub_image=96", "dataset.sniper.size=64"),
    *("dataset.sniper.scales=[2.0,1.0,[-1,64]]", "dataset.sniper.pyramid=[[128,192],[64,96],[32,48]]"),
)
"""Of `shapes`, and the numbers of the data set that belong to such images."""

NETWORK = ("capacity.neck=32", "capacity.head=32", "capacity.rois=16", "capacity.decoder_layers=1", "miner.epochs=1")

BRIEF = (
    *(f"trainer.max_steps={STEPS}", "trainer.max_epochs=-1", "trainer.limit_val_batches=0"),
    *("trainer.enable_progress_bar=false", "data.batch_size=2", "data.num_workers=0"),
    *("callbacks.report=null", "callbacks.pictures=null", "callbacks.selection=null"),
    "callbacks.best=null",
)

SMALLER = {
    ("strategy", "warp"): ("views.train.scales.size=[64,96]",),
    ("strategy", "sniper"): ("views.train.windows.dense=[1,1]",),
    ("test", "warp"): ("views.test.scales.size=[64,96]",),
}
"""Settings that an option needs with such images, by group and name."""

BROKEN = "TRACEBACK"
"""How the outcome of an error begins that no user should see."""


def options(group: str) -> list[str]:
    """Names of the options of a group, from the files in ``conf/``."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def smaller(group: str, names: str) -> list[str]:
    """`SMALLER` for a list of options."""
    return [setting for name in names.split(",") for setting in SMALLER.get((group, name), ())]


def attempt(name: str, call: Callable[[], str]) -> str:
    """Empty if a call worked, else the words with which it was refused; `BROKEN` if there are none."""
    try:
        return call()
    except Exception as error:
        message = explain_error(error)
        if message is None:
            print(f"\n{name}", file=sys.stderr)
            traceback.print_exc()
            message = f"{BROKEN}: {type(error).__name__}: {error}"
        return " ".join(message.split())


def command(name: str, *arguments: str) -> str:
    """Runs a command; empty if it worked, else its error."""
    outcome = in_process.run(name, *arguments)
    return outcome.errors.rpartition("error: ")[2].strip() if outcome.code else ""


def train(detector: str, backbone: str, strategy: str, run: Path) -> str:
    """Trains two steps; empty if it worked, else why it was refused."""
    chosen = [f"detector={detector}", f"backbone={backbone}", f"strategy=[{strategy}]", f"hydra.run.dir={run}"]
    refused = command("train", *chosen, *IMAGES, *NETWORK, *BRIEF, *smaller("strategy", strategy))
    if not refused:
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["steps"] == STEPS, metrics
        assert math.isfinite(metrics["loss"]), metrics
    return refused


@cache
def composition(test: str) -> tuple[DictConfig, Origin]:
    """The configuration of ``eval test=[...]``, whose checkpoint is to be set."""
    chosen = [] if test == ALONE else [f"test=[{test}]", *smaller("test", test)]
    return compose("eval", ["checkpoint=RUN", "trainer.enable_progress_bar=false", *chosen], Path("."))


class Trained(NamedTuple):
    """The content of a checkpoint, read once for many evaluations."""

    run: Path
    settings: dict[str, Any]
    labels: LabelMap
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, run: Path) -> "Trained":
        """That of a run folder."""
        content = load_checkpoint(run)
        saved = content["hyper_parameters"]
        return cls(run, saved["settings"], LabelMap.from_dict(saved["labels"]), content["state_dict"])


def evaluate(trained: Trained, test: str) -> str:
    """Evaluates a run with a test option, as the command ``eval`` does; empty if it worked."""
    cfg, start = composition(test)
    cfg = cfg.copy()
    cfg.checkpoint = str(trained.run)
    with composed_from(start), contextlib.redirect_stdout(io.StringIO()):
        settings = merged_settings(trained.settings, cfg)
        module = build_module(settings, trained.labels, learning=False)
        module.load_state_dict(trained.weights)
        store = relabel(usable_split(settings, "val"), module.labels)
        trainer = build_trainer(settings, trained.run, learning=False)
        evaluator = Evaluator(tuple(settings.dataset.size_cuts), settings.test.max_detections, settings.test.backend)
        trainer.callbacks.append(evaluator)
        trainer.validate(module, datamodule=build_data(settings, None, store), verbose=False)
    assert math.isfinite(trainer.callback_metrics[keys.validation("AP")]), trainer.callback_metrics
    return ""


def export(run: Path) -> str:
    """Exports a run; empty if it worked."""
    return command("export", f"checkpoint={run}", f"output={run}/model.onnx", f"hydra.run.dir={run}/export")


def read_by_eval(settings: dict[str, Any]) -> str:
    """All that ``eval`` reads of a run's settings: runs of a detector that agree in it differ in their weights only."""
    plain = resolve(OmegaConf.create(settings))
    for key in UNREAD:
        *parents, last = key.split(".")
        value_at(plain, parents, {}).pop(last, None)
    read = [key for key in (*READ["eval"], "dataset") if not key.startswith(OF_THIS_RUN)]
    return json.dumps({key: value_at(plain, key.split(".")) for key in read}, sort_keys=True)


def value_at(node: Any, place: Sequence[str], default: Any = None) -> Any:
    """The value at a place in nested dictionaries."""
    for step in place:
        node = node.get(step) if isinstance(node, dict) else None
    return default if node is None else node


def small_backbone(detector: str, folder: Path) -> str:
    """The first of `BACKBONES` that a detector can be trained with."""
    for backbone in BACKBONES:
        refused = train(detector, backbone, "single_scale", folder / backbone)
        if not refused:
            return backbone
        print(f"detector={detector} backbone={backbone}: {refused}")
    raise SystemExit(f"none of {BACKBONES} suits detector={detector}; add a small one")


def try_detector(matrix: Matrix, detector: str, strategies: Sequence[str], tests: Sequence[str], folder: Path) -> int:
    """Fills in what comes of a detector, and returns the number of evaluations that were run."""
    backbone = matrix.backbones[detector] = small_backbone(detector, folder)
    seen: dict[tuple[str, str], str] = {}
    for strategy in strategies:
        name, run = f"detector={detector} strategy=[{strategy}]", folder / strategy.replace(",", "_")
        refused = attempt(name, lambda run=run, strategy=strategy: train(detector, backbone, strategy, run))
        matrix.training.setdefault(strategy, {})[detector] = refused
        trained = None if refused else Trained.of(run)
        read = "" if trained is None else read_by_eval(trained.settings)
        for test in tests:
            if trained is not None and (read, test) not in seen:
                call = f"{name} test=[{test}]"
                seen[read, test] = attempt(call, lambda trained=trained, test=test: evaluate(trained, test))
            outcomes = matrix.evaluation.setdefault(test, {}).setdefault(strategy, {})
            outcomes[detector] = None if trained is None else seen[read, test]
    return len(seen)


def main() -> None:
    """Tries everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detectors", nargs="+", default=options("detector"))
    parser.add_argument("--strategies", nargs="+", default=[*options("strategy"), *COMBINATIONS])
    parser.add_argument("--tests", nargs="+", default=[ALONE, *options("test")])
    parser.add_argument("--no-export", action="store_true")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/matrix.md")
    parser.add_argument("--json", type=Path, help="also write the outcomes to this file")
    given = parser.parse_args()
    composing.install()
    torch.set_num_threads(1)
    matrix, evaluations, start = Matrix(), 0, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for detector in given.detectors:
            evaluations += try_detector(matrix, detector, given.strategies, given.tests, Path(folder) / detector)
            print(f"{detector}: {time.process_time() - start:.0f} s of the CPU so far", flush=True)
        for detector in [] if given.no_export else given.detectors:
            run = Path(folder) / detector / matrix.backbones[detector]
            matrix.exports[detector] = attempt(f"export {detector}", lambda run=run: export(run))
            print(f"export of {detector}: {time.process_time() - start:.0f} s of the CPU so far", flush=True)
    finish(given, matrix, evaluations, (time.process_time() - start) / 60)


def finish(given: argparse.Namespace, matrix: Matrix, evaluations: int, minutes: float) -> None:
    """Writes the page and the outcomes; ends with an error if some were errors that no user should see."""
    triples = [o for rows in matrix.evaluation.values() for row in rows.values() for o in row.values()]
    trained = [o for row in matrix.training.values() for o in row.values()]
    run = (
        f"{len(trained)} pairs of a strategy and a detector: {trained.count('')} were trained, the others refused. "
        f"{len(triples) - triples.count(None)} triples with a test option: {triples.count('')} work. They took "
        f"{evaluations} evaluations. Runs of a detector whose checkpoints agree in all that `eval` reads, such as "
        "those of `single_scale` and `flip`, differ in their weights only, and the first of them was evaluated. Images "
        "have 96 x 64 pixels, pyramids, chips and tiles are as small, and there are four images to learn from and two "
        "to evaluate on. So the page says what runs, and nothing of how well it learns."
    )
    core = hardware("cpu", 1).replace(", 1 threads", "")
    about = f"The last time: {date.today()}, {minutes:.0f} minutes on one core ({core}), torch {torch.__version__}."
    given.page.write_text(write(matrix, about, textwrap.fill(run, 120)))
    if given.json:
        given.json.write_text(json.dumps(asdict(matrix), indent=1))
    if broken := [cell for cell, outcome in cells(matrix).items() if outcome and outcome.startswith(BROKEN)]:
        sys.exit(f"errors that no user should see: {broken}")


if __name__ == "__main__":
    main()
