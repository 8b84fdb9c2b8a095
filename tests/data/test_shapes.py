"""The generated dataset."""

import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lightning_det.annotations import DatasetError
from lightning_det.data.glyphs import CLASSES, DECOYS, draw_plate
from lightning_det.data.images import decode
from lightning_det.data.shapes import Shapes


def test_same_seed_same_image():
    shapes = Shapes("unused")
    first = shapes.image(np.random.default_rng(3))
    second = shapes.image(np.random.default_rng(3))
    other = shapes.image(np.random.default_rng(4))
    assert np.array_equal(first[0], second[0])
    assert first[1:] == second[1:]
    assert not np.array_equal(first[0], other[0])


@pytest.mark.slow
def test_boxes_fit_and_sizes_are_log_uniform():
    shapes = Shapes("unused")
    drawn = [shapes.image(np.random.default_rng(i)) for i in range(120)]
    boxes = np.array([b for _, _, rows in drawn for b in rows])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 256
    assert boxes[:, 3].max() <= 192
    octave = np.log2(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
    # Four octaves from 8 to 128; the largest plates lack room now and then.
    shares = np.histogram(octave, [2.9, 4, 5, 6, 7.1])[0] / len(boxes)
    assert shares.min() > 0.12
    assert np.bincount([c for _, labels, _ in drawn for c in labels], minlength=6).min() > 40


def test_plates_do_not_overlap():
    shapes = Shapes("unused", decoys=(0, 0))
    for i in range(20):
        _, _, boxes = shapes.image(np.random.default_rng(i))
        for k, a in enumerate(boxes):
            for b in boxes[:k]:
                assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_area_keeps_objects_to_a_window_that_moves():
    shapes = Shapes("unused", width=512, height=384, sizes=[8, 32], area=0.1)
    extents = []
    for number in range(30):
        boxes = np.array(shapes.image(np.random.default_rng(number))[2])
        extents.append([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)])
    extents = np.array(extents)
    sides = extents[:, 2:] - extents[:, :2]
    assert (sides <= [162, 122]).all()  # the square root of a tenth
    assert (sides > 60).any()
    assert np.ptp(extents[:, :2], axis=0).min() > 150
    assert Shapes("unused", area=0.5).folder != Shapes("unused").folder
    with pytest.raises(DatasetError, match="area"):
        Shapes("unused", area=0.0)


def test_apart_keeps_objects_to_one_half():
    shapes = Shapes("unused", apart=True)
    for i in range(20):
        _, _, boxes = shapes.image(np.random.default_rng(i))
        assert max(b[2] for b in boxes) <= 128 or min(b[0] for b in boxes) >= 128


@pytest.mark.parametrize("glyph", [*CLASSES, *DECOYS])
def test_plates_touch_their_box(glyph):
    for seed in range(6):
        colour, opacity = draw_plate(np.random.default_rng(seed), glyph, 40, 32)
        assert colour.shape == (32, 40, 3)
        assert opacity.shape == (32, 40)
        for edge in (opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1]):
            assert edge.max() > 0.3
        assert opacity[16, 20] == 1


def test_rendered_once_as_files(tmp_path):
    shapes = Shapes(str(tmp_path), train=5, val=3)
    store, problems = shapes.read("train")
    assert problems == []
    assert len(store) == 5
    assert store.label_map.names == CLASSES
    stamp = store.path(0).stat().st_mtime_ns
    again, _ = Shapes(str(tmp_path), train=5, val=3).read("train")
    assert again.path(0).stat().st_mtime_ns == stamp
    assert len(shapes.read("val")[0]) == 3
    pixels, _, boxes = shapes.image(np.random.default_rng((0, 0, 2)))
    assert np.abs(decode(store.path(2)).permute(1, 2, 0).numpy().astype(int) - pixels).mean() < 4
    assert sorted(map(tuple, store.record(2).boxes.tolist())) == sorted(map(tuple, boxes))
    # Other arguments, other folder; nothing half-written stays.
    assert Shapes(str(tmp_path), train=6, val=3).folder != shapes.folder
    assert sorted(p.name for p in shapes.folder.iterdir()) == ["annotations", "test", "train", "val"]


@pytest.mark.slow
def test_several_processes_render_what_one_does(tmp_path, monkeypatch):
    made = []
    for name, cores in {"one": 1, "two": 2}.items():
        shapes = Shapes(str(tmp_path / name), train=7, val=3)
        monkeypatch.setattr("lightning_det.data.shapes.cores", lambda cores=cores: cores)
        monkeypatch.setattr("lightning_det.data.shapes.PER_WORKER", 1)
        torch.manual_seed(0)
        shapes.read("train")
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
        made.append({f.relative_to(shapes.folder): f.read_bytes() for f in shapes.folder.rglob("*") if f.is_file()})
    assert len(made[0]) == 7 + 2 * 3 + 3
    assert made[0] == made[1]


def test_an_interrupted_rendering_starts_again(tmp_path, monkeypatch):
    shapes = Shapes(str(tmp_path), train=3, val=2)

    def die(self, folder, split):
        if split == "val":
            raise KeyboardInterrupt
        return render(self, folder, split)

    render = Shapes._render_split
    monkeypatch.setattr(Shapes, "_render_split", die)
    with pytest.raises(KeyboardInterrupt):
        shapes.read("train")
    monkeypatch.undo()
    assert not shapes.folder.exists()
    store, problems = shapes.read("train")
    assert (len(store), problems) == (3, [])


def test_of_two_jobs_one_renders_for_both(tmp_path, monkeypatch):
    first, second = (Shapes(str(tmp_path), train=3, val=2) for _ in range(2))
    render, rendered, found = Shapes._render_split, [], []
    other = threading.Thread(target=lambda: found.append(len(second.read("train")[0])))

    def meanwhile(self, folder, split):
        rendered.append(split)
        if not other.ident:
            other.start()
        return render(self, folder, split)

    monkeypatch.setattr(Shapes, "_render_split", meanwhile)
    assert len(first.read("val")[0]) == 2
    other.join()
    assert found == [3]
    assert rendered == ["train", "val", "test"]
    assert [p.name for p in tmp_path.iterdir()] == [first.folder.name]


def test_where_nothing_can_be_locked_two_jobs_render(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_det.data.shapes.exclusive", lambda file: nullcontext())
    shapes = Shapes(str(tmp_path), train=3, val=2)
    other = Shapes(str(tmp_path), train=3, val=2)
    render = Shapes._render_split

    def late(self, folder, split):
        if split == "test" and self is shapes:
            monkeypatch.setattr("os.getpid", lambda: 1)
            other.read("train")  # the other job finishes first
        return render(self, folder, split)

    monkeypatch.setattr(Shapes, "_render_split", late)
    assert len(shapes.read("val")[0]) == 2
    assert [p.name for p in tmp_path.iterdir()] == [shapes.folder.name]


@pytest.mark.parametrize(
    "arguments",
    [
        {"sizes": (2, 10)},
        {"sizes": (20, 10)},
        {"sizes": (8,)},
        {"objects": (5, 2)},
        {"decoys": (-1, 2)},
        {"decoys": (1,)},
        {"width": 0},
        {"height": -1},
        {"width": 100_000},
        {"train": -1},
        {"val": -1},
        {"seed": -1},
    ],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(DatasetError, match=r"dataset\.source"):
        Shapes("unused", **arguments)


def test_unknown_split():
    with pytest.raises(DatasetError, match="train, val, test"):
        Shapes("unused").read("minival")
