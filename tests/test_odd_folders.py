"""Folders as one meets them: each opens rightly, or one line names what is wrong with it."""
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import test_xl
from minidiff.checks import ConfigError, LoadError
from minidiff.files import read_json, write_json
from minidiff.lora import LORA_FILE
from minidiff.pipeline import LatentDiffusionPipeline
from minidiff.pipeline_files import is_replaced
from test_pipeline import PROMPT, noise, real_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name, make in (("sd", real_pipeline), ("xl", test_xl.real_pipeline)):
        (folder / f"{name} parts").mkdir()
        make(folder / f"{name} parts").save_pretrained(folder / name)
    return folder


@pytest.fixture
def sd(folders, tmp_path): return shutil.copytree(folders / "sd", tmp_path / "sd")


@pytest.fixture
def xl(folders, tmp_path): return shutil.copytree(folders / "xl", tmp_path / "xl")


def paint(folder, **options):
    return LatentDiffusionPipeline.from_pretrained(folder, **options)(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt")


def refused(folder, reason, **options):
    with pytest.raises((LoadError, ConfigError), match=reason) as error: LatentDiffusionPipeline.from_pretrained(folder, **options)
    assert "\n" not in str(error.value)


def index(folder, **changes): write_json({**read_json(folder / "model_index.json"), **changes}, folder / "model_index.json")


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", f"unet/{WEIGHTS}", f"vae/{WEIGHTS}", "text_encoder/model.safetensors", "text_encoder/config.json",
                                  "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named(file, sd):
    (sd / file).unlink()
    refused(sd, file.split("/")[-1].replace(".", r"\."))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(part, sd):
    shutil.rmtree(sd / part)
    refused(sd, part)


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_an_xl_without_its_second_reader(part, xl):
    shutil.rmtree(xl / part)
    refused(xl, part)


def test_an_xl_whose_index_names_no_second_encoder(xl):
    index(xl, text_encoder_2=[None, None], tokenizer_2=[None, None])
    refused(xl, "width 56")  # the U-Net listens to more than one encoder says


def test_shards_without_an_index(sd):
    LatentDiffusionPipeline.from_pretrained(sd).save_pretrained(sd, max_shard_size="100KB")
    painted = paint(sd)
    (sd / f"unet/{WEIGHTS}.index.json").rename(sd / "kept.json")
    refused(sd, f"unet.*a part of several, and no {WEIGHTS}.index.json")
    (sd / "kept.json").rename(sd / f"unet/{WEIGHTS}.index.json")
    shard = next((sd / "unet").glob("*-00002-of-*"))
    shard.rename(sd / shard.name)
    refused(sd, shard.name)
    (sd / shard.name).rename(shard)
    assert torch.equal(paint(sd), painted)


def test_pickles_alone(sd):
    (sd / f"unet/{WEIGHTS}").rename(sd / "unet/diffusion_pytorch_model.bin")
    refused(sd, "diffusion_pytorch_model.bin, a pickle.*only safetensors")


def test_a_pickle_beside_is_not_looked_at(sd):
    painted = paint(sd)
    (sd / "unet/diffusion_pytorch_model.bin").write_bytes(b"\x80\x02not opened")
    assert torch.equal(paint(sd), painted)


def test_a_variant_that_is_not_there(sd):
    refused(sd, "variant: no network of the folder has weights of the variant 'fp16'", variant="fp16")
    (sd / f"unet/{WEIGHTS}").rename(sd / f"unet/{WEIGHTS.replace('.s', '.fp16.s')}")
    refused(sd, r"only diffusion_pytorch_model.fp16.safetensors.*variant=")
    with pytest.warns(UserWarning, match="no fp16 weights of the vae"): paint(sd, variant="fp16")


@pytest.mark.parametrize("changes, reason", [
    (dict(unet=["diffusers", "UNet2DModel"]), "the unet is a UNet2DModel, expected a UNet2DConditionModel"), (dict(vae=["diffusers", "AutoencoderTiny"]), "vae is a AutoencoderTiny"),
    (dict(text_encoder=["transformers", "T5EncoderModel"]), "text_encoder is a T5EncoderModel"), (dict(unet=None), "names no unet"), (dict(unet=[None, None]), "names no unet"),
    (dict(unet="UNet2DConditionModel"), "unet: expected the names"), (dict(scheduler=["diffusers", "EDMDPMSolverMultistepScheduler"]), "no scheduler EDMDPMSolverMultistepScheduler here; scheduler="),
    (dict(scheduler=None), "no scheduler"), (dict(controlnet=["diffusers", "ControlNetModel"]), "a pipeline with a controlnet"), (dict(transformer=["diffusers", "FluxTransformer2DModel"]), "with a transformer")], ids=str)
def test_an_index_of_another_pipeline(changes, reason, sd):
    index(sd, **changes)
    refused(sd, reason)


def test_the_wrong_networks_in_a_folder(sd, xl):
    shutil.copytree(xl / "unet", sd / "unet", dirs_exist_ok=True)
    refused(sd, "width|sizes as")
    shutil.rmtree(sd / "unet")
    shutil.copytree(sd / "vae", sd / "unet")
    refused(sd, "unet.*config.json")


@pytest.mark.parametrize("name", ["dream.safetensors", "dream.ckpt", "v1-5-pruned.bin"])
def test_a_checkpoint_in_one_file(name, tmp_path):
    "The layout of CompVis: refused, with the line that converts it."
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, tmp_path / name)
    for given in (tmp_path / name, str(tmp_path / name), tmp_path):
        refused(given, rf"{name} is a checkpoint in one file.*StableDiffusionPipeline\.from_single_file\('.*{name}'\) \(or StableDiffusionXLPipeline\), then pipe\.save_pretrained\('folder'\)")


def test_a_repository_of_one_file(monkeypatch):
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, *_, **__: ["README.md", "dream.safetensors"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("nothing is fetched"))
    for name in ("me/dream", "hub:me/dream"): refused(name, r"from_single_file\('https://hf.co/me/dream/blob/main/dream.safetensors'\)")


def test_what_looks_like_one_and_is_none(sd, tmp_path):
    refused(sd / "unet", "model_index.json")  # a network's own folder
    (tmp_path / "lora").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "lora" / LORA_FILE)
    refused(tmp_path / "lora", "model_index.json")
    (sd / "dream.safetensors").write_bytes(b"")  # beside a whole pipeline it does no harm
    assert paint(sd).isfinite().all()
    for name in ("", None, 3, tmp_path / "nowhere", "nowhere/at all"): refused(name, "folder|repository")


def test_a_tokenizer_without_its_words(sd):
    for file in ("vocab.json", "merges.txt"):
        for name in ("tokenizer.json", file): (sd / "tokenizer" / name).unlink(missing_ok=True)
        refused(sd, file)
        break


def test_paths_as_people_write_them(sd, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    plain = paint(sd)
    sd.rename(tmp_path / "with space é")
    for name in ("~/with space é", "with space é", "./with space é/"): assert torch.equal(paint(name), plain)
    for name in ("~nosuchuser/x", "x" * 500, "a\0b"): refused(name, "there is no folder", hub=False)
    ours = LatentDiffusionPipeline.from_pretrained("~/with space é")
    ours.save_pretrained("~/saved é")
    assert torch.equal(paint(tmp_path / "saved é"), plain)


def test_what_is_not_the_pipelines_stays(sd, tmp_path):
    "A language model's files beside it, and a checkpoint deeper inside."
    ours = LatentDiffusionPipeline.from_pretrained(sd)
    others = ("tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors", "tokenizer_3/vocab.json", f"unet/step-100/{WEIGHTS}", "unet/notes.txt")
    for name in others:
        (tmp_path / "both" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "both" / name).write_text("mine")
    ours.save_pretrained(tmp_path / "both")
    assert [(tmp_path / "both" / name).read_text() for name in others] == ["mine"] * len(others)
    assert torch.equal(paint(tmp_path / "both"), paint(sd))
    networks = dict(unet=type(ours.unet), text_encoder=type(ours.text_encoder))
    for name in others: assert not is_replaced(Path(name), None, networks), name
    assert is_replaced(Path("unet", WEIGHTS), None, networks) and is_replaced(Path("tokenizer/vocab.json"), None, networks)
