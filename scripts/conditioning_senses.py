"""The other senses of our own small model: an outline, a mask, a picture, a new word; each trained with what it needs and no more.

    python scripts/conditioning_senses.py control     some 4 minutes on one quiet thread of a CPU
    python scripts/conditioning_senses.py inpaint     likewise
    python scripts/conditioning_senses.py picture     likewise
    python scripts/conditioning_senses.py word        likewise
    python scripts/conditioning_senses.py control --steps 3 --seeds 1 --pool 64 --pictures 8 --out x.json    a trial

Writes `minidiff/data/results/conditioning_<which>.json`, which `nbs/08_conditioning.ipynb` reads.
"""
import argparse
import base64
import copy
import io
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))
from minidiff.conditioning import ControlNetModel
from minidiff.files import data_folder
from minidiff.latent_diffusion import draw_timesteps, open_run
from minidiff.pipeline import LatentDiffusionPipeline
from minidiff.scheduler import DDPMScheduler, training_target
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import BACKGROUNDS, COLORS, KINDS, SIZES, Sketchbook, coverage, wilson
from minidiff.terminal import whole
from minidiff.text_encoder import ImageEncoder

BOOK = Sketchbook(32)
RADII = torch.tensor([*SIZES.values()])
STEPS, SCALE = 15, 2.0  # of the painting, as the model was judged


def gen(seed): return torch.Generator().manual_seed(seed)


def outlines(scenes):
    "The scenes as line drawings, 1 on the line and 0 elsewhere: (n, 3, 32, 32)."
    lines = torch.zeros(len(scenes), 32, 32)
    for i in range(2):
        radius = RADII[scenes.size[:, i]]
        inside, outside = (coverage(scenes.kind[:, i], scenes.position[:, i], radius + d, 32) for d in (-0.7, 0.7))
        lines = torch.maximum(lines, outside - inside)
    return lines[:, None].expand(-1, 3, -1, -1).contiguous()


@torch.no_grad()
def states_of(pipe, captions):
    return torch.cat([pipe.encode_prompt(captions[i:i + 256]) for i in range(0, len(captions), 256)])


@torch.no_grad()
def encode(pipe, pictures):
    "Mean and spread of the latents, scaled."
    posteriors = [pipe.vae.encode(lot) for lot in pictures.split(256)]
    scale = pipe.vae.config.scaling_factor
    return [torch.cat([getattr(p, part) for p in posteriors]) * scale for part in ("mean", "std")]


class Pool:
    "Pictures to learn from: latents, states of the captions, scenes."
    def __init__(self, pipe, n, seed, **kw):
        self.pictures, self.captions, self.scenes = BOOK.draw(n, gen(seed), **kw)
        self.mean, self.std = encode(pipe, self.pictures)
        self.states = states_of(pipe, self.captions)
        self.empty = states_of(pipe, [""])

    def batch(self, n, generator, drop=0.05):
        i = torch.randint(len(self.mean), (n,), generator=generator)
        noise, wobble = torch.randn(2, n, *self.mean.shape[1:], generator=generator)
        silent = (torch.rand(n, generator=generator) < drop)[:, None, None]
        return i, self.mean[i] + self.std[i] * wobble, noise, draw_timesteps(n, generator), torch.where(silent, self.empty, self.states[i])


def fit(parameters, loss_of, steps, lr, seed):
    "AdamW, up over a twentieth of the steps, then down to 0; the losses, every tenth of the way."
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0)
    rate = lambda step: min((step + 1) / max(1, steps / 20), 0.5 + 0.5 * math.cos(math.pi * step / steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator, losses, start = gen(seed), [], time.perf_counter()
    for step in range(steps):
        loss = loss_of(generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % max(1, steps // 10) == 0: print(step + 1, round(sum(losses[-50:]) / len(losses[-50:]), 4), round(time.perf_counter() - start), flush=True)
    block = max(1, steps // 20)
    return [round(sum(losses[i:i + block]) / len(losses[i:i + block]), 5) for i in range(0, steps, block)]


def teacher(pipe): return DDPMScheduler.from_config(pipe.scheduler.config)


def share(right):
    k, n = int(right.sum()), len(right)
    low, high = wilson(k, n)
    return dict(right=k, n=n, share=round(k / n, 4), low=round(low, 4), high=round(high, 4))


def follows(pictures, scenes, reach=1.5):
    "Is every object there, of its kind, colour and size, within `reach` pixels of its place?"
    seen = BOOK.critic().read(pictures)
    good = seen.n_objects == scenes.n_objects
    for order in (slice(None), slice(None, None, -1)):
        fits = good.clone()
        idx = torch.arange(2)[order] if order == slice(None) else torch.tensor([1, 0])
        for i in range(2):
            there, j = scenes.kind[:, i] >= 0, idx[i]
            if order != slice(None): j = torch.where(scenes.n_objects == 2, 1 - i, i)
            pick = lambda t: t.gather(1, j[:, None])[:, 0] if torch.is_tensor(j) and j.ndim else t[:, j]
            same = (pick(seen.kind) == scenes.kind[:, i]) & (pick(seen.color) == scenes.color[:, i]) & (pick(seen.size) == scenes.size[:, i])
            place = torch.stack([pick(seen.position[..., k]) for k in (0, 1)], 1)
            same &= ((place - scenes.position[:, i]) * 32).norm(dim=1) < reach
            fits &= same | ~there
        found = fits if order == slice(None) else found | fits
    return found


def paint(pipe, captions, noise, **more):
    return torch.cat([pipe(captions[i:i + 250], latents=noise[i:i + 250], num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt",
                           **{k: v[i:i + 250] if torch.is_tensor(v) else v for k, v in more.items()}) for i in range(0, len(captions), 250)])


def as_png(rows):
    "Rows of pictures in [-1, 1], as the base64 text of one PNG."
    from PIL import Image
    sheet = torch.cat([torch.cat([*row], -1) for row in rows], 1).clamp(-1, 1)
    pixels, file = ((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def test_scenes(n, seed, n_objects=None):
    "Held-out scenes, and captions that say neither size nor place nor page."
    scenes = BOOK.sample_scenes(n, gen(seed), n_objects, "heldout")
    nothing = {name: torch.zeros_like(mask) for name, mask in scenes.mentioned.items()}
    return scenes, BOOK.caption(scenes, gen(seed), {**nothing, "relation": scenes.mentioned["relation"]})[0]


def control(args):
    pipe = open_run()
    pipe.unet.requires_grad_(False)
    noiser, rows = teacher(pipe), []
    pool = Pool(pipe, args.pool, 100)
    drawn = outlines(pool.scenes)
    scenes, captions = test_scenes(args.pictures, 7)
    noise, hints = torch.randn(args.pictures, 4, 8, 8, generator=gen(8)), outlines(scenes)
    plain = paint(pipe, captions, noise)
    without = dict(follows=share(follows(plain, scenes)), whole=share(BOOK.critic().judge(plain, words_only(scenes))["whole"]))
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 64))
        def loss(generator):
            i, x0, eps, t, states = pool.batch(args.batch, generator)
            xt = noiser.add_noise(x0, eps, t)
            down, middle = net(xt, t, states, drawn[i])
            answer = pipe.unet(xt, t, states, down_block_additional_residuals=down, mid_block_additional_residual=middle)
            return F.mse_loss(answer, training_target(noiser, x0, eps, t))
        losses = fit(net.parameters(), loss, args.steps, args.lr or 2e-3, seed)
        with torch.no_grad(): sizes = [round(m.weight.norm().item(), 3) for m in (net.controlnet_cond_embedding.conv_out, *net.controlnet_down_blocks, net.controlnet_mid_block)]
        found = paint(pipe, captions, noise, controlnet=net, image=hints)
        rows.append(dict(seed=seed, losses=losses, zero_convs=sizes, follows=share(follows(found, scenes)), whole=share(BOOK.critic().judge(found, words_only(scenes))["whole"])))
        print(without, rows[-1], flush=True)
    k = 8
    own, words = scribbles()
    noise = torch.randn(len(own), 4, 8, 8, generator=gen(12))
    drawn_by_hand = [1 - 2 * own, paint(pipe, words, noise), paint(pipe, words, noise, controlnet=net, image=own)]
    return dict(without=without, rows=rows, weights=sum(p.numel() for p in net.parameters()), captions=captions[:k], scribble_words=words,
                png=as_png([(1 - 2 * hints[:k]), plain[:k], found[:k]]), scribbles=as_png(drawn_by_hand))


def words_only(scenes):
    "For the judge: sizes, places and pages were not mentioned."
    scenes = scenes.clone()
    for name in ("size", "place", "background"): scenes.mentioned[name] = torch.zeros_like(scenes.mentioned[name])
    return scenes


def scribbles():
    "Line drawings of no sketchbook: wobbly, open, of three objects, of a shape that it has not."
    y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    angle, made = torch.atan2(y - 16, x - 16), []
    def line(distance): return (1.2 - distance.abs()).clamp(0, 1)
    radius = ((x - 16) ** 2 + (y - 16) ** 2).sqrt()
    made.append(line(radius - 7 - 0.9 * torch.sin(5 * angle)))  # a circle by a shaking hand
    made.append(line(radius - 6.6) * (angle.abs() > 0.6))  # one that is not closed
    made.append(line(((x - 16) / 1.7) .abs().maximum((y - 16).abs()) - 5.5))  # a box that is wide
    made.append(line(radius - 11))  # a circle larger than any
    return torch.stack(made)[:, None].expand(-1, 3, -1, -1).contiguous(), ["a red circle", "a blue circle", "a green square", "a purple circle"]


def boxes(n, generator):
    "Masks (n, 1, 32, 32): a box of 8 to 24 pixels a side, on the grid of the latents; a tenth hide all."
    size = 4 * torch.randint(2, 7, (n, 2), generator=generator)
    first = (torch.rand(n, 2, generator=generator) * (36 - size) / 4).long() * 4
    whole = torch.rand(n, generator=generator) < 0.1
    grid = torch.arange(32)
    inside = [(grid >= first[:, k:k + 1]) & (grid < (first + size)[:, k:k + 1]) for k in (0, 1)]
    mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return (mask | whole[:, None, None, None]).float()


def repaint_scenes(n):
    "Two-object scenes; the same with another second object; masks about it."
    scenes = BOOK.sample_scenes(n, gen(17), 2, "all")
    wanted, generator = scenes.clone(), gen(18)
    wanted.kind[:, 1] = (scenes.kind[:, 1] + torch.randint(1, len(KINDS), (n,), generator=generator)) % len(KINDS)
    wanted.color[:, 1] = (scenes.color[:, 1] + torch.randint(1, len(COLORS), (n,), generator=generator)) % len(COLORS)
    reach = RADII[scenes.size[:, 1]] + 1.5
    centre, grid = scenes.position[:, 1] * 32, torch.arange(32) // 4
    low, high = ((centre + d * reach[:, None]).clamp(0, 31) // 4 for d in (-1, 1))
    inside = [(grid >= low[:, k:k + 1]) & (grid <= high[:, k:k + 1]) for k in (1, 0)]
    return scenes, wanted, (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()


def wider(unet):
    "A U-Net with five more input channels, which it does not hear yet."
    more = UNet2DConditionModel.from_config({**unet.config, "in_channels": 9})
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = torch.cat([weights["conv_in.weight"], torch.zeros(len(weights["conv_in.weight"]), 5, 3, 3)], 1)
    more.load_state_dict(weights)
    return more


def inpaint(args):
    pipe, rows = open_run(), []
    noiser, pool = teacher(pipe), Pool(pipe, args.pool, 100)
    masks = boxes(args.pool, gen(5))
    hidden = encode(pipe, pool.pictures * (1 - masks))[0]
    beside = torch.cat([masks[:, :, ::4, ::4], hidden], 1)
    scenes, wanted, mask = repaint_scenes(args.pictures)
    captions = BOOK.caption(wanted, gen(19), words_only(wanted).mentioned)[0]
    pictures, noise = BOOK.paint(scenes), torch.randn(args.pictures, 4, 8, 8, generator=gen(20))
    judged = words_only(wanted)
    def measure(pipe):
        found = torch.cat([pipe.inpaint(captions[i:i + 250], image=pictures[i:i + 250], mask_image=mask[i:i + 250], latents=noise[i:i + 250], generator=gen(1),
                                        num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt") for i in range(0, len(captions), 250)])
        rebuilt = torch.cat([pipe.vae(lot)[0] for lot in pictures.split(250)])
        outside = (mask == 0).expand_as(pictures)
        def db(x): return round(-10 * math.log10(((x - pictures)[outside] / 2).square().mean().item()), 2)
        right = BOOK.critic().judge(found, judged)
        seen = BOOK.critic().read(found)
        first = (((seen.position - scenes.position[:, :1]) * 32).norm(dim=2) < 1.5).any(1)  # is the object that should stay where it was?
        return found, dict(whole=share(right["whole"]), stays=share(first), outside_db=db(found), vae_db=db(rebuilt))
    with torch.no_grad(): blended, plain = measure(pipe)
    print(plain, flush=True)
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        net = wider(pipe.unet)
        def loss(generator):
            i, x0, eps, t, states = pool.batch(args.batch, generator)
            xt = noiser.add_noise(x0, eps, t)
            return F.mse_loss(net(torch.cat([xt, beside[i]], 1), t, states), training_target(noiser, x0, eps, t))
        losses = fit(net.parameters(), loss, args.steps, args.lr or 5e-4, seed)
        with torch.no_grad(): found, row = measure(LatentDiffusionPipeline(**{**pipe.components, "unet": net}))
        rows.append(dict(seed=seed, losses=losses, **row))
        print(rows[-1], flush=True)
    k = 8
    veiled = torch.where(mask > 0, 0.5 * torch.ones_like(pictures), pictures)
    return dict(blending=plain, rows=rows, captions=captions[:k], png=as_png([veiled[:k], blended[:k], found[:k]]))


class PictureTokens(nn.Module):
    "A picture's vector as a few tokens, in the language that the U-Net hears."
    def __init__(self, width=128, tokens=4):
        super().__init__()
        self.proj, self.norm, self.tokens = nn.Linear(width, tokens * width), nn.LayerNorm(width), tokens

    def forward(self, vector): return self.norm(self.proj(F.normalize(vector, dim=-1) * vector.shape[-1] ** 0.5).unflatten(1, (self.tokens, -1)))


def picture(args):
    pipe, rows = open_run(), []
    pipe.unet.requires_grad_(False)
    eye = ImageEncoder.from_pretrained(data_folder("weights"), "image_encoder", dtype=torch.float32).eval()
    noiser, pool = teacher(pipe), Pool(pipe, args.pool, 100)
    with torch.no_grad(): vectors = torch.cat([eye(lot) for lot in pool.pictures.split(256)])
    pictures, _, scenes = BOOK.draw(args.pictures, gen(27), split="heldout")
    noise = torch.randn(args.pictures, 4, 8, 8, generator=gen(28))
    everything = BOOK.caption(scenes, gen(29), all_said(scenes))[0]
    scenes.mentioned = all_said(scenes)
    nothing = pool.empty.expand(args.pictures, -1, -1)
    def measure(states, without=None):
        found = torch.cat([pipe(prompt_embeds=states[i:i + 250], negative_prompt_embeds=(nothing if without is None else without)[i:i + 250], latents=noise[i:i + 250], num_inference_steps=STEPS,
                                guidance_scale=SCALE, output_type="pt") for i in range(0, len(states), 250)])
        right = BOOK.critic().judge(found, scenes)
        return found, {name: share(right[name]) for name in ("kind", "color", "background", "whole")}
    told = {"no prompt": measure(nothing)[1], "words that say all": measure(states_of(pipe, everything))[1]}
    print(told, flush=True)
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        net = PictureTokens()
        def loss(generator):
            i, x0, eps, t, states = pool.batch(args.batch, generator, drop=0.7)
            xt = noiser.add_noise(x0, eps, t)
            tokens = net(vectors[i]) * (torch.rand(len(i), 1, 1, generator=generator) > 0.05)
            return F.mse_loss(pipe.unet(xt, t, torch.cat([states, tokens], 1)), training_target(noiser, x0, eps, t))
        losses = fit(net.parameters(), loss, args.steps, args.lr or 3e-3, seed)
        with torch.no_grad(): tokens = net(torch.cat([eye(lot) for lot in pictures.split(250)]))
        unseen = torch.cat([nothing, torch.zeros_like(tokens)], 1)
        found, row = measure(torch.cat([nothing, tokens], 1), unseen)
        rows.append(dict(seed=seed, losses=losses, **row))
        print(rows[-1], flush=True)
    k = 8
    return dict(told=told, rows=rows, weights=sum(p.numel() for p in net.parameters()), png=as_png([pictures[:k], found[:k]]))


def all_said(scenes):
    from minidiff.sketchbook import everything_mentioned
    return everything_mentioned(scenes)


NEW = dict(brown=(0.55, 0.35, 0.15), lime=(0.65, 0.95, 0.20))  # colours that no caption names
WHERE = "red"  # the word whose place the new one takes in a caption


def new_word_pictures(color, n, seed):
    "One-object pictures in that colour, and captions with WHERE in its name's place."
    scenes = BOOK.sample_scenes(n, gen(seed), 1, "all")
    scenes.color[:, 0] = list(COLORS).index(WHERE)
    captions = BOOK.caption(scenes, gen(seed + 1))[0]
    pages = torch.tensor([*BACKGROUNDS.values()])[scenes.background][:, :, None, None]
    cover = coverage(scenes.kind[:, 0], scenes.position[:, 0], RADII[scenes.size[:, 0]], 32)[:, None]
    return torch.lerp(pages.expand(-1, -1, 32, 32), (2 * torch.tensor(color) - 1)[None, :, None, None].expand(n, -1, 32, 32), cover), captions, scenes


def word(args):
    pipe, rows = open_run(), []
    pipe.unet.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    noiser, ids_of = teacher(pipe), lambda texts: pipe.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    embedding = pipe.text_encoder.text_model.embeddings.token_embedding if hasattr(pipe.text_encoder, "text_model") else pipe.text_encoder.embeddings.token_embedding
    table = embedding.weight
    old = next(i for i in ids_of([f"a {WHERE} star"])[0].tolist() if i not in ids_of(["a blue star"])[0].tolist())
    def states(ids, vector):
        hook = embedding.register_forward_hook(lambda module, inputs, out: torch.where((inputs[0] == old)[..., None], vector, out))
        try: return pipe.text_encoder(ids).last_hidden_state
        finally: hook.remove()
    critic_colors = {name: torch.tensor(c) for name, c in COLORS.items()}
    n = args.pictures
    tests = BOOK.sample_scenes(n, gen(33), 1, "all")
    tests.color[:, 0] = list(COLORS).index(WHERE)
    captions = BOOK.caption(tests, gen(34), {**tests.mentioned, "size": torch.zeros_like(tests.mentioned["size"])})[0]
    noise, empty = torch.randn(n, 4, 8, 8, generator=gen(35)), states_of(pipe, [""]).expand(n, -1, -1)
    core = coverage(tests.kind[:, 0], tests.position[:, 0], RADII[tests.size[:, 0]] - 2.0, 32)[:, None]
    def look(pictures, target):
        "The colour of what stands out most, in [-1, 1]: distance to the target, (n,)."
        page = torch.tensor([*BACKGROUNDS.values()])[tests.background][:, :, None, None]
        far = (pictures - page).norm(dim=1)
        mask = (far > far.amax((1, 2), keepdim=True) * 0.7).float()[:, None]
        seen = (pictures * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)
        return (seen - target).norm(dim=1), seen
    def show(embeds): return torch.cat([pipe(prompt_embeds=embeds[i:i + 250], negative_prompt_embeds=empty[i:i + 250], latents=noise[i:i + 250], num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt") for i in range(0, n, 250)])
    known, sheets = {}, {}
    for name in COLORS:
        with torch.no_grad(): known[name] = show(states_of(pipe, [c.replace(WHERE, name) for c in captions]))
    for name, color in NEW.items():
        target = 2 * torch.tensor(color) - 1
        pictures, texts, _ = new_word_pictures(color, args.examples, 40)
        with torch.no_grad():
            mean, std = encode(pipe, pictures)
            best = min(((look(x, target)[0].mean().item(), word) for word, x in known.items()))
            true = tests.clone()
            page = torch.tensor([*BACKGROUNDS.values()])[true.background][:, :, None, None]
            cover = coverage(true.kind[:, 0], true.position[:, 0], RADII[true.size[:, 0]], 32)[:, None]
            real = torch.lerp(page.expand(-1, -1, 32, 32), target[None, :, None, None].expand(n, -1, 32, 32), cover)
            wand = look(torch.cat([pipe.vae(lot)[0] for lot in real.split(250)]), target)[0].mean().item()
        ids = ids_of(texts)
        for seed in range(args.seeds):
            vector = nn.Parameter(table[old].clone() if seed == 0 else table.mean(0) + table.std() * torch.randn(table.shape[1], generator=gen(seed)))
            def loss(generator):
                i = torch.randint(len(ids), (args.batch,), generator=generator)
                eps, wobble = torch.randn(2, len(i), *mean.shape[1:], generator=generator)
                t, x0 = draw_timesteps(len(i), generator), mean[i] + std[i] * wobble
                return F.mse_loss(pipe.unet(noiser.add_noise(x0, eps, t), t, states(ids[i], vector)), training_target(noiser, x0, eps, t))
            losses = fit([vector], loss, args.steps, args.lr or 3e-2, seed)
            with torch.no_grad(): found = show(states(ids_of(captions), vector))
            distance, seen = look(found, target)
            reading = BOOK.critic().read(found)
            kind = ((reading.kind[:, 0] == tests.kind[:, 0]) | (reading.kind[:, 0] < 0))
            raised = share((distance < torch.stack([(seen - c).norm(dim=1) for c in critic_colors.values()]).amin(0)))
            rows.append(dict(word=name, seed=seed, losses=losses, distance=round(distance.mean().item(), 4), sem=round(distance.std().item() / n ** 0.5, 4), nearest_known=dict(word=best[1], distance=round(best[0], 4)),
                             vae=round(wand, 4), nearer_than_any_known=raised, kind=share((reading.kind[:, 0] == tests.kind[:, 0])), start="red" if seed == 0 else "random", color=list(color)))
            print(rows[-1], flush=True)
            if seed == 0: sheets[name] = [pictures[:4], known[best[1]][:4], found[:4]]
    return dict(rows=rows, captions=captions[:4], examples=args.examples, numbers=table.shape[1], png=as_png([torch.cat(row) for row in sheets.values()]))


JOBS = dict(control=control, inpaint=inpaint, picture=picture, word=word)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=JOBS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pool", type=int, default=3000, help="training pictures")
    parser.add_argument("--pictures", type=int, default=200, help="held-out pictures to judge by")
    parser.add_argument("--examples", type=whole(1), default=16, help="of the new word")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = JOBS[args.which](args)
    settings = {k: v for k, v in vars(args).items() if k not in ("which", "out") and v is not None}
    found = dict(command=f"python scripts/conditioning_senses.py {' '.join(sys.argv[1:])}", device="cpu", threads=1, torch=torch.__version__,
                 seconds=round(time.perf_counter() - start), settings=settings, **found)
    out = Path(args.out) if args.out else root / "minidiff" / "data" / "results" / f"conditioning_{args.which}.json"
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
