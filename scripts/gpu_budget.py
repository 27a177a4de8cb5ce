#!/usr/bin/env python3
"""What would training take on a T4, an A10, an H100? Counted on `meta`, and held against what was measured.

    python scripts/gpu_budget.py [--preset gpu] [--measure small] [--rounds 5]

Counts the operations, bytes and memory of a step of each stage of a preset, as `minidiff.budget` does, and estimates what
the stage takes on each card. Nothing here has run on those cards. Three checks say how far off the method is: steps of the
preset `--measure` are timed on this processor; of an earlier `gpu` preset, with latents of 16 x 16, the U-Net's step, forward
and backward, was measured on an H100 (minidiff/data/results/cuda_graph.json), and so was a whole run
(minidiff/data/runs/h100/results.json). Writes minidiff/data/results/budget.json.
"""
import argparse
import functools
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

import minidiff.scheduler
from minidiff.alignment import Aligned
from minidiff.budget import CARDS, estimate, inference_cost, measured_card, training_cost
from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import PRESETS, SCHEDULER, Latents, Preset, diffusion_loss, fitted_unet, latent_batches, text_config, vae_config
from minidiff.negatives import contrastive_batches
from minidiff.optimizers import Muon, parameter_groups
from minidiff.runs import resized
from minidiff.scheduler import DDPMScheduler
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Sketchbook
from minidiff.text_encoder import contrastive_loss, small_clip
from minidiff.tokenizer import caption_tokenizer
from minidiff.training import Trainer, step_generator
from minidiff.vae import small_vae, vae_batches, vae_training_loss

STAGES = dict(vae="vae_training", text="text_training", unet="unet_training")
PRECISIONS = dict(t4="fp16", a10="bf16", h100="bf16")


def stage(name, preset):
    """How to build the model of a stage, its loss, and a `batch_fn` of its own batches."""
    book, n = Sketchbook(preset.size), getattr(preset, STAGES[name])["batch_size"]
    with torch.device("meta"): vae = small_vae(**vae_config(preset))
    tokenizer, channels, side = caption_tokenizer(book), vae.config.latent_channels, preset.size // vae.factor
    if name == "vae": return functools.partial(small_vae, **vae_config(preset)), vae_training_loss, vae_batches(book, n, channels, vae.factor)
    if name == "text":
        config, draw = text_config(preset), contrastive_batches(book, tokenizer, n)
        def batches(generator):
            found = draw(generator)
            return found | dict(images=resized(found["images"], config["size"]))
        return functools.partial(small_clip, tokenizer, **config), contrastive_loss, batches
    latents, width = torch.randn(64, channels, side, side), preset.text.get("width", 128)
    data = Latents(latents, latents.square(), torch.randn(65, tokenizer.model_max_length, width))
    make = functools.partial(UNet2DConditionModel, **fitted_unet(preset, vae))
    loss = diffusion_loss(DDPMScheduler(**SCHEDULER), preset.align, preset.huber)
    if preset.align:
        widths = preset.text.get("widths", (32, 64, 128))  # of the image encoder
        places = text_config(preset)["size"] >> len(widths)
        data.maps, unet = torch.randn(64, widths[-1], places, places), make
        make = lambda: Aligned(unet(), widths[-1])
    return make, loss, latent_batches(data, n, preset.drop)


def counted(name, preset, precision, update=True):
    """The cost of a step of a stage, with the optimiser that its `Trainer` would take."""
    make, loss_fn, batches = stage(name, preset)
    options = getattr(preset, STAGES[name])
    kind = Muon if options.get("optimizer") == "muon" else torch.optim.AdamW
    optimizer = lambda weights: kind([dict(params=weights)], lr=1e-3)
    look = lambda t, *args, **more: t  # the numbers of `meta` cannot be checked
    with patch.object(minidiff.scheduler, "check_timesteps", look):
        return training_cost(make, loss_fn, batches(step_generator(0, 0)), optimizer if update else Nothing, update and options.get("ema", 0.995) is not None, precision)


def whole_run():
    """The results of a whole run on an H100, and its preset."""
    found = read_json(data_folder("runs", "h100", "results.json"))
    return found, Preset(**{"huber": 0.0, **found["preset"]})


def stage_estimate(name, preset, card, precision):
    """Estimate of a stage's step, and its cost. A recording holds the loss; clipping, optimiser and average are told one by one."""
    cost, recorded = counted(name, preset, precision), bool(getattr(preset, STAGES[name]).get("cuda_graph"))
    found = estimate(cost, card, precision, recorded)
    if recorded:
        update = len(cost.work) - len(counted(name, preset, precision, update=False).work)
        found["telling"] = update * card.launch
        found["seconds"] = max(found["seconds"], found["telling"])
    return found, cost


class Nothing(torch.optim.SGD):
    """In place of an optimiser: forward and backward alone."""

    def __init__(self, weights): super().__init__(weights, lr=0.1)
    def step(self): pass


def painting(preset, precision, pictures=1):
    """The cost of painting: each of the steps calls the U-Net twice a picture, for the guidance, and then the VAE decodes."""
    with torch.device("meta"): vae = small_vae(**vae_config(preset))
    config, dtype = fitted_unet(preset, vae), torch.get_default_dtype
    side, n, channels = config["sample_size"], 2 * pictures, config["in_channels"]
    words = (n, caption_tokenizer(Sketchbook(preset.size)).model_max_length, config["cross_attention_dim"])
    look = lambda t, *args, **more: t
    with patch.object(minidiff.scheduler, "check_timesteps", look):
        call = lambda unet: unet(torch.empty(n, channels, side, side, dtype=dtype()), torch.empty(n, dtype=torch.long), torch.empty(words, dtype=dtype()))
        unet = inference_cost(lambda: UNet2DConditionModel(**config), call, precision) * preset.steps
    decode = lambda vae: vae.decode(torch.empty(pictures, channels, side, side, dtype=dtype()))
    return unet, inference_cost(lambda: small_vae(**vae_config(preset)), decode, precision)


def timed(name, preset, rounds):
    """Median seconds of a `Trainer`'s step on this processor, in float32."""
    make, loss_fn, batches = stage(name, preset)
    options = {k: v for k, v in getattr(preset, STAGES[name]).items() if k not in ("batch_size", "cuda_graph")}
    t = Trainer(make(), loss_fn, batches, **{"ema": 0.995, **options, "precision": "no", "device": "cpu", "show_bar": False})
    t._set_up()
    times = []
    for step in range(rounds + 1):
        parts, start = t._batch(step), time.process_time()  # of the process: the machine may have other work
        t._train_step(parts)
        t.step = step + 1
        times.append((time.process_time() - start) / torch.get_num_threads())
    return statistics.median(times[1:])


def check(what, estimated, measured):
    return dict(what=what, estimated_ms=round(1e3 * estimated, 2), measured_ms=round(1e3 * measured, 2), ratio=round(measured / estimated, 3))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--preset", choices=[*PRESETS], default="gpu")
    option("--measure", choices=[*PRESETS], default="small", help="whose steps are timed here")
    option("--rounds", type=int, default=5)
    option("--threads", type=int, default=1)
    option("--out", type=Path, default=data_folder("results", "budget.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    preset, rows, checks = PRESETS[options.preset], [], []
    here = measured_card(clock=time.process_time)
    for name in STAGES:
        guess = estimate(counted(name, PRESETS[options.measure], "no"), here, "no")
        print({k: round(1e3 * guess[k], 1) for k in ("products", "moving")})
        checks.append(check(f"{options.measure} preset, {name}, here", guess["seconds"], timed(name, PRESETS[options.measure], options.rounds)))
        print(checks[-1], flush=True)
    run, former = whole_run()
    graph = {row["name"]: row for row in read_json(data_folder("results", "cuda_graph.json"))["rows"]}
    for precision in ("bf16", "no"):
        loss = estimate(counted("unet", replace(former, align=0.0), precision, update=False), CARDS["h100"], precision, recorded=True)
        checks.append(check(f"16 x 16 places, unet loss, H100, {precision}", loss["seconds"], graph[f"time, unet {precision}"]["graph_loss_ms"] / 1e3))
        print(checks[-1], flush=True)
    memory_checks = []
    for precision in ("bf16", "no"):
        cost, measured = counted("unet", replace(former, align=0.0), precision), graph[f"time, unet {precision}"]["MiB_allocated_reserved"]["plain"][0]
        memory_checks.append(dict(what=f"16 x 16 places, unet, H100, {precision}", estimated_gb=round(sum(cost.memory.values()) / 1e9, 2), measured_gb=round(measured * 2**20 / 1e9, 2)))
        print(memory_checks[-1], flush=True)
    runs = []
    for name, training in STAGES.items():
        told = getattr(former, training)
        guess, _ = stage_estimate(name, former, CARDS["h100"], "bf16")
        runs.append(dict(stage=name, steps=told["steps"], estimated_s=round(guess["seconds"] * told["steps"], 1), measured_s=run["seconds"][name]))
        print(runs[-1], flush=True)
    for key, precision in PRECISIONS.items():
        for name, training in STAGES.items():
            told = getattr(preset, training)
            found, cost = stage_estimate(name, preset, CARDS[key], precision)
            rows.append(dict(stage=name, card=CARDS[key].name, precision=precision, gflop=round(cost.flops / 1e9, 1), kernels=len(cost.work),
                             seconds=round(found["seconds"], 6), products=round(found["products"], 6), moving=round(found["moving"], 6), telling=round(found["telling"], 6),
                             minutes=round(found["seconds"] * told["steps"] / 60, 2), gigabytes=round(found["bytes"] / 1e9, 3),
                             memory={k: round(v / 1e9, 4) for k, v in cost.memory.items()}, fits=found["fits"]))
        unet, vae = (estimate(cost, CARDS[key], precision) for cost in painting(preset, precision))
        rows.append(dict(stage="a picture", card=CARDS[key].name, precision=precision, seconds=round(unet["seconds"] + vae["seconds"], 6), minutes=0.0,
                         gigabytes=round(max(unet["bytes"], vae["bytes"]) / 1e9, 3), fits=True))
    for row in rows: print(f"{row['stage']:10}{row['card']:10}{row['precision']:>6}{1e3 * row['seconds']:10.1f} ms{row['minutes']:8.1f} min{row['gigabytes']:8.2f} GB")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(dict(about="Estimates from counted operations and bytes; see scripts/gpu_budget.py.", preset=options.preset, torch=torch.__version__,
                    machine=platform.machine(), threads=options.threads,
                    assumed={key: dict(flops=card.flops, bandwidth=card.bandwidth, memory=card.memory, utilisation=card.utilisation, moving=card.moving, launch=card.launch, shortest=card.shortest)
                             for key, card in CARDS.items()}, checks=checks, memory_checks=memory_checks, run=runs, rows=rows), options.out)
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
