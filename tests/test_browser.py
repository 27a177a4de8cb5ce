"""The pages in a browser (site.mjs): nothing is found in the site, and every fault is
found in the bad pages of browser_pages.py."""
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict

import pytest

from browser_pages import API, BAD, CHAPTER, good, write
from pages import browser, cfg, here, npm_ready, root

sys.path.insert(0, str(root / "scripts"))
import docs  # noqa: E402


def ready():
    """The browser; what is missing is a failure where CI is set, and a skip if not."""
    there = {"Chromium": browser(), "node": shutil.which("node")}
    lacking = " and no ".join(name for name, found in there.items() if not found)
    if lacking and os.environ.get("CI"):
        pytest.fail(f"no {lacking} on the PATH")
    if lacking:
        pytest.skip(f"no {lacking} on the PATH: no page was opened in a browser")
    npm_ready()
    return browser()


PROBLEM = re.compile(r"([\w-]+): (\S+) (at .*?): (.*)")


def gate(folder, *more):
    """Run site.mjs: ({page: [(kind, where, what)]}, facts, exit code)."""
    command = ["node", "site.mjs", str(folder), ready(), *map(str, more)]
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=900)
    *lines, facts = ran.stdout.splitlines() or [""]
    assert facts.startswith("{"), ran.stdout[-2000:] + ran.stderr[-4000:]
    told = defaultdict(list)
    for line in lines:
        kind, name, where, what = PROBLEM.fullmatch(line).groups()
        told[name.removesuffix(".html")].append((kind, where, what))
    return told, json.loads(facts), ran.returncode


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the gate says about the good pages and the bad ones, all in one folder."""
    ready()
    folder = tmp_path_factory.mktemp("pages")
    bad = {name: (API if name.startswith("api-") else CHAPTER, old, new)
           for name, (_, _, old, new) in BAD.items()}
    bad = {name.replace("api-", "api/"): page for name, page in bad.items()}
    write(folder, {**good(), **bad})
    found = [{"href": "00_good.html#one", "text": "import is a word"},
             {"href": "anchor-search.html#nowhere", "text": "Prose"},
             {"href": "import-first.html", "text": "import torch\nfrom x import y"}]
    (folder / "search.json").write_text(json.dumps(found))
    return gate(folder)


def test_the_gate_is_silent_on_a_good_page(told):
    found, facts, code = told
    assert {name: found[name] for name in good() if found[name]} == {}
    assert code == 1
    page = facts["pages"]["00_good.html"]
    assert page["formulas"] == 2 and page["formula_ms"] > 0 and page["console"] == 0
    assert page["bytes"] > page["sent"] > page["content"] > 5000
    assert page["requests"] > 3


@pytest.mark.parametrize("name", BAD)
def test_the_gate_catches(told, name):
    kinds, where, _, _ = BAD[name]
    lines = told[0][name.replace("api-", "api/")]
    assert {kind for kind, _, _ in lines} == set(kinds.split()), lines
    for _, seen, _ in lines:
        assert where in seen and (not where.isalpha() or "and" not in seen), lines


def test_a_folder_without_its_parts(tmp_path):
    """The 404 page and the search's index are looked for; no pages are no success."""
    ready()  # the packages that `good` looks into
    write(tmp_path, {name: good()[name] for name in ("00_good", "api/good", "index")})
    found, _, code = gate(tmp_path)
    kinds = {name: {kind for kind, _, _ in lines} for name, lines in found.items()}
    assert kinds == {"404": {"404"}, "00_good": {"search"}} and code == 1
    for path in tmp_path.rglob("*.html"):
        path.unlink()
    found, facts, code = gate(tmp_path)
    assert [*found] == ["404"] and facts["totals"]["pages"] == 0 and code == 1


def test_pictures_of_the_pages(tmp_path):
    """What is asked for is photographed: a page in two themes at two widths."""
    ready()  # the packages that `good` looks into
    (tmp_path / "site").mkdir()
    write(tmp_path / "site", {name: good()[name] for name in ("00_good", "index")})
    gate(tmp_path / "site", tmp_path / "shots", "00_")
    shots = {f"00_good.html-{width}-{theme}.png"
             for width in (390, 1280) for theme in ("light", "dark")}
    assert {path.name for path in (tmp_path / "shots").iterdir()} == shots


def fresh(built, made_of=("nbs", "scripts", cfg["lib_path"])):
    """Is the whole site there, and younger than what it is made of?"""
    last = built / "search.json"  # written when all pages are
    if not last.exists():
        return False
    sources = [path for folder in made_of for path in (root / folder).rglob("*")
               if path.is_file() and "__pycache__" not in path.parts]
    return last.stat().st_mtime > max(path.stat().st_mtime for path in sources)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; where there is none of today, its pages made without Quarto."""
    built = root / cfg["doc_path"]
    if os.environ.get("CI") and (built / "index.html").exists() or fresh(built):  # there, it is what will be published
        return built
    out = tmp_path_factory.mktemp("plain")
    docs.build_plain(out)
    return out


def test_the_site(request):
    """Every page of the site, in both themes, at three widths: nothing is found."""
    ready()
    found, facts, code = gate(request.getfixturevalue("site"))
    print(json.dumps(facts))
    lines = [f"{kind}: {name} {where}: {what}"
             for name, some in found.items() for kind, where, what in some]
    assert not lines and code == 0, "\n".join(["", *lines])
    assert facts["totals"]["pages"] >= 25 and facts["totals"]["formulas"] >= 300
