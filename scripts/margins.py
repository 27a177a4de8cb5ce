#!/usr/bin/env python3
"""How far are a model's pictures from being misread? The critic's doubts, in a table.

    python scripts/margins.py [--from FOLDER] [--captions 2000] [--seeds 0]

Judges the model of the package and writes minidiff/data/results/margins.json, or the
pipeline in FOLDER, and writes margins.json there. Rows: held-out scenes as they are drawn
(the ceiling), the same after the model's VAE (what a perfect U-Net would give), and
what the model paints for captions of one and of two objects: with its own sampler, and in
as many steps with the other of `SAMPLERS` (`ancestral` adds fresh noise in each step). For
comparison, the drawn ones with a Gaussian blur of one pixel of 32, and with noise of 0.12.

`margin`: 1 is perfect, 0 the limit of being refused; `lead`: by how much more the page
of the album that was chosen explains than the best one of another kind or size, 0 is a
tie. Pictures larger than 32 pixels are averaged to 32 before they are read, so what is
crisp or hazy below that is not seen in these two.

`outline`: how far the outlines lie beside those of the same scene, drawn anew, in pixels of
64 a side: the differences around an outline, over its length times its contrast. Bulges,
cut corners, blur and haze all count. Of the first 500 pictures of a row that are clear.
"""
import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from judge import for_shapes, held_out, share
from minidiff.files import data_folder, write_json
from minidiff.latent_diffusion import SAMPLERS, open_run
from minidiff.critic import spread
from minidiff.sketchbook import Critic, Sketchbook, compare
from minidiff.terminal import whole
from minidiff.training import step_generator

PAINTED = "one_object", "two_objects"
SHARES = 0.01, 0.05, 0.25, 0.5, 0.75


def blurred(images, width):
    """A Gaussian blur, `width` pixels wide."""
    reach = int(4 * width + 1)
    line = torch.softmax(-torch.arange(-reach, reach + 1.0) ** 2 / (2 * width**2), 0)
    images, n = F.pad(images, [reach] * 4, mode="replicate"), len(images)
    return F.conv2d(images.flatten(0, 1)[:, None], (line[:, None] * line)[None, None]).unflatten(0, (n, 3))[:, :, 0]


def outline(images, reading, most=500):
    """For pictures that are read clearly: how far their outlines lie beside those of the scene that is read, drawn anew."""
    size = images.shape[-1]
    book, shown = Sketchbook(size), reading.kind >= 0
    clear = shown.any(1) & ((reading.color >= 0) | ~shown).all(1) & (reading.background >= 0)
    images, scenes = images[clear][:most].clamp(-1, 1), reading[clear.nonzero()[:most, 0]]
    def off(like):
        right, down = (F.pad(like.diff(dim=dim), pad) for dim, pad in ((3, (0, 1)), (2, (0, 0, 0, 1))))
        steep = (right**2 + down**2).sum(1).sqrt()
        around = spread((steep > 0.05).float(), size // 16)
        return ((images - like).square().sum(1).sqrt() * around).sum((1, 2)) / steep.sum((1, 2)) * 64 / size
    least = off(book.paint(scenes))
    for i in range(2):  # the critic finds a place to a quarter of a pixel of 32: look around it, one object at a time
        start = scenes.position.clone()
        kept = start.clone()
        for shift in torch.cartesian_prod(*[torch.linspace(-0.5, 0.5, 5) / 64] * 2):
            scenes.position = start.clone()
            scenes.position[:, i] += shift
            found = off(book.paint(scenes))
            kept[found < least] = scenes.position[found < least]
            least = torch.minimum(least, found)
        scenes.position = kept
    return least


def row(critic, images, scenes):
    """What the table says of some pictures."""
    reading, doubts = critic.read(images, margins=True)
    right = compare(reading, scenes)["whole"][0][:, 0]
    found = dict(whole=share(right), refused=share(reading.n_objects == 0))
    for name in ("margin", "lead", "fit", "flaw"):
        values = doubts[name]
        found[name] = {f"{100 * q:g}%": round(values.quantile(q).item(), 4) for q in SHARES}
        found[name]["mean"] = round(values.mean().item(), 4)
    beside = outline(images, reading)
    found["outline"] = dict(n=len(beside)) | {f"{100 * q:g}%": round(beside.quantile(q).item(), 4) for q in (0.5, 0.95) if len(beside)}
    for name, limit in (("margin", 0.5), ("lead", 0.05)):
        found[f"{name} below {limit}"] = share(doubts[name] < limit)
    return found


def painted(pipe, kind, seed, n, steps, scale, batch):
    """Pictures for held-out captions, as scripts/judge.py paints them."""
    captions, scenes = held_out(pipe.vae.config.sample_size, n, kind, seed)
    noise = pipe.start_latents(n, generator=step_generator(seed, 2**24 + PAINTED.index(kind)))
    options = dict(num_inference_steps=steps, guidance_scale=scale, output_type="pt", generator=step_generator(seed, 2**25))
    images = [pipe(captions[i:i + batch], latents=noise[i:i + batch], **options).cpu() for i in range(0, n, batch)]
    return torch.cat(images), scenes


@torch.no_grad()
def report(pipe, captions=2000, seeds=(0,), steps=15, scale=2.0, batch=100):
    """What margins.json holds: row -> numbers."""
    size = pipe.vae.config.sample_size
    critic, n = Critic(size), captions // len(seeds)
    generator = step_generator(seeds[0], 2**23)
    drawn, _, scenes = Sketchbook(size).draw(2 * captions, generator, split="heldout")
    like = next(pipe.vae.parameters())
    decoded = torch.cat([pipe.vae(part.to(like))[0].float().cpu() for part in drawn.split(batch)])
    noise = torch.randn(drawn.shape, generator=generator)
    rows = dict(drawn=drawn, decoded=decoded, blur=blurred(drawn, size / 32), noise=drawn + 0.12 * noise)
    rows = {name: row(critic, images, scenes) for name, images in rows.items()}
    own = pipe.scheduler
    name = "dpm" if isinstance(own, SAMPLERS["ancestral"]) else "ancestral"
    for more, pipe.scheduler in {"": own, name: SAMPLERS[name].from_config(own.config)}.items():
        for kind in PAINTED:
            lots = [painted(pipe, kind, seed, n, steps, scale, batch) for seed in seeds]
            images, asked = torch.cat([lot[0] for lot in lots]), type(scenes).cat([lot[1] for lot in lots])
            rows[f"{kind[:3]}_{more}" if more else kind] = row(critic, images, asked)
    pipe.scheduler = own
    return rows


def table(rows):
    """The rows as text: quantiles of margin and lead, and how many are read right."""
    lines = [f"{'':12}{'margin 5%':>11}{'median':>9}{'lead 5%':>9}{'median':>9}{'refused':>9}{'right':>8}{'outline':>9}"]
    for name, found in rows.items():
        margin, lead = found["margin"], found["lead"]
        lines.append(f"{name:12}{margin['5%']:11.2f}{margin['50%']:9.2f}{lead['5%']:9.3f}{lead['50%']:9.3f}"
                     f"{found['refused']['share']:9.1%}{found['whole']['share']:8.1%}{found['outline'].get('50%', float('nan')):9.2f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--from", dest="folder", help="of a run (default: the package's own)")
    option("--captions", type=whole(1), default=2000, help="of each kind, over all seeds")
    option("--seeds", type=int, nargs="+", default=[0])
    option("--steps", type=int, default=15, help="calls of the U-Net for a picture")
    option("--scale", type=float, default=2.0, help="of the guidance")
    option("--batch", type=int, default=100, help="pictures painted at once")
    option("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    option("--out", type=Path, help="another place for margins.json")
    options = parser.parse_args()
    for_shapes(parser, options)
    start = time.perf_counter()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe = open_run(options.folder, device=device)
    rows = report(pipe, options.captions, options.seeds, options.steps, options.scale, options.batch)
    print(table(rows))
    out = options.out or Path(options.folder or data_folder("results")) / "margins.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(dict(model=options.folder or "package", captions=options.captions, seeds=options.seeds,
                    steps=options.steps, scale=options.scale, size=pipe.vae.config.sample_size,
                    device=str(pipe.device), torch=torch.__version__,
                    seconds=round(time.perf_counter() - start, 1), rows=rows), out)
    print(f"in {out}")


if __name__ == "__main__":
    main()
