"""``python -m lightning_det.compare RUNS...``: compares runs in tables and plots, with seeds as repetitions."""

import json
from collections.abc import Sequence
from pathlib import Path

from lightning_det.runs.command import command

FLAGS = ("--cfg", "-c", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p")
"""Flags of Hydra that a value follows."""


def gather_folders(arguments: Sequence[str]) -> list[str]:
    """Collects the bare folders of a command line in ``runs=[...]``."""
    folders: list[str] = []
    rest: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        bare = "=" not in argument or Path(argument).is_dir()  # sweeps may have folders such as lr=0.1
        is_folder = bare and not argument.startswith("-") and before not in FLAGS
        (folders if is_folder else rest).append(argument)
    return [*rest, f"runs={json.dumps(folders, ensure_ascii=False)}"] if folders else rest


main = command("compare", "lightning_det.commands.compare.compare", gather_folders)

if __name__ == "__main__":
    main()
