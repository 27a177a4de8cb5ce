#!/usr/bin/env python3
"""Train the sticker painter on a graphics card; the package's second model is one such run.

    python scripts/train_stickers.py [--out runs/stickers]     some minutes on an H100
    python scripts/train_stickers.py --tiny                    does it work? seconds, CPU

Three stages, as in chapter 16: VAE, text encoder, U-Net. What differs is made for speed.
All pictures are drawn beforehand, by several processes, and lie on the card as bytes;
batches are picked there; and a whole step, with Muon, is recorded once as a CUDA graph
and replayed. So a seed decides the pictures and the first weights, but what a card rounds
differs, and two runs are alike, not equal. scripts/ship_stickers.py makes the package's
weights of what this leaves behind, and judges them.
"""
import argparse
import copy
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from minidiff.files import write_json
from minidiff.latent_diffusion import SCHEDULER, unet_config
from minidiff.negatives import describe
from minidiff.optimizers import count_parameters, orthogonalize
from minidiff.pipeline import LatentDiffusionPipeline
from minidiff.runs import caption_grid
from minidiff.samplers import DPMSolverMultistepScheduler
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Scenes, choose_mentioned
from minidiff.stickers import StickerBook
from minidiff.text_encoder import contrastive_loss, small_clip
from minidiff.tokenizer import CLIPTokenizer, caption_tokenizer
from minidiff.training import seed_all, step_generator
from minidiff.vae import measure_scaling_factor, small_vae, vae_training_loss

CHANNELS, WIDTH = 16, 192  # of a latent; of a token's vector


@dataclass
class Sizes:
    "How much of everything; these are the numbers of the run that is shipped."
    lots: int = 400  # of pictures, each drawn by one process
    groups: int = 128  # in a lot: a scene and three that are nearly the same
    vae_steps: int = 4883
    vae_batch: int = 64
    text_steps: int = 2858
    text_batch: int = 1024
    unet_steps: int = 19_684
    unet_batch: int = 256
    unet_widths: tuple = (96, 192)
    captions: int = 1000  # of each kind, painted at the end


TINY = Sizes(2, 8, 6, 4, 6, 8, 8, 4, (16, 32), 4)


# --- pictures, by processes

def draw_lot(job):
    """Draw a lot of pictures and two captions of each into files; a scene's near misses are its neighbours."""
    seed, groups, folder, vocabulary = job
    torch.set_num_threads(1)
    book = StickerBook(64)
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary)
    generator = torch.Generator().manual_seed(seed)
    one = book.sample_scenes(int(groups * 0.34), generator, 1, "train")
    two = book.sample_scenes(groups - len(one), generator, 2, "train")
    scenes = Scenes.cat([one, two])
    scenes.mentioned = choose_mentioned(scenes, generator)
    near = [book.vary(scenes, generator) for _ in range(3)]
    scenes = Scenes.cat([scenes, *near])
    order = torch.arange(len(scenes)).view(4, -1).T.flatten()
    captions = [describe(book, scenes, generator) for _ in range(2)]
    ids = [tokenizer(lines, padding="max_length", return_tensors="pt").input_ids[order]
           for lines in captions]
    images = ((book.paint(scenes)[order] + 1) * 127.5).round().byte()
    np.save(f"{folder}/images{seed}.npy", images.numpy())
    np.save(f"{folder}/ids{seed}.npy", torch.stack(ids, 1).short().numpy())


def draw_pictures(sizes, tokenizer, device):
    """Bytes (n, 3, 64, 64) and ids (n, 2, L) on the device."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(Path(folder) / "tokenizer")
        jobs = [(k, sizes.groups, folder, f"{folder}/tokenizer") for k in range(sizes.lots)]
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            list(pool.map(draw_lot, jobs))
        found = {name: torch.cat([torch.from_numpy(np.load(f"{folder}/{name}{k}.npy")).to(device)
                                  for k in range(sizes.lots)]) for name in ("images", "ids")}
    return found["images"], found["ids"].long()


# --- a step that can be recorded

class RecordedMuon:
    """Muon whose rate is a tensor, and whose matrices of one shape are turned at once; AdamW for the rest."""

    def __init__(self, model, lr, betas, weight_decay=0.01, clip=1.0):
        self.top, self.momentum, self.decay, self.clip = lr, betas[0], weight_decay, clip
        self.params = [p for p in model.parameters() if p.requires_grad]
        device = self.params[0].device
        self.rate, self.small = (torch.zeros((), device=device) for _ in range(2))
        turned = [p for p in self.params if p.dim() >= 2 and min(len(p), p[0].numel()) >= 16]
        self.shapes = {}
        for p in turned: self.shapes.setdefault((len(p), p[0].numel()), []).append(p)
        self.means = {shape: [torch.zeros_like(p) for p in params] for shape, params in self.shapes.items()}
        known = set(map(id, turned))
        self.adam = torch.optim.AdamW([p for p in self.params if id(p) not in known], lr=self.small, betas=betas,
                                      weight_decay=0.0, capturable=device.type == "cuda", foreach=device.type == "cuda")

    def set_rate(self, factor):
        """The rate of the next step, as a share of the top one."""
        self.rate.fill_(self.top * factor)
        self.small.fill_(self.top * factor / 4)

    def step(self):
        """Clip, turn, move."""
        nn.utils.clip_grad_norm_(self.params, self.clip)
        with torch.no_grad():
            for shape, params in self.shapes.items():
                grads, mean = [p.grad for p in params], self.means[shape]
                torch._foreach_lerp_(mean, grads, 1 - self.momentum)
                ahead = torch._foreach_lerp(grads, mean, self.momentum)
                turned = orthogonalize(torch.stack([a.flatten(1) for a in ahead])).float()
                turned = turned * (self.rate * 0.2 * max(shape) ** 0.5)
                torch._foreach_mul_(params, 1 - self.rate * self.decay)
                torch._foreach_sub_(params, [x.view(p.shape) for p, x in zip(params, turned)])
        self.adam.step()


class RecordedStep:
    """Loss, gradients, optimiser and average of the weights: on a GPU one launch."""

    def __init__(self, model, loss, batch, optimizer, ema):
        self.model, self.loss, self.optimizer, self.ema = model, loss, optimizer, ema
        self.batch = {k: v.clone() for k, v in batch.items()}
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.device = optimizer.rate.device.type
        self.out = torch.zeros((), device=self.device)
        self.graph = None
        optimizer.set_rate(0)
        if self.device == "cuda": self.record()

    def record(self):
        """Four steps that move nothing, and one that is written down."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4): self.take()
        torch.cuda.current_stream().wait_stream(stream)
        for p in self.optimizer.params: p.grad = None
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph): self.take()

    def take(self):
        """One step."""
        for p in self.optimizer.params: p.grad = None
        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            loss = self.loss(self.model, self.batch)
        loss.backward()
        self.out.copy_(loss.detach())
        self.optimizer.step()
        torch._foreach_lerp_(list(self.average.parameters()), [p.detach() for p in self.model.parameters()], 1 - self.ema)

    def __call__(self, batch, factor):
        for k, v in batch.items(): self.batch[k].copy_(v)
        self.optimizer.set_rate(factor)
        self.graph.replay() if self.graph else self.take()


def fit(name, model, loss, batch, steps, lr, ema, report, betas=(0.9, 0.95), decay=0.4, warmup=30):
    """Train; the moving average of the weights comes back."""
    model.train()
    step = RecordedStep(model, loss, batch(), RecordedMuon(model, lr, betas), ema)
    start, losses = time.perf_counter(), []
    for i in range(steps):
        step(batch(), min(1, (i + 1) / warmup, (steps - i) / (decay * steps)))
        if (i + 1) % max(1, steps // 20) == 0: losses.append((i + 1, round(step.out.item(), 4)))
    seconds = time.perf_counter() - start
    for key, value in dict(seconds=round(seconds, 1), steps=steps, losses=losses, parameters=count_parameters(model)).items():
        report.setdefault(key, {})[name] = value
    print(f"{name}: {steps:,} steps in {seconds:.0f} s, loss {losses[-1][1]}", flush=True)
    return step.average.eval().requires_grad_(False)


# --- the three stages

class Training:
    """Pictures, and what is learnt from them, one after the other."""

    def __init__(self, sizes, seed=0):
        self.sizes, self.seed, self.report = sizes, seed, {}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.book = StickerBook(64)
        self.tokenizer = caption_tokenizer(self.book, 8000, vocab_size=2048)
        self.images, self.ids = draw_pictures(sizes, self.tokenizer, self.device)
        self.scheduler = DPMSolverMultistepScheduler(**SCHEDULER)

    def pixels(self, i): return self.images[i].float() / 127.5 - 1
    def pick(self, n): return torch.randint(len(self.images), (n,), device=self.device)

    def train_vae(self):
        """Pictures to latents and back."""
        seed_all(self.seed)
        n = self.sizes.vae_batch
        def batch():
            noise = torch.randn(n, CHANNELS, 8, 8, device=self.device)
            return dict(images=self.pixels(self.pick(n)), noise=noise)
        vae = small_vae(64, (32, 64, 96, 96), 1, latent_channels=CHANNELS).to(self.device)
        self.vae = fit("vae", vae, vae_training_loss, batch, self.sizes.vae_steps, 8e-3, 0.995, self.report)
        measure_scaling_factor(self.vae, self.pixels(slice(1024)))

    def train_text(self):
        """Captions to vectors, beside an image encoder that sees half the pixels a side."""
        seed_all(self.seed + 1)
        n = self.sizes.text_batch // 4
        def batch():
            group = torch.randint(len(self.images) // 4, (n,), device=self.device)
            i = (group[:, None] * 4 + torch.arange(4, device=self.device)).flatten()
            return dict(images=F.avg_pool2d(self.pixels(i), 2), ids=self.ids[i])
        clip = small_clip(self.tokenizer, 32, WIDTH, 3, 6, (32, 64, 128)).to(self.device)
        self.clip = fit("text", clip, contrastive_loss, batch, self.sizes.text_steps, 1e-2, 0.99, self.report)

    @torch.no_grad()
    def make_latents(self):
        """What the U-Net learns from: means, deviations, states of both captions and of the empty one."""
        text = self.clip.text_model
        means, stds, states = [], [], []
        for lot in torch.arange(len(self.images)).split(1024):
            posterior = self.vae.encode(self.pixels(lot.to(self.device)))
            means.append(self.vae.scale(posterior.mean).half())
            stds.append((posterior.std * self.vae.config.scaling_factor).half())
            found = text(self.ids[lot.to(self.device)].flatten(0, 1)).last_hidden_state
            states.append(found.unflatten(0, (-1, 2)).bfloat16())
        empty = self.tokenizer([""], padding="max_length", return_tensors="pt").input_ids
        self.empty = text(empty.to(self.device)).last_hidden_state[0].bfloat16()
        self.mean, self.std, self.states = (torch.cat(x) for x in (means, stds, states))

    def unet_batch(self):
        """Latents, noise, timesteps and captions, of which one in twenty is left out."""
        n, device = self.sizes.unet_batch, self.device
        i, which = self.pick(n), torch.randint(2, (n,), device=device)
        silent = torch.rand(n, device=device) < 0.05
        states = torch.where(silent[:, None, None], self.empty, self.states[i, which]).float()
        x0 = self.mean[i].float() + self.std[i].float() * torch.randn(n, CHANNELS, 8, 8, device=device)
        t = (torch.sigmoid(0.3 + 1.2 * torch.randn(n, device=device)) * 1000).long().clamp(max=999)
        return dict(x0=x0, noise=torch.randn_like(x0), states=states, t=t)

    def train_unet(self):
        """Noisy latents and a caption to the velocity."""
        seed_all(self.seed + 2)
        widths = self.sizes.unet_widths
        unet = UNet2DConditionModel(**unet_config(
            widths, 8, cross_attention_dim=WIDTH, in_channels=CHANNELS, out_channels=CHANNELS,
            norm_num_groups=min(16, widths[0] // 2))).zero_init().to(self.device)
        shares = torch.as_tensor(self.scheduler.alphas_cumprod, dtype=torch.float32).to(self.device)
        def loss(unet, batch):
            share = shares[batch["t"]].view(-1, 1, 1, 1)
            noisy = share.sqrt() * batch["x0"] + (1 - share).sqrt() * batch["noise"]
            target = share.sqrt() * batch["noise"] - (1 - share).sqrt() * batch["x0"]
            return F.mse_loss(unet(noisy, batch["t"], batch["states"]).float(), target)
        unet = fit("unet", unet, loss, self.unet_batch, self.sizes.unet_steps, 5e-3, 0.999, self.report, betas=(0.85, 0.99))
        return LatentDiffusionPipeline(self.vae, self.clip.text_model, self.tokenizer, unet, self.scheduler)

    @torch.no_grad()
    def judge(self, pipe, n_objects, out):
        """Shares of held-out captions that are painted right."""
        n = self.sizes.captions
        scenes = self.book.sample_scenes(n, step_generator(self.seed, 2**29 + n_objects), n_objects, "heldout")
        captions, scenes.mentioned = self.book.caption(scenes, step_generator(self.seed, 2**28 + n_objects))
        noise = pipe.start_latents(n, generator=step_generator(self.seed + n_objects, 2**30))
        images = torch.cat([
            pipe(captions[i:i + 250], latents=noise[i:i + 250], num_inference_steps=20, guidance_scale=2.0, output_type="pt").cpu()
            for i in range(0, n, 250)])
        caption_grid(captions[:32], images[:32]).savefig(out / "captions.png")
        found = self.book.critic().score(images, scenes)
        return {k: round(v, 4) for k, v in found.items() if v == v}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/stickers"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it works")
    options = parser.parse_args()
    training = Training(TINY if options.tiny else Sizes(), options.seed)
    training.train_vae()
    training.train_text()
    training.make_latents()
    pipe = training.train_unet()
    pipe.save_pretrained(options.out / "pipeline")
    training.clip.image_encoder.save_pretrained(options.out / "pipeline" / "image_encoder")
    accuracy = dict(one_sticker=training.judge(pipe, 1, options.out), two_stickers=training.judge(pipe, 2, options.out))
    name = torch.cuda.get_device_name() if training.device == "cuda" else "CPU"
    write_json(dict(training.report, accuracy=accuracy, pictures=len(training.images), seed=options.seed,
                    device=name, torch=torch.__version__), options.out / "results.json")
    print(accuracy)


if __name__ == "__main__": main()
