"""What each choice in the recipe of chapter 09's VAE is worth, with several seeds.

    python scripts/ablate_vae.py          writes minidiff/data/results/ablate_vae.json

Five VAEs a seed, each trained as in the chapter: latents of 2, 4 and 8 channels; the weights that
PyTorch starts with in place of orthogonal ones; and an autoencoder, trained without noise and KL.
Fifteen runs, 25 minutes on one quiet processor core.
"""
import argparse
import io
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))

from minidiff.files import data_folder
from minidiff.pipeline import to_pil
from minidiff.sketchbook import Sketchbook
from minidiff.training import Trainer, seed_all
from minidiff.vae import (VAE_TRAINING, AutoencoderKL, evaluate_vae, psnr, small_vae,
                          vae_batches, vae_training_loss)

CHOICES = {"4 channels": {}, "2 channels": dict(channels=2), "8 channels": dict(channels=8),
           "usual start": dict(orthogonal=False), "no noise": dict(noise=False)}
book = Sketchbook(32)


def without_noise(vae, batch):
    "The loss of an autoencoder: the mean is decoded, and clouds cost nothing."
    return F.mse_loss(vae(batch["images"])[0].float(), batch["images"].float())


def shaken(vae, pictures, sizes=(0, 0.01, 0.02, 0.05, 0.1, 0.2)):
    "Decibels left when latents are shaken by noise of so many times their own spread."
    generator = torch.Generator().manual_seed(0)
    mean = vae.encode(pictures).mode()
    noise = torch.randn(mean.shape, generator=generator)
    left = {size: psnr(pictures, vae.decode(mean + size * mean.std() * noise)) for size in sizes}
    return {f"{size}": decibels.mean().item() for size, decibels in left.items()}


def png_bits(pictures):
    "How long the PNG of each picture is, on average."
    def bits(picture):
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        return 8 * file.tell()
    return sum(map(bits, to_pil(pictures))) / len(pictures)


def run(seed, steps, channels=4, orthogonal=True, noise=True):
    "Train one VAE and measure it."
    seed_all(seed)
    vae = small_vae(latent_channels=channels)
    if not orthogonal: vae = AutoencoderKL.from_config(vae.config)
    recipe = {**VAE_TRAINING, "steps": steps, "seed": seed, "show_bar": False}
    loss = vae_training_loss if noise else without_noise
    trainer = Trainer(vae, loss, vae_batches(book, latent_channels=channels), **recipe).fit()
    vae = vae.float().cpu().eval().requires_grad_(False)
    pictures = book.paint(book.sample_scenes(500, torch.Generator().manual_seed(1), split="heldout"))
    posterior = vae.encode(pictures)
    report = evaluate_vae(vae, book, 2000, torch.Generator().manual_seed(2))
    curve = torch.tensor(trainer.losses).unfold(0, 20, 10).mean(1)
    return dict(psnr=report["psnr"], whole=report["whole"], shaken=shaken(vae, pictures),
                bits=posterior.kl().mean().item() / math.log(2), png_bits=png_bits(pictures),
                spread=posterior.mean.std().item(), cloud=posterior.std.mean().item(),
                losses=[round(loss, 5) for loss in curve.tolist()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choices", nargs="+", default=[*CHOICES], choices=[*CHOICES])
    parser.add_argument("--out", type=Path, default=data_folder("results", "ablate_vae.json"))
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    results = dict(device=device, torch=torch.__version__, steps=options.steps, runs={})
    for seed in options.seeds:
        for name in options.choices:
            result = run(seed, options.steps, **CHOICES[name])
            results["runs"].setdefault(name, []).append(result)
            print(seed, name, round(result["psnr"], 2), round(result["whole"], 3), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
