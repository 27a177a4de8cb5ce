"""The layout: which module may know which, how long they may be, and that nothing of an older shape is left."""
import ast
import re

import pytest

from pages import NOTEBOOKS, cfg, code_of, root, text

PACKAGE = root / cfg["lib_path"]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_"))


def made_from():
    """module -> the notebook that exports it"""
    found = {}
    for name, cells in NOTEBOOKS.items():
        for _, source, _ in code_of(cells):
            if module := re.match(r"#\| default_exp (\w+)", source): found.setdefault(module[1], name)
    return found


HOME = made_from()


def imports(source, anywhere=True):
    """The modules of the package that some code imports; without `anywhere`, only at its top level."""
    tree = ast.parse(source)
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.ImportFrom):
            own = node.level or (node.module or "").split(".")[0] == cfg["lib_name"]
            if own and (part := (node.module or "").removeprefix(cfg["lib_name"]).lstrip(".")): yield part
            elif own: yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{cfg['lib_name']}."))


def number(module):
    """The number of a module's chapter; None in the workshop, 99 in the appendix."""
    found = re.match(r"\d+", HOME[module])
    return int(found[0]) if found else None if HOME[module].startswith("workshop/") else 99


GRAPH = {module: set(imports((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))) for module in MODULES}


def circle(graph):
    """The modules of a circle of imports, or nothing."""
    left = {module: set(needed) for module, needed in graph.items()}
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free: del left[module]
    return sorted(left)


def test_every_module_has_a_notebook():
    assert sorted(HOME) == MODULES


def test_no_circle():
    assert circle(GRAPH) == []
    assert circle({**GRAPH, "checks": {"latent_diffusion"}}) != []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_only_what_came_before(module):
    own = number(module)
    for needed in GRAPH[module]:
        theirs = number(needed)
        assert theirs is None or own is not None and theirs < own, f"{module} ({HOME[module]}) imports {needed} ({HOME[needed]})"


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name.startswith("workshop/")])
def test_the_workshop_imports_no_chapter(name):
    for i, source, _ in code_of(NOTEBOOKS[name]):
        code = re.sub(r"^\s*[%!].*$", "", source, flags=re.M)
        for needed in imports(re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.M) if code != source else source):
            assert number(needed) is None, f"{name}, cell {i} imports {needed}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short(module):
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").count("\n")
    assert lines <= 600, f"{module}: {lines} lines"


def test_a_chapter_is_short():
    """By words of its text, without code and formulas."""
    for name, cells in NOTEBOOKS.items():
        prose = " ".join(text(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        words = len(re.sub(r"```.*?```|\$[^$]*\$|\(https?:[^)]*\)|<[^>]*>", " ", prose, flags=re.S).split())
        assert words <= 5200, f"{name}: {words} words"


OLD = r"\b(stickerbook|PictureTower|near_misses|turn_round|choose_said|everything_said|noise_target|enlarger|06_text|08_vae)\b"


def test_nothing_old_is_left():
    for path in [*PACKAGE.glob("*.py"), *(root / "scripts").glob("*.py"), root / "README.md"]:
        assert not (found := re.search(OLD, path.read_text(encoding="utf-8"))), f"{path.name}: {found[0]}"
    for name, cells in NOTEBOOKS.items():
        for cell in cells: assert not (found := re.search(OLD, text(cell["source"]))), f"{name}: {found[0]}"
