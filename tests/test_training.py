"""The trainer where things go wrong: overflows, nan, broken checkpoints, strange arguments, two runs at once."""
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import environment
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minidiff.checks import ConfigError, LoadError
from minidiff.files import remove_temporaries
from minidiff import optimizers
from minidiff.optimizers import EMA, Muon, orthogonalize
from minidiff.files import only_run
from minidiff.latent_diffusion import PRESETS, SCHEDULER, Latents, diffusion_loss, fitted_unet, latent_batches, vae_config
from minidiff.negatives import contrastive_batches
from minidiff.scheduler import DDPMScheduler
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Sketchbook
from minidiff.text_encoder import contrastive_loss, small_clip
from minidiff.tokenizer import caption_tokenizer
from minidiff.vae import small_vae, vae_batches, vae_training_loss
from minidiff.training import Trainer, fingerprint, seed_all, step_generator

torch.set_num_threads(1)
gc.freeze()  # a trainer collects garbage at its end, and what was imported is none


def network():
    seed_all(0)
    return nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))


def points(generator):
    x = torch.randn(16, 4, generator=generator)
    return dict(x=x, y=x.sum(1, keepdim=True).sin())


def squared_error(model, batch):
    return (model(batch["x"]) - batch["y"]).square().mean()


def trainer(loss_fn=squared_error, model=None, steps=40, **more):
    settings = dict(lr=1e-2, precision="no", device="cpu", show_bar=False)
    return Trainer(network() if model is None else model, loss_fn, points, steps, **{**settings, **more})


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def finite(t):
    memory = [v for state in t._optimizer.state.values() for v in state.values()]
    return all(x.isfinite().all() for x in [*t.model.parameters(), *t.ema_model.parameters(), *memory])


# --- overflows -----------------------------------------------------------------------------------------------------
class Planted:
    """A loss whose gradient overflows in some steps; the loss itself stays finite, or does not."""

    def __init__(self, steps, forward=False):
        self.steps, self.forward = set(steps), forward

    def __call__(self, model, batch):
        loss, bad = squared_error(model, batch), self.trainer.step in self.steps
        if bad and self.forward:
            return loss * float("inf")
        if bad:
            loss.register_hook(lambda grad: grad * float("inf"))
        return loss


def with_overflows(bad, forward=False, scaler=None, **more):
    loss = Planted(bad, forward)
    if scaler is None:
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    loss.trainer = trainer(loss, scaler=scaler, **more)
    return loss.trainer


def that_skips(bad, **more):
    """What must come out: a run without a scaler that passes over those steps by itself."""
    t = trainer(**more)
    take = t._train_step

    def step(parts):
        if t.step not in bad:
            return take(parts)
        t._losses.append(torch.tensor(0.0))

    t._train_step = step
    return t


PLANS = dict(first=[0], middle=[17], last=[39], several=[10, 11, 12], often=[0, 1, 20, 21, 39])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("plan, more", [(plan, {}) for plan in PLANS] + [
    ("often", more) for more in (dict(accumulate=2), dict(clip=None), dict(clip=1e-3, accumulate=4), dict(ema=0.9))])
def test_overflowed_steps_are_as_if_they_had_never_been(optimizer, plan, more):
    got = with_overflows(PLANS[plan], optimizer=optimizer, **more).fit()
    expected = that_skips(PLANS[plan], optimizer=optimizer, **more).fit()
    assert finite(got) and same(got.model, expected.model) and same(got.ema_model, expected.ema_model)
    assert got._ema.updates == expected._ema.updates == 40 - len(PLANS[plan])
    assert got.accelerator.scaler.get_scale() == 65536 / 2 ** len(PLANS[plan])
    assert len(got.losses) == 40
    different = trainer(optimizer=optimizer, **more).fit()
    assert not same(different.model, got.model), "the plan changed nothing"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_overflow_in_the_forward_pass_does_not_stop_the_run(optimizer):
    got = with_overflows([5, 19], forward=True, optimizer=optimizer).fit()
    assert finite(got) and same(got.model, that_skips([5, 19], optimizer=optimizer).fit().model)
    assert [i for i, loss in enumerate(got.losses) if loss == float("inf")] == [5, 19]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("growth", [2000, 5])
def test_overflows_and_a_resume(optimizer, forward, growth, tmp_path):
    """Stopped after an overflow and resumed: weights, average, scale and its growth are those of a run that was let through."""
    def dies(t):
        raise ZeroDivisionError

    plan = [3, 8, 9, 10, 12, 30]
    make = partial(torch.amp.GradScaler, "cpu", init_scale=1024.0, growth_interval=growth)
    whole = with_overflows(plan, forward, make(), optimizer=optimizer).fit()
    folder = dict(optimizer=optimizer, out=tmp_path, save_every=11)
    with pytest.raises(ZeroDivisionError):
        with_overflows(plan, forward, make(), preview=dies, preview_every=15, **folder).fit()
    second = with_overflows(plan, forward, make(), **folder).fit(resume=True)
    assert same(second.model, whole.model) and same(second.ema_model, whole.ema_model)
    assert second.accelerator.scaler.state_dict() == whole.accelerator.scaler.state_dict()
    assert second.losses == whole.losses and second._ema.updates == whole._ema.updates


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("forward", [False, True])
def test_a_run_that_never_recovers_is_stopped(optimizer, forward, tmp_path):
    t = with_overflows(range(20, 1000), forward, optimizer=optimizer, steps=300, out=tmp_path, save_every=10)
    with pytest.raises(FloatingPointError, match="50 steps in a row"):
        t.fit()
    assert t.step == 70 and finite(t)
    again = with_overflows([], optimizer=optimizer, steps=300, out=tmp_path, save_every=10)
    assert again.fit(resume=True).step == 300 and finite(again)


def test_a_scaler_of_its_own_steps_neither_optimizer_on_inf():
    for make in (Muon, lambda *a, **k: trainer_optimizer(*a)):
        layer = nn.Linear(32, 32)
        optimizer = make(layer.parameters(), lr=0.1, fused=True)
        scaler, before = torch.amp.GradScaler("cpu", init_scale=8.0), layer.weight.detach().clone()
        scaler.scale(layer(torch.randn(4, 32)).square().mean()).backward()
        layer.weight.grad[3, 4] = float("nan")
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(layer.weight, before) and scaler.get_scale() == 4


def trainer_optimizer(parameters):
    t = trainer(model=nn.Linear(32, 32))
    t._set_up()
    weight, bias = parameters
    t._optimizer.param_groups[0]["params"], t._optimizer.param_groups[1]["params"] = [weight], [bias]
    return t._optimizer


def test_half_weights_and_fp16_on_a_cpu_are_refused():
    with pytest.raises(ConfigError, match="fp16' needs a GPU"):
        trainer(precision="fp16").fit()
    with pytest.raises(ConfigError, match="float16"):
        with_overflows([], model=network().half()).fit()


# --- nan and checkpoints -------------------------------------------------------------------------------------------
def bad_at(step, value=float("nan"), of="loss"):
    def loss(model, batch):
        result = squared_error(model, batch)
        if loss.trainer.step != step:
            return result
        if of == "gradient":
            result.register_hook(lambda grad: grad * value)
            return result
        return result * value
    return loss


def make_bad(tmp_path, *args, **more):
    loss = bad_at(*args)
    loss.trainer = trainer(loss, steps=100, out=tmp_path, save_every=10, **more)
    return loss.trainer


@pytest.mark.parametrize("step", [0, 9, 42, 49, 99])
@pytest.mark.parametrize("of, value, clip", [("loss", float("nan"), 1.0), ("loss", float("inf"), None),
                                             ("gradient", float("nan"), None), ("gradient", float("inf"), 1.0)])
def test_nan_is_never_saved_and_resume_gets_out_of_it(step, value, of, clip, tmp_path):
    good = trainer(steps=100, clip=clip).fit()
    t = make_bad(tmp_path, step, value, of, clip=clip)
    with pytest.raises(FloatingPointError, match="try a smaller lr"):
        t.fit()
    assert t.step - step <= 20
    for path in tmp_path.glob("*.safetensors"):
        fresh = trainer(steps=100, out=tmp_path, save_every=10, clip=clip)
        fresh._set_up()
        assert fresh.load() and finite(fresh) and fresh.step == step // 10 * 10
    again = make_bad(tmp_path, -1, clip=clip).fit(resume=True)
    assert again.step == 100 and same(again.model, good.model)


def test_nan_weights_are_noticed_without_a_folder():
    loss = bad_at(39, float("nan"), "gradient")
    loss.trainer = trainer(loss)
    with pytest.raises(FloatingPointError, match="holds nan or inf at step 40"):
        loss.trainer.fit()


def test_a_mask_of_minus_infinity_may_be_saved(tmp_path):
    model = network()
    model.register_buffer("mask", torch.full((2, 2), -float("inf")).triu(1))
    assert trainer(model=model, out=tmp_path).fit().step == 40


@pytest.fixture
def stopped(tmp_path):
    """A folder with checkpoints of steps 10 and 20, and the run it should become."""
    def dies(t):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer(out=tmp_path, save_every=10, preview=dies, preview_every=25).fit()
    return tmp_path, trainer().fit()


def resumed(folder, **more):
    return trainer(out=folder, save_every=10, **more).fit(resume=True)


NEWEST, BEFORE = "model.checkpoint.safetensors", "model.checkpoint.previous.safetensors"


def flip(path, position, bit):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_any_flipped_bit_is_noticed(stopped):
    folder, whole = stopped
    good = (folder / NEWEST).read_bytes()
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(len(good), (60,), generator=generator).tolist() + [0, 3, 9, 40, 200, 700, len(good) - 1]
    for position in places:
        (folder / NEWEST).write_bytes(good)
        flip(folder / NEWEST, position, position % 8)
        t = trainer(out=folder, save_every=10)
        t._set_up()
        with pytest.warns(UserWarning, match="going on from the checkpoint before it, of step 10"):
            assert t.load()
        assert t.step == 10, position
    with pytest.warns(UserWarning) as said:
        t = resumed(folder)
    assert same(t.model, whole.model) and t.losses == whole.losses
    assert len(said) == 1 and len(str(said[0].message).splitlines()) == 1


@pytest.mark.parametrize("damage", [b"", b"half a fi", None])
def test_the_checkpoint_before_helps(damage, stopped):
    folder, whole = stopped
    if damage is None:
        (folder / NEWEST).unlink()
    else:
        (folder / NEWEST).write_bytes(damage)
    with pytest.warns(UserWarning, match="of step 10"):
        assert same(resumed(folder).model, whole.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resumed(folder).step == 40


def test_a_broken_checkpoint_never_replaces_the_one_before(stopped):
    folder, _ = stopped
    before = (folder / BEFORE).read_bytes()
    (folder / NEWEST).write_bytes(b"broken")
    with pytest.warns(UserWarning):
        t = trainer(out=folder, save_every=10)
        t._set_up()
        t.load()
    t.save()
    assert (folder / BEFORE).read_bytes() == before and t.load()


def test_both_broken_is_one_line_that_says_what_to_do(stopped):
    folder, _ = stopped
    for name in (NEWEST, BEFORE):
        flip(folder / name, -5, 1)
    with pytest.raises(LoadError, match="damaged.*delete both") as error:
        resumed(folder)
    assert len(str(error.value).splitlines()) == 1


def test_killed_between_the_two_renames(stopped):
    folder, whole = stopped
    os.replace(folder / NEWEST, folder / "model.checkpoint.new.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = resumed(folder)
    assert same(t.model, whole.model) and not (folder / "model.checkpoint.new.safetensors").exists()


def test_a_run_is_not_written_over(stopped):
    folder, _ = stopped
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(LoadError, match="resume it, or use another folder"):
        trainer(out=folder).fit()
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


CHANGES = dict(lr=2e-2, steps=50, warmup=0.1, min_lr=0.1, decay=0.4, optimizer="muon", weight_decay=0.0, betas=(0.8, 0.9),
               clip=2.0, accumulate=2, ema=0.5, precision="bf16", channels_last=True, seed=1, recipe=dict(batch_size=3))


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_is_named(name, stopped):
    with pytest.raises(ConfigError, match="batch_size" if name == "recipe" else f"{name}="):
        resumed(stopped[0], **{name: CHANGES[name]})


def test_all_that_differs_is_named_and_another_model_too(stopped):
    with pytest.raises(ConfigError, match="lr=0.01, seed=0, unet.width=None, and this run has lr=0.02, seed=1, unet.width=8"):
        resumed(stopped[0], lr=0.02, seed=1, recipe=dict(unet=dict(width=8)))
    with pytest.raises(ConfigError, match="parameters="):
        resumed(stopped[0], model=nn.Linear(4, 1))
    with pytest.raises(ConfigError, match="another model: 6 of its tensors"):
        resumed(stopped[0], model=network().bfloat16())


def test_a_foreign_file_is_no_checkpoint(tmp_path):
    from minidiff.files import save_safetensors
    save_safetensors(dict(a=torch.zeros(2)), tmp_path / NEWEST)
    with pytest.raises(LoadError, match="no checkpoint of a training run"):
        resumed(tmp_path)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """The system refuses to write more than so many bytes into a file: what a full disk does, but for its name."""
    code = """
import resource, sys, torch
from torch import nn
from minidiff.training import Trainer
def full(trainer): resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    Trainer(nn.Linear(40, 40), lambda m, b: m(b["x"]).square().mean(), lambda g: dict(x=torch.randn(4, 40, generator=g)), 40,
            out=sys.argv[1], save_every=10, preview=full, preview_every=25, device="cpu", show_bar=False).fit(resume=True)
except OSError as error: print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and len(done.stdout.strip().splitlines()) == 1, done.stdout + done.stderr
    assert done.stdout.startswith("LoadError") and "of step 30 cannot be written, that of step 20 is as it was" in done.stdout
    assert str(tmp_path) in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == [".model.lock", BEFORE, NEWEST]
    code = code.replace("def full(trainer): resource", "def full(trainer): return\n#")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and done.stdout == "" and "before it" not in done.stderr, done.stdout + done.stderr


def test_temporaries_of_killed_runs_are_removed(tmp_path):
    left = [".model.checkpoint.new.safetensors.123-0a1b2c3d.tmp", ".model.checkpoint.safetensors.9-00000000.tmp"]
    kept = [".other.checkpoint.safetensors.9-00000000.tmp", ".model.checkpoint.tmp", "model.checkpoint.9-00000000.tmp", "notes.txt"]
    for name in left + kept:
        (tmp_path / name).write_bytes(b"x")
    trainer(out=tmp_path).fit()
    names = {p.name for p in tmp_path.iterdir()}
    assert names.isdisjoint(left) and names >= set(kept)
    deep = tmp_path / "pipeline" / "unet"
    deep.mkdir(parents=True)
    (deep / ".config.json.7-ffffffff.tmp").write_bytes(b"x")
    stage = tmp_path / "pipeline" / ".saving-0a1b2c3d" / "vae"
    stage.mkdir(parents=True)
    (stage / "config.json").write_bytes(b"x")
    remove_temporaries(tmp_path)
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} >= set(kept[1:]) and not list(deep.iterdir())
    assert not stage.parent.exists()
    assert not (tmp_path / kept[0]).exists()


# --- one run at a time, and its end ----------------------------------------------------------------------------------
def test_one_run_a_checkpoint(tmp_path):
    with only_run(tmp_path / ".model.lock"):
        with pytest.raises(LoadError, match="another run is writing into"):
            trainer(out=tmp_path).fit()
        assert trainer(out=tmp_path, name="other").fit().step == 40
    assert trainer(out=tmp_path).fit().step == 40


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = "import sys, time\nfrom minidiff.training import only_run\nwith only_run(sys.argv[1]):\n print(1, flush=True)\n time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")], stdout=subprocess.PIPE, env=environment())
    process.stdout.readline()
    with pytest.raises(LoadError), only_run(tmp_path / ".lock"):
        pass
    process.kill()
    process.wait()
    with only_run(tmp_path / ".lock"):
        pass


def test_sigterm_is_ctrl_c_and_the_handler_comes_back(tmp_path):
    whole, before = trainer().fit(), signal.getsignal(signal.SIGTERM)

    def ask(t):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        trainer(out=tmp_path, save_every=10, preview=ask, preview_every=25).fit()
    assert signal.getsignal(signal.SIGTERM) is before
    assert same(resumed(tmp_path).model, whole.model)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_of_the_user_stays():
    seen, before = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        assert trainer(preview=lambda t: os.kill(os.getpid(), signal.SIGTERM), preview_every=20).fit().step == 40
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(seen) == 2


def test_in_a_thread_it_trains_without_a_handler():
    result = []
    thread = threading.Thread(target=lambda: result.append(trainer().fit()))
    thread.start()
    thread.join()
    assert same(result[0].model, trainer().fit().model)


def test_fit_twice_is_said():
    t = trainer().fit()
    with pytest.raises(ConfigError, match="at step 40 already"):
        t.fit()


# --- the user's own accelerator --------------------------------------------------------------------------------------
def test_an_accelerator_of_the_user_keeps_its_settings():
    code = """
import torch
from accelerate import Accelerator
from torch import nn
from minidiff.training import Trainer
def train(**more):
    return Trainer(nn.Linear(2, 2), lambda m, b: m(b["x"]).square().mean(), lambda g: dict(x=torch.randn(4, 2, generator=g)), 3,
                   device="cpu", show_bar=False, **more).fit()
train(precision="no")
mine = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4, cpu=True)
train(precision="no"), train(precision="bf16", optimizer="muon")
assert mine.mixed_precision == "bf16" and mine.gradient_accumulation_steps == 4, mine.mixed_precision
with mine.autocast(): assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
model, optimizer = nn.Linear(2, 2), None
model = mine.prepare(model)
with mine.accumulate(model): assert not mine.sync_gradients
t = train(precision="no")  # in the middle of its accumulation
assert not t.accelerator.gradient_state is mine.gradient_state or t.step == 3
assert not torch.equal(t.model.weight, nn.Linear(2, 2).weight) and t.accelerator.mixed_precision == "no"
assert Accelerator(cpu=True).mixed_precision == "bf16"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


# --- arguments -------------------------------------------------------------------------------------------------------
nan = float("nan")
WRONG = [
    dict(clip=-1), dict(clip=0), dict(clip=nan), dict(clip="1"), dict(min_lr=-1), dict(min_lr=2), dict(ema=nan), dict(ema=-0.1),
    dict(ema=1.5), dict(device="tpu"), dict(device=3), dict(name="../../evil"), dict(name=""), dict(name="a/b"), dict(name=".x"),
    dict(name=3), dict(lr=nan), dict(lr=-1), dict(lr="fast"), dict(lr=None), dict(steps=1.5), dict(steps=0), dict(steps=True),
    dict(steps=None), dict(betas=(2, 0)), dict(betas=(0.9,)), dict(betas=0.9), dict(betas=(0.9, 1)), dict(betas=(0.9, nan)),
    dict(betas=("a", 0)), dict(warmup=-1), dict(warmup=2), dict(decay=2), dict(decay=nan), dict(optimizer="sgd"),
    dict(optimizer=None), dict(weight_decay=-1), dict(accumulate=0), dict(accumulate=1.5), dict(precision="half"),
    dict(precision=None), dict(channels_last="yes"), dict(compile=1), dict(cuda_graph=1), dict(cuda_graph=None), dict(seed="a"), dict(seed=0.5), dict(seed=2**64), dict(out=3),
    dict(save_every=0), dict(save_every=-1), dict(preview="x"), dict(preview_every=0), dict(show_bar=None), dict(scaler=1),
    dict(recipe=[1]), dict(model=3), dict(loss_fn=None), dict(batch_fn=3)]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_every_argument_is_checked(wrong):
    given = dict(model=network(), loss_fn=squared_error, batch_fn=points, steps=3) | wrong
    with pytest.raises(ConfigError, match=next(iter(wrong))) as error:
        Trainer(**given)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("fine", [dict(steps=3.0), dict(seed=-1), dict(betas=[0.9, 0.99]), dict(ema=None), dict(ema=0), dict(lr=0),
                                  dict(clip=None), dict(name="last adamw"), dict(device=None), dict(decay=0)], ids=str)
def test_and_what_was_right_stays_right(fine):
    assert Trainer(**dict(model=network(), loss_fn=squared_error, batch_fn=points, steps=3, precision="no", show_bar=False)
                   | fine).fit().step == 3


@pytest.mark.parametrize("batch", [None, [], {}, torch.zeros(3), dict(x=torch.zeros(()), y=torch.zeros(2)), dict(x=torch.zeros(2), y=[1])])
def test_batches_that_are_none(batch):
    with pytest.raises(ValueError, match="batch"):
        Trainer(network(), squared_error, lambda g: batch, 2, device="cpu", show_bar=False, accumulate=2).fit()


@pytest.mark.parametrize("loss", [None, 3.0, torch.zeros(2), torch.zeros((), dtype=torch.long), torch.zeros(())])
def test_losses_that_are_none(loss):
    with pytest.raises(ValueError, match="loss_fn"):
        trainer(lambda model, batch: loss).fit()


def test_nothing_to_train_is_said():
    with pytest.raises(ConfigError, match="no weight"):
        trainer(model=nn.Identity()).fit()


def test_a_loss_over_the_whole_batch_is_not_accumulated():
    def loss(model, batch):
        return squared_error(model, batch)
    loss.whole_batch = True
    for given in (loss, partial(loss)):
        with pytest.raises(ConfigError, match="accumulate=2"):
            trainer(given, accumulate=2)
        trainer(given)


# --- a recorded step -------------------------------------------------------------------------------------------------
class Recorded(torch.autograd.Function):
    """What `torch.cuda.make_graphed_callables` gives back, on a CPU: inputs are copied to where they were at the recording,
    and results lie where they always lie."""

    @staticmethod
    def forward(ctx, graph, inputs, *weights):
        ctx.graph = graph
        for fixed, new in zip(graph.sample, inputs):
            fixed.copy_(new)
        with torch.enable_grad():
            graph.loss = graph.module(*graph.sample)
        for gradient in graph.gradients:
            gradient.fill_(7.0)  # activations may lie there
        graph.out.copy_(graph.loss.detach())
        return graph.out.detach()

    @staticmethod
    def backward(ctx, grad):
        graph = ctx.graph
        new = torch.autograd.grad(graph.loss, graph.weights, grad, allow_unused=True)
        for fixed, gradient in zip(graph.gradients, new):
            if gradient is not None:
                fixed.copy_(gradient)
        return None, None, *(None if g is None else fixed.detach() for fixed, g in zip(graph.gradients, new))


class Recorder:
    def __init__(self):
        self.made, self.replays = 0, 0

    def __call__(self, module, sample, allow_unused_input=False):
        assert allow_unused_input and isinstance(sample, tuple) and all(isinstance(x, torch.Tensor) for x in sample)
        assert isinstance(module, nn.Module) and module.training and module.loss.model.training
        assert not (torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled())
        self.made += 1
        self.module, self.sample = module, sample
        self.weights = [w for w in module.parameters() if w.requires_grad]
        for _ in range(4):  # three times to warm up, and the recording
            self.out = module(*sample)
            torch.autograd.grad(self.out, self.weights, torch.empty_like(self.out), allow_unused=True)
        self.out = self.out.detach().clone()
        self.gradients = [torch.empty_like(w) for w in self.weights]

        def replay(*inputs):
            self.replays += 1
            assert not any(x.requires_grad for x in (*inputs, *sample))
            return Recorded.apply(self, inputs, *self.weights)
        return replay


class OnGPU(Trainer):
    """A trainer that records without a GPU."""

    def _train(self):
        self._record(self._batch(self.step)[0])
        super()._train()


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", made := Recorder())
    return made


def recorded(loss_fn=squared_error, model=None, steps=40, batch_fn=points, **more):
    settings = dict(lr=1e-2, precision="no", device="cpu", show_bar=False, cuda_graph=True)
    return OnGPU(network() if model is None else model, loss_fn, batch_fn, steps, **{**settings, **more})


def equal(a, b):
    return same(a.model, b.model) and a.losses == b.losses and (a.ema_model is None or same(a.ema_model, b.ema_model))


MORE = [{}, dict(accumulate=2), dict(accumulate=4), dict(clip=None), dict(clip=1e-3, accumulate=2), dict(ema=None),
        dict(precision="bf16"), dict(precision="bf16", accumulate=2)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("more", MORE, ids=str)
def test_a_recorded_run_is_the_plain_one(more, optimizer, recorder):
    got = recorded(optimizer=optimizer, **more).fit()
    expected = trainer(optimizer=optimizer, **more).fit()
    assert recorder.made == 1 and recorder.replays == 40 * more.get("accumulate", 1)
    assert equal(got, expected)
    assert got._graphed is None, "its memory is free"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_recorded_run_skips_overflows(optimizer, accumulate, recorder):
    """What overflows is in the batch: a recording decides nothing in Python."""
    def batches(generator):
        batch = points(generator)
        bad = generator.initial_seed() in [step_generator(0, step).initial_seed() for step in (0, 5, 39)]
        return batch | dict(x=batch["x"] * (float("inf") if bad else 1))
    runs = []
    for make in (recorded, trainer):
        t = make(optimizer=optimizer, accumulate=accumulate, scaler=torch.amp.GradScaler("cpu", init_scale=65536.0))
        t.batch_fn = batches
        runs.append(t.fit())
    got, expected = runs
    assert finite(got) and same(got.model, expected.model) and same(got.ema_model, expected.ema_model)
    assert got.accelerator.scaler.get_scale() == expected.accelerator.scaler.get_scale() == 65536 / 8
    assert got._ema.updates == 37


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_recorded_run_is_stopped_and_resumed_with_or_without(optimizer, recorder, tmp_path):
    def dies(t): raise KeyboardInterrupt
    settings = dict(optimizer=optimizer, save_every=10)
    whole = trainer(optimizer=optimizer).fit()
    for first, second in ((recorded, recorded), (recorded, trainer), (trainer, recorded)):
        folder = tmp_path / f"{first.__name__} {second.__name__}"
        with pytest.raises(KeyboardInterrupt):
            first(preview=dies, preview_every=25, out=folder, **settings).fit()
        assert equal(second(out=folder, **settings).fit(resume=True), whole)


class Strange(nn.Module):
    """Pictures, whole numbers, dropout, a frozen weight, one that is not used, one that is used twice, a counter."""

    def __init__(self):
        super().__init__()
        seed_all(0)
        self.table, self.inner, self.out = nn.Embedding(10, 16), nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 1)
        self.frozen, self.unused = nn.Linear(16, 16).requires_grad_(False), nn.Linear(16, 16)
        self.again = nn.ParameterList([self.frozen.weight, nn.Parameter(torch.ones(3))])
        self.same = self.out
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x, t):
        h = self.norm(self.inner(x)) + self.frozen(self.table(t))[..., None, None]
        h = nn.functional.dropout(h, 0.2, self.training)
        return (self.out(h) + self.same(h.relu())) * self.again[1].view(-1, 1, 1)


def pictures(generator):
    return dict(x=torch.randn(8, 3, 8, 8, generator=generator), t=torch.randint(10, (8,), generator=generator))


def mirror(model, batch):
    return nn.functional.mse_loss(model(batch["x"], batch["t"]), batch["x"].flip(-1))


@pytest.mark.parametrize("more", [{}, dict(channels_last=True), dict(accumulate=2, channels_last=True), dict(optimizer="muon")], ids=str)
def test_strange_networks_are_recorded(more, recorder):
    seen = []
    def watch(t): seen.append(t.model.training)
    got = recorded(mirror, Strange(), 12, pictures, preview=watch, preview_every=5, **more).fit()
    expected = Trainer(Strange(), mirror, pictures, 12, lr=1e-2, precision="no", device="cpu", show_bar=False, **more).fit()
    assert seen == [False, False] and recorder.replays == 12 * more.get("accumulate", 1)
    assert equal(got, expected)
    if more.get("channels_last"):
        assert recorder.sample[0].is_contiguous(memory_format=torch.channels_last)
    assert got.model.unused.weight.grad is None and not got.model.frozen.weight.requires_grad
    unused = Strange().unused.weight
    assert torch.equal(got.model.unused.weight, unused), "no gradient, no decay"


@pytest.mark.parametrize("more", MORE + [dict(optimizer="muon")], ids=str)
def test_on_a_cpu_nothing_is_recorded(more, recorder):
    got = trainer(cuda_graph=True, **more).fit()
    assert recorder.made == 0 and equal(got, trainer(**more).fit())


def test_a_cpu_takes_what_a_recording_would_not():
    def batches(generator): return points(generator) | dict(names=["a"] * 16)
    a, b = (Trainer(network(), squared_error, batches, 3, device="cpu", show_bar=False, cuda_graph=on).fit() for on in (True, False))
    assert equal(a, b)


@pytest.mark.parametrize("entry, kind", [(["a"] * 16, "'names': 'list'"), ("a" * 16, "'names': 'str'"), (None, "'names': 'NoneType'")])
def test_a_recording_takes_tensors_only(entry, kind, recorder):
    with pytest.raises(ConfigError, match=f"batch: a CUDA graph takes tensors only, got .*{kind}"):
        recorded(batch_fn=lambda generator: points(generator) | dict(names=entry)).fit()
    assert recorder.made == 0


@pytest.mark.parametrize("change, now", [(dict(x=torch.ones(8, 4), y=torch.ones(8, 1)), r"\(8, 4, torch.float32"),
                                         (dict(x=torch.ones(16, 4).double()), r"\(16, 4, torch.float64"),
                                         (dict(z=torch.ones(16)), "'z'"), (dict(y=[1.0] * 16), "'list'")], ids=["shape", "type", "more", "list"])
def test_a_change_of_shape_is_said(change, now, recorder):
    late = step_generator(0, 3).initial_seed()
    def batches(generator): return points(generator) | (change if generator.initial_seed() == late else {})
    t = recorded(batch_fn=batches)
    with pytest.raises(ConfigError, match=f"all batches of one shape; the first has .*16, 4, torch.float32.*this one .*{now}") as error:
        t.fit()
    assert t.step == 3 and len(str(error.value).splitlines()) == 1


def test_the_order_of_a_batch_may_change(recorder):
    def turned(generator):
        batch = points(generator)
        return dict(reversed(batch.items())) if generator.initial_seed() % 2 else batch
    assert equal(recorded(batch_fn=turned).fit(), trainer().fit())


def test_what_cannot_be_recorded_is_said(monkeypatch):
    def fails(*args, **more): raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nFor debugging ...")
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fails)
    with pytest.raises(ConfigError, match=r"it cannot be recorded as a CUDA graph; .* \(CUDA error: .* capturing\)$") as error:
        recorded().fit()
    assert isinstance(error.value.__cause__, RuntimeError)


@pytest.mark.parametrize("loss", [None, 3.0, torch.zeros(2), torch.zeros((), dtype=torch.long), torch.zeros(())])
def test_losses_that_are_none_are_not_recorded(loss, recorder):
    with pytest.raises(ValueError, match="loss_fn"):
        recorded(lambda model, batch: loss).fit()


@pytest.mark.parametrize("device, processes, on, made", [("cuda", 1, True, 1), ("cuda", 2, True, 0), ("cuda", 1, False, 0),
                                                         ("cpu", 1, True, 0), ("mps", 1, True, 0)])
def test_what_is_recorded_is_one_process_on_a_gpu(device, processes, on, made):
    """With several processes the option changes nothing, so the larger preset may be trained by them."""
    t, records = trainer(steps=1, cuda_graph=on), []
    nothing = lambda *args: None
    vars(t).update(accelerator=SimpleNamespace(device=torch.device(device), process_index=0, num_processes=processes, is_main_process=False),
                   _graphed=None, _batch=lambda step: [step], _train_step=nothing, _watch=nothing, save=nothing, _record=records.append)
    t._train()
    assert len(records) == made and t.step == 1


def test_the_script_needs_a_gpu(tmp_path):
    if torch.cuda.is_available(): pytest.skip("there is one")
    script = Path(__file__).resolve().parent.parent / "scripts/cuda_graph.py"
    done = subprocess.run([sys.executable, script, "--out", tmp_path / "no.json"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "cuda_graph.py needs a GPU, and PyTorch finds none here\n" and not done.stdout
    assert not list(tmp_path.iterdir())


def test_recorded_and_compiled_exclude_each_other():
    with pytest.raises(ConfigError, match="cuda_graph=True and compile=True"):
        trainer(cuda_graph=True, compile=True)


class Reaches(TorchDispatchMode):
    """What would make a recording fail: an operation that takes a tensor from the CPU, or brings one there."""

    def __torch_dispatch__(self, function, types, args=(), more=None):
        out = function(*args, **(more or {}))
        tensors = [x for x in tree_leaves((args, more, out)) if isinstance(x, torch.Tensor)]
        assert all(x.device.type == "meta" for x in tensors), function
        return out


def small_loss(stage):
    """Model, loss and batches of a stage of the smallest job."""
    preset, book = PRESETS["smoke"], Sketchbook(32)
    tokenizer, vae = caption_tokenizer(book), small_vae(**vae_config(preset))
    if stage == "vae": return vae, vae_training_loss, vae_batches(book, 4, vae.config.latent_channels, vae.factor)
    if stage == "text": return small_clip(tokenizer, 32, **preset.text), contrastive_loss, contrastive_batches(book, tokenizer, 4)
    scheduler = DDPMScheduler(**SCHEDULER)
    latents = torch.randn(20, vae.config.latent_channels, 32 // vae.factor, 32 // vae.factor)
    data = Latents(latents, latents.square(), torch.randn(21, tokenizer.model_max_length, 32))
    return UNet2DConditionModel(**fitted_unet(preset, vae)), diffusion_loss(scheduler), latent_batches(data, 4, 0.05)


@pytest.mark.parametrize("stage", ["vae", "text", "unet"])
def test_the_losses_of_the_course_stay_on_the_device(stage, monkeypatch):
    """On the meta device, which has shapes and no numbers: `.item()` fails there, as it would in a recording."""
    monkeypatch.setattr("minidiff.scheduler.check_timesteps", lambda t, *args, **more: t)  # refuses this device
    model, loss, batches = small_loss(stage)
    batch = {k: v.to("meta") for k, v in batches(step_generator(0, 0)).items()}
    model = model.to("meta")
    loss(model, batch)  # a recording warms up; what must be brought once is brought now
    with Reaches():
        loss(model, batch).backward()


# --- the parts -------------------------------------------------------------------------------------------------------
def test_muon_with_a_closure_does_what_it_does_without():
    ends = []
    for closed in (True, False):
        model, calls = network(), []
        optimizer, batch = Muon(model.parameters(), lr=0.02), points(step_generator(0, 0))

        def closure():
            optimizer.zero_grad()
            calls.append(1)
            loss = squared_error(model, batch)
            loss.backward()
            return loss

        losses = []
        for _ in range(5):
            if closed:
                losses.append(optimizer.step(closure).item())
            else:
                losses.append(closure().item())
                optimizer.step()
        ends.append((model, losses, len(calls)))
    assert same(ends[0][0], ends[1][0]) and ends[0][1:] == ends[1][1:] and ends[0][2] == 5 and ends[0][1][-1] < ends[0][1][0]


def test_muon_refuses_what_it_does_not_do():
    with pytest.raises(ConfigError, match="maximize"):
        Muon(network().parameters(), maximize=True)
    optimizer = Muon(network().parameters())
    for name in ("maximize", "differentiable"):
        with pytest.raises(ConfigError, match=name):
            optimizer.add_param_group({"params": nn.Linear(32, 32).parameters(), name: True})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group(dict(params=nn.Linear(32, 32).parameters(), lr=0.5))
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.5]


def test_muon_does_not_go_on_from_another_optimizers_state():
    layer = nn.Linear(32, 32)
    def step(optimizer):
        layer(torch.ones(4, 32)).square().mean().backward()
        optimizer.step()
    other = torch.optim.AdamW(layer.parameters())
    step(other)
    optimizer = Muon(layer.parameters())
    optimizer.load_state_dict(other.state_dict())
    with pytest.raises(ConfigError, match="another optimizer's: it holds no momentum, but step, exp_avg"): step(optimizer)


@pytest.mark.parametrize("other, kind", [(nn.Linear(4, 5), "parameters"), (nn.BatchNorm1d(4, track_running_stats=False), "buffers")])
def test_an_average_follows_no_other_module(other, kind):
    average = EMA(nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=f"module: its {kind} are not"): average.update(other)
    assert average.updates == 0


def test_muon_keeps_a_learning_rate_in_a_tensor():
    layer = nn.Linear(32, 32)
    optimizer = Muon(layer.parameters(), lr=torch.tensor(0.1), foreach=False)
    for _ in range(3):
        layer(torch.randn(4, 32)).square().mean().backward()
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == torch.tensor(0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_average_of_half_precision_weights_does_not_stall(dtype):
    walker = nn.Linear(8, 8).to(dtype)
    exact = EMA(nn.Linear(8, 8).double(), 0.999)
    average = EMA(walker, 0.999)
    twin = nn.Linear(8, 8).double()
    for i in range(2000):
        with torch.no_grad():
            for p, q in zip(walker.parameters(), twin.parameters()):
                p.copy_(torch.full_like(p, 1 + i / 500))
                q.copy_(p)
        average.update(walker)
        exact.update(twin)
    assert average.module.weight.dtype == torch.float32
    torch.testing.assert_close(average.module.weight.double(), exact.module.weight, rtol=1e-4, atol=0)


def test_dropout_differs_between_processes_and_steps():
    seeds = {step_generator(seed, step, rank).initial_seed() for seed in (0, 1) for step in range(3000) for rank in range(16)}
    assert len(seeds) == 2 * 3000 * 16
    assert step_generator(3, 5).initial_seed() == (3 * 2654435761 + 5) % 2**32


def test_a_fingerprint_sees_every_bit_name_type_and_shape():
    a = dict(x=torch.arange(4.0), y=torch.tensor(1))
    assert fingerprint(a) == fingerprint(dict(reversed(a.items())))
    others = [dict(x=a["x"].view(2, 2), y=a["y"]), dict(z=a["x"], y=a["y"]), dict(x=a["x"].view(torch.int32), y=a["y"]),
              dict(x=-a["x"], y=a["y"]), dict(x=a["x"])]
    assert len({fingerprint(other) for other in [a, *others]}) == 6
    assert fingerprint(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last).bfloat16())


def test_orthogonalize_wants_matrices():
    with pytest.raises(ValueError, match="matrices"):
        orthogonalize(torch.zeros(3))
    assert orthogonalize(torch.zeros(2, 3, 4)).abs().max() == 0
    assert orthogonalize(torch.zeros(2, 3, 4), dtype=torch.float16).abs().max() == 0


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_orthogonalize_in_float16_is_nearer_to_float32_than_bfloat16(size):
    matrices = size * torch.randn(3, 48, 96, generator=torch.Generator().manual_seed(0))
    exact = orthogonalize(matrices, dtype=torch.float32)
    error = {dtype: (orthogonalize(matrices, dtype=dtype).float() - exact).norm() / exact.norm() for dtype in (torch.float16, torch.bfloat16)}
    assert error[torch.float16] < 0.01 and error[torch.float16] < error[torch.bfloat16] / 4


@pytest.mark.parametrize("capability, dtype", [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_muon_multiplies_in_the_half_precision_that_a_card_is_made_for(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert optimizers._product_dtype(torch.device("cuda")) == dtype
    assert optimizers._product_dtype(torch.device("meta")) == torch.bfloat16, "costs are counted as on a card"


@pytest.mark.parametrize("instructions, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_muon_multiplies_in_bfloat16_only_where_the_processor_does(instructions, dtype, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"): monkeypatch.setattr(torch.cpu, name, lambda: instructions)
    seen, real = [], optimizers.orthogonalize
    monkeypatch.setattr(optimizers, "orthogonalize", lambda matrices, dtype: seen.append(dtype) or real(matrices, dtype=dtype))
    w = torch.ones(32, 32, requires_grad=True)
    w.square().sum().backward()
    Muon([w], lr=0.1).step()
    assert seen == [dtype] and w.dtype == torch.float32 and w.isfinite().all()


def test_muon_in_float16_and_in_float32_goes_the_same_way(monkeypatch):
    start, target = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(0))
    paths = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        monkeypatch.setattr(optimizers, "_product_dtype", lambda device: dtype)
        w = start.clone().requires_grad_()
        optimizer = Muon([w], lr=0.05, weight_decay=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            (1e-6 * (w - target) ** 2).sum().backward()
            optimizer.step()
        paths.append(w.detach())
    for other in paths[1:]: assert (paths[0] - start).norm() > 1 and (other - paths[0]).norm() < 0.02 * (paths[0] - start).norm()


@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_rate_stays_within_its_ends(decay):
    for step in (-5, 0, 10, 11, 20): assert 0 <= optimizers.lr_factor(step, 10, decay=decay) <= 1


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_only_real_matrices_are_turned(dtype):
    with pytest.raises(ValueError, match="real numbers"): orthogonalize(torch.ones(3, 3, dtype=dtype))


def test_complex_weights_are_left_to_adamw():
    torch.manual_seed(0)
    start, paths = torch.randn(32, 32, dtype=torch.complex64), []
    for make in (lambda w: Muon([w], lr=0.04, weight_decay=0), lambda w: torch.optim.AdamW([w], lr=0.01, weight_decay=0)):
        w = start.clone().requires_grad_()
        optimizer = make(w)
        for _ in range(3):
            w.grad = torch.view_as_complex(torch.ones(32, 32, 2))
            optimizer.step()
        paths.append(w.detach())
    assert torch.allclose(*paths) and not torch.allclose(paths[0], start)


def test_muon_refuses_a_state_before_anything_moves():
    layers = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
    optimizer = Muon([layer.weight for layer in layers])
    optimizer.state[layers[1].weight] = dict(step=torch.zeros(()), exp_avg=torch.zeros(32, 32))
    before = layers[0].weight.detach().clone()
    sum(layer(torch.ones(4, 32)).square().mean() for layer in layers).backward()
    with pytest.raises(ConfigError, match="another optimizer's"): optimizer.step()
    assert torch.equal(layers[0].weight, before) and layers[0].weight.grad is not None
