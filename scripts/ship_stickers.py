#!/usr/bin/env python3
"""Make the package's second model, which paints stickers: half precision, judged, with a card.

    python scripts/ship_stickers.py RUN        from what scripts/train_stickers.py wrote
    python scripts/ship_stickers.py --judge    just judge what is shipped, once more

Writes minidiff/data/weights_stickers, its card and its results.json, and what the critic
of the stickers found into minidiff/data/results/stickers.json: shares of held-out captions
that are painted right, each with its 95% interval (Wilson), which sticker was seen
where another was asked for, and all pictures that are not wholly right. The captions are
shared out between the seeds; a seed decides scenes, words and noise.
"""
import argparse
import base64
import io
import shutil
import time
from collections import Counter
from pathlib import Path

import torch

from judge import share, table
from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import open_run
from minidiff.plots import image_grid
from minidiff.sketchbook import PLACES, choose_mentioned, compare
from minidiff.stickers import STICKERS, StickerBook
from minidiff.terminal import whole
from minidiff.text_encoder import ImageEncoder
from minidiff.training import step_generator

SHIPPED = data_folder("weights_stickers")
RESULTS = data_folder("results", "stickers.json")
LIMIT = 40e6  # bytes, of all shipped weights together
KINDS = dict(one_sticker=1, two_stickers=2)
SETTINGS = dict(steps=20, scale=2.0)

CARD = """---
license: apache-2.0
library_name: minidiff
pipeline_tag: text-to-image
---
# Dali, the sticker painter of minidiff

A latent diffusion model in the form of Stable Diffusion (VAE, CLIP text encoder, U-Net, scheduler) that paints {size} x {size} pictures of one or two stickers: "a frog face above a slice of pizza on a blue background".
It knows {stickers} stickers, all pictures of [Noto Color Emoji](https://github.com/googlefonts/noto-emoji) (SIL Open Font License), which the package brings along; no weight and no other picture came from elsewhere.
Made by `scripts/train_stickers.py` and `scripts/ship_stickers.py`.

* **Trained on**: {pictures:,} pictures of the sticker book, in {minutes:.1f} minutes on one {device}: VAE {vae_steps:,} steps, text encoder {text_steps:,}, U-Net {unet_steps:,}. Combinations of a fixed tenth of all scenes were never shown. One seed.
* **Parameters**: {parameters}. Stored in half precision, {megabytes:.1f} MB.
* **How good**: share of {captions:,} held-out captions of each kind that are painted *wholly* right, with its 95% interval, read by an exact critic which never sees the caption:
  one sticker {one_sticker}, two stickers {two_stickers}, with {steps} steps and a guidance scale of {scale}, on a CPU, from {seeds} seeds of scenes, words and noise.
* **What goes wrong**: {wrong}.
* **Beside the pipeline**: `image_encoder/` holds the other half of the small CLIP that the text encoder was trained in, for pictures of {eye} pixels. The index does not name it; no pipeline loads it.
* **What it cannot do**: anything else: no third sticker, no other drawing, no words but those of its captions. Stickers must be called by their whole names (`minidiff.stickers.STICKERS`): it paints a "slice of pizza", and for a "pizza" something else.

It opens in `minidiff.latent_diffusion.open_run("stickers")`, and in `diffusers.StableDiffusionPipeline.from_pretrained` with `torch_dtype=torch.float32`, or `torch.float16` on a GPU.
"""


def held_out(n, kind, seed):
    """`n` captions of a kind, and the scenes that they describe."""
    book = StickerBook(64)
    generator = step_generator(seed, 2**26 + KINDS[kind])
    scenes = book.sample_scenes(n, generator, KINDS[kind], "heldout")
    scenes.mentioned = choose_mentioned(scenes, generator)
    return book.caption(scenes, generator, scenes.mentioned)[0], scenes


@torch.no_grad()
def paint(pipe, captions, kind, seed, batch=125, steps=20, scale=2.0):
    """Pictures of captions, from the noise of a seed."""
    generator = step_generator(seed, 2**25 + KINDS[kind])
    noise = pipe.start_latents(len(captions), generator=generator)
    options = dict(num_inference_steps=steps, guidance_scale=scale, output_type="pt")
    return torch.cat([
        pipe(captions[i:i + batch], latents=noise[i:i + batch], **options).cpu()
        for i in range(0, len(captions), batch)])


def pairs_seen(reading, scenes):
    """(asked, seen) of each sticker asked for: the one seen nearest to its place."""
    for i in range(len(scenes)):
        there = (reading.kind[i] >= 0).nonzero()[:, 0]
        for k in range(scenes.n_objects[i]):
            asked = STICKERS[scenes.kind[i, k]]
            if not len(there): yield asked, "nothing clear"
            else:
                gaps = (reading.position[i, there] - scenes.position[i, k]).norm(dim=1)
                yield asked, STICKERS[reading.kind[i, there[gaps.argmin()]]]


def faults(reading, found, i):
    """What is wrong in picture `i`: that nothing was clear, or the names of what is not as asked."""
    if not reading.n_objects[i]: return ["nothing clear"]
    return [name for name, (right, asked) in found.items() if name != "whole" and (asked & ~right)[i].any()]


def sheet(pictures, ncols=8):
    """Pictures side by side, as WebP in base64, `ncols` in a row, without gaps."""
    file = io.BytesIO()
    image_grid(pictures, ncols=ncols, pad=0).save(file, "WEBP", quality=90)
    return base64.b64encode(file.getvalue()).decode()


def judge(pipe, captions=1000, seeds=(0, 1, 2, 3)):
    """What results/stickers.json holds."""
    start = time.perf_counter()
    critic = StickerBook(64).critic()
    shares, seen, wrong, pictures = {}, Counter(), [], []
    met, missed = Counter(), Counter()  # combinations of one sticker and a place
    for kind in KINDS:
        lots, by_seed = [], {}
        for seed in seeds:
            words, scenes = held_out(captions // len(seeds), kind, seed)
            painted = paint(pipe, words, kind, seed, **SETTINGS)
            reading = critic.read(painted)
            found = compare(reading, scenes)
            found.pop("color")  # a sticker has none to be asked for
            seen.update(pairs_seen(reading, scenes))
            lots.append({name: (right | ~asked).all(1)[asked.any(1)]
                         for name, (right, asked) in found.items() if asked.any()})
            failed = (~lots[-1]["whole"]).nonzero()[:, 0].tolist()
            wrong += [dict(kind=kind, seed=seed, caption=words[i], wrong=faults(reading, found, i)) for i in failed]
            pictures.append(painted[failed])
            if KINDS[kind] == 1:
                pairs = [f"{STICKERS[k]}, {list(PLACES)[p]}" for k, p in zip(scenes.kind[:, 0], scenes.place)]
                met.update(pairs)
                missed.update(pairs[i] for i in failed)
            by_seed[str(seed)] = round(lots[-1]["whole"].float().mean().item(), 4)
            print(kind, seed, by_seed[str(seed)], f"{time.perf_counter() - start:.0f} s",
                  flush=True)
        names = dict.fromkeys(name for lot in lots for name in lot)
        rows = {name: share(torch.cat([lot[name] for lot in lots if name in lot]))
                for name in names}
        shares[kind] = {"whole": {**rows.pop("whole"), "by_seed": by_seed}, **rows}
    asked = Counter()
    for (name, _), n in seen.items(): asked[name] += n
    kinds = {name: dict(asked=asked[name], right=seen[name, name])
             for name in STICKERS if asked[name]}
    confusions = [dict(asked=a, seen=b, n=n)
                  for (a, b), n in sorted(seen.items(), key=lambda x: (-x[1], x[0]))
                  if a != b]
    print(table(shares))
    return dict(
        model="weights_stickers", captions=captions, seeds=list(seeds), **SETTINGS,
        device=str(pipe.device), threads=torch.get_num_threads(),
        torch=torch.__version__, seconds=round(time.perf_counter() - start, 1),
        **shares, kinds=kinds, confusions=confusions, combinations=len(met),
        missed={pair: dict(asked=met[pair], wrong=n) for pair, n in missed.most_common()}, wrong=wrong, sheet=sheet(torch.cat(pictures)))


def said_wrong(judged):
    """The card's line about mistakes."""
    total = sum(row["asked"] for row in judged["kinds"].values())
    wrong = sum(row["n"] for row in judged["confusions"])
    clear = [row for row in judged["confusions"] if row["seen"] != "nothing clear"]
    unclear = wrong - sum(row["n"] for row in clear)
    places = sum("place" in row["wrong"] for row in judged["wrong"])
    said = (f"of {total:,} stickers asked for, {wrong} were not read as themselves, {unclear} of them in pictures in which "
            f"the critic could not make out everything; {places} pictures have a sticker in another place than asked for")
    names = ", ".join(f"a {row['asked']} was read as a {row['seen']} ({row['n']})"
                      for row in clear[:3])
    return said + (f"; {names}" if clear else "")


def card(trained, judged, stored):
    """The text of README.md."""
    shares = {kind: "{share:.1%} ({low:.1%} to {high:.1%})".format(**judged[kind]["whole"])
              for kind in KINDS}
    steps = {f"{k}_steps": trained["steps"][k] for k in ("vae", "text", "unet")}
    parameters = ", ".join(f"{k} {v:,}" for k, v in trained["parameters"].items())
    return CARD.format(
        size=64, stickers=len(STICKERS), pictures=trained["pictures"],
        minutes=sum(trained["seconds"].values()) / 60, device=trained["device"],
        parameters=parameters, megabytes=stored / 1e6, captions=judged["captions"],
        seeds=len(judged["seeds"]), eye=32, wrong=said_wrong(judged), **steps, **shares,
        **SETTINGS)


def bytes_in(folder):
    """What all files in a folder take."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def ship(run):
    """The pipeline of a run, its image encoder and its report, in half precision."""
    pipe = open_run(run)
    image_encoder = ImageEncoder.from_pretrained(run / "pipeline" / "image_encoder")
    target = SHIPPED.with_name(".weights_stickers.new")
    shutil.rmtree(target, ignore_errors=True)
    for part in (pipe.vae, pipe.text_encoder, pipe.unet, image_encoder):
        part.to(torch.float16)
    pipe.save_pretrained(target)
    image_encoder.save_pretrained(target / "image_encoder")
    write_json(read_json(run / "results.json"), target / "results.json")
    whole = bytes_in(target) + bytes_in(data_folder("weights"))
    if whole > LIMIT: raise SystemExit(f"{whole / 1e6:.1f} MB is more than 40")
    shutil.rmtree(SHIPPED, ignore_errors=True)
    target.rename(SHIPPED)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/stickers"))
    parser.add_argument("--judge", action="store_true", help="nothing else")
    parser.add_argument("--card", action="store_true", help="just write the card anew")
    parser.add_argument("--captions", type=whole(1), default=1000, help="of each kind")
    options = parser.parse_args()
    if not options.judge and not options.card: ship(options.run)
    if not options.card: write_json(judge(open_run(SHIPPED), options.captions), RESULTS)
    judged = read_json(RESULTS)
    size = bytes_in(SHIPPED)
    text = card(read_json(SHIPPED / "results.json"), judged, size)
    (SHIPPED / "README.md").write_text(text, encoding="utf-8")
    print(f"{SHIPPED}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
