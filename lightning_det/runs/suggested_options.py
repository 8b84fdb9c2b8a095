"""Writes what is suggested for a dataset as options of the user's own folder."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_det.config.composition import override_key
from lightning_det.config.own_options import options_folder
from lightning_det.inspection.proposal import Suggestion
from lightning_det.inspection.writing import dataset_yaml, option_files, strategy_yaml
from lightning_det.runs.composition import chosen_options, overridden_keys
from lightning_det.runs.launch import is_first_rank
from lightning_det.system.errors import ConfigError, one_line
from lightning_det.system.files import atomic_write

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{,99}")

NO_TEXT = ("true", "false", "null", "nan", "inf")
"""Words that Hydra takes for other values than names of options."""

OWN = ("dataset", "strategy", "write", "split", "decode", "pictures")
"""Options of inspect that the commands after it do not repeat."""


def check_name(name: str | None) -> None:
    """Refuses a name for a new option of ``dataset`` that is invalid or taken.

    Raises:
        ConfigError: the message says what to do.
    """
    if name is None:
        return
    if not NAME.fullmatch(name) or name.lower() in NO_TEXT:
        raise ConfigError(
            f"write={one_line(name)}: a name for dataset=NAME and conf/dataset/NAME.yaml is a letter, then letters, "
            f"digits, - and _, at most 100 in all; not {', '.join(NO_TEXT)}"
        )
    files = option_files(options_folder(), name)
    if blocked := [path for file in files for path in file.parents if path.exists() and not path.is_dir()]:
        raise ConfigError(f"write={name}: {blocked[0]} is no folder, so {files[0]} cannot be written; rename it")
    if any(file.exists() for file in files):
        raise ConfigError(
            f"write={name}: there is a dataset={name} already; take another name, or remove what an earlier inspect "
            f"has written ({', '.join(map(str, files))})"
        )
    if name in GlobalHydra.instance().config_loader().get_group_options("dataset"):
        raise ConfigError(
            f"write={name}: there is a dataset={name} already, not written by inspect; take another name, such as "
            f"write=my_{name}"
        )


def write_options(cfg: DictConfig, suggestion: Suggestion) -> Sequence[Path]:
    """Writes the options ``dataset=NAME`` and ``strategy=suggested``, if ``write`` is set; returns their files.

    The dataset inherits from the option that was inspected, and keeps the user's other settings of ``dataset``.
    """
    if cfg.write is None or not is_first_rank():
        return ()
    base = chosen_options(["dataset"])["dataset"][-1]
    made_by = one_line(" ".join(["lightning-det inspect", *HydraConfig.get().overrides.task]))
    files = option_files(options_folder(), cfg.write)
    contents = (
        dataset_yaml(suggestion, base, own_settings(cfg, suggestion.dataset), made_by),
        strategy_yaml(suggestion, cfg.write, made_by),
    )
    for file, content in zip(files, contents, strict=True):
        with atomic_write(file) as stream:
            stream.write(content)
    return files


def repeated_options() -> str:
    """Formats the options that the commands after inspect need too, such as the detector, with a leading space."""
    given = HydraConfig.get().overrides.task
    return "".join(f" {shlex.quote(each)}" for each in given if re.split("[.@]", override_key(each))[0] not in OWN)


def own_settings(cfg: DictConfig, suggested: dict[str, Any]) -> dict[str, Any]:
    """Collects the settings of ``dataset`` that the user gave, nested, without those that are suggested or limits."""
    left_out = {*suggested, "limit", "limit_val"}
    own = OmegaConf.create({})
    plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True))
    for key in overridden_keys():
        group, _, name = key.partition(".")
        if group == "dataset" and name and name.split(".")[0] not in left_out:
            OmegaConf.update(own, name, OmegaConf.select(plain, key))
    result: Any = OmegaConf.to_container(own)
    return result
