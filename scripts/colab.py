"""Run the notebooks as Colab would: its Python, its versions, minidiff installed without what only its authors need.

    python scripts/colab.py                      build .colab where it is not there yet, run all notebooks
    python scripts/colab.py nbs/06_tokenizer.ipynb    run just these
    python scripts/colab.py --python python3.12  another Python; without it, 3.13 if it can be found, and else this one

The versions stand in scripts/colab.txt. The kernel has a module `google.colab`, so the first cell of each notebook believes that it is in Colab (and finds minidiff installed).
On Linux, PyTorch comes with CUDA for every Python but this one where a smaller build is at hand: about 3 GB to fetch, 7 GB on the disk.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from execute import execute, notebooks, root

VERSIONS = """
import importlib.metadata as m, importlib.util as u, platform, sys
assert "google.colab" in sys.modules and u.find_spec("nbdev") is None and m.version("fastcore").startswith("2.2")
print("Python " + platform.python_version(), *(f"{n} {m.version(n)}" for n in "torch ipython ipykernel ipywidgets numpy matplotlib fastcore diffusers transformers fastprogress minidiff".split()), sep=" · ")
"""


def find_python():
    """Python 3.13 from the PATH or from pyenv, else this one."""
    candidates = [shutil.which("python3.13"), *sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.13*/bin/python"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import sys, venv; assert sys.version_info[:2] == (3, 13)"], capture_output=True).returncode == 0:
            return str(candidate)
    print("no Python 3.13 here: this one instead", flush=True)
    return sys.executable


def build(folder, python):
    """A virtual environment with Colab's versions and minidiff; what is there already is kept."""
    if not (folder / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    inside = folder / "bin" / "python"
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = root / "scripts" / "colab.txt"
    if not (folder / ".installed").exists() or (folder / ".installed").read_bytes() != wanted.read_bytes():
        subprocess.run([*pip, "-r", wanted], check=True)
        subprocess.run([*pip, "-c", wanted, str(root)], check=True)
        site = subprocess.run([inside, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True).stdout.strip()
        stub = Path(site) / "google" / "colab"
        stub.mkdir(parents=True, exist_ok=True)
        (stub / "__init__.py").write_text('"""Only the name, so that a notebook believes that it is in Colab."""\n')
        shutil.copy(wanted, folder / ".installed")
    else:
        subprocess.run([*pip, "--no-deps", "--force-reinstall", str(root)], check=True)
    return inside


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to run; all where none is given")
    parser.add_argument("--python", help="the Python to build the environment with")
    parser.add_argument("--venv", type=Path, default=root / ".colab", help="where the environment is")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="how many notebooks run at once")
    options = parser.parse_args()
    inside = build(options.venv.resolve(), options.python or find_python())
    done = subprocess.run([inside, "-c", "import google.colab" + VERSIONS], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the environment is not what it should be:\n{done.stderr}")
    print(done.stdout, flush=True)
    failed, paths = [], [path.resolve() for path in options.notebooks] or notebooks()
    os.environ.update(OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // options.workers)), MPLBACKEND="module://matplotlib_inline.backend_inline")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        spec = Path(folder) / "kernels" / "colab"
        spec.mkdir(parents=True)
        start = "import google.colab; from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
        (spec / "kernel.json").write_text(json.dumps({"argv": [str(inside), "-Xfrozen_modules=off", "-c", start, "-f", "{connection_file}"], "display_name": "colab", "language": "python"}))
        os.environ["JUPYTER_PATH"] = folder

        def one(path):
            _, seconds, error = execute(path, kernel="colab")
            name = path.relative_to(root)
            print(f"{'failed' if error else 'ran':>6} {name} in {seconds:.0f} s", flush=True)
            if error: failed.append(f"{name}\n{error}")

        list(pool.map(one, paths))
    for text in failed: print(f"\n{text}", file=sys.stderr)
    print(f"{len(paths) - len(failed)} of {len(paths)} notebooks ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
