"""The API pages: every public name has its entry, whole, in order, and every link leads somewhere."""
import ast
import dataclasses
import functools
import html
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from pages import NOTEBOOKS, Tags, cfg, root

sys.path.insert(0, str(root / "scripts"))
import api  # noqa: E402
import docstrings  # noqa: E402
import sidebar  # noqa: E402

LIB = cfg["lib_path"]
MODULES = sorted(path.stem for path in (root / LIB).glob("[!_]*.py"))
HEADING = re.compile(r"^(##|###) .*\{#([\w.]+)\}$")
BLOB = f"{cfg['git_url']}/blob/{cfg['branch']}/{LIB}/"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{page: its Markdown}, as written by `python scripts/api.py FOLDER`."""
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run([sys.executable, "-X", "importtime", root / "scripts" / "api.py", folder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert not re.search(rf"\| +(torch|{LIB})\b", ran.stderr), "the pages are made without importing anything"
    return {path.stem: path.read_text(encoding="utf-8") for path in (folder / "api").glob("*.qmd")}


# ------------------------------------------------------------------------------ what a page says

def entries(text):
    """[(level, name, signature, Markdown)] of a page."""
    found, fence = [], None
    for line in text.splitlines():
        heading = None if fence else HEADING.match(line)
        if heading: found.append((len(heading[1]), heading[2], [], []))
        elif line.startswith("```"): fence = None if fence else line
        elif found: found[-1][2 if fence == "```python" else 3].append(line)
    return [(level, name, "\n".join(code), "\n".join(said)) for level, name, code, said in found]


def parsed(code):
    """A signature as a node of Python, its body made up."""
    for body in ("", "\n    ...", "\n        ..."):
        try: return ast.parse(code + body).body[0]
        except SyntaxError: pass
    raise AssertionError(f"this is no signature: {code}")


def shown_parameters(code, module):
    """{parameter: its default, or `inspect.Parameter.empty`} in a signature as shown, or the fields of a class."""
    node, none = parsed(code), inspect.Parameter.empty
    value = lambda expression: none if expression is None else eval(ast.unparse(expression), vars(module))
    if isinstance(node, ast.ClassDef):
        inits = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        if not inits: return {part.target.id: value(part.value) for part in node.body if isinstance(part, ast.AnnAssign)}
        node = inits[0]
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    found = dict(zip([a.arg for a in plain], [none] * (len(plain) - len(given.defaults)) + [value(d) for d in given.defaults]))
    found |= {given.vararg.arg: none} if given.vararg else {}
    found |= {a.arg: value(d) for a, d in zip(given.kwonlyargs, given.kw_defaults)}
    return found | ({given.kwarg.arg: none} if given.kwarg else {})


# ------------------------------------------------------------------------------ what there is

def bare(thing):
    """The function in a class method, a static method, a property or a wrapper."""
    thing = getattr(thing, "fget", None) or getattr(thing, "__func__", thing)
    return inspect.unwrap(thing) if callable(thing) else None


def methods(cls):
    """{name: function} of what a class of the package itself adds to be called or read."""
    kinds = (classmethod, staticmethod, property)
    own = {name: bare(thing) for name, thing in vars(cls).items() if isinstance(thing, kinds) or inspect.isfunction(thing) and not thing.__name__.startswith("_") or name == "__call__"}
    return {name: function for name, function in own.items() if name == "__call__" or not name.startswith("_")}


def ours(cls):
    """A class and those above it that are the package's own."""
    return [base for base in cls.__mro__ if base.__module__.startswith(f"{LIB}.")]


@functools.cache
def first_line(module, name):
    """The line on which a public name is defined, with its decorators."""
    thing = getattr(module, name)
    if inspect.isclass(thing) or inspect.isroutine(bare(thing)) and bare(thing).__name__ == name: return inspect.getsourcelines(bare(thing) or thing)[1]
    source = inspect.getsource(module)
    return source[:re.search(rf"^(?:\w+, )*{name}(?:, \w+)* = ", source, re.M).start()].count("\n") + 1


def real_signature(thing):
    """What `inspect` says of a call, or None where the package does not define it."""
    if not inspect.isclass(thing): return inspect.signature(bare(thing))
    if dataclasses.is_dataclass(thing) or hasattr(thing, "_fields"): return inspect.signature(thing)
    inits = [vars(base)["__init__"] for base in ours(thing) if "__init__" in vars(base)]
    return inspect.signature(bare(inits[0])) if inits else None


def other_parameters(thing, code, module):
    """What is wrong with the parameters of a signature as shown."""
    signature = real_signature(thing)
    shown = shown_parameters(code, module)
    if signature is None: return ["parameters that nothing takes"] if shown else []
    wrong = [f"parameter {name}" for name in signature.parameters if name not in shown]
    wrong += [f"no parameter {name}" for name in shown if name not in signature.parameters]
    for name, parameter in signature.parameters.items():
        default = shown.get(name)
        if isinstance(default, dataclasses.Field): default = dataclasses.fields(thing) and parameter.default
        if name in shown and repr(default) != repr(parameter.default): wrong.append(f"default of {name}: {default!r}, not {parameter.default!r}")
    if not wrong and [*shown] != [*signature.parameters]: wrong.append("order of the parameters")
    return wrong


# ------------------------------------------------------------------------------ the check

def not_told(name, text):
    """What the page of a module lacks, or says otherwise than the module itself."""
    module = importlib.import_module(f"{LIB}.{name}")
    things = {symbol: getattr(module, symbol) for symbol in module.__all__}
    line = functools.partial(first_line, module)
    found = {entry: (level, code, said) for level, entry, code, said in entries(text)}
    problems = [] if len(found) == len(entries(text)) else ["an entry twice"]
    wanted = sorted(things, key=lambda symbol: (line(symbol), module.__all__.index(symbol)))
    problems += [f"no entry for {symbol}" for symbol in wanted if symbol not in found]
    titles = [entry for entry, (level, _, _) in found.items() if level == 2]
    lines = [line(entry) for entry in titles if entry in things]
    if lines != sorted(lines): problems.append("entries in another order than in the source")
    problems += [f"{entry} is not public" for entry in titles if entry not in things]
    for symbol, thing in things.items():
        if symbol not in found: continue
        level, code, said = found[symbol]
        if inspect.isclass(thing): problems += class_not_told(symbol, thing, found)
        if inspect.isclass(thing) or inspect.isfunction(bare(thing)) and bare(thing).__name__ == symbol:
            problems += [f"{symbol}: {wrong}" for wrong in other_parameters(thing, code, module)]
        elif not re.match(rf"(#.*\n)*(\w+, )*{symbol}\b.* = ", code): problems.append(f"{symbol}: no value")
        if not re.search(rf"{re.escape(BLOB)}{name}\.py#L{line(symbol)}\b", said): problems.append(f"{symbol}: no link to line {line(symbol)}")
    problems += [f"{entry}: Markdown in a signature" for entry, (_, code, _) in found.items() if re.search(r"`|\]\(", code)]
    return [f"{name}: {problem}" for problem in problems]


def class_not_told(symbol, cls, found):
    """What the entry of a class lacks: methods, in order, and names of inherited ones."""
    own = {f"{symbol}.{name}": function for name, function in methods(cls).items()}
    problems = [f"no entry for {name}" for name in own if name not in found]
    there = [name for name in found if name.startswith(f"{symbol}.")]
    lines = [own[name].__code__.co_firstlineno for name in there if name in own
             and own[name].__module__ == cls.__module__ and own[name].__qualname__.split(".")[0] == symbol]
    if lines != sorted(lines): problems.append(f"methods of {symbol} in another order")
    for name in own:
        if name not in found or own[name].__qualname__ != name: continue
        module = sys.modules[own[name].__module__]
        code, said = found[name][1:]
        problems += [f"{name}: {wrong}" for wrong in other_parameters(own[name], code, module)]
        spot = f"{module.__name__.split('.')[-1]}.py#L{own[name].__code__.co_firstlineno}"
        if not re.search(rf"{re.escape(spot)}\b", said): problems.append(f"{name}: no link to {spot}")
    above = {name: base for base in reversed(ours(cls)[1:]) for name in methods(base) if name not in vars(cls)}
    text = found[symbol][2]
    for name, base in above.items():
        if not re.search(rf"from \[?`{base.__name__}`[^;]*\[`{name}`\]", text): problems.append(f"{symbol}: {base.__name__}.{name} is not named")
    return problems


def dead_links(name, pages):
    """Links of a page to files, anchors and lines that are not there."""
    problems = []
    ids = {page: {"", *re.findall(r"\{#([\w.]+)\}$", text, re.M)} for page, text in pages.items()}
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", pages[name], flags=re.M | re.S)):
        inside = re.fullmatch(r"(\w+)\.html(?:#(.+))?", target)
        if inside: good = (inside[2] or "") in ids.get(inside[1], ())
        elif target.startswith(BLOB):
            file, _, lines = target.removeprefix(BLOB).partition("#L")
            last = int(lines.split("-L")[-1] or 0)
            good = file in {f"{m}.py" for m in MODULES} and last <= len((root / LIB / file).read_text(encoding="utf-8").splitlines())
        else: good = target.startswith("https://") or target.removeprefix("../") in NOTEBOOKS
        if not good: problems.append(f"{name}: dead link {target}")
    return problems


def test_every_public_name_is_told(pages):
    assert sorted(pages) == sorted([*MODULES, "index"])
    problems = [problem for name in MODULES for problem in not_told(name, pages[name]) + dead_links(name, pages)]
    assert not problems, "\n".join(["", *problems])


def test_the_index_names_everything(pages):
    problems = dead_links("index", pages)
    for name in MODULES:
        module = importlib.import_module(f"{LIB}.{name}")
        problems += [f"{name}.{symbol}" for symbol in module.__all__ if f"]({name}.html#{symbol})" not in pages["index"]]
        for page in (pages["index"], pages[name]):
            if inspect.getdoc(module).rstrip(".").split("`")[0] not in page: problems.append(f"{name}: what it is about")
    assert not problems, "\n".join(["", *problems])
    listed = re.findall(r"href: api/(\w+)\.qmd$", (root / "nbs" / "sidebar.yml").read_text(encoding="utf-8"), re.M)
    order = re.findall(r"^### .*\{#(\w+)\}$", pages["index"], re.M)
    assert listed == ["index", *order] and sorted(order) == MODULES


def test_a_page_with_a_fault_is_noticed(pages):
    """Each of these faults, put into a page that has none, is named."""
    def faults(name, old, new):
        broken = re.sub(old, new, pages[name], count=1, flags=re.S | re.M)
        assert broken != pages[name], old
        return "\n".join(not_told(name, broken) + dead_links(name, pages | {name: broken}))

    entry = lambda name: rf"^##+ \S+ {{#{re.escape(name)}}}.*?(?=^##|\Z)"
    one, two = entry("make_betas"), entry("PREDICTIONS")
    for name, old, new, said in [
        ("scheduler", entry("make_betas"), "", "scheduler: no entry for make_betas"),
        ("scheduler", entry("Scheduler.add_noise"), "", "no entry for Scheduler.add_noise"),
        ("scheduler", entry("SPACINGS"), "", "no entry for SPACINGS"),
        ("scheduler", f"({one})({two})", r"\2\1", "entries in another order"),
        ("scheduler", f"({entry('Scheduler.alpha_sigma')})({entry('Scheduler.add_noise')})", r"\2\1", "methods of Scheduler in another order"),
        ("scheduler", r"^    T: int = 1000,.*?\n", "", "make_betas: parameter T"),
        ("scheduler", r"T: int = 1000", "T: int = 999", "make_betas: default of T: 999, not 1000"),
        ("scheduler", r"^    prev_sample: Tensor.*?\n", "", "SchedulerOutput: parameter prev_sample"),
        ("scheduler", r"^    prev_sample: .*?(?=^```)", "    def __init__(self, *args, **kwargs):\n", "SchedulerOutput: parameter prev_sample"),
        ("latent_diffusion", r"^    size: int = 32", "    size: int = 33", "Preset: default of size"),
        ("samplers", r"trained_betas=None, ", "", "DDIMScheduler: parameter trained_betas"),
        ("sd_unet", r"n_layers: int, (?=downsample: bool,\n\s+resnet, transformer=None, depth=1\):\n```\n\nA )", "", "CrossAttnDownBlock2D: parameter n_layers"),
        ("scheduler", r"# one of BETA_SCHEDULES", "# see [`BETA_SCHEDULES`](x.html)", "make_betas: Markdown in a signature"),
        ("scheduler", r"# number of steps", "# number of `steps`", "make_betas: Markdown in a signature"),
        ("scheduler", r"scheduler\.html#BETA_SCHEDULES\)\.", "scheduler.html#BETAS).", "dead link scheduler.html#BETAS"),
        ("scheduler", r"04_scheduler\.ipynb", "05_scheduler.ipynb", "dead link ../05_scheduler.ipynb"),
        ("scheduler", r"(#make_betas}\n\n\S+#L)\d+", r"\g<1>30", "make_betas: no link to line 31"),
        ("scheduler", r"\[`weights_from_file`\]\(\S+\), ", "", "Pretrained.weights_from_file is not named"),
    ]:
        assert said in faults(name, old, new), (said, faults(name, old, new))


# ------------------------------------------------------------------------------ a package of our own

FIRST = '''"""What comes first"""
# AUTOGENERATED
__all__ = ["TABLE", "Point", "Out", "Tool", "LONG", "pick", "Knob"]
import functools
TABLE = dict(a=1)  # see [`Tool`](https://example.org/x), or `Out`

@dataclass(frozen=True)
class Point:
    "A point of `Tool`."
    # how far right
    x: int = 0
    y: list = field(default_factory=list)  # up

class Out(NamedTuple):
    "What comes out."
    one: int
    two: int = 2  # the second

class _Base:
    def shared(self): "All have it."

class Tool(_Base):
    "Does `walk` and `Tool.twice`."
    limit = 3  # how often
    _hidden = 4  # not for you
    size, half = property(lambda self: 1), staticmethod(len)
    @functools.cache
    def __init__(self, sample: Point, *, deep=(1, 2), **rest): super().__init__(**rest)
    def twice(self) -> int: return 2
    def __len__(self): return 0
    again = twice

LONG = [
''' + "    1,\n" * 20 + """]

@overload
def pick(x: int) -> int: ...
@overload
def pick(x: str) -> str: ...
def pick(x):
    "The one that is called."

class Knob:
    low: int = 1; high: int = 2
    def __init__(self, **options): super().__init__(**options)
    @property
    def angle(self): "How far it is turned."
    @angle.setter
    def angle(self, value): "Turn it."
    @functools.cached_property
    def marks(self): "Counted once."
"""
SECOND = '''"""Then the rest"""
__all__ = ["Sub", "sample", "use"]
from .first import Tool, Point, patch_to

class Sub(Tool):
    def twice(self): return 4

@patch_to(Tool)
@torch.no_grad()
def walk(self, far: int = 1):  # in steps
    # no docstring
    return far

@patch_to(Sub, as_prop=True)
def width(self):
    "How wide `Sub` is."
    return 1

def sample(): "Draw."

def use(**options):
    "`sample` and `sample()`, `Sub.width`, `Sub.width`."
    return Sub(**options)
'''


@pytest.fixture
def small(tmp_path):
    """A small project, with what the real one may have one day."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "index.ipynb").write_text("{}")
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_path=lib\nnbs_path=nbs\ngit_url=https://github.com/a/lib\nbranch=main\n")
    for name, text in dict(first=FIRST, second=SECOND).items():
        for folder in ("lib", "nbs"): (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "lib" / f"{name}.py").write_text(text)
        cells = [{"cell_type": "markdown", "source": [f"# The {name} *chapter*"]}, {"cell_type": "code", "source": [f"#| default_exp {name}\n", "#| hide"]}]
        (tmp_path / "nbs" / f"0{'0' if name == 'second' else '1'}_{name}.ipynb").write_text(json.dumps({"cells": cells}, indent=1))
    api.write(tmp_path / "out", tmp_path)
    return {name: {entry: (code, said) for _, entry, code, said in entries((tmp_path / "out" / "api" / f"{name}.qmd").read_text())} for name in ("first", "second", "index")}


def test_fields_and_methods_from_anywhere(small):
    first, second = small["first"], small["second"]
    assert [*first] == ["TABLE", "Point", "Out", "Tool", "Tool.size", "Tool.half", "Tool.twice", "Tool.again", "Tool.walk", "LONG", "pick", "Knob", "Knob.angle", "Knob.marks"]
    assert first["pick"][0] == "def pick(x):" and "The one that is called." in first["pick"][1]
    assert first["Knob"][0] == "class Knob:\n    low: int = 1; high: int = 2\n    def __init__(self, **options):"
    assert first["Knob.angle"][0] == "@property\ndef angle(self):" and "How far" in first["Knob.angle"][1]
    assert first["Knob.marks"][0] == "@functools.cached_property\ndef marks(self):"
    assert [*second] == ["Sub", "Sub.twice", "Sub.width", "sample", "use"] and [*small["index"]] == ["second", "first"]
    assert first["TABLE"][0] == "TABLE = dict(a=1)  # see Tool, https://example.org/x, or Out"
    assert first["Point"][0] == "@dataclass(frozen=True)\nclass Point:\n    # how far right\n    x: int = 0\n    y: list = field(default_factory=list)  # up"
    assert first["Out"][0].endswith("    one: int\n    two: int = 2  # the second")
    init = "    def __init__(self, sample: Point, *, deep=(1, 2), **rest):"
    assert first["Tool"][0] == f"class Tool(_Base):\n    limit = 3  # how often\n{init}" and "`walk`](first.html#Tool.walk)" in first["Tool"][1]
    assert re.search(r"Inherited from \[`_Base`\]\(\S+#L19-L20\): \[`shared`\]\(https://github.com/a/lib/blob/main/lib/first.py#L20\)\.", first["Tool"][1])
    assert first["Tool.walk"][0] == "@torch.no_grad()\ndef walk(self, far: int = 1):  # in steps" and "`lib.second`](second.html)" in first["Tool.walk"][1]
    assert "second.py#L8-L12" in first["Tool.walk"][1] and first["LONG"][0] == "LONG = ...  # 22 lines: see the source"
    assert second["Sub"][0] == f"class Sub(Tool):\n    # as Tool\n{init}" and "from [`Tool`](first.html#Tool): [`size`]" in second["Sub"][1]
    assert second["Sub.width"][0].startswith("@property\ndef width") and "[" not in second["Sub.width"][1].split(".api-source}")[1]
    use = second["use"][1].split(".api-source}")[1].strip()
    assert use.startswith("`sample` and [`sample()`](second.html#sample), [`Sub.width`](second.html#Sub.width), `Sub.width`.") and "`**options` goes on to [`Sub`]" in use


THIRD = '''"""Three hands"""
__all__ = ["one", "Two", "three"]
# %% ../nbs/00_second.ipynb #a
def one(): "From the notebook that names the module."

class Two: "Nearly empty."
# %% ../nbs/02_third.ipynb #b
from .hub import patch_to
# %% ../nbs/02_third.ipynb #c
@patch_to(Two)
def more(self): "Added later."
# %% ../nbs/appendix/fourth.ipynb #d
def three(): "From a third notebook."
'''


def test_a_module_that_several_notebooks_write(tmp_path):
    """Its page names all of them, each name says which it comes from, and each notebook knows its own names."""
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_path=lib\nnbs_path=nbs\ngit_url=https://github.com/a/lib\nbranch=main\n")
    for folder in ("lib", "nbs/appendix"): (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lib/hands.py").write_text(THIRD)
    (tmp_path / "nbs/index.ipynb").write_text("{}")
    for path, directive in {"00_second": "#| default_exp hands", "02_third": "#| export hands", "appendix/fourth": "#| export hands"}.items():
        cells = [{"cell_type": "markdown", "source": [f"# On {path[-5:]}"]}, {"cell_type": "code", "source": [directive]}]
        (tmp_path / f"nbs/{path}.ipynb").write_text(json.dumps({"cells": cells}, indent=1))
    api.write(tmp_path / "out", tmp_path)
    text = (tmp_path / "out/api/hands.qmd").read_text()
    links = {name: f"[{title}](../{path})" for name, title, path in (
        ("one", "00 · On econd", "00_second.ipynb"), ("more", "02 · On third", "02_third.ipynb"), ("three", "On ourth", "appendix/fourth.ipynb"))}
    assert f"Written in {links['one']}, {links['more']} and {links['three']}; the module's [source]" in text
    assert f"From {links['one']}, {links['more']} and {links['three']}." in (tmp_path / "out/api/index.qmd").read_text()
    said = {name: (re.findall(r"From \[.*?\]\(.*?\)\.", text)) for _, name, _, text in entries(text)}
    assert said == {"one": [f"From {links['one']}."], "Two": [f"From {links['one']}."], "Two.more": [f"From {links['more']}."], "three": [f"From {links['three']}."]}
    cells = [{"cell_type": "code", "source": "def three(): ...\ndef one(): ..."}, {"cell_type": "markdown", "source": "`three` and `one`"}]
    for path, linked in {"appendix/fourth.ipynb": "[`three`](../api/hands.html#three) and `one`", "00_second.ipynb": "`three` and [`one`](api/hands.html#one)"}.items():
        some = json.loads(json.dumps(cells))
        api.linkify_notebook(some, path, tmp_path)
        assert some[1]["source"] == linked


def test_pages_name_their_notebooks(pages):
    """Every notebook that writes a part of a module is named on its page, and no name of other modules says whence it comes."""
    for name in MODULES:
        origins = dict.fromkeys(re.findall(r"^# %% \.\./nbs/(\S+\.ipynb)", (root / LIB / f"{name}.py").read_text(encoding="utf-8"), re.M))
        written = re.search(r"^Written in (.*); the module's", pages[name], re.M)[1]
        assert sorted(re.findall(r"\]\(\.\./(\S+?\.ipynb)\)", written)) == sorted(origins), name
        if len(origins) == 1: assert not re.search(r"^From \[", pages[name], re.M), name


# ------------------------------------------------------------------------------ docstrings in the real engine

ODD = {  # docstring: (what a reader must see, tags that must be there)
    "Shapes (n, 3, S, S) in [-1, 1], or a[0](b) and [x]{y}.": ("Shapes (n, 3, S, S) in [-1, 1], or a[0](b) and [x]{y}.", ""),
    "It costs $5 or $6; a<b>c, x_0_y, 2*3*4, a~b~c^2^.": ("It costs $5 or $6; a<b>c, x_0_y, 2*3*4, a~b~c^2^.", ""),
    r"A path C:\new\[x], @home #1 | two.": (r"A path C:\new\[x], @home #1 | two.", ""),
    "Wait ... for --resume, `a_b*c` and `$x$`.": ("Wait ... for --resume, a_b*c and $x$.", "code"),
    "Returns:\n- `one`: a *b*\n- two\n  goes on\n\nEnd.": ("Returns:one: a *b*two\ngoes onEnd.", "ul"),
    "Steps:\n\n1. look\n2. paint": ("Steps:lookpaint", "ol"),
    "Layout:\n\n    a   b\n      *c*\n\nand so on": ("Layout:a   b\n  *c*and so on", "pre"),
    "Args:\n    x: a *b*\n    y: c": ("Args:x: a *b*\ny: c", "pre"),
    "Minus\n- one is no list, nor is\n# this a heading\n> or a quotation": ("Minus\n- one is no list, nor is\n# this a heading\n> or a quotation", ""),
    "See [Ho (2020)](https://x.org/a_(b)), https://y.org/c_d_e.": ("See Ho (2020), https://y.org/c_d_e.", "a"),
    r"It is $x\,\sigma(1.7x)$: a gate.": (r"It is x\,\sigma(1.7x): a gate.", "span"),
}


def pandoc():
    """The program, on the PATH or in the package `pypandoc_binary`."""
    if importlib.util.find_spec("pypandoc"):
        import pypandoc
        return pypandoc.get_pandoc_path()
    return os.environ.get("PANDOC") or shutil.which("pandoc") or pytest.skip("no pandoc (package pypandoc_binary): docstrings were not rendered")


def rendered(markdown):
    ran = subprocess.run([pandoc(), "--from", "markdown", "--to", "html", "--katex", "--section-divs", "--wrap", "none"], input=markdown, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    return ran.stdout


def seen(markup):
    """The letters a reader sees, without spaces; straight quotes for curly ones."""
    text = html.unescape(re.sub(r"<[^>]+>", "", markup))
    return re.sub(r"\s", "", text.translate(str.maketrans("‘’“”", "''\"\"")))


def test_odd_docstrings_come_out_as_they_are():
    for doc, (wanted, tag) in ODD.items():
        out = rendered(docstrings.markdown(doc))
        tags = set(re.findall(r"<(\w+)", out)) - {"p", "li", "div"}
        if tag != "a": assert not Tags(out).links, out
        assert seen(out) == seen(html.escape(wanted)), (doc, out)
        assert (tag in tags if tag else not tags) and not tags & {"em", "strong", "sub", "sup", "h1", "blockquote"}, (doc, out)
    assert "<em>" in rendered("2*3*4") and "math" in rendered("It costs $5 or $x$.")


def test_docstrings_survive(pages):
    """What `help` prints is what a page says, but for backticks and addresses."""
    problems = []
    for name in MODULES:
        module = importlib.import_module(f"{LIB}.{name}")
        sections = dict(re.findall(r'<section id="([\w.]+)"[^>]*>(.*?)(?=<section|\Z)', rendered(pages[name]), re.S))
        for _, entry, _, _ in entries(pages[name]):
            thing = inspect.getattr_static(functools.reduce(getattr, entry.split(".")[:-1], module), entry.split(".")[-1])
            if not (inspect.isclass(thing) or getattr(bare(thing), "__qualname__", None) == entry): continue
            doc = inspect.cleandoc((thing if inspect.isclass(thing) else bare(thing)).__doc__ or "")
            if dataclasses.is_dataclass(thing) and doc.startswith(f"{entry}("): continue
            doc = re.sub(r"\[([^\[\]]+)\]\(https?:[^)]+\)|[`$]", r"\1", doc)
            if seen(html.escape(doc)) not in seen(sections[entry]): problems.append(f"{name}.{entry}: {doc}")
    assert not problems, "\n".join(["", *problems])


# ------------------------------------------------------------------------------ names in prose

def test_names_become_links():
    names = api.links()
    assert names["Scheduler"] == "api/scheduler.html#Scheduler" and names["Scheduler.add_noise"] == "api/scheduler.html#Scheduler.add_noise"
    assert names["sd_unet.attend"] != names["text_encoder.attend"] and "attend" not in names and names[f"{LIB}.plots"] == "api/plots.html"
    link = "[`Trainer`](../api/training.html#Trainer)"
    assert api.linkify("A `Trainer`, `Trainer()`; `trainer`.", 1) == f"A {link}, `Trainer()`; `trainer`."
    assert api.linkify("`fit` of `Trainer.fit()`") == "`fit` of [`Trainer.fit()`](api/training.html#Trainer.fit)"
    assert api.linkify("`sample` of `sample()`") == "`sample` of [`sample()`](api/scheduler.html#sample)", "a word that is a parameter too"
    for alone in ["# `Trainer`", "### On `Trainer`", "On `Trainer`\n---", "[the `Trainer`](x.html)", "![`Trainer`](x.png)", "<a href='x'>`Trainer`</a>", "```python\n`Trainer`\n```",
                  "~~~\n`Trainer`\n~~~", "$a `Trainer` b$", "$$\n`Trainer`\n$$", "``a `Trainer` b``", "\n\n    `Trainer`\n", r"\`Trainer\`", "<summary>`Trainer`</summary>", "<!-- `Trainer` -->"]:
        assert api.linkify(alone) == alone, alone
    twice = "A `Trainer` and a `Trainer`."
    assert api.linkify(api.linkify(twice, 1), 1) == api.linkify(twice, 1) != twice, "what is a link already is not made one elsewhere"
    known = set()
    first, same, new = (api.linkify(text, 1, known) for text in ("`Trainer`", "### More\n`Trainer`", "`Trainer`\n\n## Next\n\n`Trainer`"))
    assert (first, same, new) == (link, "### More\n`Trainer`", f"`Trainer`\n\n## Next\n\n{link}")
    assert api.linkify("in [-1, 1], `Trainer` for $5 and [1] `EMA`").count("](api/") == 2


def test_names_in_a_notebook_are_its_own_first():
    cells = [{"cell_type": "code", "source": "def attend(q): ...\nEMA = 1\n"}, {"cell_type": "markdown", "source": ["`attend`, `EMA`\n", "and `Trainer`"]},
             {"cell_type": "markdown", "source": "`Trainer`\n## Next\n`sample`, `Trainer`"}]
    for path, attend in {"03_sd_unet.ipynb": "[`attend`](api/sd_unet.html#attend)", "index.ipynb": "`attend`", "workshop/plots.ipynb": "`attend`"}.items():
        some = json.loads(json.dumps(cells))
        api.linkify_notebook(some, path)
        trainer = f"[`Trainer`]({'../' * path.count('/')}api/training.html#Trainer)"
        assert [cell["source"] for cell in some] == [cells[0]["source"], [f"{attend}, `EMA`\n", f"and {trainer}"], f"`Trainer`\n## Next\n`sample`, {trainer}"]


def test_links_lead_to_entries(pages):
    ids = {f"api/{page}.html#{name}" for page, text in pages.items() for _, name, _, _ in entries(text)} | {f"api/{name}.html" for name in MODULES}
    assert set(api.links().values()) <= ids
    order = [*sidebar.modules(sidebar.contents())]
    assert sorted(order) == MODULES and order[0] == "dali" and order.index("vae") < order.index("plots") < order.index("cli")
