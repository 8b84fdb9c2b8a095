"""Any convolutional network of timm as backbone (``pip install 'lightning-det[timm]'``)."""

from typing import Any

from torch import Tensor, nn

from lightning_det.backbones.contract import IMAGENET, Backbone, Form, Pixels
from lightning_det.backbones.norms import Norm, has_batch_norm, set_norm
from lightning_det.backbones.pretrained import explain_failed_timm_download
from lightning_det.backbones.weight_files import GROUP_NORM, is_file, load_file

STRIDES = (4, 8, 16, 32)

DEFAULT = "DEFAULT"
"""The weights that timm takes itself, or those of the tag in a network's name."""


class _TimmBackbone(Backbone):
    """A network of timm that returns its feature maps."""

    def __init__(self, network: nn.Module, channels: list[int], strides: list[int], pixels: Pixels):
        super().__init__()
        self.network = network
        self.channels = channels
        self.strides = strides
        self.pixels = pixels

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        return list(self.network(images))


def timm_backbone(name: str, form: Form = "pyramid", weights: str | None = None, norm: Norm | None = None) -> Backbone:
    """Feature maps of a timm network.

    Args:
        name: timm's name, with or without weight tag.
        form: ``pyramid`` returns the maps of strides 4 to 32 that the network has, ``c4`` that of stride 16. There
            is no RoI stage: timm's networks differ too much in what follows a map.
        weights: ``DEFAULT``, a tag of timm's such as ``in1k``, or timm's name with a tag, downloaded on first use; or a
            file, see `load_file`. None starts from scratch.
        norm: see `set_norm`; None leaves the network's layers as they are.

    Raises:
        ImportError: timm is not installed.
        ValueError: the network has no such maps or weights, or a norm that does not suit the network or the weights.
    """
    if weights is None or is_file(weights):
        network = features(name, form)
        if weights is not None:
            load_file(weights, norm, network.state_dict(keep_vars=True))
        return as_backbone(network, name, norm)
    if norm == "group":
        raise ValueError(GROUP_NORM)
    tagged = _tagged(name, weights)
    with explain_failed_timm_download(tagged, weights):
        network = features(tagged, form, pretrained=True)
    return as_backbone(network, tagged, norm)


def features(name: str, form: Form, pretrained: bool = False) -> Any:
    """A network of timm that returns a list of maps, and tells their channels and strides in ``feature_info``.

    Args:
        name: see `timm_backbone`.
        form: see `timm_backbone`.
        pretrained: whether to download and load the weights of the name.

    Raises:
        ValueError: the network has no such maps.
    """
    timm = _timm()
    wanted = STRIDES if form == "pyramid" else (16,)
    # Any: create_model declares nn.Module, which has no feature_info.
    network: Any = timm.create_model(name, features_only=True)
    strides = network.feature_info.reduction()
    index = [i for i, stride in enumerate(strides) if stride in wanted]
    if not index:
        raise ValueError(f"backbone.name={name} has maps of strides {strides}, none of {wanted}")
    if len({strides[i] for i in index}) < len(index):
        raise ValueError(
            f"backbone.name={name} has several maps of the same stride, {strides}, as transformers do; take a "
            "convolutional network"
        )
    return timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=index)


def as_backbone(network: Any, name: str, norm: Norm | None) -> Backbone:
    """A network of `features` as a backbone.

    Args:
        network: has its weights; changed in place.
        name: timm's name; that of the weights, if they have one.
        norm: see `timm_backbone`.

    Raises:
        ValueError: the network has no BatchNorm that ``norm`` could replace.
    """
    if norm is not None and not has_batch_norm(network):
        raise ValueError(f"backbone.norm for {name} must be null: it has no BatchNorm, got {norm}")
    channels, strides = network.feature_info.channels(), network.feature_info.reduction()
    source = _timm().get_pretrained_cfg(name)
    pixels = IMAGENET if source is None else Pixels(tuple(source.mean), tuple(source.std))
    return _TimmBackbone(set_norm(network, norm) if norm else network, channels, strides, pixels)


def _tagged(name: str, weights: str) -> str:
    """The name of a network with the tag of its weights.

    Raises:
        ValueError: timm has no such weights of the network.
    """
    if weights == DEFAULT:
        return name
    base = name.partition(".")[0]
    known = _timm().list_pretrained(f"{base}.*")
    tagged = weights if weights in known else f"{base}.{weights}"
    if tagged not in known:
        tags = [other.partition(".")[2] for other in known]
        raise ValueError(f"backbone.weights: {base} has {', '.join([*tags, DEFAULT])}, a file or null, got {weights!r}")
    return tagged


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError("this backbone needs timm: pip install 'lightning-det[timm]'") from error
    return timm
