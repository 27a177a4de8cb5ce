"""The package as it is installed: cheap imports, the same story everywhere."""
import json
import re
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
MODULES = sorted(path.stem for path in (root / "minidiff").glob("[a-z]*.py"))
HEAVY = ("diffusers", "transformers", "accelerate", "matplotlib", "fastprogress", "IPython", "ipywidgets", "huggingface_hub", "scipy", "sklearn", "sympy.core")


def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini")
    return parser["DEFAULT"]


@pytest.mark.parametrize("module", MODULES)
def test_import_is_cheap(module):
    """Half a second at most on top of torch, and nothing heavy comes with it."""
    code = f"import time, torch; from torch import nn; import sys; before = set(sys.modules); start = time.perf_counter(); import minidiff.{module}; " \
           f"print(time.perf_counter() - start, *[m for m in {HEAVY!r} if m in sys.modules and m not in before])"
    best, heavy = None, []
    for _ in range(3):
        seconds, *heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        best = min(float(seconds), best or 1e9)
        if best < 0.5: break
    assert best < 0.5 and heavy == []


def test_version_is_that_of_the_settings():
    import minidiff
    assert minidiff.__version__ == settings()["version"]


def test_requirements_are_pinned_in_the_constraints():
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (root / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = (settings()["requirements"] + " " + settings()["dev_requirements"]).split()
    names = {re.match(r"[\w.-]+", item).group().lower().replace("_", "-") for item in wanted}
    assert names <= pinned, names - pinned


NOTEBOOKS = [path for path in sorted((root / "nbs").rglob("*.ipynb")) if not any(part.startswith((".", "_")) for part in path.relative_to(root / "nbs").parts)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_executed_and_light(path):
    cells = json.loads(path.read_text())["cells"]
    errors = [output.get("ename") for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"] if output["output_type"] == "error"]
    assert errors == [] and path.stat().st_size <= 1.5 * 2**20
    assert any(cell["cell_type"] == "code" and cell["outputs"] for cell in cells), "no cell has an output: was it run?"
