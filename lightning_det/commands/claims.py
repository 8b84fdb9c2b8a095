"""Runs the experiments behind a paper's claim, and writes them up."""

import os
from pathlib import Path

from omegaconf import DictConfig

from lightning_det.evidence.execution import run_experiment
from lightning_det.evidence.experiments import select_experiments
from lightning_det.evidence.pages import page
from lightning_det.evidence.records import check_protocol, make_record, read_record, with_earlier
from lightning_det.system.errors import ConfigError
from lightning_det.system.files import atomic_write, write_json


def claims(cfg: DictConfig) -> None:
    """Runs the claims in the configuration, and writes ``claims.md`` and its figures.

    Raises:
        ConfigError: the settings are invalid, or existing figures belong to another protocol.
    """
    seeds = list(range(cfg.seeds)) if isinstance(cfg.seeds, int) else [int(s) for s in cfg.seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={cfg.seeds}: an experiment needs at least one seed, and each of them once")
    if cfg.jobs < 1:
        raise ConfigError(f"jobs={cfg.jobs}: at least one run at a time")
    docs, folder = Path(cfg.docs), Path(cfg.folder) / str(cfg.budget)
    for (claim, name), experiment in select_experiments(cfg).items():
        if experiment.needs is not None and not os.environ.get(experiment.needs):
            print(f"{claim}, {name}: left out, for {experiment.needs} does not name the folder of its dataset")
            continue
        home = (folder / claim / name).resolve()
        file = docs / "claims" / f"{claim}-{name}-{cfg.budget}.json"
        before = read_record(file, list(cfg.settings))
        if cfg.add:
            check_protocol(before, experiment, cfg.budget, file)
        wanted = [seed for seed in seeds if not (cfg.add and seed in before.get("seeds", []))]
        if not wanted:
            continue
        runs = run_experiment(experiment, wanted, cfg.budget, home, cfg.jobs)
        labels = {"claim": claim, "experiment": name, "settings": list(cfg.settings), "jobs": cfg.jobs}
        record = make_record(experiment, runs, wanted, home, budget=cfg.budget, labels=labels, before=before)
        write_json(file, with_earlier(record, before) if cfg.add and before else record)
    with atomic_write(docs / "claims.md") as stream:
        stream.write(page(docs / "claims"))
    print(docs / "claims.md")
