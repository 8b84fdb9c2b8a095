"""Runs beside each other: seeds, differences, what is read out of run folders, and the command."""

import json
from pathlib import Path

import pytest
import yaml
from helpers import read, run_forked
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import in_process

from lightning_det.compare import gather_folders
from lightning_det.evaluation.comparison import RunRecord, compare_runs, difference, spread, student_t
from lightning_det.evidence.tables import OTHER_DATA, print_tables, tables
from lightning_det.plotting.comparison import CLASSES, _labels, plot_classes, plot_cost, plot_sizes
from lightning_det.runs.results import read_run, read_runs
from lightning_det.system.errors import UserError

VALUES = st.dictionaries(st.integers(0, 5), st.floats(0, 1), min_size=1)


def test_spread():
    assert spread([0.5]) == {"mean": 0.5, "std": None}
    assert spread([1, 2, 3]) == {"mean": 2, "std": 1}


def test_differences_are_paired():
    """Not of means: the first seed counts on one side only. By hand, t of 1 degree of freedom is 12.706."""
    found = difference({0: 0.9, 1: 0.1, 2: 0.2}, {1: 0.2, 2: 0.5, 7: 0.0})
    assert found["seeds"] == [1, 2]
    assert found["mean"] == pytest.approx(0.2)
    assert found["high"] == pytest.approx(0.2 + 12.7062 * 0.141421 / 2**0.5, abs=1e-4)
    assert found["low"] == pytest.approx(0.4 - found["high"])
    assert difference({0: 0.5}, {0: 0.75}) == {"mean": 0.25, "low": None, "high": None, "seeds": [0]}
    assert difference({0: 0.5}, {1: 0.75}) is None


@given(VALUES, VALUES)
def test_differences_change_their_sign(one, two):
    found, back = difference(one, two), difference(two, one)
    if found is None:
        assert back is None
        assert not one.keys() & two.keys()
        return
    assert found["mean"] == pytest.approx(-back["mean"], abs=1e-12)
    if found["low"] is not None:
        assert (found["low"], found["high"]) == pytest.approx((-back["high"], -back["low"]), abs=1e-9)
        assert found["low"] <= found["mean"] <= found["high"]


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706205), (2, 4.302653), (4, 2.776445), (9, 2.262157), (30, 2.042272), (1000, 1.962339)]
)
def test_student_t(freedom, t):
    """From published tables."""
    assert student_t(freedom) == pytest.approx(t, abs=1e-6)
    assert student_t(freedom, 0.01) > t


def run(name, seed, ap, small=-1.0, classes=None, **cost):
    return RunRecord(name, seed, {"AP": ap, "AP_small": small}, classes or {}, (), cost)


def test_groups():
    runs = [run("b", 1, 0.4), run("a", 0, 0.5, 0.1, {"x": 0.5, "y": -1.0}, pixels=10)]
    runs += [run("b", 0, 0.7, classes={"x": 0.25}), run("a", 2, 0.3, 0.3, {"x": 0.25, "y": 0.5}, pixels=30)]
    result = compare_runs(runs)
    assert result["baseline"] == "b"
    b, a = result["groups"]
    assert (b["name"], b["seeds"], a["name"], a["seeds"]) == ("b", [0, 1], "a", [0, 2])
    assert a["figures"] == {"AP": spread([0.5, 0.3]), "AP_small": spread([0.1, 0.3])}
    assert b["figures"] == {"AP": spread([0.7, 0.4])}  # small objects were not there
    assert a["per_class"] == {"x": spread([0.5, 0.25])}  # y was, with one of the seeds only
    assert (a["cost"], b["cost"]) == ({"pixels": spread([10, 30])}, {})
    assert a["gain"] == {"AP": difference({0: 0.7}, {0: 0.5})}
    assert a["per_class_gain"] == {"x": difference({0: 0.25}, {0: 0.5})}
    assert "gain" not in b
    assert [("gain" in group) for group in compare_runs(runs, "a")["groups"]] == [True, False]


def make(folder, *overrides, seed=0, ap=0.5, of=None, **more):
    """A run folder as `train` leaves it, or `eval` of the training in ``of``."""
    folder.mkdir(parents=True)
    options = [*overrides, f"seed={seed}"] if of is None else [f"checkpoint={of}", *overrides]
    (folder / "overrides.yaml").write_text(yaml.safe_dump(options))
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed}))
    figures = {} if ap is None else {"AP": ap, "AP50": ap, "AP_small": -1.0, "per_class": {"cat": {"AP": ap}}}
    content = figures | more | ({} if of is None else {"checkpoint": str(of)})
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


COST = {"views": 1, "pixels": 4_000_000, "seconds": 2.0, "memory_GB": 0.5}


def test_seeds_of_a_sweep_are_folded(tmp_path):
    for number, (seed, strategy) in enumerate((s, t) for s in (0, 1) for t in ("[snip]", "[flip]")):
        make(tmp_path / str(number), "dataset=coco", f"strategy={strategy}", seed=seed, ap=0.1 * number, cost=COST)
    runs, left_out = read_runs([tmp_path])
    assert [(r.name, r.seed) for r in runs] == [(f"strategy={s}", k) for k in (0, 1) for s in ("[snip]", "[flip]")]
    assert [r.figures["AP"] for r in runs] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert runs[0].cost["pixels"] == 4_000_000
    assert left_out == []
    assert read_runs([tmp_path / "2", tmp_path / "2"])[0][0].name == "dataset=coco strategy=[snip]"


def test_figures_beside_cocos_are_shown_where_a_run_has_them(tmp_path):
    make(tmp_path / "0", "a=0", AP_class_agnostic=0.75, voc07_AP50=0.875)
    make(tmp_path / "1", "a=1")
    head, _, first, second = tables(compare_runs(read_runs([tmp_path])[0]))[0].splitlines()
    assert "| AP_class_agnostic | voc07_AP50 |" in head
    assert "| 75.0 | 87.5 |" in first
    assert "| - | - |" in second
    assert "voc" not in tables(compare_runs(read_runs([tmp_path / "1"])[0]))[0]


def test_options_in_another_order_are_the_same(tmp_path):
    for name, *options in (("0", "a=1", "b=2"), ("1", "b=2", "a=1"), ("2", "a=3")):
        make(tmp_path / name, *options, seed=int(name))
    assert [r.name for r in read_runs([tmp_path])[0]] == ["a=1 b=2", "a=1 b=2", "a=3"]


def test_jobs_come_in_their_order(tmp_path):
    for number in (10, 9, 0):
        make(tmp_path / str(number), f"a={number}")
    assert [r.name for r in read_runs([tmp_path])[0]] == ["a=0", "a=9", "a=10"]


def test_runs_whose_ap_is_undefined_are_left_out(tmp_path):
    undefined = {"cat": {"AP": None, "AP50": None, "boxes": 0}}
    make(tmp_path / "0", "a=0", ap=0.5, AP_large=None, per_class={"cat": {"AP": 0.5}} | {"dog": undefined["cat"]})
    make(tmp_path / "1", "a=1", ap=None, AP=None, AP50=None, per_class=undefined)
    make(tmp_path / "2", "a=2", ap=-1.0)  # as earlier versions wrote it
    runs, left_out = read_runs([tmp_path])
    assert [(run.figures["AP"], "AP_large" in run.figures, dict(run.per_class)) for run in runs] == [
        (0.5, False, {"cat": 0.5})
    ]
    assert [line.split(": ")[1] for line in left_out] == ["its AP is undefined"] * 2
    table = "\n".join(tables(compare_runs(runs)))
    assert "| 50.0 | 50.0 | - | - | - |" in table


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("AP", "per_class", "cost", "mining", "ap_by_size") for value in ("x", [1], 1e400)),
        *(("per_class", {"cat": value}) for value in (None, {}, {"AP": "x"})),
        *(("ap_by_size", [value]) for value in ({}, {"AP": 0.1}, {"from": 0, "to": None, "AP": 0.1})),
        *(("mining", {"inference_pixels": value}) for value in (None, "x", 10**400)),
        ("checkpoint", 3),
    ],
)
def test_figures_that_are_none_are_refused(tmp_path, key, value):
    (tmp_path / "overrides.yaml").write_text("[]")
    (tmp_path / "config.yaml").write_text("seed: 0")
    (tmp_path / "metrics.json").write_text(json.dumps({"AP": 0.5} | {key: value}))
    with pytest.raises(UserError, match=r"metrics\.json: not the figures of a run"):
        read_runs([tmp_path])


def test_an_evaluation_is_named_by_its_training_and_has_its_cost(tmp_path):
    mining = {"views": 3, "pixels": 50, "inference_pixels": 70, "seconds": 4.0}
    for seed in (0, 1):
        cost = COST | {"image_seconds": 0.004}  # of its validation, on other views
        trained = make(tmp_path / f"t{seed}", "strategy=sniper", seed=seed, ap=None, cost=cost, mining=mining)
        make(trained / "one", "test=[]", of="../checkpoints/best.ckpt")
        more = {"ap_by_size": [{"from": 8, "to": 16, "AP": 0.5}], "cost": {"image_seconds": 0.02}}
        make(trained / "two", "test=[flip]", of=trained / "checkpoints/last.ckpt", **more)
    runs, left_out = read_runs([tmp_path])
    names = ("eval(checkpoint=best test=[])", "eval(checkpoint=last test=[flip])")
    assert [(r.name, r.seed) for r in runs] == [(name, seed) for seed in (0, 1) for name in names]
    assert {r.cost["mining_pixels"] for r in runs} == {120}
    assert [r.cost.get("image_seconds") for r in runs] == [None, 0.02] * 2
    assert [row.split(" | ")[-1] for row in tables(compare_runs(runs))[0].splitlines()[2:]] == ["- |", "20.0 ± 0.0 |"]
    assert runs[1].curve == [{"from": 8, "to": 16, "AP": 0.5}]
    assert len(left_out) == 2
    assert "t0: trained without validation; lightning-det eval checkpoint=" in left_out[0]
    alone, gone = make(tmp_path / "alone", of="../gone/checkpoints/best.ckpt"), tmp_path / "gone"
    with pytest.raises(UserError, match=f"evaluated is not in {gone}"):
        read_runs([alone])


def test_weights_of_another_seed_are_no_other_option(tmp_path):
    """What they were trained with is one."""
    starts = [make(tmp_path / f"s{n}", f"optimizer={o}", seed=n) for n, o in ((0, "sgd"), (1, "sgd"), (2, "adamw"))]
    for number, start in enumerate(starts):
        make(tmp_path / f"r{number}", f"weights={start}/checkpoints/last.ckpt", "a=1", seed=number)
    runs, _ = read_runs([tmp_path / f"r{n}" for n in range(3)])
    assert [r.name for r in runs] == ["weights=[optimizer=sgd]"] * 2 + ["weights=[optimizer=adamw]"]
    make(tmp_path / "file", "weights=some.pth", "a=1")
    assert read_runs([tmp_path / "file", tmp_path / "r0"])[0][0].name == "weights=some.pth"


def test_what_cannot_be_compared_is_said(tmp_path):
    first = make(tmp_path / "a/0", "x=1")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run below it"):
        read_runs([tmp_path / "empty"])
    again = make(tmp_path / "a/1", "x=1")
    with pytest.raises(UserError, match=rf"{first} and {again} are runs of the same options"):
        read_runs([tmp_path / "a"])
    (again / "metrics.json").unlink()
    (again / "train.log").touch()
    runs, (line,) = read_runs([tmp_path / "a"])
    assert len(runs) == 1
    assert line == f"{again}: not finished (lightning-det train resume={again} goes on)"
    (again / "train.log").rename(again / "mine.log")
    refused = tmp_path / "a/2"  # before it could say how it was started
    refused.mkdir()
    (refused / "status.json").write_text(json.dumps({"exit_code": 2, "error": "dataset.root: no such folder"}))
    assert read_runs([tmp_path / "a"])[1] == [
        f"{again}: no metrics.json: no training or evaluation that has ended",
        f"{refused}: dataset.root: no such folder",
    ]
    for damage in ('{"AP": 0.5', "[1]"):
        (again / "metrics.json").write_text(damage)
        with pytest.raises(UserError, match=f"{again}/metrics.json"):
            read_runs([tmp_path / "a"])


def test_runs_on_different_data_say_so(tmp_path, capsys):
    def on(folder, name, split=None, limit=1.0, **dataset):
        given = {
            "root": "a",
            "val": "val",
            "classes": None,
            "source": {"_target_": "x", "root": "a", "seed": 0},
        } | dataset
        make(folder, f"n={name}", *([] if split is None else [f"split={split}"]))
        (folder / "config.yaml").write_text(
            yaml.safe_dump({"seed": 0, "dataset": given, "trainer": {"limit_val_batches": limit}})
        )

    on(tmp_path / "0", 0)
    on(tmp_path / "1", 1, root=f"{Path.cwd()}/a", source={"_target_": "y", "root": "a", "seed": 0, "more": 1})
    assert compare_runs(read_runs([tmp_path])[0])["different_data"] == []
    on(tmp_path / "2", 2, root="b", source={"seed": 3}, classes=["cat"])
    result = compare_runs(read_runs([tmp_path])[0])
    here = Path.cwd()
    assert result["different_data"] == [
        f"dataset.root: {here}/a in 0, 1; {here}/b in 2",
        "dataset.classes: None in 0, 1; ['cat'] in 2",
        "dataset.source.seed: 0 in 0, 1; 3 in 2",
    ]
    print_tables(result, [])
    assert OTHER_DATA in capsys.readouterr().out
    on(tmp_path / "3", 3, split="test", test="test", root="b", source={"seed": 3}, classes=["cat"])
    found = compare_runs(read_runs([tmp_path / "2", tmp_path / "3"])[0])["different_data"]
    assert found == ["dataset.split: val in 0; test in 1"]
    on(tmp_path / "4", 4, limit=2)
    found = compare_runs(read_runs([tmp_path / "0", tmp_path / "4"])[0])["different_data"]
    assert found == ["trainer.limit_val_batches: 1.0 in 0; 2 in 1"]


def test_plots(tmp_path):
    """Octaves where all have them, else small to large; names that matplotlib would read as mathematics."""
    curve = [{"from": 8.0, "to": 16.0, "AP": 0.2}, {"from": 16.0, "to": 32.0, "AP": 0.6}]
    sizes = {"AP": 0.5, "AP_small": 0.2, "AP_medium": 0.5, "AP_large": 0.7}
    classes = {f"_class $ {n}": n / 100 for n in range(CLASSES + 20)}
    runs = [RunRecord(n, s, sizes, classes, curve, {"pixels": 1e6 * (s + 1)}) for n in ("a", "$b") for s in (0, 1)]
    groups = compare_runs(runs)["groups"]
    plot_sizes(groups, tmp_path / "curve.png", "title")
    assert groups[0].pop("curve")
    groups[0]["curve"] = []
    plot_sizes(groups, tmp_path / "sizes.png")
    assert plot_cost(groups, tmp_path / "cost.png") is not False
    assert plot_classes(groups, "a", tmp_path / "classes.png") is not False
    for name in ("curve", "sizes", "cost", "classes"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width == 880
    assert not plot_cost([{"name": "x", "cost": {}, "figures": {}}], tmp_path / "no.png")
    assert not plot_classes(groups[:1], "a", tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def test_labels_of_long_names_are_told_apart():
    """Names are options joined by spaces, or by nothing; the numbers are those of the tables."""
    strategy = "strategy=[sniper_no_negatives,flip,ohem,class_balanced,distort,more]"
    names = ["a", f"{strategy} seed=1", f"{strategy} seed=2"]
    labels = _labels([{"name": name} for name in names])
    assert [*labels] == names
    assert len({*labels.values()}) == 3
    assert labels["a"] == "0: a"
    assert labels[names[2]].startswith("2: strategy=[sniper_no_negatives,flip,ohem,")
    assert _labels([{"name": "a"}, {"name": strategy}])[strategy].startswith("strategy=[sniper_no_negatives")


def test_folders_alone_are_the_runs(tmp_path):
    (tmp_path / "lr=1").mkdir()
    assert gather_folders([f"{tmp_path}/lr=1"]) == [f'runs=["{tmp_path}/lr=1"]']
    assert gather_folders(["a b", "baseline=1", "c", "--cfg", "job"]) == [
        "baseline=1",
        "--cfg",
        "job",
        'runs=["a b", "c"]',
    ]
    assert gather_folders(["runs=[a]"]) == ["runs=[a]"]


def test_runs_without_a_partner_are_said(capsys):
    """Those of other seeds than the baseline's have no part in a gain."""
    runs = [run("a", seed, 0.1 * seed) for seed in (1, 2)] + [run("b", 2, 0.5), run("b", 3, 0.9), run("c", 4, 0.5)]
    result = compare_runs(runs)
    assert [group.get("pairs") for group in result["groups"]] == [None, [2], []]
    text = "\n".join(tables(result))
    assert "| b | 1 of 2 | +30.0 |" in text
    assert "| c | 0 of 1 | - |" in text
    print_tables(result, [])
    printed = capsys.readouterr().out
    assert "1: AP +30.0 over the baseline, one pair of equal seed (1 of 2 seeds)" in printed
    assert "2: no seed in common with the baseline, so no gain" in printed


def test_tables_escape_names():
    (table,) = tables(compare_runs([run("a|b\n", 0, 0.5)]))
    assert r"| 0 | a\|b  | 1 | 50.0 | - |" in table


@pytest.mark.slow
def test_the_command(tmp_path):
    for seed in (0, 1):
        make(tmp_path / f"runs/a{seed}", "x=1", seed=seed, ap=0.25 + 0.01 * seed, cost=COST)
        make(tmp_path / f"runs/b {seed}", "x=2", seed=seed, ap=0.5 + 0.03 * seed, cost=COST)
    (tmp_path / "runs/a1/metrics.json").unlink()
    (tmp_path / "runs/a1/train.log").touch()
    call = ["compare", f"{tmp_path}/runs", f"hydra.run.dir={tmp_path}/out"]
    done = run_forked(*call, "baseline=0")
    assert done.returncode == 0, done.stderr
    assert "0: x=1\n1: x=2\n" in done.stdout
    assert "1: AP +25.0 over the baseline, one pair of equal seed (1 of 2 seeds)\n" in done.stdout
    assert f"left out: {tmp_path}/runs/a1: not finished" in done.stdout
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/out"
    text = (tmp_path / "out/compare.md").read_text()
    assert "| 1 | x=2 | 2 | 51.5 ± 2.1 | 51.5 ± 2.1 | - | - | - | 4 ± 0 | 2 ± 0 | 0.5 ± 0.0 | - |" in text
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"ap_by_size.png", "ap_by_pixels.png", "per_class.png"}
    assert read(tmp_path / "out/compare.json")["baseline"] == "x=1"
    refused = in_process.run(*call, "baseline=2")
    assert refused.code == 2
    assert refused.errors.strip().endswith("error: baseline=2: the table's rows are numbered 0 to 1")
    nothing = in_process.run("compare")
    assert nothing.code == 2
    assert "error: nothing to compare: lightning-det compare RUN_OR_SWEEP_FOLDERS..." in nothing.errors


def test_the_largest_class_and_the_pixels_of_inference_are_recorded(tmp_path):
    rows = {"truck": {"AP": 0.9, "AP50": 1.0, "boxes": 2}, "car": {"AP": 0.25, "AP50": 0.5, "boxes": 970}}
    folder = make(tmp_path / "0", "a=0", per_class=rows, pixels=5_000_000)
    run = read_run(folder, "a", 0)
    assert (run.figures["AP_largest_class"], run.figures["AP50_largest_class"]) == (0.25, 0.5)
    assert run.cost["test_pixels"] == 5_000_000
    assert not any("largest_class" in name for name in read_run(make(tmp_path / "1", "a=1"), "b", 0).figures)
