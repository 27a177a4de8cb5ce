"""What the tests of the pages share: the notebooks as cells, their Markdown, their outputs, and small samples to break."""
import json
import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
here = Path(__file__).resolve().parent
cfg = ConfigParser(delimiters=["="])
cfg.read(root / "settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))["cells"]


def notebooks(nbs=root / "nbs"):
    """{path relative to nbs: cells}"""
    hidden = lambda path: any(part.startswith((".", "_")) for part in path.relative_to(nbs).parts)
    return {path.relative_to(nbs).as_posix(): read(path) for path in sorted(Path(nbs).rglob("*.ipynb")) if not hidden(path)}


NOTEBOOKS = notebooks()


def text(source):
    return source if isinstance(source, str) else "".join(source)


def code_of(cells):
    return [(i, text(cell["source"]), cell) for i, cell in enumerate(cells) if cell["cell_type"] == "code"]


def outputs(cells, *mimes):
    """(cell number, mime type, text) of every saved output of these types."""
    for i, _, cell in code_of(cells):
        for output in cell.get("outputs", []):
            for mime, data in output.get("data", {}).items():
                if mime in mimes: yield i, mime, text(data)


def prose(cells):
    """(cell number, Markdown) of the cells and of the outputs that are Markdown."""
    yield from ((i, text(cell["source"])) for i, cell in enumerate(cells) if cell["cell_type"] == "markdown")
    yield from ((i, data) for i, _, data in outputs(cells, "text/markdown"))


def without_code(markdown):
    """Markdown with its code blanked out, so that what looks like a link or a formula in it is left alone."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])
    markdown = re.sub(r"^( {0,3})(```+|~~~+).*?^\s*\2[`~]*\s*$", blank, markdown, flags=re.M | re.S)
    markdown = re.sub(r"<!--.*?-->", blank, markdown, flags=re.S)
    markdown = re.sub(r"(?:(?<=\n\n)|\A)(?: {4}.*(?:\n|\Z))+", blank, markdown)
    return re.sub(r"(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", blank, markdown, flags=re.S)


LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(\s*<?((?:[^()\s<>]|\([^()\s]*\))*)>?(?:\s+\"[^\"]*\")?\s*\)")


class Tags(HTMLParser):
    """The addresses, the ids and the pictures of a piece of HTML; a picture is (tag, its description or None)."""

    def __init__(self, markup):
        super().__init__()
        self.links, self.ids, self.pictures, self.svg = [], [], [], None
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[key] for key in ("href", "src") if given.get(key) and not given[key].startswith("data:")]
        self.ids += [given[key] for key in ("id", "name") if given.get(key)]
        if tag == "img": self.pictures.append((tag, given.get("alt")))
        elif tag in ("svg", "canvas", "video"): self.pictures.append((tag, given.get("aria-label")))
        elif tag == "title" and self.pictures and self.pictures[-1] == ("svg", None): self.pictures[-1] = ("svg", "")

    def handle_data(self, data):
        if self.pictures and self.pictures[-1] == ("svg", ""): self.pictures[-1] = ("svg", data)


def formulas(markdown):
    """([(formula, displayed?)], [what looks like a formula and will not be one on the site]), by pandoc's rules."""
    markdown, found = without_code(markdown), []

    def take(displayed):
        return lambda match: found.append((match[1], displayed)) or " "

    rest = re.sub(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$", take(True), markdown, flags=re.S)
    rest = re.sub(r"(?<!\\)\$(?!\s)((?:(?!\n\s*\n)(?:[^$\\]|\\.))+?)(?<!\s)\$(?!\d)", take(False), rest, flags=re.S)
    odd = [line.strip() for line in rest.splitlines() if re.search(r"(?<!\\)\$|\\begin\{|\\\(|\\\[", line)]
    return found, odd


def npm_ready():
    """Put the packages of tests/package-lock.json into the (ignored) folder tests/node_modules, unless they are there."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("no Node.js on the PATH (node, npm): neither formulas nor pages were tried in the real engines")
    done = here / "node_modules" / ".package-lock.json"
    wanted = {name: package["version"] for name, package in json.loads((here / "package-lock.json").read_text())["packages"].items() if name}
    have = {name: package["version"] for name, package in json.loads(done.read_text())["packages"].items()} if done.exists() else {}
    if wanted != have:
        ran = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=here, capture_output=True, text=True, timeout=600)
        if ran.returncode and not os.environ.get("CI"):
            pytest.skip(f"npm ci failed, so neither formulas nor pages were tried in the real engines: {ran.stderr.strip()[-300:]}")
        assert ran.returncode == 0, ran.stderr


def browser():
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def nothing_wrong(gate):
    problems = gate(NOTEBOOKS)
    assert not problems, "\n".join(["", *problems])


# ------------------------------------------------------------------------------ samples to break

def md(source): return {"cell_type": "markdown", "source": source}


def py(source, **data): return {"cell_type": "code", "source": source, "outputs": [{"output_type": "display_data", "data": data}] if data else []}


X = "00_dali.ipynb"  # the name under which the samples pass
COLAB = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/nbs/{X})"
INSTALL = f'#| hide\nimport importlib.util, sys\nif "google.colab" in sys.modules and importlib.util.find_spec("minidiff") is None:\n    %pip install -q git+https://github.com/{cfg["user"]}/{cfg["repo"]}'
TOP = [md("# A title\n\n> A subtitle"), md(COLAB), py(INSTALL), py("#| default_exp x\n#| hide")]


OTHERS = {"index.ipynb": [md("# Title\n\n> Subtitle")]}


def first(gate): return lambda cells: gate({**OTHERS, X: cells})
