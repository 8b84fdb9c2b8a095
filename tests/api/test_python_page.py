"""The listings of docs/python.md, from top to bottom."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import make_yolo
from support.trained import trained_run

from lightning_det.evaluation.thresholds import Thresholds

PAGE = Path(__file__).parents[2] / "docs/python.md"


@pytest.mark.slow
def test_the_page(shapes_root, tmp_path, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = trained_run(tmp_path_factory, shapes_root)
    shutil.copytree(run / "checkpoints", "runs/first/checkpoints")
    Thresholds({}, 0.05, {}, {"ring": 9}, 8, "val").write(Path("runs/first/thresholds.json"))
    make_yolo(Path("parts"))
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for name, height, width in (("street.jpg", 96, 128), ("photos/0.jpg", 96, 128), ("aerial.jpg", 400, 700)):
        pixels = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(name)
    listings = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(listings) == 7
    scope = {}
    for number, listing in enumerate(listings, 1):
        # One epoch instead of thirty, on smaller images.
        quick = listing.replace("max_epochs=30, check_val_every_n_epoch=10", "max_epochs=1")
        exec(compile(quick.replace("[240,320]", "[96,128]"), f"listing {number}", "exec"), scope)
    printed = capsys.readouterr().out
    assert re.search(r"^[\w-]+ 0\.\d\d at \[", printed, flags=re.MULTILINE)
    assert re.search(r"^<\d+ detections in aerial.jpg", printed, flags=re.MULTILINE)
    assert "Average Precision @[ IoU=0.50:0.95 | size=all" in printed
    assert scope["detector"].classes == ("cat", "dog")
    assert len(scope["rows"]) > 10
    assert isinstance(scope["loss"], torch.Tensor)
    assert scope["tiled"].settings.views.test.windows.size == 320
