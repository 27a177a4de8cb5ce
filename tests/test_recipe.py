"""What makes the finale's training quick: roots in place of squares, norms that count in float32, and half precision where it is fast."""
import copy
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minidiff import latent_diffusion as course
from minidiff import negatives
from minidiff.alignment import Aligned, alignment_loss, even_channels
from minidiff.checks import ConfigError
from minidiff.files import data_folder, read_json
from minidiff.latent_diffusion import PRESETS, SCHEDULER, Job, diffusion_loss
from minidiff.parallel import norms_in_float32
from minidiff.scheduler import DDPMScheduler, training_target
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import BACKGROUNDS, Sketchbook, draw_pages, in_split, sample_scenes
from minidiff.stickers import StickerBook
from minidiff.training import Trainer, best_precision, half_where_fast
from minidiff.vae import vae_batches

torch.set_num_threads(1)
SMOKE = PRESETS["smoke"]


def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(**(SMOKE.unet | dict(in_channels=4, out_channels=4)))


def batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    def noise(*shape): return torch.randn(*shape, generator=generator)
    return dict(latents=noise(n, 4, 8, 8), noise=noise(n, 4, 8, 8), maps=noise(n, 16, 4, 4), states=noise(n, 8, 32),
                timesteps=torch.randint(1000, (n,), generator=generator))


def errors(model, b):
    """Each picture's mean squared error, without the course's loss."""
    teacher = DDPMScheduler(**SCHEDULER)
    noisy = teacher.add_noise(b["latents"], b["noise"], b["timesteps"])
    answer = model(noisy, b["timesteps"], b["states"])
    answer = answer[0] if isinstance(answer, tuple) else answer
    truth = training_target(teacher, b["latents"], b["noise"], b["timesteps"])
    return torch.stack([F.mse_loss(a, v) for a, v in zip(answer, truth)])


@pytest.mark.parametrize("stage", ["vae_training", "text_training", "unet_training"])
def test_a_batch_that_cannot_be_cut_is_found_before_the_first_step(stage, tmp_path):
    told = PRESETS["smoke"]
    odd = replace(told, **{stage: getattr(told, stage) | dict(accumulate=3)})
    with pytest.raises(ConfigError, match=f"{stage}: accumulate=3"): Job(odd, tmp_path / "run")


@pytest.mark.parametrize("huber", [0.0, 1e-3, 0.03, 2.0])
@pytest.mark.parametrize("align", [0.0, 0.7])
def test_the_loss_is_the_formula(huber, align):
    model, b = unet(), batch()
    if align: model = Aligned(model, 16)
    e = errors(model, b)
    expected = ((e + huber**2).sqrt() - huber).mean() if huber else e.mean()
    if align: expected = expected + align * alignment_loss(model(*[DDPMScheduler(**SCHEDULER).add_noise(b["latents"], b["noise"], b["timesteps"]),
                                                                  b["timesteps"], b["states"]])[1], b["maps"])
    torch.testing.assert_close(diffusion_loss(DDPMScheduler(**SCHEDULER), align, huber)(model, b), expected, rtol=1e-5, atol=1e-6)


def test_each_picture_pulls_as_hard_as_its_root_says():
    """The gradient of picture i is that of its square over twice its root."""
    model, b = unet(), batch()
    def gradient(loss): return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters(), allow_unused=True) if g is not None])
    e = errors(model, b)
    total = 0
    for i in range(len(e)): total = total + gradient(errors(model, b)[i]) / (2 * math.sqrt(e[i].item() + 0.03**2)) / len(e)
    ours = gradient(diffusion_loss(DDPMScheduler(**SCHEDULER), 0.0, 0.03)(model, b))
    torch.testing.assert_close(ours, total, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(ours, gradient(e.mean()), rtol=0.1)


def test_a_perfect_answer_has_a_finite_slope():
    class Perfect(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.zeros(()))
        def forward(self, x, t, states): return self.truth + self.w * x
    model, b, teacher = Perfect(), batch(), DDPMScheduler(**SCHEDULER)
    model.truth = training_target(teacher, b["latents"], b["noise"], b["timesteps"])
    loss = diffusion_loss(teacher, 0.0, 0.03)(model, b)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-8) and model.w.grad.isfinite()


def test_the_root_belongs_to_the_recipe(tmp_path):
    options = dict(device="cpu", show_bar=False)
    job = Job(SMOKE, tmp_path, **options)
    vae = job.train_vae()
    tokenizer, text = job.train_text_encoder()
    data = job.make_latents(vae, tokenizer, text)
    job.train_unet(vae, tokenizer, text, data)
    other = Job(replace(SMOKE, huber=0.5), tmp_path, resume=True, **options)
    other.train_vae(), other.train_text_encoder()
    with pytest.raises(ValueError, match="huber=0.03.*huber=0.5"): other.train_unet(vae, tokenizer, text, data)


def net(): return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.GroupNorm(2, 16, affine=False), nn.Conv2d(16, 3, 3, padding=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_norms_of_any_type_go_on_working(dtype):
    model, x = net().to(dtype), torch.randn(2, 3, 8, 8).to(dtype)
    plain = model(x)
    with norms_in_float32(model), norms_in_float32(model): assert torch.equal(model(x), plain) and model(x).dtype == dtype
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_norms_are_as_before_after_an_error():
    model = net()
    with pytest.raises(RuntimeError, match="channels"), norms_in_float32(model): model(torch.zeros(1, 4, 8, 8))
    assert not any(m._forward_pre_hooks for m in model.modules())
    with norms_in_float32(nn.Linear(2, 2)): pass


def test_under_autocast_a_norm_counts_in_float32():
    seen, model = [], net()
    model[1].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        with norms_in_float32(model): wide = model(x)
    assert seen == [torch.bfloat16, torch.float32]
    torch.testing.assert_close(wide.float(), model(x), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("last", [True, False])
def test_a_trained_model_keeps_no_hooks(last):
    def mirror(model, b): return F.mse_loss(model(b["x"]), b["x"].flip(-1))
    def batches(generator): return dict(x=torch.randn(4, 3, 8, 8, generator=generator))
    inside = []
    def loss(model, b): inside.append(sum(len(m._forward_pre_hooks) for m in model.modules())); return mirror(model, b)
    trainer = Trainer(net(), loss, batches, 3, channels_last=last, device="cpu", show_bar=False).fit()
    assert set(inside) == {int(last)} and not any(m._forward_pre_hooks for m in trainer.model.modules())
    copy.deepcopy(trainer.ema_model).bfloat16()(torch.randn(1, 3, 8, 8).bfloat16())


def test_half_only_where_it_is_fast(monkeypatch):
    a = torch.randn(4, 4)
    with half_where_fast("cpu"): fast = (a @ a).dtype
    assert fast == (torch.bfloat16 if best_precision("cpu") == "bf16" else torch.float32)
    for precision, dtype in dict(bf16=torch.bfloat16, fp16=torch.float32, no=torch.float32).items():
        monkeypatch.setattr("minidiff.training.best_precision", lambda device: precision)
        with half_where_fast(torch.device("cpu")): assert (a @ a).dtype == dtype


def test_a_job_paints_numbers_of_32_bits(tmp_path):
    job = Job(replace(SMOKE, unet_training={**SMOKE.unet_training, "steps": 2}), tmp_path, device="cpu", show_bar=False)
    pipe = job.run()
    images = job.paint_captions(pipe, ["a red star", "a blue ring"])
    assert images.dtype == torch.float32 and images.isfinite().all()
    data = job.make_latents(pipe.vae, pipe.tokenizer, pipe.text_encoder)
    assert data.mean.dtype == data.std.dtype == torch.float32 and data.states.dtype == torch.bfloat16


def pages_of(pages, n): return torch.bincount(pages, minlength=len(BACKGROUNDS)) / n


def test_pages_come_as_often_as_asked():
    n, generator = 20_000, torch.Generator().manual_seed(0)
    found = pages_of(draw_pages(n, dict(gray=4.0, black=0), generator), n)
    wanted = torch.tensor([dict(gray=4.0, black=0.0).get(name, 1.0) for name in BACKGROUNDS])
    assert (found - wanted / wanted.sum()).abs().max() < 4 * (0.25 / n) ** 0.5
    assert torch.equal(*[draw_pages(50, dict(gray=2), torch.Generator().manual_seed(3)) for _ in range(2)])


@pytest.mark.parametrize("often, said", [(dict(grey=2), "often: expected"), (["gray"], "often: expected"), (None, "often: expected"),
                                         (dict(gray=-1), "often\\['gray'\\]"), (dict(gray=float("nan")), "often\\['gray'\\]"),
                                         (dict(gray="twice"), "often\\['gray'\\]"), (dict.fromkeys(BACKGROUNDS, 0), "0 times")])
def test_pages_that_cannot_be_drawn(often, said):
    with pytest.raises(ValueError, match=said): draw_pages(5, often, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [0, -1, 1.5, "many"])
def test_how_many_pages(n):
    with pytest.raises(ValueError, match="n"): draw_pages(n, {}, torch.Generator().manual_seed(0))


VAE_PAGES = SMOKE.vae_pages


def test_the_wand_of_the_shapes_sees_grey_pages_more_often(tmp_path, monkeypatch):
    """And that of another book as its book draws them; nothing else of a batch changes."""
    plain, pages = (vae_batches(Sketchbook(32), 600, pages=pages)(torch.Generator().manual_seed(1)) for pages in (None, VAE_PAGES))
    assert plain["images"].shape == pages["images"].shape and plain["noise"].shape == pages["noise"].shape
    grey = (BACKGROUNDS["gray"].view(1, 3) if torch.is_tensor(BACKGROUNDS["gray"]) else torch.tensor(BACKGROUNDS["gray"]).view(1, 3)).float()
    share = [((batch["images"][:, :, 0, 0] - grey).abs().amax(1) < 0.02).float().mean().item() for batch in (plain, pages)]
    assert abs(share[0] - 1 / 6) < 0.06 and abs(share[1] - 4 / 9) < 0.08, share
    told = []
    monkeypatch.setattr(course, "vae_batches", lambda book, n, **more: told.append(more["pages"]) or (lambda generator: 1 / 0))
    for i, book in enumerate((None, StickerBook(32))):
        with pytest.raises(ZeroDivisionError): Job(SMOKE, tmp_path / str(i), device="cpu", show_bar=False, book=book).train_vae()
    assert told == [VAE_PAGES, None]


def test_near_misses_stop_when_all_are_found(monkeypatch):
    """And are what they were: one thing changed, of the training split."""
    rounds = []
    edits = negatives._edits
    monkeypatch.setattr(negatives, "_edits", lambda *args: rounds.append(1) or edits(*args))
    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(200, generator)
    near = negatives.vary(scenes, generator)
    assert 1 <= len(rounds) < 10 and in_split(near, "train").all()
    columns = ("kind", "color", "size", "place", "relation", "background")
    changed = torch.stack([(getattr(near, c) != getattr(scenes, c)).flatten(1).any(1) if getattr(near, c).dim() > 1 else getattr(near, c) != getattr(scenes, c)
                           for c in columns]).sum(0)
    assert (changed == 1).float().mean() > 0.95


@pytest.mark.parametrize("told", [dict(huber=-0.1), dict(huber=float("nan")), dict(huber="a"), dict(align=-1), dict(align=None)])
def test_a_loss_that_cannot_be(told):
    with pytest.raises(ValueError, match=next(iter(told))): diffusion_loss(DDPMScheduler(**SCHEDULER), **told)


def test_a_tiny_root_is_no_negative_number():
    b = batch() | dict(latents=torch.zeros(6, 4, 8, 8), noise=torch.zeros(6, 4, 8, 8))
    for huber in (1e-6, 1.0, 1000.0):
        def slightly_off(x, t, states): return x * 0 + 1e-3
        found = diffusion_loss(DDPMScheduler(**SCHEDULER), huber=huber)(slightly_off, b)
        e = torch.tensor(1e-6, dtype=torch.float64)
        torch.testing.assert_close(found.double(), (e + huber**2).sqrt() - huber if huber < 10 else e / (2 * huber), rtol=1e-3, atol=0)


@pytest.mark.parametrize("told", [dict(n=-1), dict(n=1.5), dict(center=float("nan")), dict(center="a"), dict(spread=-1), dict(spread=float("nan")),
                                  dict(timesteps=0), dict(timesteps=2.5)])
def test_timesteps_that_cannot_be(told):
    with pytest.raises(ValueError, match=next(iter(told))): course.draw_timesteps(**{"n": 4, "generator": torch.Generator(), **told})


def test_whole_numbers_may_come_as_floats():
    for n in (4.0, torch.tensor(4).item()):
        assert len(draw_pages(n, {}, torch.Generator())) == len(course.draw_timesteps(n, torch.Generator())) == 4
    with pytest.raises(ValueError, match="0 times"): draw_pages(3, dict.fromkeys(BACKGROUNDS, 1e-60))
    with pytest.raises(ValueError, match="often"): vae_batches(Sketchbook(32), 4, pages="gray")


def test_pages_and_losses_belong_to_the_recipe(tmp_path, monkeypatch):
    preset = replace(SMOKE, **{f"{s}_training": {**getattr(SMOKE, f"{s}_training"), "steps": 2} for s in ("vae", "text", "unet")})
    Job(preset, tmp_path, device="cpu", show_bar=False).run()
    def again(**changes): Job(replace(preset, **changes), tmp_path, device="cpu", show_bar=False, resume=True).run()
    again()
    with pytest.raises(ValueError, match="pages.*7"): again(vae_pages=dict(gray=7.0))
    with pytest.raises(ValueError, match="loss.*edges"): again(vae_loss=dict(edges=1.0))
    monkeypatch.setattr(course, "PAGES", dict(gray=7.0))
    with pytest.raises(ValueError, match="pages"): again()


@pytest.mark.parametrize("told, match", [(dict(vae_loss=dict(edge=1.0)), "vae_loss.*edge"), (dict(vae_loss=dict(edges=-1)), "vae_loss.edges"), (dict(vae_loss=dict(kl_weight="a")), "vae_loss.kl_weight"),
                                         (dict(vae_loss=3.0), "vae_loss"), (dict(vae_loss=dict(edges=float("nan"))), "vae_loss.edges"), (dict(vae_pages="gray"), "vae_pages"), (dict(vae_pages=None), "vae_pages"),
                                         (dict(vae_pages=dict(purple=1.0)), "vae_pages.*purple"), (dict(vae_pages=dict(gray=-1)), "vae_pages.gray"), (dict(vae_pages=dict(gray="4")), "vae_pages.gray")])
def test_the_loss_of_the_wand_is_checked(told, match):
    with pytest.raises(ConfigError, match=match): Job(replace(SMOKE, **told))


def test_the_wand_learns_with_the_loss_of_its_preset(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(course, "vae_training_loss", lambda vae, batch, **weights: told.append(weights) or 1 / 0)
    for changes in ({}, dict(vae_loss=dict(kl_weight=0.5, edges=2.0))):
        with pytest.raises(ZeroDivisionError): Job(replace(SMOKE, **changes), tmp_path / str(len(told)), device="cpu", show_bar=False).train_vae()
    assert told == [{}, dict(kl_weight=0.5, edges=2.0)]


def test_more_steps_than_the_clock_has():
    with pytest.raises(ValueError, match="steps"): Job(replace(SMOKE, steps=1001))


def test_norms_leave_a_network_in_halves_alone():
    model = nn.Sequential(nn.Conv2d(3, 16, 3).bfloat16(), nn.GroupNorm(4, 16), nn.Conv2d(16, 3, 3).bfloat16())
    x = torch.randn(2, 3, 8, 8).bfloat16()
    with norms_in_float32(model): found = model(x)
    assert found.dtype == torch.bfloat16 and torch.equal(found, model(x))
    with norms_in_float32(model), pytest.raises(RuntimeError): model[1](torch.randn(2, 16, 4, 4).double())


def test_half_where_slow_leaves_an_autocast_around_it(monkeypatch):
    monkeypatch.setattr("minidiff.training.best_precision", lambda device: "no")
    with torch.autocast("cpu", torch.bfloat16), half_where_fast("cpu"): assert torch.is_autocast_enabled("cpu")


def test_an_aligned_network_of_any_type_and_maps_that_are_no_numbers():
    model = Aligned(unet().double(), 5)
    answer, guess = model(torch.zeros(2, 4, 8, 8).double(), torch.tensor([1, 2]), torch.zeros(2, 8, 32).double())
    assert answer.dtype == guess.dtype == torch.float64
    with pytest.raises(ValueError, match="maps"): even_channels(torch.full((4, 3, 2, 2), float("nan")))


OFF = dict(vae_loss={}, vae_pages={}, align=0.0, huber=0.0, center=0.3, sampler="dpm")  # what a key is worth that a run's file does not know yet

@pytest.mark.parametrize("name, folder", [("small", ("weights",)), ("cpu", ("runs", "cpu"))])
def test_a_preset_is_that_of_the_run_that_is_shown(name, folder):
    ran = read_json(data_folder(*folder, "results.json"))["preset"]
    assert json.loads(json.dumps(asdict(PRESETS[name]))) == OFF | ran
