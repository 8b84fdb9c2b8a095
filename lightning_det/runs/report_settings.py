"""The part of the report about a run's configuration, and the commands that it proposes."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_det.callbacks.ranks import differences
from lightning_det.config import resolve
from lightning_det.report.page import Change, Command
from lightning_det.runs.resume import quote

OF_EVERY_RUN = ("resume", "callbacks", "logger")
"""Settings that are not compared with the defaults: an evaluation has others, and they name folders."""


def changes(settings: DictConfig) -> list[Change]:
    """Lists the settings that differ from those of a training without options."""
    loader = GlobalHydra.instance().config_loader()
    default = loader.load_configuration("train", overrides=[], run_mode=RunMode.RUN)
    with open_dict(default):
        del default["hydra"]
    plain, here = resolve(default), resolve(settings)
    keys = [key for key in differences(plain, here) if key.split(".")[0] not in OF_EVERY_RUN]
    return [Change(key, _text(plain, key), _text(here, key)) for key in keys if key.split(".")[0] in plain]


def _text(plain: dict[str, Any], key: str) -> str:
    """The value of a dotted key as short text; empty if there is none."""
    node: Any = plain
    for step in key.split("."):
        if not isinstance(node, dict) or step not in node:
            return ""
        node = node[step]
    return node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)


def settings_text(settings: DictConfig) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(resolve(settings)))


def option(key: str, path: str | Path) -> str:
    """An option whose value is a path, for a shell."""
    if re.fullmatch(r"[\w./-]+", str(path)):
        return f"{key}={path}"
    return shlex.quote(f"{key}={quote(path)}")


def display(path: Path) -> str:
    """A path as the user would type it: relative to the working directory if it is below."""
    resolved, here = path.resolve(), Path.cwd().resolve()
    return str(resolved.relative_to(here)) if resolved.is_relative_to(here) and resolved != here else str(path)


def next_commands(run: str, trained: bool, split: str | None, folder: str | None = None) -> list[Command]:
    """Lists the commands that may follow a run.

    Args:
        run: folder or checkpoint file of the training, see `display`.
        trained: whether the report is that of the training itself.
        split: a split to evaluate; None if there is no other one.
        folder: of the evaluation that the report is of; None if it is that of the training.
    """
    checkpoint = option("checkpoint", run)
    found = [
        Command("Detect objects in your own images or a video:", f"lightning-det predict {checkpoint} source=IMAGES")
    ]
    if split is not None:
        what = "Evaluate the best checkpoint" if trained else "Evaluate the checkpoint on another split"
        found.append(Command(f"{what}:", f"lightning-det eval {checkpoint} split={split}"))
    found.append(Command("Compare with other runs:", f"lightning-det compare {shlex.quote(folder or run)} OTHER_RUN"))
    if trained:
        more = f"lightning-det train {option('resume', run)} trainer.max_epochs=MORE"
        found.append(Command("Train longer, from the last checkpoint on:", more))
    line = f"lightning-det export {checkpoint} output=model.onnx"
    found.append(Command("Export the detector as an ONNX graph:", line))
    return found
