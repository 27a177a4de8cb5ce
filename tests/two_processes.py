"""What each of several processes does; tests/test_parallel.py starts them with `torchrun`, and alone.

    torchrun --standalone --nproc_per_node 2 tests/two_processes.py FOLDER

Each writes what it saw and what came out into FOLDER/<processes>_<rank>.pt.
"""
import sys
from pathlib import Path

import torch
from torch import nn

from minidiff.parallel import all_gather_with_grad
from minidiff.text_encoder import clip_loss
from minidiff.training import Trainer, seed_all

torch.set_num_threads(1)


class Towers(nn.Module):
    "Two small towers and a temperature, as in CLIP."

    def __init__(self):
        super().__init__()
        seed_all(0)
        self.pictures, self.texts = (nn.Sequential(nn.Linear(6, 24), nn.SiLU(), nn.Linear(24, 16)) for _ in range(2))
        self.logit_scale = nn.Parameter(torch.tensor(2.66))

    def forward(self, batch):
        return [nn.functional.normalize(tower(batch[name]), dim=-1) for tower, name in ((self.pictures, "x"), (self.texts, "y"))]


def loss(model, batch):
    seen.append(batch["number"].tolist())
    pictures, texts = model(batch)
    return clip_loss(pictures, texts, model.logit_scale)

loss.whole_batch = True


def alone(model, batch):
    """For comparison: each process compares only what it has itself."""
    pictures, texts = model(batch)
    logits = model.logit_scale.exp() * pictures @ texts.T
    target = torch.arange(len(logits))
    return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2


def batches(generator):
    number = torch.randint(2**40, (16,), generator=generator)  # so none comes twice by chance
    x = torch.randn(16, 6, generator=generator)
    return dict(number=number, x=x, y=x.flip(1) + 0.1 * torch.randn(16, 6, generator=generator))


def train(loss_fn, **more):
    t = Trainer(Towers(), loss_fn, batches, 12, lr=1e-2, precision="no", device="cpu", show_bar=False, clip=1.0, ema=0.9, **more).fit()
    return t, dict(losses=t.losses, weights=t.model.state_dict(), average=t.ema_model.state_dict())


seen = []
t, found = train(loss)
rank, processes = t.accelerator.process_index, t.accelerator.num_processes
found |= dict(seen=[*seen], muon=train(loss, optimizer="muon")[1], alone=train(alone)[1])

# the gradient of one loss, by hand: every process has the loss of the whole batch; their gradients, averaged, are its gradient
model, whole = Towers(), batches(torch.Generator().manual_seed(7))
mine = {k: v.chunk(processes)[rank] for k, v in whole.items()}
value = clip_loss(*model(mine), model.logit_scale)
value.backward()
gradients = [p.grad for p in model.parameters()]
if processes > 1:
    for g in gradients:
        torch.distributed.all_reduce(g)
        g /= processes
gathered = all_gather_with_grad(mine["x"])
found |= dict(value=value.item(), gradients=gradients, gathered=gathered, whole=whole["x"])
torch.save(found, Path(sys.argv[1]) / f"{processes}_{rank}.pt")
