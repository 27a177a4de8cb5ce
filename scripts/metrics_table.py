#!/usr/bin/env python3
"""The shipped model and seven other painters, by all metrics: for the chapter on metrics.

    python scripts/metrics_table.py [--captions 2000] [--out minidiff/data/results/metrics_table.json]

2,000 held-out captions of two objects; the shipped model paints them in 10 steps with guidance scale 2. Beside it: what the
sketchbook draws for these captions ("drawn"), the same after the VAE's round trip, blurred, noisy, drawn without black pages
("never black"), a copyist, who hands in the 2,000 real pictures that all are compared with, whatever the caption says, and a
librarian, who hands in the one of 5,000 real pictures that has the highest CLIP score. Each with 95% intervals.
And is the model a copyist? Its training pictures are drawn again, and 40,000 others of the same kind; 1,000 of the training
captions are painted. Which of the two sets holds the nearest neighbour of each, in features and in pixels? As a control the
same for a copyist of the training set and for an honest painter, who draws other pictures of which the same captions are true
(what a caption says decides much of a picture, so this painter, too, comes near). Both go through the VAE. Some 10 minutes of one
core that has nothing else to do.
"""
import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from metrics_sweep import all_metrics, drawn, paint_all
from minidiff.files import write_json
from minidiff.latent_diffusion import PRESETS, open_run, training_scenes
from minidiff.metrics import caption_features, copy_share, nearest, picture_features, psnr, ssim
from minidiff.sketchbook import BACKGROUNDS, Scenes, Sketchbook, arrange
from minidiff.terminal import whole
from minidiff.training import step_generator

SCALE = 2.0


def training_set(book, seed):
    "The pictures that stage three of the shipped model learnt from (seed 0), or others; captions, scenes."
    preset, generator = PRESETS["small"], step_generator(seed, 2 ** 31)
    two, pictures, captions, lots = round(preset.pictures * preset.two_objects), [], [], []
    for n_objects, total in ((1, preset.pictures - two), (2, two)):
        for first in range(0, total, 256):
            scenes = training_scenes(book, min(256, total - first), n_objects, generator)
            pictures.append(book.paint(scenes))
            said, scenes.mentioned = book.caption(scenes, generator)
            captions += said
            lots.append(scenes)
    return torch.cat(pictures), captions, Scenes.cat(lots)


def drawn_again(scenes, generator):
    "Other scenes of which the same captions are true."
    again, n = scenes.clone(), len(scenes)
    for name in ("size", "place", "background"):
        old, said = getattr(scenes, name), scenes.mentioned[name]
        new = training_scenes(Sketchbook(32), n, 1, generator)
        new = getattr(new, name) if old.dim() == 1 else torch.randint(0, int(old.max()) + 1, old.shape, generator=generator)
        known = old >= 0
        setattr(again, name, torch.where(known & ~said, new, old))
    again.position = arrange(again, 2 * torch.rand(n, 2, 2, generator=generator) - 1)
    return again


def small(pictures): return F.avg_pool2d(pictures, 2).flatten(1)  # pixels, halved: 3 x 16 x 16 numbers


def copies(pipe, book, n=1000):
    "Shares of pictures that lie nearer to the training pictures than to fresh ones."
    known, captions, scenes = training_set(book, 0)
    fresh = training_set(book, 12345)[0]
    which = torch.randperm(len(known), generator=step_generator(3, 0))[:n]
    noise = torch.randn(n, 4, 8, 8, generator=step_generator(3, 1))
    painted = paint_all(pipe, [captions[i] for i in which], noise, "plain", SCALE).clamp(-1, 1)
    vae = torch.no_grad()(lambda x: torch.cat([pipe.vae(part)[0] for part in x.split(128)]).clamp(-1, 1))
    copied, honest = vae(known[which]), vae(book.paint(drawn_again(scenes[which], step_generator(3, 2))))
    found = {}
    for name, look in (("features", picture_features), ("pixels", small)):
        a, b = look(known), look(fresh)
        for who, pictures in (("shipped", painted), ("copyist", copied), ("honest", honest)):
            found[f"{who} {name}"] = list(copy_share(a, b, look(pictures)))
            found[f"{who} {name} distance"] = [nearest(z, look(pictures))[0].median().item() for z in (a, b)]
    own = (nearest(small(known), small(copied))[1] == which).sum().item()
    return dict(n=n, training=len(known), copies_recognised=own, shares=found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=whole(1), default=2000)
    parser.add_argument("--out", type=Path, default=Path("minidiff/data/results/metrics_table.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, pipe, book, n = time.perf_counter(), open_run(), Sketchbook(32), args.captions
    critic = book.critic()
    captions, scenes, noise = drawn(n, seed=5)
    reference, _, _ = book.draw(5000, step_generator(6, 2 ** 27), 2, "heldout")
    many, text, clean = picture_features(reference), caption_features(captions), book.paint(scenes)
    with torch.no_grad(): again = torch.cat([pipe.vae(part)[0] for part in clean.split(128)])
    lit = Scenes.cat([scenes])
    black, other = BLACK, [i for i in range(len(BACKGROUNDS)) if i != BLACK]
    dark = (lit.background == black) & ~scenes.mentioned["background"]
    lit.background = torch.where(dark, torch.tensor(other)[torch.randint(len(other), (n,), generator=step_generator(5, 1))], lit.background)
    blurred = F.avg_pool2d(F.pad(clean, [1] * 4, mode="reflect"), 3, 1)
    strength = (clean - blurred).square().mean().sqrt()
    noisy = clean + strength * torch.randn(clean.shape, generator=step_generator(5, 2))
    painters = dict(drawn=clean, vae=again, shipped=paint_all(pipe, captions, noise, "plain", SCALE), blurred=blurred,
                    noisy=noisy, never_black=book.paint(lit), copyist=reference[:n])
    shelf = torch.cat([text[i:i + 256] @ many.T for i in range(0, n, 256)]).argmax(1)
    painters["librarian"] = reference[shelf]
    rows = {}
    for name, pictures in painters.items():
        rows[name] = all_metrics(many[:n], many, pictures, text, scenes, critic)
        if name in ("vae", "blurred", "noisy"):
            for metric in (psnr, ssim):
                found = metric(clean, pictures)
                reach = 1.96 * found.std().item() / n ** 0.5
                rows[name][metric.__name__] = [found.mean().item(), found.mean().item() - reach, found.mean().item() + reach]
        print(name, {key: value[0] for key, value in rows[name].items() if isinstance(value, list)}, flush=True)
    content = dict(command="python scripts/metrics_table.py", captions=n, reference=n, many=len(many), steps=10, scale=SCALE,
                   metrics="value, low, high", noise=strength.item(), pages=["unclear", *BACKGROUNDS], device="cpu", threads=1,
                   torch=torch.__version__, rows=rows)
    write_json(content, args.out)
    content["copies"] = copies(pipe, book)
    print(content["copies"])
    write_json(dict(content, seconds=round(time.perf_counter() - start)), args.out)


BLACK = list(BACKGROUNDS).index("black")

if __name__ == "__main__": main()
