#!/usr/bin/env python3
"""What the causal mask and the end token of CLIP's text tower are worth, for the chapter on the text encoder.

    python scripts/text_towers.py [--steps 300] [--seeds 0 1 2] [--out minidiff/data/results/text_towers.json]

Trains four pairs of small towers from each seed: the text tower reads backwards only (causal) or both ways, and a text is
its state at the end token, or the mean of the states of all its tokens. All else is as in that chapter. Counted on
held-out scenes: the right caption among seven hard negatives, among a hundred captions, and against the same sentence with
one thing otherwise. Some forty seconds of one core for each run. The file is written after each run.
"""
import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from minidiff.files import write_json
from minidiff.negatives import contrastive_batches, pick_caption
from minidiff.sketchbook import Sketchbook, choose_mentioned
from minidiff.text_encoder import TextAndPictures, causal_mask, contrastive_loss, small_clip
from minidiff.tokenizer import caption_tokenizer
from minidiff.training import Trainer, seed_all, step_generator
from text_ablations import BATCH, CHANGES, PICTURES, SIZES, TRAINING, against

VARIANTS = {"causal, end token": (True, False), "causal, mean": (True, True),
            "both ways, end token": (False, False), "both ways, mean": (False, True)}


class Towers(TextAndPictures):
    "A text tower and an image encoder; which tokens may look at which, and what stands for the text, can be chosen."
    def __init__(self, both, causal, mean):
        super().__init__(both.text_model, both.image_encoder)
        self.causal, self.mean = causal, mean

    def embed_text(self, ids):
        tower, length = self.text_model, ids.shape[1]
        end = tower.end_positions(ids)
        real = torch.arange(length) <= end[:, None]  # no padding
        mask = real[:, None, None]
        if self.causal: mask = mask & causal_mask(length)
        states = tower.final_layer_norm(tower.encoder(tower.embeddings(ids), mask)[-1])
        pooled = states[torch.arange(len(ids)), end]
        if self.mean: pooled = (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return F.normalize(self.image_encoder.text_features(pooled).float(), dim=-1)


@torch.no_grad()
def among(model, tokenizer, book, n=100, sets=20):
    "How often a held-out picture fits its own caption best, among those of n held-out pictures."
    found = 0
    for i in range(sets):
        generator = step_generator(5, i)
        scenes = book.sample_scenes(n, generator, 2, "heldout")
        scenes.mentioned = choose_mentioned(scenes, generator)
        captions = book.caption(scenes, generator, scenes.mentioned)[0]
        ids = tokenizer(captions, padding="longest", return_tensors="pt").input_ids
        cosines = model.embed_images(book.paint(scenes)) @ model.embed_text(ids).T
        found += (cosines.argmax(1) == torch.arange(n)).sum().item()
    return found / (n * sets)


def run(book, tokenizer, seed, steps, causal, mean):
    seed_all(seed)
    model = Towers(small_clip(tokenizer, book.size, **SIZES), causal, mean)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, contrastive_loss, contrastive_batches(book, tokenizer, BATCH), steps=steps, seed=seed,
                          name="text", out=Path(folder), device="cpu", show_bar=False, **TRAINING)
        trainer.fit()
    model = trainer.ema_model.eval()
    pairs = {name: against(model, tokenizer, book, change) for name, change in CHANGES.items()}
    return {"picked": pick_caption(model, tokenizer, book, PICTURES, seed=1),
            "among 100": among(model, tokenizer, book), **pairs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("minidiff/data/results/text_towers.json"))
    args = parser.parse_args()
    book = Sketchbook(32)
    tokenizer = caption_tokenizer(book)
    found = {name: [] for name in VARIANTS}
    for seed in args.seeds:
        for name, (causal, mean) in VARIANTS.items():
            start = time.perf_counter()
            found[name].append(run(book, tokenizer, seed, args.steps, causal, mean))
            print(f"seed {seed}, {name}: {found[name][-1]} in {time.perf_counter() - start:.0f} s", flush=True)
            write_json(dict(command=f"python scripts/text_towers.py --steps {args.steps} --seeds {' '.join(map(str, args.seeds))}",
                            device="cpu", threads=torch.get_num_threads(), steps=args.steps, seeds=args.seeds, batch_size=BATCH,
                            pictures=PICTURES, sizes=SIZES, torch=torch.__version__, right=found), args.out)


if __name__ == "__main__": main()
