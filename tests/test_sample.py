"""The painting command: what it writes, and one clear line for everything that can be wrong."""
import json
import random
import shutil
import subprocess

import diffusers
import pytest
import torch
from conftest import BIN, environment
from PIL import Image

from minidiff.files import load_safetensors, save_safetensors
from minidiff.cli import sample_command
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
    ("a red zebra", "vocabulary: 'zebra'"),
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
def shorten(folder): (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:20])
def _rubbish(folder): (folder / WEIGHTS).write_bytes(b"\x00" * 4096)
def _pickle(folder): torch.save({"a": torch.zeros(2)}, folder / WEIGHTS)
def _old_pickle(folder): torch.save({"a": torch.zeros(2)}, folder / WEIGHTS, _use_new_zipfile_serialization=False)
def _only_bin(folder): (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")
def _gone(folder): (folder / WEIGHTS).unlink()
def _bad_json(folder): (folder / "unet" / "config.json").write_text('{"in_channels": ')
def _unknown_key(folder): (folder / "unet" / "config.json").write_text('{"colour": "red"}')


@pytest.mark.parametrize("damage, said", [
    (_missing, "there is no folder"), (_no_index, "there is no file"), (_truncated, "broken or truncated"), (shorten, "broken or truncated"), (_rubbish, "broken or truncated"),
    (_pickle, "pickle"), (_old_pickle, "pickle"), (_only_bin, "pickle"), (_gone, "there is no file"), (_bad_json, "is not JSON"), (_unknown_key, "no config key 'colour'"),
])
def test_broken_folders_say_so_in_one_line(copy, tmp_path, damage, said):
    damage(copy)
    done = sample("a red circle", copy, tmp_path / "picture.png")
    assert done.returncode == 1 and not (tmp_path / "picture.png").exists()
    assert said in done.stderr and "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def refused(capsys, folder, out):
    """The one line in which a folder is refused, in this process: it is quicker."""
    code = sample_command(["a red circle", "--from", str(folder), "--out", str(out), "--steps", "2"])
    printed = capsys.readouterr()
    assert code == 1 and not out.exists(), f"exit code {code}: {printed}"
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    return printed.err


FILES = ["model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json", WEIGHTS, "vae/config.json",
         "vae/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_gone_empty_a_folder_or_rubbish(capsys, copy, tmp_path, file):
    path, whole = copy / file, (copy / file).read_bytes()
    refused_as = {}
    for name, spoil in dict(gone=lambda: None, folder=path.mkdir, empty=lambda: path.write_bytes(b""), zeros=lambda: path.write_bytes(bytes(4096)), half=lambda: path.write_bytes(whole[:len(whole) // 2]),
                            latin=lambda: path.write_bytes(b"\xff\xfe" + whole)).items():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        spoil()
        if path.name == "merges.txt" and name in ("empty", "half", "zeros"): continue  # a tokenizer that merges less is still one
        refused_as[name] = refused(capsys, copy, tmp_path / "picture.png")
    assert all(path.parent.name in said or path.name in said for said in refused_as.values()), refused_as


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith(".json")])
@pytest.mark.parametrize("content", ["[]", "5", "null", '"text"', "[" * 100_000, '{"a": '])
def test_json_of_the_wrong_kind(capsys, copy, tmp_path, file, content):
    (copy / file).write_text(content)
    refused(capsys, copy, tmp_path / "picture.png")


WRONG = {
    "model_index.json": dict(vae=[5, [], ["diffusers"], None, ["diffusers", 5]], unet=[None, "UNet2DConditionModel", ["diffusers", "Other"]], scheduler=[5, None, [], ["diffusers", "Other"], {}], tokenizer=[3, ["a", ["b"]]]),
    "unet/config.json": dict(block_out_channels=[16, "16", [], [16], [16, 0], [16, -32], None, [16.5, 32]], layers_per_block=[0, -1, "two", 2, None], norm_num_groups=[0, 3, -8, "8"], in_channels=[0, -4, 3, "four"], out_channels=[0, 3],
                             cross_attention_dim=[0, -1, "x", 33], attention_head_dim=[0, -4, 5, "x"], down_block_types=[[], ["Other", "Other"], 5, ["DownBlock2D"]], act_fn=["other", 5], colour=["red"], sample_size=[-8, "8", 0, 1e9]),
    "vae/config.json": dict(block_out_channels=[16, [], [8], None], latent_channels=[0, -1, 5, "4"], scaling_factor=[0, float("nan"), float("inf"), "x", None], norm_num_groups=[0, 3], layers_per_block=[-1, 7, "x"], in_channels=[0, 1], colour=["red"]),
    "text_encoder/config.json": dict(hidden_size=[0, -1, 33, "x"], num_attention_heads=[0, 3, -1, "x"], num_hidden_layers=[-1, 0, 9, "x"], vocab_size=[0, 1, -5, "x"], max_position_embeddings=[0, 1, -5], intermediate_size=[0, 5], hidden_act=["other", 5]),
    "scheduler/scheduler_config.json": dict(num_train_timesteps=[0, -1, "x", 2.5, None], beta_schedule=["other", 5, None], beta_start=[-1, None, float("nan")], beta_end=[2, float("nan")], trained_betas=[[], "x", [2.0], 5], prediction_type=["other", 5, None]),
}


@pytest.mark.parametrize("file, key", [(file, key) for file in WRONG for key in WRONG[file]])
def test_configs_that_make_no_sense(capsys, copy, tmp_path, file, key):
    whole, painted = json.loads((copy / file).read_text()), []
    for value in WRONG[file][key]:
        (copy / file).write_text(json.dumps({**whole, key: value}))
        try: refused(capsys, copy, tmp_path / "picture.png")
        except AssertionError as error: painted.append((value, str(error)))
        (tmp_path / "picture.png").unlink(missing_ok=True)
    assert not painted, painted


@pytest.mark.parametrize("key, value", [("layers_per_block", 1_000_000), ("block_out_channels", [16, 10**9]), ("cross_attention_dim", 10**12)])
def test_configs_of_a_foolish_size_are_refused_at_once(copy, tmp_path, key, value):
    config = json.loads((copy / "unet/config.json").read_text())
    (copy / "unet/config.json").write_text(json.dumps({**config, key: value}))
    done = sample("a red circle", copy, tmp_path / "picture.png")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("file", [WEIGHTS, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
@pytest.mark.parametrize("value", ["nan", "inf", "int8", "bool"])
def test_weights_that_cannot_paint(capsys, copy, tmp_path, file, value):
    tensors = load_safetensors(copy / file)
    name = max((k for k in tensors if tensors[k].is_floating_point()), key=lambda k: tensors[k].numel())
    if value in ("nan", "inf"): tensors[name] = torch.full_like(tensors[name], float(value))
    else: tensors = {k: t.to(getattr(torch, value)) for k, t in tensors.items()}
    save_safetensors(tensors, copy / file)
    refused(capsys, copy, tmp_path / "picture.png")


def test_flipped_bits_paint_or_are_one_line(capsys, copy, tmp_path):
    """Whatever a flipped bit does, it is no traceback."""
    chance = random.Random(0)
    for _ in range(30):
        path = copy / chance.choice(FILES)
        whole = path.read_bytes()
        at = chance.randrange(min(len(whole), 2000))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1:])
        code = sample_command(["a red circle", "--from", str(copy), "--out", str(tmp_path / "x.png"), "--steps", "1"])
        said = capsys.readouterr().err
        assert code in (0, 1) and "Traceback" not in said and sum(line.startswith("error: ") for line in said.splitlines()) == code, (path, at, said)
        path.write_bytes(whole)


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
