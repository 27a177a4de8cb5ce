"""How a notebook begins, and what its text and cells must not hold."""
import ast
import re

import pytest

from pages import COLAB, INSTALL, NOTEBOOKS, OTHERS, TOP, X, cfg, code_of, first, md, nothing_wrong, outputs, prose, py, text, without_code


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
    exports = any(re.search(r"^#\|\s*export\s*$", source, re.M) for _, source, _ in code_of(cells))  # `#| export name`: into another notebook's module
    if exports and not re.fullmatch(r"#\| default_exp \w+\n#\| hide", text(cells[3]["source"]).strip()): problems.append(f"{name}: `#| default_exp` and `#| hide` must follow the install cell")
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


@pytest.mark.parametrize("gate", [placeholders, swallowed_blocks, unclean], ids=lambda gate: gate.__name__)
def test_nothing_is_wrong(gate):
    nothing_wrong(gate)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_front_matter(name):
    problems = front_matter(name, NOTEBOOKS[name])
    assert not problems, "\n".join(["", *problems])


BROKEN = [
    (placeholders, md("TODO: write this")),
    (placeholders, md("Lorem ipsum dolor")),
    (placeholders, py("# TBD")),
    (swallowed_blocks, md("Three things:\n- one\n- two")),
    (swallowed_blocks, md("A table:\n| a | b |\n|---|---|\n| 1 | 2 |")),
    (swallowed_blocks, md("text\n## heading")),
    (unclean, py("import math\nprint(math.pi)")),
    (unclean, py("def f():\n    import math\n    return math.pi")),
    (unclean, py("x", **{"application/vnd.jupyter.widget-view+json": "{}"})),
]


@pytest.mark.parametrize("gate, cell", BROKEN, ids=range(len(BROKEN)))
def test_the_gates_can_fail(gate, cell):
    assert first(gate)([*TOP, cell])


def test_the_gates_can_pass():
    cells = [*TOP, md("## A heading\n\ntext\n\n- a list\n- of two"), py("import math"), py("print(math.pi)")]
    books = {**OTHERS, X: cells}
    assert [*placeholders(books), *swallowed_blocks(books), *unclean(books), *front_matter(X, cells)] == []


@pytest.mark.parametrize("at, source", [(0, "# A title"), (0, "# A title\n\n> A subtitle\n\nand more, which the site would lose"), (1, "no badge"), (1, COLAB.replace(cfg["user"], "somebody")),
                                        (1, COLAB.replace(X, "05_samplers.ipynb")), (2, INSTALL.replace('"google.colab" in sys.modules and ', "")), (2, INSTALL.replace(cfg["repo"] + "'", "x")[:-1]),
                                        (3, "#| export\nx = 1")])
def test_front_matter_can_fail(at, source):
    cells = [{**cell, "source": source} if i == at else cell for i, cell in enumerate(TOP)]
    assert front_matter(X, TOP) == [] and front_matter(X, cells)
