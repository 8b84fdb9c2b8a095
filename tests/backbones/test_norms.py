"""Private names of torch that `set_norm` and `recompute` use."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_det.backbones.norms import set_norm


def test_all_batch_norms_have_the_base_class():
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert all(issubclass(kind, _BatchNorm) for kind in kinds)
    assert not any(issubclass(kind, _BatchNorm) for kind in (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d))


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_keeps_a_norm_from_being_replaced(register):
    norm = nn.BatchNorm2d(8)
    handle = getattr(norm, register)(lambda *_: None)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), norm)
    with pytest.raises(ValueError, match="does more than normalise"):
        set_norm(network, "group")
    handle.remove()
    assert isinstance(set_norm(network, "group")[1], nn.GroupNorm)


def test_a_norm_of_two_names_is_replaced_under_both():
    norm = nn.BatchNorm2d(8)
    network = nn.ModuleDict({"first": norm, "second": nn.Sequential(norm)})
    set_norm(network, "frozen")
    assert network["first"] is network["second"][0]
    assert not isinstance(network["first"], nn.BatchNorm2d)
    assert torch.equal(network["first"](torch.ones(1, 8, 1, 1)), nn.BatchNorm2d(8).eval()(torch.ones(1, 8, 1, 1)))


class Activated(nn.BatchNorm2d):
    """A norm that applies a layer, like timm's ``BatchNormAct2d``."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Doubling(Activated):
    """Does more than that."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("mode", ["frozen", "sync", "group"])
def test_norms_without_memory_are_replaced_too(mode):
    """A checkpoint's detector is first made on torch's device ``meta``."""
    with torch.device("meta"):
        network, other = nn.Sequential(Activated(8)), nn.Sequential(Doubling(8))
        set_norm(network, mode)
        with pytest.raises(ValueError, match="does more than normalise"):
            set_norm(other, mode)
    assert network[0].weight.is_meta
    usual = set_norm(nn.Sequential(Activated(8)), mode)
    assert type(network[0]) is type(usual[0])
    assert network.state_dict().keys() == usual.state_dict().keys()
