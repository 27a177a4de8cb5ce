"""What the skips of the first U-Net carry: nets with and without them, trained until they rest.

    python scripts/unet_skips.py --jobs 16            some 15 minutes on a large GPU
    python scripts/unet_skips.py --short 2 --long 3 --seeds 1 --pool 64 --out x.json    a trial

Writes `minidiff/data/results/unet_skips.json`, which `nbs/02_unet.ipynb` reads.
"""
import argparse
import base64
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))
from minidiff.sketchbook import BACKGROUNDS, COLORS, KINDS, Sketchbook, paint
from minidiff.unet import UNet, Up

LEVEL, BATCH, BLOCK = 0.8, 64, 8         # alpha-bar; pictures a step; side of what is "coarse"
WIDTHS = 32, 32, 64, 96
NETS = {"all skips": (WIDTHS, (1, 1, 1)), "no skips": (WIDTHS, (0, 0, 0)),   # kept, from the top
        "no skips, as many weights": ((34, 34, 68, 102), (0, 0, 0)),
        "only the top skip": (WIDTHS, (1, 0, 0)), "only the middle skip": (WIDTHS, (0, 1, 0)),
        "only the lowest skip": (WIDTHS, (0, 0, 1))}


def build(name):
    "The chapter's net, with some of its skips cut."
    widths, kept = NETS[name]
    net = UNet(widths=widths, how="nearest")
    for k, keep in enumerate(kept):
        if not keep: net.ups[2 - k] = Up(widths[k + 1], 0, widths[k], "nearest")
    return net


def add_noise(x0, noise): return LEVEL ** 0.5 * x0 + (1 - LEVEL) ** 0.5 * noise
def rms(x): return x.square().mean().sqrt().item()
def gaussian(n, seed): return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def scenes_of(n, seed, **kw):
    return Sketchbook(32).sample_scenes(n, torch.Generator().manual_seed(seed), **kw)


def heldout(n, device, **kw):
    "Held-out scenes, their pictures, the noisy pictures, the noise."
    scenes, noise = scenes_of(n, 3, split="heldout", **kw).to(device), gaussian(n, 4).to(device)
    clean = paint(scenes, 32)
    return scenes, clean, add_noise(clean, noise), noise


def train(name, target, seed, steps, pool, device):
    "The trained net, and its loss on held-out pictures on the way: [[step, loss], ...]."
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    pictures = paint(scenes_of(pool, 100 + seed).to(device), 32)
    _, clean, xt, noise = heldout(512, device)
    net, curve = build(name).to(device), []
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    rate = lambda step: min((step + 1) / 100, 1, (steps - step) / (steps // 4 + 1))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)    # up, even, down to 0
    marks = {round(steps * (k / 40) ** 1.5) for k in range(1, 41)}
    for step in range(1, steps + 1):
        x0 = pictures[torch.randint(pool, (BATCH,), device=device, generator=generator)]
        eps = torch.randn(x0.shape, device=device, generator=generator)
        loss = F.mse_loss(net(add_noise(x0, eps)), eps if target == "noise" else x0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step in marks:
            with torch.no_grad(): error = net.eval()(xt) - (noise if target == "noise" else clean)
            curve.append([step, round(error.square().mean().item(), 5)])
            net.train()
    return net.eval(), curve


def picture_of(net, xt, target):
    "The clean picture that the net's answer means."
    answer = net(xt)
    return answer if target == "picture" else (xt - (1 - LEVEL) ** 0.5 * answer) / LEVEL ** 0.5


def centre_and_mask(pictures, page):
    "What differs from the page by more than half the most: its centre (x, y), and where it is."
    far = (pictures - page).norm(dim=1)
    mask = far > far.amax((1, 2), keepdim=True) / 2
    grid, count = torch.arange(32, device=far.device) + 0.5, mask.sum((1, 2)).clamp(min=1)
    return torch.stack([(mask.sum(k) * grid).sum(1) / count for k in (1, 2)], 1), mask


@torch.no_grad()
def mistakes(net, target, device):
    "What a trained net gets wrong, on 2,000 held-out pictures of one object."
    scenes, clean, xt, _ = heldout(2000, device, n_objects=1)
    out = picture_of(net, xt, target)
    error = out - clean
    colors, pages = (torch.tensor([*t.values()], device=device) for t in (COLORS, BACKGROUNDS))
    page, color = pages[scenes.background][:, :, None, None], colors[scenes.color[:, 0]]
    centre, mask = centre_and_mask(out, page)
    true_centre, true_mask = centre_and_mask(clean, page)
    core = ((clean - color[:, :, None, None]).abs().amax(1) < 1e-3)[:, None]
    seen = (out * core).sum((2, 3)) / core.sum((2, 3)).clamp(min=1)
    step = F.max_pool2d(clean, 3, 1, 1) + F.max_pool2d(-clean, 3, 1, 1)
    edge = (step.amax(1, keepdim=True) > 0.2).expand_as(clean)
    union, shared = (mask | true_mask).sum((1, 2)), (mask & true_mask).sum((1, 2))
    far = (centre - true_centre).norm(dim=1)
    return dict(error=rms(error), edge=rms(error[edge]), flat=rms(error[~edge]),
                coarse=rms(F.avg_pool2d(error, BLOCK)), color=rms(seen - color),
                color_named=(torch.cdist(seen, colors).argmin(1) == scenes.color[:, 0]).sum().item(),
                centre=far.median().item(), outline=(shared / union).mean().item(), n=2000)


def pairs(n=1000):
    "Pairs of scenes that differ in one thing alone: name -> (scenes, scenes)."
    first, other = (scenes_of(n, seed, n_objects=1, split="all") for seed in (7, 8))
    generator, made = torch.Generator().manual_seed(9), {}
    for name, column, words in (("colour", "color", COLORS), ("kind", "kind", KINDS),
                                ("page", "background", BACKGROUNDS)):
        second = first.clone()
        values = getattr(second, column)
        values = values if values.dim() == 1 else values[:, 0]
        values.add_(torch.randint(1, len(words), (n,), generator=generator)).remainder_(len(words))
        made[name] = first, second
    near = first.position.clone()
    near[:, 0] += (torch.randint(0, 2, (n, 2), generator=generator) * 2 - 1) / 32
    made["place, one pixel"] = first, replace(first, position=near)
    made["place, anywhere"] = first, replace(first, place=other.place, position=other.position)
    return made


def look(net, x):
    "The views that the net has on its way down; the last is the bottom."
    views = [net.first(x)]
    for down in net.downs: views.append(down(views[-1]))
    return views


def rise(net, views):
    x = views[-1]
    for up, skip in zip(net.ups, views[-2::-1]): x = up(x, skip)
    return net.last(x)


@torch.no_grad()
def swaps(net, target, device):
    """How much of a difference crosses by each way: the skips from the top down, then the bottom.
    For each: all of it, its coarse part, its fine part."""
    noise, other, cases = gaussian(1000, 10).to(device), gaussian(1000, 11).to(device), {}
    for name, two in pairs().items():
        p, q = (paint(scenes.to(device), 32) for scenes in two)
        cases[name] = add_noise(p, noise), add_noise(q, noise)
    if target == "noise": cases = dict(noise=(add_noise(p, noise), add_noise(p, other)))
    def parts(x):
        coarse = F.interpolate(F.avg_pool2d(x, BLOCK), scale_factor=BLOCK)
        return x, coarse, x - coarse
    def share(change, whole): return round(((change * whole).sum() / whole.square().sum()).item(), 4)
    found = {}
    for name, (p, q) in cases.items():
        views, theirs = look(net, p), look(net, q)
        whole, found[name] = parts(rise(net, theirs) - rise(net, views)), []
        for way in range(len(views)):
            mixed = rise(net, views[:way] + [theirs[way]] + views[way + 1:]) - rise(net, views)
            found[name].append([share(a, b) for a, b in zip(parts(mixed), whole)])
    return found


def one_run(job):
    name, target, seed, steps, pool, device = job
    torch.set_num_threads(1)
    net, curve = train(*job)
    row = dict(net=name, target=target, seed=seed, steps=steps, curve=curve,
               weights=sum(p.numel() for p in net.parameters()), **mistakes(net, target, device))
    if name == "all skips": row["swaps"] = swaps(net, target, device)
    print(name, target, seed, curve[-1], flush=True)
    with torch.no_grad(): return row, picture_of(net, heldout(512, device)[2][:6], target).cpu()


def as_png(rows):
    "Rows of pictures, as the base64 text of one PNG."
    from PIL import Image
    sheet = torch.cat([torch.cat([*row], -1) for row in rows], 1).clamp(-1, 1)
    pixels, file = ((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", type=int, default=2000, help="steps of the nets of all seeds")
    parser.add_argument("--long", type=int, default=7000, help="steps of one seed; three twice that")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pool", type=int, default=65536, help="training pictures")
    parser.add_argument("--jobs", type=int, default=1, help="nets trained at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=root / "minidiff/data/results/unet_skips.json")
    args = parser.parse_args()
    all_nets = [(name, "picture") for name in NETS] + [(name, "noise") for name in list(NETS)[:4]]
    todo = [(*net, seed, args.short) for seed in range(args.seeds) for net in all_nets]
    todo += [(*net, 0, args.long) for net in all_nets]
    todo += [(*net, 0, 2 * args.long) for net in (("no skips", "picture"), ("no skips", "noise"),
                                                  ("all skips", "picture"))]
    with torch.multiprocessing.get_context("spawn").Pool(args.jobs) as workers:
        done = workers.map(one_run, [(*job, args.pool, args.device) for job in todo], chunksize=1)
    _, clean, xt, _ = heldout(512, "cpu")
    pictures = {"clean": clean[:6], "noisy": xt[:6] / LEVEL ** 0.5}
    answers = {job: answer for job, (_, answer) in zip(todo, done)}
    for target, steps in ("picture", args.short), ("picture", args.long), ("noise", args.long):
        for name in ("no skips", "all skips"):
            pictures[f"{target}, {name}, {steps} steps"] = answers[name, target, 0, steps]
    made = dict(level=LEVEL, batch=BATCH, pool=args.pool, short=args.short, long=args.long,
                rows=list(pictures), png=as_png(pictures.values()), runs=[row for row, _ in done])
    args.out.write_text(json.dumps(made).replace('{"net"', '\n{"net"') + "\n", encoding="utf-8")


if __name__ == "__main__": main()
