"""The playground's box, from the cells of the last chapter, in JupyterLab, in a real browser: a click paints.

JupyterLab is not among what the tests install. The test runs where `jupyterlab` is installed beside this Python, or where
LAB_PYTHON names a Python that has it (`python -m venv lab; lab/bin/pip install jupyterlab ipywidgets`). Elsewhere it is
skipped, and says so; the same click on the same widgets is tested in tests/test_widgets.py, with a page of its own around them.
"""
import json
import os
import re
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import environment
from pages import here, root
from test_browser import ready
from test_widgets import START, box_cells


def python_with(variable, package):
    """A Python that can serve notebooks, or a skip that says what was missing."""
    python = os.environ.get(variable) or sys.executable
    found = subprocess.run([python, "-c", f"import {package}"], capture_output=True)
    if found.returncode: pytest.skip(f"no {package} in {python}; {variable} may name another Python: the box was not clicked there")
    return python


def notebook(folder):
    """The last chapter's cells with the box, as a notebook of their own."""
    cells = [nbformat.v4.new_code_cell(source) for source in (START, *box_cells())]
    made = nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name="minidiff", display_name="minidiff", language="python")))
    nbformat.write(made, folder / "box.ipynb")


def serve(python, kind, kernel, folder):
    """A server of notebooks with one kernel, and the notebook's address."""
    spec = folder / "share" / "kernels" / "minidiff"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps(dict(argv=[kernel, "-m", "ipykernel_launcher", "-f", "{connection_file}"], display_name="minidiff", language="python")))
    (folder / "work").mkdir()
    notebook(folder / "work")
    places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "RUNTIME", "DATA")}
    paths = os.pathsep.join([str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
    more = ["-m", "jupyterlab", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"] if kind == "lab" else ["-m", "notebook"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(folder / "log", "w+")
    process = subprocess.Popen([python, *more, "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"],
                               cwd=folder / "work", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                               env={**environment(), **places, "JUPYTER_PATH": str(folder / "share"), "PYTHONPATH": paths})
    until = time.time() + 240
    while time.time() < until and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\S*\?token=(\w+)", (folder / "log").read_text())
        if found: break
        time.sleep(0.5)
    else:
        process.kill()
        pytest.fail((folder / "log").read_text()[-3000:])
    where = "lab/tree" if kind == "lab" else "notebooks"
    return process, f"http://127.0.0.1:{found[1]}/{where}/box.ipynb?token={found[2]}"


def test_a_click_in_jupyterlab_paints(tmp_path):
    kind, python, kernel = "lab", python_with("LAB_PYTHON", "jupyterlab"), sys.executable
    chromium = ready()
    process, address = serve(python, kind, kernel, tmp_path)
    try:
        ran = subprocess.run(["node", "lab.mjs", address, kind, chromium, *filter(None, [os.environ.get("SCREENSHOT")])],
                             cwd=here, capture_output=True, text=True, timeout=900)
    finally:
        process.terminate()
        process.wait(60)
    assert ran.returncode == 0, ran.stdout + ran.stderr + (tmp_path / "log").read_text()[-3000:]
    seen = json.loads(ran.stdout)
    assert seen["before"] == 0 and seen["tracebacks"] == [], seen
    assert "'frog' is taken for 'frog face'" in seen["said"]
    pictures = [seen[name] for name in ("first", "seed", "shapes")]
    assert all(p["src"].startswith("data:image/png;base64,") and p["width"] > 500 for p in pictures)
    assert len({p["src"] for p in pictures}) == 3
    assert [p["alt"] for p in pictures] == ["a frog above a pizza on a blue background"] * 2 + ["a red circle above a blue square"]
    saved = json.loads((tmp_path / "work" / "box.ipynb").read_text())
    assert saved["cells"][-1]["outputs"], "it was saved"
    assert "widgets" not in saved["metadata"], "the widgets' state was left in the notebook"
