"""Settings as a command would compose and check them, for calls from Python."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_det.config.composition import SEARCHPATH, compose, composed_from, override_key
from lightning_det.runs.dataset_option import name_dataset
from lightning_det.runs.messages import explain_composition
from lightning_det.system.errors import ConfigError


@contextmanager
def composed(
    command: str, overrides: Sequence[str], folder: str | Path, first: Sequence[str] = ()
) -> Iterator[DictConfig]:
    """Composes a configuration; within the context, the package takes it for that of the present run.

    Nothing global is changed: there may be a Hydra job around it, and other threads may do the same.

    Args:
        command: file in ``conf/``.
        overrides: as on the command line, of the user.
        folder: for ``${hydra:runtime.output_dir}``; it need not exist.
        first: overrides that come before those of the user.

    Raises:
        ConfigError: the overrides name a key or option that does not exist, with the valid ones, or settings of
            Hydra's jobs.
    """
    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise ConfigError(f"overrides must be a list of texts such as 'seed=1', got {overrides!r:.100}")
    if job := [key for key in map(override_key, overrides) if key.startswith("hydra.") and key != SEARCHPATH]:
        raise ConfigError(f"{', '.join(job)}: of a command; there is no job of Hydra in a call from Python")
    try:
        cfg, start = compose(command, name_dataset([*first, *overrides], command), Path(folder))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain_composition(error, command)) from error
    with composed_from(start):
        yield cfg
