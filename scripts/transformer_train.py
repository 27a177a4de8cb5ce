#!/usr/bin/env python3
"""The sketchbook's latents, learnt by a U-Net and by an MMDiT, for chapter 15.

    nice -n 19 python scripts/transformer_train.py [--size small] [--seconds 60] [--only NAME ...]
    python scripts/transformer_train.py --judge     what is trained paints once more; nothing is trained

Chapter 15 shows `--seconds 400` (27 minutes), and beside it `--seconds 60` and `--seconds 150 --only unet-flow mmdit-flow`,
each with an `--out` of its own and `--results minidiff/data/results/transformer_training_60.json` (or `_150.json`).

Everything but the net that paints is the package's: VAE, text encoder, critic. The runs
(see `RUNS`) meet the same pictures, noises, captions and moments, batch by batch:

* unet-eps, unet-v, unet-flow: one U-Net, three objectives, the same number of steps;
* mmdit-flow: an MMDiT of as many parameters, as many seconds of the processor;
* mmdit-steps: the same MMDiT, as many steps as the U-Nets (only where asked for by name: a step of both costs about
  the same).

The noise is walked from timestep 925 in even strides, whatever their number (diffusers' "leading" would begin a walk of four
steps at 751, with pure noise where the net has learnt to expect some picture; `four_from_751` says what that costs). The straight road is walked in strides of one length: of n levels the last is 1 / n, so that all n calls count. (Those
that diffusers' scheduler chooses by itself end at 1 / 1000, and the last call then moves next to nothing.)

A step's price is measured first; the U-Nets get as many steps as fit into `--seconds`.
One thread. Interrupted, the same command goes on; nothing that is done is done again.
Writes minidiff/data/results/transformer_training.json after every run.
"""
import argparse
import json
import platform
import time
from pathlib import Path

import torch
from judge import held_out, share
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import (LATE, PRESETS, SCHEDULER, draw_timesteps, fitted_unet, open_run,
                                       training_scenes)
from minidiff.maths import straight_path
from minidiff.samplers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                               FlowMatchEulerDiscreteScheduler)
from minidiff.scheduler import DDPMScheduler, sample, training_target
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Critic, Sketchbook, compare
from minidiff.terminal import whole
from minidiff.training import Trainer, seed_all, step_generator
from minidiff.transformer import SD3Transformer2DModel, zero_init

WORDS = 20  # tokens of the longest caption, rounded up
BATCH = 64
RUNS = {"unet-flow": ("unet", "flow", "steps"), "mmdit-flow": ("mmdit", "flow", "seconds"),
        "unet-v": ("unet", "v", "steps"), "unet-eps": ("unet", "eps", "steps"),
        "mmdit-steps": ("mmdit", "flow", "steps")}
COSINE = {**SCHEDULER, "prediction_type": "epsilon"}
# the sampler of each objective: all of first order; then the shipped model's own, of second order
SAMPLERS = dict(
    flow=FlowMatchEulerDiscreteScheduler(), v=DDIMScheduler(**SCHEDULER, clip_sample=False, set_alpha_to_one=True),
    eps=EulerDiscreteScheduler(**COSINE))
EPS_START = 925  # where a walk of the noise begins; at the last timestep no picture is left to divide out
SECOND = dict(v=DPMSolverMultistepScheduler(**SCHEDULER))
# pairs of nets with about as many parameters; the large U-Net is the shipped model's
WIDTHS = dict(small=(32, 64), large=(64, 128))
MMDIT = dict(small=dict(num_layers=7, attention_head_dim=16, caption_projection_dim=64),
             large=dict(num_layers=7, attention_head_dim=32, caption_projection_dim=128))
SD3 = dict(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_attention_heads=4, joint_attention_dim=128,
           pooled_projection_dim=128, pos_embed_max_size=4, qk_norm="rms_norm")


def build(net, pipe, size):
    if net == "mmdit":
        return zero_init(SD3Transformer2DModel(**SD3, **MMDIT[size]))
    config = fitted_unet(PRESETS["small"], pipe.vae)
    return UNet2DConditionModel(**{**config, "block_out_channels": WIDTHS[size]}).zero_init()


def answer(net, x, t, words, pooled):
    "What a net of either kind says."
    if isinstance(net, UNet2DConditionModel):
        return net(x, t, words)
    return net(x, words, pooled, t)


@torch.no_grad()
def read(pipe, captions):
    ids = pipe.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    found = pipe.text_encoder(ids)
    return found.last_hidden_state[:, :WORDS], found.pooler_output


@torch.no_grad()
def draw(pipe, pictures, seed=0):
    "Pictures as latents, and what the text encoder says of their captions; the last caption is empty."
    book, generator, rows = Sketchbook(32), step_generator(seed, 2**31), []
    two = round(pictures * PRESETS["small"].two_objects)
    for n_objects, total in ((1, pictures - two), (2, two)):
        for first in range(0, total, 256):
            scenes = training_scenes(book, min(256, total - first), n_objects, generator)
            posterior = pipe.vae.encode(book.paint(scenes))
            rows.append((pipe.vae.scale(posterior.mean), posterior.std * pipe.vae.config.scaling_factor,
                         *read(pipe, book.caption(scenes, generator)[0])))
    means, stds, words, pooled = (list(column) for column in zip(*rows))
    for column, empty in zip((words, pooled), read(pipe, [""])):
        column.append(empty)
    return dict(mean=torch.cat(means), std=torch.cat(stds), words=torch.cat(words).bfloat16(), pooled=torch.cat(pooled))


def batches(data, batch_size=BATCH, drop=0.05):
    n = len(data["mean"])

    def batch(generator):
        i = torch.randint(n, (batch_size,), generator=generator)
        noise, wobble = torch.randn(2, batch_size, *data["mean"].shape[1:], generator=generator)
        told = torch.where(torch.rand(batch_size, generator=generator) < drop, n, i)
        return dict(x0=data["mean"][i] + data["std"][i] * wobble, noise=noise, words=data["words"][told].float(),
                    pooled=data["pooled"][told], t=draw_timesteps(batch_size, generator))
    return batch


def loss_of(objective):
    if objective == "flow":
        def loss(net, b):
            x, velocity = straight_path(b["x0"], b["noise"], (b["t"] + 1) / 1000)
            return F.mse_loss(answer(net, x, b["t"] + 1.0, b["words"], b["pooled"]).float(), velocity)
        return loss
    teacher = DDPMScheduler.from_config(SAMPLERS[objective].config)

    def loss(net, b):
        x = teacher.add_noise(b["x0"], b["noise"], b["t"])
        target = training_target(teacher, b["x0"], b["noise"], b["t"])
        return F.mse_loss(answer(net, x, b["t"], b["words"], b["pooled"]).float(), target)
    return loss


def recipe(net):
    return {**LATE, "channels_last": net == "unet", "lr": 1.2e-2, "ema": 0.995, "device": "cpu", "show_bar": False}


def price(net, pipe, data, size, steps=12):
    "Processor seconds of a step."
    seed_all(2)
    clock = []
    def look(trainer): clock.append(time.process_time())
    Trainer(build(net, pipe, size), loss_of("flow"), batches(data), steps=steps, preview=look, preview_every=1,
            **recipe(net)).fit()
    return sorted(b - a for a, b in zip(clock[2:], clock[3:]))[(steps - 3) // 2]


def train(name, pipe, data, size, steps, out):
    "The trained net (its moving average), losses, and processor seconds, also of a run that was interrupted."
    net, objective, _ = RUNS[name]
    seed_all(2)
    path, begun = out / f"{name}.clock.json", time.process_time()
    clock = {int(k): v for k, v in (read_json(path) if path.exists() else {}).items()}
    before = []  # seconds of the steps that need not be done again

    def look(trainer):
        if not before:
            before.append(max((v for k, v in clock.items() if k < trainer.step), default=0))
        clock[trainer.step] = round(before[0] + time.process_time() - begun, 2)
        path.write_text(json.dumps(clock))
    trainer = Trainer(build(net, pipe, size), loss_of(objective), batches(data), steps=steps, name=name, out=out, save_every=50,
                      preview=look, preview_every=10, recipe=dict(objective=objective, batch=BATCH), **recipe(net))
    trainer.fit(resume=trainer.checkpoint.exists())
    return trainer.ema_model.eval(), list(trainer.losses), clock[max(clock)]


@torch.no_grad()
def paint(net, objective, pipe, captions, steps, seed, scale=2.0, scheduler=None, start=EPS_START):
    told = [torch.cat(pair) for pair in zip((x.expand(len(captions), *x.shape[1:]) for x in read(pipe, [""])),
                                            read(pipe, captions))]

    def guided(x, t):
        without, with_text = answer(net, torch.cat([x, x]), t, *told).chunk(2)
        return without + scale * (with_text - without)
    noise = torch.randn(len(captions), 4, 8, 8, generator=step_generator(seed, 2**25))
    scheduler = scheduler or SAMPLERS[objective]
    if objective == "flow":
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps))
    elif objective == "eps":
        scheduler.set_timesteps(timesteps=[round(start * (steps - i) / steps) for i in range(steps)])
    else:
        scheduler.set_timesteps(steps)
    z = sample(guided, scheduler, noise * scheduler.init_noise_sigma, timesteps=scheduler.timesteps)
    return pipe.vae.decode(pipe.vae.unscale(z))


def right(net, objective, pipe, kind, n, steps, batch=100, **more):
    "Of n held-out captions, which are painted wholly right, and the processor seconds of a picture."
    captions, scenes = held_out(32, n, kind, 0)
    start = time.process_time()
    images = torch.cat([paint(net, objective, pipe, captions[i:i + batch], steps, i, **more)
                        for i in range(0, n, batch)])
    seconds = (time.process_time() - start) / n
    verdict = compare(Critic(32).read(images), scenes)["whole"]
    found = (verdict[0] | ~verdict[1]).all(1)
    return share(found), seconds


def judged(name, net, pipe, n):
    objective = RUNS[name][1]
    two, seconds = right(net, objective, pipe, "two_objects", n, 15)
    rows = dict(two_objects=two, one_object=right(net, objective, pipe, "one_object", n // 2, 15)[0])
    rows["few"] = {steps: right(net, objective, pipe, "two_objects", n // 2, steps)[0] for steps in (4, 8)}
    if objective == "eps":
        rows["four_from_751"] = right(net, objective, pipe, "two_objects", n // 2, 4, start=751)[0]
    if objective in SECOND:
        rows["second_order"] = right(net, objective, pipe, "two_objects", n, 15, scheduler=SECOND[objective])[0]
    return {**rows, "pictures_a_second": round(1 / seconds, 2)}


def gather(args, plan):
    "All runs that are done, in one file."
    runs = {run: read_json(args.out / f"{run}.json") for run in RUNS if (args.out / f"{run}.json").exists()}
    command = f"scripts/transformer_train.py --size {args.size} --seconds {plan['seconds']:g} --captions {args.captions}"
    where = dict(torch=torch.__version__, machine=platform.machine(), device="cpu", threads=1, seed=2, command=command)
    write_json(dict(where=where, size=args.size, pictures=args.pictures, captions=args.captions, runs=runs), args.results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=WIDTHS, default="small")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the processor, for a run")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--captions", type=whole(1), default=500)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS)[:4])
    parser.add_argument("--judge", action="store_true", help="train nothing; judge what is trained once more")
    parser.add_argument("--out", type=Path, help="default: runs/transformer_SIZE")
    parser.add_argument("--results", type=Path, default=data_folder("results") / "transformer_training.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out = args.out or Path(f"runs/transformer_{args.size}")
    args.out.mkdir(parents=True, exist_ok=True)
    pipe = open_run()
    if args.judge:
        for name in args.only:
            done = args.out / f"{name}.json"
            if not done.exists():
                continue
            kind = SD3Transformer2DModel if RUNS[name][0] == "mmdit" else UNet2DConditionModel
            found = judged(name, kind.from_pretrained(args.out / name).eval(), pipe, args.captions)
            del found["pictures_a_second"]  # the price stays as it was measured beside the training
            write_json({**read_json(done), **found}, done)
            print(name, {k: v for k, v in read_json(done).items() if k != "curve"}, flush=True)
        return gather(args, read_json(args.out / "plan.json"))
    drawn = args.out / f"latents_{args.pictures}.safetensors"
    if not drawn.exists():
        save_file(draw(pipe, args.pictures), drawn)
    data = load_file(drawn)
    plan = args.out / "plan.json"
    if not plan.exists():
        prices = {net: price(net, pipe, data, args.size) for net in ("unet", "mmdit")}
        steps = {net: round(args.seconds / seconds) for net, seconds in prices.items()}
        write_json(dict(prices=prices, steps=steps, seconds=args.seconds), plan)
    plan = read_json(plan)
    print(plan, flush=True)
    for name in args.only:
        done = args.out / f"{name}.json"
        if not done.exists():
            net_name, _, kind = RUNS[name]
            steps = plan["steps"][net_name if kind == "seconds" else "unet"]
            net, losses, seconds = train(name, pipe, data, args.size, steps, args.out)
            print(name, "trained:", round(seconds), "s,", steps, "steps, loss", sum(losses[-20:]) / 20, flush=True)
            net.save_pretrained(args.out / name)
            every = max(1, steps // 40)
            curve = [round(sum(losses[i:i + every]) / every, 4) for i in range(0, steps - every + 1, every)]
            write_json(dict(net=net_name, objective=RUNS[name][1], steps=steps, batch=BATCH, seconds=round(seconds, 1),
                            seconds_a_step=round(seconds / steps, 4), parameters=sum(p.numel() for p in net.parameters()),
                            curve=curve, **judged(name, net, pipe, args.captions)), done)
        print(name, {k: v for k, v in read_json(done).items() if k != "curve"}, flush=True)
        gather(args, plan)


if __name__ == "__main__":
    main()
