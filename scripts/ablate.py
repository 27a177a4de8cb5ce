#!/usr/bin/env python3
"""What is each choice of the CPU preset worth? Train with one thing changed, and judge.

    python scripts/ablate.py VARIANT [--seed S] [--device cuda] --out FILE.json
    python scripts/ablate.py speed --device cpu --out FILE.json

A variant trains all three stages (on one GPU a few minutes, on two processor cores a
quarter of an hour) and paints 500 held-out captions with one object and 500 with two,
the same for all. It also asks the trained encoders of stage two which of eight captions
belongs to a picture. `speed` trains nothing to the end: it takes the time of single
steps with and without each choice, in turn.
"""
import argparse
import functools
import statistics
import tempfile
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Callable, NamedTuple
from unittest.mock import patch

import torch

import minidiff.latent_diffusion as course
from judge import judge_all, share
from minidiff.files import write_json
from minidiff.negatives import pick_caption
from minidiff.latent_diffusion import PRESETS, Job
from minidiff.negatives import contrastive_batches
from minidiff.sketchbook import Scenes, Sketchbook, choose_mentioned
from minidiff.text_encoder import clip_loss
from minidiff.training import Trainer

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


def any_timestep(n, generator, timesteps=1000):
    """In place of the bell: all timesteps alike."""
    return torch.randint(timesteps, (n,), generator=generator)


class Variant(NamedTuple):
    change: Callable = lambda preset: preset  # of the preset
    patch: Callable = nullcontext  # of a name that the stages look up


adamw = functools.partial(training, *STAGES, optimizer="adamw")
no_ema = Variant(training("text_training", "unet_training", ema=None))
fp32 = Variant(training(*STAGES, precision="no"))
VARIANTS = dict(
    baseline=Variant(),
    adamw_half=Variant(adamw(lr_times=1 / 2)),
    adamw_quarter=Variant(adamw(lr_times=1 / 4)),
    adamw_eighth=Variant(adamw(lr_times=1 / 8)),
    no_ema=no_ema,
    fp32=fp32,
    no_hard_negatives=Variant(patch=functools.partial(
        patch.dict, contrastive_batches.__globals__, hard_negatives=other_scenes)),
    one_caption=Variant(patch=functools.partial(
        patch.object, course, "contrastive_loss", one_caption_loss)),
    no_page_mix=Variant(patch=functools.partial(patch.dict, course.PAGES, clear=True)),
    uniform_timesteps=Variant(patch=functools.partial(
        patch.object, course, "draw_timesteps", any_timestep)),
    eps=Variant(patch=scheduler(prediction_type="epsilon")),
    eps_leading=Variant(patch=scheduler(
        prediction_type="epsilon", timestep_spacing="leading")),
    v_leading=Variant(patch=scheduler(timestep_spacing="leading")),
)
SPEED = dict(
    baseline=Variant(), adamw=VARIANTS["adamw_quarter"], no_ema=no_ema, fp32=fp32,
    bf16=Variant(training(*STAGES, precision="bf16")),
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


def speed(preset, device, rounds=3, steps=15):
    """variant -> stage -> median seconds of a step; the variants take turns."""
    few = {stage: {**getattr(preset, stage), "steps": steps} for stage in STAGES}
    preset = replace(preset, pictures=512, **few)
    times = {name: {} for name in SPEED}
    for _ in range(rounds):
        for name, variant in SPEED.items():
            with ExitStack() as stack:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                fewer = variant.change(preset)
                job = Job(fewer, folder, device=device, show_bar=False)
                job.show_preview = lambda pipe, step: None
                watch = stack.enter_context(Watch())
                train(job)
            for stage, seconds in watch.seconds.items():
                times[name].setdefault(stage, []).extend(seconds[3:])
    return {name: {stage: round(statistics.median(values), 5)
                   for stage, values in row.items()} for name, row in times.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("variant", choices=[*VARIANTS, "speed"])
    option("--preset", choices=[*PRESETS], default="cpu", help="smoke for a trial")
    option("--seed", type=int, default=0)
    option("--device", help="cpu or cuda (default: a GPU where there is one)")
    option("--threads", type=int, default=2)
    option("--captions", type=int, default=500, help="of each kind, to paint and judge")
    option("--pictures", type=int, default=2000, help="to pick the caption of")
    option("--steps-fraction", type=float, default=1.0, help="less for a trial")
    option("--progress", action="store_true", help="show progress bars")
    option("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here")
    kept = "cpu" if device == "cpu" else None
    preset = PRESETS[options.preset]
    start = time.perf_counter()
    if options.variant == "speed":
        results = dict(seconds_per_step=speed(preset, kept))
    else:
        preset = shortened(preset, options.steps_fraction)
        results = ablate(options.variant, preset, options.seed, kept, options.captions,
                         options.pictures, options.progress)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    hardware = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    write_json(dict(
        variant=options.variant, preset=options.preset, seed=options.seed,
        steps_fraction=options.steps_fraction, device=hardware, threads=options.threads,
        torch=torch.__version__, minutes=round((time.perf_counter() - start) / 60, 2),
        **results), options.out)
    print(options.out)


if __name__ == "__main__":
    main()
