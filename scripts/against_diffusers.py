#!/usr/bin/env python3
"""Our trainer and pipeline against diffusers' own classes and a plain loop: same model, data, steps, machine and run.

    python scripts/against_diffusers.py [--blocks 6] [--block 8] [--images 32]
    python scripts/against_diffusers.py --preset cpu --from runs/cpu --accuracy 1100 [--seeds 0 1 2] [--parts PARTS.json]
                                     also train each for so many steps, from each seed, and judge it (20 minutes a seed)

These train the U-Net of the package (or of `--from`), from the same first weights, on the same batches:

* ours: `Trainer` with the optimiser of the preset (Muon), in bf16 where the hardware is made for it;
* ours_adamw: the same with AdamW, the optimiser of all that follow;
* ours_fp32: that in float32; its losses are those of:
* diffusers: `diffusers.UNet2DConditionModel`, `DDPMScheduler`, `EMAModel` and a plain loop in float32 with AdamW;
* diffusers_best: the same with bf16 autocast (where the hardware is made for it), fused AdamW and foreach EMA;
* diffusers_plain: that with attention written out, which is one line (`set_default_attn_processor`); only its time is taken;
* diffusers_channels_last: the best in the other order of memory, to see whether it is faster; only its time is taken.

All minimise the mean square, without a loss on the middle, at timesteps as `latent_batches` draws them where no centre is
named. They take turns, a block of steps each, so that a busy machine is as busy for all, in one process: that the C library
keeps freed memory, which our `Trainer` asks it to, holds for all of them. Then our pipeline and diffusers'
`StableDiffusionPipeline`, opened from one folder, paint the same captions in turns, each in a process of its own: both as they
are, in float32, and both at their best (`ours_best` is how `Job` paints its captions; it lets the C library keep freed memory,
as our `Trainer` does, so `diffusers_memory` is diffusers' best with that, too, and `diffusers_half` has besides all weights in
bf16 and attention written out). Times are processor seconds (all threads) and seconds
on the clock; a ratio is ours over theirs, of medians over blocks, with the least and the most of the blocks.
A seed says first weights and batches, the same for all; of each average the accuracy is taken, and, steadier, its mean square
on 2,048 draws from pictures of the training's kind that none has learned from. With `--parts` each training is kept as soon as it is judged, and not done again.
Writes minidiff/data/results/against_diffusers.json.
"""
import argparse
import contextlib
import functools
import logging
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

from judge import held_out, judge_all
from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import PRESETS, SCHEDULER, Latents, diffusion_loss, latent_batches, open_run, training_scenes
from minidiff.optimizers import lr_factor
from minidiff.parallel import norms_in_float32
from minidiff.pipeline import LatentDiffusionPipeline
from minidiff.scheduler import DDPMScheduler
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Sketchbook
from minidiff.terminal import whole
from minidiff.training import Trainer, best_precision, fingerprint, half_where_fast, seed_all, step_generator, _keep_memory

TRAINED = ["ours_adamw", "diffusers_best", "diffusers", "ours"]
PAINTERS = ["ours", "ours_best", "diffusers", "diffusers_best", "diffusers_channels_last", "diffusers_memory", "diffusers_half"]


@torch.no_grad()
def make_latents(pipe, pictures, two_objects, generator):
    """What the U-Net learns from, made by the VAE and the text encoder of a pipeline."""
    book, two = Sketchbook(pipe.vae.config.sample_size), round(pictures * two_objects)
    means, stds, states = [], [], []
    def read(captions):
        ids = pipe.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
        states.append(pipe.text_encoder(ids).last_hidden_state.bfloat16())
    for n_objects, total in ((1, pictures - two), (2, two)):
        for first in range(0, total, 128):
            scenes = training_scenes(book, min(128, total - first), n_objects, generator)
            posterior = pipe.vae.encode(book.paint(scenes))
            means.append(pipe.vae.scale(posterior.mean))
            stds.append(posterior.std * pipe.vae.config.scaling_factor)
            read(book.caption(scenes, generator)[0])
    read([""])
    return Latents(torch.cat(means), torch.cat(stds), torch.cat(states))


class Ours:
    """`Trainer`, step by step."""

    def __init__(self, weights, config, batch_fn, told, steps, seed=0, **more):
        unet = UNet2DConditionModel(**config)
        unet.load_state_dict(weights)
        loss = diffusion_loss(DDPMScheduler.from_config(SCHEDULER))
        told = {k: v for k, v in told.items() if k not in ("batch_size", "steps", "cuda_graph")} | more
        self.trainer = Trainer(unet, loss, batch_fn, steps, device="cpu", seed=seed, show_bar=False, **{"ema": 0.995, **told})
        self.trainer._set_up()

    def step(self, i):
        with norms_in_float32(self.trainer.model) if self.trainer.channels_last else contextlib.nullcontext():  # as `fit` does
            self.trainer._train_step(self.trainer._batch(i))
        self.trainer.step = i + 1

    def average(self): return self.trainer.ema_model.state_dict()
    def losses(self): return torch.stack(self.trainer._losses).tolist()


class Theirs:
    """diffusers' classes and the loop that its training examples have."""

    def __init__(self, weights, config, batch_fn, told, steps, seed=0, best=False, channels_last=False, plain=False):
        import diffusers
        from diffusers.training_utils import EMAModel
        self.unet = diffusers.UNet2DConditionModel(**config)
        self.unet.load_state_dict(weights)
        if channels_last: self.unet.to(memory_format=torch.channels_last)
        if plain: self.unet.set_default_attn_processor()
        self.channels_last, self.batch_fn, self.seed, self.seen = channels_last, batch_fn, seed, []
        keys = ("beta_schedule", "prediction_type", "timestep_spacing", "steps_offset")
        self.scheduler = diffusers.DDPMScheduler(**{k: v for k, v in SCHEDULER.items() if k in keys})
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=told["lr"], betas=(0.9, 0.99), weight_decay=0.01, fused=best or None)
        rate = lambda step: lr_factor(step, steps, decay=told.get("decay"))
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)
        self.ema = EMAModel(self.unet.parameters(), decay=told.get("ema") or 0.995, use_ema_warmup=False, foreach=best)
        half = best and best_precision("cpu") == "bf16"
        self.half = lambda: torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()

    def step(self, i):
        batch = self.batch_fn(step_generator(self.seed, i))
        x0, noise, t = batch["latents"], batch["noise"], batch["timesteps"]
        noisy = self.scheduler.add_noise(x0, noise, t)
        if self.channels_last: noisy = noisy.contiguous(memory_format=torch.channels_last)
        with self.half():
            answer = self.unet(noisy, t, batch["states"]).sample
        v = self.scheduler.config.prediction_type == "v_prediction"
        loss = F.mse_loss(answer.float(), self.scheduler.get_velocity(x0, noise, t) if v else noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.unet.parameters())
        self.seen.append(loss.detach())

    def average(self):
        self.ema.store(self.unet.parameters())
        self.ema.copy_to(self.unet.parameters())
        found = {k: v.clone() for k, v in self.unet.state_dict().items()}
        self.ema.restore(self.unet.parameters())
        return found

    def losses(self): return torch.stack(self.seen).tolist()


def contestants(weights, config, batch_fn, told, steps, seed=0):
    adamw = dict(optimizer="adamw", lr=told["lr"] / 4, betas=(0.9, 0.99))
    theirs = {**told, "lr": told["lr"] / 4}  # AdamW wants a smaller rate than Muon; the same for all three
    ours, diffusers = functools.partial(Ours, weights, config, batch_fn, told, steps, seed), functools.partial(Theirs, weights, config, batch_fn, theirs, steps, seed)
    return dict(ours=ours, ours_adamw=lambda: ours(**adamw), ours_fp32=lambda: ours(**adamw, precision="no"), diffusers=diffusers,
                diffusers_best=lambda: diffusers(best=True), diffusers_plain=lambda: diffusers(best=True, plain=True),
                diffusers_channels_last=lambda: diffusers(best=True, channels_last=True))


def in_turns(runs, rounds):
    """Each of `runs` once a round: name -> [(processor seconds, seconds)], its own where it gives them."""
    times = {name: [] for name in runs}
    for i in range(rounds):
        names = [*runs]
        for name in names[i % len(names):] + names[:i % len(names)]:  # nobody is always first
            cpu, wall = time.process_time(), time.perf_counter()
            own = runs[name]()
            times[name].append(own or (time.process_time() - cpu, time.perf_counter() - wall))
    return times


def ratios(times, ours, theirs):
    """Ours over theirs, of processor seconds and on the clock: of the medians, and the least and the most of the rounds."""
    found = {}
    for i, clock in enumerate(("cpu", "wall")):
        a, b = ([pair[i] for pair in times[name]] for name in (ours, theirs))
        single = [x / y for x, y in zip(a, b)]
        found[clock] = dict(ratio=round(statistics.median(a) / statistics.median(b), 3), least=round(min(single), 3), most=round(max(single), 3))
    return found


def medians(times, parts):
    return {name: {clock: round(statistics.median(pair[i] for pair in pairs) / parts, 5) for i, clock in enumerate(("cpu", "wall"))} for name, pairs in times.items()}


def training(pipe, preset, data, blocks, block):
    """Steps in turns: seconds a step, and their ratios."""
    told, config = preset.unet_training, {k: v for k, v in pipe.unet.config.items() if not k.startswith("_")}
    seed_all(2)
    weights = UNet2DConditionModel(**config).zero_init().state_dict()
    draw, drawn = latent_batches(data, told["batch_size"], preset.drop), {}
    def batch_fn(generator):
        seed = generator.initial_seed()
        if seed not in drawn: drawn[seed] = draw(generator)
        return drawn[seed]
    steps = (blocks + 1) * block
    for i in range(steps): batch_fn(step_generator(0, i))  # drawn beforehand: it is the same for all
    racers = {name: make() for name, make in contestants(weights, config, batch_fn, told, steps).items()}
    at = dict.fromkeys(racers, 0)
    def run(name):
        for _ in range(block):
            racers[name].step(at[name])
            at[name] += 1
    in_turns({name: lambda name=name: run(name) for name in racers}, 1)  # to warm up
    times = in_turns({name: lambda name=name: run(name) for name in racers}, blocks)
    losses = {name: [round(loss, 6) for loss in racer.losses()[:8]] for name, racer in racers.items()}
    return dict(batch_size=told["batch_size"], blocks=blocks, block=block, seconds_per_step=medians(times, block), losses=losses,
                ratios={f"{a} / {b}": ratios(times, a, b) for a in racers if a[:4] == "ours" for b in racers if b[:4] != "ours"})


def painter(name, folder, captions, told, threads, pipe):
    """A process that paints: answers "paint" with pictures and its (processor seconds, seconds), until it is told to stop."""
    warnings.simplefilter("ignore")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    dice = lambda: step_generator(0, 6)  # the same for all
    if name.startswith("ours"):
        own = LatentDiffusionPipeline.from_pretrained(folder)
        inside = contextlib.nullcontext
        if name == "ours_best":  # as a `Job` paints, that has just trained
            _keep_memory()
            for part in (own.vae, own.unet): part.to(memory_format=torch.channels_last)
            inside = lambda: on_top(half_where_fast("cpu"), norms_in_float32(own.unet))
    else:
        import diffusers
        bf16, all_half = best_precision("cpu") == "bf16", name == "diffusers_half"
        dtype = torch.bfloat16 if bf16 and all_half else torch.float32
        own = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True, torch_dtype=dtype)
        own.set_progress_bar_config(disable=True)
        if all_half: own.unet.set_default_attn_processor()
        if "channels_last" in name:
            for part in (own.unet, own.vae): part.to(memory_format=torch.channels_last)
        if name in ("diffusers_memory", "diffusers_half"): _keep_memory()
        half = bf16 and name not in ("diffusers", "diffusers_half")
        inside = lambda: torch.autocast("cpu", torch.bfloat16, enabled=half)
    while pipe.recv() == "paint":
        noise, generator, cpu, wall = told["noise"].to(next(own.unet.parameters()).dtype, copy=True), dice(), time.process_time(), time.perf_counter()
        with inside(): pictures = own(captions, **told["settings"], latents=noise, generator=generator)
        seconds = time.process_time() - cpu, time.perf_counter() - wall
        pipe.send((pictures if name.startswith("ours") else 2 * pictures.images - 1, seconds))


@contextlib.contextmanager
def on_top(first, second):
    with first, second: yield


def sampling(pipe, preset, images, rounds, threads):
    """All pipelines paint the same captions in turns, each in a process of its own: what one does to memory is not the other's gain."""
    captions = held_out(pipe.vae.config.sample_size, images, "two_objects", 0)[0]
    told = dict(noise=pipe.start_latents(images, generator=step_generator(0, 5)),
                settings=dict(num_inference_steps=preset.steps, guidance_scale=preset.scale, output_type="pt"))
    context, ends, processes = torch.multiprocessing.get_context("spawn"), {}, []
    def paint(name):
        ends[name].send("paint")
        return ends[name].recv()
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        for name in PAINTERS:
            ends[name], far = context.Pipe()
            processes.append(context.Process(target=painter, args=(name, folder, captions, told, threads, far), daemon=True))
            processes[-1].start()
            far.close()  # so that whoever waits for a dead one is told
        pictures = {name: paint(name)[0] for name in PAINTERS}  # all are ready now, and warm
    gap = (pictures["ours"].clamp(-1, 1) - pictures["diffusers"]).abs().max().item()
    if gap > 1e-3: raise RuntimeError(f"the two pipelines paint pictures that are {gap:.3g} apart")
    times = in_turns({name: lambda name=name: paint(name)[1] for name in PAINTERS}, rounds)
    for end in ends.values(): end.send("stop")
    for process in processes: process.join()
    return dict(images=images, rounds=rounds, steps=preset.steps, scale=preset.scale, largest_gap=round(gap, 5), seconds_per_image=medians(times, images),
                ratios={f"{a} / {b}": ratios(times, a, b) for a in ("ours", "ours_best") for b in PAINTERS[2:]})


@torch.no_grad()
def fresh_loss(unet, data, preset):
    """The mean square of a U-Net on pictures that it has not seen; the same noise for all."""
    loss, draw = diffusion_loss(DDPMScheduler.from_config(SCHEDULER)), latent_batches(data, 128, preset.drop)
    return statistics.mean(loss(unet, draw(step_generator(99, i))).item() for i in range(16))


def accuracy(pipe, preset, data, steps, captions, seeds, names, parts):
    """Train each for so many steps from each seed, one after the other, and judge its average: a row for each."""
    told, config = preset.unet_training, {k: v for k, v in pipe.unet.config.items() if not k.startswith("_")}
    fresh = make_latents(pipe, 2048, preset.two_objects, step_generator(1, 2**31))
    recipe = dict(steps=steps, captions=captions, batch_size=told["batch_size"], lr=told["lr"], pictures=preset.pictures, vae=fingerprint(pipe.vae), text=fingerprint(pipe.text_encoder))
    rows = read_json(parts)["rows"] if parts and parts.exists() else []
    for seed in seeds:
        seed_all(2 + seed)
        weights = UNet2DConditionModel(**config).zero_init().state_dict()
        racers = contestants(weights, config, latent_batches(data, told["batch_size"], preset.drop), told, steps, seed)
        for name in names:
            key = dict(name=name, seed=seed) | recipe
            if any(key.items() <= row.items() for row in rows): continue
            racer, cpu, wall = racers[name](), time.process_time(), time.perf_counter()
            for i in range(steps): racer.step(i)
            seconds = dict(cpu=round(time.process_time() - cpu, 1), wall=round(time.perf_counter() - wall, 1))
            unet = UNet2DConditionModel(**config)
            unet.load_state_dict(racer.average())
            painter = LatentDiffusionPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, unet.eval(), pipe.scheduler)
            judged = judge_all(painter, captions, [0], kinds=("one_object", "two_objects"), steps=preset.steps, scale=preset.scale)
            shares = {kind: {k: v for k, v in found["whole"].items() if k != "by_seed"} for kind, found in judged.items()}
            rows.append(key | dict(seconds=seconds, loss=round(fresh_loss(unet, fresh, preset), 5)) | shares)
            print(rows[-1], flush=True)
            if parts: write_json(dict(rows=rows), parts)
    return dict(recipe, rows=[{k: v for k, v in row.items() if k not in recipe} for row in rows if recipe.items() <= row.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--from", dest="folder", help="of a run (default: the package's own)")
    option("--preset", choices=[*PRESETS], default="small", help="whose batches and optimiser")
    option("--blocks", type=int, default=6, help="of steps, of each")
    option("--block", type=int, default=8, help="steps in a block")
    option("--images", type=int, default=32, help="painted in each round")
    option("--rounds", type=int, default=5, help="of painting")
    option("--pictures", type=int, default=512, help="to learn from, where only the time is taken")
    option("--accuracy", type=int, metavar="STEPS", help="also train each for so many steps, and judge it")
    option("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings that are judged")
    option("--names", nargs="+", choices=[*TRAINED, "ours_fp32"], default=TRAINED, help="who is trained and judged")
    option("--parts", type=Path, help="JSON of the trainings that are done")
    option("--captions", type=whole(1), default=1000, help="of each kind, to judge")
    option("--threads", type=int, default=2)
    option("--out", type=Path, default=data_folder("results", "against_diffusers.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    import diffusers
    start, preset, pipe = time.perf_counter(), PRESETS[options.preset], open_run(options.folder, device="cpu")
    data = make_latents(pipe, preset.pictures if options.accuracy else options.pictures, preset.two_objects, step_generator(0, 2**31))
    found = dict(model=options.folder or "package", preset=options.preset, threads=options.threads, torch=torch.__version__, diffusers=diffusers.__version__,
                 machine=platform.machine(), bf16=best_precision("cpu") == "bf16")
    found["training"] = training(pipe, preset, data, options.blocks, options.block)
    print(found["training"], flush=True)
    found["sampling"] = sampling(pipe, preset, options.images, options.rounds, options.threads)
    print(found["sampling"], flush=True)
    if options.accuracy: found["accuracy"] = accuracy(pipe, preset, data, options.accuracy, options.captions, options.seeds, options.names, options.parts)
    elif options.out.exists() and "accuracy" in (before := read_json(options.out)):  # measured before, and kept
        found["accuracy"] = dict(measured_with=f"{before['model']}, preset {before['preset']}") | before["accuracy"]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(found | dict(minutes_of_this_run=round((time.perf_counter() - start) / 60, 2)), options.out)
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
