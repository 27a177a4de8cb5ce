"""What a picture costs in our pipeline and in diffusers': seconds, and memory.

    python scripts/pipeline_cost.py      writes minidiff/data/results/pipeline_cost.json

A pipeline with random weights, of a size between the course's and Stable Diffusion's,
paints one picture of 256 pixels: ten steps with guidance, and the decoder. Each
measurement is a process of its own on one thread, ours and theirs by turns. Before it is
measured, one step is walked. Seconds are of the processor, so that what else runs counts
little; memory is the highest that the process held while it painted, whole and above what
it held before. Both must paint the same picture. Linux only.

    python scripts/pipeline_cost.py --size full --steps 1 --repeats 1 --out ""

does the same with the parts of Stable Diffusion 1.5 (4.3 GB of weights).
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))
PROMPT, NEGATIVE = "a red circle above a blue square", "a small green star"

# widths of the U-Net, its heads, width of the text, its layers and heads, the decoder's
SIZES = {"middle": dict(unet=(128, 256, 384), heads=8, text=512, layers=6, hears=8,
                        vae=(64, 128, 256, 256), side=32),
         "full": dict(unet=(320, 640, 1280, 1280), heads=8, text=768, layers=12,
                      hears=12, vae=(128, 256, 512, 512), side=64)}


def configs(size):
    "The parts' configs, as diffusers and transformers take them."
    s = SIZES[size]
    widths, n = s["unet"], len(s["unet"])
    cross = ("CrossAttnDownBlock2D",) * (n - 1), ("CrossAttnUpBlock2D",) * (n - 1)
    unet = dict(sample_size=s["side"], block_out_channels=widths,
                attention_head_dim=s["heads"], cross_attention_dim=s["text"],
                down_block_types=(*cross[0], "DownBlock2D"),
                up_block_types=("UpBlock2D", *cross[1]))
    vae = dict(block_out_channels=s["vae"], layers_per_block=2, latent_channels=4,
               down_block_types=("DownEncoderBlock2D",) * 4,
               up_block_types=("UpDecoderBlock2D",) * 4, sample_size=8 * s["side"])
    text = dict(hidden_size=s["text"], intermediate_size=4 * s["text"],
                num_hidden_layers=s["layers"], num_attention_heads=s["hears"])
    return unet, vae, text


def build(size, folder):
    "Write a pipeline with random weights, in diffusers' own hand."
    import diffusers
    import transformers
    from minidiff.tokenizer import CLIPTokenizer, train_bpe
    torch.manual_seed(0)
    unet, vae, text = configs(size)
    CLIPTokenizer(*train_bpe([PROMPT, NEGATIVE] * 3, 600)).save_pretrained(
        folder / "tokenizer")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
           for name in ("bos", "eos", "pad")}
    vocabulary = 49408 if size == "full" else len(tokenizer)
    pipe = diffusers.StableDiffusionPipeline(
        diffusers.AutoencoderKL(**vae),
        transformers.CLIPTextModel(
            transformers.CLIPTextConfig(vocab_size=vocabulary, **text, **ids)),
        tokenizer, diffusers.UNet2DConditionModel(**unet),
        diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                beta_end=0.012, clip_sample=False, steps_offset=1,
                                set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(folder)


def memory(word):  # MiB
    "VmHWM: the most that this process has held; VmRSS: what it holds now."
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{word}:")[2].split()[0]) / 2 ** 10


def child(whose, folder, steps):
    "Open the pipeline, paint; print what it took as JSON, and leave the picture there."
    torch.set_num_threads(1)
    if whose == "ours":
        from minidiff.pipeline import LatentDiffusionPipeline
        pipe = LatentDiffusionPipeline.from_pretrained(folder)
    else:
        import diffusers
        diffusers.utils.logging.set_verbosity_error()
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
    side = pipe.unet.config.sample_size
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    options = dict(prompt=PROMPT, negative_prompt=NEGATIVE, latents=noise)
    pipe(num_inference_steps=1, output_type="latent", **options)
    opened = memory("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    start, wall = time.process_time(), time.perf_counter()
    images = pipe(num_inference_steps=steps, output_type="np", **options)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    peak = memory("VmHWM")
    images = getattr(images, "images", images)
    torch.save(torch.from_numpy(images), folder / f"{whose}.pt")
    print(json.dumps(dict(whose=whose, seconds=round(seconds, 3), wall=round(wall, 3),
                          peak=round(peak, 1), above=round(peak - before, 1),
                          opened=round(opened, 1))))


def compare(size="middle", steps=10, repeats=5, folder=None, say=print, known=()):
    "Rows of each measurement, the medians, ours / theirs, and the largest difference."
    with tempfile.TemporaryDirectory() as place:
        folder = Path(folder or place)
        if not (folder / "model_index.json").exists():
            own = [sys.executable, __file__, "--build", size, str(folder)]
            subprocess.run(own, check=True, capture_output=True)
        rows = [*known]
        for turn in range(2 * repeats):
            whose = ("ours", "theirs")[(turn + turn // 2) % 2]  # o t t o o t t o
            command = [sys.executable, __file__, "--child", whose, str(folder),
                       "--steps", str(steps)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode: raise RuntimeError(done.stderr[-2000:])
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            say(rows[-1])
        ours, theirs = (torch.load(folder / f"{whose}.pt") for whose in
                        ("ours", "theirs"))
    medians = {whose: {key: statistics.median(row[key] for row in rows
                                              if row["whose"] == whose)
                       for key in ("seconds", "wall", "peak", "above", "opened")}
               for whose in ("ours", "theirs")}
    ratios = {key: round(medians["ours"][key] / medians["theirs"][key], 3)
              for key in medians["ours"]}
    return dict(size=size, steps=steps, repeats=len(rows) // 2, threads=1, rows=rows,
                medians=medians, ratios=ratios, shape=list(ours.shape),
                difference=(ours - theirs).abs().max().item(),
                spread=theirs.std().item())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--size", choices=[*SIZES], default="middle")
    option("--steps", type=int, default=10)
    option("--repeats", type=int, default=5, help="measurements of each")
    option("--more", action="store_true", help="add to the measurements of --out")
    option("--out", default=root / "minidiff/data/results/pipeline_cost.json")
    option("--build", nargs=2, help=argparse.SUPPRESS)
    option("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build: return build(options.build[0], Path(options.build[1]))
    if options.child:
        return child(options.child[0], Path(options.child[1]), options.steps)
    import diffusers
    known = json.loads(Path(options.out).read_text())["rows"] if options.more else []
    found = compare(options.size, options.steps, options.repeats, known=known)
    found = dict(about="Made by scripts/pipeline_cost.py: processor seconds, MiB.",
                 torch=torch.__version__, diffusers=diffusers.__version__, **found)
    print(found["ratios"], found["difference"])
    if options.out: Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
