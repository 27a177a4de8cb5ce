#!/usr/bin/env python3
"""Does Dali bind the colours to the shapes? One net with two ears, and one ear stopped: for the chapter on conditioning.

    python scripts/two_ears.py [--steps 500] [--seeds 0 1] [--out minidiff/data/results/two_ears.json]

A U-Net half as wide as the shipped one takes a caption in two ways: as one vector added to the time vector, and
as one vector a token by cross-attention. It is trained four times from one start, on one row of batches, and hears
by one way alone: a class label (a trained row for each combination of kinds, colours and place or relation), the words
as a bag (the sum of their rows in the encoder's table), the encoder's pooled vector, or all its states. What the other
way gets is the same for every caption. A class of which no picture was shown keeps its first, random row; so the
classes are judged by captions of the training part too. The shipped VAE and text encoder stay as they are.
The pictures are plain ones, so that a short training will do: big circles, squares and rings in eight colours on white.
Some two minutes of one core for each run; the file is written after each.
"""
import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from minidiff.files import write_json
from minidiff.latent_diffusion import SCHEDULER, draw_timesteps, open_run, unet_config
from minidiff.samplers import DPMSolverMultistepScheduler
from minidiff.scheduler import DDPMScheduler, sample, training_target
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import COLORS, KINDS, PLACES, RELATIONS, Sketchbook, arrange
from minidiff.training import Trainer, seed_all, step_generator

WIDTHS, BATCH, PICTURES, CAPTIONS, STEPS = (32, 64), 48, 12_000, 400, 10
FEW = "circle", "square", "ring"
EARS = "classes", "bag", "pooled", "attention"
THINGS = len(KINDS) * len(COLORS)
CLASSES = THINGS * len(PLACES) + THINGS ** 2 * len(RELATIONS) // 2


class Rows(nn.Module):
    """A vector for each class; flat, because a table is AdamW's and Muon turns whatever has two sides.

    A row is seen seldom, so it is stored as a fiftieth of itself: AdamW's step is then fifty times as large."""
    def __init__(self):
        super().__init__()
        self.flat = nn.Parameter(torch.randn(CLASSES * 128) / 50)

    def forward(self, labels): return 50 * self.flat.view(CLASSES, 128)[labels[:, 0].long()]


def labels_of(scenes):
    "(n, 1): the number of each scene's class. A below B is B above A."
    thing = scenes.kind * len(COLORS) + scenes.color
    thing = torch.where((scenes.relation % 2 == 1)[:, None] & (thing[:, 1:] >= 0), thing.flip(1), thing)
    one = thing[:, 0] * len(PLACES) + scenes.place
    two = THINGS * len(PLACES) + (thing[:, 0] * THINGS + thing[:, 1]) * (len(RELATIONS) // 2) + scenes.relation // 2
    return torch.where(scenes.n_objects == 1, one, two)[:, None].float()


def build(seed, ear):
    seed_all(seed)
    given = dict(addition_embed_type=None, class_embed_type="projection", projection_class_embeddings_input_dim=128)
    net = UNet2DConditionModel(**unet_config(WIDTHS, 8, **given)).zero_init()
    if ear == "classes": net.rows = Rows()
    return net


def vector_of(net, vectors): return net.rows(vectors) if hasattr(net, "rows") else vectors


def plain_scenes(book, n, generator, n_objects, split):
    "Big circles, squares and rings on white; and captions that name kinds, colours, and place or relation."
    scenes = book.sample_scenes((4 if n_objects == 1 else 10) * n, generator, n_objects, split)
    kinds = torch.tensor([[*KINDS].index(name) for name in FEW])
    known = ((scenes.kind[..., None] == kinds).any(-1) | (scenes.kind < 0)).all(1)
    scenes = scenes[known.nonzero()[:n, 0]]
    scenes.size = torch.where(scenes.kind >= 0, 1, -1)
    scenes.background[:] = 0
    scenes.position = arrange(scenes, torch.rand(n, 2, 2, generator=generator) * 2 - 1)
    for name in ("size", "background"): scenes.mentioned[name] = torch.zeros_like(scenes.mentioned[name])
    return scenes, book.caption(scenes, generator, scenes.mentioned)[0]


@torch.no_grad()
def hear(pipe, captions, scenes, ear):
    "What the net is given: (n, 128), or labels (n, 1), for the time vector; (n, 32, 128) for the attention."
    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    vector = torch.zeros(len(ids), 128)
    states = pipe.encode_prompt([""]).expand(len(ids), -1, -1)
    if ear == "classes": return labels_of(scenes), states
    if ear == "attention": return vector, encoder(ids).last_hidden_state
    if ear == "pooled": return encoder(ids).pooler_output, states
    words = ((ids != tokenizer.bos_token_id) & (ids != tokenizer.eos_token_id)).float()[..., None]
    rows = encoder.embeddings.token_embedding.weight[ids]
    rows = rows / encoder.embeddings.token_embedding.weight.std()
    return (rows * words).sum(1) / words.sum(1).clamp(min=1) ** 0.5, states


@torch.no_grad()
def shrink(pipe, book):
    "Latents of the training pictures, and their captions and scenes, in lots."
    generator, latents, lots = step_generator(0, 2 ** 31), [], []
    for k in range(PICTURES // 240):
        scenes, lines = plain_scenes(book, 240, generator, 1 if k % 3 == 0 else 2, "train")
        latents.append(pipe.vae.scale(pipe.vae.encode(book.paint(scenes)).mean))
        lots.append((lines, scenes))
    return torch.cat(latents), lots


def batches(latents, heard):
    vectors, states = heard
    def batch(generator):
        i = torch.randint(len(latents), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator)
        return dict(latents=latents[i], noise=noise, vectors=vectors[i].float(), states=states[i].float(),
                    timesteps=draw_timesteps(BATCH, generator))
    return batch


def make_loss(teacher):
    def loss(net, batch):
        x0, noise, t = batch["latents"], batch["noise"], batch["timesteps"]
        answer = net(teacher.add_noise(x0, noise, t), t, batch["states"], class_labels=vector_of(net, batch["vectors"]))
        return F.mse_loss(answer.float(), training_target(teacher, x0, noise, t))
    return loss


@torch.no_grad()
def paint(net, pipe, captions, scenes, ear, seed):
    scheduler, pictures = DPMSolverMultistepScheduler(**SCHEDULER), []
    noise = torch.randn(len(captions), 4, 8, 8, generator=step_generator(seed, 2 ** 30))
    for i in range(0, len(captions), 100):
        vector, states = hear(pipe, captions[i:i + 100], scenes[i:i + 100], ear)
        vector = vector_of(net, vector)
        model = lambda x, t: net(x, t, states, class_labels=vector)
        z = sample(model, scheduler, noise[i:i + 100], STEPS)
        pictures.append(pipe.vae.decode(z / pipe.vae.config.scaling_factor))
    return torch.cat(pictures)


def judge(net, pipe, book, ear, split="heldout"):
    "Counts, of so many captions of one part of the book: wholly right; and of two different things, whether each has its colour."
    critic, found = book.critic(), {}
    for n_objects in (1, 2):
        scenes, captions = plain_scenes(book, CAPTIONS, step_generator(0, 2 ** 29 + n_objects), n_objects, split)
        pictures = paint(net, pipe, captions, scenes, ear, n_objects)
        right, seen = critic.judge(pictures, scenes), critic.read(pictures)
        row = {name: int(right[name].sum()) for name in ("whole", "kind", "color", "count")} | dict(n=CAPTIONS)
        if n_objects == 2:
            differ = (scenes.kind[:, 0] != scenes.kind[:, 1]) & (scenes.color[:, 0] != scenes.color[:, 1])
            same = lambda name: (getattr(seen, name).sort(1).values == getattr(scenes, name).sort(1).values).all(1)
            pair = lambda s: (s.kind * 8 + s.color).sort(1).values
            things = differ & same("kind") & same("color")
            bound = things & (pair(seen) == pair(scenes)).all(1)
            placed = bound & right["relation"]
            row |= dict(differ=int(differ.sum()), things=int(things.sum()), bound=int(bound.sum()), placed=int(placed.sum()))
        found[f"{n_objects} objects"] = row
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ears", nargs="+", default=EARS, choices=EARS)
    parser.add_argument("--out", type=Path, default=Path("minidiff/data/results/two_ears.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    book, pipe = Sketchbook(32), open_run()
    teacher = DDPMScheduler(**SCHEDULER)
    latents, shown = shrink(pipe, book)
    runs = []
    heard = {}
    for ear in args.ears:
        lots = [hear(pipe, *lot, ear) for lot in shown]
        states = lots[0][1] if ear != "attention" else None  # the same for every caption
        heard[ear] = torch.cat([v for v, _ in lots]), (states[:1].expand(PICTURES, -1, -1) if states is not None
                                                       else torch.cat([s.bfloat16() for _, s in lots]))
    for seed in args.seeds:
        for ear in args.ears:
            start, net = time.process_time(), build(seed, ear)
            trainer = Trainer(net, make_loss(teacher), batches(latents, heard[ear]), steps=args.steps, lr=5e-3, decay=0.4,
                              betas=(0.85, 0.99), optimizer="muon", channels_last=True, ema=0.99, seed=seed, device="cpu",
                              show_bar=False)
            trainer.fit()
            judged = trainer.ema_model.eval()
            score = judge(judged, pipe, book, ear)
            if ear == "classes": score["of the training part"] = judge(judged, pipe, book, ear, "train")
            losses = [round(sum(trainer.losses[i:i + 20]) / 20, 4) for i in range(0, args.steps - 19, 20)]
            runs.append(dict(ear=ear, seed=seed, seconds=round(time.process_time() - start), **score, losses=losses))
            print({k: v for k, v in runs[-1].items() if k != "losses"}, losses[-1:], flush=True)
            write_json(dict(command="python scripts/two_ears.py", steps=args.steps, batch_size=BATCH, widths=WIDTHS,
                            pictures=PICTURES, device="cpu", threads=1, torch=torch.__version__, runs=runs), args.out)


if __name__ == "__main__": main()
