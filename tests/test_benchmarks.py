"""The benchmarks run and write what they promise; how fast is no matter for a test."""

from pathlib import Path

import pytest
from helpers import read, run_forked
from support.spawning import prepare_benchmark

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run_benchmark(tmp_path):
    """Runs a script of ``benchmarks/`` with ``--json`` and returns what it wrote there."""

    def run(script, *arguments):
        file = tmp_path / "result.json"
        call = (BENCHMARKS / script, "--json", str(file), *map(str, arguments))
        done = run_forked(*call, cwd=tmp_path, prepare=prepare_benchmark)
        assert done.returncode == 0, done.stderr
        return read(file)

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


@pytest.mark.parametrize(
    "detector", [["ssd"], ["retinanet", "--size", 64, 96], ["fcos", "--size", 64, 96]], ids=lambda words: words[0]
)
def test_train_step_of_other_detectors(run_benchmark, detector):
    result = run_benchmark("train_step.py", "--detector", *detector, "--batch", 1, "--steps", 1, "--warmup", 0)
    assert result["arms"]["lightning-det"]["waiting"] == 0 < result["arms"]["torchvision"]["waiting"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--detector", "rfcn"),
        ("--detector", "ssd", "--size", "320", "320"),
        ("--detector", "fcos", "--backbone", "resnet18"),
    ],
)
def test_comparisons_that_mean_nothing_are_refused(wrong):
    done = run_forked(BENCHMARKS / "train_step.py", *wrong)
    assert done.returncode == 2
    assert "error: " in done.stderr


def test_single_shot(run_benchmark):
    result = run_benchmark("single_shot.py", "--classes", 2, "--batch", 1, "--steps", 1, "--warmup", 0)
    plain, checkpointed, ssd = result["networks"].values()
    for row in (plain, checkpointed, ssd):
        assert row.pop("peak_gib") == 0  # not asked for
        assert min(row.values()) > 0
    assert result["saved"]["kept"] == 1 - checkpointed["kept_gib"] / plain["kept_gib"] > 0.4


def test_train_step_with_ohem(run_benchmark):
    small = ("--size", 64, 96, "--steps", 2, "--warmup", 0, "--rois", 8, "--proposals", 24, "--memory")
    result = run_benchmark(
        "train_step.py", "--compare", "ohem", "--detector", "rfcn", "--backbone", "resnet18", "--batch", 1, *small
    )
    assert list(result["arms"]) == ["random sampling", "OHEM"]
    for arm in result["arms"].values():
        assert arm["waiting"] == 0
        assert arm["peak_gib"] > 0
    assert result["arms"]["OHEM"]["operators"] > result["arms"]["random sampling"]["operators"]
    assert result["ratio"] > 0


def test_roi_stage(run_benchmark):
    result = run_benchmark(
        "roi_stage.py", "--backbone", "resnet18", "--size", 64, 96, "--rois", 12, "--classes", 3, "--steps", 1
    )
    for row in result.values():
        assert 0 < row["per_roi"] < row["rfcn"]
        assert row["ratio"] == row["c4"] / row["rfcn"] > 0


def test_loader(run_benchmark):
    """Both pipelines, on generated images and with a worker, and a training of three steps."""
    small = ["--sizes", "640 x 480", "--images", 8, "--rounds", 1, "--steps", 3, "--kinds", "chips"]
    settings = ["dataset.resolution=[96,128]", "dataset.sniper.size=64", "dataset.sniper.scales=[1.0,0.5,[-1,64]]"]
    result = run_benchmark("loader.py", "--workers", 0, 1, *small, "--", *settings, "data.batch_size=4")
    assert [(row["images"], row["workers"]) for row in result["loaders"]] == [("640 x 480", 0), ("640 x 480", 1)]
    for row in result["loaders"]:
        arms = row["arms"]
        assert arms["torchvision"]["views"] == 8
        assert arms["lightning-det"]["views"] > 8  # several chips of an image
        assert min(figure for arm in arms.values() for figure in arm.values()) > 0
        assert row["ratios"]["per_core"] == arms["lightning-det"]["per_core"] / arms["torchvision"]["per_core"]
    for row in result["trainings"]:
        assert row["views_per_s"] > 0
        assert 0 < row["data_wait"] < 1
