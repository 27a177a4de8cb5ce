"""Do the cells that prove a formula notice when the formula is wrong? Run by hand:

    python scripts/mutate.py             every notebook that has flips
    python scripts/mutate.py --only 10   those whose name begins with 10

A flip is a sign, a root or an index turned round in a checked formula. They stand in
`scripts/mutations/NOTEBOOK.json` (`appendix/NAME.json` for `nbs/appendix/NAME.ipynb`),
one list a notebook:

    [{"cell": "cell012", "old": "a + b", "new": "a - b", "what": "the sign of b"}, ...]

`old` stands exactly once in that cell. The notebook is run from the top, cells marked
`#| eval: false` and lines with magics left out; before the cell of a flip, a copy of the
whole process (`os.fork`: variables, networks, random states and all) runs the cell with
the flip, and must fail. `"through": "cell015"` lets it run on, up to that cell, where the
proof stands in a later cell than the formula. The table goes to standard output; a flip
that nothing notices, that cannot be made, or that only names something unknown, is an
error.
"""
import argparse
import contextlib
import json
import linecache
import os
import re
import signal
import sys
import time
import types
import warnings
from pathlib import Path

root = Path(__file__).resolve().parent.parent
SKIP = re.compile(r"^#\|\s*eval:\s*false", re.M)  # as in scripts/execute.py
MAGIC = re.compile(r"^(\s*)[%!].*$", re.M)
SECONDS = 300  # a flip that takes longer is stopped


def apart(work):
    """What `work()` returns when it is run in a copy of this process."""
    inside, outside = os.pipe()
    child = os.fork()
    if child:
        os.close(outside)
        with os.fdopen(inside) as stream: text = stream.read()
        os.waitpid(child, 0)
        return json.loads(text) if text else {"error": {"text": "the process died, or took too long"}}
    try:
        os.close(inside)
        try: result = work()
        except BaseException as error: result = {"error": said(error)}
        with os.fdopen(outside, "w") as stream: json.dump(result, stream)
    finally:
        os._exit(0)


def said(error):
    """An exception in one line, with the line of the cell it comes from."""
    text = type(error).__name__
    if str(error): text += ": " + " ".join(str(error).split())
    trace, line = error.__traceback__, ""
    while trace:
        if (trace.tb_frame.f_code.co_filename or "").startswith("<cell "):
            line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()
        trace = trace.tb_next
    return {"type": type(error).__name__, "text": text[:160], "line": line}


def quiet():
    """No windows, no pictures, no films: only what is computed counts."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.animation
    matplotlib.animation.Animation.to_jshtml = lambda self, *args, **kwargs: ""
    warnings.filterwarnings("ignore")


class Notebook:
    """A notebook that is run cell by cell, as Jupyter would in its own folder."""

    def __init__(self, path, project=root, seconds=SECONDS):
        self.seconds = seconds
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = {cell.get("id"): "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
        self.cells = {name: MAGIC.sub(r"\1pass", text) for name, text in code.items() if not SKIP.search(text)}
        self.module = types.ModuleType("__main__")
        self.module.display = lambda *args, **kwargs: None
        sys.modules["__main__"] = self.module
        sys.path[:0] = [str(project), str(path.parent)]
        os.chdir(path.parent)

    def run(self, name, text=None):
        """Run a cell, or `text` in its place."""
        text = self.cells[name] if text is None else text
        filename = f"<cell {name}>"
        linecache.cache[filename] = len(text), None, text.splitlines(True), filename
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            exec(compile(text, filename, "exec"), vars(self.module))
            if "matplotlib.pyplot" in sys.modules: sys.modules["matplotlib.pyplot"].close("all")


def impossible(flip, cells):
    """Why a flip cannot be made, or None."""
    names, wanted = list(cells), {"cell", "old", "new", "what"}
    if not isinstance(flip, dict): return "is no flip"
    if missing := wanted - set(flip): return f"has no {', '.join(sorted(missing))}"
    if unknown := set(flip) - wanted - {"through"}: return f"has an unknown {', '.join(sorted(unknown))}"
    if wrong := [key for key, value in flip.items() if not isinstance(value, str)]: return f"has no text for {', '.join(sorted(wrong))}"
    if flip["cell"] not in cells: return "no such code cell"
    if flip["old"] == flip["new"]: return "old and new are the same"
    count = cells[flip["cell"]].count(flip["old"])
    if count != 1: return f"`old` stands in the cell {count} times"
    last = flip.get("through", flip["cell"])
    if last not in cells or names.index(last) < names.index(flip["cell"]): return f"no such later cell: {last}"
    text = MAGIC.sub(r"\1pass", cells[flip["cell"]].replace(flip["old"], flip["new"]))
    try: compile(text, "flip", "exec")
    except (SyntaxError, ValueError) as error: return f"the flipped cell is no Python: {error}"


def attempt(notebook, flip):
    """{"by": cell, "type", "text", "line"} of what notices a flip; {} where nothing does."""
    names = list(notebook.cells)
    first, last = names.index(flip["cell"]), names.index(flip.get("through", flip["cell"]))
    signal.alarm(notebook.seconds)
    for name in names[first:last + 1]:
        text = notebook.cells[name]
        if name == flip["cell"]: text = text.replace(flip["old"], flip["new"])
        try: notebook.run(name, text)
        except BaseException as error: return {"by": name, **said(error)}
    return {}


def flipped(path, flips, project=root, seconds=SECONDS):
    """Run a notebook with its flips: [what came of each], in the order of the list."""
    quiet()
    notebook = Notebook(path, project, seconds)
    found = [{"wrong": reason} if (reason := impossible(flip, notebook.cells)) else None for flip in flips]
    for name in notebook.cells:
        for i, flip in enumerate(flips):  # one that cannot be made has its answer already
            if found[i] is None and flip["cell"] == name: found[i] = apart(lambda: attempt(notebook, flip))
        if None not in found: break
        try: notebook.run(name)
        except BaseException as error:
            told = said(error)
            reason = f"the notebook itself fails in {name}: {told['text']} {told['line']}"
            return [{"wrong": reason} if result is None else result for result in found]
    return found


def row(name, flip, result):
    """(a row of the table, its cells; whether the flip was noticed)"""
    if "wrong" in result: by = f"**cannot be made**: {result['wrong']}"
    elif "error" in result: by = f"**broke off**: {result['error']['text']}"
    elif not result: by = "**nothing**"
    elif result["type"] == "NameError": by = f"**a slip in the flip**: {result['text']}"
    else:
        by = f"{result['by']}, " if result["by"] != flip["cell"] else ""
        by += f"`{result['line']}`" if result["type"] == "AssertionError" else f"*{result['text']}*"
    if not isinstance(flip, dict): flip = {"what": flip}
    cells = name, str(flip.get("cell")), str(flip.get("what")), by
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |", "by" in result and result["type"] != "NameError"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""], help="how the notebook's name begins, as 10 or cnn")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="a flip that takes longer is stopped, and counts as not noticed")
    parser.add_argument("--root", type=Path, default=root, help="the project's folder")
    options = parser.parse_args()
    project = options.root.resolve()
    folder = project / "scripts/mutations"
    files = [path for path in sorted(folder.rglob("*.json")) if path.stem.startswith(tuple(options.only))]
    if not files: sys.exit(f"no flips in {folder} for {' '.join(options.only) or 'any notebook'}")
    print("| notebook | cell | flip | caught by |\n|---|---|---|---|", flush=True)
    noticed, other, missed = 0, 0, 0
    for path in files:
        try: flips = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error: sys.exit(f"{path}: {error}")
        if not isinstance(flips, list) or not flips: sys.exit(f"{path}: expected a list of flips")
        notebook = project / "nbs" / path.relative_to(folder).with_suffix(".ipynb")
        start = time.perf_counter()
        results = apart(lambda: flipped(notebook, flips, project, options.seconds))
        if isinstance(results, dict): results = [results] * len(flips)
        for flip, result in zip(flips, results):
            line, good = row(path.stem, flip, result)
            print(line, flush=True)
            noticed, missed = noticed + good, missed + (not good)
            other += good and result["type"] != "AssertionError"
        print(f"{path.stem}: {len(flips)} flips in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(f"\n{noticed} of {noticed + missed} flips noticed, {other} of them by another error than an assertion.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
