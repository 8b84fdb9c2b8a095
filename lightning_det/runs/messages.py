"""Explains errors of Hydra and OmegaConf, with the key and the valid values."""

import traceback
from difflib import get_close_matches

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lightning_det.config.options import SUGGESTED
from lightning_det.config.own_options import own_folder
from lightning_det.config.schema import CONF
from lightning_det.runs.help import read_entries
from lightning_det.system.errors import one_line

EXAMPLES = {
    "predict": "source=DIR",
    "eval": "checkpoint=RUN",
    "export": "checkpoint=RUN",
    "load": "test.max_detections=300",
}
"""A setting by command, for those who give a value alone."""


def explain_composition(error: Exception, config_name: str) -> str:
    """Explains a Hydra or OmegaConf error, with the key and the valid values."""
    text = str(error).strip()
    missing = error.missing_cfg_file if isinstance(error, MissingConfigException) else None
    if missing is not None and missing.startswith(f"{SUGGESTED}/"):
        name = missing.removeprefix(f"{SUGGESTED}/")
        return (
            f"strategy=suggested: nothing is suggested for dataset={name}. First run inspect with write=NAME "
            f"(lightning-det inspect dataset={name} dataset.root=DIR write=mine), then train with dataset=NAME"
        )
    if missing is not None and (options := _options(missing)):
        return options
    if isinstance(error, MissingMandatoryValue):
        key = str(error.full_key)
        return f"{key} is required: {_comment(key, config_name)}"
    if text.startswith("Config group override must be a string or a list"):
        return (
            f"{text}: a group takes the name of an option, such as detector=fcos, and strategy, test and callbacks a "
            "list of names; leave it out for the default"
        )
    cause = error.__cause__
    if isinstance(error, OverrideParseException) and "=" not in error.override:
        example = EXAMPLES.get(config_name, "dataset.root=DIR")
        return f"{one_line(error.override) or repr('')} is no setting; these are KEY=VALUE, such as {example}"
    if isinstance(error, OverrideParseException):
        text += "\nA value with brackets, commas, = or quotes needs quotes of its own: \"source='a (1), b'\""
    if isinstance(error, MissingConfigException):
        text = text.partition("\nConfig search path:")[0].replace("\t", "  ")
        text += f"\n{_where_own_options_are()}"
    if isinstance(cause, OmegaConfBaseException):
        text += f"\n{str(cause).splitlines()[0]}"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        return f"{text.splitlines()[0]}{_valid_keys(cause, config_name)}\n{str(cause).splitlines()[0]}"
    return text


def _options(missing: str) -> str:
    """Says that a group has no option of this name, and which it has; empty if there is no such group.

    Args:
        missing: ``GROUP/NAME``.
    """
    group, _, name = missing.rpartition("/")
    folders = [folder for folder in (own_folder(), CONF) if folder is not None]
    options = sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
    if not group or not options:
        return ""
    near = get_close_matches(name, options, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return (
        f"{group}={one_line(name)}: there is no such option{hint}\n{group} has the options {', '.join(options)}\n"
        f"{_where_own_options_are()}"
    )


def _where_own_options_are() -> str:
    return f"Options of your own are looked for in {own_folder() or 'conf/ of the working directory'}"


def _comment(key: str, config_name: str) -> str:
    """The comment at a key in the file of a command."""
    comments = {entry.name: entry.comment for entry in read_entries(CONF / f"{config_name}.yaml")}
    return comments.get(key) or f"give {key}=..."


def is_raised_by(error: Exception, library: str) -> bool:
    """Whether an error was raised by a library itself. Its type may be any, such as Hydra's for ``logger=null``."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith(f"{library}.")


def _valid_keys(error: OmegaConfBaseException, config_name: str) -> str:
    """Lists the valid keys of a node in which an unknown key was used."""
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
