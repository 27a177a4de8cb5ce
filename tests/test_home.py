"""The home page, its pictures, and the page for those who are lost."""
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from pages import NOTEBOOKS, Tags, cfg, prose, root, without_code
from test_links import anchors

sys.path.insert(0, str(root / "scripts"))
import make_card
import readme
import sidebar

HOME = "\n\n".join(markdown for _, markdown in prose(NOTEBOOKS[cfg["readme_nb"]]))
LOST = (root / "nbs" / "404.qmd").read_text(encoding="utf-8")
IMAGES = root / "nbs" / "images"
COLAB = (f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/"
         f"{cfg['branch']}/{cfg['nbs_path']}/")
LONGEST = 16  # letters: so many fit into the narrowest column of a window of 576 px


def table(markdown):
    """The cells of the chapter table's rows, without its head."""
    lines = [line for line in without_code(markdown).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[2:]


def row_problems(name, row):
    """What is wrong with the row of one notebook."""
    link = re.fullmatch(r"\[(.+)\]\(" + re.escape(name) + r"\)", row[0])
    if not link: return [f"{name}: {row[0]} is no link to it"]
    number = re.match(r"\d+", name)
    wanted = f"{number[0]} · " if number else ""
    problems = []
    if not link[1].startswith(wanted): problems.append("number")
    if not row[1]: problems.append("what you build")
    if not re.fullmatch(r"[1-9]\d*", row[2]): problems.append(f"seconds: {row[2]!r}")
    if row[3] != f"[Colab]({COLAB}{name})": problems.append(f"Colab: {row[3]}")
    return [f"{name}: {problem}" for problem in problems]


def table_problems(markdown):
    """Notebooks without their row below their part, rows that say something wrong, words that do not fit."""
    rows, problems = table(markdown), []
    expected = []
    for part, names in sidebar.contents():
        expected.append((part, None))
        expected += [(part, name) for name in names if name != cfg["readme_nb"]]
    if len(rows) != len(expected):
        return [f"{len(rows)} rows, {len(expected)} expected"]
    for row, (part, name) in zip(rows, expected):
        if len(row) != 4: problems.append(f"{row}: four cells expected")
        elif name: problems += row_problems(name, row)
        elif row != [f"**{part}**", "", "", ""]: problems.append(f"{row}: {part} expected")
        shown = re.sub(r"\]\([^)]*\)", "", " ".join(row))
        problems += [f"{word!r} is too long for a narrow column"
                     for word in re.split(r"[\s-]+", re.sub(r"[`*\[\]]", "", shown))
                     if len(word) > LONGEST]
    return problems


def picture_problems(markdown, folder=root / "nbs"):
    """Pictures that are not there, come from elsewhere, say nothing, or would turn into captioned figures."""
    markdown, problems = without_code(markdown), []
    tags = re.findall(r"<(?:img|source)\b[^>]*>", markdown)
    addresses = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", markdown)
    for tag in tags:
        addresses += re.findall(r'\bsrc(?:set)?="([^"\s]+)', tag)
    for address in addresses:
        if re.match(r"[a-z]+:|//", address): problems.append(f"{address} is elsewhere")
        elif not (folder / address).is_file(): problems.append(f"{address} is not there")
    for _, alt in Tags("".join(tags)).pictures:
        if not alt or len(alt.split()) < 5: problems.append(f"description {alt!r}")
    alone = re.findall(r"(?:(?<=\n\n)|\A)!\[[^\]]*\]\([^)]*\)(?:\{[^}]*\})?\s*(?=\n\n|\Z)", markdown)
    return problems + [f"{picture} becomes a figure without alt" for picture in alone]


def lost_problems(page):
    """What the page for lost readers names and the course has not."""
    problems = picture_problems(page)
    head = re.match(r'---\ntitle: "?[^"\n]+"?\n(?:[\w-]+: .*\n)*---\n', page)
    if not head: problems.append("no title")
    targets = [target for target in re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", page)]
    for target in targets:
        name, _, anchor = target.partition("#")
        if name not in NOTEBOOKS: problems.append(f"{target}: no such page")
        elif anchor and anchor not in anchors(NOTEBOOKS[name]): problems.append(f"{target}: no such anchor")
    if cfg["readme_nb"] not in targets: problems.append("no way home")
    if not any(target.endswith("#the-chapters") for target in targets): problems.append("no way to the chapters")
    if "quartoOpenSearch" not in page: problems.append("no search")
    return problems


def drawing_problems(markup):
    """Why an SVG is none of our own: it does not parse, has no title, or needs something from elsewhere."""
    try: svg = ElementTree.fromstring(markup)
    except ElementTree.ParseError as error: return [str(error)]
    problems = []
    if len(svg.get("viewBox", "").split()) != 4: problems.append("no viewBox")
    title = svg.find("{http://www.w3.org/2000/svg}title")
    if title is None or not title.text: problems.append("no title")
    for element in svg.iter():
        tag = element.tag.rpartition("}")[2]
        if tag in ("image", "script", "style", "use", "foreignObject"): problems.append(f"<{tag}>")
        problems += [f"{key}={value}" for key, value in element.attrib.items() if "href" in key or "url(" in value]
    return problems


def test_every_notebook_has_its_row():
    assert table_problems(HOME) == []


def test_pictures_of_the_home_page():
    assert len(re.findall("<img", HOME)) == 1 and picture_problems(HOME) == []


def test_the_lost_find_a_way():
    assert lost_problems(LOST) == []


@pytest.mark.parametrize("name", ["favicon", "colab", "404"])
def test_drawings(name):
    assert drawing_problems((IMAGES / f"{name}.svg").read_text(encoding="utf-8")) == []


def test_sizes_of_pictures():
    sizes = {name: Image.open(IMAGES / f"{name}.png").size for name in ("card", "favicon", "hero", "hero_narrow")}
    assert sizes["card"] == (1200, 630) and sizes["favicon"] == (48, 48)
    assert sizes["hero"][0] > sizes["hero"][1] and sizes["hero_narrow"][0] < sizes["hero_narrow"][1]
    assert all((IMAGES / f"{name}.png").stat().st_size <= 200e3 for name in sizes)
    button = ElementTree.parse(IMAGES / "colab.svg").getroot()
    assert 110 <= float(button.get("width")) <= 130 and 22 <= float(button.get("height")) <= 24


def pixels(sheet):
    """The RGBA pixels of a sheet of make_card."""
    canvas = FigureCanvasAgg(sheet.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=float)


def test_the_favicon_is_drawn_from_its_svg():
    saved = np.asarray(Image.open(IMAGES / "favicon.png").convert("RGBA"), dtype=float)
    visible = saved[..., 3:] / 255
    assert np.abs(pixels(make_card.favicon()) - saved)[visible[..., 0] > 0].mean() < 8
    assert 0.3 < visible.mean() < 0.9 and visible[0, 0, 0] == 0


def test_the_card_shows_what_it_is_given():
    red, blue = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    drawn = pixels(make_card.card([("a red sheet", red), ("a blue sheet", blue)]))
    assert drawn.shape == (630, 1200, 4)
    for color in ([255, 0, 0], [0, 0, 255]):
        assert (drawn[..., :3] == color).all(-1).sum() > 120 ** 2


def test_addresses_of_the_readme():
    source = '<source srcset="images/a.png"><img src="images/b.png"> ![c](images/c.png) [d](d.ipynb) [e](https://e.org/e.png) <img src="https://e.org/f.png">'
    assert readme.from_the_root(source) == (
        '<source srcset="nbs/images/a.png"><img src="nbs/images/b.png"> ![c](nbs/images/c.png) '
        '[d](nbs/d.ipynb) [e](https://e.org/e.png) <img src="https://e.org/f.png">')


# ------------------------------------------------------------------------------ each gate can fail

def changed(page, pattern, new):
    """The page with one place changed."""
    result, count = re.subn(pattern, new, page, count=1, flags=re.M)
    assert count, pattern
    return result


BAD_TABLES = {
    "a row is missing": (r"^\| \[06 .*\n", ""),
    "a part is missing": (r"^\| \*\*Workshop.*\n", ""),
    "a part is called something else": (r"\*\*Workshop\*\*", "**Cellar**"),
    "two rows changed places": (r"^(\| \[06 .*\n)(\| \[07 .*\n)", r"\2\1"),
    "number": (r"\[06 · ", "[08 · "),
    "link": (r"\(06_tokenizer\.ipynb\)", "(07_text_encoder.ipynb)"),
    "no seconds": (r"^(\| \[06 .*\| )\d+( \|)", r"\1?\2"),
    "zero seconds": (r"^(\| \[06 .*\| )\d+( \|)", r"\g<1>0\2"),
    "Colab": (r"blob/main/nbs/06_tokenizer", "blob/main/06_tokenizer"),
    "nothing built": (r"^(\| \[06 .*?\) \| ).*?( \| \d)", r"\1\2"),
    "a long word": (r"byte-pair", "compartmentalisation"),
    "a fifth cell": (r"^(\| \[06 .*)$", r"\1 more |"),
}


@pytest.mark.parametrize("pattern, new", BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_is_noticed(pattern, new):
    assert table_problems(changed(HOME, pattern, new))


BAD_PICTURES = [
    '<img src="https://example.org/a.png" alt="A picture that comes from elsewhere">',
    '<picture><source srcset="//example.org/a.png"></picture>',
    '<img src="images/nowhere.png" alt="A picture that is not there">',
    '<img src="images/hero.png">',
    '<img src="images/hero.png" alt="hero">',
    "[![Open](https://colab.research.google.com/assets/colab-badge.svg)](https://example.org)",
    "text\n\n![Dali beside ten pictures in frames](images/hero.png)\n\ntext",
]


@pytest.mark.parametrize("markdown", BAD_PICTURES)
def test_a_bad_picture_is_noticed(markdown):
    assert picture_problems(markdown)


BAD_PAGES = {
    "a picture": (r"images/404\.svg", "images/405.svg"),
    "the home page": (r"\(index\.ipynb\)", "(home.ipynb)"),
    "the chapters": (r"#the-chapters", "#chapters"),
    "an address of one server": (r"\(index\.ipynb\)", "(/minidiff/index.html)"),
    "search": ("quartoOpenSearch", "search"),
    "a figure": (r" \\$", ""),
    "title": (r"^title:", "name:"),
}


@pytest.mark.parametrize("pattern, new", BAD_PAGES.values(), ids=BAD_PAGES)
def test_a_bad_page_for_the_lost_is_noticed(pattern, new):
    assert lost_problems(changed(LOST, pattern, new))


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><title>Nine</title>{}</svg>'
BAD_DRAWINGS = [
    SVG.format("<g>"),
    SVG.format('<image href="a.png"/>'),
    SVG.format('<path d="M0 0" fill="url(https://example.org)"/>'),
    SVG.format("<style>@import 'a.css'</style>"),
    SVG.replace("<title>Nine</title>", "").format(""),
    SVG.replace(' viewBox="0 0 9 9"', "").format(""),
]


@pytest.mark.parametrize("markup", BAD_DRAWINGS)
def test_a_bad_drawing_is_noticed(markup):
    assert drawing_problems(markup) and not drawing_problems(SVG.format(""))


def test_the_numbers_of_the_first_page_are_those_that_were_measured():
    data = root / "minidiff" / "data"
    judged, stickers, more = (json.loads((data / name).read_text()) for name in ("results/judge.json", "results/stickers.json", "runs/cpu/judge.json"))
    run = json.loads((data / "runs" / "cpu" / "results.json").read_text())
    said = "{share:.1%} (95% interval {low:.1%} to {high:.1%})".format
    wanted = [said(**judged[kind]["whole"]) for kind in ("one_object", "two_objects")] + [said(**stickers[kind]["whole"]) for kind in ("one_sticker", "two_stickers")]
    wanted += ["{share:.1%} ({low:.1%} to {high:.1%})".format(**more[kind]["whole"]) for kind in ("one_object", "two_objects")]
    wanted.append(f"of {more['one_object']['whole']['n']:,} each")
    for text in ((root / "README.md").read_text(encoding="utf-8"), (root / "nbs" / "index.ipynb").read_text(encoding="utf-8")):
        assert [number for number in wanted if number not in text] == []
        assert f"in {math.ceil(run['seconds']['in all'] / 60)} minutes on two processor cores" in text
