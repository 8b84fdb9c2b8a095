"""Decoded images that a loader keeps: which, how many, and that its batches stay the same."""

from dataclasses import fields

import pytest
import torch
from support.sizes import make_store

from lightning_det.data import dataset, memory
from lightning_det.data.coco import Coco
from lightning_det.data.datamodule import ChipData
from lightning_det.data.images import decode
from lightning_det.data.memory import MOST, ImageMemory, decoded_bytes, decoders, room_for
from lightning_det.views import Planner, Pyramid, RandomFlip, Tiles
from lightning_det.views.distort import Distort

GB = 10**9


@pytest.fixture
def coco(coco_folder):
    return Coco(str(coco_folder)).read("train2017")[0]


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded so far."""
    names = []
    monkeypatch.setattr(dataset, "open_pixels", lambda path: names.append(path.name) or decode(path))
    return names


def images(*sides):
    return {number: torch.empty(3, side, side, dtype=torch.uint8, device="meta") for number, side in enumerate(sides)}


def test_the_first_images_that_fit_are_kept_for_good():
    found = images(20, 10, 30, 10)
    kept = ImageMemory(3 * (20**2 + 2 * 10**2))
    kept.keep(found, 3)
    assert set(kept.recall([0, 1, 2, 3])) == {0, 1, 3}
    kept.keep(images(1, 1, 1, 1, 1), 4)
    assert kept.recall([0])[0] is found[0]


def test_the_last_image_is_kept_until_others_are_asked_for():
    found = images(20, 20)
    kept = ImageMemory(0)
    kept.keep(found, 1)
    assert list(kept.recall([0, 1])) == [1]
    assert list(kept.recall([1])) == [1]
    assert not kept.recall([0])
    assert not kept.recall([1])


def tiles_of(store, megabytes):
    train, test = Planner(Pyramid([1.0]), Tiles(32), RandomFlip(), Distort()), Planner(Pyramid([1.0]), Tiles(32))
    return ChipData(store, store, train, test, 3, 2, num_workers=0, keep_megabytes=megabytes)


def test_keeping_images_changes_no_batch_and_saves_decoding(coco, decoded):
    loads = {}
    for megabytes in (0, 100):
        decoded.clear()
        data = tiles_of(coco, megabytes)
        loader = data.epoch_loader(0)
        loads[megabytes] = [list(loader), list(loader)], len(decoded)
    for epoch, again in zip(loads[0][0], loads[100][0], strict=True):
        for batch, same in zip(epoch, again, strict=True):
            for field in fields(batch):
                assert torch.equal(getattr(batch, field.name), getattr(same, field.name)), field.name
    assert loads[100][1] == len(coco)
    assert loads[0][1] > 2 * len(coco)


def test_tiles_of_an_image_in_several_batches_decode_it_once(coco, decoded):
    loader = tiles_of(coco, 0).inference_loader(coco)
    assert len(list(loader)) > 2 * len(coco)
    assert sorted(decoded) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_what_is_kept_depends_on_memory_and_is_shared_out(monkeypatch):
    store = make_store([(3000, 3000)] * 30, [[]] * 30)
    assert decoded_bytes(store) == 30 * 27_000_000
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * GB)
    assert room_for(store, None) == GB
    assert room_for(store, None, processes=4, loaders=2) == GB // 8
    assert room_for(store, None, processes=16) == 0  # hardly a seventeenth of the images would fit
    assert room_for(store, 10, processes=16) == 625_000  # but what is given is taken
    assert room_for(store, 0) == 0
    monkeypatch.setattr(memory, "available_memory", lambda: 1000 * GB)
    assert room_for(store, None) == MOST


def test_images_that_were_kept_make_room_again():
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    kept = ImageMemory(pixels.nbytes)
    kept.keep({0: pixels, 1: pixels}, last=1)
    assert set(kept.recall([0, 1])) == {0, 1}
    kept.clear()
    assert kept.recall([0, 1]) == {}
    kept.keep({2: pixels}, last=2)
    kept.recall([3])
    assert set(kept.recall([2])) == {2}  # kept for good


def test_no_more_processes_decode_than_memory_has_room_for(monkeypatch):
    store = make_store([(100, 50), (1000, 1000)], [[], []])
    for gigabytes, expected in ((1.8e-2, 1), (1.7e-2, 0), (9e-2, 5)):
        monkeypatch.setattr("lightning_det.data.memory.available_memory", lambda size=gigabytes: int(1e9 * size))
        assert decoders(store) == expected
    assert decoders(store, loaders=2) == 2
