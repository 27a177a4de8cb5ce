#!/usr/bin/env python3
"""All metrics at all settings of the guidance sweep: for the chapter on metrics.

    python scripts/metrics_sweep.py [--captions 1000] [--out minidiff/data/results/metrics_sweep.json]

The settings of scripts/guidance_sweep.py (scales from 0 to 12, plain, rescaled, and in an interval of noise levels; 10 steps),
each with 1,000 held-out captions of two objects, the same captions and the same noise at all of them. Each metric has a 95%
interval by random halves. "floor" is as many pictures that the sketchbook drew, with the same captions; "vae" are these after the
VAE's round trip. The real pictures are 1,000 others (of the Fréchet distance also 5,000). Some 15 minutes of one core
that has nothing else to do; the file is written after each setting.
"""
import argparse
import time
from pathlib import Path

import torch

from guidance_sweep import SETTINGS, STEPS, paint
from minidiff.files import write_json
from minidiff.latent_diffusion import open_run
from minidiff.metrics import (caption_features, clip_score, density_coverage, frechet_distance, inception_score, interval_by_halves,
                              kernel_distance, picture_features, precision_recall, shipped_clip)
from minidiff.sketchbook import BACKGROUNDS, COLORS, KINDS, Sketchbook, wilson
from minidiff.terminal import whole
from minidiff.training import step_generator

THINGS = [f"a {color} {kind}" for color in COLORS for kind in KINDS]  # the classes of the Inception Score


def drawn(n, seed=0):
    "Captions, scenes and noise, as in the guidance sweep."
    book = Sketchbook(32)
    scenes = book.sample_scenes(n, step_generator(seed, 2 ** 29), 2, "heldout")
    captions, scenes.mentioned = book.caption(scenes, step_generator(seed, 2 ** 28))
    return captions, scenes, torch.randn(n, 4, 8, 8, generator=step_generator(seed, 2 ** 30))


@torch.no_grad()
def paint_all(pipe, captions, noise, kind, scale):
    latents = paint(pipe, list(captions), noise, kind, scale)[0]
    return torch.cat([pipe.vae.decode(part / pipe.vae.config.scaling_factor) for part in latents.split(128)])


def classes(features):
    "How probable the shipped CLIP thinks each of the 48 things."
    return (shipped_clip()[0].logit_scale.exp() * features @ caption_features(THINGS).T).softmax(1)


def all_metrics(real, many, pictures, text, scenes, critic, repeats=50):
    "name -> [value, low, high]; `many` are more real features, for the Fréchet distance alone."
    made, n = picture_features(pictures.clamp(-1, 1)), len(pictures)
    halves = lambda metric, *sets: list(interval_by_halves(metric, *sets, repeats=repeats, generator=step_generator(0, 9)))
    kernel = lambda x, y: kernel_distance(x, y, 1, min(len(x), len(y)))[0]
    found = dict(frechet=halves(frechet_distance, real, made), frechet_many=halves(frechet_distance, many, made),
                 kernel=halves(kernel, real, made), inception=halves(lambda f: inception_score(classes(f))[0], made))
    scores = clip_score(made, text)
    reach = 1.96 * (scores.std() / n ** 0.5).item()
    found["clip"] = [scores.mean().item(), scores.mean().item() - reach, scores.mean().item() + reach]
    few = lambda metric, i: list(interval_by_halves(lambda x, y: metric(x, y)[i], real, made, repeats=20, generator=step_generator(0, 9)))
    for metric, names in ((precision_recall, ("precision", "recall")), (density_coverage, ("density", "coverage"))):
        for i, name in enumerate(names): found[name] = few(metric, i)
    right = int(critic.judge(pictures, scenes)["whole"].sum())
    found["critic"] = [right / n, *wilson(right, n)]
    pages = critic.read(pictures).background
    return dict(found, n=n, right=right, pages=[int((pages == i).sum()) for i in range(-1, len(BACKGROUNDS))])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=whole(1), default=1000)
    parser.add_argument("--out", type=Path, default=Path("minidiff/data/results/metrics_sweep.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe, book, n = open_run(), Sketchbook(32), args.captions
    critic = book.critic()
    captions, scenes, noise = drawn(n)
    text = caption_features(captions)
    many = picture_features(book.draw(5000, step_generator(1, 2 ** 27), 2, "heldout")[0])
    real, clean, rows = many[:n], book.paint(scenes), []
    with torch.no_grad(): again = torch.cat([pipe.vae(part)[0] for part in clean.split(128)])

    def look(kind, scale, pictures, seconds):
        rows.append(dict(kind=kind, scale=scale, seconds=round(seconds), **all_metrics(real, many, pictures, text, scenes, critic)))
        print({name: value[0] if isinstance(value, list) else value for name, value in rows[-1].items()}, flush=True)
        write_json(dict(command="python scripts/metrics_sweep.py", captions=n, reference=n, many=len(many), steps=STEPS,
                        metrics="value, low, high", pages=["unclear", *BACKGROUNDS], device="cpu", threads=1, torch=torch.__version__,
                        runs=rows), args.out)

    look("floor", None, clean, 0)
    look("vae", None, again, 0)
    for kind, scale in SETTINGS:
        start = time.process_time()
        look(kind, scale, paint_all(pipe, captions, noise, kind, scale), time.process_time() - start)


if __name__ == "__main__": main()
