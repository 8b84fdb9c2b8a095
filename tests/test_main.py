"""``lightning-det``: the commands by one name."""

import os
import subprocess
import sys

import pytest
import yaml
from helpers import TINY, run_forked
from test_architecture import COMMANDS, PACKAGE

import lightning_det
from lightning_det.__main__ import main
from lightning_det.runs.help import command_names


def called(*arguments, **options):
    """``lightning-det ARGUMENTS`` in a process of its own, as an installed script starts it."""
    script = "import sys; from lightning_det.__main__ import main; sys.argv[0] = 'lightning-det'; main()"
    call = [sys.executable, "-c", script, *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False, **options)


def test_every_command_is_listed_with_a_line():
    assert set(command_names()) == set(COMMANDS)
    for given in ((), ("--help",)):
        listed = called(*given)
        assert (listed.returncode, listed.stderr) == (0, "")
        for name in COMMANDS:
            (line,) = (line for line in listed.stdout.splitlines() if line.startswith(f"  {name} "))
            assert len(line.removeprefix(f"  {name}").strip()) > 10


def test_the_list_does_not_import_what_commands_need():
    script = "import sys; sys.argv[1:] = []\nimport lightning_det.__main__ as m\ntry:\n    m.main()\n"
    script += "except SystemExit:\n    sys.exit(any(name in sys.modules for name in ('torch', 'hydra', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


HEAVY = ("torch", "pytorch_lightning", "torchmetrics", "torchvision", "wandb", "matplotlib", "scipy", "pycocotools")
HEAVY += ("submitit", "rich", "numpy", "PIL")


@pytest.mark.parametrize("asked", [("--help",), ("--cfg", "job"), ("-sc", "query=bash")], ids=" ".join)
def test_questions_are_answered_without_what_runs_need(asked):
    """Importing these takes seconds."""
    script = "import atexit, sys, lightning_det.train as c\n"
    script += f"atexit.register(lambda: print('heavy:', *(n for n in {HEAVY} if n in sys.modules)))\nc.main()"
    env = os.environ | {"COMP_LINE": "train det", "COMP_POINT": "9"}
    answered = subprocess.run(
        [sys.executable, "-c", script, *asked], capture_output=True, text=True, check=True, env=env
    )
    *answer, heavy = answered.stdout.splitlines()
    assert any("detector" in line for line in answer)
    assert heavy.strip() == "heavy:"


def test_an_unknown_name_is_refused_with_those_that_are_near():
    refused = called("trian")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: 'trian' is no command; did you mean train?\n"
    assert "there are claims, compare" in called("zzz").stderr
    assert called("--version").stdout == f"lightning-det {lightning_det.__version__}\n"
    assert called("../conf").returncode == called("__main__").returncode == called("runs").returncode == 2


def test_a_command_is_started_as_its_module_is(monkeypatch):
    """So ranks, run folders, Ctrl-C and sweeps see no difference."""
    monkeypatch.setattr(os, "execv", lambda file, call: (_ for _ in ()).throw(SystemExit(str([file, call]))))
    monkeypatch.setattr(sys, "argv", ["/bin/lightning-det", "train", "-m", "seed=0,1"])
    with pytest.raises(SystemExit) as left:
        main()
    assert str(left.value) == str(
        [sys.executable, [sys.executable, "-m", "lightning_det.train", "-m", "seed=0,1"]],
    )


def test_the_installed_script_is_this_one():
    assert 'lightning-det = "lightning_det.__main__:main"' in (PACKAGE.parent / "pyproject.toml").read_text()


SMALL = (*TINY, "dataset.source.train=4", "trainer.max_epochs=1", "data.num_workers=0", "logger=csv")
SMALL += ("callbacks.report=null", "callbacks.pictures=null")


def own_dataset(folder):
    """An option in ``conf/`` of a working directory."""
    (folder / "conf/dataset").mkdir(parents=True)
    (folder / "conf/dataset/mine.yaml").write_text("defaults: [shapes]\n")
    return "dataset=mine"


@pytest.mark.slow
def test_two_ranks_train_into_one_folder(tmp_path, shapes_root):
    own = own_dataset(tmp_path)
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2", f"dataset.root={shapes_root}")
    trained = called("train", own, *SMALL, *ranks, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (folder,) = (tmp_path / "outputs/train").glob("2*/*")
    assert (folder / "checkpoints/last.ckpt").exists()
    assert yaml.safe_load((folder / "overrides.yaml").read_text()) == [own, *SMALL, *ranks]
    assert folder.name == "001-mine"
    assert (tmp_path / "outputs/train/latest").resolve() == folder.resolve()


@pytest.mark.slow
def test_a_sweep_starts_its_jobs(tmp_path, shapes_root):
    script = tmp_path / "lightning-det.py"
    script.write_text("from lightning_det.__main__ import main\nmain()\n")
    overrides = [own_dataset(tmp_path), *SMALL, "seed=0,1", f"dataset.root={shapes_root}"]
    swept = run_forked(script, "train", "-m", *overrides, cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    (folder,) = (tmp_path / "multirun/train").glob("2*/*")
    assert {place.name for place in folder.iterdir() if place.is_dir()} == {"0", "1"}
    assert all((folder / job / "metrics.json").exists() for job in "01")
    assert (tmp_path / "multirun/train/latest").resolve() == folder.resolve()
