"""The package as it is installed: cheap imports, the same story everywhere."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
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


IMPORTS = f"""
import os, sys, time
now = time.process_time
start = now()
import torch
from torch import nn
took, before = now() - start, set(sys.modules)
for module in sys.argv[1:]:
    if child := os.fork(): os.waitpid(child, 0)
    else:
        start = now()
        __import__("minidiff." + module)
        print(module, (now() - start) / took, *[m for m in {HEAVY!r} if m in sys.modules and m not in before], flush=True)
        os._exit(0)
"""


def imported(*modules):
    """module -> (its share of the time that torch takes, heavy modules that come with it), each in a process that has torch already."""
    lines = subprocess.run([sys.executable, "-c", IMPORTS, *modules], capture_output=True, text=True, check=True).stdout.splitlines()
    return {module: (float(share), heavy) for module, share, *heavy in map(str.split, lines)}


@pytest.fixture(scope="module")
def cost():
    return imported(*MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_import_is_cheap(module, cost):
    """A third of what torch takes at most, and nothing heavy comes with it."""
    share, heavy = cost[module]
    if share >= 1 / 3: share = imported(module)[module][0]  # once more: the machine may have been busy
    assert share < 1 / 3 and heavy == []


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


# ------------------------------------------------------------------------------------ sdist and wheel

def build(kind, source, out):
    """Build without a network and without isolation."""
    if importlib.util.find_spec("build"):
        command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), "."]
    else:
        command = [sys.executable, "setup.py", "-q", {"sdist": "sdist", "wheel": "bdist_wheel"}[kind], "--dist-dir", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    built, = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """(sdist, the wheel built from it)."""
    folder = tmp_path_factory.mktemp("packages")
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if not name.startswith(("nbs/", "tests/")) and (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, source / name)
    sdist = build("sdist", source, folder / "sdist")
    with tarfile.open(sdist) as archive: archive.extractall(folder / "unpacked", filter="data")
    unpacked, = (folder / "unpacked").iterdir()
    return sdist, build("wheel", unpacked, folder / "wheel")


def test_the_sdist_holds_what_its_setup_reads(packages):
    with tarfile.open(packages[0]) as archive: names = {name.partition("/")[2] for name in archive.getnames()}
    read = set(re.findall(r'here / "([\w.]+)"', (root / "setup.py").read_text()))
    assert "settings.ini" in read and read | {"setup.py", "pyproject.toml", "LICENSE"} <= names, names


def test_the_wheel_of_the_sdist_holds_the_whole_package(packages):
    with zipfile.ZipFile(packages[1]) as archive:
        names = set(archive.namelist())
        scripts = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "minidiff"], cwd=root, capture_output=True, check=True).stdout
    ours = {name for name in listed.decode().split("\0") if name}
    assert len(ours) > 40 and ours <= names, ours - names
    assert all(f"{script} = " in scripts for script in ("minidiff_train", "minidiff_sample"))


def test_the_sdist_can_be_installed(packages, tmp_path):
    """Into a folder of its own, and from there a picture is painted."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target", str(tmp_path / "there"), str(packages[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    code = "import sys, minidiff; from minidiff.cli import sample_command; print(minidiff.__file__); sys.exit(sample_command(['a red circle', '--steps', '1']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "there")}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == f"{tmp_path}/there/minidiff/__init__.py\npicture.png\n", done.stdout + done.stderr
