"""Checks that the runs, checkpoints and images named on the command line exist, before anything is written."""

import glob
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_det.runs.layout import LAST, METRICS, OF_A_SWEEP
from lightning_det.runs.occupancy import find_files
from lightning_det.runs.resume import is_unstarted
from lightning_det.system.errors import ConfigError


def check_inputs(cfg: DictConfig, command: str) -> None:
    """Checks that the files which a command needs exist.

    Args:
        cfg: as composed.
        command: its name.

    Raises:
        ConfigError: a file is missing; naming the key.
    """
    for key, check in CHECKS[command].items() if command in CHECKS else ():
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        given = value if OmegaConf.is_list(value) else [value]
        if check is _source and not OmegaConf.is_missing(cfg, key):
            _check_sources(key, value, given)
        for one in given:
            if isinstance(one, str | Path):
                check(key, str(one))


def _resume(key: str, value: str) -> None:
    folder = Path(value)
    if not folder.is_dir():
        return _file(key, value, "checkpoint or run folder")
    if (folder / LAST).is_file() or is_unstarted(folder):
        return None
    if find_files(folder, OF_A_SWEEP):
        why = f"a sweep, which goes on with -m hydra.sweep.dir={value}"
    elif (folder / METRICS).is_file():
        why = f"its run has ended, and its last checkpoint is gone; weights={value} starts a new one from the best"
    else:
        why = f"no such checkpoint as {folder / LAST}, and no run that was begun"
    raise ConfigError(f"{key}={value}: {why}")


def _checkpoint(key: str, value: str) -> None:
    folder = Path(value)
    if not folder.is_dir():
        return _file(key, value, "checkpoint")
    if not any((folder / f"checkpoints/{name}.ckpt").is_file() for name in ("best", "last")):
        raise ConfigError(
            f"{key}={value}: no such checkpoint as {folder / 'checkpoints/best.ckpt'}, nor a last.ckpt; "
            "give a run folder that has one, or a file"
        )
    return None


def _weights(key: str, value: str) -> None:
    if (Path(value) / "config.json").is_file():
        return None  # a folder of transformers
    if Path(value).exists():
        return _checkpoint(key, value)
    from torchvision.models import get_weight  # slow to import, and only needed here

    try:
        get_weight(value)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{key}={value}: no such file, and no weights of torchvision{_near(value)}") from error
    return None


def _proposals(key: str, value: str) -> None:
    if value != "auto" and not Path(value).is_file():
        raise ConfigError(
            f"{key}={value}: No such file{_near(value)}; lightning-det mine makes one, and proposals=auto mines first"
        )


def _check_sources(key: str, value: object, given: Iterable[object]) -> None:
    """Refuses what names nothing; an empty text would be the working directory."""
    sources = list(given)
    if not sources or any(one in (None, "") or OmegaConf.is_config(one) for one in sources):
        raise ConfigError(
            f"{key}={'null' if value is None else value}: must be an image, a video, a folder, a pattern, or a list "
            "of these"
        )


def _source(key: str, value: str) -> None:
    from lightning_det.data.sources import is_pattern  # slow to import, and only needed here

    if "://" in value:
        raise ConfigError(f"{key}={value}: an address; download it first, and give the file")
    if not Path(value).exists() and not glob.glob(value, recursive=True):
        pattern = "no file matches this pattern" if is_pattern(value) else "no such image, folder or video"
        raise ConfigError(f"{key}={value}: {pattern}{_near(value)}")


def _thresholds(key: str, value: str) -> None:
    from lightning_det.evaluation.thresholds import THRESHOLDS  # slow to import, and only needed here

    if not Path(value).is_dir():
        return _file(key, value, "file of thresholds or run folder")
    if not (Path(value) / THRESHOLDS).is_file():
        raise ConfigError(f"{key}={value}: no {THRESHOLDS} in it; eval checkpoint=RUN writes one into its run folder")
    return None


def _coco(key: str, value: str) -> None:
    _file(key, value, "annotation file; true numbers the images")


def _file(key: str, value: str, kind: str) -> None:
    if not Path(value).is_file():
        raise ConfigError(f"{key}={value}: no such {kind}{_near(value)}")


def _near(value: str) -> str:
    """A hint at a file or folder of a similar name; empty if there is none."""
    path = Path(value)
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


CHECKS: dict[str, dict[str, Callable[[str, str], None]]] = {
    "train": {"resume": _resume, "weights": _weights, "proposals": _proposals},
    "mine": {"weights": _weights},
    "inspect": {"proposals": _proposals},
    "eval": {"checkpoint": _checkpoint},
    "predict": {"checkpoint": _checkpoint, "source": _source, "thresholds": _thresholds, "coco": _coco},
    "load": {"checkpoint": _checkpoint},
    "export": {},  # checks its packages first, and then the checkpoint
}
"""Checks by command and key, for commands that have a run folder."""
