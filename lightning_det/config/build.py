"""Builds the object that a node of the configuration describes."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_det.system.errors import ConfigError, out_of_memory
from lightning_det.system.refusals import name_keys

GIVEN = {
    "data": {"seed": ", from seed"},
    "detector": {"num_classes": ", from the classes of the dataset"},
    "module": {},
}
"""Nodes to which the program itself gives arguments; for some of these, the words say where they come from."""


def build(cfg: DictConfig | None, key: str, **arguments: Any) -> Any:
    """Builds the object that a node describes; None for an empty node.

    Args:
        cfg: the node.
        key: dotted name of the node, for messages.
        **arguments: further arguments, which are objects already.

    Raises:
        ConfigError: the constructor refuses its settings, or the node has an argument that the program gives.
    """
    if cfg is None:
        return None
    if key in GIVEN and (own := sorted(arguments.keys() & cfg.keys())):
        raise ConfigError(f"{key}.{own[0]} is set by the program itself{GIVEN[key].get(own[0], '')}; leave it out")
    try:
        # Make a partial first: instantiate() would convert dataclasses among the arguments into configurations.
        make = instantiate(cfg, _convert_="all", _partial_=True)
        return make if cfg.get("_partial_") else make(**arguments)
    except InstantiationException as error:
        if error.__cause__ is not None and out_of_memory(error.__cause__):
            raise error.__cause__ from None
        raise ConfigError(f"{key}: {error.__cause__ or error}") from error
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        words = name_keys(str(error)) if key == "trainer" else f"{key}: {error}"
        raise ConfigError(words) from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError) as error:  # settings that nothing has foreseen
        if out_of_memory(error):
            raise
        raise ConfigError(f"{key}: these settings do not work ({type(error).__name__}: {error})") from error
