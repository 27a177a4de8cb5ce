"""Every picture says what there is to see, and is shown."""
import re

import pytest

from pages import LINK, OTHERS, TOP, Tags, X, code_of, first, md, nothing_wrong, outputs, prose, py, without_code


def undescribed(books):
    """Pictures without a description of what there is to see, and pictures that the site would not show."""
    problems, says_nothing = [], re.compile(r"(an? )?(image|figure|plot|picture|animation|png|svg)?\.?", re.I)
    for name, cells in books.items():
        for i, markdown in prose(cells):
            markdown = without_code(markdown)
            found = [("image", m[2]) for m in LINK.finditer(markdown) if m[1]] + Tags(markdown).pictures
            problems += [f"{name}, cell {i}: {what} without alt text" for what, alt in found if says_nothing.fullmatch((alt or "").strip())]
        for i, _, data in outputs(cells, "text/html"):
            problems += [f"{name}, cell {i}: {what} in the output without alt text" for what, alt in Tags(data).pictures if says_nothing.fullmatch((alt or "").strip())]
        for i, source, cell in code_of(cells):
            shown = [data for output in cell.get("outputs", []) if (data := output.get("data"))]
            bare = [mime for data in shown for mime in data if mime.startswith("image/") and "text/html" not in data]
            if bare and not re.search(r"^#\|\s*fig-alt:\s*\S", source, re.M): problems.append(f"{name}, cell {i}: {bare[0]} without alt text; `show` gives it one")
            if re.search(r"^#\|\s*hide\b", source, re.M) and any("text/html" in data or bare for data in shown):
                problems.append(f"{name}, cell {i}: the site would drop the figure with the hidden cell; `#| echo: false` hides the code alone")
    return problems


def test_nothing_is_wrong():
    nothing_wrong(undescribed)


BROKEN = [
    (undescribed, md("![](a.png)")),
    (undescribed, md('<img src="a.png">')),
    (undescribed, py("x", **{"text/html": '<img src="data:image/png;base64,AA">'})),
    (undescribed, py("x", **{"text/html": '<img alt="figure" src="data:image/png;base64,AA">'})),
    (undescribed, py("x", **{"image/png": "AA"})),
    (undescribed, py("x", **{"text/html": "<svg><circle></svg>"})),
    (undescribed, py("#| hide\nx", **{"text/html": '<img alt="A red circle" src="data:image/png;base64,AA">'})),
]


@pytest.mark.parametrize("gate, cell", BROKEN, ids=range(len(BROKEN)))
def test_the_gates_can_fail(gate, cell):
    assert first(gate)([*TOP, cell])


def test_the_gate_can_pass():
    drawn = py("x", **{"text/html": '<img alt="A red circle" src="data:image/png;base64,AA">'})
    ring = py("x", **{"text/html": "<svg><title>A ring</title></svg>"})
    assert undescribed({**OTHERS, X: [*TOP, drawn, ring]}) == []
