"""docs/matrix.md says what the options do together; a part of it is tried again here."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import matrix  # noqa: E402
from matrix_page import ALONE, Cell, Matrix, cells, general, read, write  # noqa: E402

PAGE = (ROOT / "docs/matrix.md").read_text()
OUTCOMES = read(PAGE)
STRATEGIES, DETECTORS, TESTS = (matrix.options(group) for group in ("strategy", "detector", "test"))
BACKBONES = dict(re.findall(r"`(\w+)` has `backbone=(\w+)`", PAGE))

PAIRS = [(s, DETECTORS[(n + 3 * (n // len(DETECTORS))) % len(DETECTORS)]) for n, s in enumerate(STRATEGIES)]
"""Every strategy and every detector at least once, and the largest only once."""


def rows(table):
    return list(dict.fromkeys(cell.row.partition(" after ")[0] for cell in OUTCOMES if cell.table == table))


def test_the_page_has_every_option():
    """Otherwise: python benchmarks/matrix.py"""
    assert rows("Training") == [*STRATEGIES, *matrix.COMBINATIONS]
    assert rows("Evaluation") == [ALONE, *TESTS]
    assert rows("Export") == ["export"]
    for table in ("Training", "Evaluation", "Export"):
        for row in {cell.row for cell in OUTCOMES if cell.table == table}:
            if " after " not in row:  # of a training that was refused there is nothing to evaluate
                assert [c.column for c in OUTCOMES if (c.table, c.row) == (table, row)] == DETECTORS, row


def test_every_refusal_is_a_message():
    assert not [cell for cell, outcome in OUTCOMES.items() if outcome.startswith(matrix.BROKEN)]
    assert {outcome for outcome in OUTCOMES.values() if outcome and ";" not in outcome} == set()  # each with a remedy


def test_a_page_is_read_as_it_was_written():
    refused = "strategy=ohem is not for detector=fcos; leave strategy=ohem out"
    made = Matrix({"fcos": "tiny", "ssd": "tiny"}, exports={"fcos": "", "ssd": "no"})
    made.training = {"ohem": {"fcos": refused, "ssd": ""}, "snip,ohem": {"fcos": refused, "ssd": ""}}
    made.evaluation = {
        "flip": {"ohem": {"fcos": None, "ssd": ""}, "snip,ohem": {"fcos": "", "ssd": ""}},
        "tiles": {"ohem": {"fcos": None, "ssd": ""}, "snip,ohem": {"fcos": None, "ssd": "test=tiles not here"}},
        "warp": {"ohem": {"fcos": "no", "ssd": ""}, "a": {"fcos": "yes", "ssd": ""}, "b": {"fcos": "yes", "ssd": None}},
    }
    found = read(write(made, "Now.", "All."))
    assert found == {cell: outcome for cell, outcome in cells(made).items() if outcome is not None}
    general_words = "strategy=STRATEGY is not for detector=DETECTOR; leave strategy=STRATEGY out"
    assert found[Cell("Training", "snip,ohem", "fcos")] == found[Cell("Training", "ohem", "fcos")] == general_words
    assert found[Cell("Evaluation", "flip", "fcos")] == ""
    assert found[Cell("Evaluation", "tiles after snip,ohem", "ssd")] == "test=TEST not here"
    assert Cell("Evaluation", "tiles", "fcos") not in found
    assert found[Cell("Evaluation", "tiles", "ssd")] == ""
    assert (found[Cell("Evaluation", "warp", "fcos")], found[Cell("Evaluation", "warp", "ssd")]) == ("yes", "")
    assert found[Cell("Evaluation", "warp after ohem", "fcos")] == "no"


def test_what_eval_reads_tells_inference_from_training():
    """Of two runs that differ in what only a training reads, one is evaluated."""

    def settings(**changed):
        plain = {
            "detector": {"roi_head": {"box_beta": 1.0}, "roi_size": 7},
            "views": {"train": 1, "test": {"flip": 2}},
        }
        return plain | {"test": {"nms_iou": 0.5}, "selection": {"rois": 3}, "dataset": {"pyramid": 4}} | changed

    first = matrix.read_by_eval(settings())
    assert first == matrix.read_by_eval(settings(detector={"roi_head": {"box_beta": 2.0}, "roi_size": 7}))
    assert first == matrix.read_by_eval(settings(views={"train": 5, "test": {"flip": 2}}, selection=None))
    for changed in (
        {"detector": {"roi_head": {"box_beta": 1.0}, "roi_size": 8}},
        {"views": {"train": 1, "test": {"flip": 3}}},
        {"test": {"nms_iou": 1.0}},
        {"dataset": {"pyramid": 5}},
    ):
        assert first != matrix.read_by_eval(settings(**changed)), changed


def evaluated(run, strategy, detector, test):
    """The cell of an evaluation, and what came of it."""
    trained = matrix.Trained.of(run)
    outcome = matrix.attempt(test, lambda: matrix.evaluate(trained, test))
    named = [c.row for c in OUTCOMES if c.table == "Evaluation" and c.row.startswith(f"{test} after ")]
    row = next((r for r in named if strategy in r.partition(" after ")[2].split(" and ")), test)
    return {Cell("Evaluation", row, detector): general(outcome, TEST=test, DETECTOR=detector)}


@pytest.mark.slow
def test_what_the_page_says_happens(tmp_path):
    """Every strategy with some detector, and every test option with some of these runs."""
    tests, found = list(TESTS), {}
    for strategy, detector in PAIRS:
        run, backbone = tmp_path / strategy, BACKBONES.get(detector, "tiny")
        outcome = matrix.attempt(strategy, lambda d=detector, b=backbone, s=strategy, r=run: matrix.train(d, b, s, r))
        found[Cell("Training", strategy, detector)] = general(outcome, STRATEGY=strategy, DETECTOR=detector)
        if not outcome and tests and backbone == "tiny":  # quick
            found |= evaluated(run, strategy, detector, tests.pop(0))
    assert not tests
    assert found == {cell: OUTCOMES.get(cell) for cell in found}
    assert any(found.values())  # something was refused
    assert (tmp_path / "sniper/proposals.npz").exists()
    assert dict(PAIRS)["sniper"] in ("dsod", "fcos", "retinanet", "rtdetr", "ssd")  # without a proposal network
