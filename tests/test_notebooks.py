"""The notebooks run from top to bottom, without Jupyter."""

from pathlib import Path

import pytest
from helpers import run_forked

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

# Cells are compiled under their number, counted from 1 over all cells, so a traceback says `File "cell 5", line 2`.
RUNNER = """
import json, sys

def run(file, namespace):
    for number, cell in enumerate(json.load(open(file, encoding="utf-8"))["cells"], 1):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)

run(sys.argv[1], vars(sys.modules["__main__"]))
"""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook, tmp_path):
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    done = run_forked(runner, str(notebook), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
