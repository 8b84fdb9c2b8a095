"""Sweeps for wandb's agents: what an agent would call composes and passes the checks of a run."""

import itertools

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from lightning_det.config import CONF, register_schema, validated
from lightning_det.launch import register_started

FILES = sorted((CONF / "sweep").glob("*.yaml"))


def values(parameter):
    """All of a list, the ends of a range."""
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def calls(sweep):
    """Arguments behind ``python -m lightning_det.train``, as `wandb.wandb_agent` puts them together."""
    for drawn in itertools.product(*(values(p) for p in sweep["parameters"].values())):
        args = {name: {"value": value} for name, value in zip(sweep["parameters"], drawn, strict=True)}
        made = create_sweep_command_args({"args": args}) | {"program": [sweep["program"]], "env": ["/usr/bin/env"]}
        command = [made.get(part[2:-1], []) if part.startswith("${") else [part] for part in sweep["command"]]
        yield list(itertools.chain.from_iterable(command))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_agents_call(file, tmp_path):
    sweep = yaml.safe_load(file.read_text())
    assert sweep["metric"] == {"name": "val/AP", "goal": "maximize"}
    register_schema()
    register_started()
    initialize_config_dir(config_dir=str(CONF), version_base="1.3")
    found = list(calls(sweep))
    try:
        for call in found[:: max(1, len(found) // 6)]:
            assert call[:4] == ["/usr/bin/env", "python", "-m", "lightning_det.train"]
            cfg = compose("train", overrides=call[4:], return_hydra_config=True)
            with open_dict(cfg):
                cfg.hydra.runtime.output_dir = str(tmp_path)
            HydraConfig.instance().set_config(cfg)
            with open_dict(cfg):
                del cfg["hydra"]
            assert not validated(cfg, {}, []).logger.wandb.offline
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
    assert {key for call in found for key in (a.split("=")[0] for a in call[4:])} >= sweep["parameters"].keys()
