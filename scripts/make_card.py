#!/usr/bin/env python3
"""Draw the pictures that stand for the course: nbs/images/*.png.

    python scripts/make_card.py

The home page's hero, wide and narrow, and the card that a shared link shows: Dali
beside what the two models of the package paint, the first captions of held-out scenes
that a seed gives; none is picked. And the favicon, from favicon.svg, for what reads no SVG.
"""
import argparse
import re
import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch
from fontTools.pens.recordingPen import DecomposingRecordingPen
from fontTools.svgLib.path import parse_path
from fontTools.svgLib.path.shapes import PathBuilder
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D
from PIL import Image

from minidiff.files import data_folder, read_json
from minidiff.latent_diffusion import open_run
from minidiff.plots import to_uint8
from minidiff.sketchbook import Sketchbook
from minidiff.stickers import StickerBook
from ship_stickers import SETTINGS

root = Path(__file__).resolve().parent.parent
images = root / "nbs" / "images"
INK, PAPER, FLOOR, GOLD = "#2b2d42", "#fff1da", "#f8dfb8", "#dba63c"
CODES = {"moveTo": [Outline.MOVETO], "lineTo": [Outline.LINETO],
         "qCurveTo": [Outline.CURVE3] * 2, "curveTo": [Outline.CURVE4] * 3}


def outline(element):
    """The shape of one element of an SVG, or None where it has none."""
    builder = PathBuilder()
    builder.add_path_from_element(element)
    if not builder.paths: return None
    pen = DecomposingRecordingPen({})
    parse_path(builder.paths[0], pen)
    points, codes = [], []
    for name, arguments in pen.value:
        if name in CODES:
            points += arguments
            codes += CODES[name]
        elif name == "closePath":
            points.append(points[-1])
            codes.append(Outline.CLOSEPOLY)
    return Outline(points, codes)


def moved(element, matrix):
    """The matrix of what is inside an element, by its translate, rotate and scale."""
    steps = re.findall(r"(\w+)\(([^)]*)\)", element.get("transform", ""))
    for name, numbers in steps:
        numbers = [float(number) for number in numbers.split()]
        step = Affine2D()
        if name == "rotate": step.rotate_deg(*numbers)
        else: getattr(step, name)(*numbers)
        matrix = step + matrix
    return matrix


def draw_svg(axes, element, matrix, size, stroke=None, width=3.0):
    """Draw an element of one of the course's SVGs, and all that it holds."""
    matrix = moved(element, matrix)
    stroke = element.get("stroke", stroke)
    width = float(element.get("stroke-width", width))
    shape = outline(element)
    if shape is not None:
        scale = abs(matrix.get_matrix()[0, :2] @ matrix.get_matrix()[0, :2]) ** .5
        axes.add_patch(PathPatch(
            shape, transform=matrix + axes.transData, facecolor=element.get("fill"),
            edgecolor=stroke or "none", alpha=float(element.get("opacity", 1)),
            linewidth=width * scale * size if stroke != "none" else 0,
            capstyle="round", joinstyle="round", zorder=4))
    for inside in element:
        draw_svg(axes, inside, matrix, size, stroke, width)


class Sheet:
    "A sheet of paper with rounded corners, measured in pixels from its top left."

    def __init__(self, width, height, corner=28, floor=None):
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        self.figure.patch.set_alpha(0)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")
        self.paper = self.box(0, 0, width, height, PAPER, corner=corner, line=0)
        if floor is not None:
            ground = Rectangle((0, floor), width, height - floor, facecolor=FLOOR)
            self.axes.add_patch(ground)
            ground.set_clip_path(self.paper)

    def box(self, x, y, width, height, color, corner=0, line=3):
        """Add a rectangle with an outline; returns it."""
        style = f"round,pad=0,rounding_size={corner}" if corner else "square,pad=0"
        return self.axes.add_patch(FancyBboxPatch(
            (x, y), width, height, style, facecolor=color, edgecolor=INK,
            linewidth=line * 0.72))

    def text(self, x, y, words, size, **options):
        """Write lines of words below y, with letters of `size` pixels."""
        for i, line in enumerate(words.splitlines()):
            self.axes.text(x, y + size * (1 + 1.25 * i), line, size=size * 0.72,
                           color=INK, **{"ha": "center", **options})

    def drawing(self, element, x, y, scale):
        """Add a drawing, its origin at (x, y)."""
        draw_svg(self.axes, element, Affine2D().scale(scale).translate(x, y), 0.72)

    def dali(self, x, y, scale):
        """Dali with his wand, his feet at (x, y)."""
        markup = data_folder("figures", "cast.svg").read_text(encoding="utf-8")
        group = ElementTree.fromstring(markup).find("{http://www.w3.org/2000/svg}g")
        del group.attrib["transform"]
        self.drawing(group, x, y, scale)

    def says(self, x, y, width, height, words, size):
        """A speech bubble that stands above its speaker, its tail in the middle."""
        self.box(x, y, width, height, "#fffdf8", corner=16)
        middle, bottom = x + width / 2, y + height
        tail = Outline([(middle - 14, bottom - 2), (middle - 2, bottom + 24),
                        (middle + 12, bottom - 2)])
        self.axes.add_patch(PathPatch(tail, facecolor="#fffdf8", edgecolor=INK,
                                      linewidth=3 * 0.72, joinstyle="round"))
        lines = words.count("\n") + 1
        self.text(middle, y + (height - 1.3 * size * lines) / 2, words, size)

    def painting(self, image, x, y, side):
        """A picture in its golden frame."""
        self.box(x - 8, y - 8, side + 16, side + 16, GOLD, corner=4)
        self.axes.imshow(image, extent=(x, x + side, y + side, y), aspect="auto",
                         interpolation="nearest", zorder=2)
        self.axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=INK,
                                      linewidth=2 * 0.72, zorder=3))

    def save(self, path, scale=1):
        """Write the sheet as a PNG of `scale` dots a pixel."""
        self.figure.savefig(path, dpi=100 * scale)
        full = Image.open(path).convert("RGBA")
        few = full.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT,
                                           kmeans=2, dither=Image.Dither.NONE)
        few = few.convert("RGB")
        few.putalpha(full.getchannel("A"))
        few.save(path, optimize=True)
        print(f"{path.relative_to(root)}: {path.stat().st_size / 1e3:.0f} kB")


def painted(pipe, book, count, steps, scale):
    """[(caption, picture)]: what a model makes of a seed's first held-out scenes."""
    generator = torch.Generator().manual_seed(16)
    captions = []
    for n_objects in ([2, 1] * count)[:count]:
        scenes = book.sample_scenes(1, generator, n_objects, "heldout")
        captions += book.caption(scenes, generator)[0]
    pictures = pipe(captions, num_inference_steps=steps, guidance_scale=scale,
                    generator=generator, output_type="pt")
    return list(zip(captions, to_uint8(pictures)))


def in_turn(count=10):
    """The first pictures of both models, one of stickers, one of shapes, and so on."""
    preset = read_json(data_folder("weights") / "results.json")["preset"]
    shapes = painted(open_run(), Sketchbook(preset["size"]), count // 2,
                     preset["steps"], preset["scale"])
    stickers = painted(open_run("stickers"), StickerBook(64), count // 2, **SETTINGS)
    return [picture for both in zip(stickers, shapes) for picture in both]


def gallery(sheet, shown, places, side, size, letters):
    """Hang pictures at their places, each with its caption below."""
    for (caption, picture), (x, y) in zip(shown, places):
        sheet.painting(picture, x, y, side)
        sheet.text(x + side / 2, y + side + 18, textwrap.fill(caption, letters), size)


def wide(shown):
    """The hero for screens that are wide enough."""
    sheet = Sheet(1200, 650, floor=604)
    sheet.says(28, 176, 176, 88, "Say it,\nand I paint it.", 20)
    sheet.dali(112, 628, 1.4)
    places = [(284 + 182 * (i % 5), 30 + 318 * (i // 5)) for i in range(10)]
    gallery(sheet, shown, places, 150, 17, 18)
    return sheet


def narrow(shown):
    """The hero for telephones: fewer pictures and larger letters."""
    sheet = Sheet(600, 860, floor=824)
    sheet.says(40, 36, 240, 84, "Say it,\nand I paint it.", 26)
    sheet.dali(150, 400, 1.1)
    places = [(48 + 284 * (i % 2), 34 + 420 * (i // 2)) for i in range(1, 4)]
    gallery(sheet, shown, places, 220, 23.5, 20)
    return sheet


def card(shown):
    """What a shared link shows."""
    sheet = Sheet(1200, 630, corner=0, floor=576)
    sheet.dali(158, 600, 2.1)
    sheet.text(402, 36, "minidiff", 120, ha="left", weight="bold")
    sheet.text(408, 188, "Stable Diffusion, rebuilt by hand", 41, ha="left")
    gallery(sheet, shown, [(416 + 193 * i, 290) for i in range(4)], 156, 19, 17)
    return sheet


def favicon():
    """The PNG of favicon.svg."""
    svg = ElementTree.parse(images / "favicon.svg").getroot()
    sheet = Sheet(48, 48)
    sheet.paper.remove()
    sheet.drawing(svg, 0, 0, 48 / float(svg.get("viewBox").split()[2]))
    return sheet


def draw(shown):
    """Draw all pictures, with ten that were painted."""
    wide(shown).save(images / "hero.png", 4 / 3)
    narrow(shown).save(images / "hero_narrow.png")
    card(shown).save(images / "card.png")
    favicon().save(images / "favicon.png")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    draw(in_turn())
