"""The painting command: what it writes, and one clear line for everything that can be wrong."""
import shutil
import subprocess

import diffusers
import pytest
import torch
from conftest import BIN, environment
from PIL import Image

from minidiff.latent_diffusion import open_run

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def sample(prompt, folder, out, *more):
    command = [str(BIN / "minidiff_sample"), prompt, "--from", str(folder), "--out", str(out), "--steps", "3", *map(str, more)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


@pytest.fixture
def copy(smoke_run, tmp_path):
    return shutil.copytree(smoke_run / "pipeline", tmp_path / "pipeline")


def test_writes_the_picture(smoke_run, tmp_path):
    done = sample("a red circle above a blue square", smoke_run, tmp_path / "picture.png", "--n", 2, "--enlarge", 4)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    picture = Image.open(tmp_path / "picture.png")
    assert picture.height >= 128 and picture.width >= 256


def test_same_seed_same_picture(smoke_run, tmp_path):
    names = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert sample("a red circle", smoke_run, tmp_path / f"{name}.png", "--seed", seed).returncode == 0
        names[name] = (tmp_path / f"{name}.png").read_bytes()
    assert names["a"] == names["b"] != names["c"]


@pytest.mark.parametrize("prompt, said", [
    ("a red zebra", "never seen 'zebra'"),
    ("", "the prompt is empty"),
    (" ".join(["a red circle above a blue square"] * 20), "cut the last"),
])
def test_odd_prompts_still_paint(smoke_run, tmp_path, prompt, said):
    done = sample(prompt, smoke_run, tmp_path / "picture.png")
    assert done.returncode == 0 and (tmp_path / "picture.png").is_file(), done.stderr
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def _missing(folder): shutil.rmtree(folder)
def _no_index(folder): (folder / "model_index.json").unlink()
def _truncated(folder): (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
def _short(folder): (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:20])
def _rubbish(folder): (folder / WEIGHTS).write_bytes(b"\x00" * 4096)
def _pickle(folder): torch.save({"a": torch.zeros(2)}, folder / WEIGHTS)
def _old_pickle(folder): torch.save({"a": torch.zeros(2)}, folder / WEIGHTS, _use_new_zipfile_serialization=False)
def _only_bin(folder): (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")
def _gone(folder): (folder / WEIGHTS).unlink()
def _bad_json(folder): (folder / "unet" / "config.json").write_text('{"in_channels": ')
def _unknown_key(folder): (folder / "unet" / "config.json").write_text('{"colour": "red"}')


@pytest.mark.parametrize("damage, said", [
    (_missing, "there is no folder"), (_no_index, "there is no file"), (_truncated, "broken or truncated"), (_short, "broken or truncated"), (_rubbish, "broken or truncated"),
    (_pickle, "pickle"), (_old_pickle, "pickle"), (_only_bin, "pickle"), (_gone, "there is no file"), (_bad_json, "is not JSON"), (_unknown_key, "no config key 'colour'"),
])
def test_broken_folders_say_so_in_one_line(copy, tmp_path, damage, said):
    damage(copy)
    done = sample("a red circle", copy, tmp_path / "picture.png")
    assert done.returncode == 1 and not (tmp_path / "picture.png").exists()
    assert said in done.stderr and "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_diffusers_opens_what_we_saved(smoke_run):
    ours = open_run(smoke_run)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(smoke_run / "pipeline", safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    prompts = ["a red circle above a blue square", "a small green star"]
    for scale in (1.0, 3.0, 7.5):
        mine = ours(prompts, latents=noise, num_inference_steps=9, guidance_scale=scale, output_type="pt")
        other = theirs(prompts, latents=noise, num_inference_steps=9, guidance_scale=scale, output_type="pt").images
        assert ((mine / 2 + 0.5).clamp(0, 1) - other).abs().max() < 1 / 255 + 1e-3
