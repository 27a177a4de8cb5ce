"""How much memory a picture of 1024 pixels takes, whole and in tiles.

    python scripts/vae_memory.py         writes minidiff/data/results/vae_memory.json

Each measurement is a process of its own: it builds a VAE with random weights (the small
one, and one of Stable Diffusion's size), encodes or decodes one picture, and says how
high its memory rose at its highest, above what it held before.
"""
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))

# widths, residual blocks a level, groups, attention; side of a tile
SHAPES = {"ours": ((32, 32, 32), 0, 8, False, 256),
          "Stable Diffusion's": ((128, 256, 512, 512), 2, 32, True, 512)}


def memory(word="VmHWM") -> float:  # MiB
    "The most memory that this process has held so far; with `VmRSS`, what it holds now."
    try:  # a child's `ru_maxrss` may be that of its parent, which this is not
        status = Path("/proc/self/status").read_text()
        return int(status.partition(f"{word}:")[2].split()[0]) / 2 ** 10
    except OSError:  # no Linux
        import resource
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / 2 ** (20 if sys.platform == "darwin" else 10)


def child(name, task, tiled, side):
    "Do one task; print what it took as JSON."
    import torch
    from minidiff.vae import AutoencoderKL
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths, layers, groups, attention, tile = SHAPES[name]
    with torch.no_grad():
        vae = AutoencoderKL(
            block_out_channels=widths, layers_per_block=layers, norm_num_groups=groups,
            mid_block_add_attention=attention, sample_size=tile,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths))
        vae.enable_tiling(tiled)
        side //= 1 if task == "encode" else vae.factor
        shape = (1, 3 if task == "encode" else 4, side, side)
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        before, start = memory("VmRSS"), time.process_time()
        getattr(vae, task)(x)
    seconds = time.process_time() - start
    print(json.dumps(dict(
        vae=name, task=task, tile=tile if tiled else 0, before=round(before),
        peak=round(memory() - before), cpu_seconds=round(seconds, 1),
        threads=torch.get_num_threads(), torch=torch.__version__)))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--side", type=int, default=1024, help="pixels")
    option("--vae", nargs="+", default=[*SHAPES], choices=[*SHAPES])
    option("--tasks", nargs="+", default=["encode", "decode"],
           choices=["encode", "decode"])
    option("--out", type=Path, default=root / "minidiff/data/results/vae_memory.json")
    option("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, task, tiled = options.child
        return child(name, task, tiled == "tiled", options.side)
    if options.side < 8 or options.side % 8:
        parser.error(f"--side: expected a multiple of 8, got {options.side}")
    known = json.loads(options.out.read_text()) if options.out.is_file() else {}
    rows = known["rows"] if known.get("side") == options.side else []
    rows = [row for row in rows if (row["vae"], row["task"])
            not in [(name, task) for name in options.vae for task in options.tasks]]
    for name in options.vae:
        for task in options.tasks:
            for how in ("whole", "tiled"):
                command = [sys.executable, __file__, "--side", str(options.side),
                           "--child", name, task, how]
                answer = subprocess.run(command, check=True, capture_output=True)
                rows.append(json.loads(answer.stdout))
                print(rows[-1], flush=True)
                options.out.write_text(json.dumps(dict(
                    about="Made by scripts/vae_memory.py: `peak` in MiB, above `before`.",
                    side=options.side, rows=rows), indent=1) + "\n")


if __name__ == "__main__":
    main()
