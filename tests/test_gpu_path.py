"""The path of a GPU, walked without one: the losses of the `gpu` preset by their shapes, a step that fetches no number, batches that are
pinned and drawn ahead, and `torch.compile`. What of fp16 can be tried on a CPU (a planted scaler, overflows) is in test_training.py."""
import functools
import math
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import environment
from stages import STAGES, stage
from torch import nn

from minidiff.latent_diffusion import PRESETS
from minidiff.parallel import to_device
from minidiff.training import Trainer, seed_all

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent


# --- the `gpu` preset on `meta`: shapes only --------------------------------------------------------------------------
@pytest.mark.parametrize("name", STAGES)
def test_a_loss_of_each_stage_of_the_gpu_preset(name, monkeypatch):
    monkeypatch.setattr("minidiff.scheduler.check_timesteps", lambda t, *args, **more: t)  # refuses this device
    make, loss_fn, batch, _ = stage(name, PRESETS["gpu"])
    with torch.device("meta"): model = make()
    assert all(p.is_meta for p in model.parameters())
    loss = loss_fn(model, {k: v.to("meta") for k, v in batch.items()})
    assert loss.shape == () and loss.is_meta and loss.dtype == torch.float32
    loss.backward()
    without = [k for k, p in model.named_parameters() if p.grad is None]
    assert all(p.grad.shape == p.shape for p in model.parameters() if p.grad is not None) and len(without) <= 2, without


# --- a step on a card that is not there -------------------------------------------------------------------------------
@functools.cache
def card(which):
    """Some cases of card_cases.py, in a process of their own: they declare a kind of device."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", HERE / "card_cases.py", "-k", which]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600, cwd=HERE.parent)
    return done, dict(reversed(line.split(" ", 1)) for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED", "ERROR")))


def outcome(which, case):
    done, found = card(which)
    name = f"tests/card_cases.py::{case}"
    assert found.get(name) == "PASSED", f"{name}: {found.get(name, 'it did not run')}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"


# with the steps of the text stage PyTorch ends in a crash in most runs: a device that Python declares is young
CRASHES = {"text": pytest.mark.long}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=CRASHES.get(name, ())) for name in STAGES])
def test_a_step_of_each_stage_stays_on_the_card(name, precision):
    outcome(name, f"test_a_step_of_each_stage_stays_on_the_card[{name}-{precision}]")


@pytest.mark.parametrize("plant", ["item", "cpu", "made", "scalar", "condition", "mask", "float", "list", None])
def test_what_is_planted_in_a_step_is_found(plant):
    outcome("planted or waits", f"test_what_is_planted_in_a_step_is_found[{plant}]")


def test_an_optimizer_that_waits_is_found():
    outcome("planted or waits", "test_an_optimizer_that_waits_is_found")


# --- batches on their way ---------------------------------------------------------------------------------------------
def test_batches_are_pinned_and_do_not_wait(monkeypatch):
    told = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *args: told.append("pin") or self)
    def to(self, device, non_blocking=False, memory_format=None): told.append((torch.device(device).type, non_blocking, memory_format)); return self
    monkeypatch.setattr(torch.Tensor, "to", to)
    batch = dict(x=torch.zeros(2, 3, 4, 4), t=torch.zeros(2), words=["a", "b"])
    assert to_device(batch, "cuda:0", channels_last=True)["words"] == ["a", "b"]
    assert told == ["pin", ("cuda", True, torch.channels_last), "pin", ("cuda", True, torch.preserve_format)]
    told.clear()
    to_device(batch, "cpu")
    assert told == [("cpu", True, torch.preserve_format)] * 2, "on a CPU nothing is pinned"


def test_the_next_batch_is_drawn_while_a_step_runs():
    """On a GPU the loop asks for batch i + 1 before it takes step i, once for each, in order, and not for one too many."""
    order, drawn, main = [], threading.Event(), threading.get_ident()
    t = Trainer(nn.Linear(1, 1), print, print, 4, show_bar=False)

    def batch(step):
        order.append(("draw", step, threading.get_ident() == main))
        drawn.set()
        return [step]

    def take(parts):
        if t.step < 3: assert drawn.wait(5), "nobody draws while the step runs"
        drawn.clear()
        order.append(("step", *parts))
    nothing = lambda *args: None
    vars(t).update(accelerator=SimpleNamespace(device=torch.device("cuda"), process_index=0, num_processes=1, is_main_process=False), _graphed=None,
                   _batch=batch, _train_step=take, _watch=nothing, save=nothing)
    t._train()
    assert [x[1] for x in order if x[0] == "draw"] == [x[1] for x in order if x[0] == "step"] == [0, 1, 2, 3]
    assert [x[2] for x in order if x[0] == "draw"] == [True, False, False, False], "all but the first by another thread"


# --- compiled ---------------------------------------------------------------------------------------------------------
def compiled_here():
    """Is there a compiler that `torch.compile` can use on this machine?"""
    return any(map(shutil.which, ("g++", "clang++", "c++")))


def mirror(model, batch): return nn.functional.mse_loss(model(batch["x"]), batch["x"].flip(-1))


def small(preset=None):
    """Model, loss, batch and options; without a preset, of a convolution, a norm and an activation, which a compiler likes to join."""
    if preset: return stage("unet", preset)
    net = lambda: nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))
    return net, mirror, dict(x=torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))), dict(lr=1e-2)


@pytest.mark.parametrize("preset", [None, pytest.param(PRESETS["smoke"], marks=pytest.mark.long)], ids=["small", "unet"])
def test_a_compiled_run_is_the_plain_one_to_rounding(preset):
    if not compiled_here(): pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none")
    torch._dynamo.reset()

    def run(compile):
        make, loss_fn, batch, options = small(preset)
        seed_all(0)
        own = {k: v for k, v in options.items() if k not in ("batch_size", "steps")}
        return Trainer(make(), loss_fn, lambda generator: batch, 6, **{**own, "precision": "no", "compile": compile, "device": "cpu", "show_bar": False}).fit()
    plain, compiled = run(False), run(True)
    assert plain.losses[-1] < plain.losses[0]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    for a, b in zip(plain.losses, compiled.losses): assert math.isclose(a, b, rel_tol=2e-4), (plain.losses, compiled.losses)
    for (k, a), b in zip(plain.model.state_dict().items(), compiled.model.state_dict().values()):
        assert (a - b).norm() <= 0.02 * a.norm() + 1e-4, k
