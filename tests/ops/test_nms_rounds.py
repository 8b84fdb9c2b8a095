"""Suppression in rounds against torchvision's kernel, on more than 10,000 groups of boxes."""

from unittest import mock

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_det.ops import nms
from lightning_det.ops.nms import NMS, best_after_nms, read_unsettled
from lightning_det.ops.nms_rounds import ROUNDS, join_groups, largest_below, split_groups, suppress_in_rounds

GROUPS = 1000
"""Of an example; `settings` below makes at least 25 examples."""


def kernel(boxes, scores, usable, iou):
    """(S, N) bool by torchvision, a set at a time."""
    keep = torch.zeros_like(usable)
    for number in range(len(boxes)):
        chosen = usable[number].nonzero().squeeze(1)
        keep[number, chosen[torchvision.ops.nms(boxes[number, chosen], scores[number, chosen], iou)]] = True
    return keep


def corners(centre, side):
    return torch.cat([centre - side / 2, centre + side / 2], dim=-1)


def scattered(rng, count):
    return corners(
        torch.rand(GROUPS, count, 2, generator=rng) * 60, 5 + torch.rand(GROUPS, count, 2, generator=rng) * 40
    )


def clustered(rng, count):
    """Boxes around few objects, as trained networks propose them."""
    objects = torch.randint(0, 3, (GROUPS, count), generator=rng)
    centre = objects[..., None] * 25 + torch.randn(GROUPS, count, 2, generator=rng) * 4
    return corners(centre, 30 + torch.randn(GROUPS, count, 2, generator=rng).abs() * 6)


def duplicates(rng, count):
    boxes = scattered(rng, max(1, count // 4))
    return boxes.gather(1, torch.randint(0, boxes.shape[1], (GROUPS, count, 1), generator=rng).expand(-1, -1, 4))


def whole(rng, count):
    """Integer corners, so that many IoUs are equal to thresholds, and some boxes have no area."""
    low = torch.randint(0, 6, (GROUPS, count, 2), generator=rng)
    return torch.cat([low, low + torch.randint(0, 6, (GROUPS, count, 2), generator=rng)], dim=-1).float()


def degenerate(rng, count):
    """Some boxes are points, reversed, huge or not numbers."""
    boxes = scattered(rng, count)
    kind = torch.randint(0, 8, (GROUPS, count, 1), generator=rng)
    boxes = torch.where(kind == 0, boxes.flip(2), boxes)
    boxes = torch.where(kind == 1, boxes[..., :1].expand(-1, -1, 4), boxes)
    boxes = torch.where(kind == 2, boxes * 1e20, boxes)
    return torch.where(kind == 3, torch.nan, boxes)


KINDS = {f.__name__: f for f in (scattered, clustered, duplicates, whole, degenerate)}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 24),
    iou=st.sampled_from([0.0, 0.3, 1 / 3, 0.5, 0.6, 0.7, 0.9, 1.0]),
    levels=st.sampled_from([1, 3, 1000]),
)
def test_survivors_are_those_of_the_kernel(kind, seed, count, iou, levels):
    rng = torch.Generator().manual_seed(seed)
    boxes = KINDS[kind](rng, count)
    scores = torch.randint(0, levels, (GROUPS, count), generator=rng) / levels  # with few levels, many are equal
    usable = torch.rand(GROUPS, count, generator=rng) > 0.2
    keep, unsettled = suppress_in_rounds(boxes, scores, None, usable, iou, rounds=count + 1)
    assert torch.equal(keep, kernel(boxes, scores, usable, iou))
    assert not unsettled


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any))
def test_groups_given_by_number_and_by_length_are_the_same(seed, lengths):
    rng = torch.Generator().manual_seed(seed)
    boxes = clustered(rng, sum(lengths))[:20]
    scores, usable = (torch.rand(*boxes.shape[:2], generator=rng) for _ in range(2))
    groups = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).expand(20, -1)
    usable = usable > 0.2
    assert torch.equal(join_groups(split_groups(usable, lengths), lengths), usable)
    numbered, _ = suppress_in_rounds(boxes, scores, groups, usable, 0.5)
    parts = (split_groups(x, lengths) for x in (boxes, scores, usable))
    boxes_apart, scores_apart, usable_apart = parts
    apart, _ = suppress_in_rounds(boxes_apart, scores_apart, None, usable_apart, 0.5)
    assert torch.equal(join_groups(apart, lengths), numbered)
    expected = [kernel(*(x.split(lengths, 1)[n] for x in (boxes, scores, usable)), 0.5) for n in range(len(lengths))]
    assert torch.equal(numbered, torch.cat(expected, dim=1))


def chain(links):
    """Boxes in a row, each of which overlaps its neighbours alone by more than 0.5: every second one survives."""
    start = torch.arange(links) * 3.0
    boxes = torch.stack([start, torch.zeros(links), start + 10, torch.full((links,), 10.0)], dim=1)
    return boxes[None], torch.linspace(1, 0.5, links)[None], torch.ones(1, links, dtype=torch.bool)


@pytest.mark.parametrize("links", [2, ROUNDS - 1, ROUNDS, ROUNDS + 1, ROUNDS + 2, 3 * ROUNDS])
def test_chains_longer_than_the_rounds_are_noticed(links):
    boxes, scores, usable = chain(links)
    expected = kernel(boxes, scores, usable, 0.5)
    assert expected.sum() == (links + 1) // 2
    keep, unsettled = suppress_in_rounds(boxes, scores, None, usable, 0.5)
    assert bool(unsettled) == (links > ROUNDS)
    assert torch.equal(keep, expected) == (links <= ROUNDS + 1)
    assert torch.equal(suppress_in_rounds(boxes, scores, None, usable, 0.5, links)[0], expected)


def test_rounds_of_many_boxes_are_those_of_parts(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    boxes, scores = clustered(rng, 20)[:50], torch.rand(50, 20, generator=rng)
    usable = torch.ones(50, 20, dtype=torch.bool)
    expected = suppress_in_rounds(boxes, scores, None, usable, 0.6)
    monkeypatch.setattr("lightning_det.ops.nms_rounds.ROWS", 7)
    found = suppress_in_rounds(boxes, scores, None, usable, 0.6)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.7, 0.45, 1.0])
def test_thresholds_are_compared_in_double_precision(threshold):
    below = largest_below(threshold, torch.float32)
    above = torch.nextafter(torch.tensor(below), torch.tensor(2.0))
    assert below <= threshold < float(above)
    assert float(torch.tensor(below)) == below
    assert largest_below(threshold, torch.float64) == threshold


@pytest.fixture
def on_a_device():
    """As on a GPU: the kernel does not suit."""
    with mock.patch.object(nms, "_kernel_suits", return_value=False):
        yield


def arguments(links):
    boxes, scores, usable = chain(links)
    return boxes, scores, torch.zeros_like(scores, dtype=torch.int64), usable


@pytest.mark.parametrize("lengths", [None, [10, 30]])
def test_training_counts_what_inference_mends(on_a_device, lengths):
    boxes, scores, groups, usable = arguments(40)
    if lengths:
        groups[:, 10:] = 1
    network = nn.Sequential(NMS(0.5), nn.Identity())
    assert not network.state_dict()
    network.train()
    for _ in range(3):
        network[0](boxes, scores, groups, usable, 30, lengths)
    network[0](boxes[:, :5], scores[:, :5], groups[:, :5], usable[:, :5], 30)
    assert read_unsettled(network) == 3
    assert read_unsettled(network) == 0
    with mock.patch.object(nms, "_kernel_suits", return_value=True):
        expected = best_after_nms(boxes, scores, groups, usable, 0.5, 30)
    for found in (
        network.eval()[0](boxes, scores, groups, usable, 30, lengths),
        best_after_nms(boxes, scores, groups, usable, 0.5, 30),
    ):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert read_unsettled(network) == 0


def test_inference_uses_the_kernel_only_where_it_must(on_a_device, monkeypatch):
    boxes, scores, groups, usable = arguments(ROUNDS)
    calls = []
    monkeypatch.setattr(nms, "nms_mask", lambda *given: calls.append(given) or usable)
    best_after_nms(boxes, scores, groups, usable, 0.5, 10)
    assert not calls
    monkeypatch.setattr(nms, "MOST_PAIRS", ROUNDS**2 - 1)
    best_after_nms(boxes, scores, groups, usable, 0.5, 10)
    assert len(calls) == 1


def test_nothing_is_removed_at_one(on_a_device):
    boxes, scores, groups, usable = arguments(4)
    boxes = boxes[:, :1].expand(-1, 4, -1)
    assert NMS(1.0)(boxes, scores, groups, usable, 4)[1].all()
    assert NMS(0.99)(boxes, scores, groups, usable, 4)[1].sum() == 1


def test_no_boxes(on_a_device):
    found = NMS(0.5)(
        torch.zeros(2, 0, 4), *(torch.zeros(2, 0, dtype=t) for t in (torch.float, torch.int64, torch.bool)), 5
    )
    assert [x.shape for x in found] == [(2, 0), (2, 0)]
