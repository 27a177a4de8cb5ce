"""How the code of the notebooks is laid out; run by `make test`, or alone:

    python scripts/lint.py                      all notebooks
    python scripts/lint.py nbs/06_tokenizer.ipynb   just these

1. No line is longer than 88 columns.
2. One statement a line; `if x: y` is one. An assignment of several things at once assigns things of one kind.
3. A signature with comments has a line for each parameter, and its end on a line of its own.
4. `a * b` has its spaces; a hint says `Tensor`, not `torch.Tensor`.
5. What is public and exported has a docstring.
"""
import argparse
import ast
import io
import json
import re
import sys
import tokenize
from pathlib import Path

root = Path(__file__).resolve().parent.parent
WIDTH = 88


def kind(node):
    """What makes two values alike: a call of one function, a number, a name, a list, ..."""
    if isinstance(node, ast.Call):
        name = node.func
        return "call", name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", None)
    if isinstance(node, (ast.Constant, ast.UnaryOp)):
        return "constant"
    if isinstance(node, (ast.BinOp, ast.Compare, ast.BoolOp)):
        return "operation"
    return type(node).__name__


def packed(node):
    """Does an assignment pack different things into one line?"""
    values = getattr(node, "value", None)
    if not isinstance(node, ast.Assign) or not isinstance(values, ast.Tuple):
        return False
    if not any(isinstance(target, ast.Tuple) for target in node.targets):
        return False
    names = [ast.unparse(name) for target in node.targets if isinstance(target, ast.Tuple) for name in target.elts]
    swap = sorted(names) == sorted(ast.unparse(value) for value in values.elts)
    return not swap and len({kind(value) for value in values.elts}) > 1


def scattered(node):
    """Does a signature that takes several lines put two parameters on one, or one beside a bracket?"""
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    given = node.args
    parts = [*given.posonlyargs, *given.args, *filter(None, [given.vararg]), *given.kwonlyargs, *filter(None, [given.kwarg])]
    last = max([getattr(node.returns, "end_lineno", 0) or 0, *(part.end_lineno for part in parts),
                *(default.end_lineno for default in [*given.defaults, *filter(None, given.kw_defaults)])], default=0)
    if last <= node.lineno:
        return False
    lines = [part.lineno for part in parts if part.arg not in ("self", "cls") or len({p.lineno for p in parts[:2]}) == len(parts[:2])]
    return len(set(lines)) < len(lines) or node.lineno in lines


def hints(tree):
    for node in ast.walk(tree):
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if hint is not None and re.search(r"\btorch\.Tensor\b", ast.unparse(hint)):
                yield hint.lineno


def tight(source):
    """Lines with a product that has no spaces around its sign."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for before, sign, after in zip(tokens, tokens[1:], tokens[2:]):
        operand = before.type in (tokenize.NAME, tokenize.NUMBER) or before.string in (")", "]")
        if before.string in ("lambda", "return", "in", "print", "not", "and", "or", "if", "else", "yield", "import"):
            continue
        if sign.string == "*" and operand and (before.end == sign.start or sign.end == after.start):
            yield sign.start[0]


def lint(source):
    """[(line, what is wrong)] of one cell."""
    lines = source.splitlines()
    found = [(i, f"{len(line)} columns") for i, line in enumerate(lines, 1) if len(line) > WIDTH]
    plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M)
    tree = ast.parse(plain)
    exported = bool(re.match(r"#\|\s*export", source))
    starts = {}
    for node in ast.walk(tree):
        if packed(node):
            found.append((node.lineno, "different things in one assignment"))
        if scattered(node) and any("#" in line for line in lines[node.lineno - 1:node.body[0].lineno - 1]):
            found.append((node.lineno, f"the signature of {node.name}: a line for each parameter"))
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            for one, two in zip(body, body[1:]) if isinstance(body, list) else ():
                if one.end_lineno == two.lineno:
                    found.append((two.lineno, "two statements in one line"))
    found += [(line, "torch.Tensor in a hint") for line in hints(tree)]
    found += [(line, "a product without spaces") for line in tight(plain)]
    for node in tree.body if exported else ():
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and not ast.get_docstring(node):
            found.append((node.lineno, f"{node.name} has no docstring"))
    return sorted(set(found))


def main(names):
    paths = [Path(name) for name in names] or sorted(p for p in (root / "nbs").rglob("*.ipynb") if not p.name.startswith((".", "_")))
    count = 0
    for path in paths:
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] != "code":
                continue
            source = "".join(cell["source"])
            for line, what in lint(source):
                count += 1
                print(f"{path.name}, cell {i} ({cell['id']}), line {line}: {what}: {source.splitlines()[line - 1].strip()[:70]}")
    print(f"{count} places to mend" if count else "the code of the notebooks is laid out as it should be")
    return int(count > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*")
    sys.exit(main(parser.parse_args().notebooks))
