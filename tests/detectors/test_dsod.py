"""DSOD: the published networks, their parts, and what deep supervision does."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import make_batch
from omegaconf import OmegaConf
from support.makers import ssd
from torch import nn

from lightning_det.backbones import dsod, ssd_tiny
from lightning_det.backbones.dsod import DenseBlock
from lightning_det.config import read_option
from lightning_det.selection import HardNegativeSelector

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ssd_dsod.json").read_text())
SIZES, RATIOS = [30, 60, 111, 162, 213, 264, 315], [[2], [2, 3], [2, 3], [2, 3], [2], [2]]


def published(name, **changes):
    """A backbone as its yaml says."""
    settings = OmegaConf.to_container(read_option(f"backbone/{name}").backbone)
    assert settings.pop("_target_") == "lightning_det.backbones.dsod"
    return dsod(**settings | changes)


def dsod300(backbone, classes=20):
    settings = {"prior_sizes": SIZES, "prior_ratios": RATIOS, "l2_norm": True, "head_norm": "batch"}
    return ssd(backbone, classes, [], HardNegativeSelector(), **settings)


def counted(model):
    """Trainable parameters, and those with the running statistics of BatchNorm."""
    trainable = sum(p.numel() for p in model.parameters())
    running = sum(b.numel() for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var")))
    return trainable, trainable + running


@pytest.mark.parametrize(
    ("name", "classes", "case"),
    [
        ("dsod_64_192_48_1", 20, "DS/64-192-48-1 dense, 21 cls"),
        ("dsod_64_192_48_1", 80, "DS/64-192-48-1 dense, 81 cls"),
        ("dsod_64_64_16_1", 20, "DS/64-64-16-1 dense, 21 cls"),
    ],
)
def test_published_networks(name, classes, case):
    case = GOLDEN["dsod_network"][case]
    model = dsod300(published(name), classes)
    assert counted(model) == (case["trainable"], case["trainable_plus_running"])
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == case["bn_layers"]
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == case["bn_layers"]
    assert all(c.bias is None for c in convs)
    assert sum(c.weight.numel() for c in convs) == case["conv_weights_only"]
    if classes == 20:
        with torch.no_grad():
            maps = model.backbone.eval()(torch.zeros(1, 3, 300, 300))
        assert [list(m.shape[1:]) for m in maps] == case["sources"]
        assert len(model.priors((300, 300), maps)) == case["priors"]


@pytest.mark.parametrize(
    ("row", "name", "millions"),
    [
        (1, "dsod_32_12_16_05_pooled", 4.11),
        (2, "dsod_32_12_16_05", 4.19),
        (3, "dsod_32_12_16_1", 5.44),
        (4, "dsod_32_64_16_1", 6.08),
        (5, "dsod_64_64_16_1_plain", 6.32),
        (6, "dsod_64_192_48_1_no_stem", 17.98),
        (7, "dsod_64_192_48_1_plain", 18.23),
        (8, "dsod_64_192_48_1", 14.80),
        (9, "dsod_64_64_16_1", 5.87),
        (10, "dsod_64_12_16_1", 5.24),
    ],
)
def test_every_row_of_the_ablation_is_a_config(row, name, millions):
    """Parameters with running statistics, as the paper's model sizes count them."""
    _, count = counted(dsod300(published(name)))
    assert count / 1e6 == pytest.approx(millions, abs=0.02), row


def test_channels_through_the_network():
    case = GOLDEN["dsod_network"]["channel_trace"]
    network = published("dsod_64_192_48_1").eval()
    seen = {}

    def watch(name, module):
        module.register_forward_hook(lambda module, inputs, output: seen.update({name: output.shape[1:]}))

    names = {
        "block1": "block1_out",
        "transition1": "trans1",
        "block2": "block2_out",
        "transition2": "transwo_first(First)",
        "block3": "block3_out",
        "tail.0": "transwo",
        "tail.1": "block4_out",
        "tail.2": "transwo_last(code)",
    }
    for name in names:
        watch(name, network.get_submodule(name))
    with torch.no_grad():
        network(torch.zeros(1, 3, 300, 300))
    for name, key in names.items():
        assert seen[name][0] == case[key], name
    # Transitions without pooling keep the resolution.
    assert seen["block3"][1:] == seen["tail.2"][1:] == (19, 19)


@pytest.mark.parametrize("side", GOLDEN["caffe_pooling_sizes"]["n"])
def test_pooling_rounds_up(side):
    case = GOLDEN["caffe_pooling_sizes"]
    network = dsod(
        stem_width=4, bottleneck=4, growth=4, blocks=(1, 1, 1), transition_without_pooling=True, halves=(8,), plain=(8,)
    )
    expected = case["ceil"][case["n"].index(side)]
    assert network.pool(torch.zeros(1, 1, side, side)).shape[2] == expected
    assert network.steps[0].eval()(torch.zeros(1, 512, side, side)).shape[2] == expected


def test_half_of_a_prediction_map_is_reused():
    step = published("dsod_tiny").steps[0].eval()
    x = torch.randn(1, 96, 10, 10)
    with torch.no_grad():
        before = step(x)
        for p in step.learned.parameters():
            p.zero_()
        after = step(x)
    half = before.shape[1] // 2
    assert torch.equal(before[:, :half], after[:, :half])
    assert (after[:, half:] == 0).all()


def test_heads_have_norms_and_no_activation():
    model = dsod300(published("dsod_64_64_16_1"))
    for head in [*model.classify, *model.regress]:
        assert [type(m) for m in head] == [nn.Conv2d, nn.BatchNorm2d]
        assert head[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert [n.scale.unique().item() for n in model.norms] == [20.0] * 6


def test_weights_are_drawn_as_in_caffe():
    case = GOLDEN["caffe_xavier"]
    network = published("dsod_64_192_48_1")
    first = network.stem[0].weight
    assert first.abs().max().item() == pytest.approx(case["caffe_bound2"], rel=0.02)
    bottleneck = network.block1.layers[0][0][2].weight  # 128 channels to 192, 1 x 1
    assert bottleneck.shape[:2] == (192, 128)
    assert bottleneck.abs().max().item() == pytest.approx(case["caffe_bound"], rel=0.01)
    assert bottleneck.std().item() == pytest.approx(128**-0.5, rel=0.02)


def one_step(reused=None, **changes):
    """Gradients and buffers of dsod_tiny after a forward and a backward pass, always from the same weights."""
    torch.manual_seed(0)
    backbone = published("dsod_tiny", **changes)
    settings = {"l2_norm": True, "head_norm": "batch", "reused": reused}
    model = ssd(backbone, 6, [8, 64], HardNegativeSelector(), **settings)
    sum(model.losses(make_batch(2, 96, 128)).values()).backward()
    return {n: p.grad for n, p in model.named_parameters()}, dict(model.named_buffers())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stem": "densenet", "prediction": "plain"},
        {"norm": "group"},
        {"norm": "sync"},
        {"reused": 0.5, "shortcuts": 8},
    ],
)
def test_checkpointed_networks_change_nothing(changes):
    """Neither gradients nor running statistics, which a second forward pass must not move again."""
    gradients, buffers = zip(*(one_step(checkpointed=c, **changes) for c in (False, True)), strict=True)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert buffers[0].keys() == buffers[1].keys()
    for name, buffer in buffers[0].items():
        torch.testing.assert_close(buffers[1][name], buffer, atol=0, rtol=0, msg=name)
    if changes.get("norm") != "group":
        assert buffers[1]["backbone.block1.layers.0.0.0.num_batches_tracked"] == 1


@pytest.mark.slow
def test_checkpointed_networks_compile():
    torch._dynamo.reset()
    network = published("dsod_tiny", checkpointed=True, blocks=(1, 2, 1, 1), halves=(48,), plain=())
    compiled, images = copy.deepcopy(network), torch.randn(2, 3, 64, 64)
    compiled.compile(fullgraph=True, backend="aot_eager")  # a graph break is an error
    for one in (network, compiled):
        sum(m.sum() for m in one(images)).backward()
    assert all(p.grad is not None for p in compiled.parameters())
    for (name, buffer), other in zip(network.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, msg=name)


@pytest.mark.slow
def test_checkpointed_networks_keep_less():
    """Of what autograd holds after the forward pass, each storage once."""
    kept = []
    for checkpointed in (False, True):
        network = published("dsod_64_192_48_1", checkpointed=checkpointed)
        found = {}

        def pack(tensor, found=found):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            maps = network(torch.randn(2, 3, 128, 128))
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        kept.append(sum(size for place, size in found.items() if place not in weights))
        del maps
    assert kept[1] < 0.3 * kept[0]


def test_tiny_networks_are_of_equal_size():
    sizes = []
    for backbone, settings in (
        (published("dsod_tiny"), {"l2_norm": True, "head_norm": "batch"}),
        (ssd_tiny(), {}),
    ):
        model = ssd(backbone, 6, [8, 128], HardNegativeSelector(), **settings)
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert 0.9 < sizes[0] / sizes[1] < 1.1


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "x"},
        {"prediction": "x"},
        {"blocks": (6, 8)},
        {"shortcuts": -1},
        {"prediction": "plain", "plain": (8,)},
    ],
)
def test_impossible_networks_are_refused(changes):
    with pytest.raises(ValueError, match=r"stem is|three or four dense blocks|as many channels"):
        dsod(**changes)


def through_the_newest_layer(self, x):
    """`DenseBlock.forward` with the same values, but the gradient goes from each layer to the one before it alone."""
    for layer in self.layers:
        new = layer(x)
        x = torch.cat([x.detach(), new], dim=1)
    return x


def stem_gradient(seed):
    """Norm of the stem's gradient at random weights, from the classification of the coarsest map; and the logits."""
    torch.manual_seed(seed)
    model = ssd(published("dsod_tiny"), 6, [8, 64], HardNegativeSelector(), l2_norm=True, head_norm="batch")
    _, logits, _ = model.predict(torch.randint(0, 256, (2, 3, 96, 128)), torch.tensor([[96, 128]] * 2))
    coarsest = logits[:, -2 * 2 * model.priors.per_cell[-1] :].flatten(0, 1)
    F.cross_entropy(coarsest, torch.randint(0, 7, coarsest.shape[:1])).backward()
    return torch.cat([p.grad.flatten() for p in model.backbone.stem.parameters()]).norm().item(), logits.detach()


@pytest.mark.parametrize("seed", range(6))
def test_deep_supervision_reaches_the_stem_through_dense_connections(seed, monkeypatch):
    """Without them the coarsest map's gradient passes fifteen layers and comes to less than a hundredth.

    Weights, activations and loss are the same; only what goes back through the concatenations is cut. Measured at
    these seeds: 144 to 162 times the gradient with them. It says what a random network can learn from, not how well.
    """
    dense, logits = stem_gradient(seed)
    monkeypatch.setattr(DenseBlock, "forward", through_the_newest_layer)
    chain, same = stem_gradient(seed)
    assert torch.equal(logits, same)
    assert chain > 0
    assert dense > 50 * chain
