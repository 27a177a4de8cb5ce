"""Run notebooks top to bottom, each in a fresh kernel.

    python scripts/execute.py                     run all and save their outputs
    python scripts/execute.py nbs/06_tokenizer.ipynb   run just these
    python scripts/execute.py --check             run all, save nothing, fail where a cell fails

Cells marked `#| eval: false` are not run. Notebooks run side by side, one processor thread each.
"""
import argparse
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
SKIP = re.compile(r"^#\|\s*eval:\s*false", re.M)


def notebooks():
    hidden = lambda path: any(part.startswith((".", "_")) for part in path.relative_to(root / "nbs").parts)
    return sorted(path for path in (root / "nbs").rglob("*.ipynb") if not hidden(path))


def execute(path, timeout=1200, kernel="python3"):
    """Run one notebook; returns it with its outputs, the seconds it took, and the error text or None."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    class Client(NotebookClient):
        async def async_execute_cell(self, cell, *args, **kwargs):
            if cell.cell_type == "code" and SKIP.search(cell.source):
                return cell
            return await super().async_execute_cell(cell, *args, **kwargs)

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = Client(notebook, timeout=timeout, kernel_name=kernel, store_widget_state=False, record_timing=False, coalesce_streams=True,
                    resources={"metadata": {"path": str(path.parent)}})
    start, error = time.perf_counter(), None
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
        error = re.sub(r"\x1b\[[0-9;]*m", "", str(failure))
    for cell in notebook.cells:  # other libraries' progress bars: widgets, dead without their kernel
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    return notebook, time.perf_counter() - start, error


def save(path, notebook):
    import nbformat
    from nbdev.clean import clean_nb
    from execnb.nbio import read_nb, write_nb

    nbformat.write(notebook, path)
    notebook = read_nb(path)
    clean_nb(notebook)
    write_nb(notebook, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to run; all where none is given")
    parser.add_argument("--check", action="store_true", help="save nothing")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="how many run at once")
    options = parser.parse_args()
    paths = [path.resolve() for path in options.notebooks] or notebooks()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.workers)))
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    failed = []

    def one(path):
        notebook, seconds, error = execute(path)
        name = path.relative_to(root)
        print(f"{'failed' if error else 'ran':>6} {name} in {seconds:.0f} s", flush=True)
        if error:
            failed.append(f"{name}\n{error}")
        elif not options.check:
            save(path, notebook)

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(one, paths))
    for text in failed:
        print(f"\n{text}", file=sys.stderr)
    print(f"{len(paths) - len(failed)} of {len(paths)} notebooks ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
