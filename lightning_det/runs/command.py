"""How every command runs: a Hydra app with short error messages."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.utils import get_method
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_det.config import CONF, ConfigError, register_schema
from lightning_det.config.own_options import own_folder, same_for_children, say_own_options
from lightning_det.runs import rendezvous
from lightning_det.runs.dataset_option import name_dataset
from lightning_det.runs.help import print_help
from lightning_det.runs.inputs import CHECKS, check_inputs
from lightning_det.runs.launch import PARENT, end_with_parent, is_first_rank
from lightning_det.runs.messages import explain_composition, is_raised_by
from lightning_det.runs.numbering import is_of_a_day, link_latest, name_targets, register_numbering, take_run_folder
from lightning_det.runs.occupancy import LOCKED, find_files, lock_folder, take_folder, unlock_folder
from lightning_det.runs.resume import OVERRIDES, resumes_in_place
from lightning_det.runs.sweep import STATUS, JobError, run_job, summary
from lightning_det.runs.sweep_record import check_sweep, complete_sweep
from lightning_det.system import interrupt
from lightning_det.system.errors import explain_error, printable

log = logging.getLogger("lightning_det")


class PrintableFormatter(logging.Formatter):
    """Escapes what a terminal would obey: names of files and classes come from anywhere."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return printable(super().format(record))


class StdoutHandler(logging.StreamHandler[TextIO]):
    """Logs to what ``sys.stdout`` is at the moment: a progress bar replaces it, and puts lines above itself."""

    def __init__(self, stream: None = None):
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute there
        """The stream of the next line."""
        return sys.stdout


def command(name: str, task: str, complete: Callable[[Sequence[str]], list[str]] = list) -> Callable[[], None]:
    """Makes a Hydra app of a function that takes the composed configuration.

    Errors that the user can fix are printed without a traceback: exit code 2 for the configuration, 1 for the rest.

    Args:
        name: of the command, and of its file in ``conf/``.
        task: dotted path of the function. It is imported when a job runs: torch, Lightning and others take seconds,
            and ``--help``, ``--cfg`` and completion need none of them.
        complete: makes the command line of a run of the arguments that were given.
    """

    def run_checked(cfg: DictConfig) -> object:
        check_inputs(cfg, name)  # of a job; those of a single run were checked before its folder was made
        return get_method(task)(cfg)

    def run(cfg: DictConfig) -> object:
        _quiet_libraries()
        return run_job(run_checked, cfg, f"lightning_det.{name}")

    run.__module__ = f"lightning_det.{name}"  # from which Hydra names the job

    def main() -> None:
        if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
            print_help(name, [folder for folder in (own_folder(), CONF) if folder is not None])
            return
        with interrupt.clean_exit(), same_for_children():
            # Hydra then raises its errors to us instead of printing them itself.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            end_with_parent()
            register_schema()
            register_numbering()
            refused, well = None, False
            try:
                sys.argv[1:] = name_dataset(complete(complete_sweep(name_targets(sys.argv[1:]), name)), name)
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(run)()
                well = True
            except JobError as error:
                refused = error  # it has been said, if the job ran in this process
            except SystemExit as end:
                if _is_by_lightning(end):  # without an exit code: schedulers would take it for success
                    hint = interrupt.hint()
                    _stop("ended by SIGTERM" + (f"; {hint}" if hint else ""), 128 + signal.SIGTERM)
                raise
            except Exception as error:
                _refuse(error, name)
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


def _is_by_lightning(end: SystemExit) -> bool:
    """Whether an end is Lightning's `SIGTERMException`, which would have to be imported."""
    return type(end).__module__.startswith("pytorch_lightning.")


class NumberedFolder(Callback):
    """Takes the run folder, of commands that have no training to protect."""

    def on_run_start(self, config: DictConfig, *, config_name: str = "", **kwargs: Any) -> None:
        """Before the run folder is made."""
        try:
            take_run_folder(config)
        except OSError as error:
            _refuse(error, config_name)


class Folders(Callback):
    """Refuses folders, and files that are not there, before Hydra writes anything.

    Hydra turns exceptions of a callback into warnings, except the end of the process.
    """

    def on_run_start(self, config: DictConfig, *, config_name: str = "", **kwargs: Any) -> None:
        """Before the run folder is made."""
        if is_first_rank() and PARENT not in os.environ:  # else another process says it
            say_own_options()
        command = config_name if config_name in CHECKS else "train"
        before = HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(config)  # as Hydra does where it makes the folder
            if command in rendezvous.COMMANDS and not interrupt.is_started_by_lightning():
                rendezvous.join(rendezvous.expected_ranks(config.get("trainer") or {}))
            check_inputs(config, command)
            folder = take_run_folder(config)
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

    def on_multirun_start(self, config: DictConfig, *, config_name: str = "", **kwargs: Any) -> None:
        """Before the first job."""
        say_own_options()
        try:
            folder = Path(config.hydra.sweep.dir)
            lock_folder(folder)
            check_sweep(folder, config, config_name)
            if is_of_a_day(folder):
                link_latest(folder)
            interrupt.set_hint(lambda: f"go on with -m hydra.sweep.dir={folder}")
        except Exception as error:
            _refuse(error, config_name)


def _goes_on(folder: Path, command: str) -> str | None:
    """The hint after Ctrl-C; None if a sweep, or another command that started this one, gives it."""
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
        _stop(explain_composition(error, config_name), 2)
    message = explain_error(error)
    if message is not None:
        _stop(message, 2 if isinstance(error, ConfigError) else 1)
    if is_raised_by(error, "submitit"):  # a job was killed, or the scheduler refused it
        _stop(str(error), 1)
    if not is_raised_by(error, "hydra"):
        raise error
    _stop(explain_composition(error, config_name), 2)


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
        ".*missing from font.*",  # of a class name in a picture, which shows a box instead
        "Sparse invariant checks are implicitly disabled.*",  # torch 2.11, although told so explicitly
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    if not is_first_rank():
        log.setLevel(logging.WARNING)  # the first rank says it
