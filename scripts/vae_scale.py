"""The leash of a VAE and the size of its latents: what the KL weight and the scale do.

    python scripts/vae_scale.py          writes minidiff/data/results/vae_scale.json

Eight minutes on one quiet processor core.

Three parts (`--part` makes one of them anew):

* maps: the tiny wand of chapter 09, a picture of 16 pixels in two numbers, with KL
  weights from 0 to 10. Random codes are decoded: how near do they come to a picture?
* weights: the small VAE of the chapter, 32 pixels, with KL weights from 0 to 1. What is
  left of a picture, how far do the latents spread, and what do random ones decode to?
* scale: one small diffusion model on the shipped VAE's latents, brought to unit
  variance, and 5.49 times larger, and as many times smaller. How much of a held-out
  description does it paint?
"""
import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root), str(root / "scripts")]

from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import VAE_RECIPE
from minidiff.samplers import DPMSolverMultistepScheduler
from minidiff.scheduler import DDPMScheduler
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import KINDS, Critic, Sketchbook, coverage
from minidiff.training import Trainer, seed_all, step_generator
from minidiff.vae import AutoencoderKL, psnr, small_vae, vae_batches, vae_training_loss
from vae_recipe import as_png
from vae_table import about, share

SD_STD = 1 / 0.18215  # how far the latents of Stable Diffusion's VAE spread
NOISE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
ABOUT = """Made by scripts/vae_scale.py. KL weights are those of `vae_loss`: nats of a \
picture against squared errors summed over it. 0.18215 is one over the standard \
deviation of the latents of a first batch of training pictures (Rombach et al. 2022, \
appendix G; why: R. Rombach in https://github.com/huggingface/diffusers/issues/437): it brings them to unit variance, \
which the noise schedule takes for granted."""


# ---- maps of two numbers

class TinyWand(nn.Module):
    "Chapter 09's wand of two numbers, for grey pictures of 16 x 16."

    def __init__(self, codes: int = 2):  # numbers for a picture
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 128),
            nn.SiLU(), nn.Linear(128, 2 * codes))
        self.decoder = nn.Sequential(
            nn.Linear(codes, 128), nn.SiLU(), nn.Linear(128, 256), nn.SiLU(),
            nn.Linear(256, 256), nn.Unflatten(1, (1, 16, 16)))


def plain_pictures(n: int, generator: torch.Generator) -> Tensor:  # `(n, 1, 16, 16)`
    "Grey pictures of one shape, moved about a little."
    kind = torch.arange(n) % len(KINDS)
    radius = 8 + 6 * torch.rand(n, generator=generator)
    position = 0.5 + 0.02 * torch.randn(n, 2, generator=generator)
    return 2 * coverage(kind, position, radius, 16)[:, None] - 1


@torch.no_grad()
def nearest_psnr(pictures: Tensor, known: Tensor) -> Tensor:  # `(n,)`
    "How near each picture comes to any of the known ones, in decibels."
    gap = torch.cdist(pictures.clamp(-1, 1).flatten(1), known.flatten(1)).min(1).values
    return 10 * torch.log10(4 / (gap.square() / known[0].numel()))


def run_map(kl_weight: float, steps: int, seed: int) -> dict:
    "Train one wand of two numbers; decode places it knows, and random ones."
    seed_all(seed)
    wand = TinyWand()
    generator = torch.Generator().manual_seed(seed)
    plain = plain_pictures(1200, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(wand.parameters(), lr=2e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        x = plain[torch.randint(len(plain), (128,), generator=generator)]
        mean, logvar = wand.encoder(x).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=generator) if kl_weight else 0
        kl = 0.5 * (mean ** 2 + logvar.exp() - 1 - logvar).sum(1).mean()
        decoded = wand.decoder(mean + (logvar / 2).exp() * noise)
        loss = F.mse_loss(decoded, x) + kl_weight * kl / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    known = plain_pictures(6000, torch.Generator().manual_seed(2))
    fresh = plain_pictures(1200, torch.Generator().manual_seed(3))
    with torch.no_grad():
        mean, logvar = wand.encoder(fresh).chunk(2, 1)
        kl = 0.5 * (mean ** 2 + logvar.exp() - 1 - logvar).sum(1).mean()
        again = wand.decoder(mean)
        noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(4))
        near = {"prior": nearest_psnr(wand.decoder(noise), known),
                "matched": nearest_psnr(
                    wand.decoder(mean.mean(0) + noise * mean.std(0)), known)}
    return dict(
        kl_weight=kl_weight, seed=seed, psnr=round(psnr(fresh, again).mean().item(), 2),
        kl=round(kl.item(), 2), std=round(mean.std().item(), 3),
        cloud=round((logvar / 2).exp().mean().item(), 4),
        **{name: dict(nearest_psnr=round(db.mean().item(), 2),
                      near=share((db > 15).float().mean().item(), len(db)))
           for name, db in near.items()})


# ---- weights of the KL

def readable(pictures: Tensor) -> dict:
    "Of how many pictures the critic can say at all what is in them."
    reading = Critic(pictures.shape[-1]).read(pictures)
    return share((reading.n_objects > 0).float().mean().item(), len(pictures))


def run_weight(kl_weight: float, steps: int, seed: int, n: int) -> dict:
    "Train the small VAE with a KL weight; measure it, and decode random latents."
    book = Sketchbook(32)
    seed_all(seed)
    vae = small_vae()
    recipe = {**VAE_RECIPE, "steps": steps, "seed": seed, "show_bar": False}

    def loss(vae, batch):
        if kl_weight: return vae_training_loss(vae, batch, kl_weight)
        return F.mse_loss(vae(batch["images"])[0].float(), batch["images"])

    start = time.process_time()
    Trainer(vae, loss, vae_batches(book), **recipe).fit()
    seconds = time.process_time() - start
    vae = vae.float().cpu().eval().requires_grad_(False)
    scenes = book.sample_scenes(n, torch.Generator().manual_seed(1), split="heldout")
    images = book.paint(scenes)
    posterior = vae.encode(images)
    mean = posterior.mean
    decoded = vae.decode(mean)
    generator = torch.Generator().manual_seed(2)
    shaken = vae.decode(posterior.sample(generator))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    std = mean.std((0, 2, 3), keepdim=True)
    dreams = {"prior": vae.decode(noise),
              "matched": vae.decode(mean.mean((0, 2, 3), keepdim=True) + std * noise)}
    right = book.critic().score(decoded, scenes)
    row = dict(
        kl_weight=kl_weight, seed=seed, psnr=round(psnr(images, decoded).mean().item(), 2),
        psnr_shaken=round(psnr(images, shaken).mean().item(), 2),
        kl=round(posterior.kl().mean().item(), 1),
        std=round(mean.std().item(), 4), scaling_factor=round(1 / mean.std().item(), 4),
        std_of_channels=[round(s, 3) for s in std.flatten().tolist()],
        mean_of_channels=[round(m, 3) for m in mean.mean((0, 2, 3)).tolist()],
        cloud=round(posterior.std.mean().item(), 5),
        whole=share(right["whole"], n), cpu_seconds=round(seconds, 1),
        readable={name: readable(pictures) for name, pictures in dreams.items()})
    return row, torch.cat([decoded[:3], dreams["matched"][:5]])


# ---- the scale of the latents

class Painter(nn.Module):
    "A small U-Net on latents that is told what to paint, one token an attribute."

    def __init__(self, widths: tuple = (32, 64)):  # channels of the two levels
        super().__init__()
        self.words = nn.Embedding(6 + 8 + 2 + 5 + 6, 64)
        self.unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=widths, layers_per_block=1,
            norm_num_groups=8, cross_attention_dim=64, attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))

    def forward(self, xt: Tensor, t: Tensor, words: Tensor) -> Tensor:  # like `xt`
        "The noise in noisy latents `(n, 4, 8, 8)`, given words `(n, 5)`."
        return self.unet(xt, t, self.words(words))


def words_of(scenes) -> Tensor:  # `(n, 5)`
    "Kind, colour, size, place and page of the only object of each scene."
    columns = (scenes.kind[:, 0], scenes.color[:, 0] + 6, scenes.size[:, 0] + 14,
               scenes.place + 16, scenes.background + 21)
    return torch.stack(columns, 1)


@torch.no_grad()
def paint_words(painter, words, scale, steps=20):
    "Latents for words `(n, 5)`, of unit variance again, from the same noise always."
    scheduler = DPMSolverMultistepScheduler(**NOISE, steps_offset=1)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(len(words), 4, 8, 8, generator=generator)
    for t in scheduler.timesteps:
        x = scheduler.step(painter(x, t, words), t, x).prev_sample
    return x / scale


def run_scale(scale: float, steps: int, seed: int, n: int, pool: int) -> tuple:
    "Train a painter on latents of standard deviation `scale`; judge what it paints."
    book = Sketchbook(32)
    vae = AutoencoderKL.from_pretrained(data_folder("weights", "vae")).float().eval()
    vae.requires_grad_(False)
    generator = torch.Generator().manual_seed(6)
    scenes = book.sample_scenes(pool, generator, n_objects=1, split="train")
    latents = torch.cat([vae.scale(vae.encode(part).mode())
                         for part in book.paint(scenes).split(500)])
    spread = latents.std().item()
    latents, words = latents / spread, words_of(scenes)
    noiser = DDPMScheduler(**NOISE)

    def batch(generator):
        i = torch.randint(pool, (64,), generator=generator)
        return dict(x0=scale * latents[i], words=words[i],
                    noise=torch.randn(64, 4, 8, 8, generator=generator),
                    t=torch.randint(1000, (64,), generator=generator))

    def loss(painter, batch):
        xt = noiser.add_noise(batch["x0"], batch["noise"], batch["t"])
        return F.mse_loss(painter(xt, batch["t"], batch["words"]).float(), batch["noise"])

    seed_all(seed)
    start = time.process_time()
    trainer = Trainer(Painter(), loss, batch, steps, lr=5e-3, optimizer="muon",
                      decay=0.4, betas=(0.85, 0.99), ema=None, seed=seed, show_bar=False)
    painter = trainer.fit().model.float()
    seconds = time.process_time() - start
    scenes = book.sample_scenes(n, torch.Generator().manual_seed(7), 1, "heldout")
    found = paint_words(painter, words_of(scenes), scale)
    pictures = vae.decode(vae.unscale(found * spread)).clamp(-1, 1)
    right = book.critic().score(pictures, scenes)
    names = ("kind", "color", "size", "place", "background")
    signal = noiser.alphas_cumprod[-1].item() * scale ** 2
    row = dict(
        scale=round(scale, 4), seed=seed, steps=steps, batch_size=64,
        whole=share(right["whole"], n), readable=readable(pictures),
        **{name: round(right[name], 4) for name in names},
        loss=round(sum(trainer.losses[-100:]) / len(trainer.losses[-100:]), 5),
        std_painted=round(found.std().item(), 3),
        last_snr=round(signal / (1 - noiser.alphas_cumprod[-1].item()), 5),
        cpu_seconds=round(seconds, 1))
    return row, pictures[:10]


# ---- all of it

def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    parts = ["maps", "weights", "scale"]
    option("--part", nargs="+", default=parts, choices=parts)
    option("--steps", type=int, help="other steps for everything (to try the script)")
    option("--pictures", type=int, default=400, help="held out, to measure on")
    option("--pool", type=int, default=6000, help="pictures for the painter")
    option("--seeds", type=int, nargs="+", default=[0])
    option("--weights", type=float, nargs="+",
           default=[0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    option("--out", type=Path, default=data_folder("results", "vae_scale.json"))
    options = parser.parse_args()
    steps = 1 if options.steps is None else options.steps
    if min(steps, options.pictures, options.pool) < 1:
        parser.error("--steps, --pictures, --pool: expected 1 or more")
    if not all(0 <= weight < float("inf") for weight in options.weights):
        parser.error(f"--weights: expected numbers from 0, got {options.weights}")
    out, n = options.out, options.pictures
    found = read_json(out) if out.is_file() else {}
    found |= dict(about=ABOUT, **about())

    def keep(part, rows, pictures=()):
        found[part] = dict(rows=rows)
        if pictures: found[part]["png"] = as_png(pictures)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(found, out)
        print(part, rows[-1], flush=True)

    if "maps" in options.part:
        rows = []
        for seed in options.seeds:
            for weight in (*options.weights, 10.0):
                rows.append(run_map(weight, options.steps or 800, seed))
                keep("maps", rows)
    if "weights" in options.part:
        rows, pictures = [], []
        for seed in options.seeds:
            for weight in options.weights:
                row, seen = run_weight(weight, options.steps or 250, seed, n)
                rows.append(row)
                if seed == options.seeds[0]: pictures.append(seen)
                keep("weights", rows, pictures)
    if "scale" in options.part:
        rows, pictures = [], []
        for seed in options.seeds:
            for scale in (1.0, SD_STD, 1 / SD_STD):
                row, seen = run_scale(scale, options.steps or 600, seed, n,
                                      options.pool)
                rows.append(row)
                if seed == options.seeds[0]: pictures.append(seen)
                keep("scale", rows, pictures)


if __name__ == "__main__":
    main()
