"""How every command runs: a Hydra app with short error messages."""

import functools
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_det.config import CONF, ConfigError, register_schema, validated
from lightning_det.runs import rendezvous
from lightning_det.runs.inputs import CHECKS, check_inputs
from lightning_det.runs.jobs import JobError
from lightning_det.runs.launch import PARENT, end_with_parent, is_first_rank, register_start_time
from lightning_det.runs.layout import OVERRIDES, STATUS
from lightning_det.runs.occupancy import LOCKED, find_files, lock_folder, take_folder, unlock_folder
from lightning_det.runs.resume import (
    composition_overrides,
    override_key,
    overrides_to_record,
    resumes_in_place,
)
from lightning_det.runs.sweep import run_job, summary
from lightning_det.runs.sweep_record import check_sweep, complete_sweep
from lightning_det.system import interrupt
from lightning_det.system.errors import explain_error, printable
from lightning_det.system.files import atomic_write

log = logging.getLogger("lightning_det")


class PrintableFormatter(logging.Formatter):
    """Escapes what a terminal would obey: names of files and classes come from anywhere."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return printable(super().format(record))


class StdoutHandler(logging.StreamHandler):
    """Logs to what ``sys.stdout`` is at the moment: a progress bar takes it over, and puts lines above itself."""

    def __init__(self, stream: None = None):
        logging.Handler.__init__(self)

    @property
    def stream(self):
        """Where the next line goes."""
        return sys.stdout


def command(
    config_name: str, completed: Callable[[Sequence[str]], list[str]] = list
) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Makes a Hydra app of a function that takes the composed configuration.

    Errors that the user can mend are printed without a traceback: exit code 2 for the configuration, 1 for the rest.

    Args:
        config_name: the command's file in ``conf/``.
        completed: makes the arguments that count of those on the command line.
    """

    def decorate(task: Callable[[DictConfig], object]) -> Callable[[], None]:
        def given_task(cfg: DictConfig) -> object:
            check_inputs(cfg, config_name)  # of a job; a single run's have been looked at before there was a folder
            return task(cfg)

        @functools.wraps(task)
        def run(cfg: DictConfig) -> object:
            _quiet_libraries()
            return run_job(given_task, cfg, f"lightning_det.{config_name}")

        @functools.wraps(task)
        def main() -> None:
            with interrupt.clean_exit():
                # Hydra then raises its errors to us instead of printing them itself.
                os.environ["HYDRA_FULL_ERROR"] = "1"
                end_with_parent()
                register_schema()
                register_start_time()
                refused, well = None, False
                try:
                    sys.argv[1:] = completed(complete_sweep(sys.argv[1:], config_name))
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(run)()
                    well = True
                except JobError as error:
                    refused = error  # it has been said, if the job ran in this process
                except SIGTERMException:  # of Lightning, without an exit code: schedulers would take it for success
                    _stop("ended by SIGTERM; a training goes on with resume=RUN_FOLDER", 128 + signal.SIGTERM)
                except Exception as error:
                    _refuse(error, config_name)
                finally:
                    rendezvous.leave(well)
                    for folder in list(LOCKED):
                        unlock_folder(folder)
                    code = summary()
                if code:
                    sys.exit(code)
                if refused is not None:  # another process said it, and the job's folder holds another job's end
                    _stop(*refused.args)

        return main

    return decorate


class Folders(Callback):
    """Refuses folders, and files that are not there, before Hydra writes anything.

    Hydra makes warnings of what a callback raises; that the process ends it lets pass.
    """

    def on_run_start(self, config: DictConfig, config_name: str, **kwargs: object) -> None:
        """Before the run folder is made."""
        command = config_name if config_name in CHECKS else "train"
        before = HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(config)  # as Hydra does where it makes the folder
            if command in rendezvous.COMMANDS and not interrupt.started_by_lightning():
                rendezvous.join(rendezvous.expected_ranks(config.get("trainer") or {}))
            folder = Path(str(OmegaConf.select(config, "hydra.run.dir")))
            check_inputs(config, command)
            if is_first_rank():
                job = PARENT in os.environ and (folder / STATUS).exists()  # of several ranks, which its sweep starts
                take_folder(folder, command, command == "train" and (job or resumes_in_place(config.resume, folder)))
                interrupt.set_hint(partial(_goes_on, folder, command))
            else:
                interrupt.set_hint(lambda: None)
        except Exception as error:
            _refuse(error, config_name)
        finally:
            HydraConfig.instance().cfg = before

    def on_multirun_start(self, config: DictConfig, config_name: str, **kwargs: object) -> None:
        """Before the first job."""
        try:
            folder = Path(config.hydra.sweep.dir)
            lock_folder(folder)
            check_sweep(folder, config, config_name)
            interrupt.set_hint(lambda: f"go on with -m hydra.sweep.dir={folder}")
        except Exception as error:
            _refuse(error, config_name)


def _goes_on(folder: Path, command: str) -> str | None:
    """What Ctrl-C says of a run; None if a sweep, or another command that has started it, says it."""
    if PARENT in os.environ:
        return None
    begun = command == "train" and find_files(folder, (OVERRIDES,))
    return f"go on with resume={folder}" if begun else interrupt.GENERAL


def _refuse(error: Exception, config_name: str) -> None:
    """Ends the process with the words that an error deserves.

    Raises:
        Exception: the error itself, if it is a fault of ours.
    """
    if interrupt.was_interrupted():
        raise error
    if isinstance(error, HydraException | OmegaConfBaseException):
        _stop(explain(error, config_name), 2)
    message = explain_error(error)
    if message is not None:
        _stop(message, 2 if isinstance(error, ConfigError) else 1)
    if _raised_by(error, "submitit"):  # a job was killed, or the scheduler refused it
        _stop(str(error), 1)
    if not _raised_by(error, "hydra"):
        raise error
    _stop(str(error), 2)


def checked(cfg: DictConfig) -> DictConfig:
    """The run's configuration after `validated`."""
    return validated(cfg, chosen(), overridden_keys())


def run_folder() -> Path:
    """Folder of this run's results: ``hydra.run.dir``, or the job's folder in a sweep."""
    return Path(HydraConfig.get().runtime.output_dir)


def chosen(groups: Sequence[str] = ("strategy", "test")) -> dict[str, list[str]]:
    """Options of some config groups that the run is composed of."""
    loader = GlobalHydra.instance().config_loader()
    defaults = loader.compute_defaults_list(
        HydraConfig.get().job.config_name, composition_overrides(), RunMode.RUN
    ).defaults
    paths = [d.config_path for d in defaults if d.config_path is not None]
    return {g: [p.removeprefix(f"{g}/") for p in paths if p.startswith(f"{g}/")] for g in groups}


def overridden_keys() -> list[str]:
    """Keys that the user set on the command line, without ``+``."""
    return [override_key(o) for o in HydraConfig.get().overrides.task]


def explain(error: Exception, config_name: str) -> str:
    """A Hydra or OmegaConf error in words that name the key and what would be valid."""
    text = str(error).strip()
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        text += "\nA value with brackets, commas, = or quotes needs quotes of its own: \"source='a (1), b'\""
    if isinstance(error, MissingConfigException) and Path(f"conf/{error.missing_cfg_file}.yaml").exists():
        text += "\nYour conf/ is looked at with hydra.searchpath=[file://conf]"
    if isinstance(cause, OmegaConfBaseException):
        text += f"\n{str(cause).splitlines()[0]}"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        return f"{text.splitlines()[0]}{_valid_keys(cause, config_name)}\n{str(cause).splitlines()[0]}"
    return text


def _raised_by(error: Exception, library: str) -> bool:
    """Whether a library itself raised an error, which may be of any kind, as Hydra's for ``logger=null`` is."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith(f"{library}.")


def _valid_keys(error: OmegaConfBaseException, config_name: str) -> str:
    """Keys that exist where an unknown one was used."""
    full_key = getattr(error, "full_key", None)
    if not full_key:
        return ""
    *parents, wrong = str(full_key).split(".")
    parent = error.parent_node
    if not isinstance(parent, DictConfig) or wrong in parent:
        return ""
    keys = [str(k) for k in parent]
    near = get_close_matches(wrong, keys, n=1)
    hint = f"did you mean {'.'.join([*parents, near[0]])}? " if near else ""
    return f"\n{hint}{'.'.join(parents) or config_name} has the keys {', '.join(keys)}"


def _stop(message: str, code: int) -> None:
    sys.stdout.flush()
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(code)


def _quiet_libraries() -> None:
    """Silences remarks of libraries that the user can do nothing about."""
    for message in (
        ".*does not have many workers.*",
        ".*number of training batches.*logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*LeafSpec.*",
        ".*Experiment logs directory .* exists and is not empty.*",  # Hydra's own files are there
        ".*custom batch sampler .* for prediction.*",
        ".*recommended to use `self.log.*sync_dist=True.*",  # ranks log what they computed from the gathered whole
        "Sparse invariant checks are implicitly disabled.*",  # torch 2.11, although told so explicitly
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    if rank_zero_only.rank:
        log.setLevel(logging.WARNING)  # the first rank says it


@rank_zero_only
def save_config(cfg: DictConfig, folder: Path) -> None:
    """Writes the resolved configuration to ``config.yaml``, and what it was composed of to ``overrides.yaml``."""
    with atomic_write(folder / "config.yaml") as stream:
        stream.write(OmegaConf.to_yaml(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))))
    record = overrides_to_record(folder)
    with atomic_write(folder / OVERRIDES) as stream:
        yaml.safe_dump(record, stream)
