"""What a computation would do on a GPU, without one: tensors that have a device and a shape, but no values."""

from collections import Counter

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OnGPU(TorchDispatchMode):
    """Counts operators, and apart from them those that take or make tensors on the host and on the device."""

    def __init__(self):
        super().__init__()
        self.names = Counter()
        self.mixed = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names[str(func)] += 1
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        if len({t.device.type for t in tensors}) > 1:
            self.mixed[str(func)] += 1
        return out


def move(network):
    """Replaces the tensors of a network by fake ones on a GPU."""
    for part in network.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    tensors[name] = torch.nn.Parameter(fake) if tensors is part._parameters else fake


def losses_on_gpu(make, make_batch):
    """Operators from a batch to the losses of a new detector.

    An operator whose shape or value the host would wait for raises an error here.
    """
    network = make()
    with FakeTensorMode():
        move(network)
        batch = make_batch().to("cuda")
        with OnGPU() as counted:
            losses = network.losses(batch)
    assert all(value.device.type == "cuda" and value.shape == () for value in losses.values())
    return counted
