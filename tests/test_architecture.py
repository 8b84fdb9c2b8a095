"""What the code looks like from outside (docs/architecture.md): floors, circles, lengths, probing, repetition."""

import ast
from difflib import SequenceMatcher
from graphlib import TopologicalSorter
from importlib import import_module
from itertools import combinations
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_det"

COMMANDS = ("train", "eval", "predict", "export", "inspect", "subset", "mine", "compare", "claims", "dashboard")

FLOORS = (
    ("system", "ops", "protocols"),
    ("selection", "views"),
    ("annotations", "backbones", "checkpoint", "merging", "detectors", "evaluation", "plotting"),
    ("modules", "data", "callbacks", "inspection", "inference", "report"),
    ("config",),
    ("runs",),
    ("evidence", "deployment", "api"),
    ("commands",),
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
    others = ("conf", "py.typed")
    parts = {p.stem for p in PACKAGE.iterdir() if not p.name.startswith("_") and p.name not in others}
    assert parts == set(FLOOR)


def test_imports_go_downward():
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not part.startswith("__"):  # the package itself and `python -m lightning_det` are above all
            wrong += [f"{file.relative_to(PACKAGE)} imports {o}" for o in imports(file) if FLOOR[o] > FLOOR[part]]
    assert not wrong


@pytest.mark.parametrize("command", FLOORS[-1])
def test_commands_can_be_imported(command):
    """What one module takes from another is there, in every module that a command uses."""
    assert import_module(f"lightning_det.{command}")
    assert import_module(f"lightning_det.commands.{command}")


def test_the_root_holds_commands_only():
    assert {p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("_")} == set(COMMANDS)


def modules():
    """Every module by its dotted name; a package is its ``__init__``."""
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imported_at_once(file, names):
    """Modules that one imports when it is imported itself, not later in a function."""
    for node in outside_functions(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in names)
            if node.module in names and any(f"{node.module}.{a.name}" not in names for a in node.names):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in names)


def outside_functions(node):
    for child in ast.iter_child_nodes(node):
        for_types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not for_types_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def test_imports_have_no_circles():
    names = dict(modules())
    graph = {name: set(imported_at_once(file, names)) - {name} for name, file in names.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_files_are_short():
    lengths = {str(f.relative_to(PACKAGE)): len(f.read_text().splitlines()) for f in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    assert median(lengths.values()) <= 120


@pytest.mark.parametrize("folder", ["lightning_det", "benchmarks"])
def test_functions_are_short(folder):
    """A body has at most fifty lines, docstrings aside."""
    long = {}
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if length > 50:
                    long[f"{file.relative_to(ROOT)}: {node.name}"] = length
    assert long == {}


TOLD_APART = {
    *("Tensor", "ndarray", "Number", "Real", "Integral", "integer"),  # data
    *("Mapping", "Sequence", "dict", "list", "tuple", "set", "str", "int", "float", "bool", "Path"),
    "Step",  # the planner refuses what is none
    *("Conv2d", "Linear", "BatchNorm2d", "_BatchNorm", "SyncBatchNorm", "GroupNorm"),  # layers of torch
}
"""Types that code may ask for; of detectors, steps and selectors, what they can do is declared."""


def probes(file):
    """Calls that ask an object what it can do."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        kinds = node.args[1] if node.func.id in ("isinstance", "issubclass") else None
        names = {n.attr if isinstance(n, ast.Attribute) else n.id for n in leaf_names(kinds)} if kinds else set()
        errors = {n for n in names if n.endswith(("Error", "Exception"))}
        numbered = len(node.args) == 2 and isinstance(node.args[1], ast.JoinedStr)  # getattr(self, f"cell{number}")
        if (node.func.id in ("getattr", "hasattr") and not numbered) or names - TOLD_APART - errors:
            yield f"{file.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"


def leaf_names(node):
    """The types of ``isinstance(x, A | b.C)`` or ``(A, b.C)``."""
    if isinstance(node, ast.Name | ast.Attribute):
        yield node
    else:
        for child in ast.iter_child_nodes(node):
            yield from leaf_names(child)


@pytest.mark.parametrize("part", ["detectors", "views", "selection", "mine.py", "runs/mining.py", "export.py"])
def test_nothing_asks_what_a_part_can_do(part):
    path = PACKAGE / part
    files = path.rglob("*.py") if path.is_dir() else [path]
    assert [probe for file in files for probe in probes(file)] == []


def test_configurations_do_not_repeat_each_other():
    """At most three pairs are alike in three quarters of their lines, comments aside."""
    texts = {}
    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        lines = file.read_text().splitlines()
        texts[file.relative_to(ROOT / "conf")] = [line for line in lines if line.strip() and not line.startswith("#")]
    alike = []
    for (one, a), (two, b) in combinations(texts.items(), 2):
        matcher = SequenceMatcher(None, a, b, autojunk=False)
        if matcher.real_quick_ratio() >= 0.75 and matcher.quick_ratio() >= 0.75 and matcher.ratio() >= 0.75:
            alike.append(f"{one} {two}")
    assert len(alike) <= 3, alike
