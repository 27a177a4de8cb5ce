"""The parts of the site that are not Quarto's.

    python scripts/docs.py prepare [FOLDER]     before Quarto: API pages, links to them, the Colab button
    python scripts/docs.py finish [FOLDER]      after Quarto: KaTeX inside the site, no require.js, og:image, search
    python scripts/docs.py plain OUT            the site without Quarto, for the tests: pandoc and a small template

`make docs` runs the first two through Quarto (`pre-render` and `post-render` in nbs/_quarto.yml).
"""
import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "scripts"))
import api  # noqa: E402

cfg = ConfigParser(delimiters=["="])
cfg.read(root / "settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]
SITE = f"{cfg['doc_host']}{cfg['doc_baseurl']}/"
KATEX = root / "tests" / "node_modules" / "katex" / "dist"
PLAY = root / cfg["lib_path"] / "data" / "play"
CARD = "images/card.png"
CARD_ALT = "Dali with his wand, and the words: minidiff, Stable Diffusion, rebuilt by hand. Four framed pictures with their captions."
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")


def joined(source):
    return source if isinstance(source, str) else "".join(source)


# ---------------------------------------------------------------- before Quarto

def prepare(folder):
    """API pages, and in each notebook links to them, our Colab button and fewer open boxes."""
    folder = Path(folder)
    api.write(folder)
    for path in sorted(folder.rglob("*.ipynb")):
        if any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
            continue
        name = path.relative_to(folder)
        up = "../" * (len(name.parts) - 1)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                source = BADGE.sub(lambda match: button(match[1], up), joined(cell["source"]))
                cell["source"] = source.splitlines(keepends=True)
            elif cell["cell_type"] == "code" and path.stem != "index":
                cell["source"] = folded(joined(cell["source"])).splitlines(keepends=True)
        notebook["cells"] = in_one_box(notebook["cells"])
        api.linkify_notebook(notebook["cells"], name.as_posix())
        text = json.dumps(notebook, ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")


def folded(code):
    """A cell that only imports, or only defines private helpers, in a box that opens."""
    if re.search(r"^\s*[%!]|^#\|\s*(hide|code-fold|echo|eval|output)", code, re.M):
        return code
    try:
        body = ast.parse(code).body
    except SyntaxError:  # a command of IPython, such as `x = !ls`
        return code
    names = [name for line in body for name in defined(line)]
    if body and all(isinstance(line, ast.Import | ast.ImportFrom) for line in body):
        summary = "imports"
    elif names and all(re.match(r"_[^_]", name) for name in names):
        summary = "helpers: " + ", ".join(names)
    else:
        return code
    return f'#| code-fold: true\n#| code-summary: "{summary}"\n{code}'


def defined(line):
    """What a statement at the top of a cell names; "" where it does something else."""
    if isinstance(line, ast.FunctionDef | ast.ClassDef):
        return [line.name]
    if isinstance(line, ast.Assign):
        return [name.id for part in line.targets for name in ast.walk(part)
                if isinstance(name, ast.Name)]
    return [""]


FOLD = re.compile(r'#\| code-fold: true\n#\| code-summary: "(.*)"\n')


def in_one_box(cells):
    """Boxes that follow each other, with no output between them, become one."""
    kept = []
    for cell in cells:
        box = FOLD.search(joined(cell["source"])) if cell["cell_type"] == "code" else None
        last = kept[-1] if kept else {"cell_type": "", "source": ""}
        before = FOLD.search(joined(last["source"])) if last["cell_type"] == "code" else None
        if box and before and not last.get("outputs"):
            summaries = dict.fromkeys([*before[1].split("; "), *box[1].split("; ")])
            rest = joined(last["source"]).replace(before[0], "").rstrip("\n")
            source = joined(cell["source"]).replace(box[0], "")
            head = f'#| code-fold: true\n#| code-summary: "{"; ".join(summaries)}"\n'
            kept[-1] = {**cell, "source": f"{head}{rest}\n\n{source}".splitlines(True)}
        else:
            kept.append(cell)
    return kept


def button(address, up):
    """What stands for Colab's badge on the site, where no picture comes from elsewhere."""
    picture = f'<img src="{up}images/colab.svg" alt="Open in Colab">'
    return f'<a class="colab" href="{address}">{picture}</a>'


# ---------------------------------------------------------------- after Quarto

def finish(folder):
    """Over built pages: nothing is fetched from elsewhere, and each has a picture to be shared with."""
    folder = Path(folder)
    if not KATEX.exists():
        raise SystemExit(f"{KATEX.relative_to(root)} is missing: run `npm ci` in tests/")
    inside = folder / "site_libs" / "katex"
    shutil.copytree(KATEX, inside, dirs_exist_ok=True,
                    ignore=lambda _, names: [name for name in names if unused(name)])
    if (folder / "play.html").exists():
        paints(folder / "play")
    for path in folder.rglob("*.html"):
        if "site_libs" not in path.parts:
            up = to_home(path.relative_to(folder))
            page = path.read_text(encoding="utf-8")
            path.write_text(finished(page, up), encoding="utf-8")
    search = folder / "search.json"
    if search.exists():
        entries = [searchable(entry) for entry in json.loads(search.read_text("utf-8"))]
        search.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")


def paints(folder):
    """What the page that paints loads: its scripts, and at the first click the models."""
    import export_onnx
    shutil.copytree(PLAY, folder, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("index.html"))
    models = export_onnx.export(root / "build" / "play")
    shutil.copytree(models, folder / "models", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("made_from.json"))


def to_home(page):
    """The way from a page to the site's folder; 404.html stands for pages of any depth."""
    return f"{cfg['doc_baseurl']}/" if page.name == "404.html" else "../" * (len(page.parts) - 1)


def unused(name):
    """Of KaTeX's folder the site needs the script, the style sheet and the woff2 fonts."""
    return not (name in ("katex.min.js", "katex.min.css", "fonts") or name.endswith(".woff2"))


# Quarto loads these two where an output is HTML. Nothing here uses them, and with them
# KaTeX registers itself as a module of require.js: no formula would be set.
LOADERS = re.compile(r"""<script\b[^>]*\bsrc="[^"]*/(?:require|jquery)(?:\.min)?\.js"[^>]*>
                         \s*</script>\s*
                      |  <script[^>]*>\s*define\('jquery'.*?</script>\s*""", re.X | re.S)
ELSEWHERE = re.compile(r'https://cdn\.jsdelivr\.net/npm/katex@[^/"]*/dist/')
CONTENTS = re.compile(r'<nav id="TOC".*?</h2>\s*(<ul.*?)</nav>', re.S)
TITLE = re.compile(r'<header id="title-block-header".*?</header>', re.S)
IMPORTS = re.compile(
    r"^[ \t]*(?:import \w.*|from [\w.]+ import (?:\([^)]*\).*|(?:.*\\\n)*.*))(?:\n|\Z)", re.M)
# What Quarto's frame leaves unsaid, or says wrongly: landmarks without names, links that
# pass for landmarks, and parts of the sidebar that a keyboard can't open.
FRAME = [(re.compile(found), put) for found, put in (
    (r'<nav class="navbar (?![^>]*aria-label)', r'<nav aria-label="Site" class="navbar '),
    (r'<nav class="quarto-secondary-nav">', '<nav class="quarto-secondary-nav" aria-label="Where you are">'),
    (r'<nav id="quarto-sidebar"(?![^>]*aria-label)', '<nav id="quarto-sidebar" aria-label="All pages"'),
    (r'<div id="quarto-sidebar-glass"(?= class)', '<div id="quarto-sidebar-glass" aria-hidden="true"'),
    (r'<nav class="page-navigation">', '<nav class="page-navigation" aria-label="Before and after">'),
    (r' role="menu"(?= aria-expanded)', ""),
    (r'(<a class="sidebar-item-text[^>]* data-bs-target="(#[\w-]+)") role="navigation"',
     r'\1 href="\2"'),
    (r'(<a class="(?:sidebar-item-toggle|flex-grow-1)"?[^>]*) role="navigation"([^>]*) aria-label="[^"]*"',
     r'\1\2 aria-hidden="true"'))]
CARDS = re.compile(r'<meta (?:property|name)="(?:og|twitter):image[^>]*>\s*')


def finished(page, up):
    """One built page, as it is published."""
    page = ELSEWHERE.sub(f"{up}site_libs/katex/", LOADERS.sub("", page))
    for found, put in FRAME:
        page = found.sub(put, page)
    cards = "".join(f'<meta {kind}="{name}" content="{value}">\n' for kind, name, value in (
        ("property", "og:image", SITE + CARD), ("property", "og:image:width", 1200),
        ("property", "og:image:height", 630), ("property", "og:image:alt", CARD_ALT),
        ("name", "twitter:image", SITE + CARD)))
    if 'class="play-live"' in page and "play/figure.js" not in page:  # a chapter that paints
        cards += (f'<link rel="stylesheet" href="{up}play/play.css">\n'
                  f'<script type="module" src="{up}play/figure.js"></script>\n')
    page = CARDS.sub("", page).replace("</head>", cards + "</head>", 1)
    if 'class="skip"' not in page:
        skip = '<a class="skip" href="#quarto-document-content">Skip to the text</a>'
        page = re.sub(r"<body[^>]*>", lambda match: f"{match[0]}\n{skip}", page, count=1)
    return short_contents(page)


def short_contents(page):
    """On a narrow screen Quarto hides the contents: a copy in a box that opens, under the title."""
    found = CONTENTS.search(page)
    if not found or 'class="toc"' in page:
        return page
    entries = re.sub(r' (id|class|data-scroll-target)="[^"]*"', "", found[1])
    box = f'<details class="toc"><summary>On this page</summary>{entries}</details>'
    return TITLE.sub(lambda match: f"{match[0]}\n{box}", page, 1)


def searchable(entry):
    """A section of the search index without the imports it begins with."""
    return {**entry, "text": IMPORTS.sub("", entry.get("text", ""))}


# ---------------------------------------------------------------- without Quarto

def build_plain(out):
    """The whole site in `out` without Quarto: nbdev's notebooks, pandoc, a small template."""
    out = Path(out)
    with tempfile.TemporaryDirectory() as work:
        source = process(Path(work))
        prepare(source)
        listed = (source / "sidebar.yml").read_text(encoding="utf-8")
        names = re.findall(r"href: (\S+\.(?:ipynb|qmd))$", listed, re.M)
        built = {name: built_name(source / name, source) for name in [*names, "404.qmd"]}
        for name, previous, following in zip(names, ["", *names], [*names[1:], ""]):
            page(source / name, out, built, built.get(previous, ""), built.get(following, ""))
        page(source / "404.qmd", out, built)
        shutil.copytree(source / "images", out / "images", dirs_exist_ok=True)
        shutil.copy(source / "styles.css", out)
    finish(out)


def process(work):
    """The notebooks as nbdev hands them to Quarto, made from a copy: the tree stays clean."""
    for name in ("settings.ini", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(root / name, work)
    for name in (cfg["nbs_path"], cfg["lib_path"]):
        skip = shutil.ignore_patterns("__pycache__", ".*", "_*.ipynb", "data")
        shutil.copytree(root / name, work / name, ignore=skip)
    code = "from nbdev.serve import proc_nbs; proc_nbs(force=True)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=work, text=True,
                         env={**os.environ, "PYTHONPATH": str(work)}, capture_output=True)
    if ran.returncode:
        raise RuntimeError(ran.stdout[-2000:] + ran.stderr[-6000:])
    return work / "_proc"


def built_name(path, source):
    """The page a notebook becomes; nbdev names it in the front matter: 00_dali, dali.html."""
    front = re.search(r"output-file: ([\w.-]+)", path.read_text(encoding="utf-8")[:2000])
    name = front[1] if front else path.stem + ".html"
    return path.relative_to(source).with_name(name).as_posix()


def page(path, out, built, previous="", following=""):
    """Write one page of the plain site; `built` is {source: page} of all."""
    import pypandoc
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = markdown(json.loads(text)["cells"])
    name = next(name for name in built if path.as_posix().endswith(f"/_proc/{name}"))
    folder = Path(name).parent
    home = to_home(Path(built[name]))
    variables = {"up": home, "repository": cfg["git_url"], "previous": previous,
                 "next": following, **theme()}
    arguments = ["--template", str(root / "scripts" / "plain.html"), "--toc", "--toc-depth=2",
                 "--katex=https://cdn.jsdelivr.net/npm/katex@0/dist/", "--wrap=preserve"]
    arguments += [f"--variable={key}={value}" for key, value in variables.items()]
    html = pypandoc.convert_text(text, "html5", "markdown", extra_args=arguments)

    def to_page(match):
        target = os.path.normpath(folder / match[1])
        return f'href="{os.path.relpath(built.get(target, target), folder)}'

    html = re.sub(r'href="(?!\w+:)([^"#]+\.(?:ipynb|qmd))', to_page, html)
    if home.startswith("/"):
        html = re.sub(r'(href|src)="(?!\w+:|[/#])', rf'\1="{home}', html)
    target = out / built[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html, encoding="utf-8")


def theme():
    """The colours of both themes, from the variables that Quarto gives to Bootstrap."""
    found = {}
    for kind in ("light", "dark"):
        text = (root / cfg["nbs_path"] / f"{kind}.scss").read_text(encoding="utf-8")
        for name, value in re.findall(r"^\$([\w-]+):\s*([^;]+);", text, re.M):
            found[f"{kind}-{name}"] = value
    return found


def markdown(cells):
    """A notebook as Quarto hands it to pandoc."""
    return "\n\n".join(filter(None, map(as_markdown, cells)))


def as_markdown(cell):
    source = joined(cell["source"])
    if cell["cell_type"] != "code":
        return source
    options = dict(re.findall(r"^#\|\s*([\w-]+):\s*(.*?)\s*$", source, re.M))
    if options.get("include") == "false":
        return ""
    code = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
    parts = []
    if code and options.get("echo") != "false":
        parts = [fenced(code, ".python .cell-code")]
        if options.get("code-fold", "false") != "false":
            summary = options.get("code-summary", "Code").strip("\"'")
            parts = [raw(f'<details class="code-fold"><summary>{summary}</summary>'), *parts,
                     raw("</details>")]
    if options.get("output") != "false":
        parts += map(output, cell.get("outputs", []))
    return "\n\n".join(["::: {.cell}", *filter(None, parts), ":::"]) if parts else ""


def output(given):
    """One output: the richest form that Quarto would take for a page of HTML."""
    data = {kind: joined(value) for kind, value in given.get("data", {}).items()}
    if given["output_type"] == "stream":
        kind, shown = given["name"], fenced(joined(given["text"]))
    elif "text/html" in data:
        kind, shown = "display", raw(data["text/html"])
    elif "text/latex" in data or "text/markdown" in data:
        kind, shown = "display", data.get("text/latex") or data["text/markdown"]
    elif "text/plain" in data:
        kind, shown = "display", fenced(data["text/plain"])
    else:
        return ""
    return f"::: {{.cell-output .cell-output-{kind}}}\n\n{shown}\n\n:::"


def fenced(text, classes=""):
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{ticks} {{{classes}}}\n{text}\n{ticks}" if classes else f"{ticks}\n{text}\n{ticks}"


def raw(html):
    return fenced(html, "=html")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    output_dir = Path(os.environ.get("QUARTO_PROJECT_OUTPUT_DIR", cfg["doc_path"]))
    for name, default in (("prepare", Path.cwd()), ("finish", output_dir), ("plain", None)):
        commands.add_parser(name).add_argument("folder", type=Path, default=default,
                                               nargs="?" if default else None)
    options = parser.parse_args()
    run = {"prepare": prepare, "finish": finish, "plain": build_plain}
    run[options.command](options.folder)


if __name__ == "__main__":
    main()
