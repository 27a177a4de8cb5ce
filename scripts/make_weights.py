#!/usr/bin/env python3
"""Make the weights that are shipped in the package: a finished run, in half precision, with its numbers and a model card; and the picture at the top of the README.

    python scripts/make_weights.py [RUN]

RUN is the folder of a run of `minidiff_train` (default: runs/cpu). Where there is no finished one in it, the CPU preset is trained into it first, or trained on.
The weights that were there are only replaced when the new ones are complete.
"""
import shutil
import sys
from pathlib import Path

import torch

from minidiff.files import read_json, write_json
from minidiff.latent_diffusion import Job, caption_grid, open_run
from minidiff.sketchbook import Sketchbook

LIMIT = 20e6  # bytes

CARD = """---
license: apache-2.0
library_name: minidiff
pipeline_tag: text-to-image
---
# Dali, the small text-to-image model of minidiff

A latent diffusion model in the form of Stable Diffusion (VAE, CLIP text encoder, U-Net, scheduler) that paints {size} x {size} pictures of one or two coloured shapes:
"a red circle above a blue square", "on a black background, a small yellow star in the top left corner". Made by `scripts/make_weights.py` from one run of
`minidiff_train` with nothing but what is in the package; no weight and no picture came from elsewhere.

* **Trained on**: {pictures:,} pictures of the sketchbook, in {minutes:.1f} minutes on {device} ({threads} threads). Combinations of a fixed tenth of all scenes were never shown.
* **Parameters**: {parameters}. Stored in half precision, {megabytes:.1f} MB.
* **How good**: share of {captions:,} held-out captions (half with one object, half with two) that are painted *wholly* right, read by an exact judge which never sees the caption:
  one object {one:.1%}, two objects {two:.1%}, with {steps} steps and a guidance scale of {scale}.
* **What it cannot do**: anything else. It knows the {words} words of its captions, six shapes, eight colours, six backgrounds.

It opens in `minidiff.latent_diffusion.open_run`, and in `diffusers.StableDiffusionPipeline.from_pretrained` with `torch_dtype=torch.float32`, or `torch.float16` on a GPU.
"""


def hero(pipe, preset, path):
    "The first sixteen captions of held-out scenes that a seed gives, one and two objects in turn; nothing is picked by hand."
    book, generator, captions = Sketchbook(preset["size"]), torch.Generator().manual_seed(16), []
    for n_objects in [2, 1] * 8: captions += book.caption(book.sample_scenes(1, generator, n_objects, "heldout"), generator)[0]
    images = pipe(captions, num_inference_steps=preset["steps"], guidance_scale=preset["scale"], generator=generator, output_type="pt")
    path.parent.mkdir(exist_ok=True)
    caption_grid(captions, images).savefig(path)


def main():
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/cpu")
    if not (run / "results.json").is_file(): Job("cpu", run, resume=True).run()
    results, pipe = read_json(run / "results.json"), open_run(run)
    shipped = Path(__file__).parent.parent / "minidiff" / "data" / "weights"
    target = shipped.with_name(".weights.new")
    shutil.rmtree(target, ignore_errors=True)
    for part in (pipe.vae, pipe.text_encoder, pipe.unet): part.to(torch.float16)
    pipe.save_pretrained(target)
    write_json(results, target / "results.json")
    size, preset, accuracy = sum(f.stat().st_size for f in target.rglob("*") if f.is_file()), results["preset"], results["accuracy"]
    if size > LIMIT: raise SystemExit(f"{size / 1e6:.1f} MB is more than {LIMIT / 1e6:.0f}")
    (target / "README.md").write_text(CARD.format(
        size=preset["size"], pictures=preset["pictures"], minutes=sum(results["seconds"][k] for k in ("vae", "text", "latents", "unet")) / 60, device=results["device"].upper(),
        threads=results["threads"], parameters=", ".join(f"{k} {v:,}" for k, v in results["parameters"].items()), megabytes=size / 1e6, captions=results["captions"],
        one=accuracy["one_object"]["whole"], two=accuracy["two_objects"]["whole"], steps=preset["steps"], scale=preset["scale"],
        words=sum(token.endswith("</w>") and len(token) > 5 for token in pipe.tokenizer.vocab)), encoding="utf-8")
    shutil.rmtree(shipped, ignore_errors=True)
    target.rename(shipped)
    hero(open_run(), preset, shipped.parent.parent / "nbs" / "images" / "hero.png")
    print(f"{shipped}: {size / 1e6:.1f} MB")


if __name__ == "__main__": main()
