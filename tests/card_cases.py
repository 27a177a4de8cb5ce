"""Steps of the `gpu` preset on a card that is not there; tests/test_gpu_path.py runs this file, in a process of its own.

PyTorch lets Python declare a kind of device, and under `FakeTensorMode` a tensor has a shape, a type and a device, and no numbers. So the
stages are set up and stepped by the real `Trainer`, with its optimisers, autocast, clipping, scaler and average, on a device named `card`,
and each operation of a step is looked at: none may bring numbers to the CPU (`.item()`, `.cpu()`, a condition), make a tensor there, or
take one from there.
"""
import contextlib

import pytest
import torch
from accelerate.state import PartialState
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import minidiff.training as training
from minidiff.latent_diffusion import PRESETS
from minidiff.training import Trainer
from stages import STAGES, stage

torch.set_num_threads(1)
backend_registration._setup_privateuseone_for_python_backend("card")
torch.card.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
CARD = torch.device("card", 0)
KEY = torch._C.DispatchKey.AutocastPrivateUse1
everything = torch.library.Library("_", "IMPL")
everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
halved = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")


def in_half(name):
    """What autocast does on a GPU: this operation takes its real numbers in half precision."""
    def run(*args, **more):
        dtype = torch.get_autocast_dtype("card")
        half = lambda x: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(KEY)):
            return getattr(torch.ops.aten, name)(*map(half, args), **{k: half(x) for k, x in more.items()})
    halved.impl(name, run)


for each in ("conv2d", "linear", "matmul", "bmm", "scaled_dot_product_attention"): in_half(each)

class Offence(AssertionError):
    """An operation within a step for which a GPU would have to wait, or that lies on the CPU."""


class NothingOnTheCPU(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, function, types, args=(), more=None):
        self.seen += 1
        if "_local_scalar_dense" in str(function): raise Offence(f"{function}: a number is fetched")
        given = [x for x in tree_leaves((args, more)) if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cpu" for x in given): raise Offence(f"{function}: takes a tensor of the CPU")
        try: out = function(*args, **(more or {}))
        except (DataDependentOutputException, DynamicOutputShapeException) as error: raise Offence(f"{function}: a GPU would wait") from error
        if any(x.device.type == "cpu" for x in tree_leaves(out) if isinstance(x, torch.Tensor)): raise Offence(f"{function}: makes a tensor on the CPU")
        return out


def apply_anew(self, function, recurse=True):
    """`nn.Module._apply` without swapping, which fake tensors refuse; a weight that is used twice stays one."""
    made = vars(function).setdefault("made", {})
    for module in self.children(): module._apply(function)
    for table in (self._parameters, self._buffers):
        for k, old in table.items():
            if old is None: continue
            if id(old) not in made:
                old.constant = None  # a number that a fake tensor remembers, on the CPU
                with torch.no_grad(): new = function(old)
                made[id(old)] = old, old if new is old else nn.Parameter(new, old.requires_grad) if table is self._parameters else new
            table[k] = made[id(old)][1]
    return self


class Scaler(torch.amp.GradScaler):
    """Whether a step overflowed must be fetched, or nobody would know: the one wait of a step in fp16. It is counted."""

    def __init__(self):
        super().__init__("card")
        self.waits = 0

    def _maybe_opt_step(self, optimizer, state, *args, **more):
        self.waits += 1
        return optimizer.step(*args, **more)


@pytest.fixture
def card(monkeypatch):
    """Inside, there is a card: without numbers."""
    monkeypatch.setattr(nn.Module, "_apply", apply_anew)
    start = torch.optim.AdamW.__init__  # `Trainer` takes the fused one on "cuda"
    monkeypatch.setattr(torch.optim.AdamW, "__init__", lambda self, *args, **more: start(self, *args, **{**more, "fused": True}))
    real = training._accelerator

    def accelerator(precision, device):
        made = real("no", "cpu")
        PartialState().device = made.state.device = CARD
        made.state._mixed_precision = precision
        return made
    monkeypatch.setattr(training, "_accelerator", accelerator)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode: yield mode


def trainer_on(card, make, loss_fn, batch, options, precision, **more):
    batch = {k: card.from_tensor(v) for k, v in batch.items()}
    own = {k: v for k, v in options.items() if k not in ("batch_size", "cuda_graph")}
    scaler = Scaler() if precision == "fp16" else None
    t = Trainer(make(), loss_fn, lambda generator: batch, **{**own, "precision": precision, "scaler": scaler, "show_bar": False, **more})
    t._set_up()
    assert all(p.device == CARD for p in t.model.parameters())
    return t


def walk(t, steps=2):
    """Steps of a trainer, all but the first watched: that makes the optimiser's memory. How many operations a step has."""
    counts = []
    for step in range(steps):
        parts = t._batch(step)
        assert all(v.device == CARD for part in parts for v in part.values() if torch.is_tensor(v))
        watch = NothingOnTheCPU()
        with watch if step else contextlib.nullcontext(): t._train_step(parts)
        t.step = step + 1
        counts.append(watch.seen)
    return counts[1:]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", STAGES)
def test_a_step_of_each_stage_stays_on_the_card(name, precision, card):
    with torch.utils._python_dispatch._disable_current_modes(): made = stage(name, PRESETS["gpu"], constant=card.from_tensor)
    t = trainer_on(card, *made, precision, **(dict(ema=0.99) if name == "vae" else {}))
    seen = []
    conv = next(m for m in t.model.modules() if isinstance(m, nn.Conv2d))
    conv.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    counts = walk(t)
    assert set(seen) == {dict(no=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[precision]}
    assert min(counts) > 100 and t._losses[-1].device == CARD and t._losses[-1].dtype == torch.float32
    if precision == "fp16": assert t.accelerator.scaler.waits == 2, "one wait a step, for the scaler"


PLANTED = dict(
    item=lambda model, batch: (model(batch["x"]).mean() * batch["x"].mean().item()),
    cpu=lambda model, batch: (model(batch["x"]).mean() + 0 * batch["x"].cpu().mean().to(CARD)),
    made=lambda model, batch: (model(batch["x"]).mean() * torch.ones(3).mean().to(CARD)),
    scalar=lambda model, batch: (model(batch["x"]).mean() * torch.tensor(2.0)),
    condition=lambda model, batch: model(batch["x"]).mean() if batch["x"].mean() > 0 else model(batch["x"]).sum(),
    mask=lambda model, batch: model(batch["x"])[batch["x"][:, :1] > 0].mean(),
    float=lambda model, batch: (model(batch["x"]).mean() * float(batch["x"].mean())),
    list=lambda model, batch: (model(batch["x"]).mean() * sum(batch["x"].mean(0).tolist())))


@pytest.mark.parametrize("plant", [*PLANTED, None])
def test_what_is_planted_in_a_step_is_found(plant, card):
    def loss(model, batch): return PLANTED[plant](model, batch) if plant and t.step else model(batch["x"]).square().mean()
    t = trainer_on(card, lambda: nn.Linear(32, 1), loss, dict(x=torch.randn(8, 32)), dict(steps=5), "no")
    with pytest.raises(Offence) if plant else contextlib.nullcontext(): walk(t)


def test_an_optimizer_that_waits_is_found(card, monkeypatch):
    t = trainer_on(card, lambda: nn.Linear(32, 32), lambda model, batch: model(batch["x"]).square().mean(), dict(x=torch.randn(8, 32)),
                   dict(steps=5), "no")
    step = t._optimizer.step
    def waits(*args, **more):
        if t.step: float(t.model.weight.grad.norm())
        return step(*args, **more)
    monkeypatch.setattr(t._optimizer, "step", waits)
    with pytest.raises(Offence): walk(t)
