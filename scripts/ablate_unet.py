"""What is each part of chapter 03's plain U-Net good for? Takes them out one by one, and trains again.

    python scripts/ablate_unet.py                       all variants, three seeds: some 15 minutes on one thread
    python scripts/ablate_unet.py --jobs 4              the same, four runs at a time
    python scripts/ablate_unet.py --steps 3000 --only "the whole net" "no words" --out longer.json

The net, the data and the loss are those of the notebook: its cells are run, nothing is written here a second time.
The chapter reads the result, `minidiff/data/results/ablate_unet.json`.
"""
import argparse
import ast
import json
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"nn", "F", "TimestepEmbedding", "Sketchbook", "Trainer", "add_noise", "WORDS", "draw", "PlainUNet",
         "zero_last_layers", "ALPHA_BAR", "batch_fn", "loss_fn", "RECIPE"}
LEVELS = 50, 250, 450, 650, 790, 900, 960


def bound(source):
    "Which names does a cell define or import?"
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def lesson(notebook):
    "The names of the chapter that the experiment needs, from the cells that bind them."
    space = {"torch": torch}
    for cell in json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or "%pip" in source:
            continue
        if source.startswith("#| export"):
            space |= vars(__import__("minidiff.sd_unet", fromlist=["*"]))
        elif bound(source) & NAMES:
            exec(source, space)
    missing = NAMES - space.keys()
    if missing:
        raise SystemExit(f"{notebook} no longer defines {sorted(missing)}")
    return space


class Silence(nn.Module):
    "An attention that says nothing."

    def forward(self, x, *_):
        return torch.zeros_like(x)


def build(variant, space):
    net = space["PlainUNet"]()
    blocks = [module for module in net.modules() if type(module).__name__ == "BasicTransformerBlock"]
    if variant == "no time":
        net.register_forward_pre_hook(lambda _, given: (given[0], 0 * given[1], given[2]))
    if variant == "no words":
        net.register_forward_pre_hook(lambda _, given: (given[0], given[1], 0 * given[2]))
    if variant == "t as it is":
        net.face = lambda t: t[:, None].float().repeat(1, net.width)
    if variant == "t / 1000":
        net.face = lambda t: t[:, None].float().repeat(1, net.width) / 1000
    for block in blocks:
        if variant == "no self-attention":
            block.attn1 = Silence()
    return net if variant == "no zero start" else space["zero_last_layers"](net)


VARIANTS = ("the whole net", "no time", "no self-attention", "no words", "no zero start", "t as it is", "t / 1000")


@torch.no_grad()
def measure(net, space, roll=0):
    "Mean squared error of the predicted noise on 512 held-out pictures, at each of `LEVELS`."
    generator = torch.Generator().manual_seed(1)
    x0, words = space["draw"](512, generator, "heldout")[:2]
    noise, words, errors = torch.randn(x0.shape, generator=generator), words.roll(roll, 0), []
    for level in LEVELS:
        t = torch.full((len(x0),), level)
        guess = net(space["add_noise"](x0, noise, space["ALPHA_BAR"][t]), t, words)
        errors.append(nn.functional.mse_loss(guess, noise).item())
    return errors


def run(job):
    notebook, variant, seed, steps = job
    torch.set_num_threads(1)
    space, start = lesson(notebook), time.process_time()
    torch.manual_seed(seed)
    net = build(variant, space)
    recipe = {**space["RECIPE"], **({"steps": steps} if steps else {})}
    trainer = space["Trainer"](net, space["loss_fn"], space["batch_fn"], seed=seed, device="cpu", show_bar=False, **recipe)
    trainer.fit()
    seconds, losses = time.process_time() - start, trainer.losses
    curve = [sum(losses[i:i + 20]) / 20 for i in range(0, len(losses) - 19, 20)]
    found = dict(variant=variant, seed=seed, steps=len(losses), seconds=round(seconds), errors=measure(net.eval(), space), curve=curve)
    if variant == "the whole net":
        found["misled"] = measure(net, space, roll=1)  # with the words of the next picture
    print(f"{variant}, seed {seed}: {seconds:.0f} s", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notebook", default=ROOT / "nbs/03_sd_unet.ipynb")
    parser.add_argument("--out", default=ROOT / "minidiff/data/results/ablate_unet.json")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", nargs="+", default=VARIANTS, choices=VARIANTS)
    args = parser.parse_args()
    jobs = [(args.notebook, variant, seed, args.steps) for variant in args.only for seed in range(args.seeds)]
    runs = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for found in pool.map(run, jobs):
            runs.append({key: short(value) for key, value in found.items()})
            save(args.out, runs)  # what there is so far


def short(value):
    return [float(f"{v:.4g}") for v in value] if isinstance(value, list) else value


def save(path, runs):
    where = json.dumps(dict(torch=torch.__version__, machine=platform.machine()))
    lines = ",\n  ".join(json.dumps(found) for found in runs)
    Path(path).write_text(f'{{"levels": {list(LEVELS)}, "where": {where}, "runs": [\n  {lines}]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
