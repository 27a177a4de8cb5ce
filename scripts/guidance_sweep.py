#!/usr/bin/env python3
"""What the scale of guidance does to the shipped model: for the chapter on conditioning.

    python scripts/guidance_sweep.py [--captions 300] [--out minidiff/data/results/guidance_sweep.json]

For each scale, plain, rescaled and in an interval of noise levels: how many of 300 held-out captions of two objects are
painted wholly right; what the spread of the latents and the share of numbers beyond [-1, 1] in the pictures are; and
how much variety is left, in 16 pictures of each of 14 captions that say neither page nor place: how often two pictures of
one caption have the same page, or the object in the same place. All scales start from the same noise.
Some 20 minutes of one busy core; the file is written after each setting.
"""
import argparse
import time
from pathlib import Path

import torch

from minidiff.conditioning import guide, interval_scale, rescale_guided
from minidiff.files import write_json
from minidiff.latent_diffusion import open_run
from minidiff.scheduler import sample
from minidiff.sketchbook import COLORS, KINDS, Sketchbook
from minidiff.terminal import whole
from minidiff.training import step_generator

STEPS, COPIES, INTERVAL, SHARE = 10, 16, (0.25, 4.0), 0.7
SCALES = 0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 12.0
STRONG = 3.0, 5.0, 7.5, 12.0
SETTINGS = ([("plain", w) for w in SCALES] + [("rescaled", w) for w in STRONG] + [("interval", w) for w in STRONG])


@torch.no_grad()
def paint(pipe, captions, noise, kind, scale):
    "Latents, by the pipeline's own scheduler."
    scheduler, silence, found, asked = pipe.scheduler, pipe.encode_prompt(""), [], 0
    for i in range(0, len(captions), 128):
        states = pipe.encode_prompt(list(captions[i:i + 128]))
        quiet = silence.expand(len(states), -1, -1)
        def model(x, t):
            nonlocal asked
            now = scale
            if kind == "interval":
                share = scheduler.alphas_cumprod[int(t)].item()
                now = interval_scale(scale, ((1 - share) / share) ** 0.5, *INTERVAL)
            asked += len(x) * (1 + (now not in (0, 1)))
            if now == 0: return pipe.unet(x, t, quiet)
            if now == 1: return pipe.unet(x, t, states)
            without, with_text = pipe.unet(torch.cat([x, x]), t, torch.cat([quiet, states])).chunk(2)
            answer = guide(without, with_text, now)
            return rescale_guided(answer, with_text, SHARE) if kind == "rescaled" else answer
        found.append(sample(model, scheduler, noise[i:i + 128], STEPS))
    return torch.cat(found), asked / len(captions)


def same(column):
    "Of the pairs of pictures of one caption (rows of `column`): how many agree, and how many there are; -1: unclear."
    clear = (column[:, :, None] >= 0) & (column[:, None, :] >= 0) & ~torch.eye(COPIES, dtype=torch.bool)
    return (clear & (column[:, :, None] == column[:, None, :])).sum().item() // 2, clear.sum().item() // 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=whole(1), default=300)
    parser.add_argument("--out", type=Path, default=Path("minidiff/data/results/guidance_sweep.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe, book = open_run(), Sketchbook(32)
    critic = book.critic()
    scenes = book.sample_scenes(args.captions, step_generator(0, 2 ** 29), 2, "heldout")
    captions, scenes.mentioned = book.caption(scenes, step_generator(0, 2 ** 28))
    bare = [f"a {color} {kind}" for color in COLORS for kind in KINDS if color != "orange"][1::3][:16]  # just the thing
    many = [caption for caption in bare for _ in range(COPIES)]
    noise = torch.randn(len(captions) + len(many), 4, 8, 8, generator=step_generator(0, 2 ** 30))
    decode = lambda z: torch.cat([pipe.vae.decode(part / pipe.vae.config.scaling_factor) for part in z.split(128)])
    runs = []
    for kind, scale in SETTINGS:
        start = time.process_time()
        with torch.no_grad():
            latents, asked = paint(pipe, captions + many, noise, kind, scale)
            pictures = decode(latents)
        first, rest = pictures[:len(captions)], pictures[len(captions):]
        right = critic.judge(first, scenes)
        seen = critic.read(rest)
        page, place = (getattr(seen, name).unflatten(0, (-1, COPIES)) for name in ("background", "place"))
        runs.append(dict(
            kind=kind, scale=scale, whole=int(right["whole"].sum()), clear=int((critic.read(first).n_objects > 0).sum()),
            beyond=round((first.abs() > 1.02).float().mean().item(), 4), latent_std=round(latents[:len(captions)].std().item(), 3),
            same_page=same(page), same_place=same(place), asked=asked, seconds=round(time.process_time() - start)))
        print(runs[-1], flush=True)
        write_json(dict(command="python scripts/guidance_sweep.py", captions=len(captions), bare=bare, copies=COPIES, steps=STEPS,
                        interval=INTERVAL, share=SHARE, device="cpu", threads=1, torch=torch.__version__,
                        runs=runs), args.out)


if __name__ == "__main__": main()
