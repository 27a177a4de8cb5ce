#!/usr/bin/env python3
"""Make the weights of the package: a run in half precision, its report, its numbers, a card.

    python scripts/make_weights.py [RUN]

RUN is the folder of a run of `minidiff_train` (default: runs/small). Where there is no
finished one in it, the preset `small` is trained into it first, or trained on. The weights
that were there are only replaced when the new ones are complete. The picture at the top
of the README is painted with them.
"""
import argparse
import shutil
import sys
from pathlib import Path

import torch

import judge
import make_card
from minidiff.files import read_json, write_json
from minidiff.latent_diffusion import Job, open_run
from minidiff.model_card import card_text
from minidiff.text_encoder import ImageEncoder

root = Path(__file__).resolve().parent.parent
LIMIT = 20e6  # bytes

CARD = """# Dali, the small text-to-image model of minidiff

A latent diffusion model in the form of Stable Diffusion (VAE, CLIP text encoder, U-Net, scheduler) that paints {size} x {size} pictures of one or two coloured shapes:
"a red circle above a blue square", "on a black background, a small yellow star in the top left corner". Made by `scripts/make_weights.py` from one run of
`minidiff_train` with nothing but what is in the package; no weight and no picture came from elsewhere.

* **Trained on**: {pictures:,} pictures of the sketchbook, in {minutes:.1f} minutes on {device} ({threads} threads). Combinations of a fixed tenth of all scenes were never shown.
* **Parameters**: {parameters}. Stored in half precision, {megabytes:.1f} MB.
* **How good**: share of {captions:,} held-out captions of each kind that are painted *wholly* right, with its 95% interval, read by an exact judge which never sees the caption:
  one object {one_object}, two objects {two_objects}, with {steps} steps and a guidance scale of {scale}. Held out are combinations of kinds, colours and place or relation; where a caption of one object
  leaves the place open, and so asks for nothing new, {one_object_no_place}. Scenes, words and noise are of {seeds} seeds, the training is of one (`scripts/judge.py`).
* **Beside the pipeline**: `image_encoder/` holds the other half of the small CLIP that the text encoder was trained in (`minidiff.text_encoder.ImageEncoder`). The index does not name it; no pipeline loads it.
* **What it cannot do**: anything else. It knows the {words} words of its captions, six shapes, eight colours, six backgrounds.

It opens in `minidiff.latent_diffusion.open_run`, and in `diffusers.StableDiffusionPipeline.from_pretrained` with `torch_dtype=torch.float32`, or `torch.float16` on a GPU.
"""


def card(pipe, results, judged, size):
    """The text of README.md."""
    preset = results["preset"]
    seconds = sum(results["seconds"][k] for k in ("vae", "text", "latents", "unet"))
    shares = {
        kind: "{share:.1%} ({low:.1%} to {high:.1%})".format(**judged[kind]["whole"])
        for kind in judge.KINDS}
    vocabulary = pipe.tokenizer.vocab
    words = sum(token.endswith("</w>") and len(token) > 5 for token in vocabulary)
    parameters = ", ".join(f"{k} {v:,}" for k, v in results["parameters"].items())
    body = CARD.format(
        size=preset["size"], pictures=preset["pictures"], minutes=seconds / 60,
        device=results["device"].upper(), threads=results["threads"],
        parameters=parameters, megabytes=size / 1e6, captions=judged["captions"],
        seeds=len(judged["seeds"]), steps=judged["steps"], scale=judged["scale"],
        words=words, **shares)
    return card_text(body, license="apache-2.0", library_name="minidiff",
                     pipeline_tag="text-to-image")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/small"))
    run = parser.parse_args().run
    if not (run / "results.json").is_file(): Job("small", run, resume=True).run()
    results = read_json(run / "results.json")
    pipe = open_run(run)
    image_encoder = ImageEncoder.from_pretrained(run / "pipeline" / "image_encoder")
    shipped = root / "minidiff" / "data" / "weights"
    target = shipped.with_name(".weights.new")
    shutil.rmtree(target, ignore_errors=True)
    for part in (pipe.vae, pipe.text_encoder, pipe.unet, image_encoder):
        part.to(torch.float16)
    pipe.save_pretrained(target, card=False)
    image_encoder.save_pretrained(target / "image_encoder")
    write_json(results, target / "results.json")
    if not (run / "report" / "report.json").is_file():
        raise SystemExit(f"{run} has no report; train it again, into another folder")
    shutil.copytree(run / "report", target / "report")
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    if size > LIMIT:
        raise SystemExit(f"{size / 1e6:.1f} MB is more than {LIMIT / 1e6:.0f}")
    judged = judge.report(open_run(target), steps=results["preset"]["steps"],
                          scale=results["preset"]["scale"])
    judge.RESULTS.mkdir(exist_ok=True)
    write_json(judged, judge.RESULTS / "judge.json")
    text = card(pipe, results, judged, size)
    (target / "README.md").write_text(text, encoding="utf-8")
    shutil.rmtree(shipped, ignore_errors=True)
    target.rename(shipped)
    make_card.draw(make_card.in_turn())
    print(f"{shipped}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
