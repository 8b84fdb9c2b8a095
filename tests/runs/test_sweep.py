"""Sweeps: jobs that fail, jobs of several ranks, ranks that do not train the same thing, and sweeps that go on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import SMALL, TINY, environments, read, run_forked, start_children_anew, start_forked
from hydra.types import RunMode
from omegaconf import OmegaConf
from pytorch_lightning.trainer import call as hooks_of_lightning

from lightning_det.callbacks.ranks import differences
from lightning_det.runs import child_job, occupancy, sweep
from lightning_det.runs.jobs import Job, JobError
from lightning_det.system.errors import UserError

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def small(shapes_root):
    return [f"dataset.root={shapes_root}", *SMALL, *TINY, "debug=limit", "callbacks.pictures=null"]


@slow
def test_failing_jobs_do_not_stop_the_others(small, tmp_path):
    """One job is misconfigured, one has no data; each says so, and the sweep ends with the larger exit code."""
    sweep = ["-m", "strategy=[tiles,sniper],[single_scale]", "dataset.train=train,nowhere"]
    done = run_forked("train", *sweep, *small, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 2, done.stdout + done.stderr
    jobs = read(tmp_path / "sweep.json")
    assert [job["exit_code"] for job in jobs] == [2, 2, 0, 1]
    assert [job["AP"] is not None for job in jobs] == [False, False, True, False]
    for number, job in enumerate(jobs):
        assert read(tmp_path / str(number) / "status.json") == job
        assert job["folder"] == str(tmp_path / str(number))
    assert "tiles and sniper both set views.train.windows" in jobs[0]["error"]
    assert "nowhere" in jobs[3]["error"]
    assert "3 of 4 jobs failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "strategy=[single_scale]" in done.stdout  # the table
    assert "dataset.resolution" not in done.stdout.split("sweep in")[1]  # what all jobs have in common is left out


@slow
def test_jobs_of_two_ranks(small, tmp_path):
    """The first job is refused, the second one diverges on all ranks, the third one trains.

    The sweep is a job of SLURM, as submitit would start it, of one task: without a word Lightning would take its
    number for the number of ranks.
    """
    slurm = {"NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1, "NODEID": 0, "PROCID": 0, "LOCALID": 0, "STEP_ID": 0}
    slurm |= {"JOB_ID": 41234, "JOB_NAME": "train", "NODELIST": "127.0.0.1"}
    env = {"WANDB_SILENT": "true"} | {f"SLURM_{key}": str(value) for key, value in slurm.items()}
    sweep = ["-m", "optimizer.lr=-1,1e30,1e-3", "trainer.devices=2", "trainer.strategy=ddp", "logger=wandb"]
    done = run_forked("train", *sweep, *small, f"hydra.sweep.dir={tmp_path}", env=env)
    jobs = read(tmp_path / "sweep.json")
    refused, diverged, trained = (job["exit_code"] for job in jobs)
    # Lightning kills the first rank if the second one ends before it.
    assert (refused, trained) == (2, 0), done.stdout + done.stderr
    assert diverged in (1, 137)
    assert done.returncode == max(refused, diverged)
    assert [job["AP"] is not None for job in jobs] == [False, False, True]
    assert "error: optimizer.lr must be above 0: at 0 nothing is learned, got -1" in done.stderr
    assert "error: the loss became nan in epoch 1" in done.stderr
    assert "2 of 3 jobs failed" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["0", "1", "2"]
    for number, lr in enumerate((-1, 1e30, 1e-3)):
        assert read(tmp_path / f"{number}/status.json") == jobs[number]
        file = tmp_path / f"{number}/config.yaml"  # of what has begun
        assert (yaml.safe_load(file.read_text())["optimizer"]["lr"] == lr) if file.exists() else number == 0
    (log,) = (tmp_path / "2").glob("wandb/offline-run-*/*.wandb")  # one run, of the first rank
    recorded = log.read_bytes()
    assert f"{tmp_path.parent.name}/{tmp_path.name}".encode() in recorded  # the group
    assert " ".join(jobs[2]["overrides"])[:128].encode() in recorded  # the name
    assert str(tmp_path) not in subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, text=True).stdout


@slow
def test_ranks_with_other_settings_are_refused(small, tmp_path):
    """A launcher that gives every rank a command line of its own can do this; without a check it would train."""
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", f"hydra.run.dir={tmp_path}/run"]
    processes = []
    for own, environment in zip(([], ["optimizer.lr=0.5"]), environments(2), strict=True):
        output = tmp_path / f"{len(processes)}.txt"
        call = [*ranks, *small, *own]
        processes.append(start_forked("train", call, output, output, env=os.environ | environment))
    for number, process in enumerate(processes):
        process.join()
        assert process.exitcode != 0
        said = (tmp_path / f"{number}.txt").read_text()
        assert said.count("rank 1 has another configuration than rank 0: optimizer.lr;") == 1, said
    assert not (tmp_path / "run/metrics.json").exists()


@slow
def test_a_launcher_does_not_start_a_sweep_of_ranks(small, tmp_path):
    ranks = ["-m", "seed=0,1", "trainer.devices=2", f"hydra.sweep.dir={tmp_path}"]
    done = run_forked("train", *ranks, *small, env={"LOCAL_RANK": "0"})
    assert done.returncode == 2
    assert "a multirun starts the ranks of its jobs itself" in done.stderr


@slow
def test_jobs_in_processes_of_submitit(small, tmp_path):
    """One job trains, the other one is refused; neither runs in the sweep's process."""
    sweep = ["-m", "hydra/launcher=submitit_local", "strategy=[single_scale],[tiles,sniper]", "seed=1"]
    done = run_forked("train", *sweep, *small, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 2, done.stdout + done.stderr
    jobs = read(tmp_path / "sweep.json")
    assert [job["exit_code"] for job in jobs] == [0, 2]
    assert [read(tmp_path / f"{number}/status.json") for number in (0, 1)] == jobs
    assert jobs[0]["AP"] == read(tmp_path / "0/metrics.json")["AP"]
    assert len({log.name.split("_")[0] for log in tmp_path.glob(".submitit/*/*.out")}) == 2
    assert "error: job 1" in done.stderr
    assert "tiles and sniper both set views.train.windows" in done.stderr
    assert "1 of 2 jobs failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split("sweep in")[1].count("strategy=") == 2  # the table


@slow
def test_a_folder_of_another_job_is_refused_in_other_processes_too(small, tmp_path):
    """Its folder tells of another job, so that nothing is there to be gathered.

    The job's process is one that submitit starts: it has nothing but what was pickled for it.
    """
    (tmp_path / "0").mkdir()
    other = Job(0, ["seed=7"], str(tmp_path / "0"), 0, 1.0, None, 0.5)
    (tmp_path / "0/status.json").write_text(json.dumps(other._asdict()))
    call = ["-m", "hydra/launcher=submitit_local", "seed=8", f"hydra.sweep.dir={tmp_path}"]
    done = run_forked("train", *call, *small, prepare=start_children_anew)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "holds the run of another job: seed=7; " in done.stderr
    assert "Traceback" not in done.stderr


@slow
def test_a_scheduler_that_is_not_there_is_named(small, tmp_path):
    sweep = ["-m", "hydra/launcher=submitit_slurm", f"hydra.sweep.dir={tmp_path}"]
    done = run_forked("train", *sweep, *small, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert 'error: Could not detect "srun", are you indeed on a slurm cluster?' in done.stderr
    assert "Traceback" not in done.stderr


def test_differences_of_settings():
    first = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": {}}
    assert differences(first, first) == []
    second = {"a": 1, "b": {"c": [1, 3], "d": None, "f": 0}, "e": 1}
    assert sorted(differences(first, second)) == ["b.c", "b.f", "e"]


OPTIONS = "hydra.searchpath=[file://conf]"


class Sweep:
    """A multirun of a fake task, in this process, as Hydra would run its jobs."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.seen = []
        self.owner = True  # it runs the sweep, not jobs for another process

    def start(self, *jobs, task=None, module="lightning_det.train", **settings):
        """Runs jobs, each a list of overrides; returns the exit code."""
        self.monkeypatch.setattr(sweep, "JOBS", [])
        self.monkeypatch.setattr(sweep, "BEFORE", {self.folder: {}} if self.owner else {})
        for number, overrides in enumerate(jobs):
            hydra = SimpleNamespace(
                mode=RunMode.MULTIRUN,
                overrides=SimpleNamespace(task=overrides, hydra=["hydra.mode=MULTIRUN", OPTIONS]),
                runtime=SimpleNamespace(output_dir=str(self.folder / str(number))),
                job=SimpleNamespace(num=number),
                sweep=SimpleNamespace(dir=str(self.folder)),
            )
            self.monkeypatch.setattr(sweep.HydraConfig, "get", lambda hydra=hydra: hydra)
            record = self.folder / str(number) / ".hydra/overrides.yaml"
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(yaml.safe_dump(overrides))  # as Hydra does before it runs a job
            cfg = OmegaConf.create({"resume": None, "weights": "w.ckpt", "trainer": {"devices": 1}} | settings)
            OmegaConf.set_struct(cfg, True)
            with contextlib.suppress(JobError):
                sweep.run_job(task or self.seen.append, cfg, module)
        return sweep.summary()

    def status(self, number):
        return read(self.folder / str(number) / "status.json")

    def checkpoint(self, number):
        file = self.folder / str(number) / "checkpoints/last.ckpt"
        file.parent.mkdir()
        file.touch()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return Sweep(tmp_path / "sweep", monkeypatch)


def fail(cfg):
    raise UserError("no data")


def test_finished_jobs_are_not_run_again(fake, capsys):
    assert fake.start(["seed=0"], ["seed=1"]) == 0
    first = read(fake.folder / "sweep.json")
    assert len(fake.seen) == 2
    capsys.readouterr()
    assert fake.start(["seed=0"], ["seed=1"], ["seed=2"]) == 0
    assert len(fake.seen) == 3
    assert read(fake.folder / "sweep.json")[:2] == first
    said = capsys.readouterr().out
    assert "job 0 (seed=0) is finished" in said
    assert said.split("sweep in")[1].count("seed=") == 3  # the table has all of them


def test_a_job_without_room_does_not_stop_the_others(fake, capsys):
    """What it had in memory is free for them, although its error is kept until the end."""
    held = []

    def task(cfg):
        model = torch.nn.Linear(2, 2)
        held.append(weakref.ref(model))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")

    errors = []
    fake.monkeypatch.setattr(contextlib, "suppress", kept(errors))
    assert fake.start(["seed=0"], ["seed=1"], task=task) == 1
    assert fake.status(0)["error"].startswith("out of memory (CUDA out of memory). What needs less")
    assert fake.status(1)["exit_code"] == 0
    assert errors
    assert held[0]() is None
    assert "Traceback" not in capsys.readouterr().err


def kept(errors):
    """``contextlib.suppress`` that keeps what it suppresses, as Hydra does."""

    @contextlib.contextmanager
    def suppress(kind):
        try:
            yield
        except kind as error:
            errors.append(error)

    return suppress


def test_jobs_of_other_processes_are_gathered(fake, capsys):
    """The first one was there before this start, of the last one nothing has been heard since it began."""
    fake.start(["seed=0"], ["seed=1"], ["seed=2"], ["seed=3"])
    (fake.folder / "sweep.json").unlink()
    status = {number: fake.folder / f"{number}/status.json" for number in range(4)}
    before = {file: file.stat().st_mtime_ns for file in status.values()}
    for number, code, error in ((3, None, "not finished"), (2, 2, "no data"), (1, 0, None)):
        content = read(status[number]) | {"exit_code": code, "error": error}
        status[number].write_text(json.dumps(content))
        os.utime(status[number], ns=(0, before[status[number]] + 1))
    fake.monkeypatch.setattr(sweep, "JOBS", [])
    fake.monkeypatch.setattr(sweep, "BEFORE", {fake.folder: before})
    capsys.readouterr()
    assert sweep.summary() == 2
    assert [(job["number"], job["exit_code"]) for job in read(fake.folder / "sweep.json")] == [
        (1, 0),
        (2, 2),
        (3, None),
    ]
    said = capsys.readouterr()
    assert "error: job 2 (seed=2): no data" in said.err
    assert "error: job 3 (seed=3): not finished" in said.err
    assert "error: 2 of 3 jobs failed" in said.err
    assert "seed=0" not in said.out.split("sweep in")[1]


def test_jobs_in_nested_folders_are_of_one_sweep(tmp_path, monkeypatch, capsys):
    """``hydra.sweep.subdir`` may hold a slash."""
    for number, folder in enumerate(("lr=1/0", "lr=2/0")):
        job = Job(number, [], str(tmp_path / folder), 0, 1.0, None, None)
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "status.json").write_text(json.dumps(job._asdict()))
    monkeypatch.setattr(sweep, "JOBS", [])
    monkeypatch.setattr(sweep, "BEFORE", {tmp_path: {}})
    assert sweep.summary() == 0
    assert [job["number"] for job in read(tmp_path / "sweep.json")] == [0, 1]
    title = "".join(capsys.readouterr().out.split("┏")[0].split())  # rich breaks it
    assert title == f"sweepin{tmp_path}"


def test_a_process_of_a_launcher_leaves_the_sweep_to_its_own(fake):
    """Several would write the same file, each with its jobs."""
    fake.start(["seed=0"])
    (fake.folder / "sweep.json").unlink()
    fake.owner = False
    fake.start(["seed=0"], ["seed=1"])
    assert fake.status(1)["exit_code"] == 0
    assert not (fake.folder / "sweep.json").exists()


def test_failed_jobs_are_tried_again(fake):
    assert fake.start(["seed=0"], task=fail) == 1
    assert fake.status(0)["error"] == "no data"
    assert fake.start(["seed=0"]) == 0
    assert fake.status(0)["exit_code"] == 0
    assert (fake.seen[0].resume, fake.seen[0].weights) == (None, "w.ckpt")  # it had no checkpoint


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(1), 1), (SystemExit(), 143)])
def test_an_interrupted_job_goes_on_from_its_checkpoint(fake, stop, code):
    """The sweep ends with it: SystemExit is what Lightning makes of signals."""

    def task(cfg):
        assert fake.status(0)["exit_code"] is None  # what is left if the process is killed here
        fake.checkpoint(0)
        raise stop

    with pytest.raises(type(stop)):
        fake.start(["seed=0"], ["seed=1"], task=task)
    assert [fake.status(0)[key] for key in ("exit_code", "error")] == [code, "interrupted"]
    assert not (fake.folder / "1").exists()
    fake.start(["seed=0"], ["seed=1"])
    assert [cfg.resume for cfg in fake.seen] == [str(fake.folder / "0"), None]
    assert [cfg.weights for cfg in fake.seen] == [None, "w.ckpt"]


def test_only_trainings_go_on(fake):
    fake.start(["split=val"], task=fail, module="lightning_det.eval")
    fake.checkpoint(0)
    fake.start(["split=val"], module="lightning_det.eval")
    assert fake.seen[0].resume is None


def test_the_folder_of_a_run_that_was_no_job_is_refused(fake, capsys):
    (fake.folder / "0").mkdir(parents=True)
    fake.checkpoint(0)
    assert fake.start(["seed=0"], ["seed=1"]) == 2
    assert len(fake.seen) == 1  # the other one
    said = capsys.readouterr().err
    assert f"job 0 (seed=0): {fake.folder}/0 holds a run that was begun (checkpoints/last.ckpt)" in said
    assert f"another folder (hydra.sweep.dir={fake.folder}-2)" in said


def test_a_job_in_whose_folder_another_process_works_is_refused(fake, monkeypatch, capsys):
    monkeypatch.setattr(occupancy, "_try_lock", lambda stream: "/1/" not in stream.name)
    assert fake.start(["seed=0"], ["seed=1"], ["seed=2"]) == 2
    assert len(fake.seen) == 2
    assert f"job 1 (seed=1): {fake.folder}/1 is in use: " in capsys.readouterr().err
    assert not list(fake.folder.rglob("0/.lock"))


@pytest.mark.parametrize("content", ["", '{"number": 0, "overri', "[]", "null", "7", "\x00\x00", '{"exit_code": "x"}'])
def test_a_damaged_status_is_that_of_an_interrupted_job(fake, content):
    """The job is done again, or goes on, and the sweep with it."""
    assert fake.start(["seed=0"], ["seed=1"], task=fail) == 1
    fake.checkpoint(0)
    for number in (0, 1):
        (fake.folder / f"{number}/status.json").write_text(content)
    (fake.folder / "sweep.json").write_text(content)
    assert fake.start(["seed=0"], ["seed=1"]) == 0
    assert [cfg.resume for cfg in fake.seen] == [str(fake.folder / "0"), None]
    assert fake.status(0)["overrides"] == ["seed=0"]
    (fake.folder / "0/metrics.json").write_text(content)  # nor does that stop anything
    assert fake.start(["seed=0"], ["seed=1"]) == 0


def test_a_status_of_another_version_is_read(fake):
    fake.start(["seed=0"])
    content = fake.status(0)
    del content["seconds"]
    (fake.folder / "0/status.json").write_text(json.dumps(content | {"host": "here"}))
    assert fake.start(["seed=0"]) == 0
    assert len(fake.seen) == 1  # it is finished


def test_a_damaged_status_in_another_jobs_folder_is_no_way_in(fake):
    """What the run has recorded tells whose folder it is."""
    fake.start(["seed=0"])
    (fake.folder / "0/overrides.yaml").write_text(f"['{OPTIONS}', seed=0]")
    (fake.folder / "0/status.json").write_text("{")
    assert fake.start(["seed=1"]) == 2
    assert fake.start(["seed=0"]) == 0


def test_the_folder_of_another_job_is_left_alone(fake, capsys):
    fake.start(["seed=0", "optimizer.lr=0.1"], ["seed=1"], task=fail)
    files = [p for p in fake.folder.rglob("*") if p.is_file() and p.name != "sweep.json"]
    before = {p: p.read_bytes() for p in files if p.parent.name != ".hydra"}  # Hydra has written there by then
    capsys.readouterr()
    assert fake.start(["seed=0", "optimizer.lr=0.2"], ["seed=1"]) == 2
    said = capsys.readouterr().err
    assert (
        f"job 0 (seed=0 optimizer.lr=0.2): {fake.folder}/0 holds the run of another job: seed=0 optimizer.lr=0.1"
        in said
    )
    assert "needs another hydra.sweep.dir" in said
    assert len(fake.seen) == 1
    kept = {p: p.read_bytes() for p in before}
    assert {p.parent.name for p in before if kept[p] != before[p]} == {"1"}
    # The order of the options is no matter.
    assert fake.start(["optimizer.lr=0.1", "seed=0"]) == 0


def test_jobs_of_several_ranks_go_on_too(fake, monkeypatch):
    """Neither the weights that a job started from nor the run that it continued are given again."""
    calls = []

    class Child:
        def __init__(self, call, env):
            assert env[child_job.PARENT] == str(os.getpid())
            calls.append(call)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            return 3 if len(calls) == 1 else 0

    monkeypatch.setattr(child_job.subprocess, "Popen", Child)
    overrides = ["seed=0", "weights=w.ckpt", "+resume=elsewhere", "trainer.devices=2"]
    assert fake.start(overrides, trainer={"devices": 2}) == 3
    fake.checkpoint(0)
    assert fake.start(overrides, trainer={"devices": 2}) == 0
    folder = f'"{fake.folder}/0"'
    # Where else than in the package options are found is said to the child too.
    first = [sys.executable, "-m", "lightning_det.train", OPTIONS, *overrides, f"hydra.run.dir={folder}"]
    again = [*first[:4], "seed=0", "trainer.devices=2", f"resume={folder}", f"hydra.run.dir={folder}"]
    assert calls == [first, again]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_job_of_several_ranks_ends_with_its_sweep(tmp_path):
    """SIGTERM reaches the sweep's process only."""
    (tmp_path / "sleeper.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path('part').write_text(str(os.getpid()))\n"
        "pathlib.Path('part').rename('pid')\n"
        "time.sleep(100)\n"
    )
    script, output = tmp_path / "parent.py", tmp_path / "output.txt"
    script.write_text(
        "from pathlib import Path\nfrom lightning_det.runs.child_job import run_in_child\n"
        "run_in_child('sleeper', [], Path('x'), False)\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    parent = start_forked(script, [], output, output, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    wait_for(tmp_path / "pid", parent)
    child = int((tmp_path / "pid").read_text())
    parent.terminate()  # SIGTERM
    parent.join()
    assert parent.exitcode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def wait_for(file, process, seconds=200):
    """Until a process has made a file."""
    end = time.monotonic() + seconds
    while not file.exists():
        assert process.exitcode is None, "it ended without the file"
        assert time.monotonic() < end, f"no {file}"
        time.sleep(0.05)


def end_in_second_job(number):
    """For `start_forked` to call first: the process sends itself a signal in the second epoch of its second job."""
    hooks, jobs = hooks_of_lightning._call_callback_hooks, []

    def hook(trainer, name, *args, **settings):
        if name == "on_train_epoch_start" and trainer.current_epoch == 1:
            jobs.append(trainer)
            if len(jobs) == 2:
                os.kill(os.getpid(), number)
        return hooks(trainer, name, *args, **settings)

    hooks_of_lightning._call_callback_hooks = hook


@slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, None), (signal.SIGTERM, 143)])
def test_a_killed_sweep_goes_on(small, tmp_path, number, code):
    call = ["-m", "seed=0,1", *small, f"hydra.sweep.dir={tmp_path}", "trainer.max_epochs=3"]
    call += ["trainer.limit_val_batches=0", "trainer.limit_train_batches=2"]
    output = tmp_path / "output.txt"
    process = start_forked("train", call, output, output, partial(end_in_second_job, number))
    process.join()
    assert (tmp_path / "1/checkpoints/last.ckpt").exists(), output.read_text()
    assert process.exitcode != 0
    assert [read(tmp_path / job / "status.json")["exit_code"] for job in "01"] == [0, code]
    first = (tmp_path / "0/metrics.json").stat().st_mtime_ns
    done = run_forked("train", *call)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 0 (seed=0 " in done.stdout
    assert (tmp_path / "0/metrics.json").stat().st_mtime_ns == first
    assert [job["exit_code"] for job in read(tmp_path / "sweep.json")] == [0, 0]
    lines = [line for line in (tmp_path / "1/train.log").read_text().splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == [f"epoch {n} of 3" for n in range(1, 4)]
    assert len(read(tmp_path / "1/metrics.json")["epoch_losses"]) == 3
