"""The recipe of Stable Diffusion's autoencoder in small: what does each ingredient add?

    python scripts/vae_recipe.py         writes minidiff/data/results/vae_recipe.json

Fourteen minutes on one quiet processor core.

Six autoencoders, 64 pixels, f = 8, four channels: 48 times fewer numbers, as in Stable
Diffusion. All go on from the same one, trained with squared errors, noise and KL for the
first `--fork` steps, and see the same batches. From the second to the fifth, each has
one ingredient more, or another, than the one before:

* squared error alone, no noise in the latents (AE);
* noise and KL (VAE);
* absolute errors in place of squared ones;
* a perceptual loss, on features of a small classifier that is trained here (LPIPS,
  Zhang et al. 2018, without the learnt weights of the channels);
* a patch discriminator with the adaptive weight (VQGAN, Esser et al. 2021), which is
  heard when a fifth of these steps are done.

A sixth, the control of the fourth, has the perceptual loss with squared errors. (With
`--fork 0` all start from nothing; give it another `--out`.)

In these the discriminator never learns: the autoencoder changes faster than it can
follow. So the fourth is trained on in slow steps, a twentieth of the learning rate,
once as it was, and once with a discriminator that has first learned alone, from what
the finished autoencoder decodes.

They are measured on held-out pictures: PSNR, gradient energy, what the critic of the
book reads, and the distance in the features of two nets that nobody was trained on.
"""
import argparse
import base64
import copy
import io
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root), str(root / "scripts")]

from minidiff.files import data_folder, read_json, write_json
from minidiff.losses import (
    FeatureNet, PatchDiscriminator, adaptive_weight, gradient_energy, hinge_loss,
    perceptual_loss)
from minidiff.optimizers import Muon, count_parameters, lr_factor, parameter_groups
from minidiff.sketchbook import COLORS, Sketchbook
from minidiff.text_encoder import ImageEncoder
from minidiff.training import best_precision, seed_all, step_generator
from minidiff.vae import AutoencoderKL, psnr, small_vae, vae_batches
from vae_table import BOOKS, about, share

WIDTHS = (16, 32, 48, 48)


# ---- the five stages

@dataclass
class Stage:
    "The loss of one autoencoder."
    name: str
    error: str = "l1"  # or "l2"
    kl_weight: float = 1e-3  # see `vae_loss`; 0: neither noise nor KL
    perceptual: float = 0.0  # weight of the perceptual loss
    adversarial: float = 0.0  # weight of the discriminator, times the adaptive one


PERCEPTUAL, ADVERSARIAL = 0.5, 0.5
START = Stage("the common start", "l2")
STAGES = [
    Stage("squared error", "l2", 0.0),
    Stage("+ noise and KL", "l2"),
    Stage("absolute error", "l1"),
    Stage("+ perceptual", "l1", perceptual=PERCEPTUAL),
    Stage("+ discriminator", "l1", 1e-3, PERCEPTUAL, ADVERSARIAL),
    Stage("control: squared, perceptual", "l2", perceptual=PERCEPTUAL),
]
SLOW = [
    Stage("slow steps: + perceptual", "l1", perceptual=PERCEPTUAL),
    Stage("slow steps: + discriminator", "l1", 1e-3, PERCEPTUAL, ADVERSARIAL),
]


def step_size(optimizer, top, step, steps, decay=0.4):
    "Set the learning rate of a step: a climb, a plateau, a straight descent."
    for group in optimizer.param_groups:
        group["lr"] = top * lr_factor(step, steps, decay=decay)


def train_stage(
    stage: Stage,
    vae: AutoencoderKL,  # trained in place
    book: Sketchbook,
    features: FeatureNet,  # of the perceptual loss
    steps: range,  # which steps of all
    total: int,  # how many there are
    fork: int,  # the step from which stages differ, and the learning rate falls
    seed: int,
    batch_size: int = 16,
    wait: float = 0.2,  # share of `steps` in which the discriminator only learns
    top: float = 8e-3,  # learning rate of the autoencoder
    ahead: int = 0,  # steps of the discriminator alone, before all others
) -> dict:  # what was seen on the way
    "Train an autoencoder with the ingredients of a stage."
    seed_all(seed)
    vae.train().requires_grad_(True)
    discriminator = PatchDiscriminator()
    batches = vae_batches(book, batch_size, 4, vae.factor, n_objects=None)
    optimizer = Muon(parameter_groups(vae, 0.01), betas=(0.9, 0.95))
    their_optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-3,
                                        betas=(0.5, 0.9))
    decay = 1 - fork / total if fork else 0.4
    bf16 = torch.autocast("cpu", torch.bfloat16, best_precision("cpu") == "bf16")
    heard = steps.start + wait * len(steps)
    seen = dict(adaptive=[], hinge=[], ahead=[])

    def teach(x, decoded):
        "One step of the discriminator."
        with bf16:
            hinge = hinge_loss(discriminator(x), discriminator(decoded.detach()))
        their_optimizer.zero_grad()
        hinge.backward()
        their_optimizer.step()
        return hinge.item()

    for step in range(ahead if stage.adversarial else 0):
        batch = batches(step_generator(1000 + seed, step))
        with bf16, torch.no_grad(): decoded, _ = vae(batch["images"], batch["noise"])
        seen["ahead"].append(teach(batch["images"], decoded))
    for step in steps:
        batch = batches(step_generator(seed, step))
        x = batch["images"]
        step_size(optimizer, top, step, total, decay)
        with bf16:
            decoded, posterior = vae(x, batch["noise"] if stage.kl_weight else None)
            gap = decoded.float() - x
            loss = gap.square().mean() if stage.error == "l2" else gap.abs().mean()
            if stage.perceptual:
                distance = perceptual_loss(features, x, decoded).mean()
                loss = loss + stage.perceptual * distance
            total_loss = loss
            if stage.kl_weight:
                kl = posterior.kl().mean() / x[0].numel()
                total_loss = total_loss + stage.kl_weight * kl
            if stage.adversarial and step >= heard:
                adversarial = -discriminator(decoded).float().mean()
                weight = adaptive_weight(loss, adversarial, vae.decoder.conv_out.weight)
                total_loss = total_loss + stage.adversarial * weight * adversarial
                seen["adaptive"].append(weight.item())
        optimizer.zero_grad()
        total_loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if stage.adversarial: seen["hinge"].append(teach(x, decoded))
    vae.eval().requires_grad_(False)
    return seen


# ---- the nets with features

def classes_of(book, scenes) -> Tensor:  # `(n,)`
    "The class of the only object of each scene: sticker, or kind and colour."
    kind = scenes.kind[:, 0]
    return kind * len(COLORS) + scenes.color[:, 0] if book.colors else kind


def train_features(book, steps, seed, batch_size=48, **shape) -> tuple:
    "A `FeatureNet` that knows the objects of a book, and its share right, held out."
    seed_all(seed)
    classes = book.kinds * max(1, book.colors)
    net = FeatureNet(classes, **shape)
    optimizer = Muon(parameter_groups(net, 0.01), betas=(0.9, 0.95))
    bf16 = best_precision("cpu") == "bf16"

    def draw(n, generator, split):
        scenes = book.sample_scenes(n, generator, 1, split)
        return book.paint(scenes), classes_of(book, scenes)

    for step in range(steps):
        x, label = draw(batch_size, step_generator(seed, step), "train")
        step_size(optimizer, 1e-2, step, steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(x).float(), label, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    net = net.eval().requires_grad_(False)
    x, label = draw(500, torch.Generator().manual_seed(seed), "heldout")
    right = torch.cat([net(part).argmax(1) for part in x.split(100)]) == label
    return net, right.float().mean().item()


# ---- measuring

@torch.no_grad()
def decode_all(vae, images):
    "Each picture after a round through the autoencoder, in [-1, 1]."
    return torch.cat([vae(part)[0] for part in images.split(50)]).clamp(-1, 1)


@torch.no_grad()
def measure(decoded, images, scenes, book, judge, encoder) -> dict:
    "The numbers of one stage on held-out pictures."
    energy = gradient_energy(decoded).sum() / gradient_energy(images).sum()
    halves = zip(images.split(50), decoded.split(50))
    distance = torch.cat([perceptual_loss(judge, x, y) for x, y in halves])
    vectors = [encoder(F.interpolate(x, 32, mode="area")) for x in (images, decoded)]
    right = book.critic().score(decoded, scenes)
    return dict(
        psnr=round(psnr(images, decoded).mean().item(), 2),
        gradient_energy=round(energy.item(), 4),
        judge_distance=round(distance.mean().item(), 4),
        encoder_distance=round(1 - F.cosine_similarity(*vectors).mean().item(), 4),
        whole=share(right["whole"], len(images)), kind=round(right["kind"], 4))


def as_png(rows) -> str:
    "Rows of pictures, as the base64 text of one PNG."
    sheet = torch.cat([torch.cat([*row], 2) for row in rows], 1)
    data = ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(data.numpy()).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def crops(images, scenes, side=32):
    "The square of `side` pixels around the first object of each picture."
    size = images.shape[-1]
    corners = (scenes.position[:, 0] * size - side / 2).round().long()
    corners = corners.clamp(0, size - side)
    return torch.stack([image[:, y:y + side, x:x + side]
                        for image, (x, y) in zip(images, corners.tolist())])


def run_seed(book, seed, options) -> dict:
    "All stages from one seed."
    n = options.pictures
    start = time.process_time()
    features, known = train_features(book, options.feature_steps, 100 + seed)
    other = dict(widths=(16, 24, 48), kernel=5, act=nn.SiLU)
    judge, judge_known = train_features(book, options.feature_steps, 200 + seed, **other)
    seconds = time.process_time() - start
    print(f"classifiers: {known:.1%}, {judge_known:.1%} right, {seconds:.0f} s",
          flush=True)
    encoder = ImageEncoder.from_pretrained(data_folder("weights", "image_encoder"))
    encoder = encoder.float().eval().requires_grad_(False)
    scenes = book.sample_scenes(n, torch.Generator().manual_seed(1), None, "heldout")
    images = book.paint(scenes)
    shown = ((scenes.n_objects == 1) & (scenes.size[:, 0] == 1)).nonzero()[:8, 0]
    rows = {"real": crops(images[shown], scenes[shown])}
    results = dict(
        seed=seed, fork=options.fork, steps=options.steps, classifiers=dict(
            right=round(known, 4), judge_right=round(judge_known, 4),
            parameters=count_parameters(FeatureNet(book.kinds * max(1, book.colors))),
            cpu_seconds=round(seconds, 1)), stages={})
    real = measure(images, images, scenes, book, judge, encoder)
    results["real"] = {"whole": real["whole"], "kind": real["kind"]}
    seed_all(seed)
    start = small_vae(book.size, WIDTHS, 1)
    fork, total = options.fork, options.fork + options.steps
    stages = [stage for stage in STAGES if options.only in stage.name]
    slow = [stage for stage in SLOW if options.only in stage.name]
    if not any(stage.name == "+ perceptual" for stage in stages): slow = []
    for stage in ([START] if fork else []) + stages + slow:
        vae = start if stage is START else copy.deepcopy(start)
        span = range(fork) if stage is START else range(fork, total)
        began = time.process_time()
        if stage in SLOW:
            vae, more = copy.deepcopy(finished), 3 * options.steps // 5
            seen = train_stage(stage, vae, book, features, range(total, total + more),
                               total + more, total, seed, wait=0, top=4e-4,
                               ahead=4 * options.steps // 5)
        else: seen = train_stage(stage, vae, book, features, span, total, fork, seed)
        if stage.name == "+ perceptual": finished = vae
        seconds = time.process_time() - began
        decoded = decode_all(vae, images)
        row = measure(decoded, images, scenes, book, judge, encoder)
        row |= dict(cpu_seconds=round(seconds, 1), **asdict(stage))
        if seen["adaptive"]:
            row["adaptive"] = means(seen["adaptive"])
            row["hinge"] = means(seen["hinge"])
        if seen["ahead"]: row["hinge_ahead"] = means(seen["ahead"])
        results["stages"][stage.name] = row
        print({k: v for k, v in row.items() if k != "whole"}, row["whole"], flush=True)
        if stage is not START: rows[stage.name] = crops(decoded[shown], scenes[shown])
        results |= dict(rows=[*rows], png=as_png(rows.values()))
        yield results


def means(numbers: list, parts: int = 5) -> list:
    "The mean of each fifth of a list."
    return [round(part.mean().item(), 3)
            for part in torch.tensor(numbers).chunk(parts)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--book", choices=[*BOOKS], default="stickers")
    option("--fork", type=int, default=500, help="steps of the common start, or 0")
    option("--steps", type=int, default=250, help="of each stage, from there")
    option("--feature-steps", type=int, default=300, help="of each classifier")
    option("--pictures", type=int, default=400, help="held out, to measure on")
    option("--seeds", type=int, nargs="+", default=[0])
    option("--only", default="",
           help="stages whose name contains this; the file forgets the others")
    option("--out", type=Path, default=data_folder("results", "vae_recipe.json"))
    options = parser.parse_args()
    if min(options.steps, options.feature_steps, options.pictures) < 1:
        parser.error("--steps, --feature-steps, --pictures: expected 1 or more")
    if options.fork < 0:
        parser.error(f"--fork: expected 0 or more, got {options.fork}")
    if not any(options.only in stage.name for stage in STAGES):
        parser.error(f"--only: no stage's name contains {options.only!r}")
    if options.only and options.out == parser.get_default("out"):
        parser.error("--only: the package's file holds all stages; give another --out")
    book = BOOKS[options.book](64)
    head = dict(
        about="Trained by scripts/vae_recipe.py: see there. `gradient_energy`, as a "
              "share of the real pictures'; `judge_distance`: in the features of "
              "another classifier; `encoder_distance`: 1 - cosine of the vectors of "
              "the package's image encoder; `png`: base64, a row of 32 x 32 crops for "
              "each of `rows`.",
        book=options.book, size=64, factor=8, channels=4, widths=list(WIDTHS),
        batch_size=16, pictures=options.pictures,
        parameters=count_parameters(small_vae(64, WIDTHS, 1)), **about())
    runs = read_json(options.out)["runs"] if options.out.is_file() else []
    same = [(seed, options.fork) for seed in options.seeds]
    runs = [run for run in runs if (run["seed"], run["fork"]) not in same]
    for seed in options.seeds:
        for found in run_seed(book, seed, options):
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_json({**head, "runs": [*runs, found]}, options.out)
        runs.append(found)


if __name__ == "__main__":
    main()
