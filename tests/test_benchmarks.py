"""The benchmarks run and write what they promise; how fast is no matter for a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run_benchmark(tmp_path):
    """Runs a script of ``benchmarks/`` with ``--json`` and returns what it wrote there."""

    def run(script, *arguments):
        file = tmp_path / "result.json"
        call = [sys.executable, str(BENCHMARKS / script), *map(str, arguments), "--json", str(file)]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(file.read_text())

    return run


def test_annotations(run_benchmark, tmp_path):
    result = run_benchmark("annotations.py", "--images", 200, "--boxes", 1000, "--folder", tmp_path)
    for reader in ("first", "cached", "pycocotools"):
        counts = {key: result[reader][key] for key in ("images", "boxes", "categories")}
        assert counts == {"images": 200, "boxes": 1000, "categories": 80}
        assert result[reader]["seconds"] > 0
    # Four coordinates and the area in 8 bytes each, class in 4, crowd in 1; images need some more.
    assert result["cached"]["arrays_mb"] == result["first"]["arrays_mb"] > 1000 * 45 / 1e6
    assert set(result["ratios"]) == {"seconds", "resident_mb"}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]  # it cleans up


def test_train_step(run_benchmark):
    result = run_benchmark(
        "train_step.py", "--backbone", "resnet18", "--batch", 1, "--size", 64, 96, "--steps", 2, "--warmup", 0
    )
    arms = result["arms"]
    assert set(arms) == {"torchvision", "lightning-det"}
    assert arms["lightning-det"]["waiting"] == 0 < arms["torchvision"]["waiting"]
    assert result["ratio"] > 0
