"""Errors of the machine in words."""

import errno

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch._utils import ExceptionWrapper

from lightning_det.config.build import build
from lightning_det.data import images
from lightning_det.system.errors import explain_error

HUGE = 2**52


def of(function):
    """What a function raises."""
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing")


def reported(function):
    """What a function raises in a loader process, as its parent raises it."""
    try:
        function()
    except Exception:
        return of(ExceptionWrapper(where="in DataLoader worker process 0").reraise)
    raise AssertionError("nothing")


def no_room_in_torch():
    torch.empty(HUGE)


def no_room_in_numpy():
    np.empty(HUGE)


@pytest.mark.parametrize(
    "error",
    [
        of(no_room_in_torch),
        of(no_room_in_numpy),
        reported(no_room_in_torch),
        reported(no_room_in_numpy),
        of(lambda: bytearray(HUGE)),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of ..."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB)"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("unable to mmap 512 bytes from file </torch_1>: Cannot allocate memory (12)"),
        RuntimeError("unable to write to file </torch_12_3>: No space left on device (28)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_no_room_in_memory_says_what_needs_less(error):
    said = explain_error(error)
    for remedy in ("out of memory", "data.batch_size", "tiles", "data.num_workers", "dataset.resolution", "resume="):
        assert remedy in said
    assert "Traceback" not in said
    assert "\n" not in said


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("memory")])
def test_other_errors_are_no_lack_of_memory(error):
    assert explain_error(error) is None


def test_no_room_for_an_image_is_no_damage(tmp_path, monkeypatch):
    """``dataset.on_bad=skip`` would leave it out."""

    def refuse(*_):
        raise MemoryError

    images.Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "_to_rgb", refuse)
    with pytest.raises(MemoryError):
        images.decode(tmp_path / "x.png")


def test_no_room_for_a_part_is_no_wrong_setting():
    node = OmegaConf.create({"_target_": "builtins.list", "_args_": [{"_target_": "torch.empty", "_args_": [[HUGE]]}]})
    with pytest.raises(RuntimeError, match="allocate"):
        build(node, "detector")
