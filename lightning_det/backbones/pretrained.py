"""Weights that are downloaded on first use, and messages for downloads that fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn

from lightning_det.system.errors import UserError


def named_weights(name: str, weights: str) -> nn.Module:
    """A classification network of torchvision with its published weights.

    Args:
        name: the network.
        weights: name of a value of its weights enum.

    Raises:
        ValueError: it has no such weights.
        UserError: they cannot be downloaded.
    """
    enum = torchvision.models.get_model_weights(name)
    if weights not in enum.__members__:
        raise ValueError(f"backbone.weights: {name} has {', '.join(enum.__members__)}, a file or null, got {weights!r}")
    with explain_failed_download(f"backbone.weights={weights}", enum[weights].url):
        return torchvision.models.get_model(name, weights=weights)


@contextmanager
def explain_failed_download(setting: str, url: str) -> Iterator[None]:
    """Context in which `torch.hub` downloads and reads weights; a failure says which file to put where.

    Args:
        setting: of the user, such as ``backbone.weights=DEFAULT``.
        url: of the file.

    Raises:
        UserError: the download or the file is broken; the message names the file.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    try:
        yield
    except Exception as error:
        if file.exists():
            raise UserError(
                f"{setting}: {file} is damaged ({_first_line(error)}); delete it, or put there what {url} holds"
            ) from error
        raise UserError(
            f"{setting}: {url} cannot be downloaded ({_first_line(error)}); download it elsewhere and put it at {file} "
            "(the environment variable TORCH_HOME names another place)"
        ) from error


@contextmanager
def explain_failed_timm_download(name: str, weights: str) -> Iterator[None]:
    """The same for weights of timm, which are on the Hugging Face hub or at a URL of their own.

    Args:
        name: timm's name of the network, with or without a tag.
        weights: the user's ``backbone.weights``.

    Raises:
        UserError: the download or the file is broken; the message names the repository or the file.
        ValueError: timm has no weights of the network.
    """
    import timm

    source = timm.get_pretrained_cfg(name)
    repository, url = (None, None) if source is None else (source.hf_hub_id, source.url)
    setting = f"backbone.weights={weights}"
    if not repository and not url:
        raise ValueError(f"{setting}: timm has no weights of {name}; give a file or null")
    if not repository:
        with explain_failed_download(setting, str(url)):
            yield
        return
    try:
        yield
    except Exception as error:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        raise UserError(
            f"{setting}: the weights cannot be had from huggingface.co/{repository} ({_first_line(error)}); run "
            f"`hf download {repository}` where there is a network and copy the folder that it makes to {folder} "
            "(HF_HOME names another place), or give backbone.weights=FILE"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
