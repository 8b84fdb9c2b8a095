"""The composition of a run's configuration, its checks, and its record in the run folder."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from lightning_det.config import validate
from lightning_det.config.composition import origin
from lightning_det.config.options import SUGGESTED
from lightning_det.config.recognition import recognise_dataset
from lightning_det.runs.resume import OVERRIDES, overrides_to_record
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import atomic_write


def validate_run(cfg: DictConfig) -> DictConfig:
    """Checks the run's configuration by `lightning_det.config.validate`, recognises its dataset, and returns it.

    Raises:
        ConfigError: a setting is invalid; the message names the key and the valid values.
        DatasetError: the dataset's layout is not recognised.
    """
    for group in ("optimizer", "schedule"):
        if not cfg[group]:
            raise ConfigError(f"{group}={cfg[group]}: a training needs one; leave it out for the default")
    return recognise_dataset(validate(cfg, chosen_options(), overridden_keys()))


def run_folder() -> Path:
    """Returns the folder of this run's results: ``hydra.run.dir``, or the job's folder in a sweep."""
    return Path(HydraConfig.get().runtime.output_dir)


def chosen_options(groups: Sequence[str] = ("strategy", "test")) -> dict[str, list[str]]:
    """Lists, by config group, the options that the run is composed of, without inherited ones."""
    present = origin()
    overrides = [*present.searched, *present.overrides]
    defaults = present.loader.compute_defaults_list(present.command, overrides, RunMode.RUN).defaults
    options = {*groups, "strategy", "test", "shared"}

    def is_chosen(parent: str) -> bool:
        # `suggested` stands for the options that were suggested for the dataset.
        return parent.partition("/")[0] not in options or parent.startswith(f"{SUGGESTED}/")

    paths = [d.config_path for d in defaults if d.config_path and is_chosen(d.parent or "")]
    return {g: [p.removeprefix(f"{g}/") for p in paths if p.startswith(f"{g}/")] for g in groups}


def overridden_keys() -> list[str]:
    """Lists the keys that the user set, without ``+``."""
    return origin().keys


@rank_zero_only
def save_config(cfg: DictConfig, folder: Path) -> None:
    """Writes the resolved configuration to ``config.yaml``, and its overrides to ``overrides.yaml``."""
    with atomic_write(folder / "config.yaml") as stream:
        stream.write(OmegaConf.to_yaml(cfg, resolve=True))
    record = overrides_to_record(folder)
    with atomic_write(folder / OVERRIDES) as stream:
        yaml.safe_dump(record, stream)
