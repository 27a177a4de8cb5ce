"""The cells of 14 that open the real Stable Diffusion: every line but the download, in half precision, on a tiny one."""
import ast
import re

import pytest
import torch

from minidiff import pipeline
from pages import NOTEBOOKS, code_of, text

BEFORE = "cell005 cell006c cell006d cell007 cell008 cell009 cell016 lp_decc sd_draw wk_slerp".split()
SECTION = ("real_name real_files real_half real_ledger real_peak real_places cell040 real_walk real_switch real_draw").split()


@pytest.fixture(scope="module")
def cells():
    return {cell["id"]: text(cell["source"]) for cell in NOTEBOOKS["14_stable_diffusion.ipynb"] if cell["cell_type"] == "code"}


def run(source, names):
    assert not re.search(r"^#\|\s*eval:\s*false", source, re.M), "the section is to be run, offline too"
    exec(compile(ast.parse(source), "14", "exec"), names)


@pytest.mark.parametrize("name", ["tiny", "real"])
def test_the_section_runs_but_for_the_download(cells, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = vars(pipeline) | {"folder": tmp_path, "__name__": "cells"}
    for cell in BEFORE: run(cells[cell], names)
    shown, asked = [], []
    names["show_images"] = lambda images, **_: shown.append(images)
    names["framed"] = lambda images: images
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: asked.append(1) or 0)
    for cell in SECTION:
        run(cells[cell], names)
        if cell == "real_name": names["NAME"] = name
        if cell == "real_places":
            wanted = names["places"]["real"]
            assert wanted == dict(name="stable-diffusion-v1-5/stable-diffusion-v1-5", variant="fp16", dtype=torch.float16, device="cuda")
            names["places"]["real"] = names["places"]["tiny"]
    assert {x.dtype for x in names["pipe"].unet.parameters()} == {torch.float16}
    assert [len(images) for images in shown] == [4, 5, 4] and all(images.isfinite().all() for images in shown)
    assert len(asked) == (name == "real")
