"""The pages a reader meets: links, formulas, pictures, front matter, and the site's notebooks as nbdev prepares them. None of it needs Quarto.

Each gate is a function that lists what is wrong; `test_the_gates_can_fail` shows each of them something broken.
"""
import ast
import html
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

root = Path(__file__).resolve().parent.parent
here = Path(__file__).resolve().parent
sys.path.insert(0, str(root / "scripts"))
import sidebar  # noqa: E402

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


# ------------------------------------------------------------------------------------------ links

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


def slug(heading):
    """The id that pandoc gives to a heading, and with it the site."""
    heading = LINK.sub(r"\2", heading).replace("`", "").replace("*", "").replace("$", "")
    words = re.sub(r"[^\w\s.-]", "", heading, flags=re.UNICODE).strip().lower()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", words)) or "section"


def anchors(cells):
    found, seen = set(), {}
    for _, markdown in prose(cells):
        markdown = re.sub(r"^(```+|~~~+).*?^\1\s*$", "", markdown, flags=re.M | re.S)
        found.update(Tags(markdown).ids)
        for heading in re.findall(r"^#{1,6}\s+(.*?)\s*#*$", markdown, flags=re.M):
            explicit = re.search(r"\{#([\w.-]+)[^}]*\}$", heading)
            name = explicit[1] if explicit else slug(heading)
            count = seen[name] = seen.get(name, -1) + 1
            found.add(f"{name}-{count}" if count else name)
    return found


def links(cells):
    """(cell number, address) of every link and picture in the text."""
    for i, markdown in prose(cells):
        markdown = without_code(markdown)
        for address in [m[3] for m in LINK.finditer(markdown)] + re.findall(r"^\[[^\]]+\]:\s*(\S+)", markdown, flags=re.M) + Tags(markdown).links:
            yield i, address


def broken_links(books, nbs=root / "nbs"):
    """Addresses inside the course that lead nowhere: to a file that is not there, or to an anchor that the site will not have."""
    own = f"https://github.com/{cfg['user']}/{cfg['repo']}"
    colab = f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/"
    ids = {name: anchors(cells) for name, cells in books.items()}
    problems = []
    for name, cells in books.items():
        folder = (Path(nbs) / name).parent
        for i, address in links(cells):
            where = f"{name}, cell {i}: {address}"
            local = re.match(re.escape(own) + rf"/(?:blob|tree|raw)/{re.escape(cfg['branch'])}/([^#]*)", address) or re.match(re.escape(colab) + "([^#]*)", address)
            if local:
                if not (root / unquote(local[1])).exists(): problems.append(f"{where} is not in the repository")
            elif re.match(r"https?://|mailto:", address):
                if re.match(r"https?://[^/]*(localhost|127\.0\.0\.1|example\.com)", address): problems.append(f"{where} is no public address")
            elif re.match(r"[a-z]+:|//|/", address):
                problems.append(f"{where} is neither relative nor a web address")
            elif not address or address == "#":
                problems.append(f"{where} is empty")
            else:
                path, _, anchor = address.partition("#")
                target = (folder / unquote(path)).resolve() if path else (Path(nbs) / name).resolve()
                if not target.exists(): problems.append(f"{where} does not exist")
                elif anchor and target.suffix == ".ipynb" and unquote(anchor) not in ids.get(target.relative_to(Path(nbs).resolve()).as_posix(), ()):
                    problems.append(f"{where}: the page has no such anchor (the site's are lower case, with hyphens)")
    return problems


# --------------------------------------------------------------------------------------- formulas

def formulas(markdown):
    """([(formula, displayed?)], [what looks like a formula and will not be one on the site]), by pandoc's rules."""
    markdown, found = without_code(markdown), []

    def take(displayed):
        return lambda match: found.append((match[1], displayed)) or " "

    rest = re.sub(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$", take(True), markdown, flags=re.S)
    rest = re.sub(r"(?<!\\)\$(?!\s)((?:(?!\n\s*\n)(?:[^$\\]|\\.))+?)(?<!\s)\$(?!\d)", take(False), rest, flags=re.S)
    odd = [line.strip() for line in rest.splitlines() if re.search(r"(?<!\\)\$|\\begin\{|\\\(|\\\[", line)]
    return found, odd


def all_formulas(books):
    """([(where, formula, displayed?)], problems)"""
    found, problems = [], []
    for name, cells in books.items():
        for i, markdown in [*prose(cells), *((i, data) for i, _, data in outputs(cells, "text/latex"))]:
            some, odd = formulas(markdown)
            found += [(f"{name}, cell {i}", formula, displayed) for formula, displayed in some]
            problems += [f"{name}, cell {i}: not read as a formula by pandoc: {line}" for line in odd]
    return found, problems


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


def refused_formulas(found):
    """What KaTeX or MathJax says against [(where, formula, displayed?)]."""
    given = json.dumps([{"tex": formula, "display": displayed} for _, formula, displayed in found])
    ran = subprocess.run(["node", "formulas.mjs"], cwd=here, input=given, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return [f"{found[p['index']][0]}: {p['engine']}: {p['message']} in {found[p['index']][1]}" for p in json.loads(ran.stdout)]


# --------------------------------------------------------------------------------------- pictures

def undescribed(books):
    """Pictures without a description of what there is to see, and pictures that the site would not show."""
    problems, says_nothing = [], re.compile(r"(an? )?(image|figure|plot|picture|animation|png|svg)?\.?", re.I)
    for name, cells in books.items():
        for i, markdown in prose(cells):
            markdown = without_code(markdown)
            found = [("image", m[2]) for m in LINK.finditer(markdown) if m[1]] + Tags(markdown).pictures
            problems += [f"{name}, cell {i}: {what} without alt text" for what, alt in found if says_nothing.fullmatch((alt or "").strip())]
        for i, _, data in outputs(cells, "text/html"):
            problems += [f"{name}, cell {i}: {what} in the output without alt text" for what, alt in Tags(data).pictures if says_nothing.fullmatch((alt or "").strip())]
        for i, source, cell in code_of(cells):
            shown = [data for output in cell.get("outputs", []) if (data := output.get("data"))]
            bare = [mime for data in shown for mime in data if mime.startswith("image/") and "text/html" not in data]
            if bare and not re.search(r"^#\|\s*fig-alt:\s*\S", source, re.M): problems.append(f"{name}, cell {i}: {bare[0]} without alt text; `show` gives it one")
            if re.search(r"^#\|\s*hide\b", source, re.M) and any("text/html" in data or bare for data in shown):
                problems.append(f"{name}, cell {i}: the site would drop the figure with the hidden cell; `#| echo: false` hides the code alone")
    return problems


# -------------------------------------------------------------------------- front matter and text

def front_matter(name, cells):
    """What is missing at a notebook's top. nbdev turns the first cell into front matter and drops whatever else is in it."""
    if len(cells) < 4: return [f"{name}: fewer than four cells"]
    first, second, third = (text(cell["source"]).strip() for cell in cells[:3])
    problems = []
    if not re.fullmatch(r"# \S.*\n+> \S.*", first): problems.append(f"{name}: the first cell must be `# Title` and `> subtitle`, and nothing else: the rest would not be on the site")
    headings = [line for _, markdown in prose(cells) for line in without_code(markdown).splitlines() if re.match(r"# \S", line)]
    if len(headings) != 1: problems.append(f"{name}: one first-level heading expected, got {headings}")
    if name == cfg["readme_nb"]: return problems
    where = f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/{cfg['nbs_path']}/{name}"
    if not second.startswith(f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({where})"):
        problems.append(f"{name}: the second cell must begin with the Colab badge that leads to {where}")
    install = f"%pip install -q git+https://github.com/{cfg['user']}/{cfg['repo']}"
    try: body = ast.parse(third.replace(install, "install")).body
    except SyntaxError: body = []
    guarded = len(body) == 2 and isinstance(body[1], ast.If) and "'google.colab' in sys.modules" in ast.unparse(body[1].test) and ast.unparse(body[1].body) == "install"
    if not guarded or not third.startswith("#| hide"): problems.append(f"{name}: the first code cell must be hidden and run `{install}`, in Colab only")
    if not re.fullmatch(r"#\| default_exp \w+\n#\| hide", text(cells[3]["source"]).strip()): problems.append(f"{name}: `#| default_exp` and `#| hide` must follow the install cell")
    return problems


def placeholders(books):
    """Words that say that something is still missing."""
    sign = re.compile(r"\b(TODO|TBD|FIXME|XXX)\b|\?\?\?|(?i:lorem ipsum|coming soon|to be (written|done|continued)\b|\bplaceholder (text|figure|picture|image))")
    return [f"{name}, cell {i}: {match[0]!r}" for name, cells in books.items() for i, cell in enumerate(cells) if (match := sign.search(text(cell["source"])))]


def swallowed_blocks(books):
    """Lists, tables and headings that Jupyter shows as such and pandoc as a piece of the paragraph above, for want of an empty line."""
    block, problems = re.compile(r"([-*+] |1[.)] |\|.*\||#{1,6} )"), []
    for name, cells in books.items():
        for i, cell in enumerate(cells):
            if cell["cell_type"] != "markdown": continue
            lines = without_code(text(cell["source"])).splitlines()
            for before, line in zip(lines, lines[1:]):
                if block.match(line) and before.strip() and not re.match(r"\s*([-*+] |\d+[.)] |\||#|>|<|\$\$)|\s{2,}|\t", before):
                    problems.append(f"{name}, cell {i}: an empty line is needed before {line[:60]!r}")
    return problems


def unclean(books):
    """What a saved notebook should not hold: the remains of widgets, and cells that the docs build cannot run.

    nbdev runs each cell that imports something when it builds the site, and no cell before it: in such a cell nothing may need what came earlier."""
    problems = []
    for name, cells in books.items():
        problems += [f"{name}, cell {i}: a widget's remains, dead without its kernel" for i, _, _ in outputs(cells, "application/vnd.jupyter.widget-view+json")]
        for i, source, _ in code_of(cells):
            if re.search(r"^#\|\s*(export|exporti|exports|eval:\s*false)|^\s*%", source, re.M): continue
            body = ast.parse(source).body
            if not any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(ast.Module(body, []))): continue
            other = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom))]
            if other and not re.search(r"^#\|\s*hide\b", source, re.M): problems.append(f"{name}, cell {i}: imports need a cell of their own, apart from {ast.unparse(other[0])[:60]!r}")
    return problems


# ------------------------------------------------------------------------------- the gates, closed

@pytest.mark.parametrize("gate", [broken_links, undescribed, placeholders, swallowed_blocks, unclean], ids=lambda gate: gate.__name__)
def test_nothing_is_wrong(gate):
    problems = gate(NOTEBOOKS)
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_front_matter(name):
    problems = front_matter(name, NOTEBOOKS[name])
    assert not problems, "\n".join(["", *problems])


def test_links_of_the_readme():
    markdown = without_code((root / "README.md").read_text(encoding="utf-8"))
    local = [m[3].partition("#")[0] for m in LINK.finditer(markdown) if not re.match(r"https?:|#|mailto:", m[3])]
    assert local and [address for address in local if not (root / address).exists()] == []


def test_formulas_parse():
    """Every formula of every notebook, in both engines; an unknown macro is a failure."""
    found, problems = all_formulas(NOTEBOOKS)
    assert not problems, "\n".join(["", *problems])
    assert len(found) > 100
    npm_ready()
    refused = refused_formulas(found)
    assert not refused, "\n".join(["", *refused])


def test_site_files_are_in_step():
    """One version of Quarto and of KaTeX, no font from elsewhere, every notebook in the sidebar, once."""
    listed = re.findall(r"- (\S+\.ipynb)$", (root / "nbs" / "sidebar.yml").read_text(), re.M)
    assert sorted(listed) == sorted(NOTEBOOKS), "run scripts/sidebar.py"
    assert sidebar.render(sidebar.contents()) == (root / "nbs" / "sidebar.yml").read_text(), "run scripts/sidebar.py"
    site = (root / "nbs" / "nbdev.yml").read_text()
    for value in (cfg["title"], cfg["description"], cfg["branch"], cfg["git_url"], cfg["doc_host"] + cfg["doc_baseurl"]): assert value in site, value
    katex = json.loads((here / "package-lock.json").read_text())["packages"]["node_modules/katex"]["version"]
    assert f"katex@{katex}/dist/" in (root / "nbs" / "_quarto.yml").read_text()
    assert "version: 1.7.34" in (root / ".github/workflows/deploy.yaml").read_text()
    for path in (root / "nbs").glob("*.[sc][sc]*s"): assert not re.search(r"@import|@font-face|url\(", path.read_text()), path.name


# --------------------------------------------------------------- the notebooks as nbdev hands them on

@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    """The folder of notebooks that Quarto would render, made from a copy: `proc_nbs(force=True)`."""
    copy = tmp_path_factory.mktemp("docs") / "copy"
    copy.mkdir()
    for name in ("settings.ini", "README.md", "pyproject.toml", "setup.py"): shutil.copy(root / name, copy)
    for name in (cfg["nbs_path"], cfg["lib_path"]): shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*", "_*.ipynb"))
    shutil.copy(root / cfg["lib_path"] / "_modidx.py", copy / cfg["lib_path"])
    command = "from nbdev.serve import proc_nbs; proc_nbs(force=True)"
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    ran = subprocess.run([sys.executable, "-c", command], cwd=copy, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-6000:]
    return copy / "_proc"


def public(name):
    """The functions and classes that a notebook exports."""
    exported = re.search(r"^#\| default_exp (\w+)", "\n".join(source for _, source, _ in code_of(NOTEBOOKS[name])), re.M)
    if not exported: return []
    tree = ast.parse((root / cfg["lib_path"] / f"{exported[1]}.py").read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")]


def not_prepared(name, cells, page):
    """What a page of the site would lack: title and subtitle, the Colab button, code, formulas, or a box with source link for each public name."""
    problems, front = [], text(page[0]["source"])
    bare = lambda source: re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
    title = re.match(r"# (.*)", text(cells[0]["source"]))[1]
    if page[0]["cell_type"] != "raw" or not re.search(r"^output-file: ", front, re.M) or not re.search(r"^description: ", front, re.M): problems.append("front matter")
    if title not in re.sub(r"\s+", " ", front).replace("''", "'"): problems.append(f"title {title!r}")
    code = {bare(source) for _, source, _ in code_of(page)}
    problems += [f"the code of cell {i}" for i, source, _ in code_of(cells) if bare(source) not in {*code, ""} and not re.search(r"^#\|\s*hide|^\s*%", source, re.M)]
    before, after = ([formula for _, markdown in prose(some) for formula, _ in formulas(markdown)[0]] for some in (cells, page))
    problems += [f"formula {formula}" for formula in before if formula not in after]
    problems += [f"Quarto does not know the directive {line}" for _, source, _ in code_of(page) for line in source.splitlines() if re.match(r"#\|(?!\s*[\w-]+: )", line)]
    boxes = "\n".join(data for _, data in prose(page))
    if name != cfg["readme_nb"] and sum("colab-badge.svg" in markdown for _, markdown in prose(page)) != 1: problems.append("Colab button")
    problems += [f"a box for {symbol}" for symbol in public(name) if not re.search(rf"^#+ (\w+\.)?{symbol}\s*$", boxes, re.M)]
    if public(name) and f"{cfg['git_url']}/blob/{cfg['branch']}/{cfg['lib_path']}/" not in boxes: problems.append("source links")
    return [f"{name}: {problem}" for problem in problems]


def test_site_is_prepared(processed):
    problems = [problem for name, cells in NOTEBOOKS.items() for problem in not_prepared(name, cells, read(processed / name))]
    assert not problems, "\n".join(["", *problems])


def test_a_page_without_its_parts_is_noticed(processed):
    name = "workshop/hub.ipynb"
    page = read(processed / name)
    for lost in [i for i, cell in enumerate(page) if text(cell["source"]).strip() and "AUTOGENERATED" not in text(cell["source"])]:
        source, rest = text(page[lost]["source"]), [cell for i, cell in enumerate(page) if i != lost]
        plain = page[lost]["cell_type"] == "markdown" and "colab-badge" not in source and not formulas(source)[0]
        assert plain or not_prepared(name, NOTEBOOKS[name], rest), source


def test_preparing_the_site_leaves_the_tree_clean(processed):
    assert not (root / "_proc").is_symlink() and processed.parent != root
    for name in NOTEBOOKS: assert read(processed.parent / cfg["nbs_path"] / name) == NOTEBOOKS[name]
    for name in ("_quarto.yml", "styles.css", "light.scss", "dark.scss"): assert (processed / name).exists() or name.startswith("_"), name


# ------------------------------------------------------------------------------- the site, if built

def browser():
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_site_in_a_browser():
    """Every page of `_docs` in a browser: wide and at 390 px, light and dark (see site.mjs)."""
    site = root / cfg["doc_path"]
    if not (site / "index.html").exists(): pytest.skip(f"no {site.name}/index.html: the site has not been built (`make docs`, which needs Quarto)")
    if not browser(): pytest.skip("no Chromium on the PATH: the site was not opened in a browser")
    npm_ready()
    ran = subprocess.run(["node", "site.mjs", str(site), browser()], cwd=here, capture_output=True, text=True, timeout=1200)
    assert ran.returncode == 0, "\n" + ran.stdout[-6000:] + ran.stderr[-3000:]


def test_the_browser_can_fail(tmp_path):
    """site.mjs on two small pages: it has nothing against the first, and finds every fault of the second."""
    if not browser(): pytest.skip("no Chromium on the PATH")
    npm_ready()
    katex = "https://cdn.jsdelivr.net/npm/katex@0/dist/katex.min"
    page = """<!doctype html><meta name=viewport content="width=device-width"><link rel=stylesheet href="%s.css"><script src="%s.js"></script>
        <style>:root{color-scheme:light dark} body{background:#fff;color:#111} @media (prefers-color-scheme:dark){body{background:#111;color:#eee}}</style>
        <div id=quarto-search></div><a class=quarto-color-scheme-toggle></a><div class=toc-actions><a href="https://github.com/x">source</a></div><div class=nav-page-next><a href=index.html#top>next</a></div>
        <main><h1 id=top>Title</h1><a href="https://colab.research.google.com/x">Colab</a><img alt="A dot" src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="><span class="math inline">x^2</span></main>
        <script>document.querySelectorAll(".math").forEach(e => katex.render(e.textContent, e, {throwOnError: false}))</script>""" % (katex, katex)
    (tmp_path / "index.html").write_text(page)
    bad = page.replace('alt="A dot"', "alt").replace("#top", "#bottom").replace("x^2", r"\frac{").replace("background:#111;color:#eee", "background:#fff;color:#eee").replace("</main>",
        '<div style="width:700px">wide</div><a href=nowhere.html>x</a><img alt="A picture" src="no.png"></main>').replace("colab.research", "elsewhere").replace("id=quarto-search", "")
    (tmp_path / "bad.html").write_text(bad)
    ran = subprocess.run(["node", "site.mjs", str(tmp_path), browser()], cwd=here, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 1 and "index.html" not in re.sub(r"a link to index\.html", "", ran.stdout), ran.stdout + ran.stderr
    for fault in ("px too wide", "404 for no.png", "1 pictures that do not load", "1 pictures without alt", "1 formulas, 0 typeset, 1 refused", "no Colab button", "no search", "paper 1.00, ink 0.9",
                  "a link to nowhere.html", "a link to index.html#bottom: no such anchor"):
        assert fault in ran.stdout, (fault, ran.stdout)


# ------------------------------------------------------------------------------ the gates can fail

def md(source): return {"cell_type": "markdown", "source": source}


def py(source, **data): return {"cell_type": "code", "source": source, "outputs": [{"output_type": "display_data", "data": data}] if data else []}


X = "00_dali.ipynb"  # the name under which the samples pass
COLAB = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/nbs/{X})"
INSTALL = f'#| hide\nimport importlib.util, sys\nif "google.colab" in sys.modules and importlib.util.find_spec("minidiff") is None:\n    %pip install -q git+https://github.com/{cfg["user"]}/{cfg["repo"]}'
TOP = [md("# A title\n\n> A subtitle"), md(COLAB), py(INSTALL), py("#| default_exp x\n#| hide")]


OTHERS = {"index.ipynb": [md("# Title\n\n> Subtitle")]}


def first(gate): return lambda cells: gate({**OTHERS, X: cells})


def top(cells): return front_matter(X, cells)


def dollars(cells): return all_formulas({X: cells})[1]


BROKEN = [
    (first(broken_links), md("[text](no_such_notebook.ipynb)")), (first(broken_links), md("[text](index.ipynb#no-such-anchor)")), (first(broken_links), md("# T\n\n[up](#The-Title)")),
    (first(broken_links), md("[x]: nowhere.md")), (first(broken_links), md('<a href="nowhere.md">x</a>')), (first(broken_links), md(f"https and [x]({cfg['git_url']}/blob/main/nowhere.py)")),
    (first(broken_links), md("[x](/work/file)")), (first(broken_links), md("[x](https://localhost:8888/a)")), (first(broken_links), md("![drawn](nowhere.png)")),
    (first(undescribed), md("![](a.png)")), (first(undescribed), md('<img src="a.png">')), (first(undescribed), py("x", **{"text/html": '<img src="data:image/png;base64,AA">'})),
    (first(undescribed), py("x", **{"text/html": '<img alt="figure" src="data:image/png;base64,AA">'})), (first(undescribed), py("x", **{"image/png": "AA"})),
    (first(undescribed), py("x", **{"text/html": "<svg><circle></svg>"})), (first(undescribed), py("#| hide\nx", **{"text/html": '<img alt="A red circle" src="data:image/png;base64,AA">'})),
    (first(placeholders), md("TODO: write this")), (first(placeholders), md("Lorem ipsum dolor")), (first(placeholders), py("# TBD")),
    (first(swallowed_blocks), md("Three things:\n- one\n- two")), (first(swallowed_blocks), md("A table:\n| a | b |\n|---|---|\n| 1 | 2 |")), (first(swallowed_blocks), md("text\n## heading")),
    (first(unclean), py("import math\nprint(math.pi)")), (first(unclean), py("def f():\n    import math\n    return math.pi")), (first(unclean), py("x", **{"application/vnd.jupyter.widget-view+json": "{}"})),
    (dollars, md("a $ x $ b")), (dollars, md("it costs $5")), (dollars, md("\\begin{align}x\\end{align}")),
]


@pytest.mark.parametrize("gate, cell", BROKEN, ids=range(len(BROKEN)))
def test_the_gates_can_fail(gate, cell):
    assert gate([*TOP, cell])


def test_the_gates_can_pass():
    drawn = py("x", **{"text/html": '<img alt="A red circle" src="data:image/png;base64,AA">'})
    cells = [*TOP, md("## One *good* thing: `x`\n\ntext $x^2$, see [above](#one-good-thing-x) and [index](index.ipynb)\n\n$$\na\n$$\n\n- a list\n- `$ no formula $`\n\n    indented [code](nowhere)"),
             py("import math"), py("print(math.pi)"), drawn, py("x", **{"text/html": "<svg><title>A ring</title></svg>"})]
    books = {**OTHERS, X: cells}
    assert [*broken_links(books), *undescribed(books), *placeholders(books), *swallowed_blocks(books), *unclean(books), *top(cells), *dollars(cells)] == []
    assert all_formulas(books)[0] == [(f"{X}, cell 4", "\na\n", True), (f"{X}, cell 4", "x^2", False)]


@pytest.mark.parametrize("at, source", [(0, "# A title"), (0, "# A title\n\n> A subtitle\n\nand more, which the site would lose"), (1, "no badge"), (1, COLAB.replace(cfg["user"], "somebody")),
                                        (1, COLAB.replace(X, "05_samplers.ipynb")), (2, INSTALL.replace('"google.colab" in sys.modules and ', "")), (2, INSTALL.replace(cfg["repo"] + "'", "x")[:-1]),
                                        (3, "x = 1")])
def test_front_matter_can_fail(at, source):
    cells = [{**cell, "source": source} if i == at else cell for i, cell in enumerate(TOP)]
    assert top(TOP) == [] and top(cells)


@pytest.mark.parametrize("formula", [r"\nosuchmacro x", r"\frac{a", r"\begin{aligned} a", r"x^2^3", r"\left( x"])
def test_the_engines_can_fail(formula):
    npm_ready()
    assert {problem.split(": ")[1] for problem in refused_formulas([("here", formula, False)])} == {"KaTeX", "MathJax"}
    assert refused_formulas([("here", r"\frac{a}{b}", True)]) == []
