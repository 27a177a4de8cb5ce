"""Every link and every picture's address inside the course leads somewhere, to an anchor that the site will have."""
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from pages import LINK, NOTEBOOKS, OTHERS, TOP, Tags, X, cfg, first, md, nothing_wrong, prose, root, without_code


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


def test_nothing_is_wrong():
    nothing_wrong(broken_links)


def test_links_of_the_readme():
    markdown = without_code((root / "README.md").read_text(encoding="utf-8"))
    local = [m[3].partition("#")[0] for m in LINK.finditer(markdown) if not re.match(r"https?:|#|mailto:", m[3])]
    assert local and [address for address in local if not (root / address).exists()] == []


BROKEN = [
    (broken_links, md("[text](no_such_notebook.ipynb)")),
    (broken_links, md("[text](index.ipynb#no-such-anchor)")),
    (broken_links, md("# T\n\n[up](#The-Title)")),
    (broken_links, md("[x]: nowhere.md")),
    (broken_links, md('<a href="nowhere.md">x</a>')),
    (broken_links, md(f"https and [x]({cfg['git_url']}/blob/main/nowhere.py)")),
    (broken_links, md("[x](/work/file)")),
    (broken_links, md("[x](https://localhost:8888/a)")),
    (broken_links, md("![drawn](nowhere.png)")),
]


@pytest.mark.parametrize("gate, cell", BROKEN, ids=range(len(BROKEN)))
def test_the_gates_can_fail(gate, cell):
    assert first(gate)([*TOP, cell])


def test_the_gate_can_pass():
    cells = [*TOP, md("## One *good* thing: `x`\n\nsee [above](#one-good-thing-x) and [index](index.ipynb)\n\n    indented [code](nowhere)")]
    assert broken_links({**OTHERS, X: cells}) == []


PLACEHOLDERS = re.compile(r'\{add|\{explain|\[INSERT|\[ADD_|\[REPLACE|\bTODO\b|"""|\]\(\s*\)|Continued in next message|(?<![\w`])_\(')


def placeholders(books):
    return [f"{name}, cell {i}: {found[0]}" for name, cells in books.items() for i, markdown in prose(cells)
            for found in PLACEHOLDERS.finditer(re.sub(r"\$[^$]*\$", "", without_code(markdown)))]


def test_no_placeholder_is_left():
    assert placeholders(NOTEBOOKS) == []


@pytest.mark.parametrize("left", ["{add a picture}", "{explain this}", "[INSERT figure]", "[ADD_LINK]", "[REPLACE me]", "TODO: more", '"""text', "[a link]()",
                                  "Continued in next message", "_(why?)_"])
def test_a_placeholder_is_found(left):
    assert placeholders({"x.ipynb": [md("Before.\n\n" + left + "\n\nAfter.")]})
    assert placeholders({"x.ipynb": [md("Before `" + left + "` after.")]}) == []
