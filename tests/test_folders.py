"""Folders and files: what opens, what is refused with a reason, and what a save that is interrupted leaves behind."""
import copy
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path, PureWindowsPath

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from conftest import environment
from torch import nn

from minidiff import hub
from minidiff.checks import ConfigError, LoadError
from minidiff.files import (atomic_write, load_safetensors, read_json,
                            save_safetensors, write_json)
from minidiff.hub import Config, Pretrained, find_folder, load_weights, register_config
from minidiff.pipeline import LatentDiffusionPipeline
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.text_encoder import CLIPTextModel
from minidiff.vae import AutoencoderKL

UNET = dict(sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
            attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
TEXT = dict(vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
SHIPPED = Path(hub.__file__).parent / "data" / "weights"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 335000000\n"
STEM = "diffusion_pytorch_model"


class Tiny(Pretrained, nn.Module):
    fixed_config = {"dropout": 0.0}

    @register_config
    def __init__(self, channels=(4, 6), layers=1, bias=True):
        super().__init__()
        self.stack = nn.ModuleList([nn.Linear(*channels, bias=bias) for _ in range(layers)])


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(**UNET)


@pytest.fixture(scope="module")
def shipped():
    return LatentDiffusionPipeline.from_pretrained(SHIPPED)


def same(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


# --- variants and shards ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("size", ["200KB", "1GB"])
def test_diffusers_opens_what_we_save_and_we_what_they_save(variant, size, unet, tmp_path):
    unet.save_pretrained(tmp_path / "ours", variant=variant, max_shard_size=size)
    real = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "ours", variant=variant)
    assert all(torch.equal(real.state_dict()[k], v) for k, v in unet.state_dict().items())
    real.save_pretrained(tmp_path / "real", variant=variant, max_shard_size=size)
    assert files(tmp_path / "real") == files(tmp_path / "ours") and (size == "1GB") == (len(files(tmp_path / "ours")) == 2)
    assert same(UNet2DConditionModel.from_pretrained(tmp_path / "real", variant=variant), unet)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_transformers_opens_what_we_save_and_we_what_they_save(variant, tmp_path):
    text = CLIPTextModel(**TEXT)
    text.save_pretrained(tmp_path / "ours", variant=variant, max_shard_size="50KB")
    real = transformers.CLIPTextModel.from_pretrained(tmp_path / "ours", variant=variant)
    real.save_pretrained(tmp_path / "real", variant=variant, max_shard_size="50KB")
    rest = "model.safetensors.index.fp16.json" if variant else "model.safetensors.index.json"
    assert rest in files(tmp_path / "ours") & files(tmp_path / "real")
    ids = torch.tensor([[1, 5, 7, 2]])
    with torch.no_grad():
        torch.testing.assert_close(real(ids).last_hidden_state, text(ids).last_hidden_state)
    assert same(CLIPTextModel.from_pretrained(tmp_path / "real", variant=variant), text)


def test_the_former_name_of_a_variants_index(unet, tmp_path):
    unet.save_pretrained(tmp_path, variant="fp16", max_shard_size="200KB")
    (tmp_path / f"{STEM}.safetensors.index.fp16.json").rename(tmp_path / f"{STEM}.fp16.safetensors.index.json")
    assert same(UNet2DConditionModel.from_pretrained(tmp_path, variant="fp16"), unet)


def test_a_save_leaves_nothing_stale(tmp_path):
    tiny, other = Tiny(layers=3), Tiny(layers=3)
    tiny.save_pretrained(tmp_path, max_shard_size=100)
    tiny.save_pretrained(tmp_path, variant="fp16")
    (tmp_path / "README.md").write_text("mine")
    assert len(files(tmp_path)) == 10 and same(Tiny.from_pretrained(tmp_path, variant="fp16"), tiny)
    other.save_pretrained(tmp_path, variant="fp16")  # beside the full ones
    assert same(Tiny.from_pretrained(tmp_path), tiny) and same(Tiny.from_pretrained(tmp_path, variant="fp16"), other)
    other.save_pretrained(tmp_path)  # in place of all
    assert files(tmp_path) == {"config.json", f"{STEM}.safetensors", "README.md"}
    with pytest.raises(LoadError, match="fp16"): Tiny.from_pretrained(tmp_path, variant="fp16")


def test_a_variant_that_is_not_named_is_offered(tmp_path):
    Tiny().save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(LoadError, match="only diffusion_pytorch_model.fp16.safetensors"): Tiny.from_pretrained(tmp_path)


@pytest.mark.parametrize("options", [dict(variant="../x"), dict(variant=3), dict(variant=""), dict(max_shard_size="5 lots"), dict(max_shard_size=0),
                                     dict(max_shard_size=None), dict(safe_serialization=False), dict(push_to_hub=True)])
def test_options_of_saving_that_are_refused(options, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(options))): Tiny().save_pretrained(tmp_path / "t", **options)
    assert not (tmp_path / "t").exists()


# --- saves that are interrupted -----------------------------------------------------------------------------------
def opens_as_one(load, *wholes):
    try: found = load()
    except LoadError: return True
    return any(found == whole for whole in wholes)


def weights_of(pipe):
    return [t.sum().item() for net in (pipe.vae, pipe.text_encoder, pipe.unet) for t in net.state_dict().values()]


@pytest.mark.parametrize("call", ["replace", "unlink"])
def test_a_pipeline_that_dies_anywhere_in_saving_is_never_a_mixture(call, shipped, tmp_path, monkeypatch):
    folder, old = tmp_path / "p", weights_of(shipped)
    shipped.save_pretrained(folder, max_shard_size="4MB")
    shutil.copytree(folder, tmp_path / "old")
    other = LatentDiffusionPipeline.from_pretrained(folder)
    with torch.no_grad():
        for net in (other.vae, other.text_encoder, other.unet):
            for p in net.parameters(): p.add_(1.0)
    where, real, died = (os, os.replace, 0) if call == "replace" else (Path, Path.unlink, 0)
    for last in (0, 3, 7, 12, 13, 14, 15, 16, 18, 20, 22, 24):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "old", folder)
        count = iter(range(1000))
        def dies(*args, **kwargs):
            if next(count) == last: raise KeyboardInterrupt
            return real(*args, **kwargs)
        with monkeypatch.context() as m:
            m.setattr(where, call, dies)
            try: other.save_pretrained(folder)
            except KeyboardInterrupt: died += 1
        assert opens_as_one(lambda: weights_of(LatentDiffusionPipeline.from_pretrained(folder)), old, weights_of(other)), last
        assert not list(folder.glob(".*"))
    assert died >= 8


@pytest.mark.parametrize("last", range(5))
def test_a_model_that_dies_in_saving_is_never_a_mixture(last, tmp_path, monkeypatch):
    old, new, real, count = Tiny(), Tiny(), os.replace, iter(range(9))
    old.save_pretrained(tmp_path)
    def dies(*args):
        if next(count) == last: raise KeyboardInterrupt
        return real(*args)
    with monkeypatch.context() as m:
        m.setattr(os, "replace", dies)
        try: new.save_pretrained(tmp_path)
        except KeyboardInterrupt: pass
    weights = lambda model: [t.sum().item() for t in model.state_dict().values()]
    assert opens_as_one(lambda: weights(Tiny.from_pretrained(tmp_path)), weights(old), weights(new))


FULL = """
import resource, sys
from pathlib import Path
import torch
from minidiff.files import save_safetensors, write_json
from minidiff.hub import Pretrained, register_config
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
class Tiny(Pretrained, torch.nn.Module):
    @register_config
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(100, 100)
for name, write in (("w.safetensors", lambda p: save_safetensors({"a": torch.zeros(20000)}, p)), ("c.json", lambda p: write_json({"a": "x" * 9000}, p)),
                    ("tiny", lambda p: Tiny().save_pretrained(p))):
    try: write(folder/name)
    except OSError as error: print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path):
    save_safetensors({"a": torch.ones(3)}, tmp_path / "w.safetensors")
    write_json({"a": 1}, tmp_path / "c.json")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, env=environment(), timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 3, done.stdout + done.stderr
    for line, name in zip(lines, ("w.safetensors", "c.json", f"tiny/{STEM}.safetensors")):
        assert "large" in line and str(tmp_path / name) in line and ".tmp" not in line
    assert files(tmp_path) == {"w.safetensors", "c.json"}
    assert load_safetensors(tmp_path / "w.safetensors")["a"].sum() == 3 and read_json(tmp_path / "c.json") == {"a": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a umask")
@pytest.mark.parametrize("mask,mode", [(0o022, 0o644), (0o027, 0o640)])
def test_files_follow_the_umask(mask, mode, tmp_path):
    before = os.umask(mask)
    try: Tiny().save_pretrained(tmp_path / "t")
    finally: os.umask(before)
    assert {stat.S_IMODE((tmp_path / "t" / name).stat().st_mode) for name in files(tmp_path / "t")} == {mode}


def test_what_a_killed_save_left_is_cleared_away(tmp_path):
    for name, age in (("old", 7200), ("new", 0)):
        (tmp_path / f".saving-{name}").mkdir()
        os.utime(tmp_path / f".saving-{name}", (time.time() - age,) * 2)
    Tiny().save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob(".*")] == [".saving-new"]  # which may be at work


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(OSError, match="file") as error: Tiny().save_pretrained(place)
        assert ".saving" not in str(error.value)


def test_an_error_in_the_way_of_a_write_names_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"): atomic_write(tmp_path / "file" / "x", lambda p: p.write_text(""))
    (tmp_path / "dir").mkdir()
    with pytest.raises(OSError) as error: atomic_write(tmp_path / "dir", lambda p: p.write_text(""))
    assert ".tmp" not in str(error.value) and files(tmp_path) == {"file"}


# --- files of weights ---------------------------------------------------------------------------------------------
def test_views_that_overlap_are_saved_each_whole(tmp_path):
    x = torch.arange(12.)
    views = dict(all=x, tail=x[1:], square=x.view(3, 4), column=x.view(3, 4)[:, 1], again=x)
    save_safetensors(views, tmp_path / "v.safetensors")
    back = load_safetensors(tmp_path / "v.safetensors")
    assert all(torch.equal(back[k], v) for k, v in views.items())


@pytest.mark.parametrize("tensors", [{}, {1: torch.ones(2)}, {"a": 3}, {"a": None}, {"__metadata__": torch.ones(2)}, [torch.ones(2)], None,
                                     {"a": torch.ones(2, device="meta")}, {"a": torch.eye(3).to_sparse()}])
def test_what_cannot_be_saved_is_said(tensors, tmp_path):
    with pytest.raises(ValueError, match="tensors"): save_safetensors(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="metadata"): save_safetensors({"a": torch.ones(2)}, tmp_path / "x.safetensors", {"a": 3})
    with pytest.raises(ValueError, match="x.json"): write_json({"a": object()}, tmp_path / "x.json")
    assert not files(tmp_path)


@pytest.mark.parametrize("spoil", [lambda w: w.fill_(float("nan")), lambda w: w.view(-1)[3:4].fill_(float("-inf")), lambda w: w.int(),
                                   lambda w: w > 0, lambda w: w.to(torch.float8_e4m3fn), lambda w: w.to(torch.complex64)])
def test_weights_that_cannot_compute_are_refused_by_name(spoil, tmp_path):
    Tiny().save_pretrained(tmp_path)
    weights = load_weights(tmp_path, Tiny.weights_name)
    weights["stack.0.weight"] = spoil(weights["stack.0.weight"].clone())
    save_safetensors(weights, tmp_path / Tiny.weights_name)  # they may be saved
    with pytest.raises(LoadError, match="stack.0.weight"): Tiny.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_any_real_numbers_are_loaded_in_any_precision(dtype, tmp_path):
    tiny = Tiny().to(getattr(torch, dtype))
    tiny.save_pretrained(tmp_path)
    assert Tiny.from_pretrained(tmp_path).stack[0].weight.dtype == torch.float32
    back = Tiny.from_pretrained(tmp_path, torch_dtype=dtype, use_safetensors=True)
    assert same(back, tiny) and back.stack[0].weight.dtype == getattr(torch, dtype)


def test_large_but_finite_weights_are_loaded(tmp_path):
    tiny = Tiny()
    with torch.no_grad(): tiny.stack[0].weight.fill_(3e38)
    tiny.save_pretrained(tmp_path)
    assert same(Tiny.from_pretrained(tmp_path), tiny)


@pytest.mark.parametrize("options", [dict(dtype=torch.int8), dict(dtype="half a float"), dict(torch_dtype=3), dict(device="tpu"), dict(device=3.5),
                                     dict(use_safetensors=False)])
def test_places_that_there_are_not(options, tmp_path):
    Tiny().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=next(iter(options)).removeprefix("torch_")): Tiny.from_pretrained(tmp_path, **options)


class Child(Tiny):
    @register_config
    def __init__(self, width=4):
        super().__init__((width, 6), layers=2)


def test_a_subclass_notes_its_own_arguments(tmp_path):
    model = Child(5)
    model.save_pretrained(tmp_path)
    assert model.config == {"width": 5} and same(Child.from_pretrained(tmp_path), model)


def test_opening_draws_no_more_random_numbers_than_building(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    torch.manual_seed(3)
    UNet2DConditionModel(**UNET)
    expected = torch.rand(3)
    torch.manual_seed(3)
    UNet2DConditionModel.from_pretrained(tmp_path)
    assert torch.equal(torch.rand(3), expected)


# --- paths and indices ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/out.safetensors", "sub/out.safetensors", "..\\out.safetensors", "C:out.safetensors",
                                  "..", "", "out.bin", "out.safetensors/", "gone.safetensors", "a\0.safetensors"])
def test_an_index_cannot_lead_elsewhere(name, tmp_path):
    folder = tmp_path / "sub"
    Tiny(layers=3).save_pretrained(folder, max_shard_size=100)
    file = folder / f"{STEM}.safetensors.index.json"
    index = read_json(file)
    shards = sorted(set(index["weight_map"].values()))
    for place in (tmp_path, folder / "sub", folder): (place.mkdir(exist_ok=True), shutil.copy(folder / shards[0], place / "out.safetensors"))
    index["weight_map"] = {k: name if v == shards[0] else v for k, v in index["weight_map"].items()}
    write_json(index, file)
    with pytest.raises(LoadError, match="safetensors"): Tiny.from_pretrained(folder)


@pytest.mark.parametrize("content", ['{}', '{"weight_map": null}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": null}}',
                                     '{"weight_map": {"a": {}}}', '[]', 'null', '3', '{"weight_map"', '', '{"weight_map": {}}',
                                     '{"weight_map": {"x": "part.safetensors"}}', LFS])
def test_a_malformed_index_of_shards(content, tmp_path):
    Tiny(layers=3).save_pretrained(tmp_path, max_shard_size=100)
    save_safetensors({"y": torch.ones(2)}, tmp_path / "part.safetensors")
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(content)
    with pytest.raises(LoadError, match=str(tmp_path)): Tiny.from_pretrained(tmp_path)


def test_a_weight_in_two_shards_is_no_matter_of_chance(tmp_path):
    Tiny(layers=3).save_pretrained(tmp_path, max_shard_size=100)
    shards = sorted(tmp_path.glob("*.safetensors"))
    save_safetensors(load_safetensors(shards[0]) | load_safetensors(shards[1]), shards[1])
    with pytest.raises(LoadError, match="two files"): Tiny.from_pretrained(tmp_path)


INDICES = [{"vae": 5}, {"vae": None}, {"vae": [None, None]}, {"vae": []}, {"vae": ["diffusers"]}, {"vae": ["diffusers", 5]}, {"vae": ["a", "b", "c"]},
           {"vae": {"a": "b"}}, {"vae": "AutoencoderKL"}, {"vae": [["diffusers"], ["AutoencoderKL"]]}, {"scheduler": 5}, {"scheduler": [None, None]},
           {"scheduler": ["diffusers", ["DDIMScheduler"]]}, {"unet": ["diffusers", "UNet2DModel"]}, {"text_encoder": ["transformers", "T5EncoderModel"]},
           {"text_encoder_2": ["transformers", "CLIPTextModel"]}, {"controlnet": ["diffusers", "ControlNetModel"]}, {"text_encoder_2": 5}]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "p"
    shutil.copytree(SHIPPED, folder)
    return folder


@pytest.mark.parametrize("changes", INDICES, ids=str)
def test_an_odd_model_index_is_refused_by_name(changes, copied):
    index = read_json(SHIPPED / "model_index.json")
    write_json({**index, **changes}, copied / "model_index.json")
    try:
        with pytest.raises(LoadError, match=str(copied)) as error: LatentDiffusionPipeline.from_pretrained(copied)
    finally: write_json(index, copied / "model_index.json")
    assert next(iter(changes)).removesuffix("_2").replace("_", " ") in str(error.value).replace("_", " ")


def test_odd_entries_that_ask_for_nothing_are_harmless(copied):
    index = read_json(SHIPPED / "model_index.json")
    write_json({**index, "_name_or_path": "x", "text_encoder_2": [None, None], "controlnet": None, "force_zeros": False, "note": "hello", "tags": [],
                "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}, copied / "model_index.json")
    try: assert LatentDiffusionPipeline.from_pretrained(copied).unet
    finally: write_json(index, copied / "model_index.json")


@pytest.mark.parametrize("name", sorted(n for n in dir(diffusers) if n.endswith("Scheduler")))
def test_every_scheduler_of_diffusers_opens_or_is_refused_with_a_way_out(name, copied):
    from minidiff.pipeline import SCHEDULERS, _check_index
    index = {**read_json(SHIPPED / "model_index.json"), "scheduler": ["diffusers", name]}
    if name in SCHEDULERS:
        assert _check_index(index, copied) is SCHEDULERS[name]
        return
    with pytest.raises(LoadError, match=f"no scheduler {name}.*scheduler= takes one of ours"): _check_index(index, copied)
    if name == "UniPCMultistepScheduler":
        with pytest.raises(LoadError, match="DPMSolverMultistepScheduler comes closest"): _check_index(index, copied)


@pytest.mark.parametrize("file", ["model_index.json", "vae/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json",
                                  f"unet/{STEM}.safetensors"])
@pytest.mark.parametrize("content", [LFS.encode(), b"\xff\xfe\x00\x01", b"", None, b"[" * 100_000, b'{"a": 1, "a": 2}'])
def test_a_damaged_file_is_named(file, content, copied):
    if file.endswith("merges.txt") and content != LFS.encode(): return
    whole = (copied / file).read_bytes()
    (copied / file).unlink() if content is None else (copied / file).write_bytes(content)
    try:
        with pytest.raises((LoadError, ConfigError)) as error: LatentDiffusionPipeline.from_pretrained(copied)
    finally: (copied / file).write_bytes(whole)
    assert file.split("/")[0] in str(error.value) and "\n" not in str(error.value)
    if content == LFS.encode(): assert "git-lfs" in str(error.value)


def test_a_byte_order_mark_is_no_damage(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + b'{"a": [1, null]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}


# --- configs ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [None, False, "", [], {}, ()])
def test_an_unknown_key_that_asks_for_nothing_is_harmless(value, tmp_path):
    Tiny().save_pretrained(tmp_path)
    write_json({**read_json(tmp_path / "config.json"), "novelty": value}, tmp_path / "config.json")
    assert "novelty" not in Tiny.from_pretrained(tmp_path).config
    with pytest.raises(ConfigError, match="novelty"): Tiny(novelty=value)


@pytest.mark.parametrize("value", [0, 1, True, "x", [0], {"a": None}])
def test_an_unknown_key_that_asks_for_something_is_refused(value, tmp_path):
    Tiny().save_pretrained(tmp_path)
    write_json({**read_json(tmp_path / "config.json"), "novelty": value}, tmp_path / "config.json")
    with pytest.raises(ConfigError, match="config.json.*novelty"): Tiny.from_pretrained(tmp_path)


BAD = [dict(channels=16), dict(channels="wide"), dict(channels=None), dict(channels=[4]), dict(channels=[4, -6]), dict(channels=[4, "6"]),
       dict(channels=[10**9, 10**9]), dict(channels=[10**5, 10**5]), dict(channels=[10**30, 3]), dict(layers=10**6), dict(layers="many"), dict(layers=[1]), dict(layers=2),
       dict(layers=float("nan")), dict(bias=False)]


@pytest.mark.parametrize("changes", BAD, ids=str)
def test_a_wrong_config_is_found_out_before_it_takes_time_and_memory(changes, tmp_path):
    Tiny().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**read_json(tmp_path / "config.json"), **changes}))
    start = time.perf_counter()
    with pytest.raises((ConfigError, LoadError), match=str(tmp_path)): Tiny.from_pretrained(tmp_path)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("part,kind,changes", [
    ("unet", UNet2DConditionModel, dict(block_out_channels=16)), ("unet", UNet2DConditionModel, dict(layers_per_block=1_000_000)),
    ("unet", UNet2DConditionModel, dict(norm_num_groups=0)), ("unet", UNet2DConditionModel, dict(in_channels="four")),
    ("vae", AutoencoderKL, dict(layers_per_block=1_000_000)), ("vae", AutoencoderKL, dict(norm_num_groups=0)),
    ("vae", AutoencoderKL, dict(block_out_channels=16)), ("text_encoder", CLIPTextModel, dict(num_hidden_layers=1_000_000)),
    ("text_encoder", CLIPTextModel, dict(hidden_size=10**8)), ("text_encoder", CLIPTextModel, dict(num_attention_heads=0))], ids=str)
def test_wrong_values_in_the_configs_of_real_models(part, kind, changes, copied):
    file = copied / part / "config.json"
    whole = file.read_text()
    file.write_text(json.dumps({**json.loads(whole), **changes}))
    start = time.perf_counter()
    try:
        with pytest.raises((ConfigError, LoadError), match=part): kind.from_pretrained(copied, part)
    finally: file.write_text(whole)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("config", [5, None, 3.5, ["a"], torch.ones(2)])
def test_a_config_that_is_none(config):
    with pytest.raises(ConfigError, match="config: expected"): Tiny.from_config(config)


def change(config):
    yield lambda: setattr(config, "layers", 5)
    yield lambda: config.__setitem__("layers", 5)
    yield lambda: config.__delitem__("layers")
    yield lambda: delattr(config, "layers")
    yield lambda: config.update(layers=5)
    yield lambda: config.setdefault("more", 5)
    yield lambda: config.__ior__({"layers": 5})
    yield from (config.popitem, config.clear, partial(config.pop, "layers"))


def test_a_config_cannot_be_changed():
    config = Tiny().config
    before = dict(config)
    for attempt in change(config):
        with pytest.raises(ConfigError, match="cannot be changed"): attempt()
    assert config == before and (config | {"layers": 5})["layers"] == 5


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_config_can_be_copied(again):
    config = Config(a=[1, [2, 3]], b={"c": [4]}, _note={"a": 1})
    other = again(config)
    assert other == config == {"a": (1, (2, 3)), "b": {"c": (4,)}} and type(other) is Config and other["_note"] == {"a": 1}
    assert other != {"a": (1, (2, 3))} and other.shown().keys() == {"a", "b"}
    with pytest.raises(ConfigError): other.a = 3
    model = again(Tiny(layers=2))
    assert model.config.layers == 2


def test_a_config_holds_what_json_can():
    config = Config(a=np.linspace(0, 1, 3), b=torch.tensor([1, 2]), c=np.float32(0.5), d=np.int64(3))
    assert json.loads(json.dumps(config)) == dict(a=[0.0, 0.5, 1.0], b=[1, 2], c=0.5, d=3) and config.a == (0.0, 0.5, 1.0)


# --- where a folder is ----------------------------------------------------------------------------------------------
def test_links_and_homes(tmp_path, monkeypatch):
    Tiny().save_pretrained(tmp_path / "home" / "tiny")
    (tmp_path / "link").symlink_to(tmp_path / "home" / "tiny")
    (tmp_path / "files").mkdir()
    for name in files(tmp_path / "home" / "tiny"): (tmp_path / "files" / name).symlink_to(tmp_path / "home" / "tiny" / name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    opened = [Tiny.from_pretrained(name) for name in (tmp_path / "link", str(tmp_path / "files"), "~/tiny", Path("~/tiny"))]
    assert all(same(tiny, opened[0]) for tiny in opened)


@pytest.mark.parametrize("name", [None, 5, "", " ", b"a/b", ["a/b"], "hub:", "hub:a", "hub:a/b/c", "hub:../b", "./a", "/no/where", "a", "runs/cpu", "a\0b",
                                  "~nobody/else/x", "x" * 5000])
def test_names_that_are_neither_a_folder_nor_an_id(name, monkeypatch):
    monkeypatch.setattr(hub, "_download", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(LoadError): find_folder(name)


def test_who_may_ask_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "_download", lambda repository, *_: asked.append(repository))
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "hub:owner/name", Path("owner/name"), PureWindowsPath("owner/name")): find_folder(name)
    find_folder("hub:owner/name", hub=False)
    assert asked == ["owner/name"] * 5
    for opener in (find_folder, Tiny.from_pretrained, LatentDiffusionPipeline.from_pretrained):
        with pytest.raises(LoadError, match="no folder owner/name; hub:owner/name would fetch"): opener("owner/name", hub=False)
    (tmp_path / "owner/name").mkdir(parents=True)
    assert find_folder("owner/name") == Path("owner/name") and len(asked) == 5


SD = """model_index.json README.md v1-5-pruned.safetensors v1-5-pruned.ckpt scheduler/scheduler_config.json tokenizer/merges.txt tokenizer/vocab.json
    tokenizer/tokenizer_config.json tokenizer/special_tokens_map.json feature_extractor/preprocessor_config.json safety_checker/config.json
    safety_checker/model.safetensors safety_checker/model.fp16.safetensors safety_checker/pytorch_model.bin""".split()
SD += [f"{part}/{file}" for part, stem in (("vae", STEM), ("unet", STEM), ("text_encoder", "model"))
       for file in ("config.json", f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{stem}.bin", f"{stem}.fp16.bin")]
SD += [f"unet/{STEM}.non_ema.safetensors", "unet/config.old.json", "unet/extra/config.json"]
ALWAYS = {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "tokenizer/vocab.json", "tokenizer/tokenizer_config.json",
          "tokenizer/special_tokens_map.json", "vae/config.json", "unet/config.json", "text_encoder/config.json"}


@pytest.fixture
def repository(monkeypatch):
    "A pretended repository on the Hub: the files it has, the files that were fetched, and the folder they come from."
    class Repository:
        names, fetched, folder = list(SD), set(), SHIPPED

    def fetch(repository, revision=None, allow_patterns=None, **_):
        from huggingface_hub.utils import filter_repo_objects
        Repository.fetched = Repository.fetched | set(filter_repo_objects(Repository.names, allow_patterns=allow_patterns))
        return str(Repository.folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, *_, **__: Repository.names)
    return Repository


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_pipeline_fetches_its_files_and_no_other(variant, repository, tmp_path):
    own = f".{variant}" if variant else ""
    LatentDiffusionPipeline.from_pretrained("hub:owner/name").save_pretrained(tmp_path, variant=variant)
    repository.fetched, repository.folder = set(), tmp_path
    LatentDiffusionPipeline.from_pretrained("owner/name", variant=variant)
    weights = {f"vae/{STEM}{own}.safetensors", f"unet/{STEM}{own}.safetensors", f"text_encoder/model{own}.safetensors"}
    assert repository.fetched == ALWAYS | weights
    repository.fetched = set()
    UNet2DConditionModel.from_pretrained("owner/name", "unet", variant=variant)
    assert repository.fetched == {"unet/config.json", f"unet/{STEM}{own}.safetensors"}


def test_shards_and_a_part_without_the_variant(repository, shipped, tmp_path):
    shipped.save_pretrained(tmp_path, variant="fp16", max_shard_size="4MB")
    (tmp_path / f"vae/{STEM}.fp16.safetensors").rename(tmp_path / f"vae/{STEM}.safetensors")
    repository.names, repository.folder = sorted(files(tmp_path) - {"README.md"}) + [f"unet/{STEM}.safetensors", "text_encoder/model.safetensors"], tmp_path
    with pytest.warns(UserWarning, match="no fp16 weights of the vae"):
        opened = LatentDiffusionPipeline.from_pretrained("hub:owner/name", variant="fp16")
    assert repository.fetched == files(tmp_path) - {"README.md"} and any("-of-" in name for name in repository.fetched)
    assert weights_of(opened) == weights_of(shipped)
    with pytest.raises(LoadError, match="bf16"): LatentDiffusionPipeline.from_pretrained("hub:owner/name", variant="bf16")


def test_parts_that_are_given_are_not_fetched(repository, shipped):
    LatentDiffusionPipeline.from_pretrained("owner/name", unet=shipped.unet, tokenizer=shipped.tokenizer, scheduler=shipped.scheduler)
    assert not [name for name in repository.fetched if name.startswith(("unet/", "tokenizer/", "scheduler/"))]


def test_a_strange_repository_is_refused_after_its_index(repository, tmp_path):
    repository.folder = tmp_path
    write_json({**read_json(SHIPPED / "model_index.json"), "text_encoder_2": ["transformers", "CLIPTextModel"]}, tmp_path / "model_index.json")
    with pytest.raises(LoadError, match="the text_encoder_2 is a CLIPTextModel"): LatentDiffusionPipeline.from_pretrained("owner/name")
    assert repository.fetched == {"model_index.json"}


def test_a_repository_of_pickles_is_refused_before_they_come(repository):
    repository.names = ["config.json", f"{STEM}.bin"]
    with pytest.raises(LoadError, match="pickle"): UNet2DConditionModel.from_pretrained("owner/name")
    assert not repository.fetched


def no_network(*_, **__):
    raise ConnectionError("there is\nno network")


def test_without_a_network_what_was_fetched_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", no_network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--owner--name"
    shutil.copytree(SHIPPED, kept / "snapshots" / ("ab" * 20))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("ab" * 20)
    assert LatentDiffusionPipeline.from_pretrained("owner/name").unet
    with pytest.raises(LoadError, match="no folder owner/other.*ConnectionError: there is no network"): find_folder("owner/other")
