"""The kernels of RoIAlign on GPUs, interpreted on the CPU; tests/test_cuda.py runs them."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

PROGRAM = """
import torch
from lightning_det.ops.weighted_rows import add_to_rows, sum_rows
torch.manual_seed(0)
for channels, sums, taps, dtype in ((5, 19, 4, torch.float32), (300, 9, 16, torch.float64), (256, 8, 1, torch.float32)):
    rows, values = torch.randn(40, channels, dtype=dtype), torch.randn(sums, channels, dtype=dtype)
    index, weight = torch.randint(0, 40, (sums, taps)), torch.rand(sums, taps, dtype=dtype)
    torch.testing.assert_close(sum_rows(rows, index, weight), (rows[index] * weight[..., None]).sum(dim=1))
    gradient = torch.zeros_like(rows).index_put_((index,), values[:, None] * weight[..., None], accumulate=True)
    torch.testing.assert_close(add_to_rows(values, index, weight, 40), gradient)
    # The same values in another order in memory, as the pixels of a single view have it.
    assert torch.equal(sum_rows(rows.T.contiguous().T, index, weight), sum_rows(rows, index, weight))
    turned = add_to_rows(values.T.contiguous().T, index, weight, 40)
    torch.testing.assert_close(turned, gradient)
assert sum_rows(rows, index[:0], weight[:0]).shape == (0, 256)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="torch has no Triton on this platform")
def test_kernels_compute_sums_and_their_gradient():
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # read when the kernels are defined
    call = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
