#!/usr/bin/env python3
"""What is each choice of the CPU preset worth? Train with one thing changed, and judge.

    python scripts/ablate.py table --estimate           two minutes: how long will it take?
    python scripts/ablate.py table [--only ROW ...]     an hour or two, alone on a machine
    python scripts/ablate.py table --seconds            some minutes, alone: what each row costs
    python scripts/ablate.py VARIANT [--seed S] [--device cuda] --out FILE.json
    python scripts/ablate.py speed --device cpu --out FILE.json
    python scripts/ablate.py race --device cpu --out FILE.json

`table` takes VAE and text encoder from the package (where they are not those of the
preset, it trains them first, once) and trains the U-Net alone, with half the preset's
steps, once for each row and three times for the baseline; rows that concern the text
encoder train that too, and rows that concern painting train nothing. Each row paints the
same held-out captions. The rows that tell most come first, so that a table that is cut off
has them. What is done is in the JSON at once, and training has checkpoints (in --work):
killed, the same command goes on where it was. Writes minidiff/data/results/ablations.json:
`rows`, each with its date, machine and commit, and under `speed` the seconds of single
steps. `--estimate` trains a few steps of each row at full size and says what all will take.
`--seconds` does that in turns, two rounds, and keeps the medians in the JSON: under `took`
each trained row's seconds a step, and each row's seconds a picture.

A variant trains all three stages (on one GPU a few minutes, on two processor cores a
quarter of an hour) and paints 500 held-out captions with one object and 500 with two,
the same for all. It also asks the trained encoders of stage two which of eight captions
belongs to a picture. `speed` trains nothing to the end: it takes the time of single
steps with and without each choice, in turn. `race` does so with the presets `small`,
which made the package's weights, and `cpu`, and adds up what the steps of all three stages
and the shrinking take (not drawing batches, previews, checkpoints and the judge).
"""
import argparse
import functools
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
import zlib
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F

import minidiff.latent_diffusion as course
from minidiff.alignment import alignment_loss, picture_maps
from judge import judge_all, share
from minidiff import pipeline, samplers
from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import PRESETS, Job
from minidiff.negatives import contrastive_batches, pick_caption
from minidiff.pipeline import LatentDiffusionPipeline
from minidiff.sketchbook import Scenes, Sketchbook, choose_mentioned
from minidiff.terminal import whole
from minidiff.text_encoder import ImageEncoder, TextAndPictures, clip_loss, small_clip
from minidiff.training import (Trainer, best_precision, fingerprint, half_where_fast,
                               step_generator)
from minidiff.vae import small_vae

STAGES = ("vae_training", "text_training", "unet_training")


def training(*stages, lr_times=1.0, **changes):
    """A change of the preset: other options for the `Trainer` of some stages."""
    def change(preset):
        old = {stage: getattr(preset, stage) for stage in stages}
        return replace(preset, **{
            stage: {**options, "lr": options["lr"] * lr_times, **changes}
            for stage, options in old.items()})
    return change


def scheduler(**changes):
    """A change of what the U-Net is asked for."""
    return functools.partial(patch.dict, course.SCHEDULER, **changes)


def other_scenes(scenes, generator):
    """In place of hard negatives: three more scenes for each, drawn freely."""
    more = Sketchbook().sample_scenes(3 * len(scenes), generator)
    more.mentioned = choose_mentioned(more, generator)
    return Scenes.cat([scenes, more])


def one_caption_loss(model, batch):
    """CLIP's own loss: picture and caption, and no second caption."""
    pictures = model.embed_images(batch["images"])
    return clip_loss(pictures, model.embed_text(batch["ids"][:, 0]), model.logit_scale)

one_caption_loss.whole_batch = True


def any_timestep(n, generator, timesteps=1000, **bell):
    """In place of the bell, wherever it stands: all timesteps alike."""
    return torch.randint(timesteps, (n,), generator=generator)


def guessed(answer, batch, align):
    """What the U-Net answers, and what its middle adds to the loss."""
    if not align: return answer.float(), 0.0
    answer, guess = answer
    return answer.float(), align * alignment_loss(guess, batch["maps"])


def min_snr_loss(scheduler, align=0.0, huber=0.0, most=5.0):
    """The U-Net's loss, each picture weighted by min(SNR, 5) (Hang et al. 2023): divided
    by SNR + 1, since the error of v is that of x0 times SNR + 1. No root is taken."""
    def loss(unet, batch):
        x0, noise, t = batch["latents"], batch["noise"], batch["timesteps"]
        scheduler.alphas_cumprod = share_kept = scheduler.alphas_cumprod.to(x0.device)
        snr = share_kept[t] / (1 - share_kept[t])
        target = course.training_target(scheduler, x0, noise, t)
        answer = unet(scheduler.add_noise(x0, noise, t), t, batch["states"])
        answer, more = guessed(answer, batch, align)
        error = (answer - target).square().flatten(1).mean(1)
        weight = snr.clamp(max=most) / (snr + 1)
        return (weight * error).mean() / weight.mean().clamp(min=1e-6) + more
    return loss


def flow_loss(_, align=0.0, huber=0.0):
    """Flow matching: a straight path from picture to noise, and the way along it."""
    def loss(unet, batch):
        x0, noise = batch["latents"], batch["noise"]
        sigma = (batch["timesteps"] + 1).float() / 1000
        mixed = torch.lerp(x0, noise, sigma.view(-1, 1, 1, 1))
        answer, more = guessed(unet(mixed, 1000 * sigma, batch["states"]), batch, align)
        error = (answer - (noise - x0)).square().flatten(1).mean(1)
        if huber: error = (error + huber**2).sqrt() - huber
        return error.mean() + more
    return loss


def flow():
    """Flow matching in place of v: its loss, and the scheduler that paints with it."""
    stack = ExitStack()
    path = lambda **_: samplers.FlowMatchEulerDiscreteScheduler()
    stack.enter_context(patch.object(course, "diffusion_loss", flow_loss))
    stack.enter_context(patch.object(course, "DDPMScheduler", lambda **_: None))
    stack.enter_context(patch.dict(course.SAMPLERS, dict.fromkeys(course.SAMPLERS, path)))
    return stack


PARTS = {}  # the VAE, tokenizer, text and image encoder of the row that is trained

def fresh_batches(data, batch_size, drop, center=0.3):
    """In place of cached latents: each batch is drawn, shrunk and read anew."""
    bell = dict(center=center)
    book = Sketchbook(PARTS["vae"].config.sample_size)
    vae, tokenizer, text = (PARTS[name] for name in ("vae", "tokenizer", "text"))
    eye = PARTS["eye"] if data.maps is not None else None
    device = next(vae.parameters()).device
    def seen(images):
        return picture_maps(eye, course.resized(images, eye.config.image_size)).cpu()
    if eye:
        some = seen(book.draw(512, step_generator(0, 0))[0].to(device))
        std, mean = torch.std_mean(some, (0, 2, 3), keepdim=True)

    @torch.no_grad()
    def batch(generator):
        two = int(batch_size * PARTS["two_objects"])
        scenes = Scenes.cat([course.training_scenes(book, n, objects, generator)
                             for n, objects in ((batch_size - two, 1), (two, 2))])
        images = book.paint(scenes).to(device)
        posterior = vae.encode(images)
        center = vae.scale(posterior.mean).cpu()
        spread = (posterior.std * vae.config.scaling_factor).cpu()
        maps = dict(maps=(seen(images) - mean) / std) if eye else {}
        captions = book.caption(scenes, generator)[0]
        silent = torch.rand(batch_size, generator=generator) < drop
        captions = ["" if s else c for s, c in zip(silent.tolist(), captions)]
        ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
        noise, wobble = torch.randn(2, *center.shape, generator=generator)
        timesteps = course.draw_timesteps(batch_size, generator, **bell)
        return dict(latents=center + spread * wobble, noise=noise, **maps,
                    states=text(ids.to(device)).last_hidden_state.cpu().float(),
                    timesteps=timesteps)
    return batch


class Variant(NamedTuple):
    change: Callable = lambda preset: preset  # of the preset
    patch: Callable = nullcontext  # of a name that the stages look up
    first: str = "unet"  # the first stage that it changes: "text", "unet" or "paint"
    of: str = "baseline"  # whose model a row that only paints takes
    paint: dict = {}  # "steps", "scale", "sampler", "guided": (from, to) as shares


def painted(of="baseline", **paint): return Variant(first="paint", of=of, paint=paint)


adamw = functools.partial(training, *STAGES, optimizer="adamw")
no_ema = Variant(training("text_training", "unet_training", ema=None))
fp32 = Variant(training(*STAGES, precision="no"))
bf16 = Variant(training(*STAGES, precision="bf16"))
VARIANTS = dict(
    baseline=Variant(),
    adamw_half=Variant(adamw(lr_times=1 / 2)),
    adamw_quarter=Variant(adamw(lr_times=1 / 4)),
    adamw_eighth=Variant(adamw(lr_times=1 / 8)),
    no_ema=no_ema,
    fp32=fp32,
    bf16=bf16,
    no_hard_negatives=Variant(first="text", patch=functools.partial(
        patch.dict, contrastive_batches.__globals__, hard_negatives=other_scenes)),
    one_caption=Variant(first="text", patch=functools.partial(
        patch.object, course, "contrastive_loss", one_caption_loss)),
    no_caption_drop=Variant(lambda preset: replace(preset, drop=0.0)),
    no_alignment=Variant(lambda preset: replace(preset, align=0.0)),
    mse=Variant(lambda preset: replace(preset, huber=0.0)),
    no_page_mix=Variant(patch=functools.partial(patch.dict, course.PAGES, clear=True)),
    uniform_timesteps=Variant(patch=functools.partial(
        patch.object, course, "draw_timesteps", any_timestep)),
    eps=Variant(patch=scheduler(prediction_type="epsilon")),
    eps_leading=Variant(patch=scheduler(
        prediction_type="epsilon", timestep_spacing="leading")),
    v_leading=Variant(patch=scheduler(timestep_spacing="leading")),
    flow=Variant(patch=flow),
    min_snr=Variant(patch=functools.partial(
        patch.object, course, "diffusion_loss", min_snr_loss)),
    no_channels_last=Variant(training("text_training", "unet_training",
                                      channels_last=False)),
    no_latent_cache=Variant(patch=functools.partial(
        patch.object, course, "latent_batches", fresh_batches)),
)
PAINTED = dict(  # rows that train nothing
    no_drop_no_guidance=painted("no_caption_drop", scale=1.0),
    no_guidance=painted(scale=1.0), scale_3=painted(scale=3.0),
    guided_first_half=painted(guided=(0, 0.5)),
    guided_second_half=painted(guided=(0.5, 1)),
    guided_middle=painted(guided=(0.2, 0.8)),
    steps_5=painted(steps=5), steps_10=painted(steps=10), steps_30=painted(steps=30),
    ddim=painted(sampler="DDIMScheduler"),
    euler=painted(sampler="EulerDiscreteScheduler"),
    dpm=painted(sampler="DPMSolverMultistepScheduler"),
    heun=painted(sampler="HeunDiscreteScheduler"))
ALL = VARIANTS | PAINTED
WORTH = """
    baseline mse adamw_quarter no_alignment eps eps_leading flow uniform_timesteps
    no_ema no_guidance scale_3 guided_first_half guided_second_half guided_middle
    steps_5 steps_10 steps_30 ddim euler dpm heun fp32 bf16
    no_channels_last no_hard_negatives one_caption no_caption_drop
    no_drop_no_guidance no_page_mix min_snr no_latent_cache v_leading adamw_half
    adamw_eighth
""".split()  # the order in which the table is made
TABLE = {name: ALL[name] for name in WORTH}
PICTURES = 2000  # whose caption the encoder is to find among its near misses
LATER = 8  # trained rows that come before the baseline's other seeds and `speed`
plain = dict(precision="no", channels_last=False)
SPEED = dict(  # the first four, in this order, are the steps of a waterfall
    plain=Variant(adamw(lr_times=1 / 4, **plain)),
    plus_channels_last=Variant(adamw(lr_times=1 / 4, **plain | dict(channels_last=True))),
    plus_bf16=Variant(adamw(lr_times=1 / 4, channels_last=True)),
    plus_muon=Variant(training(*STAGES, channels_last=True)),
    baseline=Variant(), adamw=VARIANTS["adamw_quarter"], no_ema=no_ema, fp32=fp32,
    bf16=bf16,
    no_channels_last=Variant(
        training("text_training", "unet_training", channels_last=False)))


def shortened(preset, fraction):
    """The same preset with a fraction of its steps and pictures."""
    if fraction == 1: return preset
    fewer = {stage: dict(getattr(preset, stage)) for stage in STAGES}
    for options in fewer.values():
        options["steps"] = max(4, round(options["steps"] * fraction))
    pictures = max(256, round(preset.pictures * fraction))
    return replace(preset, pictures=pictures, **fewer)


def train(job):
    """All three stages, and nothing saved or judged."""
    vae = job.train_vae()
    tokenizer, text_encoder = job.train_text_encoder()
    text_encoder.requires_grad_(False).eval()
    latents = job.make_latents(vae, tokenizer, text_encoder)
    return job.train_unet(vae, tokenizer, text_encoder, latents)


def ablate(name, preset, seed, device, captions=500, pictures=2000, progress=False):
    """Train one variant and measure it: what its JSON holds."""
    with ExitStack() as stack:
        variant = VARIANTS[name]
        stack.enter_context(variant.patch())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        changed = variant.change(preset)
        job = Job(changed, folder, seed, device=device, show_bar=progress)
        pipe = train(job)
        picked = pick_caption(job.clip, pipe.tokenizer, job.book, n=pictures)
    accuracy = judge_all(pipe, captions, [0], kinds=("one_object", "two_objects"))
    right = torch.zeros(pictures, dtype=torch.bool)
    right[:round(picked * pictures)] = True
    losses = {stage: round(sum(values[-50:]) / len(values[-50:]), 5)
              for stage, values in job.losses.items()}
    seconds = {stage: round(value, 1) for stage, value in job.seconds.items()}
    return dict(accuracy=accuracy, pick_caption=share(right), losses=losses,
                seconds=seconds)


class Watch:
    """Takes the time of each step of a `Trainer`, and lets it save nothing."""
    def __init__(self): self.seconds = {}

    def __enter__(self):
        step = Trainer._train_step
        def timed(trainer, parts):
            on_gpu = trainer.accelerator.device.type == "cuda"
            if on_gpu: torch.cuda.synchronize()
            start = time.perf_counter()
            step(trainer, parts)
            if on_gpu: torch.cuda.synchronize()
            taken = time.perf_counter() - start
            self.seconds.setdefault(trainer.name, []).append(taken)
        self.patches = [patch.object(Trainer, "_train_step", timed),
                        patch.object(Trainer, "save", lambda trainer: None)]
        for each in self.patches: each.start()
        return self

    def __exit__(self, *_):
        for each in self.patches: each.stop()


def in_turns(presets, device, rounds=3, steps=15, pictures=512):
    """name -> stage -> median seconds of a step, and under `latents` of a picture; the presets take turns."""
    times = {name: {} for name in presets}
    for _ in range(rounds):
        for name, preset in presets.items():
            few = {stage: {**getattr(preset, stage), "steps": steps} for stage in STAGES}
            with ExitStack() as stack:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                job = Job(replace(preset, pictures=pictures, **few), folder, device=device, show_bar=False)
                job.show_preview = lambda pipe, step: None
                watch = stack.enter_context(Watch())
                train(job)
            for stage, seconds in watch.seconds.items():
                times[name].setdefault(stage, []).extend(seconds[3:])
            times[name].setdefault("latents", []).append(job.seconds["latents"] / pictures)
    return {name: {stage: round(statistics.median(values), 5)
                   for stage, values in row.items()} for name, row in times.items()}


def speed(preset, device):
    """variant -> stage -> median seconds of a step."""
    return in_turns({name: variant.change(preset) for name, variant in SPEED.items()}, device)


def race(names, device):
    """Seconds of a step of each stage, of `latents` of a picture, and of a whole training."""
    presets = {name: PRESETS[name] for name in names}
    found = in_turns(presets, device)
    for name, row in found.items():
        often = {stage.split("_")[0]: getattr(presets[name], stage)["steps"] for stage in STAGES}
        often["latents"] = presets[name].pictures
        row["whole"] = round(sum(row[stage] * times for stage, times in often.items()), 1)
    return dict(where=where(), bf16=best_precision(device or "cuda") == "bf16", seconds=found)


class Painter:
    """A pipeline that paints in its own way, whoever asks."""
    def __init__(self, pipe, sampler=None, guided=None, **_):
        parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
        scheduler = pipe.scheduler  # of the pipe, which others use too: it stays as it is
        own = dict(clip_sample=False) if sampler == "DDIMScheduler" else {}  # of latents
        if sampler: scheduler = getattr(samplers, sampler).from_config(
            scheduler.config, **own)
        self.pipe = LatentDiffusionPipeline(**parts, scheduler=scheduler)
        self.guided = guided

    def __getattr__(self, name): return getattr(self.pipe, name)

    def __call__(self, captions, **options):
        if self.guided is None: return self.pipe(captions, **options)
        steps, scale = options["num_inference_steps"], options["guidance_scale"]
        calls = itertools.count()
        guided = pipeline._Guided.__call__
        def turned(model, x, t):  # one call of the U-Net a step
            share = (next(calls) + 0.5) / steps
            on = self.guided[0] <= share < self.guided[1]
            self.pipe._guidance_scale = scale if on else 1.0
            return guided(model, x, t)
        with patch.object(pipeline._Guided, "__call__", turned):
            return self.pipe(captions, **options)


def half(preset, fraction):
    """The preset with a fraction of the U-Net's steps; all the rest as it is."""
    told = dict(preset.unet_training)
    told["steps"] = max(4, round(told["steps"] * fraction))
    return replace(preset, unet_training=told)


def latents_of(job, key, *parts, kept={}):
    """The training latents, made once for rows that share them."""
    key = (*key, job.preset.pictures, bool(job.preset.align))
    if key not in kept:
        for old in [old for old in kept if old[:2] != ("shipped", 0)]:
            del kept[old]  # they are large
        kept[key] = job.make_latents(*parts), job.seconds["latents"]
    return kept[key]


def a_job(preset, folder, seed, device, on):
    """A `Job` that goes on where it was, and shows nothing."""
    job = Job(preset, folder, seed, resume=True, device=device, show_bar=False)
    job.show_preview = lambda pipe, step: None
    job.accelerator = SimpleNamespace(device=on, is_main_process=True)
    return job


def same_shape(preset, pipe):
    """Are a pipeline's VAE and text encoder of the shape that the preset says?"""
    with torch.device("meta"):
        vae = small_vae(**course.vae_config(preset))
        text = small_clip(pipe.tokenizer, **course.text_config(preset)).text_model
    for ours, theirs in ((vae, pipe.vae), (text, pipe.text_encoder)):
        shapes = [{k: v.shape for k, v in model.state_dict().items()}
                  for model in (ours, theirs)]
        if shapes[0] != shapes[1]: return False
    return vae.config.sample_size == pipe.vae.config.sample_size


def parts_of(preset, work, device):
    """VAE, tokenizer, text encoder and both halves of CLIP: the package's, or our own."""
    pipe = course.open_run(None, **({"device": "cpu"} if device == "cpu" else {}))
    if same_shape(preset, pipe):
        vae, tokenizer, text = pipe.vae, pipe.tokenizer, pipe.text_encoder
        pictures = ImageEncoder.from_pretrained(data_folder("weights", "image_encoder"))
        clip = TextAndPictures(text, pictures).to(pipe.device)
        return SimpleNamespace(vae=vae, tokenizer=tokenizer, text_encoder=text, clip=clip,
                               device=pipe.device, seconds={}, shipped=True)
    print("the package's VAE and text encoder are not those of the preset: training both",
          flush=True)
    job = a_job(preset, work/"parts", 0, device, pipe.device)
    vae = job.train_vae()
    tokenizer, text = job.train_text_encoder()
    for part in (vae, job.clip): part.requires_grad_(False).eval()
    return SimpleNamespace(vae=vae, tokenizer=tokenizer, text_encoder=text, clip=job.clip,
                           device=pipe.device, seconds=job.seconds, shipped=False)


def train_row(name, seed, preset, parts, work, device, kept={}):
    """A row's pipeline, CLIP, seconds and loss; what was trained before is only loaded."""
    key = name, seed, str(work), str(preset)
    if key in kept: return kept[key]
    variant = VARIANTS[name]
    changed = variant.change(preset)
    with variant.patch():
        job = a_job(changed, work/f"{name}-{seed}", seed, device, parts.device)
        vae, tokenizer, text, clip = parts.vae, parts.tokenizer, parts.text_encoder, parts.clip
        if variant.first == "text":
            tokenizer, text = job.train_text_encoder()
            clip = job.clip.requires_grad_(False).eval()
        job.accelerator = SimpleNamespace(device=parts.device, is_main_process=True)
        job.clip = parts.clip  # who teaches the middle, whatever text encoder reads
        PARTS.update(vae=vae, tokenizer=tokenizer, text=text, eye=parts.clip.image_encoder,
                     two_objects=changed.two_objects)
        own = name if variant.first == "text" or name == "no_page_mix" else "shipped"
        data, seconds = latents_of(job, (own, seed, fingerprint(vae)), vae, tokenizer, text)
        pipe = job.train_unet(vae, tokenizer, text, data)
    if name == "no_latent_cache": seconds = 0.0
    told = {k: round(job.seconds[k], 1) for k in ("text", "unet") if k in job.seconds}
    losses = job.losses["unet"][-50:]
    found = pipe, clip, told | dict(latents=round(seconds, 1)), sum(losses) / len(losses)
    if name in {row.of for row in PAINTED.values()}: kept[key] = found
    return found


def run_row(name, seed, preset, parts, work, device, captions, pictures=None):
    """What the table says of one row and seed."""
    row = TABLE[name]
    trained = row.of if row.first == "paint" else name
    pipe, clip, seconds, loss = train_row(trained, seed, preset, parts, work, device)
    options = dict(steps=preset.steps, scale=preset.scale)
    options |= {k: v for k, v in row.paint.items() if k in options}
    start = time.perf_counter()
    with half_where_fast(parts.device):
        accuracy = judge_all(Painter(pipe, **row.paint), captions, [0],
                             kinds=("one_object", "two_objects"), **options)
    seconds = seconds | dict(paint=round(time.perf_counter() - start, 1))
    found = dict(row=name, seed=seed, trained=trained, seconds=seconds,
                 loss=round(loss, 5), **{kind: kinds["whole"]
                                         for kind, kinds in accuracy.items()})
    if row.first == "text" or name == "baseline":
        book = Sketchbook(clip.image_encoder.config.image_size)
        n = pictures or PICTURES
        picked = pick_caption(clip, pipe.tokenizer, book, n=n)
        right = torch.arange(n) < round(picked * n)
        found["pick_caption"] = share(right)
    return found


def where():
    """Machine, commit and versions: what a number is worth without them."""
    def told(*command):
        try: return subprocess.run(command, capture_output=True, text=True, check=True,
                                   cwd=Path(__file__).parent).stdout.strip()
        except (OSError, subprocess.CalledProcessError): return None
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines()
              if line.startswith("model name")] if info.is_file() else []
    return dict(date=time.strftime("%Y-%m-%d"), commit=told("git", "rev-parse", "HEAD"),
                changed=bool(told("git", "status", "--porcelain", "-uno")),
                machine=f"{platform.machine()}, {models[0] if models else platform.processor()}, "
                        f"{len(models)} processors", threads=torch.get_num_threads(),
                torch=torch.__version__, python=platform.python_version())


def in_order(seeds, device):
    """(row, seed) of all that the table is made of, the most telling first."""
    kind = "cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda"
    twin = "bf16" if best_precision(kind) != "no" else "fp32"  # which is the baseline
    names = [name for name in TABLE if name != twin]
    trained = [name for name in names if TABLE[name].first != "paint"]
    at = names.index(trained[min(LATER, len(trained) - 1)])
    more = [("baseline", seed) for seed in range(1, seeds)] + [("speed", 0)]
    return [(name, 0) for name in names[:at]] + more + [(name, 0) for name in names[at:]]


def foresee(todo, preset, parts, device, captions, steps=6, few=16):
    """Train a few steps of each row at full size, paint a few: its minutes, in all."""
    told = {stage: getattr(preset, stage) for stage in STAGES}
    pictures = min(256, preset.pictures)
    short = replace(preset, pictures=pictures, **{
        stage: {**options, "steps": steps} for stage, options in told.items()})
    minutes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seed in todo:
            if name == "speed": continue
            with Watch() as watch:
                found = run_row(name, seed, short, parts, Path(folder), device, few, few)
            seconds = found["seconds"]["paint"] * captions / few
            for stage, times in watch.seconds.items():
                seconds += statistics.median(times[2:]) * told[f"{stage}_training"]["steps"]
            own = TABLE[name].first == "text" or name in ("baseline", "no_page_mix")
            if own: seconds += found["seconds"]["latents"] * preset.pictures / pictures
            minutes[f"{name}, seed {seed}"] = round(seconds / 60, 2)
            print(f"{name}, seed {seed}: {seconds / 60:.1f} min", flush=True)
    return minutes


def each_row_in_turn(preset, parts, device, rounds=2, steps=14, few=24):
    """row -> medians: seconds a step of the U-Net (none, where nothing is trained), and
    seconds a picture, painted and judged."""
    few_steps = {stage: {**getattr(preset, stage), "steps": steps} for stage in STAGES}
    short = replace(preset, pictures=512, **few_steps)
    found = {name: dict(step=[], picture=[]) for name in TABLE}
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name in TABLE:
                with Watch() as watch:
                    row = run_row(name, 0, short, parts, Path(folder), device, few, few)
                found[name]["step"] += watch.seconds.get("unet", [])[4:]
                found[name]["picture"].append(row["seconds"]["paint"] / (2 * few))
        print(f"round {i + 1} of {rounds}", flush=True)
    return {name: {what: round(statistics.median(values), 5) for what, values in row.items()
                   if values} for name, row in found.items()}


def keep_seconds(out, settings, preset, device):
    """Add to a table what its rows take, whatever the weights are."""
    if not out.is_file(): raise SystemExit(f"{out}: there is no table yet for --seconds to be added to")
    found = open_table(out, settings)
    few_steps = {stage: {**getattr(preset, stage), "steps": 4} for stage in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        parts = parts_of(replace(preset, **few_steps), Path(folder), device)
    bf16 = best_precision(device or "cuda") == "bf16"
    took = where() | dict(bf16=bf16, rows=each_row_in_turn(preset, parts, device))
    write_json(found | dict(took=took), out)


def open_table(out, settings):
    """What a table that was begun holds; another recipe's is refused."""
    if not out.is_file(): return dict(settings=settings, rows=[])
    before = read_json(out)
    if not settings.items() <= before["settings"].items():
        raise SystemExit(f"{out} was made with {before['settings']}, and this run has "
                         f"{settings}; use another --out and --work")
    return before


def table(out, work, preset_name, fraction, captions, seeds, only, device, estimate=False,
          seconds=False):
    """Run the rows that are missing; the JSON is written after each."""
    full = PRESETS[preset_name]
    preset = half(full, fraction)
    todo = [key for key in in_order(seeds, device) if not only or key[0] in only]
    if not todo: raise SystemExit(f"{', '.join(only)}: on this machine that is the baseline")
    code = zlib.crc32(json.dumps(asdict(preset), sort_keys=True, default=str).encode())
    settings = dict(preset=preset_name, recipe=f"{code:08x}", steps_share=fraction,
                    captions=captions, steps=preset.unet_training["steps"], size=preset.size)
    if seconds: return keep_seconds(out, settings, preset, device)
    parts = parts_of(preset, work, device)
    if estimate:
        minutes = foresee(todo, preset, parts, device, captions)
        return print(f"{sum(minutes.values()) / 60:.1f} hours in all, without `speed`")
    weights = course.fingerprint(parts.vae) + course.fingerprint(parts.text_encoder)
    found = open_table(out, settings | dict(shipped=parts.shipped, weights=weights))
    rows = found["rows"]
    done = {(row["row"], row["seed"]) for row in rows} | ({("speed", 0)} if "speed" in found else set())
    todo = [key for key in todo if key not in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    for i, (name, seed) in enumerate(todo):
        start = time.perf_counter()
        if name == "speed": row = dict(seconds_per_step=speed(full, device))
        else: row = run_row(name, seed, preset, parts, work, device, captions)
        row |= where() | dict(minutes=round((time.perf_counter() - start) / 60, 2))
        if name == "speed": found["speed"] = row
        else: rows.append(row)
        rows.sort(key=lambda row: (WORTH.index(row["row"]), row["seed"]))
        write_json(found, out)
        print(f"{i + 1}/{len(todo)} {name}, seed {seed}: {summary(row)}", flush=True)
        if name not in {row.of for row in PAINTED.values()}:
            shutil.rmtree(work/f"{name}-{seed}", ignore_errors=True)
    return rows


def summary(row):
    """A row in a line."""
    if "one_object" not in row: return f"{row['minutes']} min"
    one, two = (row[kind]["share"] for kind in ("one_object", "two_objects"))
    return (f"{one:.1%} and {two:.1%} right, {row['seconds']['unet']} s for the U-Net, "
            f"{row['minutes']} min")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("variant", choices=[*VARIANTS, "speed", "race", "table"])
    option("--preset", choices=[*PRESETS], default="cpu", help="smoke for a trial")
    option("--seed", type=int, default=0)
    option("--device", help="cpu or cuda (default: a GPU where there is one)")
    option("--threads", type=int, default=2)
    option("--captions", type=whole(1), default=500, help="of each kind, to paint and judge")
    option("--pictures", type=int, default=2000, help="to pick the caption of")
    option("--steps-share", "--steps-fraction", type=float, dest="steps_share",
           help="of the preset's steps; default: 1, of a table 0.5")
    option("--only", nargs="+", choices=[*TABLE, "speed"], help="rows of the table")
    option("--estimate", action="store_true", help="of a table: only say how long it takes")
    option("--seconds", action="store_true", help="of a table: what a step and a picture of each row take")
    option("--seeds", type=int, default=3, help="of the table's baseline")
    option("--work", type=Path, default=Path("runs/ablate"), help="for checkpoints")
    option("--progress", action="store_true", help="show progress bars")
    option("--out", type=Path, help="needed, except by a table")
    options = parser.parse_args()
    chosen = options.preset, options.seed, options.steps_share
    if options.variant == "race" and chosen != ("cpu", 0, None):
        parser.error("a race is between whole presets: no --preset, --seed or --steps-share")
    if options.out is None:
        if options.variant != "table": parser.error("--out is needed")
        options.out = data_folder("results", "ablations.json")
    if options.steps_share is None:
        options.steps_share = 0.5 if options.variant == "table" else 1.0
    torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here")
    kept = "cpu" if device == "cpu" else None
    if options.variant == "table":
        table(options.out, options.work, options.preset, options.steps_share,
              options.captions, options.seeds, options.only, kept, options.estimate,
              options.seconds)
        return None if options.estimate else print(options.out)
    preset = PRESETS[options.preset]
    start = time.perf_counter()
    if options.variant == "speed":
        results = dict(seconds_per_step=speed(preset, kept))
    elif options.variant == "race":
        options.out.parent.mkdir(parents=True, exist_ok=True)
        found = race(("small", "cpu"), kept)
        minutes = round((time.perf_counter() - start) / 60, 2)
        write_json(dict(minutes=minutes) | found, options.out)
        return print(options.out)
    else:
        preset = shortened(preset, options.steps_share)
        results = ablate(options.variant, preset, options.seed, kept, options.captions,
                         options.pictures, options.progress)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    hardware = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    write_json(dict(
        variant=options.variant, preset=options.preset, seed=options.seed,
        steps_share=options.steps_share, device=hardware, threads=options.threads,
        torch=torch.__version__, minutes=round((time.perf_counter() - start) / 60, 2),
        **results), options.out)
    print(options.out)


if __name__ == "__main__":
    main()
