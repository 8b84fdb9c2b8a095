"""The notebooks run from top to bottom, without Jupyter."""

import json
from pathlib import Path

import pytest
from helpers import run_forked

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

SMALL = {
    "compare": {"images": 8, "validated": 2, "epochs": 1},
    "own_images": {"counts": {"train": 6, "val": 3, "new": 2}, "epochs": 1},
}
"""What the notebook's cell of parameters, tagged as papermill wants it, is overruled with."""

# Cells are compiled under their number, counted from 1 over all cells, so a traceback says `File "cell 5", line 2`.
# Reports, which the notebooks do not show, would take longer than their trainings.
RUNNER = """
import json, sys
from lightning_det.runs import run_report

run_report.write_report = lambda *_: None

def run(file, parameters, namespace):
    for number, cell in enumerate(json.load(open(file, encoding="utf-8"))["cells"], 1):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= namespace.keys()
            namespace |= parameters
            parameters = {}
    assert not parameters, "no cell is tagged as parameters"

run(sys.argv[1], json.loads(sys.argv[2]), vars(sys.modules["__main__"]))
"""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook, tmp_path):
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    done = run_forked(runner, str(notebook), json.dumps(SMALL.get(notebook.stem, {})), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
