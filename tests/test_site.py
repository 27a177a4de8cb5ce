"""The site: its files, the notebooks as nbdev hands them to Quarto, and the pages in a browser where they were built."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from pages import NOTEBOOKS, browser, cfg, code_of, formulas, here, npm_ready, prose, read, root, text

sys.path.insert(0, str(root / "scripts"))
import sidebar  # noqa: E402


def test_site_files_are_in_step():
    """One version of Quarto and of KaTeX, no font from elsewhere, every notebook in the sidebar, once."""
    listed = re.findall(r"href: (\S+\.ipynb)$", (root / "nbs" / "sidebar.yml").read_text(), re.M)
    assert sorted(listed) == sorted(NOTEBOOKS), "run scripts/sidebar.py"
    assert sidebar.render(sidebar.contents()) == (root / "nbs" / "sidebar.yml").read_text(), "run scripts/sidebar.py"
    site = (root / "nbs" / "nbdev.yml").read_text()
    for value in (cfg["title"], cfg["description"], cfg["branch"], cfg["git_url"], cfg["doc_host"] + cfg["doc_baseurl"]): assert value in site, value
    katex = json.loads((here / "package-lock.json").read_text())["packages"]["node_modules/katex"]["version"]
    assert f"katex@{katex}/dist/" in (root / "nbs" / "_quarto.yml").read_text()
    assert "version: 1.7.34" in (root / ".github/workflows/deploy.yaml").read_text()
    for path in (root / "nbs").glob("*.[sc][sc]*s"): assert not re.search(r"@import|@font-face|url\(", path.read_text()), path.name


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
