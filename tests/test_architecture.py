"""Imports go downward only (docs/architecture.md)."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_det"

COMMANDS = ("train", "eval", "predict", "export", "inspect", "subset", "mine", "compare", "claims", "dashboard")

FLOORS = (
    ("system", "ops", "protocols"),
    ("selection", "backbones", "views"),
    ("annotations", "checkpoint", "merging", "detectors", "evaluation", "plotting"),
    ("modules", "data", "callbacks", "inspection"),
    ("config",),
    ("runs",),
    ("evidence", "deployment"),
    COMMANDS,
)
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def imports(file):
    """First names below ``lightning_det`` that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("lightning_det."):
                yield name.split(".")[1]


def test_every_part_has_a_floor():
    parts = {p.stem for p in PACKAGE.iterdir() if not p.name.startswith("_") and p.name != "conf"}
    assert parts == set(FLOOR)


def test_imports_go_downward():
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            wrong += [f"{file.relative_to(PACKAGE)} imports {o}" for o in imports(file) if FLOOR[o] > FLOOR[part]]
    assert not wrong


@pytest.mark.parametrize("command", FLOORS[-1])
def test_commands_can_be_imported(command):
    """What one module takes from another is there, in every module that a command uses."""
    assert import_module(f"lightning_det.{command}")


def test_files_are_short():
    lengths = {str(f.relative_to(PACKAGE)): len(f.read_text().splitlines()) for f in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
    assert sorted(lengths.values())[len(lengths) // 2] < 120
