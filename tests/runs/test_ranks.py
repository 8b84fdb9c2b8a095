"""Several processes that train together compute what one process would: gradients, figures, epochs, refusals.

Real processes over gloo, forked as commands are: three that each do everything.
"""

import json
import os
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from unittest import mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from helpers import start_server
from support.all_detectors import (
    CLASSES,
    DETECTORS,
    batches,
    doubled,
    faster_rcnn,
)
from support.datasets import write_image
from torch import nn

from lightning_det.annotations import LabelMap
from lightning_det.callbacks import Evaluator, SameConfiguration
from lightning_det.data.coco import Coco
from lightning_det.data.datamodule import MultiScaleData
from lightning_det.data.inference_batches import InferenceBatches, Limits
from lightning_det.data.sampler import ByImage, ByLevel, TrainBatches, plan_epoch
from lightning_det.modules import DetectionModule
from lightning_det.ops.ranks import mean_count, ranks, sum_over_ranks
from lightning_det.system.errors import ConfigError
from lightning_det.views import Planner, Pyramid, Tiles

# Gradients. BatchNorm's statistics are a rank's own, so there is none: GroupNorm sees views one by one.


@contextmanager
def drawn_by_view(batch):
    """Random selection draws for a view what it draws for it elsewhere."""
    rand = torch.rand

    def draw(shape, device=None):
        return torch.stack([rand(shape[1:], generator=torch.Generator().manual_seed(int(i))) for i in batch.index])

    with mock.patch.object(torch, "rand", draw):
        yield


class Total(nn.Module):
    """A detector's summed losses as forward, which DistributedDataParallel wants."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, batch):
        return sum(self.detector.losses(batch).values())


def gradients(name, rank=0, number=1):
    """A detector's gradients, one vector per joint batch, averaged over ranks."""
    torch.manual_seed(0)
    model = Total(DETECTORS[name]().double())
    # Without find_unused_parameters: after a step in which a parameter had no part, the next one fails.
    trained = model if number == 1 else nn.parallel.DistributedDataParallel(model)
    found = {}
    for kind, joint in batches().items():
        batch = joint._map(lambda x: x.chunk(number)[rank])
        batch.boxes = batch.boxes.double()
        model.zero_grad()
        with doubled(), drawn_by_view(batch):
            trained(batch).backward()
        assert all(p.grad is not None for p in model.parameters()), (name, kind)
        found[kind] = torch.cat([p.grad.flatten() for p in model.parameters()])
    return found


# Validation.


def detection_module(settings=None):
    torch.manual_seed(0)
    labels = LabelMap([f"kind {n}" for n in range(CLASSES)])
    sgd = partial(torch.optim.SGD, lr=0.1)
    return DetectionModule(faster_rcnn(), labels, sgd, lambda *_: 1.0, settings=settings)


def trainer_of(folder, number, callbacks):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        accelerator="cpu",
        devices=number,
        strategy="auto" if number == 1 else "ddp",
        callbacks=callbacks,
        default_root_dir=folder,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        **quiet,
    )


def data_of(root, split):
    store = Coco(str(root)).read(split)[0]
    views = Planner(Pyramid([1.0]))
    return MultiScaleData(store, store, views, views, 2, 2, num_workers=0)


def validation(root, split, number=1):
    """Figures and detections, as every rank has them."""
    evaluator = Evaluator()
    trainer = trainer_of(root, number, [evaluator])
    trainer.validate(detection_module(), datamodule=data_of(root, split), verbose=False)
    found = evaluator.results
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    arrays = {name: torch.from_numpy(getattr(found, name)) for name in ("images", "boxes", "scores", "labels", "seen")}
    figures = evaluator.evaluation.figures()
    return {"figures": figures, "logged": logged, "arrays": arrays, "pixels": evaluator.pixels}


IMAGES = {"seven2017": 7, "two2017": 2}


def write_dataset(root):
    """Images whose boxes are some of what the untrained detector finds, moved a little: its figures are not 0.

    Two images for three ranks leave one without.
    """

    def annotate(split, boxes):
        categories = [{"id": n + 1, "name": f"kind {n}"} for n in range(CLASSES)]
        images = [{"id": i, "file_name": f"{i}.png", "width": 128, "height": 96} for i in range(IMAGES[split])]
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))

    for split, count in IMAGES.items():
        for i in range(count):
            write_image(root / split / f"{i}.png", 128, 96, seed=i)
        annotate(split, [])
        found = {name: x.numpy() for name, x in validation(root, split)["arrays"].items()}
        rng = np.random.default_rng(0)
        boxes = []
        for row in np.argsort(-found["scores"])[: 16 * count : 2]:
            x1, y1, x2, y2 = np.clip(found["boxes"][row] + rng.uniform(-1, 1, 4), 0, [128, 96, 128, 96]).tolist()
            if min(x2 - x1, y2 - y1) < 4:
                continue
            entry = {"image_id": int(found["images"][row]), "category_id": int(found["labels"][row]) + 1}
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            boxes.append({"id": len(boxes) + 1} | entry | box)
        annotate(split, boxes)


# What the processes do.


def refusal(root, rank, number):
    """What a training says whose last rank has another learning rate."""
    lr = 0.5 if rank == number - 1 else 0.1
    trainer = trainer_of(root, number, [SameConfiguration()])
    try:
        trainer.fit(detection_module({"seed": 0, "optimizer": {"lr": lr}}), datamodule=data_of(root, "two2017"))
    except ConfigError as error:
        return str(error)
    return None


def work(rank, number, folder, root):
    """All that a rank does."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning starts no processes then
    meeting = {"init_method": f"file://{folder}/meeting", "timeout": timedelta(seconds=120)}
    dist.init_process_group("gloo", rank=rank, world_size=number, **meeting)
    counts = torch.tensor([rank, 0])
    summed = (sum_over_ranks(counts), mean_count(torch.tensor(0)), mean_count(torch.tensor(rank)), counts)
    found = {
        "sums": (ranks(), *summed),
        "gradients": {name: gradients(name, rank, number) for name in DETECTORS},
        "validations": {split: validation(root, split, number) for split in IMAGES},
        "refusal": refusal(root, rank, number),
    }
    torch.save(found, f"{folder}/rank{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("number", [3])  # ranks; uneven shares of everything
def test_ranks_compute_what_one_process_computes(number, tmp_path):
    root = tmp_path / "coco"
    write_dataset(root)
    start_server()
    arguments = (number, str(tmp_path), str(root))
    torch.multiprocessing.start_processes(work, arguments, nprocs=number, start_method="forkserver")
    found = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(number)]
    check_sums([of_rank["sums"] for of_rank in found])
    for name in DETECTORS:
        check_gradients(name, [of_rank["gradients"][name] for of_rank in found])
    for split in IMAGES:
        check_validation(root, split, [of_rank["validations"][split] for of_rank in found])
    told = f"rank {number - 1} has another configuration than rank 0: optimizer.lr; start all ranks with the same"
    assert [of_rank["refusal"][: len(told)] for of_rank in found] == [told] * number


def check_sums(found):
    number = len(found)
    total = sum(range(number))
    for rank, (seen, summed, nothing, mean, own) in enumerate(found):
        assert seen == number
        assert summed.tolist() == [total, 0]
        assert own.tolist() == [rank, 0]
        assert (float(nothing), float(mean)) == pytest.approx((1 / number, total / number))


def check_gradients(name, found):
    """Averaged gradients are those of the joint batch."""
    for kind, joint in gradients(name).items():
        largest = joint.abs().max()
        assert (largest == 0) == (kind == "nothing but crowds" or (kind == "none" and name in NEEDS_OBJECTS)), kind
        for of_rank in found:
            assert (of_rank[kind] - joint).abs().max() <= 1e-9 * largest, (name, kind)


NEEDS_OBJECTS = ("ssd", "dsod", "grp_dsod")
"""Their negatives are at most three per positive: without objects there are none."""


def check_validation(root, split, found):
    """Figures and detections are those of one process."""
    alone = validation(root, split)
    assert 0.1 < alone["figures"]["AP"] < 0.9
    assert alone["arrays"]["seen"].tolist() == list(range(IMAGES[split]))
    for shared in found:
        assert shared["pixels"] == alone["pixels"] == IMAGES[split] * 128 * 96
        assert shared["figures"] == pytest.approx(alone["figures"], abs=1e-6)
        assert shared["logged"] == pytest.approx(alone["logged"], abs=1e-6)
        for name, array in alone["arrays"].items():
            torch.testing.assert_close(shared["arrays"][name], array, atol=1e-4, rtol=0, msg=name)


def test_a_process_alone_sums_its_own():
    own = torch.tensor([3, 0])
    assert ranks() == 1
    assert sum_over_ranks(own).tolist() == [3, 0]
    assert sum_over_ranks(own) is not own
    assert (float(mean_count(own[0])), float(mean_count(own[1]))) == (3, 1)


# Epochs.


PLANS = {
    "images": (Planner(Pyramid([[48, 64]])), ByLevel()),
    "scales": (Planner(Pyramid([[96, 128], [48, 64], [24, 32]])), ByLevel()),
    "scales of equal pixels": (Planner(Pyramid([[96, 128], [48, 64], [24, 32]])), ByLevel(same_pixels=True)),
    "tiles": (Planner(Pyramid([1.0]), Tiles(32, 0.25)), ByImage(4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_ranks_have_equally_many_batches_of_any_dataset(tmp_path, plan):
    """Together they have the batches of one process, and as many of these again as the last step lacks."""
    planner, grouping = PLANS[plan]
    whole = store_of(tmp_path, 40)
    for count, accumulate in [(c, 1) for c in range(1, 41)] + [(c, 3) for c in (1, 2, 3, 5, 7, 11, 13)]:
        store = whole.select(range(count))
        looks = plan_epoch(store, planner, 0)
        alone = list(TrainBatches(store, planner, 4, grouping, 0))
        seen = Counter(look for batch in alone for look in batch)
        assert set(seen) == set(looks)
        # A look that is there twice fills up a batch, of its level where batches have one.
        levels = len({look.view.level for look in looks}) if isinstance(grouping, ByLevel) else 1
        assert seen.total() - len(looks) < levels * max(map(len, alone))
        for number in range(1, 5):
            parts = [
                list(TrainBatches(store, planner, 4, grouping, 0, rank=r, ranks=number, accumulate=accumulate))
                for r in range(number)
            ]
            (length,) = {len(part) for part in parts}
            in_order = [batch for step in zip(*parts, strict=True) for batch in step]
            again = len(in_order) - len(alone)
            assert length % accumulate == 0
            assert 0 <= again < number * accumulate
            assert in_order == [*alone, *(alone[i % len(alone)] for i in range(again))]


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_ranks_share_the_images_of_an_evaluation(tmp_path, plan):
    planner, _ = PLANS[plan]
    whole = store_of(tmp_path, 40)
    for count in range(1, 41):
        store = whole.select(range(count))
        looks = Counter(plan_epoch(store, planner, None))
        for number in range(1, 5):
            parts = [list(InferenceBatches(store, planner, Limits(4), r, number)) for r in range(number)]
            seen = Counter(look for part in parts for batch in part for look in batch)
            assert min(map(len, parts)) > 0
            # A rank without an image looks at the first view, and its detections are left out.
            assert (seen - looks).total() == max(0, number - count)
            assert not looks - seen


def store_of(tmp_path, count):
    """Landscape and portrait images without boxes."""
    images = []
    for i in range(count):
        width, height = (64, 48) if i % 3 else (48, 64)
        write_image(tmp_path / f"all2017/{i}.png", width, height)
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
    (tmp_path / "annotations").mkdir()
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "annotations/instances_all2017.json").write_text(json.dumps(content))
    return Coco(str(tmp_path)).read("all2017")[0]
