#!/usr/bin/env python3
"""How often does a model paint what was asked? Shares of held-out captions.

    python scripts/judge.py [--from FOLDER] [--captions 2000] [--seeds 0 1 2 3]
    python scripts/judge.py --examples 8 [--from FOLDER]     only paint some, to be looked at

Judges the model of the package and writes minidiff/data/results/judge.json, or the pipeline
in FOLDER, and writes judge.json there. The captions of each kind are shared out between
the seeds; a seed decides scenes, words and noise, which is drawn on the CPU, so that a
GPU is asked for the same pictures. Three kinds of captions:

* one_object: of one object, and the caption says its place. Held out are combinations
  of kind, colour *and place*, so only such a caption asks for what no picture showed.
* one_object_no_place: of one object, and the place is left open. The model has met all
  that such a caption says; they are judged apart.
* two_objects: of two objects, and the caption always says how they lie to each other.

Every caption is one trial: an attribute is right when all that its caption says of it
is right. Intervals are of 95% (Wilson).

`--examples` judges nothing but the first captions of one_object and of two_objects, none
picked, and writes their pictures side by side as held_out.webp, and held_out.json.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import open_run
from minidiff.plots import to_uint8
from minidiff.sketchbook import Critic, Sketchbook, choose_mentioned, compare, wilson
from minidiff.terminal import whole
from minidiff.training import step_generator

RESULTS = data_folder("results")
KINDS = ("one_object", "one_object_no_place", "two_objects")


def held_out(size, n, kind, seed):
    """`n` captions of a kind, and the scenes that they describe."""
    book = Sketchbook(size)
    generator = step_generator(seed, 2**26 + KINDS.index(kind))
    n_objects = 2 if kind == "two_objects" else 1
    scenes = book.sample_scenes(n, generator, n_objects, "heldout")
    scenes.mentioned = choose_mentioned(scenes, generator)
    if kind != "two_objects":
        scenes.mentioned["place"][:] = kind == "one_object"
    return book.caption(scenes, generator, scenes.mentioned)[0], scenes


@torch.no_grad()
def judge(pipe, n, kind, seed, batch=500, steps=15, scale=2.0):
    """Paint `n` captions and read them: attribute -> bool of each that says it."""
    size = pipe.vae.config.sample_size
    captions, scenes = held_out(size, n, kind, seed)
    generator = step_generator(seed, 2**25 + KINDS.index(kind))
    noise = pipe.start_latents(n, generator=generator)
    options = dict(num_inference_steps=steps, guidance_scale=scale, output_type="pt", generator=generator)
    images = [pipe(captions[i:i + batch], latents=noise[i:i + batch], **options).cpu()
              for i in range(0, n, batch)]
    verdict = compare(Critic(size).read(torch.cat(images)), scenes)
    return {name: (right | ~asked).all(1)[asked.any(1)]
            for name, (right, asked) in verdict.items() if asked.any()}


def share(right):
    """What the JSON says of one share: trials, right ones, share, interval."""
    n = len(right)
    k = int(right.sum())
    low, high = (round(end, 4) for end in wilson(k, n))
    return dict(n=n, right=k, share=round(k / n, 4), low=low, high=high)


def judge_all(pipe, captions, seeds, kinds=KINDS, **options):
    """kind -> attribute -> `share`, and of `whole` also the share of each seed."""
    results = {}
    for kind in kinds:
        n = captions // len(seeds)
        lots = [judge(pipe, n, kind, seed, **options) for seed in seeds]
        names = list(dict.fromkeys(name for lot in lots for name in lot))
        rows = {name: share(torch.cat([lot[name] for lot in lots if name in lot]))
                for name in names}
        rows["whole"]["by_seed"] = {
            str(seed): round(lot["whole"].float().mean().item(), 4)
            for seed, lot in zip(seeds, lots)}
        results[kind] = {"whole": rows.pop("whole"), **rows}
    return results


@torch.no_grad()
def examples(pipe, n, seed=0, steps=15, scale=2.0):
    """The first `n` captions of each kind, painted: pictures, and what JSON says of each."""
    size = pipe.vae.config.sample_size
    pictures, told = [], []
    for kind in ("one_object", "two_objects"):
        captions, scenes = held_out(size, n, kind, seed)
        generator = step_generator(seed, 2**25 + KINDS.index(kind))
        noise = pipe.start_latents(n, generator=generator)
        images = pipe(captions, latents=noise, num_inference_steps=steps, guidance_scale=scale,
                      output_type="pt", generator=generator).float().cpu()
        right = Critic(size).judge(images, scenes)["whole"].tolist()
        pictures.append(images)
        told += [dict(caption=caption, right=r) for caption, r in zip(captions, right)]
    return torch.cat(pictures), told


def report(pipe, model="package", captions=2000, seeds=(0, 1, 2, 3), **options):
    """What judge.json holds."""
    start = time.perf_counter()
    results = judge_all(pipe, captions, seeds, **options)
    print(table(results))
    return dict(
        model=model, captions=captions, seeds=list(seeds), **options,
        device=str(pipe.device), torch=torch.__version__,
        seconds=round(time.perf_counter() - start, 1), **results)


def table(results):
    """The results as text."""
    lines = []
    for kind, rows in results.items():
        lines.append(f"{kind}, {rows['whole']['n']} captions")
        lines += [
            f"  {name:12}{row['share']:7.1%}   {row['low']:.1%} to {row['high']:.1%}"
            for name, row in rows.items()]
    return "\n".join(lines)


def for_shapes(parser, options):
    """End with one line where captions cannot be shared out, or are not those that the model has learnt."""
    if options.captions < len(options.seeds):
        parser.error(f"--captions is at least {len(options.seeds)}, one for each of the --seeds; got {options.captions}")
    if not options.folder: return
    folder = Path(options.folder).resolve()
    told = folder / "results.json"
    if folder.name in ("stickers", "weights_stickers") or told.exists() and "book" in read_json(told):
        parser.error(f"--from {options.folder} has learnt other pictures; the captions here are of shapes")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--from", dest="folder", help="of a run (default: the package's own)")
    option("--captions", type=whole(1), default=2000, help="of each kind, over all seeds")
    option("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    option("--steps", type=int, default=15, help="calls of the U-Net for a picture")
    option("--scale", type=float, default=2.0, help="of the guidance")
    option("--batch", type=int, default=500, help="pictures painted at once")
    option("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    option("--examples", type=whole(1), metavar="N", help="only paint N of each kind")
    option("--out", type=Path, help="another place for judge.json, or a folder for --examples")
    options = parser.parse_args()
    for_shapes(parser, options)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe = open_run(options.folder, device=device)
    if options.examples:
        folder = options.out or Path(options.folder or RESULTS)
        folder.mkdir(parents=True, exist_ok=True)
        images, told = examples(pipe, options.examples, options.seeds[0], options.steps, options.scale)
        row = Image.fromarray(np.concatenate(list(to_uint8(images)), 1))
        row.save(folder / "held_out.webp", lossless=True)
        write_json(dict(pictures=told), folder / "held_out.json")
        return print(f"in {folder}/held_out.webp and .json")
    judged = report(pipe, options.folder or "package", options.captions, options.seeds,
                    batch=options.batch, steps=options.steps, scale=options.scale)
    out = options.out or Path(options.folder or RESULTS) / "judge.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(judged, out)
    print(f"in {out}")


if __name__ == "__main__":
    main()
