"""Anybody's pictures: every kind of file, broken and odd ones, the cache that resumes, the Hub, and a training that is killed."""
import csv
import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
import types
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BIN, environment
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from minidiff import image_folder, metrics, picture_files, runs
from minidiff.checks import ConfigError, LoadError
from minidiff.image_folder import DecodedPictures, ImageFolder, check_caption, inside
from minidiff.picture_files import read_picture, read_pictures

COLORS = ["red", "green", "blue", "orange", "purple", "black"]


def sketch(i, size=(40, 30)):
    """A coloured disc on a page, unlike any other."""
    picture = Image.new("RGB", size, (255 - i % 7, 240 + i % 15, 255 - i // 7 % 50))
    ImageDraw.Draw(picture).ellipse((5 + i % 5, 5, 24, 24), fill=COLORS[i % 6])
    return picture


def captioned(folder, n, form="jsonl", first=0):
    """A folder of `n` pictures with captions, in one of the forms."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(first, first + n):
        name = f"{i:04}.png"
        sketch(i).save(folder / name)
        rows.append(dict(file_name=name, text=f"a {COLORS[i % 6]} disc, number {i % 9}"))
    if form == "jsonl": (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "csv":
        with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader(), writer.writerows(rows)
    else:
        for row in rows: (folder / row["file_name"]).with_suffix(form).write_text(row["text"])
    return folder


@pytest.fixture
def opened(tmp_path):
    def opened(folder, size=16, **more): return ImageFolder(folder, size, cache=tmp_path / "cache", **more)
    return opened


def whys(book): return {skipped.what: skipped.why for skipped in book.skipped}


# ------------------------------------------------------------------------------------------- one file

def saved(tmp_path, picture, name="x.png", **options):
    picture.save(tmp_path / name, **options)
    return read_picture(tmp_path / name, 8)[0].astype(int)


def near(pixels, color): return np.abs(pixels - np.array(color)[:, None, None]).max() <= 6


@pytest.mark.parametrize("mode, fill, color", [
    ("RGB", (200, 30, 90), (200, 30, 90)), ("L", 77, (77, 77, 77)), ("1", 1, (255, 255, 255)), ("P", 0, (0, 0, 0)),
    ("I;16", 65535, (255, 255, 255)), ("I;16", 32768, (128, 128, 128)), ("I;16", 200, (1, 1, 1)),
    ("RGBA", (200, 30, 90, 0), (255, 255, 255)), ("RGBA", (200, 30, 90, 255), (200, 30, 90)), ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
    ("LA", (0, 128), (127, 127, 127))])
def test_every_mode(tmp_path, mode, fill, color):
    assert near(saved(tmp_path, Image.new(mode, (20, 12), fill)), color)


@pytest.mark.parametrize("name, mode, fill, color", [
    ("x.jpg", "CMYK", (0, 0, 0, 0), (255, 255, 255)), ("x.tif", "F", 0.5, (128, 128, 128)), ("x.tif", "F", 200.0, (200, 200, 200)), ("x.tif", "I;16", 65535, (255, 255, 255)),
    ("x.gif", "P", 0, (0, 0, 0)), ("x.webp", "RGBA", (9, 9, 9, 0), (255, 255, 255)), ("x.bmp", "RGB", (1, 2, 250), (1, 2, 250)), ("x.ppm", "RGB", (1, 2, 250), (1, 2, 250)), ("x.tga", "RGBA", (9, 9, 9, 0), (255, 255, 255))])
def test_every_kind_of_file(tmp_path, name, mode, fill, color):
    assert near(saved(tmp_path, Image.new(mode, (20, 12), fill), name), color)


def test_palettes_with_a_transparent_colour(tmp_path):
    picture = Image.new("P", (20, 20), 1)
    picture.putpalette([0, 0, 0, 10, 200, 10])
    assert near(saved(tmp_path, picture, transparency=1), (255, 255, 255)) and near(saved(tmp_path, picture), (10, 200, 10))


def test_sixteen_bits_a_colour(tmp_path):
    """A PNG with 16 bits for each of red, green and blue, which Pillow reads but cannot write."""
    row = b"\0" + struct.pack(">3H", 65535, 32768, 0) * 4
    def chunk(name, data): return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b""))
    assert near(read_picture(tmp_path / "x.png", 8)[0].astype(int), (255, 128, 0))


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_by_exif(tmp_path, turn):
    """Whatever way the camera was held, the top is red and the left is bright."""
    upright = Image.new("RGB", (16, 16), "black")
    upright.paste((255, 0, 0), (0, 0, 16, 8))
    upright.paste((255, 255, 255), (0, 8, 8, 16))
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]  # of `Image.Transpose`
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = saved(tmp_path, stored, exif=exif)
    top, left, right = pixels[:, 1, 1], pixels[:, 6, 1], pixels[:, 6, 6]
    assert top[0] > 200 > 60 > top[1] and left.min() > 200 and right.max() < 60, (top, left, right)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("blue", "red")]
    for name in ("x.gif", "x.webp", "x.png"):
        assert near(saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:]), (0, 0, 255)), name


def test_the_middle_is_cut_out(tmp_path):
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("blue", (30, 0, 60, 30))
    assert near(saved(tmp_path, wide), (0, 0, 255)) and near(saved(tmp_path, wide.transpose(2)), (0, 0, 255))
    assert read_picture(tmp_path / "x.png", 8)[0].shape == (3, 8, 8) and saved(tmp_path, Image.new("RGB", (1, 1), "red")).shape == (3, 8, 8)


def test_a_large_jpeg_is_read_at_a_fraction_and_looks_the_same(tmp_path):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((1200, 1200), Image.Resampling.BICUBIC)
    quick = saved(tmp_path, picture, "x.jpg", quality=95)
    assert np.abs(quick - np.asarray(picture.resize((8, 8), Image.Resampling.LANCZOS)).transpose(2, 0, 1)).max() <= 4


def bomb(path):
    """A PNG of a few bytes that says it is 60,000 x 60,000 pixels."""
    def chunk(name, data): return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b""))


def test_no_other_program_is_started_to_read_a_file(tmp_path):
    """Pillow would hand an EPS to Ghostscript."""
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    with pytest.raises(ValueError, match="no picture"): read_picture(tmp_path / "x.png", 8)


# ----------------------------------------------------------------------------------------- twelve faults

def spoilt(folder):
    """Twenty good pictures, and twelve kinds of faults; what is to be said of each."""
    captioned(folder, 20)
    whole = io.BytesIO()
    sketch(99, (200, 200)).save(whole, "PNG")
    names = dict(broken="broken.png", cut="cut.png", empty="empty.png", other="other.png", bomb="bomb.png", dumb="dumb.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    (folder / "cut.png").write_bytes(whole.getvalue()[:-60])
    (folder / "empty.png").touch()
    (folder / "other.png").write_text("I am a text")
    bomb(folder / "bomb.png")
    sketch(50).save(folder / "dumb.png"), sketch(51).save(folder / "lonely.png")
    lines = [dict(file_name=name, text=f"a {what} one") for what, name in names.items() if what != "dumb"]
    lines += [dict(file_name="dumb.png", text=" ... !?"), dict(file_name="gone.png", text="a lost one"), dict(file_name="../secret.png", text="not ours"),
              dict(file_name="0000.png", text="a red disc, number 0"), dict(file_name="0001.png", text="")]
    with open(folder / "metadata.jsonl", "a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines) + "{\"file_name\": \"00\n")
    return {"broken.png": "no picture|broken", "cut.png": "broken or cut off", "empty.png": "empty", "other.png": "no picture", "bomb.png": "pixels would fill the memory",
            "dumb.png": "has no words", "gone.png": "no such file", "'../secret.png' leads out": "out of the folder", "0000.png": "once more", "0001.png": "caption is empty",
            "line 31": "no JSON object", "lonely.png": "no caption"}


def test_twelve_kinds_of_faults_are_twelve_lines(tmp_path, opened):
    import re
    expected, lines = spoilt(tmp_path / "data"), []
    book = opened(tmp_path / "data", note=lines.append)
    lines = [str(line) for line in lines]
    assert len(lines) == len(book.skipped) == len(expected) == 12 and len(book) == 20
    for what, why in expected.items():
        found = [line for line in lines if what in line]
        assert len(found) == 1 and re.search(why, found[0]) and len(found[0]) < 200 and "\n" not in found[0], (what, found, lines)
    assert "12 skipped" in book.summary() and "20 pictures" in book.summary()
    assert [str(s) for s in opened(tmp_path / "data").skipped] == lines, "the cache says the same"


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:\\x.png", "..\\x.png", "\\\\host\\x.png", "..", ""])
def test_no_path_leads_out(name):
    with pytest.raises(ValueError, match="leads out|names no file"): inside("train", name) and inside("", name)
    assert inside("train", "a/../b.png") == "train/b.png" and inside("train", "../b.png") == "b.png" and inside("", "a\\b.png") == "a/b.png"


@pytest.mark.parametrize("text, why", [("", "empty"), (" \n\t\0", "empty"), ("...", "no words"), (None, "no text"), (7, "no text"), ("caf\udce9", "UTF-8")])
def test_captions_that_are_none(text, why):
    with pytest.raises(ValueError, match=why): check_caption(text)


@pytest.mark.parametrize("text", ["红色的圆", "красный круг", "दो लाल वृत्त", "دائرة حمراء", "🦓", "3", "a  red\n circle"])
def test_captions_of_any_language(text): assert check_caption(text) == " ".join(text.split())


# ---------------------------------------------------------------------------------------------- folders

@pytest.mark.parametrize("form", ["jsonl", "csv", ".txt", ".caption"])
def test_the_forms_say_the_same(tmp_path, opened, form):
    book = opened(captioned(tmp_path / form, 20, form))
    assert len(book) == 20 and book.skipped == [] and book.captions[3] == ["a orange disc, number 3"] and book.files[3] == "0003.png"


def test_subfolders_with_metadata_of_their_own_and_split_folders(tmp_path, opened):
    captioned(tmp_path / "d" / "train" / "deep", 12), captioned(tmp_path / "d" / "train", 12, ".txt", first=12), captioned(tmp_path / "d" / "test", 5, "csv", first=24)
    book = opened(tmp_path / "d")
    held = [file for file, out in zip(book.files, book.held_out) if out]
    assert len(book) == 29 and held == [f"test/{i:04}.png" for i in range(24, 29)] and "train/deep/0000.png" in book.files


def test_several_captions_of_a_picture(tmp_path, opened):
    captioned(tmp_path / "d", 20)
    with open(tmp_path / "d" / "metadata.jsonl", "a") as file:
        file.write(json.dumps(dict(file_name="./0000.png", text=["a disc", "a spot"])) + "\n" + json.dumps(dict(file_name="0001.png", caption="a dot")) + "\n")
    book = opened(tmp_path / "d")
    assert book.captions[0] == ["a red disc, number 0", "a disc", "a spot"] and book.captions[1][-1] == "a dot" and book.skipped == []
    assert len(book.all_scenes("all")) == 23 and len(set(book.caption(book.all_scenes("all"))[0])) >= 21


def test_the_contrastive_loss_gets_two_different_captions(tmp_path, opened):
    captioned(tmp_path / "d", 30)
    with open(tmp_path / "d" / "metadata.jsonl", "a") as file:
        for i in range(15): file.write(json.dumps(dict(file_name=f"./{i:04}.png", text=["a disc", "a spot"])) + "\n")
    book, seen = opened(tmp_path / "d"), []
    tokenizer = lambda captions, **_: seen.append(captions) or type("", (), dict(input_ids=torch.zeros(len(captions), 4)))
    pairs = Counter()
    for seed in range(60):
        book.contrastive_batches(tokenizer, 20)(torch.Generator().manual_seed(seed))
        n = len(seen[-1]) // 2
        pairs.update(zip(seen[-1][:n], seen[-1][n:]))
    three = sum(n for (a, b), n in pairs.items() if {a, b} & {"a disc", "a spot"})
    assert three > 200 and not any(a == b for a, b in pairs if a in ("a disc", "a spot"))
    assert abs(pairs["a disc", "a spot"] / three - 1 / 6) < 0.06  # each of six ordered pairs equally often
    assert any(a == b for a, b in pairs)  # of a single caption


def test_a_comma_without_quotes_is_no_shorter_caption(tmp_path, opened):
    captioned(tmp_path / "d", 20)
    (tmp_path / "d" / "metadata.jsonl").unlink()
    rows = [f"{i:04}.png,a disc of number {i}" for i in range(20)]
    rows[3] += ", red"
    rows[4] += ","  # an empty cell says nothing
    (tmp_path / "d" / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    book = opened(tmp_path / "d")
    assert len(book) == 19 and "0003.png" not in book.files and "0004.png" in book.files
    assert any("more cells than columns" in str(skipped) for skipped in book.skipped)


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "LA"])
def test_turned_by_exif_in_every_mode(tmp_path, mode):
    upright = Image.new("RGB", (16, 16), "black")
    upright.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    if mode == "I;16": stored = Image.fromarray(np.asarray(stored.convert("L")).astype("uint16") * 257)
    else: stored = stored.convert(mode)
    pixels = saved(tmp_path, stored, exif=exif)
    assert pixels[:, 1, 1].min() > 200 and pixels[:, 6, 6].max() < 60 and pixels[:, 1, 6].min() > 200


def test_another_column(tmp_path, opened):
    captioned(tmp_path / "d", 20)
    path = tmp_path / "d" / "metadata.jsonl"
    path.write_text(path.read_text().replace('"text"', '"was_ist_es"'))
    with pytest.raises(LoadError, match="no captions"): opened(tmp_path / "d")
    assert len(opened(tmp_path / "d", column="was_ist_es")) == 20


def test_bad_tables(tmp_path, opened):
    folder = captioned(tmp_path / "d", 20, "csv")
    with open(folder / "metadata.csv", "ab") as file: file.write(b"0003.png,caf\xe9\r\n0004.png\r\n,nothing\r\n")
    (folder / "more").mkdir()
    (folder / "more" / "metadata.csv").write_text("name,text\na.png,b\n")
    said = [str(s) for s in opened(folder).skipped]
    assert len(said) == 4 and all(any(word in line for line in said) for word in ("no UTF-8", "no caption", "names no file", "line 1: there is no column file_name, but ['name', 'text']")), said


@pytest.mark.parametrize("mark", [",", ";", "\t", ", "])
def test_tables_with_other_marks(tmp_path, opened, mark):
    """As a spreadsheet may write them: semicolons, tabs, a blank after the comma, Windows' ends of lines, a byte order mark."""
    folder = captioned(tmp_path / "d", 20, "csv")
    path = folder / "metadata.csv"
    head, *lines = path.read_text().splitlines()
    if mark == ", ": lines = [head.replace(",", mark), *lines]
    else: lines = [mark.join(line.split(",", 1)) for line in (head, *lines)]
    path.write_bytes("".join(line + "\r\n" for line in lines).encode("utf-8-sig"))
    book = opened(folder)
    assert len(book) == 20 and [str(s) for s in book.skipped] == [] and len(set(book.captions[3][0].split())) > 2


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_metadata_as_windows_writes_it(tmp_path, opened, coding):
    folder = captioned(tmp_path / "d", 20)
    path = folder / "metadata.jsonl"
    lines = "\r\n".join([*path.read_text().splitlines()[:19], json.dumps(dict(file_name="0019.png", text="красный круг 🦓 红色 دائرة"), ensure_ascii=False)])
    path.write_bytes((b"\xfe\xff" if coding == "utf-16-be" else b"") + lines.encode(coding))
    book = opened(folder)
    assert book.skipped == [] and book.captions[19] == ["красный круг 🦓 红色 دائرة"]


def test_odd_files_of_a_breaker(tmp_path, opened):
    """Links that lead nowhere or in a circle, a pipe, whole paths, addresses, values of other types; each has a line, nothing hangs."""
    folder = captioned(tmp_path / "d", 20)
    (folder / "dangling.png").symlink_to("nowhere.png"), (folder / "loop.png").symlink_to("loop.png"), (folder / "list.png").mkdir()
    (folder / "elsewhere.png").symlink_to("/etc/hostname"), os.mkfifo(folder / "pipe.png")
    names = ["dangling.png", "loop.png", "list.png", "elsewhere.png", "pipe.png", str(folder / "0000.png"), "https://x.org/a.png"]
    lines = [dict(file_name=name, text="a thing") for name in names]
    lines += [dict(file_name="0000.png", text=text) for text in (12, {"a": 1}, [])] + [dict(file_name=["a"], text="x"), dict(name="0001.png", text="x"), [1], 0.5]
    with open(folder / "metadata.jsonl", "a") as file: file.write("".join(json.dumps(line) + "\n" for line in lines) + "{'a': 1}\n")
    said = [str(s) for s in opened(folder).skipped]
    assert len(said) == len(lines) + 1, said
    for why, n in {"no such file": 3, "a folder": 1, "no plain file": 1, "no picture that can be read": 1, "leads out of the folder; a name counts from": 1,
                   "its caption is no text": 3, "it names no file": 1, "there is no file_name, but ['name', 'text']": 1, "no JSON object": 3}.items():
        assert sum(why in line for line in said) == n, (why, said)


def test_a_folder_that_is_a_link_or_cannot_be_read_has_a_line(tmp_path, opened, monkeypatch):
    folder = captioned(tmp_path / "d", 20)
    captioned(tmp_path / "other", 5, ".txt")
    (folder / "linked").symlink_to(tmp_path / "other"), (folder / "locked").mkdir()
    real = os.scandir
    def scandir(path):
        if str(path).endswith("locked"): raise PermissionError(13, "Permission denied", str(path))
        return real(path)
    monkeypatch.setattr(os, "scandir", scandir)
    assert whys(opened(folder)) == {"linked/": "a link to a folder; links are not followed", "locked/": "cannot be read: Permission denied"}


def test_the_name_of_a_metadata_file_may_be_in_capitals(tmp_path, opened):
    folder = captioned(tmp_path / "d", 20, "csv")
    (folder / "metadata.csv").rename(folder / "METADATA.CSV")
    book = opened(folder)
    assert len(book) == 20 and book.skipped == []


def test_measures_of_one_picture_have_no_interval():
    generator = torch.Generator().manual_seed(0)
    texts, seen = torch.randn(2, 3, 8, generator=generator)
    found = runs.measures(seen, texts, generator, metrics, seen[:1], torch.tensor([0]))
    assert found["clip_score"][1:] == (None, None) and math.isfinite(found["clip_score"][0])
    row = dict(measured=dict(painted=found, held_out=found, copied=None), seconds={}, parameters={})
    assert "nan" not in runs.results_table(json.loads(json.dumps(row, allow_nan=False)))


def test_a_long_caption_is_cut_and_a_file_may_be_named_often(tmp_path, opened):
    folder = captioned(tmp_path / "d", 20)
    with open(folder / "metadata.jsonl", "a") as file:
        file.write(json.dumps(dict(file_name="0000.png", text="very long words " * 625)) + "\n" + json.dumps(dict(file_name="0000.png", text="a thing")) + "\n")
    book = opened(folder)
    assert [len(c) for c in book.captions[0]] == [20, 1000, 7] and book.skipped == []


def test_other_files_are_named_and_those_that_belong_there_are_not(tmp_path, opened):
    folder = captioned(tmp_path / "d", 20)
    for name in ("README.md", "LICENSE", ".gitattributes", "Thumbs.db", "film.mp4", "data.zip", "thought.txt"): (folder / name).write_text("x")
    (folder / ".hidden").mkdir(), sketch(0).save(folder / ".hidden" / "x.png")
    assert whys(opened(folder)) == {"film.mp4": "no picture", "data.zip": "no picture", "thought.txt": "there is no picture for this caption"}


@pytest.mark.parametrize("make, said", [
    (lambda d: None, "there is no folder .*hub:owner/name"), (lambda d: d.write_text(""), "is a file"), (lambda d: d.mkdir(), "holds no pictures"),
    (lambda d: (d.mkdir(), [sketch(i).save(d / f"{i}.png") for i in range(20)]), "20 pictures and no captions; write metadata.jsonl"),
    (lambda d: captioned(d, 2), "2 different pictures .* at least 16"), (lambda d: (captioned(d, 40), [sketch(0).save(p) for p in d.glob("*.png")]), "1 different"),
    (lambda d: (d.mkdir(), (d / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "b"}\n')), "0 different pictures.*a.png: there is no such file")])
def test_folders_that_nothing_can_be_learnt_from(tmp_path, opened, make, said):
    make(tmp_path / "d")
    with pytest.raises(LoadError, match=said): opened(tmp_path / "d")


def test_a_tenth_is_held_out_by_what_is_in_the_files(tmp_path, opened):
    folder = captioned(tmp_path / "d", 300)
    before = opened(folder)
    held = {before.numbers[i] for i in before.indices("heldout").tolist()}
    assert 15 <= len(held) <= 50
    for path in folder.glob("*.png"): os.rename(path, path.with_name("n" + path.name))
    (folder / "metadata.jsonl").write_text((folder / "metadata.jsonl").read_text().replace('": "0', '": "n0'))
    captioned(folder / "more", 60, first=300)
    after = opened(folder)
    now = {after.numbers[i] for i in after.indices("heldout").tolist()}
    assert len(after) == 360 and now & set(before.numbers) == held and len(now) > len(held)
    assert 2 <= len(opened(captioned(tmp_path / "few", 16)).indices("heldout")) <= 6


# -------------------------------------------------------------------------------- like a sketchbook

def test_it_is_drawn_from_like_a_sketchbook(tmp_path, opened):
    book = opened(captioned(tmp_path / "d", 60))
    images, captions, scenes = book.draw(10, torch.Generator().manual_seed(3), 2)
    again = book.draw(10, torch.Generator().manual_seed(3), 2)
    assert images.shape == (10, 3, 16, 16) and images.dtype == torch.float32 and images.abs().max() <= 1 and len(scenes) == 10
    assert torch.equal(images, again[0]) and captions == again[1] and len(set(scenes.index.tolist())) == 10
    exact = read_picture(book.folder / book.files[scenes.index[0]], 16)[0]
    assert torch.equal(images[0], torch.from_numpy(exact.copy()).float() / 127.5 - 1)
    held, train = set(book.indices("heldout").tolist()), set(book.indices("train").tolist())
    assert not held & train and len(held | train) == 60
    assert set(book.sample_scenes(500, split="heldout").index.tolist()) == held and set(book.sample_scenes(500).index.tolist()) == train
    assert len(book.sample_scenes(0)) == 0 and book.paint(book.sample_scenes(0)).shape == (0, 3, 16, 16)
    for wrong in (dict(n=-1), dict(n=2, split="test"), dict(n=2, n_objects=3), dict(n=2, generator=3)):
        with pytest.raises(ValueError, match=list(wrong)[-1]): book.sample_scenes(**wrong)


def test_a_changed_folder_has_another_fingerprint(tmp_path, opened):
    folder = captioned(tmp_path / "d", 20)
    first = opened(folder).fingerprint()
    assert opened(folder).fingerprint() == first != opened(folder, 24).fingerprint()
    sketch(77).save(folder / "0000.png")
    assert opened(folder).fingerprint() != first


# ----------------------------------------------------------------------------------- workers and cache

def test_a_reader_that_crashes_costs_one_file(tmp_path, monkeypatch):
    """As a decoder with a bug does: the process is gone."""
    if sys.platform != "linux": pytest.skip("the patched reader reaches a worker by fork alone")
    paths = [tmp_path / f"{i}.png" for i in range(50)]
    for i, path in enumerate(paths): sketch(i).save(path)
    read = picture_files.read_picture
    def crash(path, size): return os._exit(11) if path.name in ("7.png", "40.png") else read(path, size)
    monkeypatch.setattr(picture_files, "read_picture", crash)
    found = list(read_pictures(paths, 8, 2))
    assert [i for i, f in enumerate(found) if isinstance(f, str)] == [7, 40] and "crashed" in found[7]
    assert all(np.array_equal(found[i][0], read(paths[i], 8)[0]) for i in range(50) if i not in (7, 40))


def test_workers_do_not_change_the_result(tmp_path):
    paths = [captioned(tmp_path / "d", 70) / f"{i:04}.png" for i in range(70)]
    one, two = (list(read_pictures(paths, 8, workers)) for workers in (1, 3))
    assert len(one) == 70 and all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(one, two))


FILL = """
import sys; from pathlib import Path; from minidiff import image_folder, metrics, picture_files, runs
image_folder.PART = 8
read = picture_files.read_picture
def slow(path, size): import time; time.sleep(0.01); return read(path, size)
picture_files.read_picture = slow
folder = Path(sys.argv[1]); files = sorted(p.name for p in folder.glob("*.png"))
print(image_folder.DecodedPictures(Path(sys.argv[2]), folder, files, 16).fill(2))
"""


def test_the_cache_goes_on_after_kill_9(tmp_path):
    folder = captioned(tmp_path / "d", 200)
    (folder / "0005.png").write_bytes(b"no")
    command = [sys.executable, "-c", FILL, str(folder), str(tmp_path / "cache")]
    left, states = [], lambda: sum(sum(p.read_bytes()) for p in (tmp_path / "cache").glob("*/states"))
    for kill in range(3):
        before = states()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        while process.poll() is None and states() <= before + 16: time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -9
    before = states()
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert 24 < before < 201 and int(done.stdout) <= 200 - before + 1, "what was read is not read again"
    files = sorted(p.name for p in folder.glob("*.png"))
    cache = DecodedPictures(tmp_path / "cache", folder, files, 16)
    assert cache.fill() == 0 and list(cache.reasons()) == [5] and sorted(set(cache.column("states").tolist())) == [1, 2]
    for i in (0, 4, 6, 99, 199): assert np.array_equal(cache.column("pixels")[i], read_picture(folder / files[i], 16)[0])


def test_no_worker_outlives_a_killed_parent(tmp_path):
    folder = captioned(tmp_path / "d", 200)
    process = subprocess.Popen([sys.executable, "-c", FILL, str(folder), str(tmp_path / "cache")], stdout=subprocess.DEVNULL, env=environment())
    children = []
    while process.poll() is None and len(children) < 2:
        children = [int(p.name) for p in Path("/proc").glob("[0-9]*") if parent_of(p) == process.pid]
    process.kill(), process.wait()
    until = time.time() + 20
    while time.time() < until and any(Path(f"/proc/{pid}").exists() and b"minidiff" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children): time.sleep(0.1)
    assert len(children) == 2 and time.time() < until


def parent_of(path):
    try: return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError: return None


def test_a_changed_file_is_read_again_and_half_a_line_of_reasons_is_no_harm(tmp_path, opened):
    folder = captioned(tmp_path / "d", 20)
    (folder / "0005.png").write_bytes(b"no")
    first = opened(folder)
    for path in (tmp_path / "cache").glob("*/reasons.jsonl"): path.write_bytes(path.read_bytes() + b"[3, \"ha\n5\n[[1], 2]\n\xff\xfe")
    assert [str(s) for s in opened(folder).skipped] == [str(s) for s in first.skipped] and len(first) == 19
    sketch(5).save(folder / "0005.png")
    assert len(opened(folder)) == 20 and opened(folder).skipped == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    folder = captioned(tmp_path / "d", 20)
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadError, match="cache: .*file"): ImageFolder(folder, 16, cache=tmp_path / "file")
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr(image_folder.os, "fsync", full)
    with pytest.raises(LoadError, match="cache: .*No space left"): ImageFolder(folder, 16, cache=tmp_path / "cache")


# ---------------------------------------------------------------------------------------------- the Hub

def test_a_data_set_of_the_hub(tmp_path, opened, monkeypatch):
    """With a stand-in for the download, which lays links into a folder, as the real one does."""
    import huggingface_hub
    store, snapshot, asked = captioned(tmp_path / "store", 20), tmp_path / "snapshot", []
    snapshot.mkdir()
    for path in store.iterdir(): (snapshot / path.name).symlink_to(path)
    def download(repository, **options):
        asked.append((repository, options["repo_type"]))
        return str(snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    book = opened("hub:owner/name")
    assert asked == [("owner/name", "dataset")] and len(book) == 20 and book.name == "name" and book.skipped == []
    def fail(*_, **__): raise ConnectionError("no\nnet")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(LoadError, match="hub:owner/name could not be fetched .ConnectionError: no net"): opened("hub:owner/name")
    with pytest.raises(LoadError, match="expected hub:owner/name"): opened("hub:name")


def test_parquet_without_its_package_is_one_line(tmp_path, opened, monkeypatch):
    (tmp_path / "d").mkdir(), (tmp_path / "d" / "train-0-of-1.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LoadError, match="parquet files, which need a package: pip install pyarrow"): opened(tmp_path / "d")


def test_parquet_is_unpacked(tmp_path, opened, monkeypatch):
    """With a stand-in for pyarrow that gives rows as pyarrow gives them."""
    rows = []
    for i in range(20):
        data = io.BytesIO()
        sketch(i).save(data, "PNG")
        rows.append(dict(image=dict(bytes=data.getvalue(), path=f"{i}.png"), text=f"disc {i}", n=i))
    rows[7]["image"] = None
    batch = lambda some: types.SimpleNamespace(to_pylist=lambda: some)
    file = lambda path: types.SimpleNamespace(iter_batches=lambda n: [batch(rows[:12]), batch(rows[12:])])
    parquet = types.SimpleNamespace(ParquetFile=file)
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=parquet))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    (tmp_path / "d").mkdir(), (tmp_path / "d" / "train-0-of-1.parquet").write_bytes(b"PAR1")
    book = opened(tmp_path / "d")
    assert len(book) == 19 and book.captions[0] == ["disc 0"] and [s.why for s in book.skipped] == ["the file is empty"]
    parquet.ParquetFile = lambda path: pytest.fail("it was unpacked already")
    assert len(opened(tmp_path / "d")) == 19


# --------------------------------------------------------------------------------------------- training

def train(folder, out, *more):
    command = [str(BIN / "minidiff_train"), "--data", str(folder), "--preset", "smoke", "--device", "cpu", "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)


def weights(run): return {f"{path.parent.name}/{name}": t for path in sorted((run / "pipeline").rglob("*.safetensors")) for name, t in load_file(path).items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three hundred pictures, of which some cannot be used, and a run on them."""
    where = tmp_path_factory.mktemp("trained")
    captioned(where / "data", 300)
    (where / "data" / "0007.png").write_bytes(b""), (where / "data" / "film.mp4").touch()
    done = train(where / "data", where / "run")
    assert done.returncode == 0, done.stderr
    return where, done


def test_a_folder_is_trained_on_and_paints(trained, tmp_path):
    where, done = trained
    assert sorted(done.stderr.splitlines()) == ["skipped: 0007.png: the file is empty", "skipped: film.mp4: no picture"], done.stderr
    assert (where / "run" / "skipped.txt").read_text().count("\n") == 2 and "299 pictures, cut square and scaled to 32 x 32" in done.stdout
    results = json.loads((where / "run" / "results.json").read_text())
    painted, held = results["measured"]["painted"], results["measured"]["held_out"]
    for name in ("frechet", "kernel", "clip_score", "retrieval"):
        for row in (painted, held):
            assert row[name][1] <= row[name][0] <= row[name][2], (name, row)
    assert results["measured"]["copied"][0] <= 1 and 0 < held["chance"] < 0.2 and "accuracy" not in results
    assert "held out" in done.stdout and "caption found" in done.stdout and f"--from {where / 'run'}" in done.stdout
    out = tmp_path / "x.png"
    prompt = done.stdout.strip().splitlines()[-1].split("'")[1]
    done = subprocess.run([str(BIN / "minidiff_sample"), prompt, "--from", str(where / "run"), "--steps", "3", "--out", str(out)], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0 and done.stderr == "" and Image.open(out).size == (288, 288), done.stderr


def test_a_training_on_a_folder_is_killed_and_goes_on(trained, tmp_path):
    """In each stage; and the weights are those of a run that nobody killed."""
    where, _ = trained
    out = tmp_path / "run"
    command = [str(BIN / "minidiff_train"), "--data", str(where / "data"), "--preset", "smoke", "--device", "cpu", "--out", str(out), "--resume"]
    for stage in ("vae", "text", "unet"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        while process.poll() is None and not (out / "checkpoints" / f"{stage}.checkpoint.safetensors").exists(): time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL), process.wait()
    done = train(where / "data", out, "--resume")
    assert done.returncode == 0, done.stderr
    expected, got = weights(where / "run"), weights(out)
    assert expected.keys() == got.keys() and all(torch.equal(expected[k], got[k]) for k in expected)
    captioned(where / "data" / "more", 3, first=300)
    try: done = train(where / "data", out, "--resume")
    finally: [path.unlink() for path in (where / "data" / "more").iterdir()]
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: ") and "book=" in done.stderr


def test_what_cannot_be_trained_on_is_said_before_anything_is_trained(tmp_path):
    captioned(tmp_path / "two", 2), (tmp_path / "none").mkdir()
    for name, said in (("none", "holds no pictures"), ("two", "2 different pictures"), ("gone", "there is no folder")):
        done = train(tmp_path / name, tmp_path / "run")
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert train(captioned(tmp_path / "data", 20), tmp_path / "run2", "--size", "50").stderr.startswith("error: vae: size: expected a multiple of 4")


def test_the_tokenizer_is_made_of_the_captions(tmp_path, opened):
    """As many tokens as the captions are good for, and rows as long as the longest."""
    from minidiff.latent_diffusion import book_tokenizer
    folder = captioned(tmp_path / "d", 20)
    lines = [json.dumps(dict(file_name=f"{i:04}.png", text=text)) + "\n" for i, text in enumerate(["красный круг над синим"] * 10 + ["红色的圆 在 蓝色上"] * 10)]
    (folder / "metadata.jsonl").write_text("".join(lines))
    tokenizer = book_tokenizer(opened(folder))
    assert tokenizer.tokenize("красный круг") == tokenizer.tokenize("Красный  КРУГ") and len(tokenizer.tokenize("красный круг")) == 2
    assert 8 <= tokenizer.model_max_length <= 16 and 514 < len(tokenizer) < 700
    tokenizer = book_tokenizer(opened(captioned(tmp_path / "long", 20)))
    (tmp_path / "long" / "metadata.jsonl").write_text("".join(json.dumps(dict(file_name=f"{i:04}.png", text=f"{i} word " * 200)) + "\n" for i in range(20)))
    assert book_tokenizer(opened(tmp_path / "long")).model_max_length == 77 and len(tokenizer) < 700


def test_a_job_in_python(tmp_path, opened):
    from dataclasses import replace
    from minidiff.latent_diffusion import PRESETS, Job
    book = opened(captioned(tmp_path / "d", 40), 32)
    job = Job("cpu", book=book)
    held = len(book.indices("heldout"))
    assert job.preset.pictures == 40 - held and job.preset.captions == max(128, 4 * held) and job.preset.size == 32 and job.out == Path("runs/d-cpu")
    smoke = PRESETS["smoke"]
    quick = replace(smoke, captions=32, steps=2, vae_training={**smoke.vae_training, "steps": 4}, text_training={**smoke.text_training, "steps": 4}, unet_training={**smoke.unet_training, "steps": 8})
    job = Job(quick, tmp_path / "run", device="cpu", show_bar=False, book=book)
    pipe = job.run()
    assert pipe("a red disc", num_inference_steps=2, output_type="pt").shape == (1, 3, 32, 32) and len(job.examples[0]) == 32
    assert job.results["book"] == book.fingerprint() and set(job.examples[0]) <= {c for i in book.indices("heldout").tolist() for c in book.captions[i]}
