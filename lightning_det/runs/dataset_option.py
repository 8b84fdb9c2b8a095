"""``dataset.root=DIR`` alone: the option of the group ``dataset`` that goes with it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_det.config.composition import compose
from lightning_det.runs.resume import override_key

COMMANDS = ("train", "inspect", "mine")
"""Commands that read a dataset and no checkpoint."""

OPTION = "dataset=auto"


def name_dataset(arguments: Sequence[str], command: str) -> list[str]:
    """Adds ``dataset=auto`` to a command line with ``dataset.root`` that does not name a dataset in another way.

    The other ways are the group ``dataset``, settings of a reader (``dataset.source``), an experiment with a dataset,
    and the record of a resumed run.

    Args:
        arguments: after the name of the command, or the overrides of a call from Python.
        command: its name.
    """
    given = {override_key(a): a for a in arguments if "=" in a and not a.startswith("-")}
    if command not in COMMANDS or "dataset.root" not in given or "dataset" in given:
        return list(arguments)
    own = any(key.startswith("dataset.source") and key != "dataset.source.format" for key in given)
    if own or Path(given.get("resume", "").partition("=")[2].strip("'\"") or "null").is_dir():
        return list(arguments)
    if "experiment" in given and _names_dataset(given["experiment"], given.values(), command):
        return list(arguments)
    at = list(arguments).index(given["dataset.root"])  # argparse wants all overrides side by side
    return [*arguments[:at], OPTION, *arguments[at:]]


def _names_dataset(experiment: str, arguments: Iterable[str], command: str) -> bool:
    """Whether one of the experiments of an override chooses a dataset, or sets up the default one's reader."""
    searched = [a for a in arguments if override_key(a) == "hydra.searchpath"]
    try:
        value = OverridesParser.create().parse_override(experiment).value()
        names = [name for name in (value.list if isinstance(value, ChoiceSweep) else [value]) if name is not None]
        default, *others = [
            OmegaConf.to_container(compose(command, [*searched, *chosen], Path())[0].dataset.source)
            for chosen in ([], *([f"experiment={name}"] for name in names))
        ]
    except (HydraException, OmegaConfBaseException):
        return False  # composing the run says why
    return any(source != default for source in others)
