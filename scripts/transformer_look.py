#!/usr/bin/env python3
"""What the nets of scripts/transformer_train.py paint, and how the MMDiT's words and patches look at each other.

    nice -n 19 python scripts/transformer_look.py [--size small]

Paints eight held-out captions with the U-Net and the MMDiT of the straight road, from the same noise, and records the
joint attention of the MMDiT's blocks, averaged over heads, in the middle of the road: whole maps for one caption, and for
sixty who listens to whom. Writes
minidiff/data/results/transformer_look.json: a PNG sheet (base64), captions, tokens, maps.
"""
import argparse
import base64
import io
from pathlib import Path

import torch
from judge import held_out
from transformer_train import WORDS, paint, read

from minidiff.files import data_folder, write_json
from minidiff.latent_diffusion import open_run
from minidiff.plots import image_grid
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Sketchbook
from minidiff.training import step_generator
from minidiff.transformer import JointAttention, SD3Transformer2DModel


@torch.no_grad()
def joint_maps(net, x, words, pooled, t):
    "The shares of attention of each block, (blocks, tokens, tokens): words first, then patches."
    maps = []

    def look(layer, args, _):
        q, k, _ = layer.split(args[0], (layer.to_q, layer.to_k, layer.to_v), (layer.norm_q, layer.norm_k))
        wq, wk, _ = layer.split(args[1], (layer.add_q_proj, layer.add_k_proj, layer.add_v_proj),
                                (layer.norm_added_q, layer.norm_added_k))
        q, k = torch.cat([wq, q], 2), torch.cat([wk, k], 2)
        maps.append((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).mean((0, 1)))
    hooks = [m.register_forward_hook(look) for m in net.modules() if isinstance(m, JointAttention)]
    net(x, words, pooled, t)
    for hook in hooks:
        hook.remove()
    return torch.stack(maps)


@torch.no_grad()
def listened(net, pipe, n=60):
    "How much each block listens, as means over captions: patches to caption and padding, the caption to patches."
    captions, scenes = held_out(32, n, "two_objects", 1)
    clean = pipe.vae.scale(pipe.vae.encode(Sketchbook(32).paint(scenes)).mean)
    noise = torch.randn(clean.shape, generator=step_generator(1, 7))
    rows = []
    for i, caption in enumerate(captions):
        maps = joint_maps(net, (clean + noise)[i:i + 1] / 2, *read(pipe, [caption]), 500.0)
        k = len(pipe.tokenizer(caption).input_ids)
        rows.append(torch.stack([maps[:, WORDS:, :k].sum(-1).mean(-1), maps[:, WORDS:, k:WORDS].sum(-1).mean(-1),
                                 maps[:, :k, WORDS:].sum(-1).mean(-1)]))
    means = torch.stack(rows).mean(0)
    lengths = [len(pipe.tokenizer(caption).input_ids) for caption in captions]
    return dict(captions=n, tokens=sum(lengths) / n, **{
        name: [round(v, 4) for v in row.tolist()]
        for name, row in zip(("patches_to_caption", "patches_to_padding", "caption_to_patches"), means)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="small")
    parser.add_argument("--runs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = args.runs or Path(f"runs/transformer_{args.size}")
    pipe = open_run()
    captions, scenes = held_out(32, 8, "two_objects", 0)
    nets = dict(unet=UNet2DConditionModel.from_pretrained(runs / "unet-flow"),
                mmdit=SD3Transformer2DModel.from_pretrained(runs / "mmdit-flow"))
    pictures = [paint(net, "flow", pipe, captions, 15, 0) for net in nets.values()]
    file = io.BytesIO()
    image_grid(torch.cat(pictures), ncols=8).save(file, "PNG")
    with torch.no_grad():
        caption = captions[0]
        z = pipe.vae.scale(pipe.vae.encode(Sketchbook(32).paint(scenes)[:1]).mean)
        noise = torch.randn(z.shape, generator=step_generator(0, 7))
        words, pooled = read(pipe, [caption])
        maps = joint_maps(nets["mmdit"], (z + noise) / 2, words, pooled, 500.0)
    ids = pipe.tokenizer(caption).input_ids
    tokens = [pipe.tokenizer.decode([i]).strip() for i in ids]
    rows = {block: [[round(v, 3) for v in row] for row in maps[block].tolist()] for block in (0, 4)}
    write_json(dict(size=args.size, captions=captions, sheet=base64.b64encode(file.getvalue()).decode(), caption=caption,
                    tokens=tokens, words=WORDS, maps=rows,
                    shares=listened(nets["mmdit"], pipe), torch=torch.__version__, device="cpu", threads=1,
                    command=f"scripts/transformer_look.py --size {args.size}"),
               data_folder("results") / "transformer_look.json")


if __name__ == "__main__":
    main()
