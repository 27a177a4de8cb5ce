"""scripts/mutate.py on a notebook made up here: it must notice what the cells notice, and say what they do not."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script copies its process")

CELLS = {
    "install": "import sys\nif \"google.colab\" in sys.modules:\n    %pip install nothing",
    "imports": "import torch, random\nimport matplotlib.pyplot as plt\ngenerator = torch.Generator().manual_seed(0)\ntorch.manual_seed(0)",
    "double": "def double(x): return x + x\n\ndef eight(x): return double(double(double(x)))",
    "dice": "noise = torch.randn(3)\nown = torch.randn(3, generator=generator)\nassert torch.randn(1).item() != 0",
    "later": "weight = torch.tensor(2., requires_grad=True)\n(weight ** 2).backward()\nassert weight.grad == 4 and eight(1) == 8",
    "random": "again = torch.randn(3, generator=torch.Generator().manual_seed(0))\nassert torch.equal(own, again)\nassert torch.randn(1) < 1e9",
    "picture": "plt.plot([1, 2])\nplt.show()\ndisplay(1)\nprint('not shown')",
    "weak": "half = 1 / 2\nassert half",
    "off": "#| eval: false\nraise SystemExit",
}


def project(folder, flips, cells=CELLS, name="20_small"):
    notebook = {"cells": [{"cell_type": "code", "id": key, "source": text.splitlines(True)} for key, text in cells.items()]}
    place, table = folder / f"nbs/{name}.ipynb", folder / f"scripts/mutations/{name}.json"
    for path, content in ((place, notebook), (table, flips)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def mutate(folder, *arguments):
    ran = subprocess.run([sys.executable, ROOT / "scripts/mutate.py", "--root", folder, *arguments], capture_output=True, text=True, timeout=120)
    rows = [[part.strip() for part in line.strip("|").split(" | ")] for line in ran.stdout.splitlines() if line.startswith("| ")]
    return ran, [row for row in rows if row[0] != "notebook"]


def flip(cell, old, new, **more): return {"cell": cell, "old": old, "new": new, "what": f"{old} for {new}", **more}


def test_what_cells_notice(tmp_path):
    project(tmp_path, [
        flip("later", "** 2", "** 3"), flip("double", "x + x", "x * x", through="later"), flip("random", "manual_seed(0)", "manual_seed(1)"),
        flip("random", "torch.equal", "torch.unequal"), flip("dice", "noise", "own = 0; noise"),
    ])
    ran, rows = mutate(tmp_path)
    assert ran.returncode == 1 and [row[3] for row in rows] == [
        "`assert weight.grad == 4 and eight(1) == 8`", "later, `assert weight.grad == 4 and eight(1) == 8`", "`assert torch.equal(own, again)`",
        "*AttributeError: module 'torch' has no attribute 'unequal'*", "**nothing**"]
    assert "4 of 5 flips noticed, 1 of them by another error" in ran.stdout and "not shown" not in ran.stdout
    assert rows[0][:3] == ["20_small", "later", "** 2 for ** 3"]


def test_a_flip_leaves_the_rest_alone(tmp_path):
    """What a flipped cell does to variables, functions and dice is not there for the cells after it."""
    project(tmp_path, [flip("double", "x + x", "0 * x", through="later"), flip("dice", "own =", "torch.randn(9, generator=generator); own =", through="random"),
                       flip("later", "== 4", "== 5"), flip("random", "< 1e9", "> 1e9")])
    ran, rows = mutate(tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(rows) == 4 and rows[1][3] == "random, `assert torch.equal(own, again)`"


def test_what_cannot_be_made(tmp_path):
    """Such flips are named with the reason; the others are tried all the same."""
    wrong = {
        "`old` stands in the cell 5 times": flip("double", "x", "y"), "stands in the cell 0 times": flip("double", "zzz", "y"),
        "no such code cell": flip("nowhere", "x", "y"), "no such code cell ": flip("off", "raise", "pass"), "the same": flip("weak", "1 / 2", "1 / 2"),
        "no such later cell: dice": flip("weak", "1 / 2", "2 / 1", through="dice"), "has no new, what": {"cell": "weak", "old": "1"},
        "**nothing**": flip("weak", "1 / 2", "2 / 1"), "`assert weight": flip("later", "** 2", "** 3")}
    project(tmp_path, [*wrong.values()])
    ran, rows = mutate(tmp_path)
    assert ran.returncode == 1 and len(rows) == len(wrong)
    for reason, row in zip(wrong, rows): assert reason.strip() in row[3]
    assert "1 of 9 flips noticed" in ran.stdout


def test_a_notebook_that_fails_by_itself_and_only_some(tmp_path):
    project(tmp_path, [flip("weak", "/ 2", "/ 0")], {"first": "assert 1 == 2", "weak": "half = 1 / 2"})
    project(tmp_path, [flip("small", "== 4", "== 6")], {"small": "assert 2 + 2 == 4"}, name="appendix/odd")
    ran, rows = mutate(tmp_path)
    assert ran.returncode == 1 and [row[0] for row in rows] == ["20_small", "odd"]
    assert "the notebook itself fails in first: AssertionError assert 1 == 2" in rows[0][3] and rows[1][3] == "`assert 2 + 2 == 6`"
    ran, rows = mutate(tmp_path, "--only", "odd")
    assert ran.returncode == 0 and [row[0] for row in rows] == ["odd"]
    ran, _ = mutate(tmp_path, "--only", "30")
    assert ran.returncode == 1 and "no flips" in ran.stderr


def test_what_nothing_noticed_before_a_notebook_fails(tmp_path):
    project(tmp_path, [flip("weak", "/ 2", "/ 3"), flip("later", "2", "3")], {"weak": "half = 1 / 2", "fails": "assert 1 > 2", "later": "x = 2"})
    ran, rows = mutate(tmp_path)
    assert rows[0][3] == "**nothing**" and "the notebook itself fails in fails" in rows[1][3] and ran.returncode == 1


def test_flips_fit_their_notebooks():
    """Every flip of the course can be made: its cell is there, and its text stands in it once."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import mutate as script
    folder = ROOT / "scripts/mutations"
    for path in folder.rglob("*.json"):
        cells = json.loads((ROOT / "nbs" / path.relative_to(folder).with_suffix(".ipynb")).read_text(encoding="utf-8"))["cells"]
        code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
        wrong = [(flip.get("cell"), reason) for flip in json.loads(path.read_text(encoding="utf-8")) if (reason := script.impossible(flip, code))]
        assert not wrong, (path.name, wrong)


def test_flips_that_prove_nothing(tmp_path):
    """A flip that is no Python, that names what is not there, or that never ends has not been noticed by any proof."""
    small = {"small": "x = 1 + 2\nassert x == 3"}
    wrong = {
        "the flipped cell is no Python": flip("small", "1 + 2", "1 + + ("), "a slip in the flip": flip("small", "1 + 2", "1 + tow"),
        "took too long": flip("small", "x = 1", "while True: pass\nx = 1"), "an unknown thruogh": flip("small", "+ 2", "- 2", thruogh="small"),
        "no text for new": {**flip("small", "+ 2", "- 2"), "new": 3}, "is no flip": "1 + 2", "no text for through": flip("small", "+ 2", "- 2", through=["small"])}
    project(tmp_path, [*wrong.values(), flip("small", "+ 2", "- 2")], small)
    ran, rows = mutate(tmp_path, "--seconds", "2")
    assert ran.returncode == 1 and "1 of 8 flips noticed" in ran.stdout, ran.stdout + ran.stderr
    for reason, row in zip(wrong, rows): assert reason in row[3]


@pytest.mark.parametrize("content", ["[{", "", "null", "3", "{}", "[]"])
def test_files_that_hold_no_flips(tmp_path, content):
    project(tmp_path, [])
    (tmp_path / "scripts/mutations/20_small.json").write_text(content)
    ran, _ = mutate(tmp_path)
    assert ran.returncode == 1 and "20_small.json: " in ran.stderr and "Traceback" not in ran.stderr
