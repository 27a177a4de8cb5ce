"""The small model that comes with the package: its size, its card, and the time to the first picture."""
import subprocess
import time
from pathlib import Path

import diffusers
import torch
from conftest import BIN, environment
from PIL import Image

import minidiff
from minidiff.files import load_safetensors, read_json
from minidiff.latent_diffusion import open_run
from minidiff.sketchbook import Sketchbook
from minidiff.negatives import pick_caption
from minidiff.text_encoder import ImageEncoder, TextAndPictures

WEIGHTS = Path(minidiff.__file__).parent / "data" / "weights"


def test_small_and_in_half_precision():
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 20e6
    tensors = [t for f in files if f.suffix == ".safetensors" for t in load_safetensors(f).values()]
    assert sum(t.numel() for t in tensors) > 4.5e6 and {t.dtype for t in tensors if t.is_floating_point()} == {torch.float16}


def test_the_card_says_what_the_judge_found():
    card, judged = (WEIGHTS / "README.md").read_text(encoding="utf-8"), read_json(WEIGHTS.parent / "results" / "judge.json")
    assert judged["model"] == "package" and judged["captions"] >= 2000 and len(judged["seeds"]) >= 4
    for name, words in (("one_object", "one object"), ("two_objects", "two objects")):
        whole = judged[name]["whole"]
        assert f"{words} {whole['share']:.1%} ({whole['low']:.1%} to {whole['high']:.1%})" in card


def test_its_two_encoders_belong_together():
    """The image encoder that is shipped was trained with the text encoder that is shipped."""
    pipe = open_run()
    both = TextAndPictures(pipe.text_encoder, ImageEncoder.from_pretrained(WEIGHTS / "image_encoder"))
    assert pick_caption(both, pipe.tokenizer, Sketchbook(), n=200) > 0.8  # by chance, 1 / 8


def test_first_picture_from_a_cold_start(tmp_path):
    start = time.perf_counter()
    done = subprocess.run([str(BIN / "minidiff_sample"), "a red circle above a blue square", "--out", str(tmp_path / "picture.png")],
                          capture_output=True, text=True, env=environment(), timeout=120)
    seconds = time.perf_counter() - start
    assert done.returncode == 0 and done.stderr == "", done.stderr
    red, blue = (Image.open(tmp_path / "picture.png").convert("RGB").resize((32, 32), Image.Resampling.BOX).getpixel((16, y)) for y in (8, 24))
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0], (red, blue)
    assert seconds <= 10, f"{seconds:.1f} s"


def test_diffusers_opens_it_and_paints_the_same():
    mine, theirs = open_run(), diffusers.StableDiffusionPipeline.from_pretrained(WEIGHTS, safety_checker=None, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    noise, words = mine.start_latents(1, generator=torch.Generator().manual_seed(0)), "a small yellow star left of a big purple heart"
    a = mine(words, latents=noise, num_inference_steps=10, guidance_scale=2.0, output_type="pt")
    b = theirs(words, latents=noise, num_inference_steps=10, guidance_scale=2.0, output_type="pt").images
    assert ((a / 2 + 0.5).clamp(0, 1) - b).abs().max() < 1 / 255 + 1e-3
