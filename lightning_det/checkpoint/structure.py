"""Checks the structure of a checkpoint once, so that the rest of the package can rely on it."""

from collections.abc import Callable
from typing import Any

from lightning_det.annotations.labels import LabelMap, check_names
from lightning_det.checkpoint.outline import StoredDict, StoredTensor
from lightning_det.checkpoint.plain import DEPTH, SCALARS, check_keys_only, check_plain, check_references

CLASSES = 100_000
"""Maximum number of classes of a detector. The largest datasets have some 20,000."""

VALUES = 1_000_000
"""Maximum number of values in a checkpoint, besides its tensors."""


def is_own(content: Any) -> bool:
    """Whether the content of a file is a checkpoint of this package."""
    saved = content.get("hyper_parameters") if isinstance(content, dict) else None
    return isinstance(saved, dict) and {"labels", "settings"} <= saved.keys() and "state_dict" in content


def check_own(content: Any) -> None:
    """Checks the outline of a checkpoint of this package.

    Raises:
        ValueError: a part was not written by a training; the message names it.
    """
    check_weights(content["state_dict"], "state_dict")
    saved = content["hyper_parameters"]
    check_labels(saved["labels"])
    check_settings(saved["settings"])
    rest = {name: part for name, part in content.items() if name not in ("state_dict", "hyper_parameters")}
    _check_state(rest, "checkpoint", [VALUES])
    for name, fits in TRAINING.items():
        if name in content and not fits(content[name]):
            raise ValueError(f"{name}: not as a training writes it")


def check_settings(settings: Any) -> None:
    """Refuses settings that are not plain data, or that call something.

    Raises:
        ValueError: the settings are refused; the message names the key.
    """
    if type(settings) is not dict:
        raise ValueError("settings: not a dictionary")
    check_plain(settings)
    check_keys_only(settings)
    check_references(settings, complete=True)
    for kind, names in ((dict, ("optimizer", "schedule", "callbacks")), (str, ("proposals", "weights", "resume"))):
        for name in names:
            if not isinstance(settings.get(name), kind | None):
                raise ValueError(f"settings.{name}: a {type(settings[name]).__name__}")


def check_weights(weights: Any, name: str) -> None:
    """Refuses weights that are not a dictionary of tensors by name.

    Raises:
        ValueError: the value is something else; the message says what.
    """
    if not isinstance(weights, dict):
        raise ValueError(f"{name}: a {type(weights).__name__}, not a dictionary of tensors")
    if any(type(key) is not str for key in weights):
        raise ValueError(f"{name}: names that are not texts")
    wrong = next((key for key, value in weights.items() if not isinstance(value, StoredTensor)), None)
    if wrong is not None:
        raise ValueError(f"{name}: {wrong[:100]!r} is a {type(weights[wrong]).__name__}, not a tensor")
    _check_attributes(weights, name)


def check_labels(labels: Any) -> LabelMap:
    """Reads the classes of a checkpoint.

    Raises:
        ValueError: their names are not a list of different, printable texts, or their ids are not integers.
    """
    names, ids = (labels.get(k) for k in ("names", "source_ids")) if isinstance(labels, dict) else (None, None)
    if type(names) is not list or type(ids) is not list:
        raise ValueError("labels: not lists of names and ids")
    if len(names) > CLASSES:
        raise ValueError(f"labels: {len(names)} classes, more than {CLASSES}")
    if not all(type(n) is str for n in names):
        raise ValueError("labels: class names that are not texts")
    if not all(type(i) is int and abs(i) < 2**63 for i in ids):
        raise ValueError("labels: ids that are not integers")
    try:
        check_names(names)
        return LabelMap.from_dict(labels)
    except ValueError as error:
        raise ValueError(f"labels: {error}") from error


def _check_state(node: Any, key: str, left: list[int], depth: int = DEPTH) -> None:
    """Refuses a state of a training that is not plain data and tensors, or is too large.

    Args:
        node: a node of the state.
        key: key of the node, for the message.
        left: how many more values are allowed, shared by the whole walk.
        depth: how many more levels are allowed.
    """
    left[0] -= 1
    if left[0] < 0 or depth == 0:
        raise ValueError(f"{key[:100]}: larger, or nested deeper, than any training writes")
    if isinstance(node, dict):
        for name, value in node.items():
            if type(name) not in (str, int):
                raise ValueError(f"{key[:100]}: a key that is neither a text nor an integer")
            _check_state(value, f"{key}.{name}", left, depth - 1)
        _check_attributes(node, key)
    elif type(node) in (list, tuple):
        for number, value in enumerate(node):
            _check_state(value, f"{key}.{number}", left, depth - 1)
    elif type(node) not in (*SCALARS, StoredTensor):
        raise ValueError(f"{key[:100]}: a {type(node).__name__}, neither plain data nor a tensor")


def _check_attributes(node: dict[Any, Any], key: str) -> None:
    """Refuses attributes of a dictionary other than those of ``Module.state_dict``. They could hide its methods."""
    given = node.attributes if isinstance(node, StoredDict) else None
    if given is None:
        return
    metadata = given.get("_metadata") if isinstance(given, dict) and given.keys() <= {"_metadata"} else None
    if not isinstance(metadata, dict) or not all(_is_plain_row(row) for row in metadata.values()):
        raise ValueError(f"{key[:100]}: a dictionary with attributes")


def _is_plain_row(row: Any) -> bool:
    """Whether a value is a dictionary of texts and numbers."""
    return isinstance(row, dict) and all(type(value) in SCALARS for value in row.values())


def _is_count(value: Any) -> bool:
    """Whether a value is an integer that counts something."""
    return type(value) is int and 0 <= value < 2**53


def _is_loops(loops: Any) -> bool:
    """Whether the state of Lightning's loops has the entries that a resumed training needs."""
    fit = loops.get("fit_loop") if isinstance(loops, dict) else None
    if not isinstance(fit, dict) or not all(isinstance(loop, dict) for loop in loops.values()):
        return False
    progress = fit.get("epoch_progress")
    current = progress.get("current") if isinstance(progress, dict) else None
    return isinstance(current, dict) and _is_count(current.get("processed"))


def _is_optimizer(state: Any) -> bool:
    """Whether a value is the state of an optimizer."""
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        return False
    groups = state.get("param_groups")
    if type(groups) is not list or not all(isinstance(group, dict) for group in groups):
        return False
    numbers = [group.get("params") for group in groups]
    if not all(type(n) is list and all(_is_count(i) for i in n) for n in numbers):
        return False
    return all(isinstance(row, dict) for row in state["state"].values())


TRAINING: dict[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "global_step": _is_count,
    "loops": _is_loops,
    "callbacks": lambda states: isinstance(states, dict) and all(type(name) is str for name in states),
    "optimizer_states": lambda states: type(states) is list and all(map(_is_optimizer, states)),
    "lr_schedulers": lambda states: type(states) is list and all(isinstance(s, dict) for s in states),
    "pytorch-lightning_version": lambda version: type(version) is str,
    "averaging_state": lambda state: isinstance(state, dict) and all(type(n) is str for n in state),
}
"""Checks of entries that Lightning writes for resuming, if the package or Lightning relies on them."""
