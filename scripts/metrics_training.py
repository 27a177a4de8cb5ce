#!/usr/bin/env python3
"""Losses and metrics along one training run: for the chapter on metrics.

    python scripts/metrics_training.py [--steps 500] [--batch 48] [--pictures 300] [--seed 0]

A U-Net like the shipped one is trained from nothing, but for a seventh as many pictures shown, on the shipped VAE's latents and the
shipped text encoder's states.
At some steps it is looked at: the loss on held-out scenes (always the same scenes, noise and timesteps), in ten bands of
timesteps, of the weights and of their moving average, and with the latter all metrics of 300 pictures of held-out captions of
two objects (always the same captions and noise, 10 steps, guidance scale 2). "floor" is what the sketchbook draws for these
captions. Some 5 minutes of one core that has nothing else to do; the file is written after each look.
"""
import argparse
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn import functional as F

from metrics_sweep import drawn, paint_all
from minidiff.files import write_json
from minidiff.latent_diffusion import PRESETS, SCHEDULER, Job, diffusion_loss, fitted_unet, latent_batches, open_run
from minidiff.metrics import caption_features, clip_score, compare_sets, picture_features
from minidiff.scheduler import DDPMScheduler, training_target
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Sketchbook
from minidiff.training import Trainer, seed_all, step_generator

BANDS = 10  # of timesteps
DRAWN = 12_000  # pictures to learn from
LOOKS = 50, 100, 200, 300, 400


@torch.no_grad()
def losses(unet, teacher, latents, states, seed=4):
    "The mean loss in each band of timesteps, on the same latents and noise each time."
    found = []
    for band in range(BANDS):
        generator = step_generator(seed, band)
        width = len(teacher.alphas_cumprod) // BANDS
        t = band * width + torch.randint(width, (len(latents),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        answer = unet(teacher.add_noise(latents, noise, t), t, states)
        found.append(F.mse_loss(answer, training_target(teacher, latents, noise, t)).item())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("minidiff/data/results/metrics_training.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe, book = open_run(), Sketchbook(32)
    critic = book.critic()
    preset = replace(PRESETS["small"], captions=args.pictures, pictures=DRAWN)
    job = Job(preset, "runs/metrics", seed=args.seed, show_bar=False)
    job.accelerator = SimpleNamespace(device=torch.device("cpu"))
    data = job.make_latents(pipe.vae, pipe.tokenizer, pipe.text_encoder)
    teacher = DDPMScheduler.from_config(SCHEDULER)

    captions, scenes, noise = drawn(args.pictures)
    real = picture_features(book.draw(args.pictures, step_generator(1, 2 ** 27), 2, "heldout")[0])
    text = caption_features(captions)
    with torch.no_grad():
        known = pipe.vae.scale(pipe.vae.encode(book.paint(scenes)).mean)[:256]
        states = pipe.encode_prompt(captions[:256])
    runs, training = [], dict(preset.unet_training, steps=args.steps)
    training.pop("batch_size")
    start = time.perf_counter()

    def measure(pictures):
        made = picture_features(pictures)
        right = int(critic.judge(pictures, scenes)["whole"].sum())
        return dict(whole=right, clip=clip_score(made, text).mean().item(), **compare_sets(real[:args.pictures], made, step_generator(0, 1)))

    floor = measure(book.paint(scenes))

    def look(trainer):
        if trainer.step not in (*LOOKS, args.steps): return
        row = dict(step=trainer.step, training_loss=sum(trainer.losses[-25:]) / len(trainer.losses[-25:]))
        row["raw_loss"] = losses(trainer.model, teacher, known, states)
        pipe.unet = trainer.ema_model.eval()
        row["loss"] = losses(pipe.unet, teacher, known, states)
        row.update(measure(paint_all(pipe, captions, noise, "plain", 2.0)))
        row["seconds"] = round(time.perf_counter() - start)
        runs.append(row)
        print(row, flush=True)
        write_json(dict(command=f"python scripts/metrics_training.py --seed {args.seed}", pictures=args.pictures, batch=args.batch,
                        steps=args.steps, seed=args.seed, bands=BANDS, device="cpu", threads=1, torch=torch.__version__, floor=floor, runs=runs), args.out)

    seed_all(args.seed + 2)
    unet = UNet2DConditionModel(**fitted_unet(preset, pipe.vae)).zero_init()
    trainer = Trainer(unet, diffusion_loss(DDPMScheduler.from_config(SCHEDULER)), latent_batches(data, args.batch, preset.drop),
                      seed=args.seed, ema=0.995, preview=look, preview_every=25, device="cpu", show_bar=False, **training)
    trainer.fit()


if __name__ == "__main__": main()
