"""The report of a run: what is in it, how large it is, and that it survives a kill."""
import json
import shutil
import warnings
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
import torch
from pages import root
from PIL import Image

from minidiff.checks import ConfigError, LoadError
from minidiff.critic import Critic
from minidiff.latent_diffusion import PREVIEW, PRESETS, Job
from minidiff.report import Report, judge_pictures, mistakes, thinned
from minidiff.runs import caption_grid
from minidiff.scenes import KINDS
from minidiff.sketchbook import Sketchbook
from minidiff.stickers import STICKERS, MixedBook, StickerBook

SMOKE = PRESETS["smoke"]
QUICK = replace(SMOKE, pictures=32, captions=4, steps=2, vae_training={**SMOKE.vae_training, "steps": 4},
                text_training={**SMOKE.text_training, "steps": 4}, unet_training={**SMOKE.unet_training, "steps": 16})


def job(out, preset=QUICK, **more):
    return Job(preset, out, device="cpu", show_bar=False, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    job(out).run()
    return out


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------- curves

@pytest.mark.parametrize("n", [0, 1, 3, 199, 200, 201, 8000])
def test_a_thinned_curve_covers_every_step(n):
    losses = torch.rand(n, generator=torch.Generator().manual_seed(0)).tolist()
    row = thinned(losses)
    assert row["steps"] == n and len(row["at"]) == min(n, 200) == len(row["loss"]) == len(row["low"]) == len(row["high"])
    if n:
        assert row["at"][-1] == n and row["at"] == sorted(set(row["at"]))
        assert min(row["low"]) == pytest.approx(min(losses), rel=1e-4) and max(row["high"]) == pytest.approx(max(losses), rel=1e-4)
    assert all(low <= loss <= high for low, loss, high in zip(row["low"], row["loss"], row["high"]))
    assert len(json.dumps(row)) < 8000


def test_a_falling_loss_is_drawn_where_it_falls():
    """The smoothed line neither lags behind nor runs ahead."""
    losses = [2.0] * 400 + [1.0] * 400
    row = thinned(losses)
    assert row["loss"][0] == 2 and row["loss"][-1] == 1
    middle = [at for at, loss in zip(row["at"], row["loss"]) if loss > 1.5][-1]
    assert abs(middle - 400) <= 4


@pytest.mark.parametrize("losses, at, first", [([nan, 2.0, inf, 4.0], [2, 4], 2.0), ([nan] * 300, [], None), ([-inf, 1e300], [2], 1e300)])
def test_a_loss_that_is_no_number_is_left_out_of_the_curve(losses, at, first, tmp_path):
    report = Report(tmp_path / "report")
    report.add_losses("unet", losses)
    row = Report.open(tmp_path).losses["unet"]
    assert row["steps"] == len(losses) and row["at"] == at and row["loss"][:1] == ([] if first is None else [first])
    assert not {"NaN", "Infinity"} & set((tmp_path / "report" / "report.json").read_text().replace("]", ",").replace("[", ",").split(","))
    assert "nan" not in report._curves()[1] and report.page()


# ----------------------------------------------------------------------------------- mistakes

def scenes_of(n, objects, seed=0):
    book, generator = Sketchbook(32), torch.Generator().manual_seed(seed)
    scenes = book.sample_scenes(n, generator, objects)
    scenes.mentioned = book.caption(scenes, generator)[1]
    return book, scenes


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("noise", [0, 0.04, 0.1, 1.5])
def test_nothing_is_said_of_a_picture_exactly_where_the_critic_calls_it_right(objects, noise):
    book, scenes = scenes_of(120, objects)
    other = scenes_of(120, objects, seed=1)[1]
    painted = torch.cat([book.paint(scenes)[:60], book.paint(other)[60:]])
    painted += noise * torch.randn(painted.shape, generator=torch.Generator().manual_seed(2))
    shares, said = judge_pictures(book, painted, scenes)
    right = Critic().judge(painted, scenes)["whole"].tolist()
    assert [not lines for lines in said] == right
    assert {k: v for k, v in shares.items() if v == v} == {k: v for k, v in Critic().score(painted, scenes).items() if v == v}
    assert sum(right) < 120 and (sum(right) >= 30 or noise > 0.05)


@pytest.mark.parametrize("name, word", [("kind", None), ("color", None), ("relation", None), ("background", "page")])
def test_a_mistake_is_put_in_words(name, word):
    _, scenes = scenes_of(1, 2)
    scenes.mentioned["background"][:] = True
    reading = scenes.clone()
    column = getattr(reading, name)
    if name == "relation": column[0] = 1 - column[0] if column[0] < 2 else 5 - column[0]
    elif name == "background": column[0] = (column[0] + 1) % 6
    else: column[0, 0] = (column[0, 0] + 1) % 6
    (lines,) = mistakes(reading, scenes)
    assert len(lines) >= 1 and all(", read as " in line for line in lines) and (word is None or word in lines[0])
    assert mistakes(scenes, scenes) == [[]]


def test_a_missing_object_and_mud_are_said_to_be_that():
    _, scenes = scenes_of(2, 2)
    reading = scenes.clone()
    reading.n_objects[0], reading.kind[0, 1] = 1, -1
    reading.n_objects[1], reading.kind[1] = 0, -1
    one, mud = mistakes(reading, scenes)
    assert one[0] == "1 object, not 2" and mud == ["nothing clear"]


def test_stickers_are_called_by_their_names():
    book, generator = StickerBook(64), torch.Generator().manual_seed(0)
    scenes = book.sample_scenes(4, generator, 1)
    captions, scenes.mentioned = book.caption(scenes, generator)
    shares, said = judge_pictures(book, book.paint(scenes.map(lambda t: t.roll(1, 0))), scenes)
    words = " ".join(line for lines in said for line in lines)
    painted = book.paint(scenes.map(lambda t: t.roll(1, 0)))
    score = book.critic().score(painted, scenes)
    assert "color" not in shares and {k: v for k, v in shares.items() if v == v} == {k: v for k, v in score.items() if v == v}
    assert shares["whole"] < 1 and not any(f"{kind}, read" in words for kind in KINDS)


@pytest.mark.parametrize("objects", [1, 2])
def test_in_a_mixed_book_shapes_and_stickers_are_called_by_their_own_names(objects):
    book, generator = MixedBook(64), torch.Generator().manual_seed(0)
    scenes = book.sample_scenes(24, generator, objects)
    captions, scenes.mentioned = book.caption(scenes, generator)
    painted = book.paint(scenes.map(lambda t: t.roll(1, 0)))
    shares, said = judge_pictures(book, painted, scenes)
    assert shares["whole"] < 0.5 and [not lines for lines in said] == book.critic().judge(painted, scenes)["whole"].tolist()
    names, asked = {*STICKERS, *KINDS}, 0
    for caption, lines in zip(captions, said):
        for line in lines:
            want = line.split(", read as ")[0]
            if want in names: assert want in caption, (caption, line)
            asked += want in names
    assert asked > 8


# --------------------------------------------------------------------------------- of a job

def test_a_run_leaves_a_report_of_less_than_a_megabyte(run):
    found, report = files(run / "report"), Report.open(run)
    assert sum(map(len, found.values())) < 1e6 and not [name for name in found if name.endswith(".tmp")]
    assert {"report.json", "report.html", "film.webp", "wrong_two_objects.webp"} <= found.keys()
    assert report.losses.keys() == {"vae", "text", "unet"} and report.losses["unet"]["steps"] == 16
    assert report.frames == [1, 2, 3, 4, 6, 8, 12, 16] and report.captions == list(PREVIEW)
    results = json.loads((run / "results.json").read_text())
    assert report.numbers == {k: v for k, v in results.items() if k != "preset"}
    assert report.misses["one_object"]["n"] == 2 and report.misses["one_object"]["wrong"] == 2 - round(2 * results["accuracy"]["one_object"]["whole"])
    with Image.open(run / "report" / "film.webp") as film: assert film.n_frames >= 2
    page = found["report.html"].decode()
    assert "http" not in page.replace("http-equiv", "") and page.count('src="data:image/') == 3 and page.count("alt=") == 3
    assert "wrong: two objects" in report.table() and "unet" in report.table()


def test_a_killed_run_keeps_what_it_has_and_a_resumed_one_ends_with_the_same(tmp_path, monkeypatch):
    class Killed(BaseException): pass
    preset = replace(QUICK, unet_training={**QUICK.unet_training, "steps": 32})  # saved every 3, painted every 2
    out, show = tmp_path / "run", Job.show_preview
    def dies(self, pipe, step):
        if step == 8: raise Killed
        show(self, pipe, step)
    monkeypatch.setattr(Job, "show_preview", dies)
    with pytest.raises(Killed): job(out, preset).run()
    monkeypatch.undo()
    kept = Report.open(out)
    assert kept.losses.keys() == {"vae", "text"} and kept.frames == [2, 4, 6] and kept.table() == "not finished"
    kept.page()
    job(out, preset, resume=True).run()
    job(tmp_path / "whole", preset).run()
    mine, whole = Report.open(out), Report.open(tmp_path / "whole")
    assert (mine.losses, mine.frames, mine.misses) == (whole.losses, whole.frames, whole.misses)
    assert mine.frames == [2, 4, 6, 8, 12, 16, 24, 32] and len(mine.losses["unet"]["at"]) == 32
    for a, b in zip(mine.stills(), whole.stills()): assert a.tobytes() == b.tobytes()


def test_frames_of_a_recipe_that_is_no_more_are_forgotten(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    for path in (out / "checkpoints").glob("unet.*"): path.unlink()
    job(out, replace(QUICK, unet_training={**QUICK.unet_training, "steps": 5}), resume=True).run()
    assert Report.open(out).frames == [1, 2, 3, 4, 5]


def test_frames_of_fewer_steps_are_forgotten_too(run, tmp_path):
    """The new training paints less often: none of the old pictures may lie between its own."""
    out = shutil.copytree(run, tmp_path / "run")
    before = Report.open(out).frames
    for path in (out / "checkpoints").glob("unet.*"): path.unlink()
    job(out, replace(QUICK, unet_training={**QUICK.unet_training, "steps": 40}), resume=True).run()
    after = Report.open(out).frames
    assert min(after) == 2 > min(before) and after[-1] == 40 and all(step % 2 == 0 for step in after)


def test_a_broken_report_is_one_line(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(LoadError, match="no report in"): Report.open(tmp_path)
    (out / "report" / "frames" / "000003.webp").unlink()
    with pytest.raises(LoadError, match="frame of step 3"): Report.open(out).film()
    for text in ("{", "{}", '{"losses": 3}'):
        (out / "report" / "report.json").write_text(text)
        with pytest.raises(LoadError, match="report.json"): Report.open(out)


@pytest.mark.parametrize("name, value", [
    ("losses", {"unet": 3}), ("losses", {"unet": {}}), ("frames", ["a"]), ("frames", [[1]]), ("frames", [True]), ("misses", {"x": 1}),
    ("misses", {"x": {"n": 1}}), ("numbers", {"a": 1}), ("numbers", []), ("captions", [1]), ("captions", "abc")])
def test_a_foreign_report_is_one_line(name, value, tmp_path):
    report = Report(tmp_path / "report")
    report.add_losses("unet", [1.0])
    text = json.loads((tmp_path / "report" / "report.json").read_text())
    (tmp_path / "report" / "report.json").write_text(json.dumps(text | {name: value}))
    with pytest.raises(LoadError, match=f"is no report of a run: {name} is"): Report.open(tmp_path)


ODD = ["costs $5 and $x_{", "$\\nosuch$", "<b>&\"'", "line\nbreak", "", "a" * 500, "\\frac{a", "\udcff"]
FINISHED = dict(accuracy=dict(one_object=dict(whole=0)), captions=16, seconds={}, parameters={})


def test_captions_are_never_read_as_formulas_or_html(tmp_path):
    pictures, report = torch.rand(8, 3, 32, 32) * 2 - 1, Report(tmp_path / "report")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that no place is left beside the captions
        caption_grid(ODD[:-1], pictures).savefig(tmp_path / "captions.png")
    report.add_frame(3, pictures, ODD)
    report.add_wrong("one_object", ODD[:-1], pictures, [["$\\nosuch$, read as $x_{"]] * 7)
    report.finish(FINISHED)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<li>&lt;b&gt;&amp;" in page and "<b>" not in page and Report.open(tmp_path).captions == ODD


def test_a_run_whose_frames_were_lost_still_finishes(tmp_path):
    pictures, report = torch.rand(8, 3, 32, 32) * 2 - 1, Report(tmp_path / "report")
    with pytest.raises(ConfigError, match="^step is a whole number"): report.add_frame(1.5, pictures, ["a circle"] * 8)
    for step in (1, 2, 3): report.add_frame(step, pictures, ["a circle"] * 8)
    report.add_wrong("one_object", ["a circle"] * 8, pictures, [["nothing clear"]] * 8)
    (tmp_path / "report" / "frames" / "000001.webp").unlink()
    (tmp_path / "report" / "frames" / "000003.webp").write_bytes(b"broken")
    with pytest.raises(LoadError, match="frame of step 1 cannot be read"): report.stills()
    report.finish(FINISHED)
    assert Report.open(tmp_path).frames == [2] and len(report.stills()) == 1
    (tmp_path / "report" / "wrong_one_object.webp").unlink()
    with pytest.raises(LoadError, match="wrong of one_object cannot be read"): report.page()


def test_a_report_that_is_no_text_is_replaced_by_a_new_run(tmp_path):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\0")
    with pytest.raises(LoadError, match="is no text"): Report.open(tmp_path)
    Report(tmp_path).add_losses("unet", [1.0])
    assert Report.open(tmp_path).losses["unet"]["steps"] == 1


def test_noise_of_64_pixels_still_fits(tmp_path):
    report, generator = Report(tmp_path / "report"), torch.Generator().manual_seed(0)
    noisy = torch.rand(8, 3, 64, 64, generator=generator) * 2 - 1
    captions = ["a very long caption " * 5] * 8
    for step in (100, 200, 300, 400, 600, 800, 1200, 1600, 1700): report.add_frame(step, noisy, captions)
    for name in ("vae", "text", "unet"): report.add_losses(name, torch.rand(20_000, generator=generator).tolist())
    for name in ("one_object", "two_objects"): report.add_wrong(name, captions, noisy, [["nothing clear"]] * 8)
    report.finish(dict(accuracy=dict(one_object=dict(whole=0)), captions=16, seconds={}, parameters={}))
    assert sum(map(len, files(tmp_path / "report").values())) < 1e6


# ------------------------------------------------------------------------- the cell for Colab

@pytest.mark.parametrize("name, ability, card, precision", [
    (None, None, "T4", "fp16"), ("Tesla T4", (7, 5), "T4", "fp16"), ("NVIDIA A10", (8, 6), "A10", "bf16"),
    ("NVIDIA A10G", (8, 6), "T4", "fp16"), ("NVIDIA A100-SXM4-40GB", (8, 0), "T4", "fp16"), ("NVIDIA H100 80GB HBM3", (9, 0), "H100 SXM", "bf16"), ("NVIDIA L4", (8, 9), "T4", "fp16")])
def test_the_cell_for_colab_finds_the_card(name, ability, card, precision, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: ability)
    notebook = json.loads((root / "nbs" / "16_latent_diffusion.ipynb").read_text(encoding="utf-8"))
    cell = next("".join(cell["source"]) for cell in notebook["cells"] if cell["id"] == "colab_t4")
    from minidiff.files import data_folder, read_json
    from minidiff.training import best_precision
    space = dict(torch=torch, data_folder=data_folder, read_json=read_json, best_precision=best_precision, Job=None)
    exec(cell, space)
    said = capsys.readouterr().out
    assert space["card"] == card and f"precision: {precision}" in said and "minidiff_train --preset gpu" in said
    assert ("follows is for a" in said) == (name is None or card.split()[0] not in name.split())
    rows = [row for row in read_json(data_folder("results", "budget.json"))["rows"] if row["card"] == card]
    assert f"estimated: {sum(row['minutes'] for row in rows):.0f} minutes" in said


def test_the_cell_for_colab_trains_where_a_new_kernel_finds_it_again(tmp_path, monkeypatch, capsys):
    """The page works in a folder of its own, which is another one after a restart; the long run does not."""
    notebook = json.loads((root / "nbs" / "16_latent_diffusion.ipynb").read_text(encoding="utf-8"))
    cells = {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"}
    import os
    import tempfile
    from minidiff.files import data_folder, read_json
    from minidiff.training import best_precision
    monkeypatch.chdir(tmp_path)
    asked = []
    class Recorder:
        def __init__(self, *given, **more): asked.append((given, more))
        def run(self): asked.append("run")
    space = dict(torch=torch, data_folder=data_folder, read_json=read_json, best_precision=best_precision, Job=Recorder, os=os, tempfile=tempfile, Path=Path)
    exec(cells["scratch"], space)
    exec(cells["colab_t4"].replace("train_here = False", "train_here = True"), space)
    assert asked == [(("gpu", tmp_path / "runs" / "gpu"), dict(resume=True)), "run"] and Path.cwd() != tmp_path
