"The critic of the stickers reads any picture; stickers are learnt from near misses; and the model that is shipped paints them."
import json
import subprocess
import time

import pytest
import torch
import torch.nn.functional as F
from conftest import BIN, environment
from PIL import Image

from minidiff.checks import ConfigError
from minidiff.cli import sample_command, train_command
from minidiff.files import data_folder, load_safetensors, read_json
from minidiff.latent_diffusion import PRESETS, Job, open_run
from minidiff.sketchbook import choose_mentioned, is_heldout
from minidiff.stickers import STICKERS as NAMES, MixedBook, StickerBook
from minidiff.text_encoder import ImageEncoder, TextAndPictures
from minidiff.tokenizer import caption_tokenizer


@pytest.mark.parametrize("seed", [8, 12, 20])
def test_stains_up_to_the_edge(seed):
    book = StickerBook(64)
    pages, _, scenes = book.draw(64, torch.Generator().manual_seed(0))
    stains = F.interpolate(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(seed)), (64, 64), mode="bilinear")
    stained = (pages + 0.3 * stains * (stains > 0.8)).clamp(-1, 1)
    critic = book.critic()
    assert critic.read(stained).n_objects.shape == (64,)
    assert critic.score(stained, scenes)["whole"] < 0.5 < 0.98 < critic.score(pages, scenes)["whole"]


def test_near_misses_differ_in_one_thing_that_the_caption_says():
    """In their own part of the book; every kind of change turns up."""
    book, generator = StickerBook(64), torch.Generator().manual_seed(0)
    scenes = book.sample_scenes(2000, generator)
    scenes.mentioned = choose_mentioned(scenes, generator)
    near = book.vary(scenes, generator)
    assert not is_heldout(near).any() and torch.equal(near.n_objects, scenes.n_objects)
    changed = {name: (getattr(near, name) != getattr(scenes, name)).view(2000, -1).any(1) for name in ("kind", "size", "place", "relation", "background")}
    assert (sum(mask.long() for mask in changed.values()) == 1).float().mean() > 0.995
    assert all(mask.float().mean() > 0.02 for mask in changed.values()), {k: v.float().mean() for k, v in changed.items()}
    exchanged = (near.kind == scenes.kind.flip(1)).all(1) & changed["kind"]
    assert exchanged.float().mean() > 0.05
    for name in ("place", "background"): assert scenes.mentioned[name][changed[name]].all()
    assert scenes.mentioned["size"][(near.size != scenes.size)].all()
    assert not torch.equal(near.position, scenes.position)


def test_batches_of_the_contrast():
    from minidiff.tokenizer import caption_tokenizer
    book = StickerBook(32)
    tokenizer = caption_tokenizer(book, 500, 1500)
    draw = book.contrastive_batches(tokenizer, 16)
    batch, again = (draw(torch.Generator().manual_seed(1)) for _ in range(2))
    assert batch["images"].shape == (16, 3, 32, 32) and batch["ids"].shape[:2] == (16, 2) and torch.equal(batch["ids"], again["ids"])
    words = [tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in batch["ids"][:, 0]]
    assert len(set(words)) == 16 and book.critic().score(batch["images"], book.sample_scenes(16))["whole"] < 1
    for n in (0, 6):
        with pytest.raises(ConfigError, match="batch_size"): book.contrastive_batches(tokenizer, n)


# ------------------------------------------------------------------------------- trained on stickers

def test_the_commands_learn_stickers(tmp_path):
    command = [str(BIN / "minidiff_train"), "--objects", "stickers", "--preset", "smoke", "--device", "cpu", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["book"] == "stickers" and results["preset"]["size"] == 32 and results["accuracy"]["two_objects"].keys() >= {"whole", "relation"}
    assert (tmp_path / "run" / "preview.png").is_file() and (tmp_path / "run" / "captions.png").is_file()
    assert any(f"{name}</w>" in open_run(tmp_path / "run").tokenizer.vocab for name in ("croissant", "octopus"))
    with pytest.raises(ConfigError, match="book='stickers'"):  # shapes are not painted over stickers
        Job("smoke", tmp_path / "run", resume=True, device="cpu", show_bar=False).run()


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu"])
def test_every_preset_fits_stickers_without_a_word(name, tmp_path, recwarn):
    job = Job(name, book=StickerBook(64))
    assert job.preset.size == 64 and job.out.name == f"stickers-{name}" and not [w for w in recwarn if "sample_size" in str(w.message)]
    assert Job(PRESETS["smoke"], tmp_path, book=StickerBook(64)).preset.size == 64
    for wrong in ("stickers", 3, StickerBook):
        with pytest.raises(ConfigError, match="^book is a"): Job(name, tmp_path, book=wrong)


# ------------------------------------------------------------------------------------ the shipped model

STICKERS = data_folder("weights_stickers")


def test_both_models_together_are_small():
    files = [f for name in ("weights", "weights_stickers") for f in data_folder(name).rglob("*") if f.is_file()]
    tensors = [t for f in STICKERS.rglob("*.safetensors") for t in load_safetensors(f).values()]
    assert sum(f.stat().st_size for f in files) <= 40e6 and {t.dtype for t in tensors if t.is_floating_point()} == {torch.float16}


def test_its_card_says_what_the_critic_found():
    card, judged = (STICKERS / "README.md").read_text(encoding="utf-8"), read_json(data_folder("results", "stickers.json"))
    assert judged["captions"] >= 1000 and judged["device"] == "cpu" and sum(row["asked"] for row in judged["kinds"].values()) == 3 * judged["captions"]
    for name, words, least in (("one_sticker", "one sticker", 0.93), ("two_stickers", "two stickers", 0.87)):
        whole = judged[name]["whole"]
        assert whole["low"] > least and f"{words} {whole['share']:.1%} ({whole['low']:.1%} to {whole['high']:.1%})" in card
    wrong = sum(row["n"] for row in judged["confusions"])
    assert f"{wrong} were not read as themselves" in card and wrong == sum(row["asked"] - row["right"] for row in judged["kinds"].values())


def test_it_paints_what_its_report_says():
    """Forty held-out captions, read by the critic: with 97% right, fewer than 35 are one in a thousand."""
    pipe, book = open_run("stickers"), StickerBook(64)
    scenes = book.sample_scenes(40, torch.Generator().manual_seed(5), split="heldout")
    captions, scenes.mentioned = book.caption(scenes, torch.Generator().manual_seed(6))
    images = pipe(captions, num_inference_steps=20, guidance_scale=2.0, generator=torch.Generator().manual_seed(7), output_type="pt")
    assert book.critic().judge(images, scenes)["whole"].sum() >= 35
    assert caption_tokenizer(book, 8000, 2048).vocab == pipe.tokenizer.vocab, "scripts/train_stickers.py would make another tokenizer"


def test_its_two_encoders_belong_together():
    """The picture's vector is nearest to its own caption among those of near misses."""
    pipe, book, generator = open_run("stickers"), StickerBook(64), torch.Generator().manual_seed(0)
    both = TextAndPictures(pipe.text_encoder, ImageEncoder.from_pretrained(STICKERS / "image_encoder"))
    scenes = book.sample_scenes(200, generator, split="heldout")
    scenes.mentioned = choose_mentioned(scenes, generator)
    read = lambda some: both.embed_text(pipe.tokenizer(book.caption(some, generator, some.mentioned)[0], padding="longest", return_tensors="pt").input_ids)
    with torch.no_grad():
        seen = both.embed_images(torch.nn.functional.avg_pool2d(book.paint(scenes), 2))
        right, *others = ((seen * read(some)).sum(1) for some in (scenes, *(book.vary(scenes, generator, "all") for _ in range(3))))
    assert (right > torch.stack(others).amax(0)).float().mean() > 0.6  # by chance, about a quarter


def test_its_first_picture_from_a_cold_start(tmp_path):
    start = time.perf_counter()
    done = subprocess.run([str(BIN / "minidiff_sample"), "--model", "stickers", "a big frog face on a white background", "--out", str(tmp_path / "x.png")],
                          capture_output=True, text=True, env=environment(), timeout=120)
    seconds = time.perf_counter() - start
    assert done.returncode == 0 and done.stderr == "", done.stderr
    pixels = Image.open(tmp_path / "x.png").convert("RGB").resize((64, 64), Image.Resampling.BOX)
    colors = [pixels.getpixel((x, y)) for x in range(64) for y in range(64)]
    assert sum(g > 1.5 * b for r, g, b in colors) > 250 and sum(min(c) > 240 for c in colors) > 1500  # green, on white
    assert seconds <= 10, f"{seconds:.1f} s"


def test_diffusers_paints_the_same():
    import diffusers
    mine, theirs = open_run("stickers"), diffusers.StableDiffusionPipeline.from_pretrained(STICKERS, safety_checker=None, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    noise, words = mine.start_latents(1, generator=torch.Generator().manual_seed(0)), "a small rocket left of a big snail"
    a = mine(words, latents=noise, num_inference_steps=10, guidance_scale=2.0, output_type="pt")
    b = theirs(words, latents=noise, num_inference_steps=10, guidance_scale=2.0, output_type="pt").images
    assert ((a / 2 + 0.5).clamp(0, 1) - b).abs().max() < 1 / 255 + 1e-3


def test_names_of_models(capsys):
    assert open_run("shapes").unet.config.in_channels == open_run().unet.config.in_channels == 4 and open_run("stickers").unet.config.in_channels == 16
    assert sample_command(["a", "--model", "dogs"]) == 2 and "--model" in capsys.readouterr().err
    assert sample_command(["a", "--model", "stickers", "--from", "x"]) == 2 and "--from" in capsys.readouterr().err
    assert train_command(["--data", "x", "--objects", "stickers"]) == 2 and "--objects" in capsys.readouterr().err


def test_both_books_in_one():
    """Each picture is of one of the books, as that book paints and captions it; and the critic, untold, finds out of which."""
    book, generator = MixedBook(64), torch.Generator().manual_seed(3)
    images, captions, scenes = book.draw(200, generator, split="heldout")
    shapes = scenes.color[:, 0] >= 0
    assert 70 < shapes.sum() < 130 and is_heldout(scenes).all()
    for caption, shape, kind in zip(captions, shapes.tolist(), scenes.kind[:, 0].tolist()): assert (NAMES[kind] in caption) or shape
    seen = book.critic().read(images)
    assert ((seen.color[:, 0] >= 0) == shapes).float().mean() > 0.97
    assert book.critic().judge(images, scenes)["whole"].float().mean() > 0.97
    near = book.vary(scenes, generator, "all")
    same = [(getattr(near, name) == getattr(scenes, name)).view(200, -1).all(1) for name in ("kind", "color", "size", "place", "relation", "background")]
    assert ((near.color[:, 0] >= 0) == shapes).all() and 1 - torch.stack(same).all(0).float().mean() > 0.97
    for n_objects in (1, 2): assert (book.sample_scenes(50, generator, n_objects).n_objects == n_objects).all()
    assert all(len(book.sample_scenes(n, generator)) == n == len(book.paint(book.sample_scenes(n, generator))) for n in (0, 1))


def test_one_training_on_both_books(tmp_path, capsys):
    assert train_command(["--objects", "both", "--preset", "smoke", "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    results = read_json(tmp_path / "run" / "results.json")
    assert results["book"] == "both" and "two_objects" in results["accuracy"] and "minidiff_sample" in capsys.readouterr().out
    assert Job("gpu", tmp_path / "x", book=MixedBook(64)).preset.unet == Job("gpu", tmp_path / "x", book=StickerBook(64)).preset.unet
