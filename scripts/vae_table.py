"""What a VAE costs and what it keeps: f, channels, seconds, PSNR, reading rate.

    python scripts/vae_table.py                writes minidiff/data/results/vae_table.json
    python scripts/vae_table.py --only "stickers 64"

Eighteen minutes on one quiet processor core.

Each row is one VAE, trained with the recipe of the final notebook, and measured on
pictures of the held-out tenth: shapes of 32 and 64 pixels, stickers of 64. The short
rows have the same number of steps and batches; the long ones say how much is left in
more steps. A row that is in the file already is not made again (`--again` does).
"""
import argparse
import sys
import time
from pathlib import Path

import torch

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))

from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import VAE_RECIPE
from minidiff.optimizers import count_parameters
from minidiff.sketchbook import Sketchbook, wilson
from minidiff.stickers import StickerBook
from minidiff.training import Trainer, best_precision, seed_all
from minidiff.vae import evaluate_vae, small_vae, vae_batches, vae_training_loss

BOOKS = dict(shapes=Sketchbook, stickers=StickerBook)
PLAIN = (32, 32, 32)  # the widths of the shipped VAE, without residual blocks between
THIN = (16, 32, 48, 48)
SHORT, LONG = 300, 700  # steps

# book, size, channels, widths, residual blocks a level, steps
ROWS = [
    ("shapes", 32, 4, PLAIN, 0, SHORT),
    ("shapes", 32, 8, PLAIN, 0, SHORT),
    ("shapes", 64, 4, PLAIN, 0, SHORT),
    ("shapes", 64, 4, THIN, 1, SHORT),
    ("shapes", 64, 16, THIN, 1, SHORT),
    ("stickers", 64, 4, PLAIN, 0, SHORT),
    ("stickers", 64, 4, THIN, 1, SHORT),
    ("stickers", 64, 8, THIN, 1, SHORT),
    ("stickers", 64, 16, THIN, 1, SHORT),
    ("shapes", 64, 16, THIN, 1, LONG),
    ("stickers", 64, 16, THIN, 1, LONG),
]


def row_name(
    book: str,  # "shapes" or "stickers"
    size: int,  # pixels a side
    channels: int,  # of a latent
    widths: tuple,  # of each level
    layers: int,  # residual blocks a level of the encoder
    steps: int,  # of the training
) -> str:
    "What a row is called in the file."
    factor = 2 ** (len(widths) - 1)
    return f"{book} {size}, f {factor}, {channels} channels, {steps} steps"


def about() -> dict:
    "The machine and the versions that a result was made with."
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return dict(device=device, threads=torch.get_num_threads(), torch=torch.__version__,
                precision=best_precision("cuda" if device != "CPU" else "cpu"))


def share(
    right: float,  # the share of right ones
    n: int,  # of so many
) -> dict:  # with the ends of the 95% interval
    "What the file says of one share."
    low, high = wilson(round(right * n), n)
    return dict(share=round(right, 4), low=round(low, 4), high=round(high, 4), n=n)


def make_row(book, size, channels, widths, layers, steps, seed=0, n=400) -> dict:
    "Train one VAE and measure it on `n` held-out pictures."
    name, book = book, BOOKS[book](size)
    seed_all(seed)
    factor = 2 ** (len(widths) - 1)
    vae = small_vae(size, widths, layers, latent_channels=channels)
    batches = vae_batches(book, 16, channels, factor)
    recipe = {**VAE_RECIPE, "steps": steps, "seed": seed, "show_bar": False}
    start = time.process_time()
    trainer = Trainer(vae, vae_training_loss, batches, **recipe).fit()
    cpu_seconds = time.process_time() - start
    vae = vae.float().cpu().eval().requires_grad_(False)
    found = evaluate_vae(vae, book, n, torch.Generator().manual_seed(1))
    numbers = channels * (size // factor) ** 2
    return dict(
        book=name, size=size, factor=factor, channels=channels, widths=list(widths),
        layers=layers, steps=steps, batch_size=16, seed=seed,
        parameters=count_parameters(small_vae(size, widths, layers,
                                              latent_channels=channels)),
        numbers=numbers, times_fewer=round(3 * size ** 2 / numbers, 2),
        seconds=round(trainer.seconds, 1), cpu_seconds=round(cpu_seconds, 1),
        psnr=round(found["psnr"], 2), whole=share(found["whole"], n), **about())


def table(rows: dict) -> str:
    "The rows as text."
    lines = []
    for name, row in rows.items():
        whole = row["whole"]
        lines.append(
            f"{name:48}{row['times_fewer']:5.0f} x {row['cpu_seconds']:6.0f} s "
            f"{row['psnr']:5.1f} dB {whole['share']:6.1%} "
            f"({whole['low']:.1%} to {whole['high']:.1%})")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--only", default="", help="rows whose name contains this")
    option("--steps", type=int, help="other steps for all rows (to try the script)")
    option("--pictures", type=int, default=400, help="held out, to measure on")
    option("--seed", type=int, default=0)
    option("--again", action="store_true", help="also what is in the file already")
    option("--out", type=Path, default=data_folder("results", "vae_table.json"))
    options = parser.parse_args()
    if options.pictures < 1 or options.steps is not None and options.steps < 1:
        parser.error("--steps, --pictures: expected 1 or more")
    if not any(options.only in row_name(*row[:-1], options.steps or row[-1])
               for row in ROWS):
        parser.error(f"--only: no row's name contains {options.only!r}")
    rows = read_json(options.out)["rows"] if options.out.is_file() else {}
    for row in ROWS:
        row = (*row[:-1], options.steps or row[-1])
        name = row_name(*row) + (f", seed {options.seed}" if options.seed else "")
        if options.only not in name or name in rows and not options.again: continue
        rows[name] = make_row(*row, options.seed, options.pictures)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(dict(
            about="Trained by scripts/vae_table.py; `seconds` on a shared machine, "
                  "`cpu_seconds` of its one thread; `whole`: share of held-out "
                  "pictures that the critic reads wholly right after a round through "
                  "the VAE, with its 95% interval.", rows=rows), options.out)
        print(table({name: rows[name]}), flush=True)


if __name__ == "__main__":
    main()
