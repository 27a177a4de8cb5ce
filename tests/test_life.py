"""What people do with these parts in real life: wrap, hook, swap, pickle, subclass, begin in the middle."""
import copy
import pickle

import diffusers
import pytest
import torch
from torch import nn

from minidiff.latent_diffusion import open_run
from minidiff.pipeline import SCHEDULERS
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.training import Trainer, fingerprint

TINY = dict(sample_size=8, block_out_channels=(32,), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
            attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",))


class LoRA(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.base_layer = base
        out = base.out_channels if isinstance(base, nn.Conv2d) else base.out_features
        width = base.in_channels if isinstance(base, nn.Conv2d) else base.in_features
        self.mix = nn.Conv2d(width, out, 1) if isinstance(base, nn.Conv2d) else nn.Linear(width, out)
        nn.init.constant_(self.mix.weight, 0.05)

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x): return self.base_layer(x) + self.mix(x)


def pair(**more):
    torch.manual_seed(0)
    real = diffusers.UNet2DConditionModel(**{**TINY, **more}).eval()
    ours = UNet2DConditionModel(**{**TINY, **more}).eval()
    ours.load_state_dict(real.state_dict())
    return ours, real


@torch.no_grad()
def answers(ours, real):
    x, text = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(2, 3, 32)
    return ours(x, 5, text), real(x, 5, text).sample


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", ["proj_in", "proj_out", "transformer_blocks.0.ff.net.0.proj", "transformer_blocks.0.attn1.to_q"])
def test_a_wrapped_layer_is_called(name, linear):
    ours, real = pair(use_linear_projection=linear)
    before = answers(ours, real)[0]
    *path, last = name.split(".")
    for model in (ours, real):
        torch.manual_seed(2)
        parent = model.get_submodule(".".join(["down_blocks.0.attentions.0", *path]))
        setattr(parent, last, LoRA(getattr(parent, last)))
    mine, theirs = answers(ours, real)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert (mine - before).abs().max() > 1e-3


@pytest.mark.parametrize("linear", [True, False])
def test_every_forward_hook_is_called(linear):
    ours, real = pair(use_linear_projection=linear)
    called = {}
    for which, model in (("ours", ours), ("real", real)):
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.register_forward_hook(lambda *_, key=(which, name): called.setdefault(key))
    mine, theirs = answers(ours, real)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    names = {which: {name for w, name in called if w == which} for which in ("ours", "real")}
    assert names["ours"] == names["real"]


def trainer(model=None, out=None, **more):
    torch.manual_seed(0)
    model = nn.Linear(3, 3) if model is None else model
    return Trainer(model, lambda m, b: (m(b["x"]) - b["x"]).square().mean(), lambda g: dict(x=torch.randn(8, 3, generator=g)),
                   20, lr=0.05, ema=0.9, out=out, device="cpu", precision="no", show_bar=False, **more)


def test_gradients_of_before_do_not_count():
    torch.manual_seed(0)
    tried = nn.Linear(3, 3)
    tried(torch.ones(1, 3)).sum().mul(100).backward()
    assert fingerprint(trainer(tried).fit().model) == fingerprint(trainer().fit().model)


@pytest.mark.parametrize("resume", [False, True, 2])
def test_a_second_fit_spoils_nothing(resume):
    run = trainer().fit()
    average, weights = fingerprint(run.ema_model), fingerprint(run.model)
    with pytest.raises(ValueError, match="at step 20 already|resume is one of"): run.fit(resume=resume)
    assert (average, weights) == (fingerprint(run.ema_model), fingerprint(run.model)) and not run.model.training


def test_another_ones_lock_file_does_not_stop_a_run(tmp_path, monkeypatch):
    (tmp_path / ".model.lock").touch()

    def guarded(path, mode="r"):
        if mode != "r": raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode)

    monkeypatch.setattr("minidiff.training.open", guarded, raising=False)
    assert trainer(out=tmp_path).fit().step == 20


class Remembers(nn.Linear):
    def get_extra_state(self): return {"a": 1}
    def set_extra_state(self, state): pass


@pytest.mark.parametrize("model", [Remembers(3, 3), nn.LazyLinear(3)])
def test_what_could_not_be_saved_is_not_trained_first(model, tmp_path):
    with pytest.raises(ValueError, match="could not be saved"): trainer(model, tmp_path).fit()


def copies(config):
    return [config, copy.deepcopy(config), pickle.loads(pickle.dumps(config)), {**config}, dict(config.items())]


@pytest.mark.parametrize("swap", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_what_nobody_chose_stays_behind_in_every_copy_of_a_config(swap):
    for config in copies(SCHEDULERS["DDIMScheduler"]().config):
        assert SCHEDULERS[swap].from_config(config).config.timestep_spacing == "linspace"
        assert getattr(diffusers, swap).from_config(config).config.timestep_spacing == "linspace"
        karras = SCHEDULERS[swap].from_config({**config, "use_karras_sigmas": True})
        assert karras.config.use_karras_sigmas is True
    euler = SCHEDULERS["EulerDiscreteScheduler"]().config
    assert SCHEDULERS[swap].from_config({**euler, "use_karras_sigmas": True}).config.use_karras_sigmas is True


@pytest.mark.parametrize("start", range(4))
def test_a_loop_of_pndm_may_begin_anywhere(start):
    made = [library(skip_prk_steps=True) for library in (SCHEDULERS["PNDMScheduler"], diffusers.PNDMScheduler)]
    ends = []
    for scheduler in made:
        scheduler.set_timesteps(7)
        x = torch.ones(1, 1, 2, 2)
        for t in scheduler.timesteps[start:]: x = scheduler.step(torch.sin(3 * x + t / 300), t, x).prev_sample
        ends.append(x)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_dice_in_float64_fall_as_in_diffusers():
    ends = []
    for library in (SCHEDULERS["DPMSolverMultistepScheduler"], diffusers.DPMSolverMultistepScheduler):
        scheduler = library(algorithm_type="sde-dpmsolver++")
        scheduler.set_timesteps(4)
        x = torch.ones(1, 1, 4, 4, dtype=torch.float64)
        for t in scheduler.timesteps:
            x = scheduler.step(x / 2, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        ends.append(x)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_a_subclass_may_pass_its_arguments_on(tmp_path):
    class Mine(UNet2DConditionModel):
        def __init__(self, rank=4, **config):
            super().__init__(**config)
            self.rank = rank

    made = Mine(rank=2, **TINY)
    assert made.config.sample_size == 8 and made.rank == 2
    made.save_pretrained(tmp_path)
    assert fingerprint(Mine.from_pretrained(tmp_path)) == fingerprint(made)
    with pytest.raises(ValueError, match="no config key 'widht'"): Mine(widht=3)


def test_a_pipeline_can_be_pickled():
    pipe = open_run()
    again = pickle.loads(pickle.dumps(pipe))
    paint = dict(num_inference_steps=2, output_type="latent")
    first, second = (p("a red circle", generator=torch.Generator().manual_seed(0), **paint) for p in (pipe, again))
    assert torch.equal(first, second)


def test_home_is_one_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    pipe = open_run()
    pipe.save_pretrained("~/mine")
    pipe.scheduler.save_pretrained("~/one")
    trainer(out="~/run").fit()
    assert {p.name for p in (tmp_path / "home").iterdir()} == {"mine", "one", "run"} and not (tmp_path / "~").exists()
    assert open_run("~/mine").unet.config == pipe.unet.config
