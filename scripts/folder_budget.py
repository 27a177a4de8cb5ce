#!/usr/bin/env python3
"""How many minutes do 2,000 pictures of one's own, or the stickers, take on a graphics card? An estimate.

    python scripts/folder_budget.py

Counts the operations and bytes of a step of each stage, as `minidiff.budget` does, for
`Job(preset, book=...)` at 64 pixels, and estimates the minutes on a T4, which Colab
lends for nothing, and on an H100. Nothing here has run on a T4. On an H100, steps of the
same two networks were measured when the shipped painter was trained; they stand beside.
Pictures are not opened: a folder's stages are the stickers', with other captions. Writes minidiff/data/results/folder_budget.json.
"""
import argparse
from unittest.mock import patch

import torch

import gpu_budget
from minidiff.budget import CARDS, estimate
from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import _fit_to_book, book_tokenizer, text_config
from minidiff.runs import resized
from minidiff.stickers import StickerBook
from minidiff.text_encoder import contrastive_loss, small_clip

PRECISIONS = dict(t4="fp16", h100="bf16")


def text_stage(preset, book):
    """The text stage with this book's captions, which are longer than the shapes'."""
    tokenizer = book_tokenizer(book)
    draw = book.contrastive_batches(tokenizer, preset.text_training["batch_size"])
    def batches(generator):
        batch = draw(generator)
        return batch | dict(images=resized(batch["images"], text_config(preset)["size"]))
    make = lambda: small_clip(tokenizer, **text_config(preset))
    return make, contrastive_loss, batches


def stage(name, preset, known=gpu_budget.stage):
    """As gpu_budget's, with the text stage of the stickers."""
    if name == "text": return text_stage(preset, StickerBook(preset.size))
    return known(name, preset)


def row(preset, name, key):
    """What one stage would take on one card."""
    told = getattr(preset, gpu_budget.STAGES[name])
    found, cost = gpu_budget.stage_estimate(name, preset, CARDS[key], PRECISIONS[key])
    at_once = estimate(cost, CARDS[key], PRECISIONS[key], recorded=True)["seconds"]
    return dict(stage=name, card=CARDS[key].name, precision=PRECISIONS[key],
                steps=told["steps"], batch_size=told["batch_size"],
                milliseconds=round(1e3 * found["seconds"], 1),
                all_recorded_ms=round(1e3 * at_once, 1),
                minutes=round(found["seconds"] * told["steps"] / 60, 1),
                gigabytes=round(found["bytes"] / 1e9, 2), fits=found["fits"])


def measured():
    """Milliseconds a step of the shipped painter, whose batches and networks are these.

    scripts/train_stickers.py records the optimiser, too, and picks its batches on the card.
    """
    trained = read_json(data_folder("weights_stickers", "results.json"))
    assert "H100" in trained["device"]
    return {name: round(1e3 * trained["seconds"][name] / trained["steps"][name], 1)
            for name in ("vae", "unet")}


def main():
    """Count, and write the table."""
    argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows = []
    with patch.object(gpu_budget, "stage", stage):
        for size in ("cpu", "gpu"):
            preset, name = _fit_to_book(size, StickerBook(64))
            for key in PRECISIONS:
                for stage_name in gpu_budget.STAGES:
                    rows.append(dict(preset=name, **row(preset, stage_name, key)))
                    print(rows[-1], flush=True)
    write_json(dict(about="Estimates; see scripts/folder_budget.py.", rows=rows,
                    measured_h100_ms=measured()),
               data_folder("results", "folder_budget.json"))


if __name__ == "__main__":
    main()
