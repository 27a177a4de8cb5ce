#!/usr/bin/env python3
"""What each choice in the contrastive training of the words is worth, for the chapter on the text encoder.

    python scripts/text_ablations.py [--steps 300] [--seeds 0 1] [--only "AdamW at 0.001"]

Trains the small towers of that chapter with one thing left out at a time, from several seeds, and counts how often the
right caption is picked among seven hard negatives, for held-out pictures; and how often it wins against one caption in
which just one thing is otherwise. Some forty seconds of one core for each run.
The file is written after each run; with --only, runs of other variants that are in it already stay.
"""
import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from minidiff.files import read_json, write_json
from minidiff.sketchbook import Sketchbook, choose_mentioned
from minidiff.negatives import contrastive_batches, describe
from minidiff.negatives import pick_caption
from minidiff.text_encoder import clip_loss, contrastive_loss, small_clip
from minidiff.tokenizer import caption_tokenizer
from minidiff.training import Trainer, seed_all, step_generator

SIZES = dict(width=64, layers=2, widths=(16, 32, 64))
TRAINING = dict(lr=1e-2, ema=0.98, optimizer="muon", channels_last=True)
BATCH, PICTURES = 64, 2000


def free_batches(book, tokenizer, n):
    "`contrastive_batches`, with scenes drawn freely in place of the hard negatives."
    def batch(generator):
        scenes = book.sample_scenes(n, generator)
        scenes.mentioned = choose_mentioned(scenes, generator)
        captions = describe(book, scenes, generator) + describe(book, scenes, generator)
        ids = tokenizer(captions, padding="longest", return_tensors="pt").input_ids
        return dict(images=book.paint(scenes), ids=ids.unflatten(0, (2, -1)).transpose(0, 1).contiguous())
    return batch


def pictures_only(model, batch):
    "`contrastive_loss` without the contrast of one caption with another."
    pictures, texts = model.embed_images(batch["images"]), model.embed_text(batch["ids"][:, 0])
    return clip_loss(pictures, texts, model.logit_scale)


def tiny_positions(model):
    nn.init.normal_(model.text_model.embeddings.position_embedding.weight, std=0.01)


VARIANTS = {"as it is": {}, "scenes drawn freely": dict(batches=free_batches),
            "pictures alone": dict(loss=pictures_only), "tiny positions": dict(change=tiny_positions),
            "AdamW at 0.001": dict(optimizer="adamw", lr=1e-3), "AdamW at 0.003": dict(optimizer="adamw", lr=3e-3),
            "AdamW at 0.01": dict(optimizer="adamw", lr=1e-2)}


CHANGES = {"background": lambda s: replace(s, background=(s.background + 1) % 6),
           "colours exchanged": lambda s: replace(s, color=s.color.flip(1)),
           "shapes exchanged": lambda s: replace(s, kind=s.kind.flip(1)),
           "relation turned": lambda s: replace(s, relation=s.relation ^ 1)}


@torch.no_grad()
def against(model, tokenizer, book, change, n=PICTURES):
    "How often a picture fits its caption better than the same sentence with one thing changed."
    generator = step_generator(3, 0)
    scenes = book.sample_scenes(n, generator, 2, "heldout")
    scenes.mentioned = choose_mentioned(scenes, generator)
    pictures, texts, cosines = model.embed_images(book.paint(scenes)), [], []
    for told in (scenes, change(scenes)):
        texts.append(book.caption(told, step_generator(4, 0), scenes.mentioned)[0])
        ids = tokenizer(texts[-1], padding="longest", return_tensors="pt").input_ids
        cosines.append((pictures * model.embed_text(ids)).sum(-1))
    differ = torch.tensor([one != other for one, other in zip(*texts)])
    return (cosines[0] > cosines[1])[differ].float().mean().item()


def run(book, tokenizer, seed, steps, batches=contrastive_batches, loss=contrastive_loss, change=None, **training):
    seed_all(seed)
    model = small_clip(tokenizer, book.size, **SIZES)
    if change: change(model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, loss, batches(book, tokenizer, BATCH), steps=steps, seed=seed, name="text",
                          out=Path(folder), device="cpu", show_bar=False, **{**TRAINING, **training})
        trainer.fit()
    model = trainer.ema_model.eval()
    pairs = {name: against(model, tokenizer, book, change) for name, change in CHANGES.items()}
    return {"picked": pick_caption(model, tokenizer, book, PICTURES, seed=1), **pairs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("minidiff/data/results/text_ablations.json"))
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    args = parser.parse_args()
    book = Sketchbook(32)
    tokenizer = caption_tokenizer(book)
    before = read_json(args.out)["right"] if args.out.is_file() else {}
    found = {name: [] if name in args.only else before.get(name, []) for name in VARIANTS}
    for seed in args.seeds:
        for name in args.only:
            start = time.perf_counter()
            found[name].append(run(book, tokenizer, seed, args.steps, **VARIANTS[name]))
            print(f"seed {seed}, {name}: {found[name][-1]} in {time.perf_counter() - start:.0f} s", flush=True)
            write_json(dict(command=f"python scripts/text_ablations.py --steps {args.steps} --seeds {' '.join(map(str, args.seeds))}",
                            device="cpu", threads=torch.get_num_threads(), steps=args.steps, seeds=args.seeds, batch_size=BATCH, pictures=PICTURES, sizes=SIZES,
                            torch=torch.__version__, right=found), args.out)


if __name__ == "__main__": main()
