"""Files of proposals, and the network that makes them."""

import errno
import io
import json
import os
import shutil
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers import make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.all_detectors import DETECTORS
from support.stores import make_store
from support.two_stages import detector

from lightning_det.annotations import LabelMap
from lightning_det.annotations.contents import digests_of
from lightning_det.annotations.problems import DatasetError
from lightning_det.annotations.proposals import VERSION, fingerprint, load_proposals, save_proposals
from lightning_det.annotations.store import AnnotationStore, ProposalSet
from lightning_det.annotations.strings import Strings
from lightning_det.config.build import build
from lightning_det.config.data import build_planner
from lightning_det.config.module import build_module
from lightning_det.data.shapes import Shapes
from lightning_det.protocols.structures import State
from lightning_det.runs import mining
from lightning_det.runs.composition import validate_run
from lightning_det.selection import AllSelector

COUNTS = (3, 0, 5, 1)


def random_proposals(counts, seed=0):
    """As many as told per image, by falling score."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (sum(counts), 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 20, (sum(counts), 2))], axis=1).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    scores = np.concatenate([np.zeros(0), *(np.sort(rng.uniform(0, 1, n))[::-1] for n in counts)]).astype(np.float32)
    return ProposalSet(offsets, boxes, scores)


@pytest.fixture
def store(tmp_path):
    """Four images of different sizes; the last one has a box."""
    return make_store(tmp_path, [(64, 48), (48, 64), (100, 80), (64, 48)], [(3, 1, 1, 9, 9, 0)])


@pytest.fixture
def file(tmp_path, store):
    path = tmp_path / "mined" / "proposals.npz"
    save_proposals(path, store, random_proposals(COUNTS), {"epochs": 2, "seed": 7})
    return path


def same(first, second):
    return all(np.array_equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(ProposalSet))


def rewrite(file, **changes):
    """The same file with other arrays; None takes one out."""
    with np.load(file) as data:
        content = dict(data) | changes
    np.savez(file, **{name: array for name, array in content.items() if array is not None})


def about(file, **changes):
    """The file's description, changed."""
    with np.load(file) as data:
        text = json.loads(data["about"].tobytes())
    return np.frombuffer(json.dumps(text | changes).encode(), np.uint8)


# The file


def test_proposals_come_back_as_they_were(store, file):
    proposals = random_proposals(COUNTS)
    found = load_proposals(file, store)
    assert same(found, proposals)
    assert (found.offsets.dtype, found.boxes.dtype, found.scores.dtype) == (np.int64, np.float32, np.float32)
    assert [len(found.of(i)) for i in range(4)] == list(COUNTS)
    assert np.array_equal(found.of(2), proposals.boxes[3:8])
    assert found.of(1).shape == (0, 4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 9))
def test_any_proposals_come_back(tmp_path_factory, counts, seed):
    folder = tmp_path_factory.mktemp("any")
    store = make_store(folder, [(64, 48)] * len(counts))
    proposals = random_proposals(counts, seed)
    save_proposals(folder / "p.npz", store, proposals, {})
    assert same(load_proposals(folder / "p.npz", store), proposals)


def test_a_file_says_what_it_is(store, file):
    with np.load(file, allow_pickle=False) as data:
        content = dict(data)
    described = json.loads(content["about"].tobytes())
    assert described["version"] == VERSION == 2
    assert described["made_by"] == {"epochs": 2, "seed": 7}
    assert described["fingerprint"] == fingerprint(store.ids, store.files, store.widths, store.heights)
    assert set(content) == {
        *("offsets", "boxes", "scores", "widths", "heights", "lengths", "digests", "about"),
        *("ids_data", "ids_offsets", "files_data", "files_offsets"),
    }
    assert list(Strings(content["files_data"], content["files_offsets"])) == ["0.png", "1.png", "2.png", "3.png"]


def test_nothing_in_a_file_is_pickled(store, file):
    with np.load(file, allow_pickle=False) as data:
        assert all(data[name].dtype != object for name in data)


class Trap:
    """Leaves a trace when it is unpickled."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def test_a_pickled_object_in_a_file_is_not_unpickled(store, file):
    rewrite(file, scores=np.array([Trap()], dtype=object))
    with pytest.raises(DatasetError, match="not a file of proposals"):
        load_proposals(file, store)
    assert not Trap.sprung


def test_a_file_is_written_whole_or_not_at_all(store, file, monkeypatch):
    before = file.read_bytes()

    def broken(stream, **arrays):
        stream.write(b"half of it")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        save_proposals(file, store, random_proposals((1, 1, 1, 1)), {})
    assert file.read_bytes() == before


def test_writing_leaves_nothing_else_behind(store, file):
    save_proposals(file, store, random_proposals((1, 1, 1, 1)), {})
    assert [f.name for f in file.parent.iterdir()] == ["proposals.npz"]
    assert len(load_proposals(file, store).boxes) == 4


@pytest.mark.parametrize("images", [[0, 1, 2, 3], [3, 2, 1, 0], [2], [1, 3], [2, 0], [0, 0, 2], []])
def test_subsets_and_reordered_stores_find_theirs(store, file, images):
    part = store.select(np.array(images, np.int64))
    found = load_proposals(file, part)
    whole = random_proposals(COUNTS)
    assert len(found.offsets) == len(images) + 1
    for here, there in enumerate(images):
        assert np.array_equal(found.of(here), whole.of(there))
    assert same(found, whole.select(np.array(images, np.int64)))


def test_boxes_and_classes_do_not_matter(store, file):
    """Corrected annotations keep their proposals, and so does another folder."""
    other = make_store(store.root / "elsewhere", [(64, 48), (48, 64), (100, 80), (64, 48)], [(0, 2, 2, 30, 30, 1)] * 3)
    assert same(load_proposals(file, other), random_proposals(COUNTS))


def test_fingerprints_tell_datasets_apart(store):
    def of(store):
        return fingerprint(store.ids, store.files, store.widths, store.heights)

    prints = [
        of(store),
        of(store.select([1, 0, 2, 3])),
        of(store.select([0, 1, 2])),
        of(replace(store, widths=store.heights, heights=store.widths)),
        of(replace(store, ids=Strings.pack(["0", "1", "2", "4"]))),
        of(replace(store, ids=Strings.pack(["0", "12", "", "3"]))),
        of(replace(store, files=Strings.pack(["0.png", "1.png", "2.png", "3.jpg"]))),
    ]
    assert len(set(prints)) == len(prints)
    assert of(replace(store, widths=store.widths.astype(np.int64))) == of(store)


def test_without_a_fingerprint_images_are_compared_one_by_one(store, file):
    rewrite(file, about=np.frombuffer(b'{"version": 2}', np.uint8))
    assert same(load_proposals(file, store), random_proposals(COUNTS))
    with pytest.raises(DatasetError, match="made for other images"):
        load_proposals(file, replace(store, widths=store.widths + 1))


# What is refused, and why


def test_a_missing_file_is_named(store, tmp_path):
    with pytest.raises(DatasetError, match=r"proposals=.*nowhere\.npz: No such file"):
        load_proposals(tmp_path / "nowhere.npz", store)


def test_a_folder_is_no_file(store, tmp_path):
    with pytest.raises(DatasetError, match="Is a directory"):
        load_proposals(tmp_path, store)


def damage(file, kind):
    if kind == "text":
        file.write_text("proposals")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "array":
        with file.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "pickle":
        with file.open("wb") as stream:
            np.save(stream, np.array([Trap()], dtype=object), allow_pickle=True)
    elif kind == "other arrays":
        with file.open("wb") as stream:
            np.savez(stream, boxes=np.zeros((1, 4)))
    elif kind == "no json":
        rewrite(file, about=np.frombuffer(b"{", np.uint8))
    elif kind == "no object":
        rewrite(file, about=np.frombuffer(b"[1]", np.uint8))
    elif kind == "no version":
        rewrite(file, about=np.frombuffer(b"{}", np.uint8))
    elif kind == "flipped bits":
        data = bytearray(file.read_bytes())
        start = data.index(random_proposals(COUNTS).boxes.tobytes())
        data[start] ^= 255
        file.write_bytes(data)
    else:
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * kind)])


@pytest.mark.parametrize(
    "kind",
    [
        *("text", "empty", "array", "pickle", "other arrays", "no json", "no object", "no version", "flipped bits"),
        *(0.01, 0.5, 0.9, 0.999),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(store, file, kind):
    damage(file, kind)
    with pytest.raises(DatasetError, match=r"proposals=.*proposals\.npz: not a file of proposals.*lightning_det\.mine"):
        load_proposals(file, store)
    assert not Trap.sprung


def test_every_array_is_needed(store, file):
    with np.load(file) as data:
        names = list(data)
    for name in names:
        copy = file.with_name("copy.npz")
        shutil.copy(file, copy)
        rewrite(copy, **{name: None})
        with pytest.raises(DatasetError, match="not a file of proposals"):
            load_proposals(copy, store)


@pytest.mark.parametrize(
    "arrays",
    [
        {"lengths": np.zeros(3, np.int64)},
        {"digests": np.zeros(4, np.int64)},
        {"offsets": np.array([0, 3, 2**40, 8, 9])},
        {"offsets": np.array([0, 3, 2, 8, 9])},
        {"offsets": np.array([-1, 3, 3, 8, 9])},
        {"offsets": np.array([0, 3, 3, 8, 9], np.float64)},
        {"offsets": np.array([0, 3, 3, 9])},
        {"boxes": np.zeros((9, 5), np.float32)},
        {"boxes": np.zeros((9, 4), "S4")},
        {"boxes": np.full((9, 4), np.inf, np.float32)},
        {"boxes": np.full((9, 4), 1e30, np.float32)},
        {"boxes": np.tile(np.array([9, 9, 1, 1], np.float32), (9, 1))},
        {"scores": np.zeros(8, np.float32)},
        {"widths": np.zeros(3, np.int32)},
        {"ids_offsets": np.array([0, 2**60, 1, 1, 1])},
        {"ids_data": np.full(4, 255, np.uint8), "ids_offsets": np.arange(5)},
    ],
    ids=lambda arrays: " ".join(arrays),
)
def test_arrays_that_do_not_go_together_are_refused(store, file, arrays):
    rewrite(file, **arrays)
    with pytest.raises(DatasetError, match="not a file of proposals"):
        load_proposals(file, store)


def test_arrays_larger_than_the_file_take_no_memory(store, file):
    """A header that claims 8 TB, and zeros that were compressed."""
    with zipfile.ZipFile(file.with_name("claims.npz"), "w") as content:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 2)}
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, header)
        content.writestr("boxes.npy", stream.getvalue())
    np.savez_compressed(file.with_name("zeros.npz"), boxes=np.zeros(10**6))
    for name in ("claims.npz", "zeros.npz"):
        with pytest.raises(DatasetError, match="not a file of proposals"):
            load_proposals(file.with_name(name), store)


@pytest.mark.parametrize("version", [0, 1, 3, "2"])
def test_another_version_is_refused(store, file, version):
    rewrite(file, about=about(file, version=version))
    with pytest.raises(DatasetError, match=rf"format {version}, this version reads 2; make it anew with"):
        load_proposals(file, store)


def test_missing_images_are_counted_and_one_is_named(store, file, tmp_path):
    larger = make_store(tmp_path, [(64, 48), (48, 64), (100, 80), (64, 48), (10, 10), (20, 20)])
    with pytest.raises(DatasetError, match=r"it lacks 2 of the 6 of this dataset, such as id 4; .*proposals=auto"):
        load_proposals(file, larger)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"widths": np.array([64, 48, 100, 65], np.int32)},
            r"id 3 is 3\.png \(64 x 48\) there and 3\.png \(65 x 48\) here",
        ),
        (
            {"heights": np.array([48, 60, 80, 48], np.int32)},
            r"id 1 is 1\.png \(48 x 64\) there and 1\.png \(48 x 60\) here",
        ),
        (
            {"files": Strings.pack(["0.png", "1.png", "x.png", "3.png"])},
            r"id 2 is 2\.png \(100 x 80\) there and x\.png \(100 x 80\) here",
        ),
    ],
)
def test_the_same_id_of_another_image_is_refused(store, file, change, message):
    with pytest.raises(DatasetError, match=rf"made for other images; {message}; make it anew"):
        load_proposals(file, replace(store, **change))


# Other images of the same names


def with_files(store, size=300_000, seed=0):
    """Writes something into every file of a store; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for i in range(len(store)):
        store.path(i).parent.mkdir(parents=True, exist_ok=True)
        store.path(i).write_bytes(rng.bytes(size))
    return store


def mined_for(store):
    file = store.root / "proposals.npz"
    save_proposals(file, store, random_proposals(COUNTS), {})
    return file


def test_a_copy_of_the_dataset_keeps_its_proposals(store):
    file = mined_for(with_files(store))
    copy = with_files(replace(store, root=store.root / "elsewhere"))
    for i in range(4):
        os.utime(copy.path(i), (1, 1))
    assert same(load_proposals(file, copy), random_proposals(COUNTS))
    assert same(load_proposals(file, copy.select([2, 0])), random_proposals(COUNTS).select(np.array([2, 0])))


@pytest.mark.parametrize("size", [10, 40_000, 300_000])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1]])
def test_other_images_of_the_same_names_are_refused(store, size, order):
    file = mined_for(with_files(store, size))
    others = with_files(replace(store, root=store.root / "elsewhere"), size, seed=5)
    with pytest.raises(DatasetError, match=rf"of the same names; {len(order)} or more of .* id {order[0]} ") as caught:
        load_proposals(file, others.select(order))
    assert "make it anew with lightning_det.mine, or give proposals=auto" in str(caught.value)


@pytest.mark.parametrize("place", [0, 39_999])
def test_one_image_that_was_replaced_is_named(store, place):
    file = mined_for(with_files(store, 40_000))
    content = bytearray(store.path(2).read_bytes())
    content[place] ^= 1
    store.path(2).write_bytes(content)
    with pytest.raises(DatasetError, match=r"1 or more of the 4 .* such as id 2 \(2\.png\)"):
        load_proposals(file, store)


def test_of_many_images_some_are_looked_into_and_all_are_measured(store, monkeypatch):
    monkeypatch.setattr("lightning_det.annotations.proposals.COMPARED", 2)  # the first and the last
    file = mined_for(with_files(store))
    read = []
    looked_into = "lightning_det.annotations.proposals.digests_of"
    monkeypatch.setattr(looked_into, lambda paths: digests_of(read.extend(paths) or paths))
    load_proposals(file, store)
    assert [path.name for path in read] == ["0.png", "3.png"]
    store.path(1).write_bytes(b"shorter")
    with pytest.raises(DatasetError, match="such as id 1 "):
        load_proposals(file, store)


def test_an_image_that_has_gone_is_noticed(store):
    file = mined_for(with_files(store))
    store.path(1).unlink()
    with pytest.raises(DatasetError, match="such as id 1 "):
        load_proposals(file, store)


def test_shapes_of_another_seed_are_other_images(tmp_path):
    def drawn(root, seed):
        few = {"train": 2, "val": 1, "width": 64, "height": 48, "sizes": (8, 20)}
        return Shapes(str(tmp_path / root), seed=seed, **few).read("train")[0]

    file = tmp_path / "proposals.npz"
    save_proposals(file, drawn("a", 0), random_proposals((1, 2)), {})
    assert same(load_proposals(file, drawn("b", 0)), random_proposals((1, 2)))
    with pytest.raises(DatasetError, match="made for other images of the same names; 2 or more of the 2"):
        load_proposals(file, drawn("a", 5))


# In a store


def with_proposals(store):
    return replace(store, proposals=random_proposals(COUNTS))


def test_records_have_their_proposals(store):
    whole = random_proposals(COUNTS)
    records = list(with_proposals(store).records())
    for i, record in enumerate(records):
        assert np.array_equal(record.proposals, whole.of(i))
    assert len(records[3].boxes) == 1
    # Without a file there are none.
    assert store.record(0).proposals.shape == (0, 4)


@pytest.mark.parametrize("images", [[3, 1], [2, 2], []])
def test_selected_images_keep_their_proposals(store, images):
    part = with_proposals(store).select(images)
    assert len(part) == len(images)
    for here, there in enumerate(images):
        assert np.array_equal(part.record(here).proposals, random_proposals(COUNTS).of(there))
    assert store.select(images).proposals is None


def test_other_classes_keep_their_proposals(store):
    renamed = with_proposals(store).with_labels(LabelMap(["bird", "dog", "cat"]))
    assert isinstance(renamed, AnnotationStore)
    assert renamed.labels.tolist() == [2]
    assert same(renamed.proposals, random_proposals(COUNTS))


# The network


def trained_alike(form="c4"):
    """A detector whose proposals are spread over all scores, and its proposal network."""
    model = detector(form, (AllSelector(), AllSelector())).eval()
    with torch.no_grad():
        model.rpn.head.cls_logits.weight.normal_(std=3.0, generator=torch.manual_seed(1))
    return model, model.proposer([])


@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_a_proposal_network_shares_the_layers_of_its_detector(form):
    model, network = trained_alike(form)
    own, theirs = dict(network.named_parameters()), dict(model.named_parameters())
    assert all(parameter is theirs[name] for name, parameter in own.items())
    assert {name for name in theirs if not name.startswith("roi_head.")} == set(own)
    assert network.class_layers == ()


@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_its_losses_are_those_of_the_detectors_first_stage(form):
    model, network = trained_alike(form)
    batch = make_batch(2, 96, 128)
    batch.states[0, 1] = State.INVALID
    losses, expected = network.losses(batch), model.losses(batch)
    assert set(losses) == {"rpn_objectness", "rpn_box"}
    for name, value in losses.items():
        assert value > 0
        torch.testing.assert_close(value, expected[name])
    # Objects are one class: their labels do not matter.
    batch.labels = (batch.labels + 1) % 6
    assert all(torch.equal(value, losses[name]) for name, value in network.losses(batch).items())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_its_detections_are_the_proposals(form):
    model, network = trained_alike(form)
    batch = make_batch(2, 96, 160)
    batch.sizes = torch.tensor([[96, 160], [60, 100]])
    with torch.no_grad():
        maps = model.features(batch.images, batch.sizes).maps
        expected = model.rpn.propose(model.rpn(maps, batch.images.shape[-2:]), batch.sizes)
        found = network(batch.images, batch.sizes, score_threshold=-1.0, max_detections=50)
    # The capacity of the detector: 50.
    assert found.boxes.shape == (2, 50, 4)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.valid, expected.valid)
    assert found.labels.dtype == torch.int64
    assert not found.labels.any()
    # Sorted, within the views, and not alike.
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()
    assert found.boxes.min() >= 0
    for boxes, valid, (height, width) in zip(found.boxes, found.valid, batch.sizes, strict=True):
        assert valid.sum() > 5
        assert (boxes[valid] <= torch.tensor([width, height, width, height])).all()
        assert (boxes[valid][:, 2:] > boxes[valid][:, :2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["c4", "pyramid"])
def test_views_of_one_shape_are_padded_as_by_the_detector(form):
    """Views of 300 x 300 (strategy=warp) come without padding; unpadded, anchors would lie 7 pixels apart, not 8."""
    model, network = trained_alike(form)
    batch = make_batch(1, 300, 300)
    with torch.no_grad():
        (maps, canvas), expected = (m.features(batch.images, batch.sizes) for m in (network, model))
        found = network(batch.images, batch.sizes, score_threshold=-1.0, max_detections=50)
        proposals = model.rpn.propose(model.rpn(*expected), batch.sizes, canvas=expected.canvas)
    assert canvas == expected.canvas == (320, 320)
    assert torch.equal(found.boxes, proposals.boxes)
    for anchors, features, stride in zip(network.rpn(maps, canvas).anchors, maps, network.rpn.strides, strict=True):
        per_cell = len(anchors) // features[0, 0].numel()
        assert anchors[per_cell, 0] - anchors[0, 0] == stride


def test_at_most_so_many_detections_with_a_greater_score():
    _, network = trained_alike()
    batch = make_batch(2, 96, 128)
    with torch.no_grad():
        every = network(batch.images, batch.sizes)
        few = network(batch.images, batch.sizes, max_detections=7)
        assert few.boxes.shape == (2, 7, 4)
        assert torch.equal(few.boxes, every.boxes[:, :7])
        threshold = every.scores[0, 10].item()
        good = network(batch.images, batch.sizes, score_threshold=threshold)
    assert torch.equal(good.valid, every.valid & (every.scores > threshold))
    assert good.valid[0].sum() == 10


def test_without_features_there_is_nothing_to_propose():
    """Diverged weights: no proposal is valid."""
    _, network = trained_alike()
    batch = make_batch(1, 96, 128)
    with torch.no_grad():
        network.rpn.head.cls_logits.bias.fill_(torch.nan)
        found = network(batch.images, batch.sizes, score_threshold=-1.0)
    assert not found.valid.any()
    assert found.boxes.isfinite().all()


@pytest.mark.parametrize("name", ["dsod", "retinanet", "fcos", "rtdetr"])
def test_detectors_without_a_proposal_network_get_a_light_one(name):
    model = DETECTORS[name]()
    network = model.proposer([8, 16, 32])
    assert network.backbone is model.backbone
    assert network.rpn.strides == [16]
    assert network.rpn.anchors.sizes == [[8, 16, 32]]
    batch = make_batch(2, 96, 128)
    sum(network.losses(batch).values()).backward()
    assert network.rpn.head.cls_logits.weight.grad.any()
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    with torch.no_grad():
        found = network.eval()(batch.images, batch.sizes, max_detections=20)
    assert found.boxes.shape == (2, 20, 4)


@pytest.mark.parametrize("name", ["faster_rcnn", "fcos"])
def test_limits_grow_to_the_number_of_proposals_that_is_asked_for(name):
    """The network of a detector keeps 40 of 200 candidates for the detector, a light one 300 of 6,000."""
    network = DETECTORS[name]().proposer([8, 16, 24, 32]).eval()
    network.rpn.nms.iou_threshold = 1.0  # every candidate stays
    batch = make_batch(1, 320, 320)
    anchors = 20 * 20 * network.rpn.anchors.per_cell[0]
    counts = {"faster_rcnn": (40, 1200), "fcos": (300, 1200)}[name]
    with torch.no_grad():
        for count in (*counts, anchors):
            found = network(batch.images, batch.sizes, score_threshold=-1.0, max_detections=count)
            assert found.valid.sum() == count, count


def test_numbers_of_proposals_in_the_settings_reach_the_network(composed, tmp_path, monkeypatch):
    """The number per view holds for every detector, and that per megapixel for views of any size."""
    made = []
    monkeypatch.setattr(mining, "DetectionModule", lambda *_, inference, **__: made.append(inference) or (1 / 0))
    for chosen in (["detector=faster_rcnn"], ["detector=fcos"]):
        cfg = composed(
            "train", *chosen, "strategy=[sniper]", "miner.proposals=1500", "dataset.proposals_per_megapixel=4000"
        )
        labels = LabelMap(["a"])
        with pytest.raises(ZeroDivisionError):
            mining.mine(validate_run(cfg), build_module(cfg, labels).detector, None, None, tmp_path / "proposals.npz")
        assert made[-1].per_view(100, 100) == 1500
        assert made[-1].per_view(1000, 1000) == 4000


@pytest.mark.parametrize(
    ("options", "limit"),
    [([], 1.0), (["trainer.limit_val_batches=0.25"], 1.0), (["trainer.limit_train_batches=4"], 4)],
)
def test_the_length_of_the_training_does_not_cut_mining(composed, tmp_path, options, limit):
    cfg = composed("train", "strategy=[sniper,flip]", "trainer.max_steps=3", "miner.epochs=5", *options)
    trainer = mining.mining_config(cfg, tmp_path / "p.npz").trainer
    assert (trainer.max_epochs, trainer.max_steps, trainer.limit_val_batches) == (5, -1, limit)


def test_mining_looks_at_all_views_of_autofocus(composed, tmp_path):
    """Its network has no head that says where to look."""
    cfg = validate_run(composed("train", "strategy=[sniper,flip,autofocus]", "test=[autofocus]"))
    scales = mining.mining_config(cfg, tmp_path / "p.npz").views.test.scales
    assert scales._target_ == "lightning_det.views.Pyramid"
    assert scales.resolutions == cfg.views.test.scales.resolutions
    assert not build_planner(mining.mining_config(cfg, tmp_path / "p.npz"), "test").follows


def test_a_folder_that_was_moved_keeps_its_proposals(composed, tmp_path, monkeypatch):
    settings = {"proposals": str(tmp_path / "old/proposals.npz")}
    monkeypatch.setattr(mining, "load_checkpoint", lambda *_: {"hyper_parameters": {"settings": settings}})
    monkeypatch.setattr(mining, "is_unstarted", lambda _: False)
    cfg = composed("train", "strategy=[sniper]", "proposals=auto", f"resume={tmp_path}/new")
    assert mining.proposals_file(cfg, tmp_path / "new") == tmp_path / "old/proposals.npz"
    (tmp_path / "new").mkdir()
    (tmp_path / "new/proposals.npz").touch()
    assert mining.proposals_file(cfg, tmp_path / "new") == tmp_path / "new/proposals.npz"


def test_messages_of_mining_are_marked(caplog):
    """The schedule of the detector may not fit into the few epochs of mining, which is no matter of the training."""
    with mining._marked():
        mining.log.warning("a warm-up of %d steps", 9)
        mining.log.info("mining: %d epochs", 2)
    mining.log.warning("a warm-up of %d steps", 7)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "mining: a warm-up of 9 steps",
        "a warm-up of 7 steps",
    ]
    assert "mining: mining" not in caplog.text


def test_files_of_proposals_in_one_folder_have_their_own_costs_and_networks(composed, tmp_path):
    files = [tmp_path / name for name in ("a.npz", "b.npz", "a.b.npz")]
    made = [made_of(file) for file in files for made_of in (mining.cost_file, mining.network_file)]
    assert len({*made, *files}) == 9
    cfg = mining.mining_config(validate_run(composed("train", "strategy=sniper")), tmp_path / "a.npz")
    assert build(cfg.callbacks.last, "last").file == tmp_path / "a.mining.ckpt"
