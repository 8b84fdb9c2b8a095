"""On a GPU: what the CPU computes, without waiting for the device, by the real commands."""

import json
import subprocess
import sys
import warnings
from unittest import mock

import pytest
import torch
from helpers import CHIPS, SMALL, make_batch
from support.all_detectors import CLASSES, DETECTORS, batches, doubled

from lightning_det.callbacks.throughput import DeviceWait
from lightning_det.modules.step import CompiledStep, keep_gradients, step_losses
from lightning_det.ops.roi_align_operator import align

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run_command(name, *options):
    """A process of its own: CUDA does not survive a fork."""
    call = [sys.executable, "-m", f"lightning_det.{name}", *options]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def drawn_on_the_cpu():
    """Random numbers that do not depend on the device."""
    rand = torch.rand

    def draw(shape, device=None):
        return rand(shape, generator=torch.Generator().manual_seed(1)).to(device)

    return mock.patch.object(torch, "rand", draw)


def computed(name, device):
    """Losses and gradients of a detector by the name of the batch."""
    torch.manual_seed(0)
    model = DETECTORS[name]().double().to(device)
    found = {}
    for kind, batch in batches().items():
        batch = batch.to(device)
        batch.boxes = batch.boxes.double()
        model.zero_grad()
        with doubled(), drawn_on_the_cpu():
            losses = model.losses(batch)
            sum(losses.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found[kind] = (torch.stack(list(losses.values())).detach().cpu(), gradient.cpu())
    return found


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_and_gradients_are_those_of_the_cpu(name):
    expected = computed(name, "cpu")
    # Samples of bins that are not shifted yet lie on pixels, where the slope depends on the side that rounding chooses.
    tolerance = 1e-5 if "deformable" in name else 1e-9
    for kind, (losses, gradient) in computed(name, "cuda").items():
        torch.testing.assert_close(losses, expected[kind][0], rtol=1e-9, atol=1e-9, msg=lambda m, k=kind: f"{k}: {m}")
        largest = float(expected[kind][1].abs().max())
        assert float((gradient - expected[kind][1]).abs().max()) <= tolerance * max(1, largest), kind


@pytest.mark.parametrize("name", [n for n in DETECTORS if n != "proposals"])
def test_detections_are_those_of_the_cpu(name):
    torch.manual_seed(0)
    model = DETECTORS[name]().double().eval()
    batch = make_batch(3, 96, 128, classes=CLASSES)
    with torch.no_grad(), doubled():
        expected = model(batch.images, batch.sizes, 0.0, 0.5, 50)
        found = model.cuda()(batch.images.cuda(), batch.sizes.cuda(), 0.0, 0.5, 50)
    assert torch.equal(found.valid.cpu(), expected.valid)
    assert int(expected.valid.sum()) > 0
    valid = expected.valid
    assert torch.equal(found.labels.cpu()[valid], expected.labels[valid])
    torch.testing.assert_close(found.scores.cpu()[valid], expected.scores[valid])
    torch.testing.assert_close(found.boxes.cpu()[valid], expected.boxes[valid])


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rois_of_maps_in_every_order_in_memory(views, layout):
    """The pixels of a single view, as rows of a matrix, may be a transposed matrix in memory."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(views, 8, 12, 17, generator=generator, dtype=torch.float64)
    rois = torch.tensor([[0, 1.0, 1, 6, 7], [views - 1, 2, 2, 9, 11]], dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        canvas = maps.to(device).contiguous(memory_format=layout).requires_grad_()
        cells = align(canvas, rois.to(device), 3, 2)
        (cells * cells).sum().backward()
        found.append((cells.detach().cpu(), canvas.grad.cpu()))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_training_step_waits_for_nothing_but_the_assignment(name, precision):
    torch.manual_seed(0)
    model = DETECTORS[name]().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    batch = make_batch(4, 96, 128, classes=CLASSES).to("cuda")

    def step():
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            loss = sum(model.losses(batch).values())
        loss.backward()
        optimizer.step()
        return loss

    step()  # anchors and memory of this shape
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA operation" in str(w.message)]
    allowed = "ops/assignment.py" if name == "rtdetr" else "nowhere"
    assert [w for w in waits if allowed not in w] == []
    assert bool(loss.isfinite())


@pytest.mark.parametrize("name", ["faster_rcnn ohem", "faster_rcnn_fpn", "ssd"])
def test_a_compiled_step_learns_what_the_step_learns(name):
    """Losses and gradients, also those that are summed over two steps: CUDA graphs write into the same memory."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = DETECTORS[name]().cuda().to(memory_format=torch.channels_last)
    # Priors that contain a box, or lie in it, overlap it equally, and rounding chooses the best: not for these boxes.
    drawn = {"count": 2, "boxes": 1, "seeds": (3, 7, 19, 22)} if name == "ssd" else {"count": 4, "seeds": range(4)}
    seeds = drawn.pop("seeds")
    batches = [make_batch(height=96, width=128, classes=CLASSES, seed=seed, **drawn).to("cuda") for seed in seeds]
    found = {}
    with torch.backends.cudnn.flags(allow_tf32=False):
        for kind, losses in (("eager", lambda batch: step_losses(model, batch)), ("compiled", CompiledStep(model))):
            found[kind] = []
            for start in (0, 0, 0, 2):  # the first runs of a graph only warm it up
                torch.manual_seed(1)
                keep_gradients(model.parameters())
                steps = []
                for batch in batches[start : start + 2]:
                    steps.append(losses(batch))
                    sum(steps[-1].values()).backward()
                values = {f"{n} {k}": v.detach() for n, step in enumerate(steps) for k, v in step.items()}
                gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
                found[kind].append((values, gradient.clone()))
    for (values, gradient), (expected, slope) in zip(found["compiled"], found["eager"], strict=True):
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-4)
        # A ReLU that rounding switches changes single values; memory that is written over changes all of them.
        assert float((gradient - slope).norm()) < 0.05 * float(slope.norm())


def test_waits_are_those_of_the_device():
    """The time between two events in the device's queue; the host has left long before it is over."""
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(3):
        x @ x
    torch.cuda.synchronize()
    wait = DeviceWait()
    begun = torch.cuda.Event(enable_timing=True)
    begun.record()
    wait.start()
    torch.cuda._sleep(20_000_000)  # what the device does between the two events counts, whoever asked for it
    wait.stop()
    ended = torch.cuda.Event(enable_timing=True)
    ended.record()
    torch.cuda.synchronize()
    assert 0 < wait.seconds <= begun.elapsed_time(ended) / 1000


@pytest.mark.parametrize(
    "options",
    [
        ["trainer=gpu", "detector=faster_rcnn_fpn", "strategy=[multi_scale,flip]"],
        ["trainer=gpu", "detector=faster_rcnn", "strategy=[sniper_no_negatives,flip,ohem]", *CHIPS],
        ["trainer=gpu", "detector=dsod", "backbone=dsod_tiny", "module.compiled=parts"],
        [
            *("trainer=gpu", "detector=faster_rcnn", "strategy=[sniper_no_negatives,flip,ohem]", *CHIPS),
            *("module.compiled=step", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0"),
            "callbacks=[default,ema]",
        ],
        ["trainer=ddp", "detector=rfcn", "strategy=[snip,flip,ohem]", "backbone.norm=sync"],
        ["trainer=gpu", "detector=ssd", "backbone=ssd_tiny", "trainer.precision=32-true", "callbacks=[default,ema]"],
    ],
    ids=lambda options: " ".join(o for o in options if o not in CHIPS),
)
def test_real_commands(tmp_path, shapes_root, options):
    run = tmp_path / "run"
    given = [*SMALL, f"dataset.root={shapes_root}", *options, "trainer.max_epochs=1", "data.batch_size=4"]
    run_command("train", *given, f"hydra.run.dir={run}")
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 < metrics["loss"] < 100
    assert metrics["cost"]["memory_GB"] > 0
    assert 0 <= metrics["cost"]["data_wait"] <= 1
    # It goes on from there, and is evaluated on the GPU and on the CPU alike.
    run_command("train", f"resume={run}", "trainer.max_epochs=2")
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 2
    found = {}
    for accelerator in ("gpu", "cpu"):
        evaluated = tmp_path / accelerator
        choices = [f"trainer.accelerator={accelerator}", "trainer.devices=1", "trainer.precision=32-true"]
        run_command("eval", f"checkpoint={run}", *choices, f"hydra.run.dir={evaluated}")
        found[accelerator] = json.loads((evaluated / "metrics.json").read_text())
    assert found["gpu"]["AP50"] == pytest.approx(found["cpu"]["AP50"], abs=0.02)
