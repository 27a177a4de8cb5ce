#!/usr/bin/env python3
"""What edges and pages are worth to the VAE of the `cpu` preset, with several seeds.

    python scripts/vae_edges.py          writes minidiff/data/results/vae_edges.json and vae_edges.png

Three VAEs a seed, of 64 pixels and f = 8: trained on squared errors and mostly grey pages; with the
differences of neighbours in the loss; and with more black pages besides, as the preset is. The KL weight is
three times as large where edges count, so that it keeps its share of the loss. Each is asked for 3,000 held-out
pictures, and the critic for how far they are from being refused. Nine runs, ten minutes on two cores. The picture
shows, on each page, what the first VAE on squares did worst: drawn, as it decodes it, as the one of the preset does.
"""
import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from minidiff.files import data_folder, write_json
from minidiff.latent_diffusion import PRESETS, Job
from minidiff.sketchbook import BACKGROUNDS, KINDS, Critic, Sketchbook
from minidiff.training import step_generator
from minidiff.vae import psnr

EDGES = PRESETS["cpu"].vae_loss
CHOICES = {"squares": dict(vae_loss={}, vae_pages=dict(gray=4.0)), "edges": dict(vae_loss=EDGES, vae_pages=dict(gray=4.0)), "edges, black pages": {}}


@torch.no_grad()
def measure(vae, pictures):
    """How near the decoded pictures are, and how many of them are nearly refused."""
    book, critic = Sketchbook(vae.config.sample_size), Critic(vae.config.sample_size)
    drawn, _, scenes = book.draw(pictures, step_generator(0, 77), split="heldout")
    decoded = torch.cat([vae(part)[0].float() for part in drawn.split(100)])
    reading, doubts = critic.read(decoded, margins=True)
    margin, low = doubts["margin"], doubts["margin"] < 0.5
    star = (scenes.kind == [*KINDS].index("star")).any(1)
    share = lambda which: round(low[which].float().mean().item(), 4)
    found = {f"{100 * q:g}%": round(margin.quantile(q).item(), 4) for q in (0.01, 0.05, 0.5)}
    return dict(psnr=round(psnr(drawn, decoded).mean().item(), 3), margin=found, low=share(slice(None)), low_with_star=share(star),
                low_on={page: share(scenes.background == i) for i, page in enumerate(BACKGROUNDS)})


@torch.no_grad()
def save_worst(squares, preset, pictures, path, width=2):
    """Rows of a PNG: what was drawn, and what two VAEs make of it; on each page the one nearest to being refused with `squares`."""
    book, critic = Sketchbook(squares.config.sample_size), Critic(squares.config.sample_size)
    drawn, _, scenes = book.draw(pictures, step_generator(0, 77), split="heldout")
    decoded = torch.cat([squares(part)[0].float() for part in drawn.split(100)])
    margin = critic.read(decoded, margins=True)[1]["margin"]
    worst = torch.stack([margin.where(scenes.background == i, torch.inf).argmin() for i in range(len(BACKGROUNDS))])
    rows = [drawn[worst], decoded[worst], preset(drawn[worst])[0].float()]
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1).clamp(-1, 1)
    sheet = sheet.repeat_interleave(width, 1).repeat_interleave(width, 2)
    Image.fromarray(((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--seeds", type=int, nargs="+", default=[0, 1, 2])
    option("--steps", type=int, default=PRESETS["cpu"].vae_training["steps"])
    option("--pictures", type=int, default=3000)
    option("--out", type=Path, default=data_folder("results", "vae_edges.json"))
    options = parser.parse_args()
    rows, first = {name: [] for name in CHOICES}, {}
    for seed in options.seeds:
        for name, changes in CHOICES.items():
            preset = replace(PRESETS["cpu"], **changes)
            preset = replace(preset, vae_training={**preset.vae_training, "steps": options.steps})
            with tempfile.TemporaryDirectory() as folder:
                job = Job(preset, folder, seed, device="cpu", show_bar=False)
                vae = job.train_vae().float().eval()
            first.setdefault(name, vae)
            rows[name].append(measure(vae, options.pictures) | dict(seed=seed, seconds=round(job.seconds["vae"], 1)))
            print(seed, name, rows[name][-1], flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(dict(preset="cpu", steps=options.steps, pictures=options.pictures, torch=torch.__version__, threads=torch.get_num_threads(), rows=rows), options.out)
    save_worst(first["squares"], first["edges, black pages"], options.pictures, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
