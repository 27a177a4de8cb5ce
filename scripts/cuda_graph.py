"""Is a recorded step (`cuda_graph=True`) the plain one, and how much faster is it?

    python scripts/cuda_graph.py         writes minidiff/data/results/cuda_graph.json

Needs a GPU of NVIDIA with some 8 GB, and three minutes. A small U-Net is trained both
ways, and the losses are compared; a step of each stage of the `gpu` preset is timed
(the result in the repository is of an earlier one, with latents of 16 x 16); what
cannot be recorded is refused. Where a check fails, the exit status is 1. The page
"A step, recorded" reads the result.
"""
import argparse
import sys
import time
from pathlib import Path

import torch
from torch import nn

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))

from minidiff.checks import ConfigError
from minidiff.cuda_graphs import CountOperations
from minidiff.files import write_json
from minidiff.latent_diffusion import (PRESETS, SCHEDULER, Latents, diffusion_loss,
                                       fitted_unet, latent_batches, text_config,
                                       vae_config)
from minidiff.negatives import contrastive_batches
from minidiff.optimizers import EMA, Muon, parameter_groups
from minidiff.runs import resized
from minidiff.scheduler import DDPMScheduler
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Sketchbook
from minidiff.text_encoder import contrastive_loss, small_clip
from minidiff.tokenizer import caption_tokenizer
from minidiff.training import Trainer, seed_all, step_generator
from minidiff.vae import small_vae, vae_batches, vae_training_loss

ABOUT = ("Made by scripts/cuda_graph.py: with and without a recorded step. `relative`: "
         "how far the losses lie apart; `noise`: those of two plain runs; times in ms.")
ROWS = []
TOLERANCE = {"no": 1e-3, "bf16": 3e-2, "fp16": 3e-2}  # of losses, relative


def note(name, ok=None, **row):
    "Keep a row, and show it."
    row = dict(name=name, **({} if ok is None else dict(ok=bool(ok))), **row)
    ROWS.append(row)
    print({True: "PASS", False: "FAIL"}.get(row.get("ok"), "    "), row, flush=True)


def loss(): return diffusion_loss(DDPMScheduler(**SCHEDULER))


def made_up(config, n=2000):
    "Latents and captions for a U-Net, from dice."
    seed_all(1)
    shape = (n, config["in_channels"], *[config["sample_size"]] * 2)
    states = torch.randn(n + 1, 16, config["cross_attention_dim"])
    return Latents(torch.randn(shape), torch.rand(shape) * 0.1, states.bfloat16())


SMALL = fitted_unet(PRESETS["small"], small_vae(**vae_config(PRESETS["small"])))
BATCHES = latent_batches(made_up(SMALL), 32, 0.05)


def job(graph, model=None, loss_fn=None, batches=BATCHES, steps=30, **more):
    "A trainer for the small U-Net, or for another model."
    if model is None:
        seed_all(0)
        model = UNet2DConditionModel(**SMALL)
    settings = dict(lr=1e-3, ema=0.9, show_bar=False, precision="no", optimizer="muon")
    return Trainer(model, loss_fn or loss(), batches, steps, cuda_graph=graph,
                   **{**settings, **more})


def gap(a, b):
    "Largest relative difference of two runs' losses; both nan or infinite is alike."
    a, b = torch.tensor(a.losses), torch.tensor(b.losses)
    fine = a.isfinite() | b.isfinite()
    return ((a - b).abs() / b.abs().clamp(min=1e-12))[fine].max().item()


def compare(name, make=lambda: None, **more):
    "Train with and without, and once more without: how far do the losses lie apart?"
    plain, graph, again = (job(on, make(), **more).fit() for on in (False, True, False))
    limit = max(TOLERANCE[more.get("precision", "no")], 3 * gap(again, plain))
    note(name, gap(graph, plain) <= limit and plain.losses[-1] != plain.losses[0],
         limit=limit, relative=gap(graph, plain), noise=gap(again, plain),
         exact=graph.losses == plain.losses)
    return graph


def same_training():
    for precision in TOLERANCE:
        for optimizer in ("muon", "adamw"):
            compare(f"same losses, {precision} {optimizer}", precision=precision,
                    optimizer=optimizer)
    compare("accumulate=2, adamw", steps=15, accumulate=2, optimizer="adamw")
    compare("accumulate=4, fp16 muon", steps=15, accumulate=4, precision="fp16")
    compare("channels_last, bf16", steps=15, channels_last=True, precision="bf16")


def clock(f, times, warm=5):  # milliseconds a call
    for _ in range(warm): f()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times): f()
    torch.cuda.synchronize()
    return round(1000 * (time.perf_counter() - start) / times, 2)


def time_step(name, make, loss_fn, batches, training, **more):
    "The same batch again and again: whole steps, and the loss alone."
    fixed = batches(step_generator(0, 3))
    told = {k: v for k, v in training.items() if k not in ("batch_size", "steps")}
    row, memory = {}, {}
    for kind in ("plain", "graph"):
        seed_all(0)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        settings = told | more | dict(cuda_graph=kind == "graph", show_bar=False)
        t = Trainer(make(), loss_fn, lambda generator: fixed, 1000, **settings)
        t._set_up()
        parts = t._batch(0)
        if kind == "graph": t._record(parts[0])
        row[f"{kind}_ms"] = clock(lambda: t._train_step(parts), 25)
        memory[kind] = [torch.cuda.max_memory_allocated() >> 20,
                        torch.cuda.max_memory_reserved() >> 20]
        def both_ways():
            with torch.autocast(**t._half): found = (t._graphed or t._wrapped)(parts[0])
            found.backward()
            t.model.zero_grad(set_to_none=True)
        row[f"{kind}_loss_ms"] = clock(both_ways, 15)
        del t, parts
    note(f"time, {name}", **row, ratio=round(row["plain_ms"] / row["graph_ms"], 2),
         MiB_allocated_reserved=memory)


def times():
    preset = PRESETS["gpu"]
    vae = small_vae(**vae_config(preset))
    config = fitted_unet(preset, vae)
    unet = lambda: UNet2DConditionModel(**config).zero_init()
    training = preset.unet_training
    batches = latent_batches(made_up(config), training["batch_size"], preset.drop)
    for name in ("bf16", "fp16", "no", "bf16 adamw", "bf16 again"):
        more = dict(optimizer="adamw" if "adamw" in name else "muon")
        time_step(f"unet {name}", unet, loss(), batches, training, **more,
                  precision=name.split()[0])
    book = Sketchbook(preset.size)
    training = preset.vae_training
    batches = vae_batches(book, training["batch_size"], vae.config.latent_channels,
                          vae.factor)
    for precision in ("bf16", "no"):
        time_step(f"vae {precision}", lambda: small_vae(**vae_config(preset)),
                  vae_training_loss, batches, training, precision=precision)
    tokenizer = caption_tokenizer(book)
    training = preset.text_training
    config = text_config(preset)
    draw = contrastive_batches(book, tokenizer, training["batch_size"])
    def batches(generator):
        batch = draw(generator)
        return batch | dict(images=resized(batch["images"], config["size"]))
    time_step("text bf16", lambda: small_clip(tokenizer, **config),
              contrastive_loss, batches, training, precision="bf16")
    alone(unet().to("cuda"))


def alone(model):  # the optimisers and the average, by themselves
    weights = [w for w in model.parameters() if w.requires_grad]
    for w in weights: w.grad = torch.randn_like(w)
    row = {}
    for name, kind in dict(muon=Muon, adamw=torch.optim.AdamW).items():
        optimizer = kind(parameter_groups(model, 0.01), lr=1e-6, fused=True)
        row[f"{name}_ms"] = clock(optimizer.step, 20)
    ema = EMA(model, 0.999)
    row["clip_ms"] = clock(lambda: nn.utils.clip_grad_norm_(weights, 1.0), 20)
    row["ema_ms"] = clock(lambda: ema.update(model), 20)
    note("optimizers alone", weights=len(weights), **row)


def overflows():
    "A gradient overflows in the third step: is it left out, and the scale halved?"
    bad = step_generator(0, 2).initial_seed()
    def batches(generator):
        batch = BATCHES(generator)
        large = 1e6 if generator.initial_seed() == bad else 1
        return {**batch, "latents": batch["latents"] * large}
    for optimizer in ("muon", "adamw"):
        runs = [job(on, batches=batches, steps=15, precision="fp16",
                    optimizer=optimizer).fit() for on in (False, True)]
        scale, updates = zip(*((t.accelerator.scaler.get_scale(), t._ema.updates)
                               for t in runs))
        note(f"planted overflow, {optimizer}", gap(*runs) < 3e-2 and updates[0] < 15
             and len({*updates}) == len({*scale}) == 1, scales=scale, updates=updates)


def chance():
    "Dropout draws as in the plain run, and a batch norm counts what was trained on."
    def network():
        seed_all(0)
        return nn.Sequential(
            nn.Conv2d(4, 32, 3, padding=1), nn.BatchNorm2d(32), nn.SiLU(),
            nn.Dropout(0.3), nn.Conv2d(32, 4, 3, padding=1))
    def batches(generator): return dict(x=torch.randn(32, 4, 8, 8, generator=generator))
    def mirror(model, batch):
        return (model(batch["x"]) - batch["x"].flip(-1)).square().mean()
    t = compare("dropout and batch norm", network, loss_fn=mirror, batches=batches)
    note("the norm counted the steps", t.model[1].num_batches_tracked == 30)


def memory():
    before = torch.cuda.memory_reserved() >> 20
    job(True, steps=15).fit()
    torch.cuda.empty_cache()
    after = torch.cuda.memory_reserved() >> 20
    note("memory is given back after fit", after <= before + 200, MiB=[before, after])


def refused():
    "What cannot be recorded; last, for it may leave the GPU in disorder."
    late = step_generator(0, 3).initial_seed()
    def shrinks(generator):
        n = 16 if generator.initial_seed() == late else 32
        return {k: v[:n] for k, v in BATCHES(generator).items()}
    plain = loss()
    def waits(model, batch):
        found = plain(model, batch)
        return found * (1 + 0 * found.item())
    trials = {"a change of shape": dict(batches=shrinks),
              "a loss that waits": dict(loss_fn=waits)}
    for name, more in trials.items():
        try: job(True, **more).fit()
        except ConfigError as error: note(f"{name} is refused", True, said=str(error))
        else: note(f"{name} is refused", False)
    note("a plain run goes on after that", job(False, steps=15).fit().step == 15)


def operations():
    "How many there are in the U-Net of the preset, forward and backward; on any machine."
    preset = PRESETS["gpu"]
    with torch.device("meta"):
        config = fitted_unet(preset, small_vae(**vae_config(preset)))
        unet = UNet2DConditionModel(**config)
        x = torch.zeros(128, config["in_channels"], *[config["sample_size"]] * 2)
        states = torch.zeros(128, 16, config["cross_attention_dim"])
        t = torch.zeros(128, dtype=torch.long)
        with CountOperations() as count: unet(x, t, states).square().mean().backward()
    note("operations, unet", all=count.all, kernels=count.all - count.views)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = root / "minidiff/data/results/cuda_graph.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "cuda_graph.py needs a GPU, and PyTorch finds none here\n")
    for part in (operations, same_training, times, overflows, chance, memory, refused):
        part()
        torch.cuda.empty_cache()
        write_json(dict(about=ABOUT, device=torch.cuda.get_device_name(), rows=ROWS,
                        torch=torch.__version__, cuda=torch.version.cuda), options.out)
    failed = [row["name"] for row in ROWS if row.get("ok") is False]
    if failed: parser.exit(1, f"failed: {', '.join(failed)}\n")


if __name__ == "__main__":
    main()
