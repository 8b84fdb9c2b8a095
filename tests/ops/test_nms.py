"""Batched suppression."""

import torch
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_det.ops.nms import _suppress, best_after_nms, nms_mask


def make(count=3, boxes=200, seed=0):
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, boxes, 2, generator=rng) * 100
    box = torch.cat([corner, corner + 5 + torch.rand(count, boxes, 2, generator=rng) * 60], dim=-1)
    score = torch.rand(count, boxes, generator=rng)
    group = torch.randint(0, 4, (count, boxes), generator=rng)
    usable = torch.rand(count, boxes, generator=rng) > 0.2
    return box, score, group, usable


def test_mask_equals_torchvision_per_image():
    box, score, group, usable = make()
    keep = nms_mask(box, score, group, usable, 0.5)
    for i in range(3):
        chosen = usable[i].nonzero().squeeze(1)
        survivors = torchvision.ops.batched_nms(box[i][chosen], score[i][chosen], group[i][chosen], 0.5)
        expected = torch.zeros(200, dtype=torch.bool)
        expected[chosen[survivors]] = True
        assert torch.equal(keep[i], expected)
        assert 10 < keep[i].sum() < usable[i].sum()


def test_unusable_boxes_do_not_suppress():
    box = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]]])
    score = torch.tensor([[0.9, 0.5]])
    group = torch.zeros(1, 2, dtype=torch.int64)
    keep = nms_mask(box, score, group, torch.tensor([[False, True]]), 0.5)
    assert keep.tolist() == [[False, True]]


def test_images_do_not_touch_each_other():
    box, score, group, usable = make()
    together = nms_mask(box, score, group, usable, 0.3)
    alone = torch.cat([nms_mask(*(t[i : i + 1] for t in (box, score, group, usable)), 0.3) for i in range(3)])
    assert torch.equal(together, alone)


def test_offset_variant_for_gpus_equals_groups(monkeypatch):
    box, score, group, _ = make(1)
    expected = set(_suppress(box[0], score[0], group[0], 0.5).tolist())

    class Elsewhere:
        type = "cuda"

    # The branch of other devices, run on the CPU.
    monkeypatch.setattr(torch.Tensor, "device", property(lambda self: Elsewhere))
    found = set(_suppress(box[0], score[0], group[0], 0.5).tolist())
    monkeypatch.undo()
    assert found == expected


def test_best_come_first_and_padding_last():
    box, score, group, usable = make(boxes=30)
    usable[0, 3:] = False
    index, valid = best_after_nms(box, score, group, usable, 0.5, 20)
    assert index.shape == valid.shape == (3, 20)
    assert valid[0].sum() <= 3
    for i in range(3):
        kept = score[i].gather(0, index[i])[valid[i]]
        assert torch.equal(kept, kept.sort(descending=True).values)
        assert not valid[i][valid[i].sum() :].any()


def test_nothing_usable():
    box, score, group, usable = make()
    index, valid = best_after_nms(box, score, group, torch.zeros_like(usable), 0.5, 10)
    assert index.shape == (3, 10)
    assert not valid.any()


def test_operator_has_a_static_shape():
    with FakeTensorMode():
        keep = nms_mask(
            torch.empty(2, 7, 4),
            torch.empty(2, 7),
            torch.empty(2, 7, dtype=torch.int64),
            torch.empty(2, 7, dtype=torch.bool),
            0.5,
        )
    assert keep.shape == (2, 7)
    assert keep.dtype == torch.bool


def test_overlaps_at_the_threshold_do_not_depend_on_the_number_of_a_group():
    """An offset per group, as ``batched_nms`` adds it to up to 1,000 boxes, would cost digits that decide here."""
    low, high = torch.tensor([100.0, 100, 108, 108]), torch.tensor([100.0, 100, 108, 104.001])  # an IoU of 0.500125
    far = torch.tensor([2000.0, 2000, 2010, 2010])
    box, score = torch.stack([low, high, far])[None], torch.tensor([[0.9, 0.8, 0.7]])
    for group in (0, 7, 1202, 100_000):
        numbers = torch.tensor([[group, group, 0]])
        assert nms_mask(box, score, numbers, torch.ones(1, 3, dtype=torch.bool), 0.5).tolist() == [[True, False, True]]
