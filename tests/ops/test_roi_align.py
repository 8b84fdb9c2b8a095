"""RoIAlign as an operator of its own is torchvision's, gradient included."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_det.ops.roi_align import pack, roi_align
from lightning_det.ops.roi_align_operator import align

coordinate = st.floats(-9, 30, width=32)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), coordinate, coordinate, coordinate, coordinate), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_values_and_gradient_equal_torchvision(rows, size, samples):
    # Corners in any order, outside the map or of no area: torchvision has an answer for each.
    rois = torch.tensor(rows)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 12, 17, generator=generator, dtype=torch.float32)
    mine, theirs = (maps.clone().requires_grad_() for _ in range(2))
    found = align(mine, rois, size, samples)
    expected = torchvision.ops.roi_align(theirs, rois, size, 1.0, samples, aligned=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    weights = torch.randn(expected.shape, generator=generator)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_gradient_has_the_memory_format_of_convolutions():
    maps = torch.randn(2, 8, 10, 10).to(memory_format=torch.channels_last).requires_grad_()
    align(maps, torch.tensor([[0.0, 1, 1, 8, 8]]), 7, 2).sum().backward()
    assert maps.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_roi_and_low_precision(dtype):
    maps = torch.randn(1, 4, 8, 8, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        none = align(maps, torch.zeros(0, 5, dtype=dtype), 3, 2)
        some = align(maps, torch.tensor([[0.0, 0, 0, 4, 4]], dtype=dtype), 3, 2)
    assert none.shape == (0, 4, 3, 3)
    (none.sum() + some.sum()).backward()
    assert maps.grad.dtype == dtype
    assert float(maps.grad.sum()) == pytest.approx(4 * 9, rel=0.02)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_operator_says_the_truth_to_compilers(channels_last):
    """Shapes, strides and gradient of the real operator are those that compilers assume."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = torch.randn(2, 8, 10, 10).to(memory_format=layout).requires_grad_()
    torch.library.opcheck(align, (maps, torch.tensor([[0.0, 1, 1, 8, 8], [1, 0, 2, 5, 5]]), 3, 2))


@pytest.mark.parametrize("sides", [(64, 64), (96, 64)])
def test_thin_rois_at_a_border_read_their_own_map(sides):
    """Every map has a value of its own. A RoI of a pyramid that is less than a cell wide is widened to one."""
    width, height = sides
    strides = (4, 8, 16)
    maps = [torch.full((1, 2, height // s, width // s), float(s)) for s in strides]
    rois = [(width - a, height - b, width, height) for a in (0.001, 0.5, 3.9, 30) for b in (0.001, 2, 30)]
    rois += [(width - 0.01, 0, width, 40), (0, height - 0.01, 40, height)]
    found = roi_align(pack(maps, strides), torch.tensor([rois]), 3)
    torch.testing.assert_close(found, torch.full_like(found, 4.0))
