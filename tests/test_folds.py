"""What a reader of the site sees of the code is the lesson: drawing and plumbing are folded, and the outputs are clean.

The directives: `#| echo: false` shows the output alone, `#| code-fold: true` with a `#| code-summary` makes a closed box of the code,
`#| hide` leaves the whole cell out.
"""
import ast
import re

import pytest

from pages import LINK, NOTEBOOKS, OTHERS, TOP, X, code_of, first, md, prose, py, without_code

WIDTH = 95  # columns of an output that fit into a page of 1280 px
DRAWING = set("""plot scatter imshow bar barh hist errorbar fill_between axhline axvline axvspan annotate add_patch loglog semilogx semilogy
                 pcolormesh contour contourf stackplot quiver set_xticks set_yticks set_xlabel set_ylabel set_title legend colorbar subplots""".split())
SHOWS = {"show", "show_images", "slider", "animate", "plot_losses"}  # of minidiff.plots: what they are told is for those who cannot see
LONG = 60  # characters of such a description


def directives(source):
    """{name: value} of a cell; one without a value is True."""
    found = re.findall(r"^#\|\s*([\w-]+)(?::[ \t]*|[ \t]+|$)(.*)$", source, re.M)
    return {name: value.strip() or True for name, value in found}


def seen(source):
    """Is the code of a cell open on its page?"""
    said = directives(source)
    return "hide" not in said and said.get("echo") != "false" and said.get("code-fold") != "true" and said.get("include") != "false"


def parsed(source):
    """The syntax tree of a cell, with `pass` in place of IPython's own commands."""
    try: return ast.parse(source)
    except SyntaxError: return ast.parse(re.sub(r"^(\s*)(?:[%!]\S.*|[\w.]+\?{1,2})$", r"\1pass", re.sub(r"= *[%!]\S.*$", "= None", source, flags=re.M), flags=re.M))


def called(node):
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def of_torch(node):
    """Is this the `scatter` of tensors: along a dimension, which is a number?"""
    first = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "dim")][:1]
    number = bool(first) and isinstance(first[0], (ast.Constant, ast.UnaryOp))
    return called(node) == "scatter" and (number or getattr(node.func.value, "id", "") == "torch")


def draws(tree):
    """Does this code speak to matplotlib?"""
    plt = any(isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "plt" for node in ast.walk(tree))
    return plt or any(isinstance(node.func, ast.Attribute) and called(node) in DRAWING and not of_torch(node) for node in calls(tree))


def described(tree):
    """The longest description of a picture that stands in this code, in characters."""
    told = [keyword.value for node in calls(tree) for keyword in node.keywords if keyword.arg == "alt"]
    told += [value for node in calls(tree) if called(node) in SHOWS for value in node.args]
    words = lambda node: sum(len(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))
    told = [value for value in told if not isinstance(value, (ast.Lambda, ast.List, ast.ListComp, ast.Tuple, ast.Dict))]  # titles, which all see
    return max(map(words, told), default=0)


def plumbing(books):
    """Illustrations, drawing and descriptions whose code is open."""
    problems = []
    for name, cells in books.items():
        for i, source, _ in code_of(cells):
            if not seen(source): continue
            tree, said = parsed(source), directives(source)
            checks = any(isinstance(node, ast.Assert) for node in ast.walk(tree)) or any((called(node) or "").startswith(("assert_", "expect_error")) for node in calls(tree))
            lesson = checks or "export" in said or "exports" in said
            if not lesson and any(called(node) == "illustration" for node in calls(tree)): problems.append(f"{name}, cell {i}: an illustration is not code to read: `#| echo: false`")
            elif not lesson and draws(tree): problems.append(f"{name}, cell {i}: drawing is open: `#| code-fold: true`")
            elif described(tree) > LONG: problems.append(f"{name}, cell {i}: a description of {described(tree)} characters is open: `#| code-fold: true`")
    return problems


def printed(cells):
    """(cell number, kind, text) of what is to be read in the outputs that a page shows; kind is "text", "html" or "stderr"."""
    for i, source, cell in code_of(cells):
        if "hide" in directives(source): continue
        for output in cell.get("outputs", []):
            data = {mime: "".join(text) for mime, text in output.get("data", {}).items()}
            if "text" in output: yield i, "stderr" if output.get("name") == "stderr" else "text", "".join(output["text"])
            elif html := data.get("text/html"): yield i, "html", re.sub(r"<style.*?</style>|data:[^\"')]*|<script.*?</script>", "", html, flags=re.S)
            elif not any(mime.startswith("image/") or mime in ("text/latex", "text/markdown") for mime in data): yield i, "text", data.get("text/plain", "")
            elif "text/markdown" in data: yield i, "html", data["text/markdown"]


PLACES = r"(?<![\w.~:/])/(tmp|home|root|Users|work|var|private|usr|opt|mnt|media|srv|content)/[\w.]|\b[A-Z]:\\\w"
OBJECTS = r"<[^<>\n]* at 0x[0-9a-fA-F]+>|<matplotlib\.|<(bound method|built-in function|generator object|function|module|class) |^[\[(]*Text\(|<Figure size|<Axes: |<IPython\.core"
WARNINGS = r"\b\w*Warning: |\bwarnings\.warn\(|HF_TOKEN|unauthenticated requests|\btorchvision\b|is deprecated|has been deprecated"
REMAINS = r"\d+%\|[^|]*\||\d(it/s|s/it)\b|[█▏▎▍▌▋▊▉]"


def soiled(books):
    """Places of one machine, names of objects, other people's warnings and half a progress bar, in what was saved."""
    problems = []
    for name, cells in books.items():
        for i, kind, text in printed(cells):
            for what, pattern in (("a place on one machine", PLACES), ("the name of an object", OBJECTS if kind == "text" else r"at 0x[0-9a-f]{6,}"),
                                  ("a library's warning", WARNINGS), ("what is left of a progress bar", REMAINS)):
                if found := re.search(pattern, text, re.M): problems.append(f"{name}, cell {i}: {what} in an output: {text[max(0, found.start() - 20):][:70]!r}")
    return problems


def wide(books):
    """Outputs that are cut off or have to be scrolled."""
    return [f"{name}, cell {i}: {len(line.rstrip())} columns: {line[:60]!r}" for name, cells in books.items() for i, kind, text in printed(cells) if kind != "html"
            for line in text.expandtabs().splitlines() if len(line.rstrip()) > WIDTH]


TRUTH = {"true", "false"}
KNOWN = {"default_exp": re.compile(r"[a-z]\w*"), "export": {True, "maths"}, "exporti": {True}, "exports": {True}, "hide": {True}, "echo": {"false"}, "eval": {"false"},
         "code-fold": {"true"}, "code-summary": re.compile(r'"[^"]{3,60}"'), "fig-alt": re.compile(r".{10,}")}


def odd(books):
    """Directives that nobody obeys, or that do not go together."""
    problems = []
    for name, cells in books.items():
        for i, source, _ in code_of(cells):
            wrong = lambda what: problems.append(f"{name}, cell {i}: {what}")
            for line in source.splitlines():
                if re.match(r"\s*#\s+\||\s+#\|", line): wrong(f"not quite a directive: {line.strip()}")
            said, top = directives(source), re.match(r"(#\|.*\n?)*", source)[0]
            if top.count("#|") != len(re.findall(r"^#\|", source, re.M)): wrong("a directive that does not stand at the top")
            if len(said) != len(re.findall(r"^#\|", source, re.M)): wrong("a directive twice, or one that says nothing")
            for key, value in said.items():
                allowed = KNOWN.get(key)
                fits = value in allowed if isinstance(allowed, set) else allowed is not None and value is not True and allowed.fullmatch(value)
                if not fits: wrong(f"unknown directive: {key}{'' if value is True else f': {value}'}")
            if ("code-fold" in said) != ("code-summary" in said): wrong("a closed box says what is in it: `code-fold` and `code-summary` go together")
            if "code-fold" in said and ("hide" in said or "echo" in said): wrong("folded, and not shown at all")
    return problems


def names(tree, inside=ast.Load):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, inside)}


def made(tree):
    """The names that a cell gives to those below."""
    found = names(tree, ast.Store)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)): found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


def idle(books):
    """Closed boxes in which there is nothing: no output, no check, no call for its own sake, nothing that a later cell uses."""
    problems = []
    for name, cells in books.items():
        code = [(i, source, cell, parsed(source)) for i, source, cell in code_of(cells)]
        for k, (i, source, cell, tree) in enumerate(code):
            said = directives(source)
            closed, shown = "code-fold" in said or "echo" in said, bool(cell.get("outputs"))
            if said.get("echo") == "false" and not shown: problems.append(f"{name}, cell {i}: neither code nor output: `#| hide`")
            if not closed or shown or "export" in said: continue
            whole = (ast.Assert, ast.Delete, ast.With, ast.For, ast.While, ast.If, ast.Try, ast.Raise)
            does = any(isinstance(node, whole) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) for node in tree.body)
            does = does or any(isinstance(target, (ast.Attribute, ast.Subscript)) for node in tree.body if isinstance(node, (ast.Assign, ast.AugAssign))
                               for target in getattr(node, "targets", [getattr(node, "target", None)]))
            later = set().union(*(names(below) for *_, below in code[k + 1:]))
            if not does and not made(tree) & later: problems.append(f"{name}, cell {i}: a closed box with nothing in it that is seen or used")
    return problems


def lone(books):
    """Pictures alone in their paragraph: pandoc makes captions of what they say, and leaves them without a description."""
    return [f"{name}, cell {i}: a picture alone in its paragraph: {part.strip()[:50]!r}" for name, cells in books.items() for i, markdown in prose(cells)
            for part in re.split(r"\n\s*\n", without_code(markdown)) if (m := LINK.match(part.strip())) and m[1] and re.fullmatch(r"\s*(\{[^}]*\})?", part.strip()[m.end():])]


GATES = [plumbing, soiled, wide, odd, idle, lone]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.__name__)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_is_wrong(name, gate):
    assert not (problems := gate({name: NOTEBOOKS[name]})), "\n".join(["", *problems])


def out(source, text, name="stdout"): return {"cell_type": "code", "source": source, "outputs": [{"output_type": "stream", "name": name, "text": text}]}


FOLD = '#| code-fold: true\n#| code-summary: "the plot"\n'
FIGURE = {"text/html": '<img alt="A red circle" src="data:image/png;base64,AA/tmp/x">', "text/plain": "A red circle"}
ALT = "a red circle on a white page, to the left of a small blue square"

BROKEN = [
    (plumbing, py('illustration("dali")', **FIGURE)),
    (plumbing, py('if True:\n    illustration("dali")', **FIGURE)),
    (plumbing, py("fig, ax = plt.subplots()\nshow(fig, 'A line')")),
    (plumbing, py("def draw(ax):\n    ax.scatter(x, y)")),
    (plumbing, py("ax.imshow(picture)")),
    (plumbing, py("axes[0].plot(x)\naxes[1].bar(x, y)")),
    (plumbing, py("#| code-fold: false\nax.plot(x)")),
    (plumbing, py("#| code-fold: show\nax.plot(x)")),
    (plumbing, py(f'assert x\nshow_images(x, alt="{ALT}")')),
    (plumbing, py(f'#| export\nshow_images(x, alt="{ALT}")')),
    (plumbing, py(f'show(fig, "{ALT}")')),
    (plumbing, py(f'show(fig, "{ALT[:30]}"\n          "{ALT[30:]}")')),
    (plumbing, py(f'show(fig, f"{{n}} times {ALT}")')),
    (plumbing, py(f'show_images(x, alt="{ALT[:40]}" + "{ALT[:40]}")')),
    (plumbing, py(f'slider(draw, [1, 2], "t", alt="{ALT}")')),
    (plumbing, py(f'show(fig, "{ALT} {{}}".format(n))')),
    (plumbing, py(f'show(fig, " ".join(["{ALT[:40]}", "{ALT[40:]} and so on"]))')),
    (plumbing, py(f'show(fig, "{ALT}" if n else "")')),
    (plumbing, py("ax.scatter(x, y, s=1)")),
    (soiled, out("x", "saved in /tmp/tmpab12/model.safetensors")),
    (soiled, out("x", "/home/you/x.png")),
    (soiled, out("x", "'/Users/you/x.png'")),
    (soiled, out("x", "C:\\Users\\you")),
    (soiled, py("x", **{"text/plain": "PosixPath('/work/x')"})),
    (soiled, py("x", **{"text/html": "<p>in /root/x</p>"})),
    (soiled, py("x", **{"text/plain": "<minidiff.vae.Encoder object at 0x7f12ab34cd56>"})),
    (soiled, py("x", **{"text/plain": "[<matplotlib.lines.Line2D at 0x7f12ab34cd56>]"})),
    (soiled, py("x", **{"text/plain": "Text(0.5, 1.0, 'a title')"})),
    (soiled, py("x", **{"text/plain": "[Text(0, 0, 'a'), Text(1, 0, 'b')]"})),
    (soiled, py("x", **{"text/plain": "<Figure size 640x480 with 1 Axes>"})),
    (soiled, py("x", **{"text/plain": "<function f at 0x7f12ab34cd56>"})),
    (soiled, out("x", "<generator object f at 0x7f12ab34cd56>")),
    (soiled, out("x", "x.py:3: SyntaxWarning: invalid escape sequence", "stderr")),
    (soiled, out("x", "FutureWarning: `a` is deprecated")),
    (soiled, out("x", "Please set a HF_TOKEN", "stderr")),
    (soiled, out("x", "requires torchvision to be installed")),
    (soiled, out("x", "Loading weights: 100%|##########| 77/77", "stderr")),
    (soiled, out("x", "3.1it/s")),
    (wide, out("x", "short\n" + "w" * 96)),
    (wide, out("x", "w" * 96, "stderr")),
    (wide, out("x", "\t" * 12 + "x")),
    (wide, py("x", **{"text/plain": "w" * 96})),
    (wide, py(FOLD + "x", **{"text/plain": "w" * 96})),
    (odd, py("#| folded: true\nx")),
    (odd, py("#| code-fold: yes\n#| code-summary: \"the plot\"\nx")),
    (odd, py("#| code-fold: true\nx")),
    (odd, py('#| code-summary: "the plot"\nx')),
    (odd, py("#| code-fold: true\n#| code-summary: the plot\nx")),
    (odd, py('#| code-fold: true\n#| code-summary: ""\nx')),
    (odd, py("#| echo: no\nx")),
    (odd, py("#| echo\nx")),
    (odd, py("#| Hide\nx")),
    (odd, py("#| hidden\nx")),
    (odd, py("x = 1\n#| hide")),
    (odd, py("# | hide\nx")),
    (odd, py("#| hide\n#| hide\nx")),
    (odd, py("#|\nx")),
    (odd, py(FOLD + "#| hide\nx")),
    (odd, py(FOLD + "#| echo: false\nx")),
    (idle, py(FOLD + "unused = 1")),
    (idle, py(FOLD + "def unused():\n    return 1")),
    (idle, py(FOLD + "import unused")),
    (idle, py("#| echo: false\nx = 1")),
    (lone, md("Look:\n\n![A red circle](a.png)\n\nThere.")),
    (lone, md("![A red circle](a.png){width=300}")),
]

FINE = [
    py('#| echo: false\nillustration("dali")', **FIGURE),
    py('with expect_error(ValueError): illustration("nobody")'),
    py("ax.plot(x)\ntorch.testing.assert_close(x, y)"),
    py(FOLD + f'fig, ax = plt.subplots()\nax.plot(x)\nshow(fig, "{ALT}")', **FIGURE),
    py("#| hide\ndef draw(ax): ax.imshow(x)"),
    py("#| export\ndef draw(ax): ax.imshow(x)"),
    py('show_images(x, titles, alt="Four pictures")', **FIGURE),
    py("import matplotlib.pyplot as plt"),
    py("words = [first.title(), second.text]\nassert words"),
    py("%pip install -q x"),
    py("if x:\n    !ls"),
    py("assert (1\n    %2) == 1, 'is it?'"),
    py('print("Is it?\\n"\n      "Yes?")'),
    py(f'title = "{ALT}"\nraise_if(title, "{ALT}")'),
    py("x", **{"text/html": '<img alt="A red circle" src="data:image/png;base64,/tmp/abcd">', "text/plain": "<IPython.core.display.HTML object>"}),
    py("x", **{"text/html": "<progress max=4 value=4></progress> 100.00% [4/4 00:01]"}),
    py("x", **{"text/plain": "CLIPTokenizer(641 tokens, 127 merges, up to 77 ids a text)"}),
    py("#| hide\nx", **{"text/plain": "in /tmp/x " + "w" * 96}),
    out("x", "runs/smoke holds a run already\n" + "w" * 95 + "   ", "stderr"),
    out("x", "either/or, and/tmp/x, https://example.org/home/page; 77% | 3 of 4"),
    out("x", "warning: this is slow", "stderr"),
    py("#| default_exp x\n#| hide"),
    py("#| export\n#| code-fold: true\n#| code-summary: \"the checks of a config\"\ndef f(): pass"),
    py("# a comment about # and |\nx = 'a # | b'"),
    py(FOLD + "later = 1"),
    py(FOLD + "assert 1 + 1 == 2"),
    py(FOLD + "torch.manual_seed(0)"),
    py(FOLD + "model.kind = 1"),
    py(FOLD + "for model in models: model.eval()"),
    py("torch.scatter(x, 1, ids, 1)\nx.scatter(-1, ids, 1)\nx.scatter(dim=1, index=ids, src=x)"),
    py("names = !ls\nnames?"),
    py(f'show_images(x, ["{ALT}", "{ALT}"], alt="Two discs")', **FIGURE),
    py("print(later)"),
    md("A picture ![A red circle](a.png) in a line"),
    md("[![Open in Colab](a.svg)](https://example.org)"),
    md("```\n\n![A red circle](a.png)\n\n```"),
]


@pytest.mark.parametrize("gate, cell", BROKEN, ids=range(len(BROKEN)))
def test_the_gates_can_fail(gate, cell):
    assert first(gate)([*TOP, cell])


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.__name__)
def test_the_gates_can_pass(gate):
    assert gate({**OTHERS, X: [*TOP, *FINE]}) == []
