"""The claims' protocols compose, run, go on, and are written up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, read, run_forked
from omegaconf import OmegaConf
from support import in_process

from lightning_det.commands import claims
from lightning_det.config import CONF, validate
from lightning_det.config.data import build_data, usable_split
from lightning_det.data.sampler import TrainBatches
from lightning_det.evaluation.comparison import RunRecord, compare_runs
from lightning_det.evidence import execution, records
from lightning_det.evidence.execution import run_experiment
from lightning_det.evidence.experiments import (
    Arm,
    Budget,
    Experiment,
    parse_experiment,
    select_experiments,
    table_rows,
    training_folder,
)
from lightning_det.evidence.pages import page, section, verdict
from lightning_det.runs.composition import overridden_keys
from lightning_det.runs.unread import report_unreachable
from lightning_det.system.errors import ConfigError, UserError

CLAIMS = {
    f"{claim} {name}": parse_experiment(node, f"{claim} {name}")
    for file in sorted((CONF / "claim").glob("*.yaml"))
    for claim, content in OmegaConf.to_container(OmegaConf.load(file)).items()
    if claim != "defaults"
    for name, node in content.items()
}
ARMS = [(name, arm) for name, made in CLAIMS.items() for arm in made.arms]

MEGAPIXEL = 1_000_000
"""The canvas of protocols whose images differ in size."""


@pytest.fixture
def checked(composed):
    """The configuration of a command as it is checked before it starts."""
    return lambda command, overrides: validate(composed(command, *overrides), {}, overridden_keys())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arm"), ARMS, ids=[f"{name} {arm}" for name, arm in ARMS])
def test_arms_are_trainings_and_evaluations(checked, caplog, name, arm):
    made = CLAIMS[name]
    cfg = checked("train", made.training(arm, 3, "laptop", Path("runs")))
    assert cfg.seed == 3
    report_unreachable(cfg)
    assert not caplog.text
    assert cfg.trainer.max_steps * made.arms[arm].canvases == pytest.approx(
        made.arms[arm].share * made.budgets["laptop"].canvases, abs=made.arms[arm].canvases / 2
    )
    if made.canvas == MEGAPIXEL:
        return
    height, width = cfg.dataset.resolution
    assert made.canvas == height * width
    # What its batches hold, chips or whole images, is what the protocol says they do.
    assert made.arms[arm].canvases == pytest.approx(pixels_of(cfg) / made.canvas)


EVALUATIONS = sorted({tuple(o) for made in CLAIMS.values() for a in made.arms.values() for o in a.tests.values()})


@pytest.mark.slow
@pytest.mark.parametrize("options", EVALUATIONS, ids=" ".join)
def test_evaluations_compose(checked, options):
    checked("eval", ["checkpoint=x", *options])


def pixels_of(cfg):
    """Of a batch of the finest scale."""
    windows = cfg.views.train.windows or {}
    height, width = [windows["size"]] * 2 if "size" in windows else cfg.views.train.scales.resolutions[0]
    return cfg.data.batch_size * height * width


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arm"), [(n, a) for n, a in ARMS if n in ("drone faster_rcnn", "drone parts")])
def test_steps_on_images_of_mixed_size_have_the_pixels_of_the_protocol(drone, checked, name, arm):
    """Padding included, on average over an epoch; all arms then have equal pixels."""
    made = CLAIMS[name]
    cfg = checked("train", [*made.training(arm, 0, "laptop", Path("runs")), f"dataset.root={drone}"])
    data = build_data(cfg, usable_split(cfg, "train"), None)
    store, canvas = data.train, data.train_views.canvas

    def pixels(batch):
        sides = [(canvas, canvas)] if canvas else [look.view.size for look in batch]
        return len(batch) * int(np.prod([-(-max(side) // 32) * 32 for side in zip(*sides, strict=True)]))

    batches = TrainBatches(store, data.train_views, data.batch_size, data.grouping, 0).batches()
    assert made.canvas * made.arms[arm].canvases == pytest.approx(np.mean([pixels(b) for b in batches]), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_gpu_budgets_compose(checked, name):
    made = CLAIMS[name]
    arm = list(made.arms)[-1]
    cfg = checked("train", made.training(arm, 0, "gpu", Path("runs")))
    evaluated = checked("eval", ["checkpoint=x", *made.budgets["gpu"].tests])
    assert cfg.trainer.accelerator == evaluated.trainer.accelerator == "gpu"
    if made.canvas == MEGAPIXEL:
        return
    canvas = cfg.dataset.resolution[0] * cfg.dataset.resolution[1]
    assert made.arms[arm].canvases * made.budgets["gpu"].batch == pytest.approx(pixels_of(cfg) / canvas)


def test_single_scale_on_the_pyramid_is_among_the_baselines():
    for claim in ("snip from_scratch", "snip fine_tuned", "sniper equal_pixels", "sniper blood_cells"):
        assert "single_scale, pyramid" in table_rows(CLAIMS[claim])


def arms(**more):
    return {"one": Arm(["x=1"], 2, 4.0, {"t": ["y=1"]}, **more), "two": Arm(["x=2"], 1, 2.0, {"t": [], "u": []})}


def small(**more):
    budgets = {"laptop": Budget(8), "gpu": Budget(64, 3, ["g=1"], ["e=1"])}
    return Experiment(**{"title": "t", "equal": "pixels", "canvas": 10, "budgets": budgets, "arms": arms(),
                         "baseline": "one, t", "settings": ["all=1"], **more})  # fmt: skip


def test_options_of_a_training():
    made = small(arms=arms(start="two", share=0.5))
    stop = ["trainer.max_epochs=-1", "trainer.limit_val_batches=0"]
    weights = 'weights="runs/two-5/checkpoints/last.ckpt"'
    assert made.training("one", 5, "laptop", Path("runs")) == [
        *("all=1", "x=1", "data.batch_size=2", "trainer.max_steps=1", *stop, weights, "seed=5")
    ]
    assert made.training("two", 5, "gpu", Path("runs")) == [
        *("all=1", "g=1", "x=2", "data.batch_size=3", "trainer.max_steps=11", *stop, "seed=5")
    ]
    with pytest.raises(ConfigError, match="less than one step of one"):
        replace(made, budgets={"laptop": Budget(1)}).training("one", 0, "laptop", Path("runs"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"basline": "x"}, "basline"),
        ({"baseline": "one, u"}, "no arm and test 'one, u'; there are one, t; two, t"),
        ({"bars": [{"figure": "AP", "better": "two, t", "than": ["three, t"], "by": 0}]}, "three, t"),
        ({"bars": [{"figure": "AP"}]}, "better"),
        ({"arms": {"one": {"settings": []}}}, "batch"),
        ({"budgets": {"laptop": {"pixels": 1}}}, "pixels"),
        (
            {"arms": {"one": {"settings": [], "batch": 1, "canvases": 1, "tests": {"t": []}, "start": "tow"}}},
            "one: start=tow: there are one",
        ),
    ],
)
def test_protocols_that_make_no_sense(change, words):
    node = {"title": "t", "equal": "pixels", "canvas": 1, "budgets": {}, "baseline": "one, t"}
    node["arms"] = {"one": {"settings": [], "batch": 1, "canvases": 1, "tests": {"t": []}},
                    "two": {"settings": [], "batch": 1, "canvases": 1, "tests": {"t": []}}}  # fmt: skip
    assert table_rows(parse_experiment(node, "claim")) == ["one, t", "two, t"]
    with pytest.raises(ConfigError, match=words):
        parse_experiment(node | change, "claim")


@pytest.fixture
def commands(monkeypatch):
    """Commands that are not run, but leave what they would."""
    called = []

    def fake(name, folder, options):
        called.append((name, folder.name, list(options)))
        if any(o in fake.broken for o in options):
            raise UserError(f"{folder.name} broke")
        folder.mkdir(parents=True, exist_ok=True)
        again = options[0].startswith("resume=")
        if not again:
            (folder / "overrides.yaml").write_text(json.dumps(list(options)))
        more = {"cost": {"pixels": 7}} if name == "train" else {"checkpoint": "../checkpoints/last.ckpt"}
        (folder / "metrics.json").write_text(json.dumps({"AP": fake.AP} | more))

    fake.broken, fake.AP = set(), 0.5
    monkeypatch.setattr(execution, "_command", fake)
    return called, fake


def test_what_is_finished_is_not_run_again(commands, monkeypatch, tmp_path):
    called, _ = commands
    monkeypatch.setattr(execution, "cores", lambda: 6)
    runs = run_experiment(small(arms=arms(start="two")), [0, 1], "laptop", tmp_path, jobs=2)
    rows = [("one, t", 0), ("one, t", 1), ("two, t", 0), ("two, u", 0), ("two, t", 1), ("two, u", 1)]
    assert [(r.name, r.seed) for r in runs] == rows
    assert [r.cost for r in runs] == [{"pixels": 7}] * 6
    assert len(called) == 4 + 6
    assert run_experiment(small(arms=arms(start="two")), [0, 1], "laptop", tmp_path, jobs=2) == runs
    assert len(called) == 10
    (tmp_path / "one-1/metrics.json").unlink()
    run_experiment(small(arms=arms(start="two")), [0, 1, 2], "laptop", tmp_path, jobs=1)
    assert called[10:][-1][1] != "one-1"
    # Loader processes are no part of the protocol: they are what the machine has to spare.
    assert ("train", "one-1", [f'resume="{tmp_path}/one-1"', "data.num_workers=5"]) in called[10:]
    assert len(called) == 10 + 1 + 5


def test_what_others_start_from_comes_first(commands, tmp_path):
    """Of all seeds: else a process would wait for the first one while nothing else runs."""
    called, _ = commands
    run_experiment(small(arms=arms(start="two")), [0, 1], "laptop", tmp_path, jobs=1)
    assert [folder for name, folder, _ in called if name == "train"] == ["two-0", "two-1", "one-0", "one-1"]


def test_a_budget_sets_evaluations_too(commands, tmp_path):
    called, _ = commands
    run_experiment(small(), [0], "gpu", tmp_path, jobs=1)
    options = {folder: options[1:] for name, folder, options in called if name == "eval"}
    assert options == {"t": ["e=1"], "u": ["e=1"]}


def test_another_protocol_does_not_mix_with_old_runs(commands, tmp_path):
    run_experiment(small(), [0], "laptop", tmp_path, jobs=1)
    with pytest.raises(UserError, match=r"one-0 holds a run of another protocol \(all=1 all=2\); remove it"):
        run_experiment(small(settings=["all=2"]), [0], "laptop", tmp_path, jobs=1)
    tested = {"one": Arm(["x=1"], 2, 4.0, {"t": ["y=2"]})}
    with pytest.raises(UserError, match=r"one-0/t holds a run of another protocol \(y=1 y=2\); remove it"):
        run_experiment(small(arms=tested), [0], "laptop", tmp_path, jobs=1)


@pytest.fixture
def asked(tmp_path):
    """What the command was asked for: one small experiment."""
    arm = {"settings": [], "batch": 1, "canvases": 1, "tests": {"t": []}}
    node = {"title": "t", "equal": "pixels", "canvas": 1, "budgets": {"laptop": {"canvases": 2}}}
    node |= {"arms": {"one": arm, "two": arm}, "baseline": "one, t"}
    given = {"protocols": {"c": {"e": node}}, "seeds": 1, "budget": "laptop", "experiments": None, "jobs": 1}
    given["add"] = False
    return OmegaConf.create(given | {"folder": f"{tmp_path}/runs", "docs": f"{tmp_path}/docs", "settings": []})


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seeds": 0}, "seeds=0"), ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: .* each of them once"), ({"jobs": 0}, "jobs=0")],
)
def test_what_nobody_can_ask_for(asked, change, words):
    with pytest.raises(ConfigError, match=words):
        claims.claims(OmegaConf.merge(asked, change))


def test_figures_keep_their_day_their_machine_and_their_settings(commands, monkeypatch, asked, tmp_path):
    """Those of the runs, not of the last start; seconds are those of the seeds in the table."""
    _, fake = commands
    file = tmp_path / "docs/claims/c-e-laptop.json"
    monkeypatch.setattr(records, "_steps", lambda folder: 2)
    monkeypatch.setattr(records, "elapsed_seconds", lambda folder: 10.0)
    monkeypatch.setattr(records, "hardware", lambda: "one machine")
    claims.claims(asked)
    for folder in (tmp_path / "runs").rglob("metrics.json"):
        (folder.parent / "elapsed.json").touch()
    monkeypatch.setattr(records, "hardware", lambda: "another machine")
    claims.claims(asked)
    assert (read(file)["hardware"], read(file)["process_seconds"]) == ({"one machine": [0]}, 40)
    fake.AP = 0.7
    claims.claims(OmegaConf.merge(asked, {"seeds": 2}))
    assert (read(file)["hardware"], read(file)["process_seconds"]) == ({"another machine": [0, 1]}, 40)
    assert "claims claim=c 'experiments=[e]' budget=laptop 'seeds=[0,1]'`" in (tmp_path / "docs/claims.md").read_text()
    for folder in (tmp_path / "runs").rglob("metrics.json"):
        (folder.parent / "elapsed.json").touch()
    claims.claims(asked)  # the other seed has taken time, too
    assert read(file)["process_seconds"] == 40
    with pytest.raises(ConfigError, match=r"c-e-laptop\.json has figures with no further settings"):
        claims.claims(OmegaConf.merge(asked, {"settings": ["a=1"], "folder": f"{tmp_path}/others"}))
    claims.claims(
        OmegaConf.merge(asked, {"settings": ["a=1"], "folder": f"{tmp_path}/others", "docs": f"{tmp_path}/o"})
    )
    assert """'settings=["a=1"]'`""" in (tmp_path / "o/claims.md").read_text()


def test_further_settings_hold_for_all_arms(asked):
    given = {
        "settings": ["capacity.rois=64"],
        "protocols": {"c": {"e": {"arms": {"two": {"settings": ["capacity.rois=24"]}}}}},
    }
    (experiment,) = select_experiments(OmegaConf.merge(asked, given)).values()
    for arm in experiment.arms:
        rois = [o for o in experiment.training(arm, 0, "laptop", Path()) if o.startswith("capacity.rois=")]
        assert rois[-1] == "capacity.rois=64"
    for setting in ("data.batch_size=4", "+trainer.max_steps=10", "seed=3"):
        with pytest.raises(ConfigError, match=r"from its arm, its budget and its seed"):
            select_experiments(OmegaConf.merge(asked, {"settings": [setting]}))


def test_seeds_are_added_to_a_record_whose_runs_are_gone(commands, monkeypatch, asked, tmp_path):
    called, fake = commands
    file = tmp_path / "docs/claims/c-e-laptop.json"
    monkeypatch.setattr(records, "_steps", lambda folder: 2)
    monkeypatch.setattr(records, "elapsed_seconds", lambda folder: 10.0)
    monkeypatch.setattr(records, "hardware", lambda: "one machine")
    claims.claims(OmegaConf.merge(asked, {"add": True}))
    assert ", one machine. All of it" in (tmp_path / "docs/claims.md").read_text()
    (tmp_path / "runs").rename(tmp_path / "gone")
    called.clear()
    fake.AP = 0.7
    added = OmegaConf.merge(asked, {"add": True, "seeds": 2})
    claims.claims(added)
    assert {folder for name, folder, _ in called if name == "train"} == {"one-1", "two-1"}
    record = read(file)
    assert record["seeds"] == [0, 1]
    rows = [("one, t", 0, 0.5), ("one, t", 1, 0.7), ("two, t", 0, 0.5), ("two, t", 1, 0.7)]
    assert [(run["name"], run["seed"], run["figures"]["AP"]) for run in record["runs"]] == rows
    claims.claims(added)
    assert read(file) == record
    monkeypatch.setattr(records, "hardware", lambda: "another machine")
    claims.claims(OmegaConf.merge(added, {"seeds": 4}))
    assert read(file)["hardware"] == {"one machine": [0, 1], "another machine": [2, 3]}
    monkeypatch.setattr(records, "hardware", lambda: "one machine")
    claims.claims(OmegaConf.merge(added, {"seeds": 5}))
    assert read(file)["hardware"] == {"one machine": [0, 1, 4], "another machine": [2, 3]}
    text = (tmp_path / "docs/claims.md").read_text()
    assert "by seed: one machine (0, 1, 4) and another machine (2, 3); seconds are means over" in text
    changed = {"protocols": {"c": {"e": {"arms": {"one": {"settings": ["z=1"]}}}}}}
    with pytest.raises(ConfigError, match="has other trainings than"):
        claims.claims(OmegaConf.merge(added, changed))


def test_a_failure_does_not_stop_the_others(commands, tmp_path):
    called, fake = commands
    fake.broken.add("x=2")
    with pytest.raises(UserError, match=r"^two-0 broke\ntwo-1 broke$"):
        run_experiment(small(), [0, 1], "laptop", tmp_path, jobs=1)
    assert [folder for _, folder, _ in called] == ["one-0", "t", "two-0", "one-1", "t", "two-1"]
    fake.broken.clear()
    assert len(run_experiment(small(), [0, 1], "laptop", tmp_path, jobs=1)) == 6


def test_an_interrupt_starts_nothing_more(commands, monkeypatch, tmp_path):
    called, _ = commands

    def interrupted(futures):
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "wait", interrupted)
    seeds = range(500)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(small(), seeds, "laptop", tmp_path, jobs=1)
    assert len(called) < 5 * len(seeds)


def test_errors_of_our_own_are_no_failures_of_runs(commands, monkeypatch, tmp_path):
    monkeypatch.setattr(execution, "read_run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_experiment(small(), [0], "laptop", tmp_path, jobs=1)


@pytest.mark.slow
def test_a_run_is_a_process_of_its_own(tmp_path):
    """`test_the_command` forks what it runs; this one starts as it does for a user."""
    made = small(settings=["trainer.steps=1"], arms={"one": Arm([], 1, 8.0, {"t": []})})
    with pytest.raises(UserError, match=r"one-0: train has ended with 2: .* \(see its output\.txt\)$"):
        run_experiment(made, [0], "laptop", tmp_path, jobs=1)
    assert "trainer.steps" in (tmp_path / "one-0/output.txt").read_text()
    assert read(tmp_path / "one-0/elapsed.json") > 0


def test_a_killed_run_names_the_likely_cause(monkeypatch, tmp_path):
    monkeypatch.setattr(execution, "command_line", lambda name, options: ["sh", "-c", "echo batch 8; kill -9 $$"])
    with pytest.raises(UserError, match=r"-9: batch 8 \(.*; killed, probably for lack of memory: .* jobs=1\)$"):
        run_experiment(small(), [0], "laptop", tmp_path, jobs=1)


def test_verdicts():
    """The best baseline counts, and mining is paid for."""
    runs = [
        RunRecord("a", 0, {"AP": 0.50}, cost={"pixels": 100}),
        RunRecord("b", 0, {"AP": 0.60}, cost={"pixels": 200}),
    ]
    runs.append(RunRecord("c", 0, {"AP": 0.65}, cost={"pixels": 50, "mining_pixels": 30}))
    groups = compare_runs(runs)["groups"]
    bar = {"figure": "AP", "better": "c", "than": ["a", "b"], "by": 0.04, "pixels": 0.4}
    assert verdict(bar, groups) == (
        "c against b: AP +5.0, at least +4.0 expected; 40 % of its pixels, at most 40 %: **met**"
    )
    assert verdict(bar | {"pixels": 0.3}, groups).endswith("**missed**")
    assert verdict(bar | {"by": 0.06, "pixels": None}, groups).endswith("at least +6.0 expected: **missed**")
    unknown = [group | {"cost": {}} for group in groups]
    assert verdict(bar, unknown) == "c: the pixels of training are not known: **not measured**"
    assert verdict(bar | {"pixels": None}, unknown).endswith("**met**")


def test_a_page_without_figures_is_refused(tmp_path):
    with pytest.raises(UserError, match="no figures"):
        page(tmp_path)


@pytest.mark.slow
def test_the_command(shapes_root, tmp_path):
    """Two trainings, of which one goes on from the other, and an evaluation; a training that breaks is named."""
    node = "protocols.ohem.fine_tuned"
    left_out = [f"~{node}.arms.{arm}" for arm in ("ohem", "ohem_nms_50", "ohem_nms_per_label", "ohem_without_nms")]
    settings = [f"dataset.root={shapes_root}", *SMALL, "data.num_workers=0", "trainer.enable_progress_bar=false"]
    call = ["claims", "claim=ohem", "experiments=[fine_tuned]", *left_out]
    call += [f"{node}.bars=[]", f"{node}.budgets.laptop.canvases=16", f"settings={json.dumps(settings)}"]
    call += [f"folder={tmp_path}/runs", f"docs={tmp_path}/docs", "seeds=[4]", "jobs=1"]
    done = run_forked(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    record = read(tmp_path / "docs/claims/ohem-fine_tuned-laptop.json")
    (run,) = record["runs"]
    assert (run["name"], run["seed"], run["cost"]["views"]) == ("random, one scale", 4, 16)
    assert record["steps"] == {"random": 2}
    home = tmp_path / "runs/laptop/ohem/fine_tuned"
    weights = OmegaConf.load(training_folder(home, "random", 4) / "config.yaml").weights
    assert weights == str(training_folder(home, "start", 4) / "checkpoints/last.ckpt")
    text = (tmp_path / "docs/claims.md").read_text()
    assert "| random, one scale | 2 | " in text
    assert str(tmp_path / "runs") not in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "docs" / line.split("(")[1].rstrip(")")).stat().st_size > 5000
    (tmp_path / "docs/claims/ohem.md").write_text("What it says.\n")
    (training_folder(home, "random", 4) / "metrics.json").unlink()
    again = run_forked(*call)  # an interrupted training goes on, and is finished for the next time
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "docs/claims.md").read_text() == text + "\nWhat it says.\n"
    finished = in_process.run(*call)
    assert finished.code == 0, finished.errors
    assert (tmp_path / "docs/claims.md").read_text() == text + "\nWhat it says.\n"
    broken = run_forked(*call, "seeds=[5]", f"{node}.settings=['optimizer.lr=-1']")
    assert broken.returncode == 1
    assert "start-5: train has ended with 2: error: " in broken.stderr


def test_the_page_has_the_figures_that_a_protocol_names_and_the_cost_of_inference(tmp_path):
    def section_of(**cost):
        runs = [
            RunRecord(
                f"{arm}, t",
                0,
                {"AP": ap, "AP_largest_class": ap + 0.25},
                {"car": ap + 0.125, "bus": ap - 0.125},
                cost={"pixels": 8e6, "seconds": 9, **cost},
            )
            for arm, ap in (("one", 0.25), ("two", 0.5))
        ]
        made = small(arms={name: Arm([], 1, 8.0, {"t": []}) for name in ("one", "two")}, figures=["AP_largest_class"])
        record = {
            **{"claim": "c", "experiment": "e", "budget": "laptop", "seeds": [0], "date": "d", "hardware": {"h": [0]}},
            **{"title": made.title, "equal": made.equal, "baseline": made.baseline, "figures": list(made.figures)},
            **{
                "process_seconds": 1,
                "jobs": 1,
                "bars": [],
                "trainings": {},
                "evaluations": {},
                "steps": {"one": 1, "two": 1},
            },
            "runs": [vars(run) for run in runs],
        }
        return section(record, tmp_path)

    text = section_of(test_pixels=5e6, image_seconds=0.5, memory_GB=2.0)
    assert "| AP_large | AP_largest_class | Mpixels | s | Mpixels tested | ms/image | GB |" in text
    assert "| two, t | 1 | 50.0 | - | - | - | - | 75.0 | 8 | 9 | 5 | 500.0 | 2.0 |" in text
    assert "| two, t | +25.0 | - | - | - | - | +25.0 |" in text
    classes = text[text.index("AP by class</summary>") :]
    assert "| arm, tested with | car | bus |" in classes
    assert "| one, t | 37.5 | 12.5 |" in classes
    assert "| two, t | 62.5 | 37.5 |" in classes
    assert (tmp_path / "c-e-laptop-test_pixels.png").exists()
    earlier = section_of()
    assert "| AP_large | AP_largest_class | Mpixels | s |\n" in earlier
    assert "test_pixels" not in earlier
