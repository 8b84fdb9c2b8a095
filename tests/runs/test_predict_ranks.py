"""`predict` on two ranks ends, and finds in every image what one process finds, once."""

import numpy as np
import pytest
from helpers import environments, read, start_forked
from support.datasets import write_image
from support.in_process import run
from support.trained import trained_run

RANKS = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.mark.slow
def test_two_ranks_share_the_images(tmp_path, tmp_path_factory, shapes_root):
    """Five batches: one rank has an image less, and nothing may be predicted twice to make up for it."""
    for number in range(5):
        write_image(tmp_path / f"photos/{number}.png", 128, 96, seed=number)
    checkpoint = f"checkpoint={trained_run(tmp_path_factory, shapes_root)}"
    options = [checkpoint, f"source={tmp_path / 'photos'}", "data.test_batch_size=1", "data.num_workers=0"]
    own = [*options, *RANKS, f"hydra.run.dir={tmp_path / 'two'}", "coco=true"]
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    processes = [
        start_forked("predict", own, log, log, env=environment)
        for log, environment in zip(logs, environments(2), strict=True)
    ]
    done = run("predict", *options, f"hydra.run.dir={tmp_path / 'one'}", "pictures=false")
    assert done.code == 0, done.errors
    for process, log in zip(processes, logs, strict=True):
        process.join(300)
        assert process.exitcode == 0, log.read_text()
    together, alone = (read(tmp_path / folder / "predictions.json")["images"] for folder in ("two", "one"))
    assert [image["file"] for image in together] == [f"{number}.png" for number in range(5)]
    for found, expected in zip(together, alone, strict=True):
        assert found["file"] == expected["file"]
        mine, other = ([detection["score"] for detection in image["detections"]] for image in (found, expected))
        assert len(mine) == len(other) > 0
        np.testing.assert_allclose(mine, other, atol=1e-4)  # processes round differently
    rows = read(tmp_path / "two/coco_results.json")
    assert len(rows) == sum(len(image["detections"]) for image in together)
    assert sorted(path.name for path in (tmp_path / "two/pictures").iterdir()) == [f"{n}.png" for n in range(5)]
    assert "5 images" in logs[0].read_text()
    assert "images" not in logs[1].read_text()
