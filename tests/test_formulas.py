"""Every formula is one by pandoc's rules, and both KaTeX and MathJax set it."""
import json
import subprocess

import pytest

from pages import NOTEBOOKS, TOP, X, formulas, here, md, npm_ready, outputs, prose


def all_formulas(books):
    """([(where, formula, displayed?)], problems)"""
    found, problems = [], []
    for name, cells in books.items():
        for i, markdown in [*prose(cells), *((i, data) for i, _, data in outputs(cells, "text/latex"))]:
            some, odd = formulas(markdown)
            found += [(f"{name}, cell {i}", formula, displayed) for formula, displayed in some]
            problems += [f"{name}, cell {i}: not read as a formula by pandoc: {line}" for line in odd]
    return found, problems


def refused_formulas(found):
    """What KaTeX or MathJax says against [(where, formula, displayed?)]."""
    given = json.dumps([{"tex": formula, "display": displayed} for _, formula, displayed in found])
    ran = subprocess.run(["node", "formulas.mjs"], cwd=here, input=given, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return [f"{found[p['index']][0]}: {p['engine']}: {p['message']} in {found[p['index']][1]}" for p in json.loads(ran.stdout)]


def test_formulas_parse():
    """Every formula of every notebook, in both engines; an unknown macro is a failure."""
    found, problems = all_formulas(NOTEBOOKS)
    assert not problems, "\n".join(["", *problems])
    assert len(found) > 100
    npm_ready()
    refused = refused_formulas(found)
    assert not refused, "\n".join(["", *refused])


@pytest.mark.parametrize("source", ["a $ x $ b", "it costs $5", "\\begin{align}x\\end{align}"])
def test_what_is_no_formula_is_noticed(source):
    assert all_formulas({X: [*TOP, md(source)]})[1]


def test_formulas_are_found():
    found = all_formulas({X: [*TOP, md("text $x^2$\n\n$$\na\n$$\n\n`$ no formula $`")]})
    assert found == ([(f"{X}, cell 4", "\na\n", True), (f"{X}, cell 4", "x^2", False)], [])


@pytest.mark.parametrize("formula", [r"\nosuchmacro x", r"\frac{a", r"\begin{aligned} a", r"x^2^3", r"\left( x"])
def test_the_engines_can_fail(formula):
    npm_ready()
    assert {problem.split(": ")[1] for problem in refused_formulas([("here", formula, False)])} == {"KaTeX", "MathJax"}
    assert refused_formulas([("here", r"\frac{a}{b}", True)]) == []
