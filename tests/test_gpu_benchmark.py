"""The benchmark for GPUs, as far as it runs without one."""

import argparse
import sys
import time
from pathlib import Path
from queue import Queue
from threading import Barrier, Event

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import gpu
import gpu_training

from lightning_det.data.coco import Coco


def test_arms_are_those_that_the_case_has():
    assert gpu.CASES["fpn"].without_absent(gpu.ARMS) == list(gpu.ARMS)
    assert gpu.CASES["ssd"].without_absent(gpu.ARMS) == ["torchvision", "eager", "parts", "step"]
    assert gpu.CASES["chips"].without_absent(["torchvision", "step"]) == ["step"]


def test_photographs_are_a_dataset():
    with gpu_training.photographs(3, (320, 256)) as root:
        store, problems = Coco(str(root)).read("train2017")
    assert (len(store), len(store.boxes), problems) == (3, 24, [])


@pytest.mark.slow
def test_figures_of_arms_and_errors_become_rows(monkeypatch):
    start = gpu.start

    def fail_once(case, name, *arguments):
        if name == "parts":
            raise RuntimeError("out of memory | at once\nmore")
        return start(case, name, *arguments)

    monkeypatch.setattr(gpu, "start", fail_once)
    turns, results = gpu.Turns(Barrier(1), Event(), Event()), Queue()
    turns.mine.set()
    gpu.run_case("smoke", ["torchvision", "eager", "parts"], "cpu", 2, turns, results)
    name, found = results.get_nowait()
    assert (name, list(found), turns.next.is_set()) == ("smoke", ["torchvision", "eager", "parts"], True)
    assert found["eager"]["ratio"] > 0
    assert found["eager"]["images_per_second"] == pytest.approx(1 / found["eager"]["seconds"])
    lines = gpu.lines_of(gpu.CASES["smoke"], found)
    assert {line.count("|") for line in [*gpu.HEADER.split("\n"), *lines]} == {13}
    assert any("out of memory / at once" in line for line in lines)


@pytest.mark.slow
def test_cases_run_in_processes_and_one_that_breaks_does_not_hold_the_others_up(monkeypatch):
    monkeypatch.setitem(gpu.CASES, "unknown", gpu.CASES["smoke"])  # the new processes do not have it
    options = argparse.Namespace(cases=["unknown", "smoke"], arms=["eager"], device="cpu", pairs=1)
    done = list(gpu.all_cases(options, time.monotonic() + 300))
    assert [(name, list(found)) for name, found in done] == [("smoke", ["eager"])]


@pytest.mark.slow
def test_waiting_for_data_is_a_share_of_the_time():
    found = gpu_training.data_wait("resnet18", 1, "null", "cpu", images=3, steps=2)
    assert 0 < found["wait_share"] < 1
    assert found["images_per_second"] > 0
