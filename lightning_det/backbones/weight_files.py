"""Weights of a backbone from a file: which tensors fit, and in words which layers were loaded and which not."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_det.backbones.norms import Norm
from lightning_det.checkpoint import read_tensors

log = logging.getLogger("lightning_det")

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
"""Of files of weights. Names of weights may have dots too."""

GROUP_NORM = "backbone.norm=group cannot use the weights of a network trained with BatchNorm"

COUNTER = "num_batches_tracked"
"""A BatchNorm's number of steps, which some norms and files lack and nothing depends on."""

FEW = 0.1
"""Share of a network's tensors below which equal names are chance."""

SHOWN = 3
"""Most names in a message."""


def is_file(weights: str) -> bool:
    """Whether ``backbone.weights`` is a file or a run folder, there or not, rather than the name of weights."""
    path = Path(weights)
    return path.suffix in SUFFIXES or len(path.parts) > 1 or path.exists()


def load_file(weights: str, norm: Norm | None, *namings: Mapping[str, Tensor]) -> None:
    """Loads a file into a network, and logs which layers it has set.

    Args:
        weights: a state_dict (.pth, .safetensors), a checkpoint of ours or a run folder.
        norm: normalisation that the network's BatchNorms will be replaced by, see `set_norm`.
        *namings: see `load_tensors`.

    Raises:
        UserError: the file cannot be read, or holds more than tensors and plain data.
        ValueError: it is not there, or is of another network.
    """
    if not Path(weights).exists():
        raise ValueError(f"backbone.weights={weights}: no such file")
    load_tensors(f"backbone.weights={weights}", read_tensors(weights), norm, *namings)


def load_own(network: nn.Module, weights: str | None, norm: Norm | None) -> None:
    """Loads a file into a network of this package, which has no published weights.

    Args:
        network: all layers.
        weights: a file, see `load_file`; None leaves the network as it is.
        norm: see `load_file`.

    Raises:
        ValueError: the file is of another network, or is none.
    """
    if weights is None:
        return
    if not is_file(weights):
        raise ValueError(
            f"backbone.weights must be a file or null, for a network without published weights, got {weights!r}"
        )
    load_file(weights, norm, network.state_dict(keep_vars=True))


def load_tensors(
    setting: str, tensors: Mapping[str, Tensor], norm: Norm | None, *namings: Mapping[str, Tensor]
) -> None:
    """Copies tensors into a network, and logs which layers they have set.

    Tensors are found by name; all names may have a prefix, such as ``detector.backbone.``. A dot and an underscore are
    the same, because timm's feature extractors join the names of stages.

    Args:
        setting: the user's, for messages.
        tensors: of the file, by name.
        norm: see `load_file`.
        *namings: tensors of the network by name, perhaps several names of the same tensors. Those with most names in
            the file count.

    Raises:
        ValueError: no tensor fits, one has another shape or kind or holds NaN, or the norm does not suit them.
    """
    naming, theirs = max((_matches(tensors, naming) for naming in namings), key=lambda match: len(match[1]))
    if len(theirs) < FEW * len(naming):
        raise ValueError(
            f"{setting}: {len(theirs) or 'none'} of its {len(tensors)} tensors ({_some(list(tensors))}) fit this "
            f"backbone's ({_some(list(naming))}); it is of another network"
        )
    found = {name: tensors[other] for name, other in theirs.items()}
    for name, tensor in found.items():
        _check(setting, theirs[name], tensor, naming[name])
    missing = [name for name in naming if name not in found and not name.endswith(COUNTER)]
    statistics = [name for name in found if name.endswith("running_mean")]
    if norm == "group" and statistics:
        raise ValueError(GROUP_NORM)
    if norm == "group":
        missing = [name for name in missing if not name.endswith(("running_mean", "running_var"))]
    if norm == "frozen" and (lost := _layers([n for n in missing if n.endswith("running_mean")])):
        raise ValueError(
            f"{setting}: backbone.norm=frozen keeps statistics, which it lacks for {len(lost)} layers ({_some(lost)}); "
            "set backbone.norm to batch, sync or group"
        )
    with torch.no_grad():
        for name, tensor in found.items():
            naming[name].copy_(tensor)
    used = set(theirs.values())
    _report(setting, _layers(naming), _layers(missing), _layers([n for n in tensors if n not in used]))


def used_names(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's own names of those of its tensors that are in use.

    Args:
        network: all layers.
        tensors: the tensors in use, the same objects, by other names.
    """
    used = {id(tensor) for tensor in tensors.values()}
    return {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in used}


def _matches(
    tensors: Mapping[str, Tensor], naming: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """The naming, and the file's name of each of its tensors, with the prefix that most names have."""
    mine = {_joined(name): name for name in naming}
    prefixes: dict[str, dict[str, str]] = {}
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            own = mine.get(_joined(".".join(parts[start:])))
            if own is not None:
                prefixes.setdefault(".".join(parts[:start]), {})[own] = name
    return naming, max(prefixes.values(), key=len, default={})


def _joined(name: str) -> str:
    return name.replace(".", "_")


def _check(setting: str, name: str, tensor: Tensor, mine: Tensor) -> None:
    """Refuses a tensor that cannot be that of the network.

    Raises:
        ValueError: says why.
    """
    if tensor.shape != mine.shape:
        raise ValueError(
            f"{setting}: {name} has the shape {tuple(tensor.shape)}, and this backbone's {tuple(mine.shape)}; it is of "
            "another network"
        )
    if tensor.is_floating_point() != mine.is_floating_point():
        raise ValueError(f"{setting}: {name} holds {tensor.dtype}, not {mine.dtype}")
    if not tensor.isfinite().all():
        raise ValueError(f"{setting}: {name} holds NaN or infinite values; take other weights")


def _report(setting: str, layers: Sequence[str], fresh: Sequence[str], unused: Sequence[str]) -> None:
    words = f"all {len(layers)} layers loaded"
    if fresh:
        words = f"{len(layers) - len(fresh)} of {len(layers)} layers loaded; {len(fresh)} start fresh ({_some(fresh)})"
    if unused:
        words += f"; not used from the file: {len(unused)} ({_some(unused)})"
    log.log(logging.WARNING if fresh else logging.INFO, "%s: %s", setting, words)


def _layers(names: Mapping[str, Tensor] | Sequence[str]) -> list[str]:
    """The layers of tensors, once each, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:SHOWN], *["..."] * (len(names) > SHOWN)])
