"""Weights that are downloaded on first use, and what is said where that cannot be."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch

from lightning_det.system.errors import UserError


@contextmanager
def fetching(asked: str, url: str) -> Iterator[None]:
    """Turns the failure of `torch.hub` to download or read weights into words on which file to put where.

    Args:
        asked: what the user has set, such as ``backbone.weights=DEFAULT``.
        url: of the file.

    Raises:
        UserError: naming the file.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    try:
        yield
    except Exception as error:
        if file.exists():
            raise UserError(
                f"{asked}: {file} is damaged ({_first_line(error)}); delete it, or put there what {url} holds"
            ) from error
        raise UserError(
            f"{asked}: {url} cannot be downloaded ({_first_line(error)}); download it elsewhere and put it at {file} "
            "(the environment variable TORCH_HOME names another place)"
        ) from error


@contextmanager
def fetching_by_timm(name: str) -> Iterator[None]:
    """The same for weights of timm, which lie on the Hugging Face hub or at an address of their own.

    Args:
        name: timm's name of the network.

    Raises:
        UserError: naming the repository or the file.
        ValueError: there are no such weights.
    """
    import timm

    source = timm.get_pretrained_cfg(name)
    repository, url = getattr(source, "hf_hub_id", None), getattr(source, "url", None)
    asked = f"backbone.name={name} backbone.pretrained=true"
    if not repository and not url:
        raise ValueError(f"{asked}: timm has no weights of it; give backbone.pretrained=false, or a name with a tag")
    if not repository:
        with fetching(asked, url):
            yield
        return
    try:
        yield
    except Exception as error:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        raise UserError(
            f"{asked}: the weights cannot be had from huggingface.co/{repository} ({_first_line(error)}); run "
            f"`hf download {repository}` where there is a network and copy the folder that it makes to {folder} "
            "(HF_HOME names another place)"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
