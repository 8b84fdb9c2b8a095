"""Sweeps for wandb's agents: what an agent would call composes and passes the checks of a run."""

import itertools

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from lightning_det.config import CONF, validate

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


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_agents_call(file, composed):
    sweep = yaml.safe_load(file.read_text())
    assert sweep["metric"] == {"name": "val/AP", "goal": "maximize"}
    found = list(calls(sweep))
    for call in found[:: max(1, len(found) // 6)]:
        assert call[:4] == ["/usr/bin/env", "python", "-m", "lightning_det.train"]
        assert not validate(composed("train", *call[4:]), {}, []).logger.wandb.offline
    assert {key for call in found for key in (a.split("=")[0] for a in call[4:])} >= sweep["parameters"].keys()
