#!/usr/bin/env python3
"""Does it matter that a DiT's gates begin closed? Trains small ones, for chapter 15.

    nice -n 19 python scripts/transformer_gates.py

Class-conditional DiTs of 3 and of 12 blocks, on the latents of one-object pictures (the class is the kind of the
object), three seeds each: gates that begin at 0 (adaLN-zero), gates that begin at 1 (a plain transformer), and all
layers as PyTorch draws them. In all but the last, time and class begin unheard and the last layer says 0.
One thread; writes minidiff/data/results/transformer_gates.json after every run, and leaves out what is there.
"""
import platform
import time

import torch
from torch.nn import functional as F

from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import open_run
from minidiff.maths import straight_path
from minidiff.sketchbook import Sketchbook
from minidiff.training import Trainer, seed_all, step_generator
from minidiff.transformer import DiTTransformer2DModel, zero_init

OUT = data_folder("results") / "transformer_gates.json"
STEPS, BATCH, LR = 80, 64, 2e-3


@torch.no_grad()
def draw(n=2000):
    pipe = open_run()
    scenes = Sketchbook(32).sample_scenes(n, step_generator(0, 1), 1, "train")
    pictures = Sketchbook(32).paint(scenes)
    return pipe.vae.scale(pipe.vae.encode(pictures).mean), scenes.kind[:, 0]


def build(gates, blocks, width=64):
    net = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=width // 2, num_layers=blocks, sample_size=8,
                                num_embeds_ada_norm=6)
    if gates != "as drawn":
        zero_init(net)
    if gates == "1":
        for block in net.transformer_blocks:
            block.norm1.linear.bias.data.view(6, width)[[2, 5]] = 1.0  # the two gates of shift, scale, gate, ...
    return net


def main():
    torch.set_num_threads(1)
    latents, classes = draw()

    def batch(generator):
        i = torch.randint(len(latents), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, 4, 8, 8, generator=generator)
        return dict(x0=latents[i], classes=classes[i], noise=noise, t=torch.sigmoid(torch.randn(BATCH, generator=generator)))

    def loss(net, b):
        x, velocity = straight_path(b["x0"], b["noise"], b["t"])
        return F.mse_loss(net(x, 1000 * b["t"], b["classes"]).float(), velocity)
    runs = read_json(OUT)["runs"] if OUT.exists() else []
    for blocks in (12, 3):
        for seed in range(3):
            for gates in ("0", "1", "as drawn"):
                if any((r["gates"], r["blocks"], r["seed"]) == (gates, blocks, seed) for r in runs):
                    continue
                seed_all(seed)
                begun = time.process_time()
                trainer = Trainer(build(gates, blocks), loss, batch, steps=STEPS, lr=LR, seed=seed, device="cpu", show_bar=False)
                trainer.fit()
                curve = [round(sum(trainer.losses[i:i + 4]) / 4, 4) for i in range(0, STEPS, 4)]
                runs.append(dict(gates=gates, blocks=blocks, seed=seed, curve=curve, seconds=round(time.process_time() - begun, 1)))
                print(runs[-1], flush=True)
                where = dict(torch=torch.__version__, machine=platform.machine(), device="cpu", threads=1,
                             command="scripts/transformer_gates.py")
                write_json(dict(where=where, steps=STEPS, batch=BATCH, lr=LR, runs=runs), OUT)


if __name__ == "__main__":
    main()
