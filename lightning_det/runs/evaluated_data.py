"""The settings that say what images and boxes a run was evaluated on."""

import os
from pathlib import Path
from typing import Any

import yaml

from lightning_det.runs.resume import recorded_overrides
from lightning_det.system.errors import UserError

DECIDES = ("holdout", "classes", "other_classes", "limit_val", "size_cuts")
"""Keys of ``dataset`` that decide what is measured, besides its folder, its split and the settings of its reader."""

LIMITS = ("limit_val_batches", "fast_dev_run")
"""Keys of ``trainer`` that decide how many views of the images are looked at."""

UNSAID = ("root", "_target_")
"""Keys of the reader that say nothing more: the folder, and the layout that was recognised or named."""


def evaluated_data(folder: Path) -> dict[str, str]:
    """Reads from a run folder what decides about the images and boxes of its evaluation: text by dotted key.

    A folder without a configuration, or with a file of another kind, has none of these keys.

    Raises:
        UserError: the configuration cannot be read.
    """
    file = folder / "config.yaml"
    if not file.exists():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not the configuration of a run; leave its folder out") from error
    dataset = content.get("dataset") if isinstance(content, dict) else None
    if not isinstance(dataset, dict):
        return {}
    split = _split(folder)
    found: dict[str, Any] = {"split": split}
    found |= {key: dataset[key] for key in (split, *DECIDES) if key in dataset}
    source = dataset.get("source")
    if isinstance(source, dict):
        found |= {f"source.{key}": value for key, value in source.items() if key not in UNSAID}
    said = {"dataset.root": _place(dataset.get("root"))} | {f"dataset.{key}": str(v) for key, v in found.items()}
    trainer = content.get("trainer")
    limits = {key: trainer[key] for key in LIMITS if key in trainer} if isinstance(trainer, dict) else {}
    return said | {f"trainer.{key}": str(value) for key, value in limits.items()}


def _split(folder: Path) -> str:
    """The split that `eval` was given; `train` validates on ``val``."""
    given = [o.removeprefix("split=") for o in recorded_overrides(folder) or [] if o.startswith("split=")]
    return given[-1] if given else "val"


def _place(root: Any) -> str:
    """A folder, pattern or list of them as text, the same from wherever it is named."""
    return ", ".join(os.path.realpath(part) for part in (root if isinstance(root, list) else [str(root)]))
