#!/usr/bin/env python3
"""Which sampler, how many steps? Paint held-out captions with the shipped model, and
count which are right.

    python scripts/compare_samplers.py --device cuda     (minutes on one GPU)
    python scripts/compare_samplers.py --small           (ten minutes on one CPU core)
    python scripts/compare_samplers.py --quick           (to see that it runs)

Each row is one sampler with one spacing and one number of steps. Every row paints the
same captions from the same noise, with the guidance that the model is shipped with; the
critic says which pictures are wholly right. Shares come with their 95% interval
(Wilson). Where no dice are thrown, `rms` is how far the pictures (values in [-1, 1]) lie
from those that many steps paint from the same noise. `kicks` disturbs the pictures on the
way, once, and counts again. Chapter 05 reads the result.
"""
import argparse
import platform
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from minidiff import samplers
from minidiff.files import data_folder, write_json
from minidiff.latent_diffusion import PRESETS, open_run
from minidiff.scheduler import DDPMScheduler
from minidiff.sketchbook import Sketchbook, wilson
from minidiff.terminal import whole
from minidiff.training import step_generator

STEPS = 4, 6, 8, 10, 15, 20, 30, 50
SPACINGS = "leading", "trailing", "linspace"
REFERENCE = 250  # steps
SMALL = {  # what one CPU core can do in ten minutes; in order of importance
    ("DPM++ 2M", "trailing"): (4, 6, 10, 20), ("DDIM", "trailing"): (4, 10, 20),
    ("DDPM", "trailing"): (4, 10, 20), ("DPM++ 2M", "leading"): (4, 10),
    ("DDIM", "leading"): (4, 10), ("Heun", "trailing"): (6,), ("Heun", "leading"): (6,),
    ("DPM++ 2M Karras", "leading"): (10,), ("PNDM", "trailing"): (10,),
    ("DPM++ 2M SDE", "trailing"): (4, 10), ("DPM++ 2M", "linspace"): (10,),
    ("DDIM", "linspace"): (10,), ("DDIM, clipped", "trailing"): (20,)}
KINDS = {"one_object": 1, "two_objects": 2}

# name: class, config keys, options of a step, is it free of dice
MENU = {
    "DDPM": (DDPMScheduler, dict(clip_sample=False), {}, False),
    "DDIM": (samplers.DDIMScheduler, dict(clip_sample=False), {}, True),
    "DDIM, eta 1": (
        samplers.DDIMScheduler, dict(clip_sample=False), dict(eta=1.0), False),
    "PNDM": (samplers.PNDMScheduler, dict(skip_prk_steps=True), {}, True),
    "Euler": (samplers.EulerDiscreteScheduler, {}, {}, True),
    "Euler ancestral": (samplers.EulerAncestralDiscreteScheduler, {}, {}, False),
    "Heun": (samplers.HeunDiscreteScheduler, {}, {}, True),
    "DPM++ 2M": (samplers.DPMSolverMultistepScheduler, {}, {}, True),
    "DPM++ 2M Karras": (
        samplers.DPMSolverMultistepScheduler, dict(use_karras_sigmas=True), {}, True),
    "DPM++ 2M SDE": (
        samplers.DPMSolverMultistepScheduler,
        dict(algorithm_type="sde-dpmsolver++"), {}, False),
    "DDIM, clipped": (samplers.DDIMScheduler, dict(clip_sample=True), {}, True),
}


def interval(right, n):
    "What the JSON says of a share: trials, right ones, share, and its 95% interval."
    low, high = wilson(right, n)
    return dict(right=right, n=n, share=right / n, low=low, high=high)


class Contest:
    "The captions, the noise, the model and the critic."

    def __init__(self, pipe, n, seeds, batch):
        self.pipe, self.seeds, self.batch = pipe, seeds, batch
        self.shipped = dict(pipe.scheduler.config.shown())
        self.scale = PRESETS["small"].scale
        self.book = Sketchbook(pipe.unet.config.sample_size * pipe.vae.factor)
        self.critic, self.calls = self.book.critic(), 0
        self.captions, self.scenes, self.groups, noise = [], [], [], []
        for seed in seeds:
            for name, n_objects in KINDS.items():
                generator = step_generator(seed, 2**29 + n_objects)
                scenes = self.book.sample_scenes(n, generator, n_objects, "heldout")
                captions, scenes.mentioned = self.book.caption(scenes, generator)
                side = pipe.unet.config.sample_size
                shape = n, pipe.unet.config.in_channels, side, side
                generator = step_generator(seed, n_objects)
                noise.append(torch.randn(shape, generator=generator))
                self.captions += captions
                self.scenes.append(scenes)
                self.groups.append((name, seed))
        self.noise = torch.cat(noise)  # drawn on the CPU: the same on every machine
        lots = [self.captions[i:i + 256] for i in range(0, len(self.captions), 256)]
        self.states = torch.cat([pipe.encode_prompt(lot) for lot in lots])
        self.silence = pipe.encode_prompt([""])  # what guidance leads away from
        pipe.unet.register_forward_pre_hook(self._count)

    def _count(self, *_): self.calls += 1

    def _wait(self):
        if self.pipe.device.type == "cuda": torch.cuda.synchronize()

    @torch.no_grad()
    def paint(self, scheduler, steps, **options):
        "All captions; (pictures on the CPU, calls of the network, seconds a picture)."
        pipe, made, self.calls = self.pipe, [], 0
        pipe.scheduler, generator = scheduler, torch.Generator().manual_seed(0)
        self._wait()
        start = time.perf_counter()
        parts = range(0, len(self.noise), self.batch)
        for i in parts:
            part = slice(i, i + self.batch)
            noise, states = self.noise[part], self.states[part]
            states = torch.cat([self.silence.expand_as(states), states])
            latents = pipe.denoise(
                noise, states, steps, self.scale, generator, **options)
            latents = latents / pipe.vae.config.scaling_factor
            made.append(pipe.vae.decode(latents).float())
        self._wait()
        seconds = (time.perf_counter() - start) / len(self.noise)
        return torch.cat(made).cpu(), self.calls // len(parts), seconds

    def judge(self, pictures):
        "Shares that are wholly right, for one object and for two."
        lots = pictures.split(len(self.noise) // len(self.groups))
        right = {name: {} for name in KINDS}
        lots = [lot.nan_to_num(0).clamp(-1, 1) for lot in lots]
        with ThreadPoolExecutor() as pool:
            verdicts = pool.map(self.critic.judge, lots, self.scenes)
        for (name, seed), verdict in zip(self.groups, verdicts):
            right[name][seed] = int(verdict["whole"].sum())
        n = len(lots[0])
        shares = {}
        for name, by_seed in right.items():
            shares[name] = interval(sum(by_seed.values()), n * len(by_seed))
            shares[name]["by_seed"] = [k / n for k in by_seed.values()]
        return shares

    def scheduler(self, name, spacing):
        kind, config, options, _ = MENU[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys of 2M that others set aside
            made = kind.from_config(self.shipped, timestep_spacing=spacing, **config)
        return made, options

    def row(self, name, spacing, steps, reference=None):
        scheduler, options = self.scheduler(name, spacing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # strides of one length
            pictures, calls, seconds = self.paint(scheduler, steps, **options)
        rms = None
        if reference is not None and MENU[name][3]:
            rms = (pictures - reference).square().mean().sqrt().item()
        return dict(sampler=name, spacing=spacing, steps=steps, calls=calls,
                    seconds_per_picture=seconds, rms=rms, **self.judge(pictures))

    def kick(self, eta, size, steps):
        "Add noise that does not belong there, `size` times what is there, and go on."
        scheduler, _ = self.scheduler("DDIM", "trailing")
        generator = torch.Generator().manual_seed(1)

        def push(pipe, i, t, tensors):
            if i != steps // 2 - 1: return {}
            alpha_bar = scheduler.alphas_cumprod[int(scheduler.timesteps[i + 1])]
            latents = tensors["latents"]
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            return dict(latents=latents + size * (1 - alpha_bar).sqrt() * noise)

        made = self.paint(scheduler, steps, eta=eta, callback_on_step_end=push)[0]
        return dict(eta=eta, size=size, steps=steps, **self.judge(made))


def show(row):
    shares = "  ".join(f"{100 * row[k]['share']:5.1f}% [{100 * row[k]['low']:.1f}, "
                       f"{100 * row[k]['high']:.1f}]" for k in KINDS)
    name = row.get("sampler", f"eta {row.get('eta')}")
    rest = [row[k] for k in ("spacing", "steps", "calls", "size") if k in row]
    rms = "" if row.get("rms") is None else f"  rms {row['rms']:.3f}"
    print(f"{name:16} {' '.join(f'{v!s:>8}' for v in rest)}  {shares}{rms}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    option = parser.add_argument
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    option("--captions", type=whole(1), default=500, help="of each kind, for each seed")
    option("--seeds", type=int, nargs="+", default=[100, 101])
    option("--samplers", nargs="+", default=list(MENU), choices=list(MENU))
    option("--steps", type=int, nargs="+", default=list(STEPS))
    option("--spacings", nargs="+", default=list(SPACINGS), choices=SPACINGS)
    option("--reference", type=int, default=REFERENCE, help="steps of the reference")
    option("--kicks", type=float, nargs="*", default=[0.0, 0.2, 0.4], help="sizes")
    option("--batch", type=int, help="canvases at a time (2000 on a GPU, 128 on a CPU)")
    out = data_folder("results", "samplers.json")
    option("--out", type=Path, default=out)
    option("--small", action="store_true", help="for a CPU: the rows that matter most")
    option("--quick", action="store_true", help="a few captions, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.captions, options.seeds, options.steps = 16, options.seeds[:1], [4, 10]
        options.reference, options.kicks = 50, [0.0]
        options.spacings = ["trailing"]
    if options.small:
        options.captions, options.reference, options.kicks = 20, 50, [0.4, 1.0]
    device = torch.device(options.device)
    batch = options.batch or (2000 if device.type == "cuda" else 128)
    pipe = open_run(device=device)
    contest = Contest(pipe, options.captions, options.seeds, batch)
    cuda = device.type == "cuda"
    machine = torch.cuda.get_device_name(device) if cuda else platform.machine()
    start = time.perf_counter()
    contest.paint(contest.scheduler("DPM++ 2M", "trailing")[0], 2)  # warm up

    scheduler, _ = contest.scheduler("DPM++ 2M", "trailing")
    reference = contest.paint(scheduler, options.reference)[0]
    scheduler, _ = contest.scheduler("DDIM", "trailing")
    other = reference if options.small else contest.paint(scheduler, options.reference)[0]
    gap = (other - reference).square().mean().sqrt().item()
    result = dict(
        device=str(device), machine=machine, threads=torch.get_num_threads(),
        dtype="float32", torch=torch.__version__, captions=options.captions,
        seeds=options.seeds, guidance_scale=contest.scale, batch=batch,
        scheduler=contest.shipped | {"lambda_min_clipped": None},
        reference=dict(
            sampler="DPM++ 2M", spacing="trailing", steps=options.reference,
            rms_of_ddim=None if options.small else gap, **contest.judge(reference)),
        rows=[], kicks=[])
    show(result["reference"])

    def save():
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(result, options.out)

    def kick(steps):
        for size in options.kicks:
            for eta in (0.0, 0.5, 1.0):
                result["kicks"].append(contest.kick(eta, size, steps))
                show(result["kicks"][-1])

    if options.small: plan = SMALL
    else:
        kick(50)
        plan = {}
        for name in options.samplers:
            for spacing in options.spacings:
                more = [100, 250] if name == "DDPM" and not options.quick else []
                plan[name, spacing] = options.steps + more
            if name == "DPM++ 2M Karras":  # it places its own
                for spacing in options.spacings[1:]: del plan[name, spacing]
            if name == "DDIM, clipped":
                for spacing in options.spacings: del plan[name, spacing]
                plan[name, "trailing"] = [20]
    for (name, spacing), steps in plan.items():
        for n in steps:
            result["rows"].append(contest.row(name, spacing, n, reference))
            show(result["rows"][-1])
            save()
    if options.small: kick(20)
    result["seconds"] = time.perf_counter() - start
    save()
    print(f"{options.out}: {len(result['rows'])} rows in {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
