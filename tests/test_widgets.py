"""The playground's box, from its own page, in a browser with a kernel behind it: a click paints."""
import json
import subprocess
import sys

from conftest import environment
from pages import here, root
from test_browser import ready

START = """
import torch
from minidiff.latent_diffusion import open_run
from minidiff.playground import *
from minidiff.samplers import *
"""


def box_cells():
    """The playground's cells with the box."""
    notebook = json.loads((root / "nbs" / "appendix" / "playground.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["id"] in ("pg_make", "pg_open")]


def test_a_click_in_a_browser_paints(tmp_path):
    chromium = ready()
    (tmp_path / "cell.py").write_text("\n".join([START, *box_cells()]), encoding="utf-8")
    page = subprocess.Popen([sys.executable, here / "widget_page.py", tmp_path / "cell.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True, env=environment(), cwd=tmp_path)
    try:
        address = page.stdout.readline().strip()
        ran = subprocess.run(["node", "widgets.mjs", address, chromium], cwd=here, capture_output=True, text=True, timeout=600)
    finally:
        page.communicate(timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["errors"] == [] and seen["log"] == "" and seen["before"] == 0
    assert "'frog' is taken for 'frog face'" in seen["said"]
    pictures = [seen[name] for name in ("first", "seed", "shapes")]
    assert all(p["src"].startswith("data:image/png;base64,") and p["width"] > 500 for p in pictures)
    assert len({p["src"] for p in pictures}) == 3
    assert [p["alt"] for p in pictures] == ["a frog above a pizza on a blue background"] * 2 + ["a red circle above a blue square"]
