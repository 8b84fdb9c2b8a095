"""Runs that go on: the command line that counts, and the log."""

import csv
import json

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from lightning_det.callbacks import CSVLog
from lightning_det.runs.resume import complete_overrides, is_unstarted, quote, recorded_overrides, resumes_in_place
from lightning_det.system.errors import ConfigError


@pytest.fixture
def run(tmp_path):
    """A run folder that says how it was started, with a checkpoint."""
    folder = tmp_path / "runs" / "of mine"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").touch()
    started = [
        "strategy=[snip,flip]",
        "+trainer.x=1",
        "weights=w.ckpt",
        "seed=3",
        "~callbacks.best",
        "resume=elsewhere",
    ]
    (folder / "overrides.yaml").write_text(yaml.safe_dump(started))
    return folder


def test_options_come_back(run):
    place = f"hydra.run.dir={json.dumps(str(run))}"
    kept = ["strategy=[snip,flip]", "+trainer.x=1", "seed=3", "~callbacks.best"]
    for given in (f"resume={run}", f"resume='{run}'", f'resume="{run}"'):
        assert complete_overrides([given]) == [*kept, given, place]


def test_what_is_given_now_wins(run):
    given = [f"resume={run}", "seed=4", "trainer.x=2", "hydra.run.dir=other"]
    assert complete_overrides(given) == ["strategy=[snip,flip]", "~callbacks.best", *given]


@pytest.mark.parametrize("path", ["/a/été/b c", '/a/"q"/$x', "/数据/lr=0.1,a", "plain"])
def test_hydra_reads_quoted_paths_as_they_are(path):
    assert OverridesParser.create().parse_override(f"resume={quote(path)}").value() == path


def test_an_empty_record_says_nothing(run):
    """It was cut off; a run without options has an empty list."""
    for content, options in (("", None), ("[]", [])):
        (run / "overrides.yaml").write_text(content)
        assert recorded_overrides(run) == options


@pytest.mark.parametrize("arguments", [[], ["seed=1"], ["resume=nowhere"], ["resume=null"], ["--help"]])
def test_other_commands_stay_as_they_are(arguments):
    assert complete_overrides(arguments) == arguments


def test_a_run_without_a_checkpoint_starts_from_its_weights_again(run):
    assert not is_unstarted(run)
    (run / "checkpoints/last.ckpt").rename(run / "checkpoints/best.ckpt")
    assert is_unstarted(run)
    assert "weights=w.ckpt" in complete_overrides([f"resume={run}"])


def test_hydras_record_serves_where_there_is_no_other(run):
    (run / ".hydra").mkdir()
    first = complete_overrides([f"resume={run}"])
    (run / "overrides.yaml").rename(run / ".hydra/overrides.yaml")
    assert complete_overrides([f"resume={run}"]) == first
    (run / ".hydra/overrides.yaml").unlink()
    assert complete_overrides([f"resume={run}"]) == [f"resume={run}"]
    assert not is_unstarted(run)  # and the missing checkpoint will be an error


def test_a_run_that_has_ended_does_not_start_over(run):
    """Its last checkpoint was removed, to save space perhaps."""
    (run / "checkpoints/last.ckpt").rename(run / "checkpoints/best.ckpt")
    (run / "metrics.json").touch()
    assert not is_unstarted(run)


@pytest.mark.parametrize(
    "content", ["[a", "a: b", "[1]", "\x00", "\xff\xfe", "!!python/object:os.system {}", "&a [*a]"]
)
def test_a_damaged_record_is_named(run, content):
    """Options that are not known must not become the defaults; Hydra's record serves while it is whole."""
    (run / "overrides.yaml").write_text(content, encoding="latin1")
    with pytest.raises(ConfigError, match=r"overrides\.yaml: damaged .*give these options along with resume="):
        complete_overrides([f"resume={run}"])
    (run / ".hydra").mkdir()
    (run / ".hydra/overrides.yaml").write_text("[seed=7]")
    assert recorded_overrides(run) == ["seed=7"]


def test_what_goes_on_in_its_own_folder(run, tmp_path):
    assert resumes_in_place(str(run), run / "../of mine")
    assert resumes_in_place(str(run / "checkpoints/best.ckpt"), run)
    assert not resumes_in_place(str(run), tmp_path)
    assert not resumes_in_place(str(run / "checkpoints/best.ckpt"), tmp_path)
    assert not resumes_in_place(None, run)


def test_a_sweep_does_not_resume_one_run(run):
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.dir=ITS_FOLDER"):
        complete_overrides(["-m", f"resume={run}", "seed=0,1"])


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").open(newline="")))


def test_the_log_goes_on(tmp_path):
    """Rows before the first new step stay, those that are done again are replaced, new columns are added."""
    first = CSVLog(str(tmp_path))
    for step in range(6):
        first.log_metrics({"loss": 10 - step}, step)
        assert len(rows(tmp_path)) == step + 1  # at once
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("6,")  # cut by an interruption
    second = CSVLog(str(tmp_path))
    second.log_metrics({"loss": 1, "lr": 0.5}, 4)
    assert len(rows(tmp_path)) == 5
    second.log_metrics({"loss": 2}, 5)
    assert [(r["step"], r["loss"], r["lr"]) for r in rows(tmp_path)] == [
        *((str(n), str(10 - n), "") for n in range(4)),
        ("4", "1", "0.5"),
        ("5", "2", ""),
    ]
    third = CSVLog(str(tmp_path))
    third.log_metrics({"loss": 3}, 6)
    assert len(rows(tmp_path)) == 7


def test_a_log_without_past(tmp_path):
    log = CSVLog(str(tmp_path / "new"))
    log.log_metrics({"loss": torch.tensor(1.0), "epoch": 0})
    assert rows(tmp_path / "new") == [{"epoch": "0", "loss": "1.0", "step": "0"}]
